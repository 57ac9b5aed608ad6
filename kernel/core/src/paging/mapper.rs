//! Changing page tables, one page at a time; each operation is one visible store.

use super::{Entry, Flags, Leaf, PageSize, STATUS, TableMemory, Walk, walk};
use crate::layout::TABLE_ENTRIES;
use crate::pool::OutOfMemory;
use crate::types::{NodeId, PhysAddr, VirtAddr};

/// Why an operation changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No memory for a table on the mapper's node.
    OutOfMemory,
    /// An address is not a multiple of the page size, or not canonical.
    Misaligned,
    /// A page of this size is mapped there already, or around it.
    Occupied(PageSize),
    /// A table is where the page's entry would be; it may be empty ([`Mapper::prune`]).
    TableInTheWay,
    /// Nothing is mapped there.
    NotMapped,
    /// A larger page covers the address ([`Mapper::split`]).
    Larger(PageSize),
    /// A 4 KiB page cannot be split.
    Smallest,
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A root entry that an operation made. Other roots that share the tables below must get it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootEntry {
    /// Index into the root table.
    pub index: usize,
    /// What to write there.
    pub entry: Entry,
}

/// Changes the tables below one root. New tables come from one node.
///
/// The mapper is a name, not an owner: who may use it, and under which lock, is the caller's rule.
#[derive(Clone, Copy, Debug)]
pub struct Mapper {
    root: PhysAddr,
    node: NodeId,
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    table: PhysAddr,
    index: usize,
    level: u8,
}

impl Mapper {
    /// A mapper for the tables below `root`, which takes new tables from `node`.
    pub const fn new(root: PhysAddr, node: NodeId) -> Self {
        Self { root, node }
    }

    /// The root table.
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Walks to `virt` as the processor would.
    pub fn walk(&self, memory: &impl TableMemory, virt: VirtAddr) -> Walk {
        walk(self.root, virt, |table, index| Some(memory.read(table, index)))
    }

    /// Physical address of `virt`, if it is mapped.
    pub fn translate(&self, memory: &impl TableMemory, virt: VirtAddr) -> Option<PhysAddr> {
        self.walk(memory, virt).phys()
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
    ) -> Result<Option<RootEntry>, MapError> {
        check_aligned(virt, phys, size)?;
        let place = self.descend(memory, virt, size.level());
        self.check_free(memory, place)?;
        let leaf = Entry::leaf(phys, size, flags);
        self.attach(memory, virt, size.level(), leaf, place)
    }

    /// Maps `bytes` bytes with the largest pages up to `largest` that alignment allows.
    ///
    /// # Errors
    /// As [`Mapper::map`]; what was mapped before the error is unmapped again, which needs no
    /// flush if nobody used it. Tables made on the way stay, empty.
    pub fn map_range(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        phys: PhysAddr,
        bytes: u64,
        largest: PageSize,
        flags: Flags,
    ) -> Result<(), MapError> {
        let mut done = 0;
        while done < bytes {
            let (v, p) = (virt.offset(done), phys.offset(done));
            let fits = |size: &&PageSize| {
                **size <= largest
                    && v.is_aligned(size.bytes())
                    && p.is_aligned(size.bytes())
                    && bytes - done >= size.bytes()
            };
            let size = PageSize::ALL.iter().rev().find(fits).copied();
            let result = size
                .ok_or(MapError::Misaligned)
                .and_then(|size| self.map(memory, v, p, size, flags).map(|_| done += size.bytes()));
            if let Err(error) = result {
                self.undo(memory, virt, done);
                return Err(error);
            }
        }
        Ok(())
    }

    fn undo(&self, memory: &mut impl TableMemory, virt: VirtAddr, bytes: u64) {
        let mut at = 0;
        while at < bytes {
            let Some(leaf) = self.walk(memory, virt.offset(at)).leaf else { return };
            let _ = self.unmap(memory, virt.offset(at), leaf.size);
            at += leaf.size.bytes();
        }
    }

    /// Unmaps one page and returns what it was, with its last status bits. The caller flushes.
    ///
    /// # Errors
    /// `Misaligned`, `NotMapped`, `Larger`, `TableInTheWay` (smaller pages may be there).
    pub fn unmap(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        size: PageSize,
    ) -> Result<Leaf, MapError> {
        let (place, _) = self.find(memory, virt, size)?;
        let old = memory.swap(place.table, place.index, Entry::EMPTY);
        old.as_leaf(place.level).ok_or(MapError::NotMapped)
    }

