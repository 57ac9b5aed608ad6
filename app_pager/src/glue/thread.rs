//! The loop of a pager thread: messages and notes in, steps of the machine, actions out.
//!
//! A lane that waits for confirmations still receives everything, so that nobody who wakes it can
//! block; new requests queue up in the lane until it is idle again.

use super::shared::{self, Inbox, LockedSlot, Note, WAKE};
use super::start::{PAGER, Setup, setup};
use super::{act, spawn};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use app_pager::client::{put, received_words};
use app_pager::control::{
    AskCounts, AskThreads, Counts, Designate, LIST_MOST, Spawn, Spawned, ThreadInfo, ThreadList,
};
use app_pager::directory::DirError;
use app_pager::encode::{ClientRequest, PagerRequest};
use app_pager::event::{Action, Event};
use app_pager::ids::{Caller, LaneId, PageNo, Status, TaskId, Who};
use app_pager::layout::MAX_LANES;
use app_pager::message::{ClientCall, Confirm, Reply};
use app_pager::pager::Pager;
use app_pager::quick;
use app_pager::wire::Message;
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::schedule::ThreadState;
use l4abi::{Acceptor, MsgTag, NodeId, ThreadId, Time, Timeouts};
use libl4::arch::probe;
use libl4::ipc::{self, Received};
use libl4::pager::Fault;
use libl4::sync::Mutex;
use libl4::{println, program, sys, topology};

/// How long the root task may be busy with something else while it waits for an answer.
const SUPERVISOR_COMES_BACK: Time = Time::period_us(1_000_000);

/// Page faults that a lane has served, by task. A line of its own: lanes count on different CPUs.
#[repr(align(64))]
struct Faults(Mutex<BTreeMap<TaskId, u64>>);

/// Those of each lane.
static FAULTS: [Faults; MAX_LANES as usize] =
    [const { Faults(Mutex::new(BTreeMap::new())) }; MAX_LANES as usize];
/// Who sent the worker a request that is confirmed at a barrier. A lane waits for one at a time.
static TOGETHER: Mutex<BTreeSet<Caller>> = Mutex::new(BTreeSet::new());
/// Requests of other pagers to unmap a page.
static REVOKES: AtomicU64 = AtomicU64::new(0);

/// Something to do when the thread is idle.
enum Request {
    Event(Event),
    Spawn(ThreadId, Spawn),
}

/// A pager thread.
pub struct Serving {
    /// Lane, or [`MAX_LANES`] for the worker.
    index: u8,
    who: Who,
    queue: VecDeque<Request>,
    /// The address of the fault being served.
    fault: Option<u64>,
    /// Requests begun.
    served: u64,
    /// Number of requests last sent together.
    pub together: u32,
    /// The machine had nothing to do for this thread when it last looked. Only this thread ends that, so
    /// what is true here stays true; what is false has to be looked up.
    idle: bool,
    /// The slot used last: naming it again costs two lines that all pagers of the task write.
    pub slot: Option<KnownSlot>,
    /// The thread that faulted last, and its task: most faults are of the same one again.
    pub last: Option<(ThreadId, TaskId)>,
    /// Empty lists that keep their memory, so that a fault needs none from the heap, which all
    /// threads of the pager share.
    out: Vec<Action>,
    todo: VecDeque<Action>,
}

/// The directory's slot of a task on a node.
pub struct KnownSlot {
    /// The task.
    pub task: TaskId,
    /// The node.
    pub at: NodeId,
    /// The slot.
    pub slot: Arc<LockedSlot>,
}

impl Serving {
    /// The state of thread `index`.
    pub fn new(index: u8) -> Self {
        let who = if index == MAX_LANES { Who::Worker } else { Who::Lane(LaneId(index)) };
        let (queue, todo) = (VecDeque::new(), VecDeque::new());
        let (fault, slot, last, out, idle) = (None, None, None, Vec::new(), false);
        Self { index, who, queue, fault, served: 0, together: 0, idle, slot, last, out, todo }
    }

