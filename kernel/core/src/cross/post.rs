//! Requests that are bits: who wants this CPU to forget translations, which interrupt lines were sent on to it.
//!
//! For shootdowns a bit is a sending CPU, whose own block says what is to be flushed. The target clears the bit
//! *after* it has flushed, and that is the acknowledgement: the sender waits for the bit to go. A sender
//! has one request under way at a time, so one bit is enough.

use super::mailbox::Word;

/// A set of bits that others set and the owner clears.
#[derive(Debug)]
pub struct Post<W, const N: usize> {
    words: [W; N],
}

impl<W: Word, const N: usize> Post<W, N> {
    /// A set made of words that are 0.
    pub const fn new(words: [W; N]) -> Self {
        Self { words }
    }

    /// Whether nothing is asked for.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| w.load() == 0)
    }

    /// Asks; everything written before is visible to the owner when it sees the bit.
    #[inline]
    pub fn ask(&self, bit: usize) {
        self.words[bit / 64].set_bits(1 << (bit % 64));
    }

    /// Whether the request `bit` is still unanswered.
    #[inline]
    pub fn is_open(&self, bit: usize) -> bool {
        self.words[bit / 64].load() & 1 << (bit % 64) != 0
    }

    /// Serves every request: `serve` is done before the requester can see its bit go.
    #[inline]
    pub fn answer(&self, mut serve: impl FnMut(usize)) {
        for (i, word) in self.words.iter().enumerate() {
            let mut bits = word.load();
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                serve(i * 64 + bit as usize);
                word.clear_bits(1 << bit);
            }
        }
    }

    /// Takes every request first and serves it then: for requests that may be asked again meanwhile.
    #[inline]
    pub fn take(&self, mut serve: impl FnMut(usize)) {
        for (i, word) in self.words.iter().enumerate() {
            let mut bits = word.swap(0);
            while bits != 0 {
                serve(i * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn a_bit_goes_after_it_was_served() {
        let post = Post::new([const { AtomicU64::new(0) }; 4]);
        assert!(post.is_empty());
        for bit in [0, 63, 64, 200, 255] {
            post.ask(bit);
        }
        let mut seen = vec![];
        post.answer(|bit| {
            assert!(post.is_open(bit));
            seen.push(bit);
        });
        assert_eq!(seen, [0, 63, 64, 200, 255]);
        assert!(post.is_empty());
        post.ask(5);
        post.take(|bit| assert!(!post.is_open(bit)));
        assert!(post.is_empty());
    }
}
