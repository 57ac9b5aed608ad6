//! The machine of one pager: events in, actions out.
//!
//! All threads of the pager step the one machine under the pager's own lock, which nobody holds
//! while waiting for anything.

use crate::config::{Establish, PagerConfig};
use crate::directory::{DirError, DirOp, Directory, Outcome};
use crate::event::{Action, Event};
use crate::ids::{Caller, Frame, LaneId, PageNo, TaskId, Who};
use crate::lane::{Job, Lane, Phase, Wait};
use crate::message::{ClientCall, Confirm, Reply, Request};
use crate::numbers::IdPool;
use crate::pageset::PageSet;
use crate::pool::NodePool;
use crate::store::{Slot, SlotOutcome};
use crate::task::TaskRecord;
use crate::worker::WorkerJob;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use l4abi::{NodeId, Rights, ThreadId};

/// A revocation that waits for a mapping on its way to a thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Deferred {
    pub who: Who,
    pub task: TaskId,
    pub pages: PageSet,
}

/// A thread that departs, and who waits for its last fault to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Departure {
    pub thread: ThreadId,
    pub caller: Caller,
}

/// The pager of a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pager {
    pub(crate) config: PagerConfig,
    pub(crate) pool: NodePool,
    pub(crate) ids: IdPool,
    pub(crate) tasks: BTreeMap<TaskId, TaskRecord>,
    pub(crate) threads: BTreeMap<ThreadId, TaskId>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) worker: Option<WorkerJob>,
    pub(crate) deferred: Vec<Deferred>,
    pub(crate) departures: Vec<Departure>,
    /// Tasks whose threads may act for any task.
    pub(crate) balancing: Vec<TaskId>,
}

/// Where actions go.
pub type Out = Vec<Action>;

/// Clean frames that a pager thread sets apart, and in how many parts a pool must be larger than that.
const STOCK: usize = 16;
const SMALL: usize = 256;

impl Pager {
    /// A pager without tasks.
    #[must_use]
    pub fn new(config: PagerConfig) -> Self {
        Self {
            pool: NodePool::new(config.node, config.frames)
                .with_stocks(config.lanes, STOCK.min(config.frames as usize / SMALL)),
            ids: IdPool::new(config.numbers, config.node),
            tasks: BTreeMap::new(),
            threads: BTreeMap::new(),
            lanes: (0..config.lanes).map(|_| Lane::default()).collect(),
            worker: None,
            deferred: Vec::new(),
            departures: Vec::new(),
            balancing: Vec::new(),
            config,
        }
    }

    /// Makes this pager the first one of a task whose first thread, `thread`, is on this node. The
    /// directory goes to the node that the task's id names: this one, or another by turns.
    /// Gives `None` if the id is in use here.
    pub fn start_task(&mut self, mut directory: Directory, thread: ThreadId) -> Option<Action> {
        let task = directory.task;
        if self.tasks.contains_key(&task) || self.threads.contains_key(&thread) {
            return None;
        }
        directory.members.threads.insert(thread, self.config.node);
        directory.members.visited = directory.members.visited.with(self.config.node);
        self.tasks.insert(task, TaskRecord::new(task.home()));
        self.threads.insert(thread, task);
        Some(Action::Place { at: task.home(), directory: Box::new(directory) })
    }

    /// A frame for a task that is going to start here (`Directory::preload`).
    pub fn take_frame(&mut self) -> Option<Frame> {
        self.pool.alloc().map(|taken| taken.frame)
    }

    /// Serves the faults of `thread` of a task that other pagers have started.
    pub fn join_task(&mut self, task: TaskId, thread: ThreadId) {
        self.tasks.entry(task).or_insert_with(|| TaskRecord::new(task.home()));
        self.threads.insert(thread, task);
    }

    /// Lets `thread` act for any task.
    pub fn add_balancer(&mut self, thread: ThreadId) {
        self.config.balancers.push(thread);
    }

