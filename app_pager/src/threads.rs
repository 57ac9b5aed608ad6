//! Client calls; creation, deletion and migration of threads (numa-l4 4.2.4).
//!
//! Changes of a task's membership are serialized by holding it in the directory. A thread that
//! goes to a node without a space of the task needs a dummy thread there, because only a thread
//! can name a space. The last thread that leaves a node leaves a dummy behind until all pages are
//! unmapped there: the kernel would drop the status bits with the space, and with them the
//! knowledge that a page was written to.

use crate::directory::{DirError, DirOp, MemberChange};
use crate::event::{Action, KernelCall, KernelRefused};
use crate::ids::{Frame, LaneId, NodeSet, PageRange, Who};
use crate::lane::{Job, PageOp, Phase, Wait};
use crate::members::{HoldMembers, MemberView};
use crate::message::{ClientCall, Reply, Request};
use crate::pager::{Out, Pager};
use crate::region::{Policy, Region};
use alloc::vec;
use alloc::vec::Vec;
use l4abi::{CpuId, NodeId, ThreadId};

impl Pager {
    /// The phases of a call.
    pub(crate) fn call_phases(&mut self, lane: LaneId, call: ClientCall) -> Vec<Phase> {
        let me = self.config.node;
        let members = |thread, dest| {
            let dying = call == ClientCall::EndTask;
            vec![Phase::Ask(DirOp::HoldMembers(HoldMembers { thread, dest, dying }))]
        };
        let single = self.config.dir.single_space;
        let valid = |node: NodeId| node.0 < self.config.dir.nodes;
        match call {
            _ if call.range().is_some_and(PageRange::is_reversed) => self.invalid(lane),
            ClientCall::AddRegion(_, Region { policy: Policy::OnNode(node), .. })
                if !valid(node) =>
            {
                self.invalid(lane)
            }
            ClientCall::AddRegion(range, region) => {
                self.done(lane);
                vec![Phase::Ask(DirOp::SetRegion { range, region })]
            }
            ClientCall::MakeLocal(range) => {
                self.done(lane);
                vec![Phase::Ask(DirOp::SetPolicy { range, policy: Policy::NodeLocal })]
            }
            ClientCall::SetPolicy(_, Policy::OnNode(node)) if !valid(node) => self.invalid(lane),
            ClientCall::SetPolicy(range, policy) => {
                let set = Phase::Ask(DirOp::SetPolicy { range, policy });
                let mark = Phase::Pages(range, PageOp::MarkNextTouch);
                if policy == Policy::NextTouch { vec![set, mark] } else { vec![set] }
            }
            ClientCall::AllocOn(range, node) if valid(node) => {
                vec![Phase::Pages(range, PageOp::AllocOn(node))]
            }
            ClientCall::Unmap(range) => vec![Phase::Pages(range, PageOp::Unmap)],
            ClientCall::Discard(range) => vec![Phase::Pages(range, PageOp::Discard)],
            ClientCall::MigratePages(range, node) if valid(node) => {
                vec![Phase::Pages(range, PageOp::Migrate(node))]
            }
            ClientCall::Replicate(_) if single => {
                self.lane(lane).error = Some(DirError::Unsupported);
                Vec::new()
            }
            ClientCall::Replicate(range) => vec![Phase::Pages(range, PageOp::Replicate)],
            ClientCall::Query(page) => vec![Phase::Ask(DirOp::Query { page })],
            ClientCall::Census(node) => vec![Phase::Ask(DirOp::Census { node })],
            ClientCall::CreateThread { .. } | ClientCall::EndTask => members(ThreadId::NIL, me),
            ClientCall::DeleteThread(thread) => members(thread, me),
            ClientCall::MigrateThread { thread, node, .. } if valid(node) => members(thread, node),
            ClientCall::AllocOn(..)
            | ClientCall::MigratePages(..)
            | ClientCall::MigrateThread { .. } => self.invalid(lane),
        }
    }

    fn done(&mut self, lane: LaneId) {
        self.lane(lane).answer = Some(Reply::Done);
    }

    fn invalid(&mut self, lane: LaneId) -> Vec<Phase> {
        self.lane(lane).error = Some(DirError::Invalid);
        Vec::new()
    }

    /// A query found a node-local region.
    pub(crate) fn answer_local(&mut self, lane: LaneId, frame: Option<Frame>) {
        let here = frame.map_or(NodeSet::EMPTY, |f| NodeSet::only(f.node));
        let (frames, mapped, replicated) = (here, here, false);
        self.lane(lane).answer =
            Some(Reply::Placement { frames, frame, mapped, replicated, local: true });
    }

