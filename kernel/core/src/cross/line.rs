//! An interrupt line: one word that says who handles it and how far its last interrupt has come.
//!
//! Every CPU may change it at any time: the one that the device interrupts, the handler's, the one on which somebody attaches
//! another handler. So every step is one exchange of the whole word, and it fails if the line has got another handler since.
//!
//! | the line is | its device is | next |
//! |---|---|---|
//! | detached | masked | [`Line::attach`] |
//! | closed | open | [`Line::fire`]: under way, or [`Line::deliver_at_once`]: delivered |
//! | under way to its handler's CPU | masked if level-triggered | [`Line::take`], there: delivered |
//! | delivered: noted at the handler, or received | masked if level-triggered | [`Line::acknowledge`]: closed |
//! | one of the last two, and an edge came again | masked | the same; the acknowledgement delivers again |
//!
//! The device is no part of the word. It is *derived*: who has changed the word settles the device by what the word says
//! ([`Line::is_masked`]) when he has the device's lock. The last one who does so sees the last word, whoever that was.
//!
//! An interrupt that is noted at its handler stands only as long as the line says that it was delivered to that one
//! ([`Line::stands`]): the note of a handler that lost its line is void. An acknowledgement counts for what was received.

use super::mailbox::Word;

/// Bits of the handler's global id: a version, and a thread number of 18 bits. A closed edge-triggered line is nothing else.
const HANDLER: u64 = (1 << 50) - 1;
/// Level-triggered: it interrupts for as long as it is asserted.
const LEVEL: u64 = 1 << 60;
/// Fired, and under way to the handler's CPU.
const UNDER_WAY: u64 = 1 << 61;
/// Delivered, and not acknowledged.
const DELIVERED: u64 = 1 << 62;
/// An edge came again since.
const AGAIN: u64 = 1 << 63;

/// A line; made of a word that is 0, it is detached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Line<W>(W);

/// What is to be done about an interrupt.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fired {
    /// Bring it to the handler.
    pub deliver: bool,
    /// Settle the device.
    pub settle: bool,
}

/// What is to be done about an acknowledgement.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The next interrupt is delivered already: note it.
    pub again: bool,
    /// Settle the device.
    pub settle: bool,
}

impl<W: Word> Line<W> {
    /// A detached line, made of a word that is 0.
    pub const fn new(word: W) -> Self {
        Self(word)
    }

    /// Changes the word to what `next` makes of it, as one step. What it was; none if `next` wants no change.
    fn change(&self, next: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut word = self.0.load();
        loop {
            match self.0.exchange(word, next(word)?) {
                Ok(_) => return Some(word),
                Err(found) => word = found,
            }
        }
    }

    /// The word: the global id of the handler exactly if the line is closed and edge-triggered.
    #[inline(always)]
    pub fn look(&self) -> u64 {
        self.0.load()
    }

    /// Global id of the handler; 0 = detached.
    #[inline(always)]
    pub fn handler(&self) -> u64 {
        self.0.load() & HANDLER
    }

    /// Whether the device is to be masked.
    pub fn is_masked(&self) -> bool {
        let word = self.0.load();
        let busy = word & (UNDER_WAY | DELIVERED) != 0;
        word & HANDLER == 0 || word & AGAIN != 0 || (word & LEVEL != 0 && busy)
    }

    /// The line is closed and `handler`'s. What was on its way to another is void. Settle the device.
    pub fn attach(&self, handler: u64, is_level: bool) {
        self.0.swap(handler & HANDLER | if is_level { LEVEL } else { 0 });
    }

    /// The line is nobody's. Settle the device.
    pub fn detach(&self) {
        self.0.swap(0);
    }

    /// `handler` is being deleted. True if the line was its own; then settle the device.
    pub fn handler_gone(&self, handler: u64) -> bool {
        self.change(|word| (word & HANDLER == handler).then_some(0)).is_some()
    }

    /// The device has interrupted a CPU, which one does not matter.
    pub fn fire(&self) -> Fired {
        let before = self.change(|word| match word & (UNDER_WAY | DELIVERED) {
            _ if word & HANDLER == 0 => None,
            0 => Some(word | UNDER_WAY),
            _ if word & LEVEL != 0 => None,
            _ => Some(word | AGAIN),
        });
        match before {
            Some(word) if word & (UNDER_WAY | DELIVERED) == 0 => {
                Fired { deliver: true, settle: word & LEVEL != 0 }
            }
            _ => Fired { deliver: false, settle: true },
        }
    }

