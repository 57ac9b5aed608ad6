//! The message tag, MR0 (ref 1.4).

use core::fmt;

bitflags::bitflags! {
    /// The flags of a tag, bits 15..12, in their place in the word.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct TagFlags: u16 {
        /// p: propagate; on receipt: was propagated.
        const PROPAGATED = 1 << 12;
        /// r: on receipt: was redirected.
        const REDIRECTED = 1 << 13;
        /// X: on receipt: came from another processor.
        const CROSS_CPU = 1 << 14;
        /// E: on return: the operation failed, see the ErrorCode TCR.
        const ERROR = 1 << 15;
    }
}

/// Number of message registers.
pub const NUM_MRS: usize = 64;

/// Most words (untyped and typed) that a message carries after its tag.
pub const MAX_WORDS: usize = NUM_MRS - 1;

/// A mask of the 48 label bits.
pub const LABEL_MASK: u64 = (1 << 48) - 1;

/// A message tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct MsgTag(u64);

impl MsgTag {
    /// The empty tag.
    pub const NIL: Self = Self(0);
    /// The tag that reports a failure when there is no message to tell of (ref 5.2).
    pub const ERROR: Self = Self(TagFlags::ERROR.bits() as u64);

    /// The tag with exactly these bits.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A tag without flags. `label` is cut to 48 bits, the counts to six.
    #[must_use]
    pub const fn new(label: u64, untyped: usize, typed: usize) -> Self {
        Self(
            ((label & LABEL_MASK) << 16) | (((typed & 0x3F) as u64) << 6) | (untyped & 0x3F) as u64,
        )
    }

    /// u: number of untyped words.
    #[must_use]
    pub const fn untyped(self) -> usize {
        (self.0 & 0x3F) as usize
    }

    /// t: number of typed words.
    #[must_use]
    pub const fn typed(self) -> usize {
        ((self.0 >> 6) & 0x3F) as usize
    }

    /// u + t; more than [`MAX_WORDS`] is an error of the sender.
    #[must_use]
    pub const fn words(self) -> usize {
        self.untyped() + self.typed()
    }

    /// The 48-bit label.
    #[must_use]
    pub const fn label(self) -> u64 {
        self.0 >> 16
    }

    /// The flags.
    #[must_use]
    pub const fn flags(self) -> TagFlags {
        TagFlags::from_bits_truncate(self.0 as u16)
    }

    /// Whether the operation failed.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & TagFlags::ERROR.bits() as u64 != 0
    }

    /// Whether p is set.
    #[must_use]
    pub const fn is_propagated(self) -> bool {
        self.0 & TagFlags::PROPAGATED.bits() as u64 != 0
    }

    /// Whether X is set.
    #[must_use]
    pub const fn is_cross_cpu(self) -> bool {
        self.0 & TagFlags::CROSS_CPU.bits() as u64 != 0
    }

    /// The same tag with exactly these flags.
    #[must_use]
    pub const fn with_flags(self, flags: TagFlags) -> Self {
        Self((self.0 & !(TagFlags::all().bits() as u64)) | flags.bits() as u64)
    }

    /// The same tag with these flags added.
    #[must_use]
    pub const fn add_flags(self, flags: TagFlags) -> Self {
        Self(self.0 | flags.bits() as u64)
    }

    /// The same tag with another label.
    #[must_use]
    pub const fn with_label(self, label: u64) -> Self {
        Self((self.0 & 0xFFFF) | (label << 16))
    }
}

impl fmt::Debug for MsgTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag(label {:#x} u {} t {}", self.label(), self.untyped(), self.typed())?;
        if !self.flags().is_empty() {
            write!(f, " {:?}", self.flags())?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let t = MsgTag::new(0xFFFF_1234_5678_9ABC, 5, 7);
        assert_eq!((t.untyped(), t.typed(), t.words()), (5, 7, 12));
        assert_eq!(t.label(), 0x1234_5678_9ABC);
        assert!(t.flags().is_empty());
        assert_eq!(t.add_flags(TagFlags::ERROR).raw() & 0xF000, 0x8000);
        assert_eq!(t.with_label(3).raw(), (3 << 16) | (7 << 6) | 5);
        assert_eq!(MsgTag::ERROR.raw(), 0x8000);
        assert!(MsgTag::from_raw(0x4000).is_cross_cpu());
        assert!(MsgTag::from_raw(0x1000).is_propagated());
    }

    #[test]
    fn every_count_round_trips() {
        for u in 0..64 {
            for t in 0..64 {
                let tag = MsgTag::new(1, u, t);
                assert_eq!((tag.untyped(), tag.typed()), (u, t));
            }
        }
    }
}
