//! The switches of a pager: the experiments' systems are configurations of one machine.

use crate::directory::DirConfig;
use alloc::vec::Vec;
use l4abi::{NodeId, ThreadId, ThreadNo};

/// How a pager reaches the directory at another node (numa-l4 3.2.3, "Synchronization").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Establish {
    /// It takes the directory's lock and works on the master's memory.
    Shared,
    /// It asks the master's worker by IPC.
    Messages,
}

/// How a page is unmapped from all nodes (A12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnmapVariant {
    /// All pagers concerned are told, then all confirmations awaited.
    Parallel,
    /// One pager is told and awaited after the other.
    OneByOne,
    /// The root pager unmaps from everybody, pagers included (numa-l4 3.2.3, possibility 2).
    Root,
}

/// What happens when a node has no free frame and the page belongs there by a fault's policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exhausted {
    /// The fault is refused.
    Error,
    /// Another node helps out, in the order of [`PagerConfig::neighbours`].
    OtherNode,
}

/// Switches of the whole system, as the root task passes them to each pager in one word.
pub mod switches {
    /// One pager for all CPUs, memory of node 0 only.
    pub const FLAT: u64 = 1;
    /// One space per task.
    pub const SINGLE: u64 = 1 << 1;
    /// An exhausted node is an error.
    pub const STRICT: u64 = 1 << 2;
    /// Directories are reached by IPC.
    pub const MESSAGES: u64 = 1 << 3;
    /// Pagers are told of an unmap one after the other.
    pub const ONE_BY_ONE: u64 = 1 << 4;
    /// The root task unmaps.
    pub const ROOT: u64 = 1 << 5;
    /// All pagers where the task is active are told.
    pub const ACTIVE: u64 = 1 << 6;
}

/// The thread numbers that pagers give to threads: `per_node` of them for each node from `base` on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ThreadNumbers {
    /// First number of node 0.
    pub base: u32,
    /// Numbers for each node.
    pub per_node: u32,
}

impl ThreadNumbers {
    /// The node whose pager owns `thread`'s number.
    #[must_use]
    pub fn owner(self, thread: ThreadId) -> Option<NodeId> {
        let offset = thread.number().0.checked_sub(self.base)?;
        let node = offset.checked_div(self.per_node)?;
        u8::try_from(node).ok().map(NodeId)
    }

    /// The numbers of `node`.
    #[must_use]
    pub fn of(self, node: NodeId) -> impl DoubleEndedIterator<Item = ThreadNo> {
        let first = self.base + u32::from(node.0) * self.per_node;
        (first..first + self.per_node).map(ThreadNo)
    }
}

/// Configuration of one pager.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PagerConfig {
    /// Its node.
    pub node: NodeId,
    /// Number of its threads, one per CPU.
    pub lanes: u8,
    /// Frames of its pool.
    pub frames: u32,
    /// What all pagers have alike.
    pub dir: DirConfig,
    /// How directories are reached.
    pub establish: Establish,
    /// How pages are unmapped.
    pub unmap: UnmapVariant,
    /// What a fault does on an exhausted node.
    pub exhausted: Exhausted,
    /// The other nodes, nearest first.
    pub neighbours: Vec<NodeId>,
    /// Threads that may act for any task (the load balancers, the supervisor).
    pub balancers: Vec<ThreadId>,
    /// Thread numbers.
    pub numbers: ThreadNumbers,
    /// Pages that one call works on, about: then others are served.
    pub part: u64,
}

/// [`PagerConfig::part`] where nothing else is wanted.
const PART: u64 = 256;

impl PagerConfig {
    /// The thesis' system on node `node` of `nodes`: shared directories, parallel unmap.
    #[must_use]
    pub fn numa(node: NodeId, nodes: u8, frames: u32) -> Self {
        Self {
            node,
            lanes: 1,
            frames,
            dir: DirConfig { nodes, single_space: false, hold_faults: false, notify_active: false },
            establish: Establish::Shared,
            unmap: UnmapVariant::Parallel,
            exhausted: Exhausted::OtherNode,
            neighbours: (0..nodes).map(NodeId).filter(|&n| n != node).collect(),
            balancers: Vec::new(),
            numbers: ThreadNumbers { base: 1024, per_node: 256 },
            part: PART,
        }
    }

    /// `numa=flat`: one logical pager with `lanes` threads, memory of node 0, one space per task.
    #[must_use]
    pub fn flat(lanes: u8, frames: u32) -> Self {
        Self { lanes, ..Self::numa(NodeId(0), 1, frames) }
    }

    /// The system that the [`switches`] describe.
    #[must_use]
    pub fn with_switches(mut self, word: u64) -> Self {
        let is = |switch| word & switch != 0;
        if is(switches::STRICT) {
            self.exhausted = Exhausted::Error;
        }
        if is(switches::MESSAGES) {
            self = self.with_establish(Establish::Messages);
        }
        if is(switches::ONE_BY_ONE) {
            self = self.with_unmap(UnmapVariant::OneByOne);
        }
        if is(switches::ROOT) {
            self = self.with_unmap(UnmapVariant::Root);
        }
        if is(switches::ACTIVE) {
            self = self.notifying_active();
        }
        if is(switches::SINGLE) { self.single_space() } else { self }
    }

    /// `spaces=single`: pagers and pools per node, but one space per task (A11).
    #[must_use]
    pub fn single_space(mut self) -> Self {
        self.dir.single_space = true;
        self
    }

    /// The same with another way to unmap.
    #[must_use]
    pub fn with_unmap(mut self, unmap: UnmapVariant) -> Self {
        self.unmap = unmap;
        self.dir.hold_faults = unmap == UnmapVariant::Root;
        self
    }

    /// The same, telling all pagers where the task is active of each page operation.
    #[must_use]
    pub const fn notifying_active(mut self) -> Self {
        self.dir.notify_active = true;
        self
    }

    /// The same with another way to reach directories.
    #[must_use]
    pub const fn with_establish(mut self, establish: Establish) -> Self {
        self.establish = establish;
        self
    }
}
