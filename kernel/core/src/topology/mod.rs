//! What the machine looks like: nodes, their memory, their CPUs, the distances between them.
//!
//! [`Topology::discover`] makes one consistent picture out of what the firmware says, however odd
//! it is: proximity domains with gaps become dense node numbers, SRAT ranges are cut to the memory
//! that the firmware's map calls usable (so holes appear), CPUs get dense numbers. What does not
//! fit together is corrected, and every correction is recorded as a [`Warning`]. There is always at
//! least one node with memory and one CPU, or an error.
//!
//! Invariants of a discovered topology: ranges are page-aligned, ascending and disjoint; CPU 0 is
//! the bootstrap processor, the others are ordered by (node, APIC id); the distance of a node to
//! itself is 10 and to any other more.
//!
//! Source: numa-l4 4.1.1 (pools per node need the ranges), l4-smp 8.2 (CPU numbers at start-up).

mod build;
pub mod ranges;
pub mod tables;
mod warning;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(crate) mod test_tables;
#[cfg(test)]
mod tests;

use crate::fixed::FixedVec;
use crate::layout::{MAX_CPUS, MAX_NODES, MAX_RANGES};
use crate::types::{ApicId, CpuId, NodeId, PhysAddr, PhysRange};

pub use warning::{TopologyError, Warning};

/// Distance of a node to itself (ACPI 6.5, 5.2.17).
pub const LOCAL_DISTANCE: u8 = 10;
/// Distance assumed between two nodes of which the firmware says nothing sensible.
pub const REMOTE_DISTANCE: u8 = 20;
/// Most warnings that are kept; more are counted.
pub const MAX_WARNINGS: usize = 32;

/// One entry of the MADT: a local APIC or local x2APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadtCpu {
    /// The APIC id.
    pub apic: ApicId,
    /// The firmware says that the CPU is there and may be started (flag "enabled").
    pub usable: bool,
}

/// The firmware's tables about nodes, as raw bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tables<'a> {
    /// The SRAT, from its signature on; trailing bytes are ignored.
    pub srat: Option<&'a [u8]>,
    /// The SLIT.
    pub slit: Option<&'a [u8]>,
}

/// A CPU of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Its APIC id: where interrupts are sent.
    pub apic: ApicId,
    /// The node it belongs to.
    pub node: NodeId,
}

/// A range of usable memory on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRange {
    /// The node.
    pub node: NodeId,
    /// Page-aligned, not empty.
    pub range: PhysRange,
}

/// The picture. About 14 KiB: keep it in a static, not on a kernel stack.
#[derive(Clone, Debug)]
pub struct Topology {
    domains: FixedVec<u32, MAX_NODES>,
    cpus: FixedVec<Cpu, MAX_CPUS>,
    ranges: FixedVec<NodeRange, MAX_RANGES>,
    distances: [[u8; MAX_NODES]; MAX_NODES],
    warnings: FixedVec<Warning, MAX_WARNINGS>,
    warnings_lost: u32,
}

impl Topology {
    /// A topology of nothing; [`Topology::discover`] fills it.
    pub const EMPTY: Self = Self {
        domains: FixedVec::new(0),
        cpus: FixedVec::new(Cpu { apic: ApicId::new(0), node: NodeId::new(0) }),
        ranges: FixedVec::new(NodeRange { node: NodeId::new(0), range: PhysRange::EMPTY }),
        distances: [[0; MAX_NODES]; MAX_NODES],
        warnings: FixedVec::new(Warning::NoCpuListed),
        warnings_lost: 0,
    };

    /// Number of nodes, at least 1 after [`Topology::discover`].
    pub fn nr_nodes(&self) -> usize {
        self.domains.len()
    }

    /// Number of CPUs, at least 1 after [`Topology::discover`].
    pub fn nr_cpus(&self) -> usize {
        self.cpus.len()
    }