    /// Lets all threads of `task` act for any task, or ends that.
    pub fn designate(&mut self, task: TaskId, balances: bool) {
        self.balancing.retain(|&other| other != task);
        if balances {
            self.balancing.push(task);
        }
    }

    /// Whether `thread` may act for any task.
    #[must_use]
    pub fn may_balance(&self, thread: ThreadId) -> bool {
        let own = self.threads.get(&thread);
        self.config.balancers.contains(&thread) || own.is_some_and(|t| self.balancing.contains(t))
    }

    /// The threads whose faults come here, with ids above `after`, in ascending order.
    pub fn threads_after(&self, after: ThreadId) -> impl Iterator<Item = (ThreadId, TaskId)> {
        let range = (core::ops::Bound::Excluded(after), core::ops::Bound::Unbounded);
        self.threads.range(range).map(|(&thread, &task)| (thread, task))
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &PagerConfig {
        &self.config
    }

    /// Whether a lane waits for requests.
    #[must_use]
    pub fn lane_is_idle(&self, lane: LaneId) -> bool {
        self.is_idle(lane)
    }

    /// Number of requests that a lane has sent to workers and that are not yet confirmed.
    #[must_use]
    pub fn requests_open(&self, lane: LaneId) -> u32 {
        match self.lane_ref(lane).map(|l| (&l.wait, &l.held)) {
            Some((Wait::Gather { pending, .. }, _)) => *pending,
            _ => 0,
        }
    }

    /// Whether the worker serves a request.
    #[must_use]
    pub const fn worker_is_busy(&self) -> bool {
        self.worker.is_some()
    }

    /// Whether nothing is being done or waited for.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let idle = self.lanes.iter().all(Lane::is_idle) && self.worker.is_none();
        idle && self.deferred.is_empty() && self.departures.is_empty()
    }

    /// Whether `frame` is of this node and not free.
    #[must_use]
    pub fn owns(&self, frame: Frame) -> bool {
        self.pool.is_used(frame)
    }

    /// Number of frames of this node that are not free.
    #[must_use]
    pub fn frames_used(&self) -> usize {
        self.pool.used()
    }

    /// The frames of node-local pages.
    pub fn local_frames(&self) -> impl Iterator<Item = Frame> {
        self.tasks.values().flat_map(|t| t.locals.values().copied())
    }

    /// The task of a thread whose faults come here.
    #[must_use]
    pub fn task_of(&self, thread: ThreadId) -> Option<TaskId> {
        self.threads.get(&thread).copied()
    }

    /// A fresh thread id of this node.
    pub fn take_thread_id(&mut self) -> Option<ThreadId> {
        self.ids.take()
    }

    /// One step.
    ///
    /// Events that make no sense in the present state (a request to a busy worker, an answer that
    /// nobody waits for) are ignored: other pagers are trusted, but a fault must not become a panic.
    pub fn handle(&mut self, event: Event, out: &mut Out) {
        match event {
            Event::Fault { lane, thread, page, access } => {
                if self.is_idle(lane) {
                    self.on_fault(lane, thread, page, access, out);
                }
            }
            Event::Call { lane, thread, task, call } => {
                if self.is_idle(lane) {
                    self.on_call(lane, thread, task, call, out);
                }
            }
            Event::Request { from, request } => self.on_request(from, request, out),
            Event::Confirmed { lane, from, confirm } => self.on_confirmed(lane, from, confirm, out),
            Event::Gathered { lane, count, status } => {
                self.note_status(lane, status);
                for _ in 0..count {
                    self.gathered_one(lane, out);
                }
            }
            Event::Woken(lane) => {
                if let Some(Wait::Directory(op)) = self.lane_ref(lane).map(|l| l.wait.clone()) {
                    self.lane(lane).stale = false;
                    self.ask(lane, op, out);
                }
            }
            Event::Mapped(lane) => self.on_mapped(lane, out),
            Event::Unmapped(who, status) => self.on_unmapped(who, status, out),
            Event::RootUnmapped(lane, status) => self.on_revoked(lane, status, out),
            Event::Cleared(who, frames) => self.on_cleared(who, &frames, out),
            Event::Filled(Who::Worker) => self.worker_filled(out),
            Event::Filled(Who::Lane(lane)) => self.resume_if(lane, &Wait::Fill, out),
            Event::KernelDone(Who::Worker, result) => self.worker_kernel_done(result, out),
            Event::KernelDone(Who::Lane(lane), result) => self.on_kernel_done(lane, result, out),
        }
    }

