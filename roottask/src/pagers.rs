//! Starting the application pagers: a pool and a heap per node, mapped at the same addresses into all
//! of them, and one pager per node, made by a worker thread on that node so that it has its home
//! there (numa-l4 4.2.1, 4.2.3).

use crate::boot::Modules;
use crate::memory::{Memory, PAGE};
use crate::plain::{self, Pages};
use crate::pools;
use crate::servers;
use alloc::vec::Vec;
use app_pager::config::switches;
use app_pager::layout::{
    MAX_LANES, MODULE_BASE, Numbers, POOL_BASE, POOL_STRIDE, THREADS_PER_NODE,
};
use l4abi::{CpuId, Fpage, NodeId, Rights, ThreadId, Time, Timeouts};
use libl4::program::StartPage;
use libl4::rpc::Mapping;
use libl4::sys::SysResult;
use libl4::thread::{self, Stack};
use libl4::{arch, heap, ipc, msg, pager, println, sigma0, topology};
use roottask::manifest::{Establish, Exhausted, Manifest, Notify, Numa, Spaces, Unmap};
use spin::Once;
use syscall_server::{PagerNo, Policy};

/// log2 of the size of a pager's heap: 4 MiB, more beside a large pool, whose pages have entries there.
const fn heap_log2(pool: u64) -> u8 {
    let log2 = pool.ilog2() as u8 - 3;
    if log2 > 22 { log2 } else { 22 }
}

/// A pager.
#[derive(Debug)]
pub struct Pager {
    /// Its node.
    pub node: NodeId,
    /// Its own memory.
    pub pages: Pages,
    /// Number of its lanes.
    pub lanes: u8,
    /// Faults before it was ready, and after.
    pub faults: (u64, u64),
    /// It is set up.
    pub ready: bool,
}

/// All pagers.
#[derive(Debug)]
pub struct Pagers {
    /// By node.
    pub list: Vec<Pager>,
    /// What every pager has mapped.
    pub mappings: Vec<Mapping>,
    /// A page that all pagers can read.
    pub transfer: u64,
    /// How often they were started again.
    pub restarts: u32,
    numbers: Numbers,
    /// Frames of each node's pool.
    frames: Vec<u32>,
    /// Each node's heap.
    heaps: Vec<u64>,
    flat: bool,
}

/// What the starter threads have to know.
struct Job {
    numbers: Numbers,
    root: ThreadId,
}

static JOB: Once<Job> = Once::new();
static STARTER_STACK: Stack<{ 16 * 1024 }> = Stack::new();
/// Place of the starters' UTCB in the root task's area, behind those of the servers.
const STARTER_UTCB: u64 = 1 + servers::MAX_SERVERS as u64;

impl Pagers {
    /// Takes memory, makes the pagers and lets them start. Their faults have to be served.
    pub fn start(
        manifest: &Manifest,
        modules: &Modules,
        numbers: Numbers,
        memory: &mut Memory,
    ) -> Self {
        let flat = manifest.numa == Numa::Flat;
        let nodes = if flat { 1 } else { topology::node_count() as u8 };
        let transfer = memory.page(NodeId(0)).expect("a page for start pages");
        let mut pagers = Self {
            list: Vec::new(),
            mappings: Vec::new(),
            transfer,
            restarts: 0,
            numbers,
            frames: Vec::new(),
            heaps: Vec::new(),
            flat,
        };
        let pool = pool_size(manifest);
        pagers.frames = (0..nodes).map(|n| pagers.take_node(NodeId(n), pool)).collect();
        for module in modules.iter() {
            for (at, log2) in module.blocks() {
                pagers.share(MODULE_BASE + at, at, log2, Rights::R);
            }
        }
        pagers.share(MODULE_BASE + transfer, transfer, 12, Rights::R);
        JOB.call_once(|| Job { numbers, root: thread::my_global_id() });
        pagers.launch_all(manifest, modules, memory);
        pagers
    }

    /// Makes all pagers, in the memory that they have, and lets them start.
    fn launch_all(&mut self, manifest: &Manifest, modules: &Modules, memory: &mut Memory) {
        let module = modules.find(l4abi::archive::PAGER_NAME).expect("the pager's module");
        let pool = pool_size(manifest);
        for (node, frames) in (0..).map(NodeId).zip(self.frames.clone()) {
            let lanes = self.cpus(node).len().min(usize::from(MAX_LANES)) as u8;
            let fault = manifest.pager_dies.filter(|at| at.node == node.0 && self.restarts == 0);
            let params = [
                u64::from(node.0),
                self.frames.len() as u64,
                u64::from(self.numbers.base),
                u64::from(frames),
                u64::from(lanes),
                1 << heap_log2(pool),
                switches_of(manifest),
                fault.map_or(0, |at| at.after),
            ];
            let supervisor = thread::my_global_id();
            let start =
                StartPage { supervisor, heap: (0, 0), params: &params, args: &["app_pager"] };
            let pages = Pages::load(memory, node, module.bytes(), &start);
            let pages = pages.unwrap_or_else(|problem| panic!("the pager's image: {problem}"));
            self.launch(Pager { node, pages, lanes, faults: (0, 0), ready: false });
        }
    }

