//! Flexible pages: memory and I/O, parsing, and the arithmetic of map windows (ref 1.2, 1.3, 5.6).

use core::fmt;

/// log2 of the smallest page a user can map (ref 1.2).
pub const MIN_PAGE_LOG2: u8 = 12;

/// log2 of the number of I/O ports.
pub const IO_SPACE_LOG2: u8 = 16;

bitflags::bitflags! {
    /// Access rights of an fpage; on return from Unmap the status bits in the same places.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Rights: u8 {
        /// Execute (status: was executed).
        const X = 1;
        /// Write (status: was written).
        const W = 2;
        /// Read (status: was referenced).
        const R = 4;
    }
}

impl Rights {
    /// Read and write.
    pub const RW: Self = Self::R.union(Self::W);
    /// Read and execute.
    pub const RX: Self = Self::R.union(Self::X);
    /// Everything.
    pub const RWX: Self = Self::RW.union(Self::X);
}

/// A naturally aligned region of a power-of-two size: of addresses, or of ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    base: u64,
    size_log2: u8,
}

impl Region {
    /// The whole 64-bit address space.
    pub const EVERYTHING: Self = Self { base: 0, size_log2: 64 };

    /// The region of size `2^size_log2` that contains `addr`. Sizes above 64 mean 64.
    #[must_use]
    pub const fn containing(addr: u64, size_log2: u8) -> Self {
        let size_log2 = if size_log2 > 64 { 64 } else { size_log2 };
        Self { base: addr & !low_mask(size_log2), size_log2 }
    }

    /// First address.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.base
    }

    /// Last address.
    #[must_use]
    pub const fn last(self) -> u64 {
        self.base | low_mask(self.size_log2)
    }

    /// log2 of the size (64: everything).
    #[must_use]
    pub const fn size_log2(self) -> u8 {
        self.size_log2
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub const fn contains(self, addr: u64) -> bool {
        addr & !low_mask(self.size_log2) == self.base
    }

    /// Whether `other` lies wholly inside.
    #[must_use]
    pub const fn contains_region(self, other: Self) -> bool {
        other.size_log2 <= self.size_log2 && self.contains(other.base)
    }

    /// Whether the two share an address.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.contains_region(other) || other.contains_region(self)
    }
}

/// A mask of the low `bits` bits; 64 and more give all ones.
#[must_use]
pub const fn low_mask(bits: u8) -> u64 {
    if bits >= 64 { u64::MAX } else { (1u64 << bits) - 1 }
}

/// An fpage as it crosses the interface: any 64-bit word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Fpage(u64);

/// What an [`Fpage`] word means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FpageKind {
    /// Nothing: nilpage, a memory size below a page, or an impossible number of ports.
    Nothing,
    /// A memory region of at least a page; [`Region::EVERYTHING`] for the complete address space.
    Memory(Region),
    /// A region of I/O ports.
    Io(Region),
}

impl Fpage {
    /// nilpage.
    pub const NIL: Self = Self(0);
    /// The complete address space, without access bits.
    pub const COMPLETE: Self = Self(0x10);
    /// The complete I/O space, readable and writable.
    pub const COMPLETE_IO: Self = Self(0x4020 | Rights::RW.bits() as u64);

    /// The fpage with exactly these bits.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A memory fpage of size `2^size_log2` that contains `addr`.
    #[must_use]
    pub const fn memory(addr: u64, size_log2: u8, rights: Rights) -> Self {
        if size_log2 >= 64 {
            return Self(Self::COMPLETE.0 | rights.bits() as u64);
        }
        let base = addr & !low_mask(size_log2) & !0x3FF;
        Self(base | ((size_log2 as u64) << 4) | rights.bits() as u64)
    }

    /// An I/O fpage of `2^ports_log2` ports that contains `port`.
    #[must_use]
    pub const fn io(port: u16, ports_log2: u8) -> Self {
        let log2 = if ports_log2 > IO_SPACE_LOG2 { IO_SPACE_LOG2 } else { ports_log2 };
        let base = port as u64 & !low_mask(log2);
        Self((base << 16) | ((log2 as u64) << 10) | (2 << 4) | Rights::RW.bits() as u64)
    }