    /// The device has interrupted the CPU of the handler, which waits: one step from closed to delivered. `closed` is what
    /// [`Line::look`] has answered. False if it is not so any more.
    #[inline(always)]
    #[must_use]
    pub fn deliver_at_once(&self, closed: u64) -> bool {
        self.0.exchange(closed, closed | DELIVERED).is_ok()
    }

    /// On the CPU of `handler`: the interrupt that is under way is its own, and delivered. False if there is none.
    #[must_use]
    pub fn take(&self, handler: u64) -> bool {
        let taken = |word: u64| word & !UNDER_WAY | DELIVERED;
        let its_own = |word: u64| word & HANDLER == handler && word & UNDER_WAY != 0;
        self.change(|word| its_own(word).then(|| taken(word))).is_some()
    }

    /// Whether an interrupt that is noted at `handler` is still that one's.
    pub fn stands(&self, handler: u64) -> bool {
        let word = self.0.load();
        word & HANDLER == handler && word & DELIVERED != 0
    }

    /// `handler` wants the next interrupt. It has received the one that was delivered unless that is `noted`. None if the line is
    /// not its own.
    pub fn acknowledge(&self, handler: u64, noted: bool) -> Option<Acknowledged> {
        let nothing = Acknowledged { again: false, settle: false };
        if self.handler() != handler {
            return None;
        }
        let before = self.change(|word| {
            let received = word & HANDLER == handler && word & DELIVERED != 0 && !noted;
            received.then_some(match word & AGAIN {
                0 => word & !DELIVERED,
                _ => word & !AGAIN,
            })
        });
        Some(before.map_or(nothing, |word| Acknowledged {
            again: word & AGAIN != 0,
            settle: word & (AGAIN | LEVEL) != 0,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    const A: u64 = 0x3_0000_0001;
    const B: u64 = 0x3_FFFF_FFFF_FFFF;

    fn line(level: bool) -> Line<AtomicU64> {
        let line = Line::new(AtomicU64::new(0));
        assert!(line.is_masked() && !line.fire().deliver);
        line.attach(A, level);
        line
    }

    #[test]
    fn an_edge_that_comes_again_is_kept() {
        let line = line(false);
        assert_eq!(line.look(), A, "closed and simple");
        assert_eq!(line.fire(), Fired { deliver: true, settle: false });
        assert!(line.take(A) && !line.take(A) && line.stands(A) && !line.is_masked());
        assert_eq!(line.fire(), Fired { deliver: false, settle: true });
        assert!(line.is_masked());
        let early = line.acknowledge(A, true);
        assert_eq!(early, Some(Acknowledged { again: false, settle: false }), "not received yet");
        let again = line.acknowledge(A, false);
        assert_eq!(again, Some(Acknowledged { again: true, settle: true }));
        assert!(line.stands(A) && !line.is_masked());
        let last = line.acknowledge(A, false);
        assert_eq!(last, Some(Acknowledged { again: false, settle: false }));
        assert!(line.deliver_at_once(A) && !line.deliver_at_once(A));
    }

    #[test]
    fn a_level_is_masked_until_it_is_acknowledged() {
        let line = line(true);
        assert_ne!(line.look(), A, "never simple");
        assert_eq!(line.fire(), Fired { deliver: true, settle: true });
        assert!(line.is_masked() && !line.fire().deliver);
        assert!(line.take(A) && line.is_masked());
        assert_eq!(line.acknowledge(A, false).map(|a| a.settle), Some(true));
        assert!(!line.is_masked());
    }

    #[test]
    fn what_was_under_way_to_another_is_void() {
        for level in [false, true] {
            let line = line(level);
            assert!(line.fire().deliver);
            line.attach(B, level);
            assert!(!line.take(A) && !line.take(B) && !line.stands(A) && !line.is_masked());
            assert_eq!(line.acknowledge(A, false), None);
            assert!(line.fire().deliver && line.take(B) && line.stands(B));
            assert!(!line.handler_gone(A) && line.handler_gone(B));
            assert!(line.is_masked() && line.handler() == 0);
        }
    }
}