    /// The thread's own id.
    pub fn id(&self) -> ThreadId {
        setup().numbers.lane(setup().node, self.index)
    }

    /// Who the thread is.
    pub const fn who(&self) -> Who {
        self.who
    }

    /// The thread, as others name it.
    pub fn caller(&self) -> Caller {
        Caller { node: setup().node, lane: LaneId(self.index) }
    }

    /// What the lane serves is a fault at this address.
    pub const fn fault(&self) -> Option<u64> {
        self.fault
    }

    fn inbox(&self) -> &'static Inbox {
        shared::of(setup().node).inbox(self.index)
    }

    /// Serves for ever.
    pub fn run(mut self) -> ! {
        loop {
            let ready = !self.queue.is_empty() && self.is_idle();
            if let Some(note) = self.inbox().next(!ready) {
                self.note(note);
                continue;
            }
            if ready && let Some(request) = self.queue.pop_front() {
                self.begin(request);
                continue;
            }
            ipc::accept(Acceptor::NONE);
            let received = ipc::wait();
            if let Ok(message) = &received
                && message.tag.label() == WAKE
            {
                self.inbox().woken();
                continue;
            }
            let request = received.ok().and_then(|message| self.receive(&message));
            match (self.inbox().after_wait(), request) {
                // Nobody posted anything since the in-box was seen empty.
                (None, Some(request)) if self.queue.is_empty() && self.is_idle() => {
                    self.begin(request);
                }
                (waker, request) => {
                    self.queue.extend(request);
                    if let Some(waker) = waker {
                        // It is sending, or will be at once: it waits for nothing else.
                        let _ = ipc::receive(waker, Timeouts::NEVER);
                        self.inbox().woken();
                    }
                }
            }
        }
    }

    fn is_idle(&mut self) -> bool {
        self.idle = self.idle || with_pager(|pager| idle(pager, self.who));
        self.idle
    }

    fn begin(&mut self, request: Request) {
        match request {
            Request::Event(event) => {
                self.served += 1;
                if self.index == 0 && self.served == setup().dies_at {
                    println!("pager {}: dies as the manifest says", setup().node.0);
                    let _ = probe::raise(probe::Trap::InvalidOpcode, 0);
                }
                self.fault = None;
                if let Event::Fault { lane, thread, page, access } = event {
                    if self.fault_at_once(quick::Fault { lane, thread, page, access }) {
                        return;
                    }
                    self.fault = Some(page.address());
                    let task = with_pager(|pager| pager.task_of(thread));
                    self.last = task.map(|task| (thread, task));
                    if let Some(task) = task {
                        count_fault(self.index, task);
                    }
                }
                self.step(|pager, out| pager.handle(event, out));
            }
            Request::Spawn(to, spawn) => {
                let thread = spawn::spawn(self, &spawn).unwrap_or_else(|problem| {
                    println!("pager {}: cannot start a task: {problem}", setup().node.0);
                    ThreadId::NIL
                });
                reply(to, &Spawned { thread });
            }
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Confirmed(from, confirm) => {
                if let Who::Lane(lane) = self.who {
                    let event = Event::Confirmed { lane, from, confirm };
                    self.step(|pager, out| pager.handle(event, out));
                }
            }
            Note::Gathered => {
                let status = shared::of(setup().node).barrier(self.index).status();
                self.act_on(|me, todo| me.gathered(status, todo));
            }
            Note::Woken => {
                if let Who::Lane(lane) = self.who {
                    self.step(|pager, out| pager.handle(Event::Woken(lane), out));
                }
            }
            Note::Act(action) => self.perform([action]),
            Note::Idle => {}
        }
    }

    /// A step of the machine, and all that follows from it.
    pub fn step(&mut self, body: impl FnOnce(&mut Pager, &mut Vec<Action>)) {
        self.act_on(|me, todo| me.step_into(todo, body));
    }

    /// A step of the machine: its actions are added to what is to be done.
    pub fn step_into(
        &mut self,
        todo: &mut VecDeque<Action>,
        body: impl FnOnce(&mut Pager, &mut Vec<Action>),
    ) {
        let mut out = self.step_only(body);
        todo.extend(out.drain(..));
        self.out = out;
    }

    /// A step of the machine: the actions are for the caller to perform, who gives the list back to
    /// [`Self::reuse`].
    pub fn step_only(&mut self, body: impl FnOnce(&mut Pager, &mut Vec<Action>)) -> Vec<Action> {
        let mut out = core::mem::take(&mut self.out);
        let who = self.who;
        let (freed, idle) = with_pager(|pager| {
            let busy = pager.worker_is_busy();
            body(pager, &mut out);
            (busy && !pager.worker_is_busy(), idle(pager, who))
        });
        self.idle = idle;
        if freed && self.who != Who::Worker {
            let worker = setup().numbers.worker(setup().node);
            shared::of(setup().node).inbox(MAX_LANES).post(worker, Note::Idle);
        }
        out
    }

    /// Takes back an emptied list.
    pub fn reuse(&mut self, out: Vec<Action>) {
        self.out = out;
    }

    /// The step of a lane whose requests are all confirmed, joined.
    pub fn gathered(&mut self, status: Status, todo: &mut VecDeque<Action>) {
        let Who::Lane(lane) = self.who else { return };
        let count = self.together;
        self.step_into(todo, |pager, out| {
            pager.handle(Event::Gathered { lane, count, status }, out);
        });
    }

    /// Performs actions and those that follow from them, in order.
    pub fn perform(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.act_on(|_, todo| todo.extend(actions));
    }

    /// Does what `first` puts on the list, and all that follows from it, in order.
    fn act_on(&mut self, first: impl FnOnce(&mut Self, &mut VecDeque<Action>)) {
        let mut todo = core::mem::take(&mut self.todo);
        first(self, &mut todo);
        loop {
            act::send_together(self, &mut todo);
            let Some(action) = todo.pop_front() else { break };
            act::act(self, action, &mut todo);
        }
        self.todo = todo;
    }

    /// What a message asks for; what can be answered at once is.
    fn receive(&self, message: &Received) -> Option<Request> {
        let setup = setup();
        if let Some(Fault::Page(fault)) = Fault::of(message) {
            let Who::Lane(lane) = self.who else { return None };
            let (page, access, thread) = (PageNo::of(fault.addr), fault.access, message.from);
            return Some(Request::Event(Event::Fault { lane, thread, page, access }));
        }
        let mut words = [0; l4abi::tag::MAX_WORDS];
        let count = received_words(message, &mut words);
        let words = &words[..count];
        if let Some(ClientRequest { task, mut call }) = ClientRequest::decode(message.tag, words) {
            let Who::Lane(lane) = self.who else { return None };
            if let ClientCall::MigrateThread { node, cpu, .. } = &mut call {
                // A client names both: they must fit.
                let exists = cpu.index() < topology::cpu_count();
                if !exists || topology::node_of(*cpu) != *node {
                    reply(message.from, &Reply::Refused(DirError::Invalid));
                    return None;
                }
                if setup.flat {
                    // All CPUs belong to the one pager.
                    *node = setup.node;
                }
            }
            let thread = message.from;
            return Some(Request::Event(Event::Call { lane, thread, task, call }));
        }
        if let Some(ask) = AskCounts::decode(message.tag, words) {
            reply(message.from, &counts(message.from, ask));
            return None;
        }
        if let Some(AskThreads { after }) = AskThreads::decode(message.tag, words) {
            if with_pager(|pager| pager.may_balance(message.from)) {
                reply(message.from, &threads(after));
            } else {
                reply(message.from, &Reply::Refused(DirError::NotAllowed));
            }
            return None;
        }
        if let Some(Designate { task, balances }) = Designate::decode(message.tag, words)
            && message.from == program::supervisor()
        {
            with_pager(|pager| pager.designate(task, balances));
            reply(message.from, &Reply::Done);
            return None;
        }
        if let Some(spawn) = Spawn::decode(message.tag, words)
            && message.from == program::supervisor()
        {
            return Some(Request::Spawn(message.from, spawn));
        }
        if self.who == Who::Worker && from_pager(setup, message.from) {
            let PagerRequest { from, together, request } =
                PagerRequest::decode(message.tag, words)?;
            if together {
                TOGETHER.lock().insert(from);
            }
            if matches!(request, app_pager::message::Request::Revoke { .. }) {
                REVOKES.fetch_add(1, Ordering::Relaxed);
            }
            return Some(Request::Event(Event::Request { from, request }));
        }
        None
    }
}