    /// Performs the operation for which `who` asked for the directory's lock.
    pub fn with_directory(&mut self, who: Who, slot: &mut Slot, out: &mut Out) {
        let (by, task, op) = match (who, &self.worker) {
            (Who::Worker, Some(job)) => match &job.request {
                Request::Dir { task, op } => (job.caller, *task, op),
                _ => return,
            },
            (Who::Worker, None) => return,
            (Who::Lane(lane), _) => match self.lane_ref(lane) {
                Some(Lane { wait: Wait::Directory(op), task, .. }) => {
                    (Caller { node: self.config.node, lane }, *task, op)
                }
                _ => return,
            },
        };
        let mut wakes = Vec::new();
        let outcome = slot.apply(self.config.dir, by, op, &mut wakes);
        let answer = match outcome {
            SlotOutcome::Answer(outcome) => Ok(outcome),
            SlotOutcome::Moved(to) => Err(to),
            SlotOutcome::Place(to, mut directory) => {
                directory.task = task;
                out.push(Action::Place { at: to, directory });
                Ok(Outcome::Done)
            }
        };
        match (who, answer) {
            (Who::Lane(lane), Ok(outcome)) => self.on_outcome(lane, outcome, out),
            (Who::Lane(lane), Err(to)) => self.follow(lane, to, out),
            (Who::Worker, answer) => self.worker_answers(answer, out),
        }
        out.extend(wakes.into_iter().map(|to| Action::Wake { to }));
    }

    pub(crate) fn lane_ref(&self, lane: LaneId) -> Option<&Lane> {
        self.lanes.get(usize::from(lane.0))
    }

    /// The lane; callers have checked that it exists.
    pub(crate) fn lane(&mut self, lane: LaneId) -> &mut Lane {
        &mut self.lanes[usize::from(lane.0)]
    }

    fn is_idle(&self, lane: LaneId) -> bool {
        self.lane_ref(lane).is_some_and(Lane::is_idle)
    }

    /// Where the directory of `task` is believed to be.
    #[must_use]
    pub fn master_of(&self, task: TaskId) -> NodeId {
        self.tasks.get(&task).map_or(task.home(), |t| t.master)
    }

    /// Starts an operation on the directory of the lane's task.
    pub(crate) fn ask(&mut self, lane: LaneId, op: DirOp, out: &mut Out) {
        let me = self.config.node;
        let shared = self.config.establish == Establish::Shared;
        let l = self.lane(lane);
        let (task, at) = (l.task, l.dir_at);
        if shared || at == me {
            out.push(Action::Lock { who: Who::Lane(lane), task, at });
        } else {
            let request = Request::Dir { task, op: op.clone() };
            out.push(Action::Send { lane, to: at, request });
        }
        self.lane(lane).wait = Wait::Directory(op);
    }

    /// The directory has moved: asks the new master.
    fn follow(&mut self, lane: LaneId, to: NodeId, out: &mut Out) {
        let l = self.lane(lane);
        l.dir_at = to;
        let (task, wait) = (l.task, l.wait.clone());
        if let Some(record) = self.tasks.get_mut(&task) {
            record.master = to;
        }
        if let Wait::Directory(op) = wait {
            self.ask(lane, op, out);
        }
    }

