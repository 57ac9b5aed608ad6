//! The whole system as one state: pagers with their threads, directories, clients, kernel.
//!
//! IPC is synchronous as in L4: a pager thread performs its actions in order; a send waits until
//! the receiver is receptive; a worker is receptive only when it has nothing to do.

use crate::hardware::Hardware;
use app_pager::config::PagerConfig;
use app_pager::directory::Directory;
use app_pager::event::Action;
use app_pager::ids::{Caller, LaneId, PageNo, PageRange, TaskId, Who};
use app_pager::message::{ClientCall, Confirm, Reply};
use app_pager::pager::Pager;
use app_pager::region::{Policy, Region};
use app_pager::store::Slot;
use l4abi::{NodeId, Rights, ThreadId};
use std::collections::{BTreeMap, VecDeque};

/// How confirmations travel, and who serves requests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ipc {
    /// A worker per pager; confirmations go to memory of the receiver, the last one wakes it.
    Barrier,
    /// A worker per pager that sends its confirmations, blocking until the receiver receives.
    BlockingConfirm,
    /// As `Barrier`, but the status bits come all at once when the last worker has confirmed, as in
    /// the program.
    Joined,
    /// As `BlockingConfirm`, and each pager sends its requests in an order that starts after its own node.
    BlockingRotated,
    /// No worker: the pager thread serves requests, when it is idle.
    NoWorker,
}

impl Ipc {
    /// Whether confirmations never block.
    pub const fn is_free(self) -> bool {
        matches!(self, Self::Barrier | Self::Joined)
    }
}

/// What a client thread does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Do {
    Read(u64),
    Write(u64),
    Call(ClientCall),
    /// A balancer's call for a task.
    CallFor(TaskId, ClientCall),
    /// Migrates itself to a node.
    Go(u8),
}

/// What a client thread is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    Ready,
    /// Its message waits for the pager.
    Sent,
    /// A pager thread works for it.
    Served(Caller),
    Dead,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    pub thread: ThreadId,
    pub task: TaskId,
    pub script: Vec<Do>,
    pub pc: usize,
    pub stage: Stage,
    pub results: Vec<Reply>,
}

/// What waits in a lane's inbox.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Note {
    Confirmed(NodeId, Confirm),
    /// Confirmed through the barrier; becomes an event when all have.
    Bits(Rights),
    Woken,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub ipc: Ipc,
    pub pagers: Vec<Pager>,
    pub todo: BTreeMap<(NodeId, Who), VecDeque<Action>>,
    pub inbox: BTreeMap<Caller, Vec<Note>>,
    pub slots: BTreeMap<(NodeId, TaskId), Slot>,
    pub hw: Hardware,
    pub clients: Vec<Client>,
    /// Scripts of the threads that clients create.
    pub spawn: Vec<Vec<Do>>,
    /// The oracle: what each page contains (per node if node-local).
    pub flat: BTreeMap<(TaskId, PageNo, Option<NodeId>), u8>,
    /// Pages written to since a status report said so.
    pub written: BTreeMap<(TaskId, PageNo), bool>,
    pub local: Option<PageRange>,
    /// A broken guarantee.
    pub error: Option<&'static str>,
}

/// A transition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Move {
    /// A pager thread performs its next action.
    Step(NodeId, Who),
    /// A lane takes a note from its inbox.
    Take(Caller, usize),
    /// A client goes on.
    Client(usize),
    /// A lane takes a client's message.
    Serve(usize),
}

pub const TASK: TaskId = TaskId::new(NodeId(0), 1);

impl World {
    /// A task with pages 0..8 under `policy`; client i runs on node `at[i]` with its script.
    pub fn new(configs: Vec<PagerConfig>, policy: Policy, clients: &[(u8, &[Do])]) -> Self {
        let mut pagers: Vec<Pager> = configs.into_iter().map(Pager::new).collect();
        let single_space = pagers[0].config().dir.single_space;
        let mut world = Self {
            ipc: Ipc::Barrier,
            todo: BTreeMap::new(),
            inbox: BTreeMap::new(),
            slots: BTreeMap::new(),
            hw: Hardware { single_space, ..Hardware::default() },
            clients: Vec::new(),
            spawn: Vec::new(),
            flat: BTreeMap::new(),
            written: BTreeMap::new(),
            local: None,
            error: None,
            pagers: Vec::new(),
        };
        let mut directory = Directory::new(TASK);
        directory.regions.set(PageRange::new(0, 8), Region { rights: Rights::RW, policy });
        let local = Region { rights: Rights::RW, policy: Policy::NodeLocal };
        if !single_space {
            directory.regions.set(PageRange::new(8, 12), local);
            world.local = Some(PageRange::new(8, 12));
        }
        for (i, &(node, script)) in clients.iter().enumerate() {
            let thread = pagers[usize::from(node)].take_thread_id().unwrap();
            world.hw.add_thread(thread, TASK, NodeId(node));
            if i > 0 {
                directory.members.threads.insert(thread, NodeId(node));
                directory.members.visited = directory.members.visited.with(NodeId(node));
            }
            let (pc, stage, results) = (0, Stage::Ready, Vec::new());
            let script = script.to_vec();
            world.clients.push(Client { thread, task: TASK, script, pc, stage, results });
        }
        let first = &mut pagers[usize::from(clients[0].0)];
        match first.start_task(directory, world.clients[0].thread) {
            Some(Action::Place { at, directory }) => {
                world.slots.insert((at, TASK), Slot::Here(directory));
            }
            other => panic!("unexpected {other:?}"),
        }
        for (client, &(node, _)) in world.clients.iter().zip(clients).skip(1) {
            pagers[usize::from(node)].join_task(TASK, client.thread);
        }
        world.pagers = pagers;
        world
    }