/// Tells a lane that its request is served: at its barrier if it waits for several, else with a note.
/// Any thread of the pager may do so, but only the last at a barrier posts anything.
pub fn confirm(to: Caller, confirm: Confirm) {
    if !TOGETHER.lock().remove(&to) {
        return act::post(to, Note::Confirmed(setup().node, confirm));
    }
    let status = match confirm {
        Confirm::Revoked(status) => status,
        _ => Status::empty(),
    };
    if shared::of(to.node).barrier(to.lane.0).confirm(status) {
        act::post(to, Note::Gathered);
    }
}

fn from_pager(setup: &Setup, from: ThreadId) -> bool {
    from.is_local() || setup.numbers.pager_of(from, setup.nodes).is_some()
}

/// Runs `body` on the machine.
pub fn with_pager<R>(body: impl FnOnce(&mut Pager) -> R) -> R {
    body(PAGER.lock().as_mut().expect("made before the first request"))
}

/// Sends an answer to somebody who waits for it.
pub fn reply(to: ThreadId, message: &impl Message) {
    // The root task receives other things, too, while it waits for a pager: it comes back soon.
    let patience = if to == program::supervisor() { SUPERVISOR_COMES_BACK } else { Time::ZERO };
    if let Ok(tag) = put(message) {
        // Somebody who does not wait any more loses the answer.
        let _ = ipc::send(to, patience, tag);
    }
}

