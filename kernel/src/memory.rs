//! The node pools: where all kernel memory comes from.
//!
//! One pool per node, carved out of that node's own memory at boot; every allocation names a node. With
//! `node_pools=flat` all of it comes from the first node, so that experiments can show what placement is
//! worth. Interim: a bump allocator until `kcore::pool` is in.

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::layout::{MAX_NODES, PAGE_SIZE};
use kcore::types::{NodeId, PhysAddr, PhysRange};
use spin::Once;

/// The node has no page left. Becomes `out of memory` of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

struct Pool {
    start: AtomicU64,
    next: AtomicU64,
    end: AtomicU64,
}

static POOLS: [Pool; MAX_NODES] =
    [const { Pool { start: AtomicU64::new(0), next: AtomicU64::new(0), end: AtomicU64::new(0) } };
        MAX_NODES];
static FLAT: Once<NodeId> = Once::new();

/// Gives a node its pool.
pub fn set_pool(node: NodeId, range: PhysRange) {
    let pool = &POOLS[node.index()];
    pool.start.store(range.start.as_u64(), Ordering::Relaxed);
    pool.next.store(range.start.as_u64(), Ordering::Relaxed);
    pool.end.store(range.end.as_u64(), Ordering::Relaxed);
}

/// From now on every allocation comes from `node`.
pub fn make_flat(node: NodeId) {
    FLAT.call_once(|| node);
}

/// The extent of a node's pool; empty for a node without one.
pub fn pool_of(node: NodeId) -> PhysRange {
    let pool = &POOLS[node.index()];
    PhysRange::new(
        PhysAddr::new(pool.start.load(Ordering::Relaxed)),
        PhysAddr::new(pool.end.load(Ordering::Relaxed)),
    )
}

/// The address lies in some pool, so the kernel has it mapped.
pub fn is_pool(phys: PhysAddr) -> bool {
    (0..MAX_NODES).any(|n| pool_of(NodeId::new(n as u8)).contains(phys))
}

/// `count` contiguous zeroed pages of `node`.
pub fn alloc_pages(node: NodeId, count: u64) -> Result<PhysAddr, OutOfMemory> {
    let node = FLAT.get().copied().unwrap_or(node);
    let pool = &POOLS[node.index()];
    let bytes = count * PAGE_SIZE;
    let end = pool.end.load(Ordering::Relaxed);
    let start = pool
        .next
        .try_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            next.checked_add(bytes).filter(|&after| after <= end)
        })
        .map_err(|_| OutOfMemory)?;
    let phys = PhysAddr::new(start);
    crate::arch::x86_64::paging::zero(phys, bytes);
    Ok(phys)
}

/// One zeroed page of `node`.
pub fn alloc_page(node: NodeId) -> Result<PhysAddr, OutOfMemory> {
    alloc_pages(node, 1)
}
