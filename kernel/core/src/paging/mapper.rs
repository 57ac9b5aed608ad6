//! Building page tables; each operation on a table in use is one visible store.

use super::{Entry, Flags, PageSize, TableMemory, Walk, walk};
use crate::layout::TABLE_ENTRIES;
use crate::pool::OutOfMemory;
use crate::types::{PhysAddr, PhysRange, VirtAddr};

/// Why an operation changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No memory for a table.
    OutOfMemory,
    /// An address is not a multiple of the page size, or not canonical.
    Misaligned,
    /// A page of this size is mapped there already, or around it.
    Occupied(PageSize),
    /// A table is where the page's or the table's entry would be.
    TableInTheWay,
    /// Nothing is mapped there.
    NotMapped,
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Changes the tables below one root.
///
/// The mapper is a name, not an owner: who may use it, and under which lock, is the caller's rule.
#[derive(Clone, Copy, Debug)]
pub struct Mapper {
    root: PhysAddr,
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    table: PhysAddr,
    index: usize,
    level: u8,
}

impl Mapper {
    /// A mapper for the tables below `root`.
    pub const fn new(root: PhysAddr) -> Self {
        Self { root }
    }

    /// A fresh root that shares everything with that of `template`, but has own tables on the way to `apart`, down to the
    /// one whose entries map 2 MiB. What a CPU has for itself is mapped below that one.
    ///
    /// # Errors
    /// `OutOfMemory`; tables made before the error are lost.
    pub fn copy_of(
        memory: &mut impl TableMemory,
        template: Self,
        apart: VirtAddr,
    ) -> Result<Self, MapError> {
        let copy = Self { root: copy_table(memory, template.root)? };
        for level in [3, 2] {
            match copy.unshare(memory, apart, level) {
                Ok(_) => (),
                Err(MapError::NotMapped) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copy)
    }

    /// The root table.
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Walks to `virt` as the processor would.
    pub fn walk(&self, memory: &impl TableMemory, virt: VirtAddr) -> Walk {
        walk(self.root, virt, |table, index| Some(memory.read(table, index)))
    }

    /// Maps one page where nothing is mapped. PRESENT need not be given in `flags`.
    ///
    /// # Errors
    /// `Misaligned`, `Occupied`, `TableInTheWay`, `OutOfMemory`; nothing has changed then.
    pub fn map(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        phys: PhysAddr,
        size: PageSize,
        flags: Flags,
    ) -> Result<(), MapError> {
        let aligned = virt.is_aligned(size.bytes()) && phys.is_aligned(size.bytes());
        if !aligned || !virt.is_canonical() {
            return Err(MapError::Misaligned);
        }
        self.attach(memory, virt, size.level(), Entry::leaf(phys, size, flags))
    }

    /// Maps a contiguous range with the largest pages up to `largest` that alignment allows.
    ///
    /// # Errors
    /// As [`Mapper::map`]; what was mapped before the error stays.
    pub fn map_range(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        range: PhysRange,
        largest: PageSize,
        flags: Flags,
    ) -> Result<(), MapError> {
        let mut done = 0;
        while done < range.len() {
            let (v, p) = (virt.offset(done), range.start.offset(done));
            let fits = |size: &&PageSize| {
                **size <= largest
                    && v.is_aligned(size.bytes())
                    && p.is_aligned(size.bytes())
                    && range.len() - done >= size.bytes()
            };
            let size = PageSize::ALL.iter().rev().find(fits).ok_or(MapError::Misaligned)?;
            self.map(memory, v, p, *size, flags)?;
            done += size.bytes();
        }
        Ok(())
    }

    /// Takes the right to write away from the page around `virt`; its status bits stay. The caller flushes.
    ///
    /// # Errors
    /// `NotMapped`.
    pub fn forbid_writing(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
    ) -> Result<(), MapError> {
        let place = self.descend(memory, virt, 1);
        let mut old = memory.read(place.table, place.index);
        loop {
            let mut leaf = old.as_leaf(place.level).ok_or(MapError::NotMapped)?;
            leaf.flags.remove(Flags::WRITABLE);
            // Fails if the processor set a status bit meanwhile.
            match memory.compare_exchange(place.table, place.index, old, leaf.entry()) {
                Ok(()) => return Ok(()),
                Err(now) => old = now,
            }
        }
    }

    /// Makes the entry above `level` (1 to 3) on the way to `virt` lead to an existing table,
    /// which may be shared with other roots.
    ///
    /// # Errors
    /// As [`Mapper::map`]; `TableInTheWay` if there is a table of that level already.
    pub fn link(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        level: u8,
        table: PhysAddr,
    ) -> Result<(), MapError> {
        self.attach(memory, virt, level + 1, Entry::table(table))
    }

    /// Gives `virt` a table of `level` (1 to 3) of its own: a copy takes the place of the one there in one store.
    /// Returns the copy. The caller flushes paging-structure caches before the copy is changed in a way that must be seen.
    ///
    /// # Errors
    /// `NotMapped` if there is no table of that level, `OutOfMemory`.
    pub fn unshare(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        level: u8,
    ) -> Result<PhysAddr, MapError> {
        let table = self.walk(memory, virt).table_of_level(level).ok_or(MapError::NotMapped)?;
        let place = self.descend(memory, virt, level + 1);
        let mut old = memory.read(place.table, place.index);
        let copy = copy_table(memory, table)?;
        while let Err(now) =
            memory.compare_exchange(place.table, place.index, old, Entry::table(copy))
        {
            old = now;
        }
        Ok(copy)
    }

    /// The entry for `virt` in the table of `level`, or the lowest one above if tables end there.
    fn descend(&self, memory: &impl TableMemory, virt: VirtAddr, level: u8) -> Place {
        let mut place = Place { table: self.root, index: virt.table_index(4), level: 4 };
        while place.level > level {
            let entry = memory.read(place.table, place.index);
            let Some(next) = entry.as_table(place.level) else { break };
            let level = place.level - 1;
            place = Place { table: next, index: virt.table_index(level), level };
        }
        place
    }

    /// Puts `entry` into the table of `level` on the way to `virt`, where nothing is yet: builds the missing tables from
    /// below, then shows all with one store.
    fn attach(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        level: u8,
        entry: Entry,
    ) -> Result<(), MapError> {
        let place = self.descend(memory, virt, level);
        let there = memory.read(place.table, place.index);
        if there.is_present() {
            let leaf = there.as_leaf(place.level);
            return Err(leaf.map_or(MapError::TableInTheWay, |leaf| MapError::Occupied(leaf.size)));
        }
        let mut made = [PhysAddr::ZERO; 3];
        let missing = usize::from(place.level - level);
        for i in 0..missing {
            match memory.alloc() {
                Ok(table) => made[i] = table,
                Err(error) => {
                    made[..i].iter().for_each(|table| memory.free(*table));
                    return Err(error.into());
                }
            }
        }
        let mut entry = entry;
        for (i, table) in made[..missing].iter().enumerate() {
            memory.write(*table, virt.table_index(level + i as u8), entry);
            entry = Entry::table(*table);
        }
        memory.write(place.table, place.index, entry);
        Ok(())
    }
}

fn copy_table(memory: &mut impl TableMemory, table: PhysAddr) -> Result<PhysAddr, OutOfMemory> {
    let copy = memory.alloc()?;
    for index in 0..TABLE_ENTRIES {
        let entry = memory.read(table, index);
        memory.write(copy, index, entry);
    }
    Ok(copy)
}
