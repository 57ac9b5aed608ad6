//! Numbers and addresses that the root task, the pagers and their clients agree on
//! (`docs/design/os.md`).

use crate::config::ThreadNumbers;
use crate::ids::{Frame, PAGE_LOG2};
use l4abi::id::{MAX_CPUS, MAX_NODES};
use l4abi::{CpuId, NodeId, ThreadId, ThreadNo};

/// Where all pagers have the pool of node 0: all pools at the same addresses everywhere
/// (numa-l4 4.2.1).
pub const POOL_BASE: u64 = 0x20_0000_0000;
/// Distance from a node's pool to the next node's.
pub const POOL_STRIDE: u64 = 0x10_0000_0000;
/// Boot modules are at this address plus their physical one, in all pagers.
pub const MODULE_BASE: u64 = 0x18_0000_0000;
/// UTCB area of every space of a task: base and log2 of the size. A thread's place in it follows from
/// its number, so that it keeps it wherever it goes (numa-l4 4.2.4).
pub const UTCB_AREA: (u64, u8) = (0x4000_0000, 24);
/// KIP area of every space of a task.
pub const KIP_AREA: u64 = 0x5000_0000;
/// Memory for the heap of a task: base and size.
pub const HEAP: (u64, u64) = (0x1000_0000, 0x40_0000);
/// Most lanes of a pager; the worker's number follows.
pub const MAX_LANES: u8 = 63;
/// Thread numbers of a node's pager to give to threads.
pub const THREADS_PER_NODE: u32 = 256;

/// Most threads of a program without application pager.
pub const PLAIN_THREADS: u32 = 16;

/// Numbers of system call servers.
const CPU_NUMBERS: u32 = MAX_CPUS as u32;
/// Numbers of starters, and blocks of numbers of pagers.
const NODE_NUMBERS: u32 = MAX_NODES as u32;

/// The address of a frame in every pager.
#[must_use]
pub const fn frame_address(frame: Frame) -> u64 {
    POOL_BASE + frame.node.0 as u64 * POOL_STRIDE + ((frame.index as u64) << PAGE_LOG2)
}

/// The thread numbers of the system, from the first one that the root task does not use itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    /// The first number.
    pub base: u32,
}

impl Numbers {
    /// All threads of the system itself have version 1.
    const fn id(number: u32) -> ThreadId {
        ThreadId::global(ThreadNo(number), 1)
    }

    /// The system call server of a CPU.
    #[must_use]
    pub const fn server(self, cpu: CpuId) -> ThreadId {
        Self::id(self.base + cpu.0 as u32)
    }

    /// The root task's worker thread that starts the pager of a node.
    #[must_use]
    pub const fn starter(self, node: NodeId) -> ThreadId {
        Self::id(self.base + CPU_NUMBERS + node.0 as u32)
    }

    /// A lane of a node's pager.
    #[must_use]
    pub const fn lane(self, node: NodeId, lane: u8) -> ThreadId {
        let block = self.base + CPU_NUMBERS + NODE_NUMBERS;
        Self::id(block + node.0 as u32 * (MAX_LANES as u32 + 1) + lane as u32)
    }

    /// The worker of a node's pager.
    #[must_use]
    pub const fn worker(self, node: NodeId) -> ThreadId {
        self.lane(node, MAX_LANES)
    }

    /// The pager, of this many, that a thread belongs to.
    #[must_use]
    pub fn pager_of(self, thread: ThreadId, nodes: u8) -> Option<NodeId> {
        let offset = thread.number().0.checked_sub(self.base + CPU_NUMBERS + NODE_NUMBERS)?;
        let node = offset / (u32::from(MAX_LANES) + 1);
        (node < u32::from(nodes)).then_some(NodeId(node as u8))
    }

    /// The numbers of tasks' threads.
    #[must_use]
    pub const fn tasks(self) -> ThreadNumbers {
        let base = self.lane(NodeId(MAX_NODES as u8), 0).number().0;
        ThreadNumbers { base, per_node: THREADS_PER_NODE }
    }

    /// Thread number `thread` of program `index`, which has no pager but the root task.
    #[must_use]
    pub const fn plain(self, index: u32, thread: u32) -> ThreadId {
        let first = self.tasks().base + NODE_NUMBERS * THREADS_PER_NODE;
        Self::id(first + index * PLAIN_THREADS + thread)
    }

    /// Where the UTCB of a task's thread is.
    #[must_use]
    pub fn utcb_of(self, thread: ThreadId) -> u64 {
        let slot = thread.number().0.wrapping_sub(self.tasks().base);
        UTCB_AREA.0 + u64::from(slot) * l4abi::utcb::UTCB_SIZE as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_overlap() {
        let n = Numbers { base: 100 };
        let mut all: alloc::vec::Vec<u32> =
            (0..256).map(|c| n.server(CpuId(c)).number().0).collect();
        all.extend((0..64).map(|i| n.starter(NodeId(i)).number().0));
        for node in 0..64 {
            all.extend((0..=MAX_LANES).map(|l| n.lane(NodeId(node), l).number().0));
            all.extend(n.tasks().of(NodeId(node)).map(|t| t.0));
        }
        all.extend((0..PLAIN_THREADS).map(|thread| n.plain(0, thread).number().0));
        all.push(n.plain(1, 0).number().0);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(all.last().map(|l| l + 1 - 100), Some(count as u32));
        assert!(*all.last().unwrap() < 1 << 18);
        assert_eq!(n.pager_of(n.worker(NodeId(3)), 4), Some(NodeId(3)));
        assert_eq!(n.pager_of(n.worker(NodeId(4)), 4), None);
        assert_eq!(n.pager_of(n.server(CpuId(0)), 4), None);
    }

    #[test]
    fn every_thread_has_a_utcb() {
        let n = Numbers { base: 60 };
        let last = n.tasks().of(NodeId(63)).next_back().unwrap();
        let end = n.utcb_of(ThreadId::global(last, 1)) + l4abi::utcb::UTCB_SIZE as u64;
        assert_eq!(end, UTCB_AREA.0 + (1 << UTCB_AREA.1));
    }
}
