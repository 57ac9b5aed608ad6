//! The mailbox of a CPU: a lock-free queue with many producers and one consumer, its links in the threads.
//!
//! Producers push onto a stack with compare-and-exchange; the consumer takes the whole stack with one swap and
//! turns it round. That is first in, first out over everything that one `take` sees and between takes. Nothing is
//! allocated and nothing overflows: a thread is in at most one mailbox.
//!
//! The second half is the wake-up: a CPU that is about to sleep withdraws its promise to look, then looks once
//! more; a producer pushes, then reads the promise. One of the two sees the other, in every order (Dekker;
//! all of these accesses are sequentially consistent). Only the producer that found the mailbox empty rings: if it
//! was not empty, whoever filled it has rung or has seen the promise.
//!
//! A consumer that looks takes the letter out *before* it withdraws its promise ([`Mailbox::stop_looking`] then looks
//! once more), and a producer that finds no promise looks whether anything still lies there before it rings. So a letter that
//! was fetched under the promise is never rung for, however long the producer took to ask for the promise.

use core::sync::atomic::{AtomicU64, Ordering};

/// A shared word; a trait so that `loom` can watch the same code.
pub trait Word {
    /// Sequentially consistent load.
    fn load(&self) -> u64;
    /// Sequentially consistent store.
    fn store(&self, value: u64);
    /// Sequentially consistent exchange.
    fn swap(&self, value: u64) -> u64;
    /// Sequentially consistent compare and exchange; the error is the value found.
    fn exchange(&self, old: u64, new: u64) -> Result<u64, u64>;
    /// Sets bits, answers the old value.
    fn set_bits(&self, bits: u64) -> u64;
    /// Clears bits, answers the old value.
    fn clear_bits(&self, bits: u64) -> u64;
    /// Subtracts, answers the old value.
    fn subtract(&self, value: u64) -> u64;
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::SeqCst)
    }
    #[inline(always)]
    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::SeqCst);
    }
    #[inline(always)]
    fn swap(&self, value: u64) -> u64 {
        AtomicU64::swap(self, value, Ordering::SeqCst)
    }
    #[inline(always)]
    fn exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        AtomicU64::compare_exchange(self, old, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    #[inline(always)]
    fn set_bits(&self, bits: u64) -> u64 {
        AtomicU64::fetch_or(self, bits, Ordering::SeqCst)
    }
    #[inline(always)]
    fn clear_bits(&self, bits: u64) -> u64 {
        AtomicU64::fetch_and(self, !bits, Ordering::SeqCst)
    }
    #[inline(always)]
    fn subtract(&self, value: u64) -> u64 {
        AtomicU64::fetch_sub(self, value, Ordering::SeqCst)
    }
}

/// Something that can lie in a mailbox: a name that is not 0, and a link word.
pub trait Letter: Copy {
    /// The type of shared words.
    type Word: Word;
    /// The name as a word; never 0.
    fn to_word(self) -> u64;
    /// The letter of that name. `word` came from [`Letter::to_word`].
    fn from_word(word: u64) -> Self;
    /// The link. Used by the producer before and by the consumer after the letter is in the mailbox.
    fn link(&self) -> &Self::Word;
}

/// The consumer looks by itself: no need to ring.
pub const LOOKING: u64 = 1;

/// A mailbox. Lies in the consumer's memory, in a line of its own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Mailbox<W> {
    head: W,
    looking: W,
}

/// Whether the consumer must be interrupted.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// Yes.
    Needed,
    /// It looks by itself, or somebody has seen to it.
    Not,
}

impl<W: Word> Mailbox<W> {
    /// An empty mailbox made of two words that are 0.
    pub const fn new(head: W, looking: W) -> Self {
        Self { head, looking }
    }

    /// Puts `letter` in.
    #[inline]
    pub fn push<L: Letter<Word = W>>(&self, letter: L) -> Ring {
        let mut head = self.head.load();
        loop {
            letter.link().store(head);
            match self.head.exchange(head, letter.to_word()) {
                Ok(_) => break,
                Err(found) => head = found,
            }
        }
        // An empty mailbox: the letter was fetched between the exchange and here, and the promise was over then.
        let alone = head == 0 && self.looking.load() != LOOKING && !self.is_empty();
        if alone { Ring::Needed } else { Ring::Not }
    }

