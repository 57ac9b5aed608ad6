//! The kernel and the memory as the pagers see them: spaces, mappings with status bits, frames
//! with contents, threads with places.

use app_pager::event::KernelCall;
use app_pager::ids::{Frame, NodeSet, PageNo, Status, TaskId};
use l4abi::{NodeId, Rights, ThreadId};
use std::collections::{BTreeMap, BTreeSet};

pub type SpaceId = (TaskId, NodeId);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mapping {
    pub frame: Frame,
    pub rights: Rights,
    /// Whose spaces it derives from: an unmap by any of these pagers removes it.
    pub by: NodeSet,
    pub status: Status,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Hardware {
    pub single_space: bool,
    pub spaces: BTreeMap<SpaceId, BTreeSet<ThreadId>>,
    pub maps: BTreeMap<(SpaceId, PageNo), Mapping>,
    pub memory: BTreeMap<Frame, u8>,
    pub threads: BTreeMap<ThreadId, (SpaceId, NodeId)>,
}

impl Hardware {
    pub fn space(&self, task: TaskId, node: NodeId) -> SpaceId {
        (task, if self.single_space { NodeId(0) } else { node })
    }

    pub fn add_thread(&mut self, thread: ThreadId, task: TaskId, node: NodeId) {
        let space = self.space(task, node);
        self.spaces.entry(space).or_default().insert(thread);
        self.threads.insert(thread, (space, node));
    }

    /// A mapping arrives. Another frame may not be at the place: the status bits would be lost.
    pub fn map(
        &mut self,
        space: SpaceId,
        page: PageNo,
        frame: Frame,
        rights: Rights,
        by: NodeId,
    ) -> Result<(), &'static str> {
        let by = NodeSet::only(by);
        let fresh = Mapping { frame, rights, by, status: Status::empty() };
        let at = self.maps.entry((space, page)).or_insert(fresh);
        if at.frame != frame {
            return Err("a mapping was replaced by one of another frame");
        }
        at.rights |= rights;
        at.by = at.by.union(by);
        Ok(())
    }

    /// Removes what `by` (or anybody, for the root pager) mapped of `frame`.
    pub fn unmap(&mut self, frame: Frame, by: Option<NodeId>) -> Status {
        let mut status = Status::empty();
        self.maps.retain(|_, m| {
            let goes = m.frame == frame && by.is_none_or(|node| m.by.contains(node));
            if goes {
                status |= m.status;
            }
            !goes
        });
        status
    }

    fn leave_space(&mut self, thread: ThreadId) {
        let Some((space, _)) = self.threads.remove(&thread) else { return };
        let members = self.spaces.get_mut(&space).expect("threads have spaces");
        members.remove(&thread);
        if members.is_empty() {
            self.spaces.remove(&space);
            self.maps.retain(|&(s, _), _| s != space);
        }
    }

    /// Performs a call of the pager of node `at`.
    pub fn kernel(&mut self, call: KernelCall, at: NodeId) -> Result<(), &'static str> {
        match call {
            KernelCall::CreateSpace { task, dummy } => {
                if self.spaces.contains_key(&self.space(task, at)) {
                    return Err("a second space of a task on a node");
                }
                self.add_thread(dummy, task, at);
            }
            KernelCall::CreateDummy { task, dummy, peer }
            | KernelCall::CreateThread { task, thread: dummy, peer, .. } => {
                let &(space, node) = self.threads.get(&peer).ok_or("peer does not exist")?;
                if space.0 != task {
                    return Err("peer is of another task");
                }
                self.add_thread(dummy, task, node);
            }
            KernelCall::MoveThread { thread, peer, node, .. } => {
                let Some(&(space, _)) = self.threads.get(&thread) else {
                    return Err("the thread to move does not exist");
                };
                let to = match peer {
                    Some(peer) => self.threads.get(&peer).ok_or("peer does not exist")?.0,
                    None => space,
                };
                if to != space {
                    self.leave_space(thread);
                    self.spaces.get_mut(&to).ok_or("space does not exist")?.insert(thread);
                }
                if !self.single_space && to.1 != node {
                    return Err("a thread runs on another node than its space");
                }
                self.threads.insert(thread, (to, node));
            }
            KernelCall::DeleteThread { thread, .. } => {
                if !self.threads.contains_key(&thread) {
                    return Err("the thread to delete does not exist");
                }
                self.leave_space(thread);
            }
        }
        Ok(())
    }
}