    /// Adds a thread of another task on `node` that moves clients' threads to nodes.
    pub fn add_balancer(&mut self, node: u8, moves: &[(usize, u8)]) {
        let task = TaskId::new(NodeId(node), 2);
        let thread = self.pager(NodeId(node)).take_thread_id().unwrap();
        self.hw.add_thread(thread, task, NodeId(node));
        let directory = Directory::new(task);
        let start = self.pager(NodeId(node)).start_task(directory, thread);
        if let Some(Action::Place { at, directory }) = start {
            self.slots.insert((at, task), Slot::Here(directory));
        }
        for pager in &mut self.pagers {
            pager.add_balancer(thread);
        }
        let go = |&(client, to): &(usize, u8)| {
            let thread: ThreadId = self.clients[client].thread;
            let (node, cpu) = (NodeId(to), l4abi::CpuId(u16::from(to)));
            Do::CallFor(TASK, ClientCall::MigrateThread { thread, node, cpu })
        };
        let script = moves.iter().map(go).collect();
        let (pc, stage, results) = (0, Stage::Ready, Vec::new());
        self.clients.push(Client { thread, task, script, pc, stage, results });
    }

    pub fn pager(&mut self, node: NodeId) -> &mut Pager {
        &mut self.pagers[node.index()]
    }

    pub fn busy(&self, node: NodeId, who: Who) -> bool {
        self.todo.get(&(node, who)).is_some_and(|q| !q.is_empty())
    }

    /// Whether a worker's request would be received now.
    pub fn worker_receives(&self, node: NodeId) -> bool {
        let pager = &self.pagers[node.index()];
        let lane = Who::Lane(LaneId(0));
        let main_is_free =
            self.ipc != Ipc::NoWorker || pager.lane_is_idle(LaneId(0)) && !self.busy(node, lane);
        !pager.worker_is_busy() && !self.busy(node, Who::Worker) && main_is_free
    }

    pub fn lane_of(&self, client: usize) -> Caller {
        let node = self.hw.threads[&self.clients[client].thread].1;
        let lanes = self.pagers[node.index()].config().lanes;
        Caller { node, lane: LaneId((client % usize::from(lanes)) as u8) }
    }

    /// The directory of a task, wherever it is.
    pub fn directory(&self, task: TaskId) -> Option<&Directory> {
        self.slots.iter().find_map(|(&(_, t), slot)| match slot {
            Slot::Here(directory) if t == task => Some(&**directory),
            _ => None,
        })
    }

    /// Preloads a page of the first task.
    pub fn preload(&mut self, page: PageNo, frame: app_pager::ids::Frame) -> bool {
        self.slots.values_mut().any(|slot| match slot {
            Slot::Here(directory) => directory.preload(page, frame),
            _ => false,
        })
    }

    /// The transitions that can happen.
    pub fn moves(&self, moves: &mut Vec<Move>) {
        for (&(node, who), queue) in &self.todo {
            if queue.front().is_some_and(|action| self.is_possible(action)) {
                moves.push(Move::Step(node, who));
            }
        }
        for (&to, notes) in &self.inbox {
            let free = !self.busy(to.node, Who::Lane(to.lane));
            let open = self.pagers[to.node.index()].requests_open(to.lane) as usize;
            let bits = notes.iter().filter(|n| matches!(n, Note::Bits(_))).count();
            let ready = |k: &usize| !matches!(notes[*k], Note::Bits(_)) || bits == open;
            moves.extend((0..notes.len()).filter(|k| free && ready(k)).map(|k| Move::Take(to, k)));
        }
        for (i, client) in self.clients.iter().enumerate() {
            match client.stage {
                Stage::Ready if client.pc < client.script.len() => moves.push(Move::Client(i)),
                Stage::Sent => {
                    let Caller { node, lane } = self.lane_of(i);
                    let pager = &self.pagers[node.index()];
                    let serving = self.ipc == Ipc::NoWorker && pager.worker_is_busy();
                    if pager.lane_is_idle(lane) && !self.busy(node, Who::Lane(lane)) && !serving {
                        moves.push(Move::Serve(i));
                    }
                }
                _ => {}
            }
        }
    }

    fn is_possible(&self, action: &Action) -> bool {
        match action {
            Action::Send { to, .. } => self.worker_receives(*to),
            Action::Confirm { to, .. } if !self.ipc.is_free() => {
                !self.busy(to.node, Who::Lane(to.lane))
            }
            _ => true,
        }
    }

    /// Whether everybody has got what he asked for, and all is quiet.
    pub fn is_done(&self) -> bool {
        let quiet = self.pagers.iter().all(Pager::is_quiet);
        let sent = self.todo.values().all(VecDeque::is_empty);
        let taken = self.inbox.values().all(Vec::is_empty);
        quiet && sent && taken && self.clients.iter().all(Client::is_done)
    }
}

impl Client {
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Dead || self.stage == Stage::Ready && self.pc == self.script.len()
    }
}
