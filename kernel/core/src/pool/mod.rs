//! Kernel memory: one pool per node, carved from that node's own memory.
//!
//! Every allocation names a node; a free finds the pool by address. A pool's metadata (page
//! descriptors, free lists, lock) lies in the pool itself, so that a CPU which allocates on its own
//! node touches only its own node. Physical and virtual addresses of pool memory differ by one
//! constant ([`crate::layout::PHYS_OFFSET`]); the thesis, whose pools had an offset each, needed a
//! search per translation (numa-l4 4.1.1).
//!
//! ```text
//!   alloc_page ──▶ cache of pages (LIFO) ──▶ buddy allocator of extent 0, 1, ..
//!                  64 slots, batches of 16   orders 0..=18, naturally aligned
//! ```
//!
//! Lock order: a pool's lock is taken last, and held for a bounded number of steps without
//! waiting for another CPU. No operation takes two pool locks at once.
//!
//! Rejected: a pool per CPU (memory of a node must be shareable by its CPUs without a transfer
//! protocol), and one lock-free list per node (the buddy joins need a lock anyway).

mod extent;
mod node;
mod plan;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod tests;

use core::fmt;

use spin::Mutex;

use crate::fixed::FixedVec;
use crate::layout::{MAX_NODES, PAGE_SIZE};
use crate::types::{NodeId, PhysAddr, PhysRange};

pub use extent::{MAX_ORDER, PageDesc};
pub use node::{ExtentError, NodePool, PoolCounters};
pub use plan::{MAX_EXTENTS, Metadata, PlanError, PoolOptions, PoolPlan};

/// A pool has no free memory of the wanted size (or the node has no pool).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of kernel memory")
    }
}

/// Why memory cannot be freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// The address lies in no pool.
    Foreign,
    /// The address is not the start of an allocated block: a double free, an address inside of a
    /// block, or metadata.
    NotAllocated,
}

/// Memory that was allocated and not yet freed: `2^order` pages. It cannot be copied, so it cannot
/// be freed twice; who keeps only the address takes that duty over ([`Frames::into_phys`]).
#[derive(PartialEq, Eq, Debug)]
#[must_use = "memory that is dropped without being freed is lost"]
pub struct Frames {
    phys: PhysAddr,
    order: u8,
}

impl Frames {
    /// Address of the first byte, aligned to the size of the whole.
    pub const fn phys(&self) -> PhysAddr {
        self.phys
    }

    /// log2 of the number of pages.
    pub const fn order(&self) -> u8 {
        self.order
    }

    /// Size in bytes.
    pub const fn len(&self) -> u64 {
        PAGE_SIZE << self.order
    }

    /// Never true; clippy wants it next to `len`.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The addresses.
    pub const fn range(&self) -> PhysRange {
        PhysRange::from_len(self.phys.as_u64(), self.len())
    }

    /// Gives up the token: only the address is left, for [`Pools::free_at`].
    pub const fn into_phys(self) -> PhysAddr {
        self.phys
    }
}

/// A pool and its lock, on its own cache lines, to be placed in the pool's own memory.
#[repr(align(64))]
pub struct SharedPool {
    node: NodeId,
    pool: Mutex<NodePool<'static>>,
}

impl SharedPool {
    /// Wraps the pool of `node`.
    pub const fn new(node: NodeId, pool: NodePool<'static>) -> Self {
        Self { node, pool: Mutex::new(pool) }
    }

    /// The node whose memory the pool is.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The counters.
    pub fn counters(&self) -> PoolCounters {
        self.pool.lock().counters()
    }

    /// The counters, unless somebody has the lock: for a debugger that has stopped everybody.
    pub fn try_counters(&self) -> Option<PoolCounters> {
        Some(self.pool.try_lock()?.counters())
    }

    /// One page of this pool.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn alloc_page(&self) -> Result<Frames, OutOfMemory> {
        let phys = self.pool.lock().alloc_page()?;
        Ok(Frames { phys, order: 0 })
    }

    /// `2^order` contiguous pages of this pool.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn alloc(&self, order: u8) -> Result<Frames, OutOfMemory> {
        let phys = self.pool.lock().alloc(order)?;
        Ok(Frames { phys, order })
    }
}

impl fmt::Debug for SharedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedPool(node {})", self.node)
    }
}

/// One contiguous part of a pool, in frame numbers.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    end: u64,
    node: NodeId,
}