    fn on_confirmed(&mut self, lane: LaneId, from: NodeId, confirm: Confirm, out: &mut Out) {
        let Some(wait) = self.lane_ref(lane).map(|l| l.wait.clone()) else { return };
        match (wait, confirm) {
            (Wait::Directory(_), Confirm::Dir(outcome)) => self.on_outcome(lane, outcome, out),
            (Wait::Directory(_), Confirm::Moved(to)) => self.follow(lane, to, out),
            (Wait::Frame, Confirm::Frame(frame)) => self.on_frame(lane, frame, out),
            (Wait::Gather { .. }, Confirm::Revoked(status)) => self.on_revoked(lane, status, out),
            (Wait::Gather { .. }, Confirm::Entered(peer)) => {
                self.lane(lane).peer = Some(peer);
                self.gathered_one(lane, out);
            }
            (Wait::Gather { .. }, Confirm::Failed) => {
                self.on_member_step_failed(lane, from);
                self.gathered_one(lane, out);
            }
            (Wait::Gather { .. }, Confirm::Done) => self.gathered_one(lane, out),
            _ => {}
        }
    }

    /// Continues a lane that waits for just this.
    pub(crate) fn resume_if(&mut self, lane: LaneId, wait: &Wait, out: &mut Out) {
        if self.lane_ref(lane).is_some_and(|l| l.wait == *wait) {
            self.lane(lane).wait = Wait::Nothing;
            self.run(lane, out);
        }
    }

    /// Works through the lane's phases until it has to wait, or is done.
    pub(crate) fn run(&mut self, lane: LaneId, out: &mut Out) {
        while matches!(self.lane(lane).wait, Wait::Nothing) {
            match self.lane(lane).phases.pop_front() {
                Some(phase) => self.begin(lane, phase, out),
                None => return self.finish(lane, out),
            }
        }
    }

    fn begin(&mut self, lane: LaneId, phase: Phase, out: &mut Out) {
        match phase {
            Phase::Offer => self.begin_offer(lane, out),
            Phase::Resolve => self.begin_resolve(lane, out),
            Phase::Ask(op) => self.ask(lane, op, out),
            Phase::Alloc { node, clean, others } => {
                self.begin_alloc(lane, node, clean, others, out)
            }
            Phase::Revoke(targets) => self.begin_revoke(lane, &targets, out),
            Phase::RevokeSome { pages, told, frames } => {
                self.begin_revoke_some(lane, pages, told, frames, out);
            }
            Phase::Copy(from) => self.begin_copy(lane, from, out),
            Phase::Map(frame, rights) => self.begin_map(lane, frame, rights, out),
            Phase::Commit(next) => self.begin_commit(lane, next, out),
            Phase::Free(frames) => self.begin_free(lane, &frames, out),
            Phase::Local(rights) => self.begin_local(lane, rights, out),
            Phase::LocalReady(rights) => self.local_ready(lane, rights, out),
            Phase::Pages(range, op) => self.begin_pages(lane, range, op, out),
            Phase::Send(to, request) => self.gather(lane, [(to, request)], 0, out),
            Phase::SendAll(nodes, request) => {
                self.gather(lane, nodes.iter().map(|n| (n, request.clone())), 0, out);
            }
            Phase::Kernel(call) => {
                self.lane(lane).wait = Wait::Kernel(call);
                out.push(Action::Kernel { who: Who::Lane(lane), call });
            }
            Phase::Move { thread, cpu, node } => self.begin_move(lane, thread, cpu, node, out),
            Phase::Members(change, release) => {
                self.ask(lane, DirOp::CommitMembers { change, release }, out);
            }
            Phase::KillAll => self.begin_kill_all(lane),
            Phase::Adopt(thread) => {
                let task = self.lane(lane).task;
                self.threads.insert(thread, task);
            }
        }
    }

