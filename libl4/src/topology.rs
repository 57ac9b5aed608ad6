//! Questions about the machine's nodes (`l4abi::kip::numa`). Without a NUMA table there is one node.

use crate::kip;
use l4abi::{CpuId, NodeId};

/// Distance of a node to itself (ACPI SLIT).
pub const LOCAL_DISTANCE: u8 = 10;

/// Number of nodes, at least one.
#[must_use]
pub fn node_count() -> usize {
    kip().numa().map_or(1, |numa| numa.node_count().max(1))
}

/// Number of processors.
#[must_use]
pub fn cpu_count() -> usize {
    kip().processor_count()
}

/// The node of a processor.
#[must_use]
pub fn node_of(cpu: CpuId) -> NodeId {
    kip().numa().and_then(|numa| numa.node_of(cpu)).unwrap_or(NodeId(0))
}

/// The node that the running thread is on.
#[must_use]
pub fn my_node() -> NodeId {
    node_of(crate::thread::my_cpu())
}

/// The processors of a node.
pub fn cpus_of(node: NodeId) -> impl Iterator<Item = CpuId> {
    (0..cpu_count() as u16).map(CpuId).filter(move |&cpu| node_of(cpu) == node)
}

/// Distance between two nodes, 10 = local.
#[must_use]
pub fn distance(from: NodeId, to: NodeId) -> u8 {
    let unknown = if from == to { LOCAL_DISTANCE } else { 2 * LOCAL_DISTANCE };
    kip().numa().and_then(|numa| numa.distance(from, to)).unwrap_or(unknown)
}

/// The node whose memory a physical address is (for programs whose memory is mapped one to one).
#[must_use]
pub fn node_of_address(addr: u64) -> Option<NodeId> {
    match kip().numa() {
        Some(numa) => numa.node_of_address(addr),
        None => Some(NodeId(0)),
    }
}