    /// sigma0's "any page of this size" (ref 6.6): the base is all ones.
    #[must_use]
    pub const fn any_of_size(size_log2: u8) -> Self {
        Self(!0x3FF | (((size_log2 & 0x3F) as u64) << 4) | 0x8)
    }

    /// Whether the base is all ones, which sigma0 reads as "any page" (ref 6.6).
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.0 >> 10 == u64::MAX >> 10
    }

    /// The raw size field, bits 9..4.
    #[must_use]
    pub const fn size_field(self) -> u8 {
        ((self.0 >> 4) & 0x3F) as u8
    }

    /// What the word means. Garbage in bit 3 and below the size is ignored (ref 1.2).
    #[must_use]
    pub const fn kind(self) -> FpageKind {
        match self.size_field() {
            1 if self.0 >> 10 == 0 => FpageKind::Memory(Region::EVERYTHING),
            2 => {
                let ports_log2 = ((self.0 >> 10) & 0x3F) as u8;
                if ports_log2 > IO_SPACE_LOG2 {
                    return FpageKind::Nothing;
                }
                FpageKind::Io(Region::containing((self.0 >> 16) & 0xFFFF, ports_log2))
            }
            size if size >= MIN_PAGE_LOG2 => {
                FpageKind::Memory(Region::containing(self.0 & !0x3FF, size))
            }
            _ => FpageKind::Nothing,
        }
    }

    /// The memory region named, if this is a memory fpage.
    #[must_use]
    pub const fn memory_region(self) -> Option<Region> {
        match self.kind() {
            FpageKind::Memory(region) => Some(region),
            _ => None,
        }
    }

    /// The access bits (for I/O fpages they carry no meaning).
    #[must_use]
    pub const fn rights(self) -> Rights {
        Rights::from_bits_truncate(self.0 as u8 & 7)
    }

    /// The same fpage with other access bits.
    #[must_use]
    pub const fn with_rights(self, rights: Rights) -> Self {
        Self((self.0 & !7) | rights.bits() as u64)
    }

    /// Whether the word is nilpage exactly.
    #[must_use]
    pub const fn is_nil(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Fpage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            FpageKind::Nothing => write!(f, "fpage(nothing {:#x})", self.0),
            FpageKind::Memory(r) => {
                write!(f, "fpage({:#x} 2^{} ", r.base(), r.size_log2())?;
                for (bit, c) in [(Rights::R, 'r'), (Rights::W, 'w'), (Rights::X, 'x')] {
                    write!(f, "{}", if self.rights().contains(bit) { c } else { '-' })?;
                }
                f.write_str(")")
            }
            FpageKind::Io(r) => write!(f, "fpage(io {:#x} 2^{})", r.base(), r.size_log2()),
        }
    }
}

/// The part of a send fpage that is mapped, and where it goes (ref 5.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapPlan {
    /// Region of the sender's space.
    pub source: Region,
    /// Region of the receiver's space, of the same size.
    pub target: Region,
}