    /// Takes all pagers and all tasks down: threads, spaces, images. The pagers work on each other's
    /// memory under locks; what one of them was doing when it died is in no order, and so nothing that any
    /// of them knows is worth anything. Returns the number of threads deleted.
    pub fn take_down(&mut self, memory: &mut Memory) -> usize {
        let own = self.list.iter().flat_map(|pager| {
            let lanes = (0..pager.lanes).map(|lane| self.numbers.lane(pager.node, lane));
            lanes.chain([self.numbers.worker(pager.node)])
        });
        let own: Vec<ThreadId> = own.collect();
        // Tasks first: they need not see their pagers go.
        let mut threads: Vec<ThreadId> = servers::with_policy(|policy| policy.threads().collect());
        threads.iter().chain(&own).for_each(|&id| delete(id));
        // With the pagers' threads nobody is left who could ask a server for more; the policy's lock is
        // held from check to system call, so what was asked meanwhile is in the table.
        let rest = servers::with_policy(|policy| {
            let all: Vec<ThreadId> = policy.threads().collect();
            *policy = Policy::new();
            all
        });
        let rest: Vec<ThreadId> = rest.into_iter().filter(|id| !threads.contains(id)).collect();
        rest.iter().for_each(|&id| delete(id));
        threads.extend(own.into_iter().chain(rest));
        for pager in &mut self.list {
            pager.pages.release(memory);
        }
        self.list.clear();
        threads.len()
    }

    /// Pages of the root task that pagers live in.
    pub fn pages_in_use(&self) -> usize {
        self.list.iter().map(|pager| pager.pages.count()).sum()
    }

    /// Starts all pagers again after [`Self::take_down`], with clear pools and heaps.
    pub fn start_again(&mut self, manifest: &Manifest, modules: &Modules, memory: &mut Memory) {
        self.restarts += 1;
        pools::clear();
        // A pager makes its heap anew; what others look for there is in the first page.
        self.heaps.iter().for_each(|&at| arch::clear_memory(at, PAGE));
        self.launch_all(manifest, modules, memory);
    }

    /// The CPUs whose faults the pager of `node` serves, by lane; any CPU for a node without.
    fn cpus(&self, node: NodeId) -> Vec<CpuId> {
        let all = (0..topology::cpu_count() as u16).map(CpuId);
        let own: Vec<CpuId> = match self.flat {
            true => all.collect(),
            false => topology::cpus_of(node).collect(),
        };
        if own.is_empty() { alloc::vec![CpuId(0)] } else { own }
    }

    /// The node and the lane that serve a CPU.
    pub fn lane_of(&self, cpu: CpuId) -> (NodeId, u8) {
        let node = if self.flat { NodeId(0) } else { topology::node_of(cpu) };
        let lane = self.cpus(node).iter().position(|&c| c == cpu).unwrap_or(0);
        (node, lane.min(usize::from(MAX_LANES) - 1) as u8)
    }

    fn share(&mut self, at: u64, from: u64, log2: u8, rights: Rights) {
        self.mappings.push(Mapping { base: at, fpage: Fpage::memory(from, log2, rights) });
    }

    /// Takes pool and heap of a node from sigma0. Returns the number of frames.
    fn take_node(&mut self, node: NodeId, pool: u64) -> u32 {
        let heap_at = (heap::SHARED_BASE + node.index() * heap::SHARED_STRIDE) as u64;
        let log2 = heap_log2(pool);
        let own = sigma0::any_page_on(node, log2).or_else(|_| sigma0::any_page(log2));
        let own = own.unwrap_or_else(|e| panic!("no memory for the pager of {node:?}: {e:?}"));
        arch::clear_memory(own, PAGE);
        self.heaps.push(own);
        self.share(heap_at, own, log2, Rights::RW);
        let base = POOL_BASE + u64::from(node.0) * POOL_STRIDE;
        let mut frames = 0;
        for block in pools::take(node, pool) {
            self.share(base + block.offset, block.at, block.log2, Rights::RWX);
            frames += 1 << (block.log2 - 12);
        }
        if frames == 0 {
            println!("root: node {} has no memory for a pool", node.0);
        }
        frames
    }