    /// Puts another frame in the place of a mapped page, in one step; returns what was there.
    /// The new entry starts with clear status bits. The caller flushes.
    ///
    /// # Errors
    /// As [`Mapper::unmap`].
    pub fn remap(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        phys: PhysAddr,
        size: PageSize,
        flags: Flags,
    ) -> Result<Leaf, MapError> {
        check_aligned(virt, phys, size)?;
        let (place, _) = self.find(memory, virt, size)?;
        let old = memory.swap(place.table, place.index, Entry::leaf(phys, size, flags));
        old.as_leaf(place.level).ok_or(MapError::NotMapped)
    }

    /// Sets the flags of a mapped page; its status bits stay. Returns the page as it was: the
    /// caller flushes if a right was lost.
    ///
    /// # Errors
    /// As [`Mapper::unmap`].
    pub fn protect(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        size: PageSize,
        flags: Flags,
    ) -> Result<Leaf, MapError> {
        self.update(memory, virt, size, |leaf| {
            leaf.flags = flags.difference(STATUS).union(leaf.flags.intersection(STATUS));
        })
    }

    /// Clears the status bits of a mapped page and returns the page as it was. To see every later
    /// access the caller must flush; without a flush the bits are hints.
    ///
    /// # Errors
    /// As [`Mapper::unmap`].
    pub fn take_status(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        size: PageSize,
    ) -> Result<Leaf, MapError> {
        self.update(memory, virt, size, |leaf| leaf.flags = leaf.flags.difference(STATUS))
    }

    /// Replaces the large page around `virt` by a table of the next smaller pages with the same
    /// frames, rights and status. Translations stay the same, so nothing need be flushed; a later
    /// flush of one address of the old page drops all of it (SDM 3A 4.10.4.1).
    ///
    /// # Errors
    /// `NotMapped`, `Smallest`, `OutOfMemory`.
    pub fn split(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
    ) -> Result<PageSize, MapError> {
        let place = self.descend(memory, virt, 1);
        let mut old = memory.read(place.table, place.index);
        let leaf = old.as_leaf(place.level).ok_or(MapError::NotMapped)?;
        let size = leaf.size.smaller().ok_or(MapError::Smallest)?;
        let table = memory.alloc(self.node)?;
        loop {
            let Some(leaf) = old.as_leaf(place.level) else {
                memory.free(table);
                return Err(MapError::NotMapped);
            };
            for index in 0..TABLE_ENTRIES {
                let phys = leaf.phys.offset(index as u64 * size.bytes());
                memory.write(table, index, Entry::leaf(phys, size, leaf.flags));
            }
            // Fails if the processor set a status bit meanwhile: then the copies get it too.
            let new = Entry::table(table);
            match memory.compare_exchange(place.table, place.index, old, new) {
                Ok(()) => return Ok(size),
                Err(now) => old = now,
            }
        }
    }