/// Answers a fault without a mapping: the thread faults again.
pub fn again(to: ThreadId) {
    let _ = ipc::send(to, Time::ZERO, MsgTag::NIL);
}

/// Whether the machine has nothing to do for a thread.
fn idle(pager: &Pager, who: Who) -> bool {
    match who {
        Who::Lane(lane) => pager.lane_is_idle(lane),
        Who::Worker => !pager.worker_is_busy(),
    }
}

pub fn count_fault(lane: u8, task: TaskId) {
    if let Some(faults) = FAULTS.get(usize::from(lane)) {
        *faults.0.lock().entry(task).or_default() += 1;
    }
}

/// Faults of a task that all lanes have served.
fn faults_of(task: TaskId) -> u64 {
    FAULTS.iter().filter_map(|lane| lane.0.lock().get(&task).copied()).sum()
}

/// Threads that this pager serves, for load balancers. Their lane's space is their scheduler's, so the
/// kernel tells their states.
fn threads(after: ThreadId) -> ThreadList {
    let served: Vec<(ThreadId, TaskId)> =
        with_pager(|pager| pager.threads_after(after).take(LIST_MOST).collect());
    let node = shared::of(setup().node);
    let info = |(thread, task)| {
        let state = sys::schedule(thread, sys::Schedule::default());
        let runs = matches!(state, Ok((ThreadState::Running, _)));
        let cpu = node.cpu_of(thread).unwrap_or_default();
        ThreadInfo { thread, task, cpu, runs }
    };
    ThreadList(served.into_iter().map(info).collect())
}

fn counts(from: ThreadId, ask: AskCounts) -> Counts {
    with_pager(|pager| {
        let task = ask.task.or_else(|| pager.task_of(from));
        Counts {
            task,
            faults: task.map_or(0, faults_of),
            revokes: REVOKES.load(Ordering::Relaxed),
            frames_used: pager.frames_used() as u64,
            frames: u64::from(pager.config().frames),
        }
    })
}