    /// The membership is held, or was changed.
    pub(crate) fn on_members(&mut self, lane: LaneId, view: MemberView) {
        let l = self.lane(lane);
        let first = l.members.is_none();
        l.members = Some(view);
        let Some(Job::Call { call, .. }) = l.job else { return };
        if !first {
            return;
        }
        let planned = match call {
            ClientCall::CreateThread { ip, sp } => self.plan_create(lane, view, ip, sp),
            ClientCall::DeleteThread(thread) => self.plan_delete(lane, view, thread),
            ClientCall::MigrateThread { thread, node, cpu } => {
                self.plan_migrate(lane, view, thread, node, cpu)
            }
            ClientCall::EndTask => Ok(self.plan_end(lane, view)),
            _ => Err(DirError::Invalid),
        };
        let phases = planned.unwrap_or_else(|error| {
            self.lane(lane).error = Some(error);
            vec![release(MemberChange::Keep)]
        });
        self.lane(lane).push_front(phases);
    }

    fn plan_create(
        &mut self,
        lane: LaneId,
        view: MemberView,
        ip: u64,
        sp: u64,
    ) -> Result<Vec<Phase>, DirError> {
        let task = self.lane(lane).task;
        // The caller itself lives here, unless a balancer moved it away meanwhile.
        let peer = view.dest_peer.ok_or(DirError::NoThread)?;
        let thread = self.ids.take().ok_or(DirError::NoMemory)?;
        self.lane(lane).created = Some(thread);
        self.lane(lane).answer = Some(Reply::Thread(thread));
        let put = MemberChange::Put(thread, self.config.node);
        let create = KernelCall::CreateThread { task, thread, peer, ip, sp };
        Ok(vec![Phase::Adopt(thread), Phase::Kernel(create), release(put)])
    }

    fn plan_delete(
        &mut self,
        lane: LaneId,
        view: MemberView,
        thread: ThreadId,
    ) -> Result<Vec<Phase>, DirError> {
        let task = self.lane(lane).task;
        let from = view.at.ok_or(DirError::NoThread)?;
        let rest = view.active.without(from);
        if view.peer.is_none() && rest.is_empty() {
            // The last thread of all: the task itself has to be ended.
            return Err(DirError::InUse);
        }
        self.done(lane);
        let leaves = view.peer.is_none() && !self.config.dir.single_space;
        let keep = leaves.then_some(thread);
        let mut phases = vec![
            Phase::Send(from, Request::Depart { task, thread, keep }),
            Phase::Kernel(KernelCall::DeleteThread { task, thread }),
            Phase::Members(MemberChange::Remove(thread), false),
        ];
        if leaves {
            phases.extend(self.leave_phases(lane, from, rest));
        }
        phases.extend(self.free_number(thread));
        phases.push(release(MemberChange::Keep));
        Ok(phases)
    }

    fn plan_migrate(
        &mut self,
        lane: LaneId,
        view: MemberView,
        thread: ThreadId,
        node: NodeId,
        cpu: CpuId,
    ) -> Result<Vec<Phase>, DirError> {
        let (task, master) = (self.lane(lane).task, self.lane(lane).dir_at);
        let from = view.at.ok_or(DirError::NoThread)?;
        self.done(lane);
        let moves = Phase::Move { thread, cpu, node };
        if from == node {
            return Ok(vec![moves, release(MemberChange::Keep)]);
        }
        let single = self.config.dir.single_space;
        let new_space = view.dest_peer.is_none() && !single;
        let leaves = view.peer.is_none() && !single;
        let keep = leaves.then_some(thread);
        self.lane(lane).peer = view.dest_peer.filter(|_| !single);
        let mut phases = vec![
            Phase::Send(node, Request::Enter { task, master, thread, new_space }),
            Phase::Send(from, Request::Depart { task, thread, keep }),
            moves,
            Phase::Members(MemberChange::Put(thread, node), false),
        ];
        if new_space {
            phases.push(Phase::Send(node, Request::DropDummy { task }));
        }
        if leaves {
            phases.extend(self.leave_phases(lane, from, view.active.without(from).with(node)));
        }
        phases.push(release(MemberChange::Keep));
        Ok(phases)
    }

    /// The task leaves `node` and stays active on `rest`: unmaps its pages there, then gives the
    /// space up; a master that is left gives the directory to a node where the task is active (the
    /// thesis leaves this out, numa-l4 4.2.4).
    fn leave_phases(&mut self, lane: LaneId, node: NodeId, rest: NodeSet) -> Vec<Phase> {
        let (task, master) = (self.lane(lane).task, self.lane(lane).dir_at);
        let mut phases = vec![
            Phase::Pages(PageRange::ALL, PageOp::Vacate(node)),
            Phase::Send(node, Request::Leave { task }),
        ];
        if let (true, Some(to)) = (master == node, rest.iter().next()) {
            phases.push(Phase::Ask(DirOp::HandOver { to }));
        }
        phases
    }