    /// The table of `level` (1 to 3) around `virt`, made if it does not exist.
    ///
    /// # Errors
    /// `Occupied` by a large page, `OutOfMemory`.
    pub fn ensure_table(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        level: u8,
    ) -> Result<(PhysAddr, Option<RootEntry>), MapError> {
        if let Some(table) = self.walk(memory, virt).table_of_level(level) {
            return Ok((table, None));
        }
        let place = self.descend(memory, virt, level);
        self.check_free(memory, place)?;
        let table = memory.alloc(self.node)?;
        match self.attach(memory, virt, level + 1, Entry::table(table), place) {
            Ok(root) => Ok((table, root)),
            Err(error) => {
                memory.free(table);
                Err(error)
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
    ) -> Result<Option<RootEntry>, MapError> {
        let place = self.descend(memory, virt, level + 1);
        self.check_free(memory, place)?;
        self.attach(memory, virt, level + 1, Entry::table(table), place)
    }

    /// Gives `virt` a table of `level` (1 to 3) of its own if the one there is `shared`: a copy
    /// takes its place in one store. Returns the table that is there now. The caller flushes
    /// paging-structure caches before the copy is changed in a way that must be seen.
    ///
    /// # Errors
    /// `NotMapped` if there is no table of that level, `OutOfMemory`.
    pub fn unshare(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        level: u8,
        shared: PhysAddr,
    ) -> Result<PhysAddr, MapError> {
        let table = self.walk(memory, virt).table_of_level(level).ok_or(MapError::NotMapped)?;
        if table != shared {
            return Ok(table);
        }
        let place = self.descend(memory, virt, level + 1);
        let copy = memory.alloc(self.node)?;
        for index in 0..TABLE_ENTRIES {
            let entry = memory.read(shared, index);
            memory.write(copy, index, entry);
        }
        memory.swap(place.table, place.index, Entry::table(copy));
        Ok(copy)
    }

    /// Detaches the empty tables on the way to `virt`, lowest first, never the root. Returns up
    /// to three tables for the caller to free after a flush, and the root entry that is now empty.
    pub fn prune(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
    ) -> ([Option<PhysAddr>; 3], Option<RootEntry>) {
        let mut detached = [None; 3];
        let way = self.walk(memory, virt);
        for level in 1..4u8 {
            let Some(table) = way.table_of_level(level) else { continue };
            let Some(parent) = way.table_of_level(level + 1) else { break };
            if (0..TABLE_ENTRIES).any(|i| memory.read(table, i) != Entry::EMPTY) {
                return (detached, None);
            }
            memory.swap(parent, virt.table_index(level + 1), Entry::EMPTY);
            detached[usize::from(level) - 1] = Some(table);
        }
        let root =
            detached[2].map(|_| RootEntry { index: virt.table_index(4), entry: Entry::EMPTY });
        (detached, root)
    }

    /// Detaches one lowest table (and whatever it still maps) below the root entries
    /// `first..end`, for taking a space apart in bounded steps: at most 4 x 512 entries are read.
    /// Returns it for the caller to free, or `None` when no table is left. No processor may be
    /// using this root any more.
    pub fn pop_table(
        &self,
        memory: &mut impl TableMemory,
        first: usize,
        end: usize,
    ) -> Option<PhysAddr> {
        let (mut table, mut level) = (self.root, 4);
        let mut parent: Option<(PhysAddr, usize)> = None;
        loop {
            let range = if level == 4 { first..end.min(TABLE_ENTRIES) } else { 0..TABLE_ENTRIES };
            let below = range.into_iter().find_map(|index| {
                memory.read(table, index).as_table(level).map(|next| (index, next))
            });
            match below {
                Some((index, next)) => {
                    parent = Some((table, index));
                    (table, level) = (next, level - 1);
                }
                None => {
                    let (above, index) = parent?;
                    memory.swap(above, index, Entry::EMPTY);
                    return Some(table);
                }
            }
        }
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

    fn check_free(&self, memory: &impl TableMemory, place: Place) -> Result<(), MapError> {
        let entry = memory.read(place.table, place.index);
        match (entry.is_present(), entry.as_leaf(place.level)) {
            (false, _) => Ok(()),
            (true, Some(leaf)) => Err(MapError::Occupied(leaf.size)),
            (true, None) => Err(MapError::TableInTheWay),
        }
    }

    /// Makes the empty entry at `place` lead to `entry`, which belongs into a table of `level`:
    /// builds the missing tables from below, then shows all with one store.
    fn attach(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        level: u8,
        entry: Entry,
        place: Place,
    ) -> Result<Option<RootEntry>, MapError> {
        let mut made = [PhysAddr::ZERO; 3];
        let missing = usize::from(place.level - level);
        for i in 0..missing {
            match memory.alloc(self.node) {
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
        Ok((place.level == 4).then_some(RootEntry { index: place.index, entry }))
    }

    /// The entry that maps the page of `size` at `virt`.
    fn find(
        &self,
        memory: &impl TableMemory,
        virt: VirtAddr,
        size: PageSize,
    ) -> Result<(Place, Entry), MapError> {
        check_aligned(virt, PhysAddr::ZERO, size)?;
        let place = self.descend(memory, virt, size.level());
        let entry = memory.read(place.table, place.index);
        match entry.as_leaf(place.level) {
            Some(leaf) if leaf.size == size => Ok((place, entry)),
            Some(leaf) => Err(MapError::Larger(leaf.size)),
            None if entry.is_present() => Err(MapError::TableInTheWay),
            None => Err(MapError::NotMapped),
        }
    }

    fn update(
        &self,
        memory: &mut impl TableMemory,
        virt: VirtAddr,
        size: PageSize,
        change: impl Fn(&mut Leaf),
    ) -> Result<Leaf, MapError> {
        let (place, mut old) = self.find(memory, virt, size)?;
        loop {
            let before = old.as_leaf(place.level).ok_or(MapError::NotMapped)?;
            let mut after = before;
            change(&mut after);
            match memory.compare_exchange(place.table, place.index, old, after.entry()) {
                Ok(()) => return Ok(before),
                Err(now) => old = now,
            }
        }
    }
}

fn check_aligned(virt: VirtAddr, phys: PhysAddr, size: PageSize) -> Result<(), MapError> {
    let bytes = size.bytes();
    if virt.is_aligned(bytes) && phys.is_aligned(bytes) && virt.is_canonical() {
        Ok(())
    } else {
        Err(MapError::Misaligned)
    }
}
