//! The balancers as a task: its first thread is the master, one more on each node watches that node.
//! The manifest must say `balancer = true`. Argument: `period=MS` between looks (default 20).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use app_pager::client;
use balancer::{Master, NodeLoad, joined, to_give, within_node};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::ipc::Received;
use libl4::rpc::Failure;
use libl4::server::{Answer, Service, serve};
use libl4::thread::{self, Stack};
use libl4::{CpuId, NodeId, ThreadId, println, program, time, topology};

libl4::program!(main);

const MOST: usize = 64;
/// Looks that are joined.
const LOOKS: usize = 4;

static STACKS: [Stack<{ 16 * 1024 }>; MOST] = [const { Stack::new() }; MOST];
static MASTER: AtomicU64 = AtomicU64::new(0);
static PERIOD_US: AtomicU64 = AtomicU64::new(20_000);

libl4::rpc! {
    /// What node balancers tell the master.
    pub trait Balance, client BalanceClient, interface 0x61 {
        /// The load of a node: threads that want to run, and CPUs. Answers with the node to give a
        /// thread to, and its load; fails if there is none.
        fn report(node: u64, running: u64, cpus: u64) -> (u64, u64, u64);
    }
}

#[derive(Default)]
struct Server(Master);

impl Balance for Server {
    fn report(
        &mut self,
        _: ThreadId,
        node: u64,
        running: u64,
        cpus: u64,
    ) -> Result<(u64, u64, u64), Failure> {
        let node = u8::try_from(node).map(NodeId).map_err(|_| Failure(0))?;
        let (to, other) = self.0.report(node, NodeLoad { running, cpus }).ok_or(Failure(0))?;
        Ok((u64::from(to.0), other.running, other.cpus))
    }
}

impl Service for Server {
    fn handle(&mut self, request: &Received) -> Answer {
        if BalanceClient::owns(request.tag.label()) {
            BalanceClient::dispatch(self, request)
        } else {
            Answer::Nothing
        }
    }
}

fn main() {
    let args = program::args();
    let period = args.iter().find_map(|arg| arg.strip_prefix("period=")?.parse().ok());
    PERIOD_US.store(1000 * period.unwrap_or(20u64).max(1), Ordering::Relaxed);
    MASTER.store(thread::my_global_id().raw(), Ordering::Relaxed);
    let nodes = (0..topology::node_count().min(MOST) as u8).map(NodeId);
    for (node, stack) in nodes.zip(&STACKS) {
        let Some(cpu) = topology::cpus_of(node).next() else { continue };
        let stack = stack.take().expect("taken once");
        let made = client::create_thread(&stack, watch, u64::from(cpu.0));
        if let Err(error) = made {
            println!("balancer: nobody watches node {}: {error:?}", node.0);
        }
    }
    serve(&mut Server::default())
}

extern "C" fn watch(cpu: u64) -> ! {
    program::report_exceptions();
    let moved = client::migrate_thread(thread::my_global_id(), CpuId(cpu as u16));
    if moved.is_err() {
        println!("balancer: cannot go to CPU {cpu}: {moved:?}");
        thread::sleep_forever();
    }
    let node = topology::my_node();
    let cpus: Vec<CpuId> = topology::cpus_of(node).collect();
    loop {
        turn(node, &cpus);
    }
}

/// Looks at the node and does what is to be done. Errors are not looked at: a thread may have gone, or
/// ended; the next turn sees what is.
fn turn(node: NodeId, cpus: &[CpuId]) {
    let pause = PERIOD_US.load(Ordering::Relaxed) / LOOKS as u64;
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        time::sleep_us(pause);
        looks.extend(client::threads_here().ok());
    }
    let threads = joined(&looks);
    let moves = within_node(cpus, &threads);
    for m in &moves {
        let _ = client::move_thread_of(m.task, m.thread, m.to);
    }
    let load = NodeLoad::of(&threads, cpus.len());
    let master = BalanceClient::new(ThreadId::from_raw(MASTER.load(Ordering::Relaxed)));
    let Ok((to, running, count)) = master.report(u64::from(node.0), load.running, load.cpus) else {
        return;
    };
    let to = NodeId(to as u8);
    let active = |task| client::census_of(Some(task), to).is_ok_and(|census| census.threads > 0);
    let given = to_give(&threads, NodeLoad { running, cpus: count }, active);
    if let (Some(given), Some(cpu)) = (given, topology::cpus_of(to).next()) {
        let _ = client::move_thread_of(given.task, given.thread, cpu);
    }
}
