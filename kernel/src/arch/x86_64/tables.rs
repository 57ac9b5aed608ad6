//! Page tables as the processor reads them: walking and building (SDM 3A 4.5).
//!
//! This is the builder of the kernel half, at boot; user halves are `kcore::paging`'s. Tables are pool
//! memory and written through the pool window.

use bitflags::bitflags;
use kcore::layout::{PAGE_SIZE, TABLE_ENTRIES};
use kcore::types::{PhysAddr, PhysRange, VirtAddr};

use super::bootmem::BootWindow;
use super::regs;

bitflags! {
    /// Bits of an entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// Maps something.
        const PRESENT = 1;
        /// May be written.
        const WRITABLE = 1 << 1;
        /// Reachable from user level.
        const USER = 1 << 2;
        /// With `NO_CACHE`: PAT entry 3, uncached.
        const WRITE_THROUGH = 1 << 3;
        /// Uncached.
        const NO_CACHE = 1 << 4;
        /// Used. Set from the start, so that the processor never has to write the entry.
        const ACCESSED = 1 << 5;
        /// Written to.
        const DIRTY = 1 << 6;
        /// A page although the level is not the lowest.
        const LARGE = 1 << 7;
        /// Kept in the translation look-aside buffer across root changes.
        const GLOBAL = 1 << 8;
        /// No instructions from here.
        const NO_EXECUTE = 1 << 63;
    }
}

/// Physical address bits of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// What entries that lead to a table say: restrictions are in the leaves.
const TABLE: Flags =
    Flags::PRESENT.union(Flags::WRITABLE).union(Flags::USER).union(Flags::ACCESSED);

/// Levels, by what an entry of theirs maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// 4 KiB.
    Page = 1,
    /// 2 MiB.
    Large = 2,
    /// 1 GiB.
    Huge = 3,
    /// 512 GiB; always leads to a table.
    Root = 4,
}

impl Level {
    const DOWN: [Level; 4] = [Level::Root, Level::Huge, Level::Large, Level::Page];

    /// Bytes that an entry maps.
    pub const fn size(self) -> u64 {
        PAGE_SIZE << (9 * (self as u32 - 1))
    }
}

/// Why tables could not be built. A boot failure, not the fault of any user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The node has no page left.
    OutOfMemory,
    /// Something else is mapped there already.
    Conflict,
}

/// Tables under construction.
pub struct Tables<'a> {
    root: PhysAddr,
    alloc: &'a mut dyn FnMut() -> Option<PhysAddr>,
}

fn entry(table: PhysAddr, index: usize) -> *mut u64 {
    debug_assert!(index < TABLE_ENTRIES);
    (table.window().as_u64() + 8 * index as u64) as *mut u64
}

fn read(table: PhysAddr, index: usize) -> u64 {
    // SAFETY: tables are pages of a pool, which is mapped at its window.
    unsafe { entry(table, index).read_volatile() }
}

fn write(table: PhysAddr, index: usize, value: u64) {
    // SAFETY: as in `read`; only tables under construction are written, or one aligned word of a live one.
    unsafe { entry(table, index).write_volatile(value) };
}

impl<'a> Tables<'a> {
    /// Starts with an empty root. `alloc` gives zeroed pages.
    pub fn new(alloc: &'a mut dyn FnMut() -> Option<PhysAddr>) -> Result<Self, TableError> {
        let root = alloc().ok_or(TableError::OutOfMemory)?;
        Ok(Tables { root, alloc })
    }

    /// Starts with a root that shares everything with `template` but has own tables on the way to
    /// `apart`, down to the one whose entries map 2 MiB.
    pub fn copy_of(
        template: PhysAddr,
        apart: VirtAddr,
        alloc: &'a mut dyn FnMut() -> Option<PhysAddr>,
    ) -> Result<Self, TableError> {
        let mut original = template;
        let mut parent = None;
        let mut root = None;
        for level in [Level::Root, Level::Huge, Level::Large] {
            let copy = alloc().ok_or(TableError::OutOfMemory)?;
            for index in 0..TABLE_ENTRIES {
                write(copy, index, read(original, index));
            }
            match parent {
                Some((table, index)) => write(table, index, copy.as_u64() | TABLE.bits()),
                None => root = Some(copy),
            }
            let index = apart.table_index(level as u8);
            parent = Some((copy, index));
            original = PhysAddr::new(read(original, index) & ADDRESS);
            if original == PhysAddr::ZERO {
                break;
            }
        }
        root.map(|root| Tables { root, alloc }).ok_or(TableError::Conflict)
    }

    /// The root table.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// The table whose entries map `level`-sized pages on the way to `virt`, if it exists.
    pub fn table(&self, virt: VirtAddr, level: Level) -> Option<PhysAddr> {
        let mut table = self.root;
        for at in Level::DOWN {
            if at == level {
                return Some(table);
            }
            let bits = Flags::from_bits_retain(read(table, virt.table_index(at as u8)));
            if !bits.contains(Flags::PRESENT) || bits.contains(Flags::LARGE) {
                return None;
            }
            table = PhysAddr::new(bits.bits() & ADDRESS);
        }
        None
    }

