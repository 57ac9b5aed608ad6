//! Page tables of x86-64, 4 levels (SDM 3A 4.5): entries, a builder, and a walker.
//!
//! The kernel half of every root is built with this, at boot. User halves belong to the mapping database
//! ([`crate::mapdb`]), which keeps a shadow beside every table and changes many entries in one step.
//!
//! The builder is generic over [`TableMemory`], so the same code runs in the kernel and on the host, where every single
//! store is watched. Tables may be in use meanwhile, hence:
//!
//! * *Never half-made.* A new table is filled before the one store that makes it reachable. A
//!   walk sees the state before an operation or the state after it, nothing else.
//! * *Accessed and dirty bits are not lost.* A present entry is changed by compare-and-exchange, never by read and write.

mod mapper;
mod walk;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use core::fmt;

pub use mapper::{MapError, Mapper};
pub use walk::{Rights, Walk, walk};
/// Bits of an entry, from the `x86_64` crate.
pub use x86_64::structures::paging::PageTableFlags as Flags;

use crate::layout::PAGE_SIZE;
use crate::pool::OutOfMemory;
use crate::types::PhysAddr;

/// Physical-address bits 51..12 of an entry.
pub const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// What entries that lead to a table say: the restrictions are in the leaves. ACCESSED is set from the start, so that the
/// processor never has to write the entry.
const TABLE: Flags =
    Flags::PRESENT.union(Flags::WRITABLE).union(Flags::USER_ACCESSIBLE).union(Flags::ACCESSED);

/// The bits that the processor sets by itself.
#[cfg(test)]
const STATUS: Flags = Flags::ACCESSED.union(Flags::DIRTY);

/// Sizes of hardware pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB, mapped by a table of level 1.
    Small = 1,
    /// 2 MiB, level 2.
    Large = 2,
    /// 1 GiB, level 3. Not on every processor.
    Huge = 3,
}

impl PageSize {
    /// All sizes, ascending.
    pub const ALL: [Self; 3] = [Self::Small, Self::Large, Self::Huge];

    /// Level of the tables whose entries map pages of this size.
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << (9 * (self as u32 - 1))
    }

    /// The size that tables of `level` map: `None` for the root and for no level.
    pub const fn of_level(level: u8) -> Option<Self> {
        match level {
            1 => Some(Self::Small),
            2 => Some(Self::Large),
            3 => Some(Self::Huge),
            _ => None,
        }
    }
}

/// One entry of a page table, as the processor reads it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(u64);

impl Entry {
    /// Maps nothing.
    pub const EMPTY: Self = Self(0);

    /// An entry from its raw bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The raw bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// An entry that leads to a table of the next lower level.
    pub const fn table(table: PhysAddr) -> Self {
        Self(table.as_u64() & ADDRESS | TABLE.bits())
    }

    /// An entry that maps a page. PRESENT and the large-page bit are set by this function.
    pub const fn leaf(phys: PhysAddr, size: PageSize, flags: Flags) -> Self {
        let large = match size {
            PageSize::Small => 0,
            PageSize::Large | PageSize::Huge => Flags::HUGE_PAGE.bits(),
        };
        Self(phys.as_u64() & ADDRESS | flags.bits() | Flags::PRESENT.bits() | large)
    }

    /// True if the entry leads anywhere.
    pub const fn is_present(self) -> bool {
        self.0 & Flags::PRESENT.bits() != 0
    }

    /// The page that the entry maps in a table of `level` (1 to 4), if it maps one.
    pub fn as_leaf(self, level: u8) -> Option<Leaf> {
        let size = PageSize::of_level(level)?;
        let is_leaf = level == 1 || self.0 & Flags::HUGE_PAGE.bits() != 0;
        if !self.is_present() || !is_leaf {
            return None;
        }
        let flags = Flags::from_bits_truncate(self.0 & !ADDRESS).difference(if level == 1 {
            Flags::empty()
        } else {
            Flags::HUGE_PAGE
        });
        Some(Leaf { phys: PhysAddr::new(self.0 & ADDRESS).align_down(size.bytes()), size, flags })
    }

    /// The table that the entry leads to in a table of `level`, if it leads to one.
    pub fn as_table(self, level: u8) -> Option<PhysAddr> {
        let is_leaf = level == 1 || (level < 4 && self.0 & Flags::HUGE_PAGE.bits() != 0);
        (self.is_present() && !is_leaf).then_some(PhysAddr::new(self.0 & ADDRESS))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({:#x})", self.0)
    }
}

/// A mapped page: what a lowest entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// First byte of the page.
    pub phys: PhysAddr,
    /// Its size.
    pub size: PageSize,
    /// PRESENT, rights, caching and status; without the large-page bit.
    pub flags: Flags,
}

impl Leaf {
    /// The entry that says this.
    pub const fn entry(self) -> Entry {
        Entry::leaf(self.phys, self.size, self.flags)
    }
}

/// How the builder reaches tables. Tables are named by their physical address; indices are below
/// 512. The kernel implements this on the pool window.
pub trait TableMemory {
    /// Reads an entry with one aligned 64-bit load.
    fn read(&self, table: PhysAddr, index: usize) -> Entry;

    /// Writes an entry with one aligned 64-bit store, ordered after all earlier stores.
    /// Only for entries that are not present, and for tables that are not reachable.
    fn write(&mut self, table: PhysAddr, index: usize, entry: Entry);

    /// Atomically replaces an entry that is still `old`.
    ///
    /// # Errors
    /// What the entry is instead.
    fn compare_exchange(
        &mut self,
        table: PhysAddr,
        index: usize,
        old: Entry,
        new: Entry,
    ) -> Result<(), Entry>;

    /// Allocates a zeroed table.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn alloc(&mut self) -> Result<PhysAddr, OutOfMemory>;

    /// Frees a table that was never reachable.
    fn free(&mut self, table: PhysAddr);
}