/// Fits the send region into the receive window with the help of the send base (ref 5.6).
///
/// The smaller of the two regions is used whole; the larger one is cut by the bits of `send_base`
/// between the two sizes. For I/O the window is always the complete I/O space and ports keep their
/// numbers, so this is for memory only.
#[must_use]
pub const fn plan_map(send: Region, window: Region, send_base: u64) -> MapPlan {
    let (small, large) = if send.size_log2 <= window.size_log2 {
        (send.size_log2, window.base)
    } else {
        (window.size_log2, send.base)
    };
    let large_log2 =
        if send.size_log2 <= window.size_log2 { window.size_log2 } else { send.size_log2 };
    let cut = Region {
        base: large | (send_base & low_mask(large_log2) & !low_mask(small)),
        size_log2: small,
    };
    if send.size_log2 <= window.size_log2 {
        MapPlan { source: send, target: cut }
    } else {
        MapPlan { source: cut, target: window }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_of_the_pager_idiom_is_ignored() {
        // ref 1.2: fault address 0x12345678, 4K, rwx.
        let f = Fpage::from_raw(0x1234_54CF);
        assert_eq!(f.kind(), FpageKind::Memory(Region::containing(0x1234_5000, 12)));
        assert_eq!(f.rights(), Rights::RWX);
        assert_eq!(f.memory_region().map(Region::base), Some(0x1234_5000));
    }

    #[test]
    fn special_values() {
        assert_eq!(Fpage::NIL.kind(), FpageKind::Nothing);
        assert_eq!(Fpage::from_raw(0x17).kind(), FpageKind::Memory(Region::EVERYTHING));
        assert_eq!(Fpage::from_raw(0x4020).kind(), FpageKind::Io(Region::containing(0, 16)));
        assert_eq!(
            Fpage::from_raw(0x03F8_0C20).kind(),
            FpageKind::Io(Region::containing(0x3F8, 3))
        );
        assert_eq!(Fpage::io(0x3FA, 3).raw() & !0xF, 0x03F8_0C20);
        assert!(Fpage::any_of_size(12).is_any());
        assert_eq!(Fpage::any_of_size(12).size_field(), 12);
        assert_ne!(Fpage::any_of_size(12).raw() & 8, 0, "GetAny sets bit 3 (ref 6.6)");
    }

    #[test]
    fn sizes_below_a_page_are_nothing() {
        for size in [0u64, 3, 4, 11] {
            assert_eq!(Fpage::from_raw(0x1000 | (size << 4) | 7).kind(), FpageKind::Nothing);
        }
        // 2^17 ports and more do not exist.
        assert_eq!(Fpage::from_raw((17 << 10) | 0x20).kind(), FpageKind::Nothing);
        // s = 1 with a base is not the complete space.
        assert_eq!(Fpage::from_raw(0x1000 | 0x10).kind(), FpageKind::Nothing);
    }

    #[test]
    fn memory_round_trip() {
        for size in 12..=63u8 {
            let f = Fpage::memory(0xFFFF_1234_5678_9ABC, size, Rights::RX);
            let r = f.memory_region().expect("memory");
            assert_eq!(r.size_log2(), size);
            assert!(r.contains(0xFFFF_1234_5678_9ABC));
            assert_eq!(f.rights(), Rights::RX);
        }
        assert_eq!(Fpage::memory(5, 64, Rights::R).memory_region(), Some(Region::EVERYTHING));
    }

    #[test]
    fn plan_small_into_large_window() {
        let send = Region::containing(0x40_0000, 12);
        let window = Region::containing(0x1000_0000, 20);
        let p = plan_map(send, window, 0xABCD_5678);
        assert_eq!(p.source, send);
        assert_eq!(p.target, Region::containing(0x100D_5000, 12));
    }

    #[test]
    fn plan_large_into_small_window() {
        let send = Region::containing(0x40_0000, 22);
        let window = Region::containing(0x7000, 12);
        let p = plan_map(send, window, 0xFFF1_3FFF);
        assert_eq!(p.target, window);
        assert_eq!(p.source, Region::containing(0x71_3000, 12));
    }

    #[test]
    fn plan_complete_window_takes_the_base() {
        let send = Region::containing(0x40_0000, 21);
        let p = plan_map(send, Region::EVERYTHING, 0xDEAD_BEEF_F00D);
        assert_eq!(p.target, Region::containing(0xDEAD_BEEF_F00D, 21));
        let all = plan_map(Region::EVERYTHING, Region::EVERYTHING, 0x1234);
        assert_eq!((all.source, all.target), (Region::EVERYTHING, Region::EVERYTHING));
    }

    #[test]
    fn plan_agrees_with_a_bitwise_oracle() {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let send = Region::containing(next(), 12 + (next() % 53) as u8);
            let window = Region::containing(next(), 12 + (next() % 53) as u8);
            let base = next();
            let p = plan_map(send, window, base);
            assert_eq!(p.source.size_log2(), p.target.size_log2());
            assert_eq!(p.source.size_log2(), send.size_log2().min(window.size_log2()));
            assert!(send.contains_region(p.source) && window.contains_region(p.target));
            for bit in 12..64u8 {
                let pick = |r: Region, whole: u64| {
                    if bit < p.source.size_log2() {
                        0
                    } else if bit < r.size_log2() {
                        (base >> bit) & 1
                    } else {
                        (whole >> bit) & 1
                    }
                };
                assert_eq!((p.source.base() >> bit) & 1, pick(send, send.base()));
                assert_eq!((p.target.base() >> bit) & 1, pick(window, window.base()));
            }
        }
    }
}
