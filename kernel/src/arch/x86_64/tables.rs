//! Page tables in memory: what `kcore::paging` builds and walks lies in pools and is reached through their windows.

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::layout::TABLE_ENTRIES;
use kcore::paging::{Entry, TableMemory, Walk, walk};
use kcore::pool::OutOfMemory;
use kcore::types::{PhysAddr, VirtAddr};

use super::bootmem::BootWindow;
use super::regs;

/// Tables in pools.
pub struct PoolTables<'a> {
    alloc: Option<&'a mut dyn FnMut() -> Option<PhysAddr>>,
}

impl<'a> PoolTables<'a> {
    /// Tables whose memory comes from `alloc`, which gives zeroed pages.
    pub fn new(alloc: &'a mut dyn FnMut() -> Option<PhysAddr>) -> Self {
        PoolTables { alloc: Some(alloc) }
    }

    /// Tables to which none are added.
    pub fn existing() -> Self {
        PoolTables { alloc: None }
    }
}

fn entry(table: PhysAddr, index: usize) -> &'static AtomicU64 {
    debug_assert!(index < TABLE_ENTRIES);
    // SAFETY: tables are pages of a pool, which is mapped at its window for ever; every access to them is to an aligned
    // word, the processor's included.
    unsafe { &*((table.window().as_u64() + 8 * index as u64) as *const AtomicU64) }
}

impl TableMemory for PoolTables<'_> {
    fn read(&self, table: PhysAddr, index: usize) -> Entry {
        Entry::from_bits(entry(table, index).load(Ordering::Relaxed))
    }

    fn write(&mut self, table: PhysAddr, index: usize, new: Entry) {
        entry(table, index).store(new.bits(), Ordering::Release);
    }

    fn compare_exchange(
        &mut self,
        table: PhysAddr,
        index: usize,
        old: Entry,
        new: Entry,
    ) -> Result<(), Entry> {
        let (old, new) = (old.bits(), new.bits());
        entry(table, index)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
            .map_or_else(|now| Err(Entry::from_bits(now)), |_| Ok(()))
    }

    fn alloc(&mut self) -> Result<PhysAddr, OutOfMemory> {
        self.alloc.as_mut().and_then(|alloc| alloc()).ok_or(OutOfMemory)
    }

    /// Only a boot that fails for lack of memory gets here: nobody would take the page.
    fn free(&mut self, _: PhysAddr) {}
}

/// Walks the tables in use while the boot window exists.
pub fn walk_boot(window: &BootWindow, virt: u64) -> Walk {
    walk(regs::cr3(), VirtAddr::new(virt), |table, index| {
        Some(Entry::from_bits(window.read(table.as_u64() + 8 * index as u64)))
    })
}

/// Walks the tables this CPU is using, from CR3. Tables outside all pools end the walk.
pub fn walk_live(virt: VirtAddr) -> Walk {
    walk(regs::cr3(), virt, |table, index| {
        let readable = crate::memory::is_pool(table);
        readable.then(|| Entry::from_bits(entry(table, index).load(Ordering::Relaxed)))
    })
}