    /// Whether nothing is in it.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.head.load() == 0
    }

    /// Takes everything out, oldest first.
    #[inline]
    pub fn take<L: Letter<Word = W>>(&self) -> Letters<L> {
        let mut at = self.head.swap(0);
        let mut first = 0;
        while at != 0 {
            let letter = L::from_word(at);
            let next = letter.link().load();
            letter.link().store(first);
            first = at;
            at = next;
        }
        Letters { first, kind: core::marker::PhantomData }
    }

    /// The letter that came last. It stays there: the consumer may look at it, and if it is [the only
    /// one](is_only) take it with [`Mailbox::remove`].
    #[inline(always)]
    pub fn last<L: Letter<Word = W>>(&self) -> Option<L> {
        match self.head.load() {
            0 => None,
            at => Some(L::from_word(at)),
        }
    }

    /// Takes `letter`, which was the only one, out. False if another has come since: nothing has happened then.
    #[inline(always)]
    #[must_use]
    pub fn remove<L: Letter<Word = W>>(&self, letter: L) -> bool {
        self.head.exchange(letter.to_word(), 0).is_ok()
    }

    /// The consumer promises to look until [`Mailbox::may_sleep`].
    #[inline]
    pub fn promise(&self) {
        self.looking.store(LOOKING);
    }

    /// Whether the promise stands.
    #[inline(always)]
    pub fn is_promised(&self) -> bool {
        self.looking.load() == LOOKING
    }

    /// The consumer is busy with something else: it must be rung for.
    #[inline]
    pub fn withdraw(&self) {
        self.looking.store(0);
    }

    /// The consumer has something to run: it withdraws its promise. True if something came while the promise stood, for
    /// which nobody rings.
    #[inline(always)]
    #[must_use]
    pub fn stop_looking(&self) -> bool {
        self.withdraw();
        !self.is_empty()
    }

    /// The consumer wants to sleep until it is rung. False if there is something to do instead; the promise holds
    /// then.
    #[inline]
    pub fn may_sleep(&self) -> bool {
        self.looking.store(0);
        if self.is_empty() {
            return true;
        }
        self.looking.store(LOOKING);
        false
    }
}

/// Whether nothing lay in the mailbox before `letter`, which lies in it.
#[inline(always)]
pub fn is_only<L: Letter>(letter: L) -> bool {
    letter.link().load() == 0
}

/// Letters that were taken out. The link of a letter is read before the letter is handed out, so that it may
/// be pushed somewhere at once.
#[derive(Debug)]
pub struct Letters<L> {
    first: u64,
    kind: core::marker::PhantomData<L>,
}

impl<L: Letter> Iterator for Letters<L> {
    type Item = L;

    #[inline]
    fn next(&mut self) -> Option<L> {
        if self.first == 0 {
            return None;
        }
        let letter = L::from_word(self.first);
        self.first = letter.link().load();
        Some(letter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::LazyLock;

    static LINKS: LazyLock<Vec<AtomicU64>> =
        LazyLock::new(|| (0..64).map(|_| AtomicU64::new(0)).collect());

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct L(u64);
    impl Letter for L {
        type Word = AtomicU64;
        fn to_word(self) -> u64 {
            self.0
        }
        fn from_word(word: u64) -> Self {
            Self(word)
        }
        fn link(&self) -> &AtomicU64 {
            &LINKS[self.0 as usize]
        }
    }

    #[test]
    fn first_in_first_out_against_a_deque() {
        let mailbox = Mailbox::new(AtomicU64::new(0), AtomicU64::new(0));
        let mut oracle = VecDeque::new();
        let mut seed = 7u64;
        for _ in 0..10_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let n = seed >> 33 & 63;
            if n != 0 && seed >> 40 & 3 != 0 && !oracle.contains(&n) {
                let empty = oracle.is_empty();
                assert_eq!(mailbox.push(L(n)) == Ring::Needed, empty);
                oracle.push_back(n);
            } else if seed >> 50 & 7 == 0 {
                assert_eq!(mailbox.is_empty(), oracle.is_empty());
                assert!(mailbox.take::<L>().map(|l| l.0).eq(oracle.drain(..)));
            }
        }
    }

    #[test]
    fn a_promise_silences_the_bell() {
        let mailbox = Mailbox::new(AtomicU64::new(0), AtomicU64::new(0));
        mailbox.promise();
        assert_eq!(mailbox.push(L(40)), Ring::Not);
        assert!(!mailbox.may_sleep());
        assert_eq!(mailbox.take::<L>().count(), 1);
        assert!(mailbox.may_sleep());
        assert_eq!(mailbox.push(L(40)), Ring::Needed);
        assert_eq!(mailbox.push(L(41)), Ring::Not, "the first one rang");
        let _ = mailbox.take::<L>();
    }
}
