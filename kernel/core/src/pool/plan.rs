//! Carving: which part of each node's memory becomes the kernel's pool.
//!
//! A pool is one contiguous extent if the node has a hole-free stretch of that size, else up to
//! [`MAX_EXTENTS`] of its largest ones. Extents are 2 MiB-aligned, so the pool windows map them with
//! large pages. High addresses below 4 GiB are preferred (every boot path can reach them before
//! the kernel has its own tables), then memory above 4 GiB; memory below 64 MiB, where sigma0, the
//! root task and foreign images are linked, is taken only if there is nothing else.
//!
//! This is a pure function of the topology: nothing is touched.

use core::fmt;

use super::{PageDesc, SharedPool};
use crate::fixed::FixedVec;
use crate::layout::{LOW_IMAGE_AREA, MAX_NODES, PAGE_SIZE, PAGE_SIZE_2M, PHYS_LIMIT};
use crate::topology::ranges::{self, RangeList};
use crate::topology::{NodeRange, Topology};
use crate::types::{CpuId, NodeId, PhysAddr, PhysRange};

/// Most extents of one pool.
pub const MAX_EXTENTS: usize = 4;
/// Without an option, a pool is this fraction of its node's memory ...
pub const DEFAULT_FRACTION: u64 = 16;
/// ... but at least this ...
pub const DEFAULT_MIN: u64 = 8 << 20;
/// ... and at most this.
pub const DEFAULT_MAX: u64 = 64 << 20;

/// What the kernel command line says about pools.
#[derive(Clone, Copy, Default, Debug)]
pub struct PoolOptions {
    /// `pool_size=`: bytes of each pool; rounded up to 2 MiB, and at most half of the node.
    pub size: Option<u64>,
    /// `node_pools=flat`: one pool, on the boot CPU's node, as large as all pools together.
    pub flat: bool,
}

/// Why there is no plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// No node has 2 MiB of free aligned memory.
    NoPool,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("no node has memory for a kernel pool"),
        }
    }
}

/// The extents of all pools, and which node draws from which pool.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    extents: FixedVec<NodeRange, { MAX_NODES * MAX_EXTENTS }>,
    homes: [NodeId; MAX_NODES],
}

impl PoolPlan {
    /// Plans the pools of a machine. `reserved` is what must stay as it is: kernel image, boot
    /// modules, page of the trampoline, firmware tables; in any order, any alignment.
    ///
    /// # Errors
    /// [`PlanError::NoPool`].
    pub fn new(
        topology: &Topology,
        reserved: &[PhysRange],
        options: PoolOptions,
    ) -> Result<Self, PlanError> {
        let none = NodeRange { node: NodeId::new(0), range: PhysRange::EMPTY };
        let mut plan = Self { extents: FixedVec::new(none), homes: [NodeId::new(0); MAX_NODES] };
        if options.flat {
            let boot_node = topology.cpu(CpuId::new(0)).map_or(NodeId::new(0), |c| c.node);
            let node = topology.memory_node_for(boot_node);
            let size = topology.nodes().map(|n| wanted(topology, n, options)).sum();
            plan.carve(topology, node, reserved, size);
        } else {
            for node in topology.nodes() {
                plan.carve(topology, node, reserved, wanted(topology, node, options));
            }
        }
        if plan.extents.is_empty() {
            return Err(PlanError::NoPool);
        }
        for node in topology.nodes() {
            let mut nearest = topology.nearest_nodes(node);
            let home = nearest.find(|n| plan.extents_of(*n).next().is_some());
            plan.homes[node.index()] = home.unwrap_or(node);
        }
        Ok(plan)
    }

    /// All extents, grouped by node.
    pub fn extents(&self) -> &[NodeRange] {
        &self.extents
    }

    /// The extents of a node's pool; none if the node has no pool.
    pub fn extents_of(&self, node: NodeId) -> impl Iterator<Item = PhysRange> {
        self.extents.iter().filter(move |e| e.node == node).map(|e| e.range)
    }

    /// The node from whose pool `node` draws kernel memory: itself, or the nearest with a pool.
    pub fn home_of(&self, node: NodeId) -> NodeId {
        self.homes[node.index() % MAX_NODES]
    }