    fn plan_end(&mut self, lane: LaneId, view: MemberView) -> Vec<Phase> {
        let task = self.lane(lane).task;
        self.done(lane);
        vec![
            Phase::KillAll,
            Phase::Pages(PageRange::ALL, PageOp::Discard),
            Phase::SendAll(view.visited, Request::Forget { task }),
            Phase::Ask(DirOp::Destroy),
        ]
    }

    pub(crate) fn begin_kill_all(&mut self, lane: LaneId) {
        let task = self.lane(lane).task;
        let first = self.lane(lane).members.and_then(|view| view.first);
        let Some((thread, _)) = first else { return };
        let mut phases = vec![
            Phase::Kernel(KernelCall::DeleteThread { task, thread }),
            Phase::Members(MemberChange::Remove(thread), false),
        ];
        phases.extend(self.free_number(thread));
        phases.push(Phase::KillAll);
        self.lane(lane).push_front(phases);
    }

    fn free_number(&self, thread: ThreadId) -> Option<Phase> {
        let owner = self.config.numbers.owner(thread).filter(|n| n.0 < self.config.dir.nodes)?;
        Some(Phase::Send(owner, Request::FreeThread { thread }))
    }

    pub(crate) fn begin_move(
        &mut self,
        lane: LaneId,
        thread: ThreadId,
        cpu: CpuId,
        node: NodeId,
        out: &mut Out,
    ) {
        let l = self.lane(lane);
        let call = KernelCall::MoveThread { task: l.task, thread, peer: l.peer, cpu, node };
        l.wait = Wait::Kernel(call);
        out.push(Action::Kernel { who: Who::Lane(lane), call });
    }

    pub(crate) fn on_kernel_done(
        &mut self,
        lane: LaneId,
        result: Result<(), KernelRefused>,
        out: &mut Out,
    ) {
        let Some(Wait::Kernel(call)) = self.lane_ref(lane).map(|l| l.wait.clone()) else { return };
        self.lane(lane).wait = Wait::Nothing;
        if result.is_err() {
            match call {
                KernelCall::MoveThread { thread, node, .. } => self.undo_move(lane, thread, node),
                KernelCall::CreateThread { thread, .. } => {
                    self.threads.remove(&thread);
                    self.ids.give_back(thread);
                    self.give_up(lane, Vec::new());
                }
                // A thread that cannot be deleted is gone.
                _ => {}
            }
        }
        self.run(lane, out);
    }

    /// The kernel refused to move the thread: everything is as before.
    fn undo_move(&mut self, lane: LaneId, thread: ThreadId, node: NodeId) {
        let (task, master) = (self.lane(lane).task, self.lane(lane).dir_at);
        let Some(view) = self.lane(lane).members else { return };
        let Some(from) = view.at.filter(|&from| from != node) else {
            return self.give_up(lane, Vec::new());
        };
        self.give_up(
            lane,
            vec![
                Phase::Send(node, Request::Depart { task, thread, keep: None }),
                Phase::Send(node, Request::DropDummy { task }),
                Phase::Send(from, Request::Enter { task, master, thread, new_space: false }),
                Phase::Send(from, Request::DropDummy { task }),
            ],
        );
    }

    /// A worker could not do its part of a change of membership.
    pub(crate) fn on_member_step_failed(&mut self, lane: LaneId, _from: NodeId) {
        match self.lane(lane).job {
            Some(Job::Call { call: ClientCall::MigrateThread { thread, node, .. }, .. }) => {
                self.undo_move(lane, thread, node);
            }
            // The dummy that keeps a space could not be made: the thread lives on.
            Some(Job::Call { call: ClientCall::DeleteThread(thread), .. }) => {
                let (task, master) = (self.lane(lane).task, self.lane(lane).dir_at);
                let at = self.lane(lane).members.and_then(|v| v.at);
                let enter = Request::Enter { task, master, thread, new_space: false };
                self.give_up(lane, at.map(|n| Phase::Send(n, enter)).into_iter().collect());
            }
            _ => {}
        }
    }

    /// Reports that memory is short and lets the membership go, after `undo`.
    fn give_up(&mut self, lane: LaneId, undo: Vec<Phase>) {
        let l = self.lane(lane);
        l.error = Some(DirError::NoMemory);
        l.phases = undo.into();
        l.phases.push_back(release(MemberChange::Keep));
    }
}

const fn release(change: MemberChange) -> Phase {
    Phase::Members(change, true)
}