    /// Answers and makes the lane ready for the next request.
    fn finish(&mut self, lane: LaneId, out: &mut Out) {
        let done = self.lane(lane).renew();
        for frame in done.spare.into_iter().chain(done.new_frame) {
            // Both are of this node: a frame from elsewhere is committed or freed by a phase.
            let _ = self.pool.free(frame, done.spare == Some(frame));
        }
        let Some(job) = done.job else { return };
        let reply = match (job, done.error) {
            (_, Some(error)) => Some(Reply::Refused(error)),
            (Job::Fault { .. }, None) => None,
            (Job::Call { .. }, None) => {
                let pages = Reply::Pages { count: done.count, status: done.total };
                Some(done.answer.unwrap_or(pages))
            }
        };
        if let Some(reply) = reply {
            out.push(Action::Reply { lane, thread: job.thread(), reply });
        }
        self.confirm_departures(out);
    }

    /// What the directory said.
    fn on_outcome(&mut self, lane: LaneId, outcome: Outcome, out: &mut Out) {
        if outcome == Outcome::Queued {
            return;
        }
        let l = self.lane(lane);
        l.wait = Wait::Nothing;
        match outcome {
            Outcome::Map { frame, rights, offered } => self.resolved(lane, frame, rights, offered),
            Outcome::Held { page, state, home, region } => {
                self.hold_granted(lane, page, state, home, region);
            }
            Outcome::HeldSome { pages, frames, mapped, status } => {
                self.some_granted(lane, pages, frames, mapped, status);
            }
            Outcome::Local { range, rights } => self.learned_local(lane, range, rights),
            Outcome::Members(view) => self.on_members(lane, view),
            Outcome::Page { frames, frame, mapped, replicated } => {
                l.answer =
                    Some(Reply::Placement { frames, frame, mapped, replicated, local: false });
            }
            Outcome::Census(census) => l.answer = Some(Reply::Census(census)),
            Outcome::Refused(error) => self.refused(lane, error),
            Outcome::NoPage | Outcome::Done | Outcome::Queued => {}
        }
        self.run(lane, out);
    }

    /// The directory refused: nothing that is left can be done, except to clean up what the error
    /// does not concern.
    fn refused(&mut self, lane: LaneId, error: DirError) {
        let l = self.lane(lane);
        l.error = Some(error);
        l.phases.clear();
    }

    fn on_call(
        &mut self,
        lane: LaneId,
        thread: ThreadId,
        task: Option<TaskId>,
        call: ClientCall,
        out: &mut Out,
    ) {
        let own = self.threads.get(&thread).copied();
        let allowed = match task {
            Some(task) if self.may_balance(thread) => Some(task),
            Some(task) => own.filter(|&t| t == task),
            None => own,
        };
        let Some(task) = allowed else {
            let stranger = own.is_none() && task.is_none();
            let reply = if stranger { Reply::Again } else { Reply::Refused(DirError::NotAllowed) };
            return out.push(Action::Reply { lane, thread, reply });
        };
        self.begin_job(lane, task, Job::Call { thread, call });
        let phases = self.call_phases(lane, call);
        self.lane(lane).phases.extend(phases);
        self.run(lane, out);
    }

    pub(crate) fn begin_job(&mut self, lane: LaneId, task: TaskId, job: Job) {
        let dir_at = self.master_of(task);
        let l = self.lane(lane);
        // Who finished the last job has left the lane as it is for a new one.
        (l.job, l.task, l.dir_at) = (Some(job), task, dir_at);
    }

    fn on_fault(
        &mut self,
        lane: LaneId,
        thread: ThreadId,
        page: PageNo,
        access: Rights,
        out: &mut Out,
    ) {
        let Some(&task) = self.threads.get(&thread) else {
            // A thread on its way to another node, or a stranger: no mapping.
            return out.push(Action::Reply { lane, thread, reply: Reply::Again });
        };
        self.begin_job(lane, task, Job::Fault { thread, page, access });
        self.plan_fault(lane, page, access);
        self.run(lane, out);
    }
}
