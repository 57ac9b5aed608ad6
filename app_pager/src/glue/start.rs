//! From the first instruction to the first request.
//!
//! The root task has made all threads of the pager; the first one sets up memory, starts the others
//! and touches everything, so that no thread of the pager ever faults again.

use super::{shared, thread};
use app_pager::config::{PagerConfig, switches};
use app_pager::layout::{MAX_LANES, Numbers};
use app_pager::pager::Pager;
use l4abi::{Acceptor, CpuId, NodeId, ThreadId};
use libl4::program::{self, SupervisorClient, param};
use libl4::rpc::{RpcError, Target};
use libl4::sync::Mutex;
use libl4::thread::Stack;
use libl4::{arch, heap, topology};
use spin::Once;

/// What the pager was started with: the words of its start page, in order.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The node.
    pub node: NodeId,
    /// Number of pagers.
    pub nodes: u8,
    /// Thread numbers.
    pub numbers: Numbers,
    /// Frames of the node's pool.
    pub frames: u32,
    /// Pager threads.
    pub lanes: u8,
    /// Size of the shared heap.
    pub heap: u64,
    /// `numa=flat`: one pager for all CPUs.
    pub flat: bool,
    /// The system's [`switches`].
    pub switches: u64,
    /// For tests of supervision: lane 0 dies at this request; 0 = never.
    pub dies_at: u64,
}

impl Setup {
    fn read() -> Self {
        Self {
            node: NodeId(param(0) as u8),
            nodes: param(1) as u8,
            numbers: Numbers { base: param(2) as u32 },
            frames: param(3) as u32,
            lanes: param(4) as u8,
            heap: param(5),
            flat: param(6) & switches::FLAT != 0,
            switches: param(6),
            dies_at: param(7),
        }
    }

    /// The lane that serves a CPU of its node: they count alike.
    pub fn lane_of(&self, cpu: CpuId) -> u8 {
        let before = |c: &CpuId| c.0 < cpu.0;
        let lane = match self.flat {
            true => usize::from(cpu.0),
            false => topology::cpus_of(topology::node_of(cpu)).filter(before).count(),
        };
        lane.min(usize::from(MAX_LANES) - 1) as u8
    }

    fn config(&self) -> PagerConfig {
        let mut config = match self.flat {
            true => PagerConfig::flat(self.lanes, self.frames),
            false => PagerConfig::numa(self.node, self.nodes, self.frames),
        };
        config.lanes = self.lanes;
        config.numbers = self.numbers.tasks();
        config.neighbours.sort_by_key(|&other| topology::distance(self.node, other));
        config.with_switches(self.switches)
    }
}

static SETUP: Once<Setup> = Once::new();

/// The machine; nobody keeps its lock while waiting.
pub static PAGER: Mutex<Option<Pager>> = Mutex::new(None);

/// What the pager was started with.
pub fn setup() -> &'static Setup {
    SETUP.get().expect("set by the first thread before it starts others")
}

const STACK: usize = 32 * 1024;
static STACKS: [Stack<STACK>; MAX_LANES as usize + 1] =
    [const { Stack::new() }; MAX_LANES as usize + 1];

/// Takes all memory that the root task has for this pager.
fn take_memory(supervisor: ThreadId) {
    let target = Target { window: Acceptor::COMPLETE, ..Target::new(supervisor) };
    let client = SupervisorClient { target };
    for index in 0.. {
        match client.mapping(index) {
            Ok(_) => {}
            Err(RpcError::Failed(_)) => return,
            Err(error) => panic!("no memory from the root task: {error:?}"),
        }
    }
}

/// Touches every page of the image, stacks included.
fn touch_image() {
    let (first, last) = arch::image_range();
    let mut at = first;
    while at <= last {
        let _ = arch::touch_read(at);
        at += 4096;
    }
}

/// The first thread: lane 0.
pub fn run() -> ! {
    let setup = SETUP.call_once(Setup::read);
    let supervisor = program::supervisor();
    take_memory(supervisor);
    assert!(heap::use_shared(usize::from(setup.node.0), setup.heap as usize), "no shared heap");
    touch_image();
    shared::create(setup.node);
    let mut pager = Pager::new(setup.config());
    pager.add_balancer(supervisor);
    *PAGER.lock() = Some(pager);
    for lane in 1..setup.lanes {
        launch(lane, setup.numbers.lane(setup.node, lane));
    }
    launch(MAX_LANES, setup.numbers.worker(setup.node));
    let ready = SupervisorClient::new(supervisor).ready();
    assert!(ready.is_ok(), "the root task does not take us: {ready:?}");
    thread::Serving::new(0).run()
}

fn launch(index: u8, id: ThreadId) {
    let stack = STACKS[usize::from(index)].take().expect("each is taken once");
    let started = libl4::thread::start_on(id, &stack, serve, u64::from(index));
    assert!(started.is_ok(), "thread {index}: {started:?}");
}

extern "C" fn serve(index: u64) -> ! {
    program::report_exceptions();
    thread::Serving::new(index as u8).run()
}
