//! Table memory for tests: watches every store, runs out on demand, and plays the processor that
//! sets status bits at the worst moment.

use super::*;
use crate::layout::TABLE_ENTRIES;
use crate::types::VirtAddr;

/// What a processor makes of an address: where it leads and what is allowed, but neither the size
/// of the page nor its status bits.
pub(super) type Seen = Option<(PhysAddr, Rights, Flags)>;

pub(super) struct FakeMemory {
    /// Tables by frame number; frame 0 is never one.
    tables: Vec<Option<Table>>,
    unused: Vec<usize>,
    /// Tables that may still be allocated.
    pub budget: usize,
    /// Set in the next leaf that is exchanged, just before the exchange.
    pub noise: Flags,
    watch: Option<Watch>,
}

struct Table {
    entries: Box<[u64; TABLE_ENTRIES]>,
    level: u8,
    /// Entries of reachable tables that lead here: 0 is not reachable. A root has one.
    links: u32,
}

struct Watch {
    root: PhysAddr,
    probes: Vec<VirtAddr>,
    history: Vec<Vec<Seen>>,
}

impl FakeMemory {
    pub(super) fn new() -> Self {
        let tables = vec![None];
        Self { tables, unused: vec![], budget: usize::MAX, noise: Flags::empty(), watch: None }
    }

    /// A new root.
    pub(super) fn root(&mut self) -> PhysAddr {
        let root = self.alloc().unwrap();
        self.link(root, 4);
        root
    }

    /// The entries that are not empty.
    fn used(&self, table: PhysAddr) -> Vec<(usize, Entry)> {
        let slot = self.tables[table.frame() as usize].as_ref().expect("a freed table is read");
        let entries = slot.entries.iter().enumerate().filter(|(_, bits)| **bits != 0);
        entries.map(|(index, bits)| (index, Entry::from_bits(*bits))).collect()
    }

    fn link(&mut self, table: PhysAddr, level: u8) {
        let slot = self.table(table);
        slot.level = level;
        slot.links += 1;
        if slot.links == 1 {
            for (_, entry) in self.used(table) {
                if let Some(next) = entry.as_table(level) {
                    self.link(next, level - 1);
                }
            }
        }
    }

    fn unlink(&mut self, table: PhysAddr) {
        let slot = self.table(table);
        slot.links -= 1;
        let level = slot.level;
        if slot.links == 0 {
            for (_, entry) in self.used(table) {
                if let Some(next) = entry.as_table(level) {
                    self.unlink(next);
                }
            }
        }
    }

    /// One store; recorded if it may be seen.
    fn store(&mut self, table: PhysAddr, index: usize, entry: Entry) -> Entry {
        let slot = self.table(table);
        let (level, live) = (slot.level, slot.links > 0);
        let old = Entry::from_bits(core::mem::replace(&mut slot.entries[index], entry.bits()));
        if live {
            if let Some(next) = entry.as_table(level) {
                self.link(next, level - 1);
            }
            if let Some(next) = old.as_table(level) {
                self.unlink(next);
            }
            self.record();
        }
        old
    }

    pub(super) fn nr_tables(&self) -> usize {
        self.tables.iter().flatten().count()
    }

    pub(super) fn see(&self, root: PhysAddr, virt: VirtAddr) -> Seen {
        let walk = walk(root, virt, |t, i| Some(self.read(t, i)));
        let flags = walk.leaf?.flags.difference(STATUS);
        Some((walk.phys()?, walk.rights, flags))
    }

    /// From now on, what the probes lead to is recorded after every store.
    pub(super) fn begin_watch(&mut self, root: PhysAddr, probes: Vec<VirtAddr>) {
        self.watch = Some(Watch { root, probes, history: vec![] });
        self.record();
    }

    /// Every probe must have led where it led before, or where it leads now, and must have
    /// changed at most once.
    pub(super) fn end_watch(&mut self) {
        self.record();
        let watch = self.watch.take().unwrap();
        for (i, probe) in watch.probes.iter().enumerate() {
            let mut seen: Vec<_> = watch.history.iter().map(|h| h[i]).collect();
            seen.dedup();
            assert!(seen.len() <= 2, "{probe} was seen half-made: {seen:?}");
        }
    }

    fn record(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            let seen = watch.probes.iter().map(|p| self.see(watch.root, *p)).collect();
            watch.history.push(seen);
            self.watch = Some(watch);
        }
    }

    /// All tables below and including `table` of `level`.
    pub(super) fn reachable(&self, table: PhysAddr, level: u8) -> Vec<PhysAddr> {
        let mut found = vec![table];
        for (_, entry) in self.used(table) {
            if let Some(next) = entry.as_table(level) {
                found.extend(self.reachable(next, level - 1));
            }
        }
        found
    }

    /// All pages below `table` of `level`, which maps addresses from `base` on.
    pub(super) fn leaves(&self, table: PhysAddr, level: u8, base: u64) -> Vec<(u64, Leaf)> {
        let mut found = vec![];
        for (index, entry) in self.used(table) {
            let mut virt = base | (index as u64) << (12 + 9 * (u32::from(level) - 1));
            if level == 4 && index >= 256 {
                virt |= 0xFFFF << 48;
            }
            if let Some(next) = entry.as_table(level) {
                found.extend(self.leaves(next, level - 1, virt));
            } else if let Some(leaf) = entry.as_leaf(level) {
                found.push((virt, leaf));
            } else {
                assert_eq!(entry, Entry::EMPTY);
            }
        }
        found
    }

    fn table(&mut self, table: PhysAddr) -> &mut Table {
        assert_eq!(table.page_offset(), 0);
        self.tables[table.frame() as usize].as_mut().expect("a freed table is used")
    }

    fn make_noise(&mut self, table: PhysAddr, index: usize) {
        let noise = core::mem::replace(&mut self.noise, Flags::empty());
        self.table(table).entries[index] |= noise.bits();
    }
}

impl TableMemory for FakeMemory {
    fn read(&self, table: PhysAddr, index: usize) -> Entry {
        let slot = &self.tables[table.frame() as usize];
        Entry::from_bits(slot.as_ref().expect("a freed table is read").entries[index])
    }

    fn write(&mut self, table: PhysAddr, index: usize, entry: Entry) {
        let live = self.table(table).links > 0;
        let old = self.store(table, index, entry);
        assert!(!live || !old.is_present(), "a plain write replaces a live entry");
    }

    fn compare_exchange(
        &mut self,
        table: PhysAddr,
        index: usize,
        old: Entry,
        new: Entry,
    ) -> Result<(), Entry> {
        self.make_noise(table, index);
        let now = self.read(table, index);
        if now != old {
            return Err(now);
        }
        self.store(table, index, new);
        Ok(())
    }

    fn alloc(&mut self) -> Result<PhysAddr, OutOfMemory> {
        self.budget = self.budget.checked_sub(1).ok_or(OutOfMemory)?;
        let frame = self.unused.pop().unwrap_or_else(|| {
            self.tables.push(None);
            self.tables.len() - 1
        });
        let entries = Box::new([0; TABLE_ENTRIES]);
        self.tables[frame] = Some(Table { entries, level: 0, links: 0 });
        Ok(PhysAddr::from_frame(frame as u64))
    }

    fn free(&mut self, table: PhysAddr) {
        let frame = table.frame() as usize;
        let table = self.tables[frame].take().expect("a table is freed twice");
        assert_eq!(table.links, 0, "a reachable table is freed");
        self.unused.push(frame);
        self.budget = self.budget.saturating_add(1);
    }
}