/// The directory of all pools. Read-only once it is filled, so it can be replicated per node.
#[derive(Clone, Debug)]
pub struct Pools {
    pools: [Option<&'static SharedPool>; MAX_NODES],
    homes: [NodeId; MAX_NODES],
    spans: FixedVec<Span, { MAX_NODES * MAX_EXTENTS }>,
}

impl Default for Pools {
    fn default() -> Self {
        Self::new()
    }
}

impl Pools {
    /// A directory without pools.
    pub const fn new() -> Self {
        Self {
            pools: [None; MAX_NODES],
            homes: [NodeId::new(0); MAX_NODES],
            spans: FixedVec::new(Span { first: 0, end: 0, node: NodeId::new(0) }),
        }
    }

    /// Enters a pool. Its extents must not change afterwards. A second pool for the same node
    /// replaces the first in name only: do not do that.
    pub fn add(&mut self, shared: &'static SharedPool) {
        self.pools[shared.node.index() % MAX_NODES] = Some(shared);
        for range in shared.pool.lock().extents() {
            let (first, end) = (range.start.frame(), range.end.frame());
            let at = self.spans.partition_point(|s| s.first < first);
            let _ = self.spans.insert(at, Span { first, end, node: shared.node });
        }
    }

    /// Takes over from the plan which node draws from which pool.
    pub fn set_homes(&mut self, plan: &PoolPlan) {
        for (i, home) in self.homes.iter_mut().enumerate() {
            *home = plan.home_of(NodeId::new(i as u8));
        }
    }

    /// The node from whose pool `node` draws: itself, or for a node without pool the nearest
    /// with one. With flat pools the one node that has a pool.
    pub fn home_of(&self, node: NodeId) -> NodeId {
        self.homes[node.index() % MAX_NODES]
    }

    /// The pool of a node, if it has one.
    pub fn pool(&self, node: NodeId) -> Option<&'static SharedPool> {
        self.pools.get(node.index()).copied().flatten()
    }

    /// The counters of a node's pool.
    pub fn counters(&self, node: NodeId) -> Option<PoolCounters> {
        self.pool(node).map(SharedPool::counters)
    }

    /// One page of `node`, of no other.
    ///
    /// # Errors
    /// [`OutOfMemory`], also for a node without pool.
    pub fn alloc_page_on(&self, node: NodeId) -> Result<Frames, OutOfMemory> {
        self.pool(node).ok_or(OutOfMemory)?.alloc_page()
    }

    /// `2^order` contiguous pages of `node`, of no other.
    ///
    /// # Errors
    /// [`OutOfMemory`], also for a node without pool.
    pub fn alloc_on(&self, node: NodeId, order: u8) -> Result<Frames, OutOfMemory> {
        self.pool(node).ok_or(OutOfMemory)?.alloc(order)
    }

    /// `2^order` contiguous pages of the first node of `order_of_nodes` that has them
    /// ([`crate::topology::Topology::nearest_nodes`]).
    ///
    /// # Errors
    /// [`OutOfMemory`] if none has.
    pub fn alloc_near(
        &self,
        order_of_nodes: impl IntoIterator<Item = NodeId>,
        order: u8,
    ) -> Result<Frames, OutOfMemory> {
        let mut nodes = order_of_nodes.into_iter();
        nodes.find_map(|node| self.alloc_on(node, order).ok()).ok_or(OutOfMemory)
    }

    /// Frees memory on whatever node it is.
    ///
    /// # Errors
    /// See [`FreeError`]; impossible for a token that was not forged from an address.
    pub fn free(&self, frames: Frames) -> Result<(), FreeError> {
        let order = self.free_at(frames.phys)?;
        debug_assert_eq!(order, frames.order);
        Ok(())
    }

    /// Frees the block that starts at `phys`; returns its order.
    ///
    /// # Errors
    /// See [`FreeError`]; nothing is then changed.
    pub fn free_at(&self, phys: PhysAddr) -> Result<u8, FreeError> {
        let node = self.node_of(phys).ok_or(FreeError::Foreign)?;
        let pool = self.pool(node).ok_or(FreeError::Foreign)?;
        pool.pool.lock().free(phys)
    }

    /// The node in whose pool `phys` lies: a binary search over the extents, one step per
    /// doubling of their number.
    pub fn node_of(&self, phys: PhysAddr) -> Option<NodeId> {
        let frame = phys.frame();
        let span = self.spans.get(self.spans.partition_point(|s| s.end <= frame))?;
        (span.first <= frame).then_some(span.node)
    }
}