    /// Has the pager's threads made on its node, puts each on its CPU, and starts the first.
    fn launch(&mut self, pager: Pager) {
        let numbers = self.numbers;
        let (node, lanes, entry) = (pager.node, pager.lanes, pager.pages.entry);
        let cpus = self.cpus(node);
        if let Err(error) = make_on(node, lanes, cpus[0], numbers) {
            panic!("the pager of node {}: {error}", node.0);
        }
        let worker = numbers.worker(node);
        let threads: Vec<ThreadId> =
            (0..lanes).map(|lane| numbers.lane(node, lane)).chain([worker]).collect();
        for (i, &id) in threads.iter().enumerate() {
            let cpu = if id == worker { cpus[0] } else { cpus[i] };
            if let Err(error) = servers::place(id, cpu) {
                println!("root: pager of node {}, thread {i}: {error}", node.0);
            }
        }
        let first = numbers.tasks().of(node).next().map_or(0, |n| n.0);
        let range = first..first + THREADS_PER_NODE;
        let no = PagerNo(u16::from(node.0));
        let added = servers::with_policy(|policy| policy.add_pager(no, threads, range));
        assert!(added.is_ok(), "pager of node {}: {added:?}", node.0);
        self.list.push(pager);
        let started = pager::start_message(numbers.lane(node, 0), entry, 0);
        assert!(started.is_ok(), "pager of node {}: {started:?}", node.0);
    }
}

/// Size of a node's pool, at most.
fn pool_size(manifest: &Manifest) -> u64 {
    u64::from(manifest.pool.max(1)) << 20
}

fn delete(id: ThreadId) {
    if let Err(error) = thread::delete(id) {
        println!("root: {id} cannot be deleted: {error}");
    }
}

/// What the manifest says of the system, as pagers read it.
fn switches_of(manifest: &Manifest) -> u64 {
    let all = [
        (manifest.numa == Numa::Flat, switches::FLAT),
        (manifest.spaces == Spaces::Single, switches::SINGLE),
        (manifest.exhausted == Exhausted::Error, switches::STRICT),
        (manifest.establish == Establish::Messages, switches::MESSAGES),
        (manifest.unmap == Unmap::OneByOne, switches::ONE_BY_ONE),
        (manifest.unmap == Unmap::Root, switches::ROOT),
        (manifest.notify == Notify::Active, switches::ACTIVE),
    ];
    all.into_iter().filter(|&(is, _)| is).map(|(_, switch)| switch).sum()
}

/// Has a thread on `cpu` make the pager's space and threads.
fn make_on(node: NodeId, lanes: u8, cpu: CpuId, numbers: Numbers) -> SysResult<()> {
    let id = numbers.starter(node);
    let utcb = thread::my_utcb_location() + STARTER_UTCB * l4abi::utcb::UTCB_SIZE as u64;
    thread::create_local(id, utcb, thread::my_global_id())?;
    servers::place(id, cpu)?;
    let stack = STARTER_STACK.take().expect("one starter at a time");
    thread::start_on(id, &stack, starter, u64::from(node.0) | u64::from(lanes) << 8)?;
    let patience = Timeouts::new(Time::NEVER, Time::period_us(5_000_000));
    match ipc::receive(id, patience) {
        Ok(done) if done.mr(1) == 0 => {}
        other => {
            panic!("the starter of node {}: {other:?}, {:#x}", node.0, arch::utcb().load_mr(1))
        }
    }
    thread::delete(id)?;
    STARTER_STACK.release();
    Ok(())
}

extern "C" fn starter(arg: u64) -> ! {
    let (node, lanes) = (NodeId(arg as u8), (arg >> 8) as u8);
    let job = JOB.get().expect("set before starters run");
    let failed = make_threads(job, node, lanes).is_err();
    let mut message = msg::Writer::here();
    message.word(u64::from(failed));
    let _ = ipc::send(job.root, Time::NEVER, message.tag(0));
    thread::sleep_forever()
}

fn make_threads(job: &Job, node: NodeId, lanes: u8) -> SysResult<()> {
    let first = job.numbers.lane(node, 0);
    plain::make_space(first, job.root)?;
    for lane in (1..lanes).chain([MAX_LANES]) {
        plain::add_thread(job.numbers.lane(node, lane), first, u64::from(lane), job.root)?;
    }
    Ok(())
}
