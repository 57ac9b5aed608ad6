//! Memory descriptors (ref 3.2).

abi_enum! {
    /// Type of a memory region.
    pub enum MemoryType: u8 {
        /// Not present.
        Undefined = 0 => "undefined",
        /// RAM for everybody.
        Conventional = 1 => "conventional",
        /// The kernel's.
        Reserved = 2 => "reserved",
        /// Not for general use.
        Dedicated = 3 => "dedicated",
        /// Given to anyone: device memory.
        Shared = 4 => "shared",
        /// Boot loader specific; see [`boot_subtype`].
        BootLoader = 0xE => "boot loader",
        /// Architecture specific: the subtype is the e820 type.
        Architecture = 0xF => "architecture",
    }
}

/// Subtypes of [`MemoryType::BootLoader`].
pub mod boot_subtype {
    /// Boot info page, multiboot info.
    pub const INIT_TABLE: u8 = 1;
    /// Image of an initial server.
    pub const INIT_SERVER: u8 = 2;
    /// A boot module.
    pub const BOOT_MODULE: u8 = 3;
}

/// One memory descriptor: an inclusive region in units of 1 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryDesc {
    words: [u64; 2],
}

impl MemoryDesc {
    /// Size in bytes.
    pub const SIZE: usize = 16;

    /// A physical region from `low` to `last`, both inclusive, rounded outwards to 1 KiB.
    #[must_use]
    pub const fn physical(kind: MemoryType, low: u64, last: u64) -> Self {
        Self::with_subtype(kind, 0, low, last)
    }

    /// A physical region with a subtype (four bits).
    #[must_use]
    pub const fn with_subtype(kind: MemoryType, subtype: u8, low: u64, last: u64) -> Self {
        let head = ((subtype & 0xF) as u64) << 4 | kind.raw() as u64;
        Self { words: [(low & !0x3FF) | head, last & !0x3FF] }
    }

    /// A virtual region: the user part of address spaces.
    #[must_use]
    pub const fn virtual_user(low: u64, last: u64) -> Self {
        let mut desc = Self::physical(MemoryType::Conventional, low, last);
        desc.words[0] |= 1 << 9;
        desc
    }

    /// The descriptor with exactly these words.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// The words that cross the interface.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        self.words
    }

    /// The type, if it is a known one.
    #[must_use]
    pub const fn kind(self) -> Option<MemoryType> {
        MemoryType::from_raw(self.words[0] as u8 & 0xF)
    }

    /// The subtype.
    #[must_use]
    pub const fn subtype(self) -> u8 {
        (self.words[0] >> 4) as u8 & 0xF
    }

    /// v: whether this describes virtual addresses.
    #[must_use]
    pub const fn is_virtual(self) -> bool {
        self.words[0] & (1 << 9) != 0
    }

    /// First address.
    #[must_use]
    pub const fn low(self) -> u64 {
        self.words[0] & !0x3FF
    }

    /// Last address.
    #[must_use]
    pub const fn last(self) -> u64 {
        self.words[1] | 0x3FF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let d = MemoryDesc::with_subtype(MemoryType::BootLoader, 3, 0x20_0000, 0x2F_FFFF);
        assert_eq!(d.words(), [0x20_003E, 0x2F_FC00]);
        assert_eq!((d.kind(), d.subtype()), (Some(MemoryType::BootLoader), 3));
        assert_eq!((d.low(), d.last()), (0x20_0000, 0x2F_FFFF));
        assert!(!d.is_virtual());
        let v = MemoryDesc::virtual_user(0, 0x7FFF_FFFF_FFFF);
        assert!(v.is_virtual());
        assert_eq!(v.last(), 0x7FFF_FFFF_FFFF);
        assert_eq!(MemoryDesc::from_words([5, 0]).kind(), None);
        for &k in MemoryType::ALL {
            assert_eq!(MemoryType::from_raw(k.raw()), Some(k));
        }
    }
}
