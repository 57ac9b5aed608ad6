//! The threads of a task and the nodes they are on (numa-l4 4.2.1, "Required Data Structures").
//!
//! The thesis copies thread lists to every pager where the task is active and updates them there
//! through remote memory. Here they exist once, in the directory: only changes of membership need
//! the complete view, and those are serialized by holding the membership.

use crate::directory::{DirError, MemberChange, Outcome, Wakes};
use crate::ids::{Caller, NodeSet};
use alloc::collections::{BTreeMap, VecDeque};
use l4abi::{NodeId, ThreadId};

/// The membership of a task.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Members {
    /// Node of each thread.
    pub threads: BTreeMap<ThreadId, NodeId>,
    /// Nodes where the task ever had threads: their pagers may keep node-local frames of it.
    pub visited: NodeSet,
    /// The task ends: nothing new starts.
    pub dying: bool,
    /// Who changes it.
    pub holder: Option<Caller>,
    /// Who wants to.
    pub waiters: VecDeque<Caller>,
}

/// A request to hold the membership.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HoldMembers {
    /// The thread to change, or nil.
    pub thread: ThreadId,
    /// Where it goes.
    pub dest: NodeId,
    /// The task ends: nothing new may be started in it.
    pub dying: bool,
}

/// The part of the membership that a change has to know. It fits a message, whatever the size of
/// the task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemberView {
    /// Node of the thread asked about.
    pub at: Option<NodeId>,
    /// Another thread on that node; `None` if the thread is the last there.
    pub peer: Option<ThreadId>,
    /// Another thread on the destination; `None` if the task has no space there yet.
    pub dest_peer: Option<ThreadId>,
    /// The first of all threads of the task.
    pub first: Option<(ThreadId, NodeId)>,
    /// Nodes with threads.
    pub active: NodeSet,
    /// Nodes that ever had threads.
    pub visited: NodeSet,
}

impl Members {
    /// Number of threads on `node`.
    #[must_use]
    pub fn count(&self, node: NodeId) -> usize {
        self.threads.values().filter(|&&n| n == node).count()
    }

    /// Nodes with at least one thread.
    #[must_use]
    pub fn active(&self) -> NodeSet {
        self.threads.values().copied().collect()
    }

    /// A thread on `node` other than `but`: it names the task's space there.
    #[must_use]
    pub fn other_on(&self, node: NodeId, but: ThreadId) -> Option<ThreadId> {
        self.threads.iter().find(|&(&t, &n)| n == node && t != but).map(|(&t, _)| t)
    }

    /// What a change of `thread`, maybe to node `dest`, has to know.
    #[must_use]
    pub fn view(&self, thread: ThreadId, dest: NodeId) -> MemberView {
        let at = self.threads.get(&thread).copied();
        MemberView {
            at,
            peer: at.and_then(|node| self.other_on(node, thread)),
            dest_peer: self.other_on(dest, thread),
            first: self.threads.first_key_value().map(|(&t, &n)| (t, n)),
            active: self.active(),
            visited: self.visited,
        }
    }

    pub(crate) fn hold(&mut self, by: Caller, ask: HoldMembers) -> Outcome {
        if self.dying {
            return Outcome::Refused(DirError::NoTask);
        }
        if self.holder.is_some() {
            self.waiters.push_back(by);
            return Outcome::Queued;
        }
        self.holder = Some(by);
        self.dying = ask.dying;
        Outcome::Members(self.view(ask.thread, ask.dest))
    }

    pub(crate) fn commit(
        &mut self,
        by: Caller,
        change: MemberChange,
        release: bool,
        wakes: &mut Wakes,
    ) -> Outcome {
        if self.holder != Some(by) {
            return Outcome::Refused(DirError::Invalid);
        }
        match change {
            MemberChange::Keep => {}
            MemberChange::Put(thread, node) => {
                self.threads.insert(thread, node);
                self.visited = self.visited.with(node);
            }
            MemberChange::Remove(thread) => {
                self.threads.remove(&thread);
            }
        }
        if release {
            self.holder = None;
            wakes.extend(self.waiters.drain(..));
        }
        Outcome::Members(self.view(ThreadId::NIL, by.node))
    }
}