    /// All nodes, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nr_nodes() as u8).map(NodeId::new)
    }

    /// The firmware's proximity domain of a node.
    pub fn proximity_domain(&self, node: NodeId) -> Option<u32> {
        self.domains.get(node.index()).copied()
    }

    /// The node of a proximity domain of the firmware.
    pub fn node_of_domain(&self, domain: u32) -> Option<NodeId> {
        self.domains.binary_search(&domain).ok().map(|i| NodeId::new(i as u8))
    }

    /// All CPUs, indexed by their number.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// A CPU by its number.
    pub fn cpu(&self, cpu: CpuId) -> Option<Cpu> {
        self.cpus.get(cpu.index()).copied()
    }

    /// The CPU with an APIC id.
    pub fn cpu_by_apic(&self, apic: ApicId) -> Option<CpuId> {
        self.cpus.iter().position(|c| c.apic == apic).map(|i| CpuId::new(i as u16))
    }

    /// The CPUs of a node, ascending.
    pub fn cpus_of(&self, node: NodeId) -> impl Iterator<Item = CpuId> {
        let numbered = self.cpus.iter().enumerate();
        numbered.filter(move |(_, c)| c.node == node).map(|(i, _)| CpuId::new(i as u16))
    }

    /// All usable memory, ascending and disjoint.
    pub fn ranges(&self) -> &[NodeRange] {
        &self.ranges
    }

    /// The usable memory of a node, ascending.
    pub fn ranges_of(&self, node: NodeId) -> impl Iterator<Item = PhysRange> {
        self.ranges.iter().filter(move |r| r.node == node).map(|r| r.range)
    }

    /// Bytes of usable memory of a node.
    pub fn memory_of(&self, node: NodeId) -> u64 {
        self.ranges_of(node).map(PhysRange::len).sum()
    }

    /// The node whose usable memory holds `addr`.
    pub fn node_of(&self, addr: PhysAddr) -> Option<NodeId> {
        let i = self.ranges.partition_point(|r| r.range.end <= addr);
        self.ranges.get(i).filter(|r| r.range.contains(addr)).map(|r| r.node)
    }

    /// Distance as seen from a CPU of `from` to memory of `to`: 10 is local, 255 unreachable.
    /// Not necessarily symmetric. A node that does not exist is unreachable.
    pub fn distance(&self, from: NodeId, to: NodeId) -> u8 {
        if from.index() >= self.nr_nodes() || to.index() >= self.nr_nodes() {
            return u8::MAX;
        }
        self.distances[from.index()][to.index()]
    }

    /// All nodes by ascending distance from `node`, the node itself first, equal ones by number.
    pub fn nearest_nodes(&self, node: NodeId) -> NodeOrder {
        let mut order = FixedVec::new(NodeId::new(0));
        for other in self.nodes() {
            let key = |n: NodeId| (self.distance(node, n), n);
            let at = order.partition_point(|n| key(*n) < key(other));
            // Cannot be full: there are at most MAX_NODES nodes.
            let _ = order.insert(at, other);
        }
        NodeOrder { order, next: 0 }
    }

    /// The node from which `node` gets its memory: itself, or the nearest node with memory.
    pub fn memory_node_for(&self, node: NodeId) -> NodeId {
        self.nearest_nodes(node).find(|n| self.memory_of(*n) > 0).unwrap_or(node)
    }

    /// What was odd, in the order in which it was found.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Number of warnings that were not kept.
    pub fn warnings_lost(&self) -> u32 {
        self.warnings_lost
    }

    fn warn(&mut self, warning: Warning) {
        if self.warnings.contains(&warning) {
            return;
        }
        if self.warnings.push(warning).is_err() {
            self.warnings_lost += 1;
        }
    }
}

/// Nodes in the order of their distance from one of them.
#[derive(Clone, Debug)]
pub struct NodeOrder {
    order: FixedVec<NodeId, MAX_NODES>,
    next: usize,
}

impl NodeOrder {
    /// All nodes of the order, whatever was already taken from the iterator.
    pub fn as_slice(&self) -> &[NodeId] {
        &self.order
    }
}

impl Iterator for NodeOrder {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let node = self.order.get(self.next).copied();
        self.next += 1;
        node
    }
}
