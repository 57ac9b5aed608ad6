//! Newtypes of everything that is a number but not a count.
//!
//! Mixing up a physical and a virtual address, or a CPU number and an APIC id, is a type error.

use core::fmt;

pub use l4abi::{CpuId, NodeId, ThreadNo};

use crate::layout::{PAGE_SIZE, PHYS_OFFSET};

/// A physical address in bytes. Also used for frame numbers times the page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

/// A canonical or not yet checked virtual address in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(u64);

macro_rules! address {
    ($name:ident, $tag:literal) => {
        impl $name {
            /// Address zero.
            pub const ZERO: Self = Self(0);

            /// Wraps a number of bytes.
            pub const fn new(addr: u64) -> Self {
                Self(addr)
            }

            /// The address as a number of bytes.
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address as an index type (64 bits on every supported host).
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }

            /// True if the address is a multiple of `align`, which is a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The next lower multiple of `align`, a power of two.
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// The next higher multiple of `align`, a power of two; `None` on overflow.
            pub const fn align_up(self, align: u64) -> Option<Self> {
                match self.0.checked_add(align - 1) {
                    Some(v) => Some(Self(v & !(align - 1))),
                    None => None,
                }
            }

            /// Start of the 4 KiB page that holds the address.
            pub const fn page_base(self) -> Self {
                self.align_down(PAGE_SIZE)
            }

            /// Offset in its 4 KiB page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The address `bytes` further on, modulo 2^64.
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// The address `bytes` further on; `None` on overflow.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(v) => Some(Self(v)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($tag, "{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(PhysAddr, "p:");
address!(VirtAddr, "v:");

impl PhysAddr {
    /// Where the kernel sees this address, which must be pool memory: one addition
    /// (the thesis needed a search per translation, numa-l4 4.1.1).
    pub const fn window(self) -> VirtAddr {
        VirtAddr(self.0.wrapping_add(PHYS_OFFSET))
    }

    /// The frame that starts at `number * 4096`.
    pub const fn from_frame(number: u64) -> Self {
        Self(number * PAGE_SIZE)
    }

    /// Number of the 4 KiB frame that holds the address.
    pub const fn frame(self) -> u64 {
        self.0 / PAGE_SIZE
    }
}

impl VirtAddr {
    /// The physical address behind a pool-window address; the inverse of [`PhysAddr::window`].
    pub const fn window_phys(self) -> PhysAddr {
        PhysAddr(self.0.wrapping_sub(PHYS_OFFSET))
    }

    /// True if bits 63..47 are all equal (48-bit canonical form, SDM 1 3.3.7.1).
    pub const fn is_canonical(self) -> bool {
        let top = (self.0 as i64) >> 47;
        top == 0 || top == -1
    }

    /// Index into the table of `level` (4 = root ... 1 = leaf table) on the way to this address.
    pub const fn table_index(self, level: u8) -> usize {
        ((self.0 >> (12 + 9 * (level as u32 - 1))) & 511) as usize
    }
}

/// A half-open range of physical addresses, `start <= end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PhysRange {
    /// First byte.
    pub start: PhysAddr,
    /// First byte after the range.
    pub end: PhysAddr,
}

impl PhysRange {
    /// The parts below `at` and from `at` on; either may be empty.
    pub fn split_at(self, at: PhysAddr) -> (Self, Self) {
        let at = at.clamp(self.start, self.end);
        (Self::new(self.start, at), Self::new(at, self.end))
    }

    /// The empty range at zero.
    pub const EMPTY: Self = Self { start: PhysAddr::ZERO, end: PhysAddr::ZERO };

    /// `start..end`; empty at `start` if `end` is lower.
    pub const fn new(start: PhysAddr, end: PhysAddr) -> Self {
        if end.0 < start.0 { Self { start, end: start } } else { Self { start, end } }
    }

    /// The range of `len` bytes at `start`, cut off at 2^64 - 1.
    pub const fn from_len(start: u64, len: u64) -> Self {
        Self { start: PhysAddr(start), end: PhysAddr(start.saturating_add(len)) }
    }

    /// Length in bytes.
    pub const fn len(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// True if the range holds no byte.
    pub const fn is_empty(self) -> bool {
        self.end.0 <= self.start.0
    }

    /// True if `addr` lies in the range.
    pub const fn contains(self, addr: PhysAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end.0
    }

    /// True if every byte of `other` lies in the range.
    pub const fn contains_range(self, other: Self) -> bool {
        other.is_empty() || (self.start.0 <= other.start.0 && other.end.0 <= self.end.0)
    }

    /// The bytes in both ranges (empty if there are none).
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// True if the ranges share a byte.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }

    /// The largest part whose ends are multiples of `align`, a power of two.
    pub fn align_inward(self, align: u64) -> Self {
        match self.start.align_up(align) {
            Some(start) => Self::new(start, self.end.align_down(align)),
            None => Self { start: self.end, end: self.end },
        }
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
    }
}

/// A local APIC id, 32 bits wide in x2APIC mode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct ApicId(u32);

impl ApicId {
    /// Wraps a number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ApicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_and_windows() {
        let a = PhysAddr::new(0x1234_5678);
        assert_eq!(a.page_base().as_u64(), 0x1234_5000);
        assert_eq!(a.page_offset(), 0x678);
        assert_eq!(a.align_up(0x20_0000), Some(PhysAddr::new(0x1240_0000)));
        assert_eq!(PhysAddr::new(u64::MAX).align_up(4096), None);
        assert_eq!(a.window().window_phys(), a);
        assert!(a.window().is_canonical());
        assert!(!VirtAddr::new(0x0000_8000_0000_0000).is_canonical());
        assert_eq!(VirtAddr::new(0xFFFF_FFFF_8020_0000).table_index(4), 511);
        assert_eq!(VirtAddr::new(0xFFFF_FFFF_8020_0000).table_index(3), 510);
        assert_eq!(VirtAddr::new(0xFFFF_FFFF_8020_0000).table_index(2), 1);
    }

    #[test]
    fn ranges() {
        let r = PhysRange::from_len(0x1800, 0x3000);
        assert_eq!(r.align_inward(0x1000), PhysRange::from_len(0x2000, 0x2000));
        assert!(PhysRange::from_len(0x1001, 0xFFE).align_inward(0x1000).is_empty());
        assert!(PhysRange::from_len(u64::MAX - 5, 100).align_inward(0x1000).is_empty());
        assert!(r.overlaps(PhysRange::from_len(0x47FF, 1)));
        assert!(!r.overlaps(PhysRange::from_len(0x4800, 1)));
        assert!(PhysRange::new(PhysAddr::new(5), PhysAddr::new(4)).is_empty());
    }
}
