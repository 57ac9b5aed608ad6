//! The mapping database's view of the kernel: words of pool memory, node pools, frames, spaces, locks.

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::mapdb::{Env, FrameInfo, SpaceRef as DbSpace};
use kcore::types::{NodeId, PhysAddr};
use spin::Once;

use crate::cross::shootdown;
use crate::memory;
use crate::memory::{frames, home};
use crate::space::SpaceRef;
use crate::util::{ServingLock, sealed};

/// The kernel as the mapping database needs it.
#[derive(Debug, Clone, Copy)]
pub struct Kernel;

sealed! {
    /// The top table pair of physical memory's own space.
    static PHYSICAL_TOP: Once<PhysAddr> = Once::new();
}

/// Where its tables lie that belong to no node in particular.
const PHYSICAL_HOME: NodeId = NodeId::new(0);

/// Makes the space of physical memory.
pub fn init() -> Result<(), memory::OutOfMemory> {
    let top = memory::alloc_pages(PHYSICAL_HOME, 2)?;
    PHYSICAL_TOP.call_once(|| top);
    Ok(())
}

/// Makes the shadow of a fresh top table say that nothing in it is used.
pub fn forget_used(top: PhysAddr) {
    word(kcore::mapdb::used_of_top(top.as_u64())).store(0, Ordering::Relaxed);
}

/// The top table of physical memory's own space; 0 before there is one.
#[cfg(feature = "kdb")]
pub fn physical_top() -> u64 {
    PHYSICAL_TOP.get().map_or(0, |p| p.as_u64())
}

/// The database's name of a space.
pub fn name(space: SpaceRef) -> DbSpace {
    DbSpace(core::ptr::from_ref(space) as u64)
}

/// The space that the database names.
pub fn space(name: DbSpace) -> SpaceRef {
    // SAFETY: names are made by `name` from live spaces, and a space outlives its mapping nodes: it is freed
    // after `DeleteOp` has removed them.
    unsafe { &*(name.0 as *const crate::space::Space) }
}

/// A word of a table or mapping node at an address that somebody else may have put there; none outside of pools.
pub fn look(at: u64) -> Option<u64> {
    let inside = at.is_multiple_of(8) && memory::is_pool(PhysAddr::new(at));
    inside.then(|| word(at).load(Ordering::Relaxed))
}

/// A word of a table, node or index page.
#[inline(always)]
fn word(at: u64) -> &'static AtomicU64 {
    // SAFETY: the database hands out only addresses of pool memory that it allocated through this trait, and
    // every access is to an aligned word.
    unsafe { &*((at + kcore::layout::PHYS_OFFSET) as *const AtomicU64) }
}

impl Env for Kernel {
    #[inline(always)]
    fn read(&self, at: u64) -> u64 {
        word(at).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn write(&self, at: u64, value: u64) {
        word(at).store(value, Ordering::Release);
    }

    #[inline(always)]
    fn swap(&self, at: u64, value: u64) -> u64 {
        word(at).swap(value, Ordering::AcqRel)
    }

    #[inline(always)]
    fn fetch_and(&self, at: u64, mask: u64) -> u64 {
        word(at).fetch_and(mask, Ordering::AcqRel)
    }

    #[inline(always)]
    fn fetch_or(&self, at: u64, mask: u64) -> u64 {
        word(at).fetch_or(mask, Ordering::AcqRel)
    }

    #[inline(always)]
    fn alloc_node(&self, home: NodeId) -> Option<u64> {
        home::alloc_mapping_node(home)
    }

    #[inline(always)]
    fn free_node(&self, at: u64) {
        home::free_mapping_node(at);
    }

    #[inline(always)]
    fn free_node_at(&self, at: u64, home: NodeId) {
        home::free_mapping_node_at(at, home);
    }

    fn alloc_table(&self, home: NodeId) -> Option<u64> {
        home::alloc_table(home)
    }

    fn free_table(&self, at: u64) {
        home::free_table(at);
    }

    fn alloc_index(&self, home: NodeId, pair: bool) -> Option<u64> {
        memory::alloc_pages(home, 1 + u64::from(pair)).ok().map(PhysAddr::as_u64)
    }

    fn free_index(&self, at: u64, pair: bool) {
        memory::free_pages(PhysAddr::new(at), 1 + u64::from(pair));
    }

    fn frame_info(&self, frame: PhysAddr) -> FrameInfo {
        frames::info(frame)
    }

    fn max_level(&self) -> u8 {
        if crate::machine::get().features.gib_pages { 3 } else { 2 }
    }

    fn nx(&self) -> bool {
        true
    }

    #[inline(always)]
    fn top(&self, name: DbSpace) -> u64 {
        if name == DbSpace::PHYSICAL {
            return PHYSICAL_TOP.get().map_or(0, |p| p.as_u64());
        }
        space(name).top().as_u64()
    }

    #[inline(always)]
    fn home(&self, name: DbSpace) -> NodeId {
        if name == DbSpace::PHYSICAL {
            return PHYSICAL_HOME;
        }
        space(name).home()
    }

    fn reserved(&self, name: DbSpace, va: u64, len: u64) -> bool {
        name != DbSpace::PHYSICAL && len != 0 && space(name).is_reserved(va, len)
    }

    fn top_changed(&self, name: DbSpace, index: usize, entry: u64) {
        if name != DbSpace::PHYSICAL {
            space(name).propagate(index, entry);
        }
    }

    fn lock_tree(&self, node: NodeId) {
        // Entries are changed under this lock only; `shootdown::flush` withdraws it.
        shootdown::announce(node);
        home::of(node).tree.acquire();
    }

    fn unlock_tree(&self, node: NodeId) {
        home::of(node).tree.release();
    }

    fn lock_space(&self, name: DbSpace) {
        match name {
            DbSpace::PHYSICAL => PHYSICAL_LOCK.acquire(),
            name => space(name).tables.acquire(),
        }
    }

    fn unlock_space(&self, name: DbSpace) {
        match name {
            DbSpace::PHYSICAL => PHYSICAL_LOCK.release(),
            name => space(name).tables.release(),
        }
    }
}

/// Lock of the tables of physical memory's own space.
static PHYSICAL_LOCK: ServingLock = ServingLock::new();
