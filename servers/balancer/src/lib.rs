//! What load balancers decide (numa-l4 3.1.2): a balancer on each node evens out the CPUs of its node;
//! a master above them knows the load of all nodes and says when a node should give a thread away.
//!
//! Load is the number of threads that want to run. Moves within a node come first: they cost no
//! locality. A thread leaves its node only if that makes the busier of two nodes less busy than it was
//! and the other not busier than that, so a thread never goes back and forth; of the candidates one
//! whose task stays active on the node is taken, if possible one whose task is active on the other
//! node already; the last thread of its task on the node only if a CPU there would idle otherwise.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use app_pager::control::ThreadInfo;
use app_pager::ids::TaskId;
use l4abi::{CpuId, NodeId, ThreadId};

/// A thread to move within its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The thread.
    pub thread: ThreadId,
    /// Its task.
    pub task: TaskId,
    /// Where it goes.
    pub to: CpuId,
}

/// The load of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeLoad {
    /// Threads that want to run.
    pub running: u64,
    /// CPUs.
    pub cpus: u64,
}

impl NodeLoad {
    /// The load of `threads` on so many CPUs.
    #[must_use]
    pub fn of(threads: &[ThreadInfo], cpus: usize) -> Self {
        let running = threads.iter().filter(|t| t.runs).count() as u64;
        Self { running, cpus: cpus as u64 }
    }

    /// Whether a thread that goes from here to `other` makes the busier of the two less busy: with one
    /// fewer this node still has at least as many threads for each CPU as the other with one more.
    #[must_use]
    pub const fn should_give(self, other: Self) -> bool {
        self.running > 0
            && other.cpus > 0
            && (self.running - 1) * other.cpus >= (other.running + 1) * self.cpus
    }

    /// Whether a CPU has nothing to do.
    #[must_use]
    pub const fn has_idle_cpu(self) -> bool {
        self.running < self.cpus
    }
}

/// Moves that even out the CPUs of a node: afterwards no CPU has two threads more than another.
#[must_use]
pub fn within_node(cpus: &[CpuId], threads: &[ThreadInfo]) -> Vec<Move> {
    let mut queues: BTreeMap<CpuId, Vec<ThreadInfo>> =
        cpus.iter().map(|&cpu| (cpu, Vec::new())).collect();
    for thread in threads.iter().filter(|t| t.runs) {
        if let Some(queue) = queues.get_mut(&thread.cpu) {
            queue.push(*thread);
        }
    }
    let mut moves = Vec::new();
    loop {
        let busiest = queues.iter().max_by_key(|(_, queue)| queue.len());
        let idlest = queues.iter().min_by_key(|(_, queue)| queue.len());
        let (Some((&from, most)), Some((&to, least))) = (busiest, idlest) else { return moves };
        if most.len() < least.len() + 2 {
            return moves;
        }
        let Some(thread) = queues.get_mut(&from).and_then(Vec::pop) else { return moves };
        queues.entry(to).or_default().push(thread);
        moves.push(Move { thread: thread.thread, task: thread.task, to });
    }
}

/// The thread that a node should give to another, whose load is `to`; `active` says whether a task has
/// threads there.
#[must_use]
pub fn to_give(
    threads: &[ThreadInfo],
    to: NodeLoad,
    active: impl Fn(TaskId) -> bool,
) -> Option<ThreadInfo> {
    let others = |t: &ThreadInfo| threads.iter().filter(|o| o.task == t.task).count() > 1;
    let candidates = threads.iter().filter(|t| t.runs && (others(t) || to.has_idle_cpu()));
    candidates.max_by_key(|t| (others(t), active(t.task))).copied()
}

/// The master: what nodes have reported.
#[derive(Debug, Default)]
pub struct Master {
    loads: BTreeMap<NodeId, NodeLoad>,
}

impl Master {
    /// A node reports its load. Returns the node that it should give a thread to, and that node's load.
    ///
    /// The master counts the thread as moved at once: several nodes that report one after the other
    /// do not all send their threads to the same place.
    pub fn report(&mut self, node: NodeId, load: NodeLoad) -> Option<(NodeId, NodeLoad)> {
        self.loads.insert(node, load);
        let others = self.loads.iter().filter(|(other, _)| **other != node);
        let least = others
            .min_by(|(_, a), (_, b)| (a.running * b.cpus.max(1)).cmp(&(b.running * a.cpus.max(1))));
        let (&to, &other) = least.filter(|(_, other)| load.should_give(**other))?;
        if let Some(load) = self.loads.get_mut(&node) {
            load.running -= 1;
        }
        if let Some(load) = self.loads.get_mut(&to) {
            load.running += 1;
        }
        Some((to, other))
    }
}

/// Joins several looks at the same threads: who wanted to run in at least half of them does.
#[must_use]
pub fn joined(looks: &[Vec<ThreadInfo>]) -> Vec<ThreadInfo> {
    let Some(last) = looks.last() else { return Vec::new() };
    let ran = |thread: ThreadId| {
        let all = looks.iter().flatten().filter(|t| t.thread == thread && t.runs);
        2 * all.count() >= looks.len()
    };
    last.iter().map(|t| ThreadInfo { runs: ran(t.thread), ..*t }).collect()
}