    fn make_table(&mut self, virt: VirtAddr, level: Level) -> Result<PhysAddr, TableError> {
        let mut table = self.root;
        for at in Level::DOWN {
            if at == level {
                break;
            }
            let index = virt.table_index(at as u8);
            let bits = Flags::from_bits_retain(read(table, index));
            if bits.contains(Flags::PRESENT | Flags::LARGE) {
                return Err(TableError::Conflict);
            }
            table = if bits.contains(Flags::PRESENT) {
                PhysAddr::new(bits.bits() & ADDRESS)
            } else {
                let next = (self.alloc)().ok_or(TableError::OutOfMemory)?;
                write(table, index, next.as_u64() | TABLE.bits());
                next
            };
        }
        Ok(table)
    }

    /// Maps one page of the size of `level`.
    pub fn map(
        &mut self,
        virt: VirtAddr,
        phys: PhysAddr,
        level: Level,
        flags: Flags,
    ) -> Result<(), TableError> {
        let table = self.make_table(virt, level)?;
        let index = virt.table_index(level as u8);
        if read(table, index) != 0 {
            return Err(TableError::Conflict);
        }
        let large = if level == Level::Page { Flags::empty() } else { Flags::LARGE };
        write(table, index, phys.as_u64() | (flags | large).bits());
        Ok(())
    }

    /// Maps a contiguous range with 4 KiB pages.
    pub fn map_pages(
        &mut self,
        virt: VirtAddr,
        range: PhysRange,
        flags: Flags,
    ) -> Result<(), TableError> {
        for offset in (0..range.len()).step_by(PAGE_SIZE as usize) {
            self.map(virt.offset(offset), range.start.offset(offset), Level::Page, flags)?;
        }
        Ok(())
    }

    /// Maps a contiguous range with the largest pages up to 2 MiB that fit.
    pub fn map_range(
        &mut self,
        virt: VirtAddr,
        range: PhysRange,
        flags: Flags,
    ) -> Result<(), TableError> {
        let mut offset = 0;
        while offset < range.len() {
            let (v, p) = (virt.offset(offset), range.start.offset(offset));
            let size = Level::Large.size();
            let large = v.is_aligned(size) && p.is_aligned(size) && range.len() - offset >= size;
            let level = if large { Level::Large } else { Level::Page };
            self.map(v, p, level, flags)?;
            offset += level.size();
        }
        Ok(())
    }

    /// Makes the entry above `level` on the way to `virt` lead to an existing table.
    pub fn link(
        &mut self,
        virt: VirtAddr,
        level: Level,
        table: PhysAddr,
    ) -> Result<(), TableError> {
        let above = Level::DOWN[4 - level as usize - 1];
        let parent = self.make_table(virt, above)?;
        let index = virt.table_index(above as u8);
        if read(parent, index) != 0 {
            return Err(TableError::Conflict);
        }
        write(parent, index, table.as_u64() | TABLE.bits());
        Ok(())
    }
}

/// Takes the right to write away from the 4 KiB page at `virt`, if it is mapped. Translations are the caller's matter.
pub fn protect(root: PhysAddr, virt: VirtAddr) {
    let Some(found) = walk(root, virt, |at| Some(read(at, 0))) else { return };
    let (leaf, index) = (found.tables[3], virt.table_index(Level::Page as u8));
    if leaf != PhysAddr::ZERO {
        write(leaf, index, read(leaf, index) & !Flags::WRITABLE.bits());
    }
}

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte.
    pub phys: PhysAddr,
    /// Size of the page it lies in.
    pub size: u64,
    /// What all levels together allow.
    pub flags: Flags,
    /// The tables on the way, root first; zero where there is none.
    pub tables: [PhysAddr; 4],
}

/// Walks from `root` like the processor; `read` reads the entry at a physical address.
pub fn walk(
    root: PhysAddr,
    virt: VirtAddr,
    read: impl Fn(PhysAddr) -> Option<u64>,
) -> Option<Translation> {
    let restricting = Flags::WRITABLE | Flags::USER;
    let mut allowed = restricting;
    let mut no_execute = Flags::empty();
    let mut tables = [PhysAddr::ZERO; 4];
    let mut table = PhysAddr::new(root.as_u64() & ADDRESS);
    for (depth, level) in Level::DOWN.into_iter().enumerate() {
        tables[depth] = table;
        let raw = read(table.offset(8 * virt.table_index(level as u8) as u64))?;
        let bits = Flags::from_bits_truncate(raw);
        if !bits.contains(Flags::PRESENT) {
            return None;
        }
        allowed &= bits;
        no_execute |= bits & Flags::NO_EXECUTE;
        if level == Level::Page || (level != Level::Root && bits.contains(Flags::LARGE)) {
            let size = level.size();
            let base = raw & ADDRESS & !(size - 1);
            let phys = PhysAddr::new(base | virt.as_u64() & (size - 1));
            let flags = bits.difference(restricting) | allowed | no_execute;
            return Some(Translation { phys, size, flags, tables });
        }
        table = PhysAddr::new(raw & ADDRESS);
    }
    None
}

/// Walks the tables in use while the boot window exists.
pub fn walk_boot(window: &BootWindow, virt: u64) -> Option<Translation> {
    walk(regs::cr3(), VirtAddr::new(virt), |phys| Some(window.read(phys.as_u64())))
}

/// Walks the tables this CPU is using, from CR3. Tables outside all pools end the walk.
pub fn walk_live(virt: VirtAddr) -> Option<Translation> {
    walk(regs::cr3(), virt, |phys| {
        crate::memory::is_pool(phys).then(|| {
            // SAFETY: pool memory is mapped at its window.
            unsafe { (phys.window().as_u64() as *const u64).read_volatile() }
        })
    })
}