    /// The node's memory that is left for users: without pools and without `reserved`.
    pub fn user_memory(
        &self,
        topology: &Topology,
        node: NodeId,
        reserved: &[PhysRange],
    ) -> RangeList {
        let mut free = free_memory(topology, node, reserved);
        for extent in self.extents_of(node) {
            let _ = ranges::subtract(&mut free, extent);
        }
        free
    }

    fn carve(&mut self, topology: &Topology, node: NodeId, reserved: &[PhysRange], size: u64) {
        let size = size.min(topology.memory_of(node) / 2) / PAGE_SIZE_2M * PAGE_SIZE_2M;
        if size == 0 {
            return;
        }
        let free = free_memory(topology, node, reserved);
        let zones = preferred_zones();
        let whole = zones.iter().find_map(|zone| {
            let mut fitting = aligned_parts(&free, *zone).filter(|r| r.len() >= size);
            fitting.next_back().map(|r| top_of(r, size))
        });
        if let Some(range) = whole {
            let _ = self.extents.push(NodeRange { node, range });
            return;
        }
        let mut missing = size;
        let mut taken = 0;
        for zone in zones {
            let mut parts: RangeList = ranges::EMPTY;
            for part in aligned_parts(&free, zone) {
                let _ = parts.push(part);
            }
            parts.sort_unstable_by_key(|r| core::cmp::Reverse(r.len()));
            for part in parts.iter() {
                if missing == 0 || taken == MAX_EXTENTS {
                    return;
                }
                let range = top_of(*part, missing.min(part.len()));
                let _ = self.extents.push(NodeRange { node, range });
                missing -= range.len();
                taken += 1;
            }
        }
    }
}

/// Where a pool's metadata lies: at the start of its extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Where the [`SharedPool`] goes, in the first extent of a pool only.
    pub pool_at: Option<PhysAddr>,
    /// Where the array of [`PageDesc`] goes. It must be zeroed before it is used as a slice.
    pub descs_at: PhysAddr,
    /// Length of that array.
    pub nr_descs: usize,
    /// Pages at the start of the extent that all this takes.
    pub pages: u64,
}

impl Metadata {
    /// The metadata of `extent`, which is the `first` of its pool or not.
    pub const fn of(extent: PhysRange, first: bool) -> Self {
        let nr_descs = extent.len() / PAGE_SIZE;
        let pool_bytes =
            if first { size_of::<SharedPool>().next_multiple_of(64) as u64 } else { 0 };
        let bytes = pool_bytes + nr_descs * size_of::<PageDesc>() as u64;
        Self {
            pool_at: if first { Some(extent.start) } else { None },
            descs_at: extent.start.offset(pool_bytes),
            nr_descs: nr_descs as usize,
            pages: bytes.div_ceil(PAGE_SIZE),
        }
    }
}

fn wanted(topology: &Topology, node: NodeId, options: PoolOptions) -> u64 {
    let memory = topology.memory_of(node);
    if memory == 0 {
        return 0;
    }
    let default = (memory / DEFAULT_FRACTION).clamp(DEFAULT_MIN, DEFAULT_MAX);
    let size = options.size.unwrap_or(default).min(memory);
    size.next_multiple_of(PAGE_SIZE_2M)
}

fn free_memory(topology: &Topology, node: NodeId, reserved: &[PhysRange]) -> RangeList {
    let mut free = ranges::EMPTY;
    for range in topology.ranges_of(node) {
        let _ = ranges::insert(&mut free, range);
    }
    for hole in reserved {
        // A list that overflows loses the part behind the hole: memory, not correctness.
        let pages = PhysRange::new(
            hole.start.page_base(),
            hole.end.align_up(PAGE_SIZE).unwrap_or(hole.end),
        );
        let _ = ranges::subtract(&mut free, pages);
    }
    free
}

fn preferred_zones() -> [PhysRange; 3] {
    let four_gib = PhysAddr::new(1 << 32);
    [
        PhysRange::new(LOW_IMAGE_AREA, four_gib),
        PhysRange::new(four_gib, PHYS_LIMIT),
        PhysRange::new(PhysAddr::ZERO, LOW_IMAGE_AREA),
    ]
}

fn aligned_parts(free: &RangeList, zone: PhysRange) -> impl DoubleEndedIterator<Item = PhysRange> {
    let parts = free.iter().map(move |r| r.intersect(zone).align_inward(PAGE_SIZE_2M));
    parts.filter(|r| !r.is_empty())
}

fn top_of(range: PhysRange, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(range.end.as_u64() - size), range.end)
}
