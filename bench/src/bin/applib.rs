//! The library for applications: heaps on a node and over all nodes, variables of each node, barriers and
//! locks, with threads on all nodes. Argument: `one=1` where a task has one space.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use app_pager::client;
use app_pager::memory::{PerNode, heap_on, interleaved_heap};
use bench::experiment::{Args, Report};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::sync::{Barrier, Mutex};
use libl4::thread::Stack;
use libl4::{CpuId, NodeId, program, thread, topology};

libl4::program!(main);

const NODE_HEAPS: u64 = 0x1_0000_0000;
const STRIDE: u64 = 0x100_0000;
const HEAP_SIZE: u64 = 0x4_0000;
const INTERLEAVED: u64 = 0x2_0000_0000;
const WORDS: u64 = 0x3_0000_0000;
const MOST: usize = 8;
const ROUNDS: u64 = 30;

static STACKS: [Stack<{ 8 * 1024 }>; MOST] = [const { Stack::new() }; MOST];
static MEETING: Mutex<Option<&'static Barrier>> = Mutex::new(None);
static BARRIERS: [Barrier; MOST] = [
    Barrier::new(1),
    Barrier::new(2),
    Barrier::new(3),
    Barrier::new(4),
    Barrier::new(5),
    Barrier::new(6),
    Barrier::new(7),
    Barrier::new(8),
];
static LOCKED: Mutex<(u64, u64)> = Mutex::new((0, 0));
static VARIABLE: Mutex<Option<PerNode>> = Mutex::new(None);
/// What each thread found in its node's variable, and its node.
static FOUND: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static NODES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

/// What every thread does: adds to its node's variable, and to a pair of words under a lock.
fn work(index: usize) {
    let variable = VARIABLE.lock().expect("made before");
    let barrier = MEETING.lock().expect("chosen before");
    for _ in 0..ROUNDS {
        variable.add(0, 1);
        let mut pair = LOCKED.lock();
        let first = pair.0;
        pair.0 = first + 1;
        pair.1 += u64::from(first == pair.0 - 1);
        drop(pair);
        barrier.wait();
    }
    FOUND[index].store(variable.get(0), Ordering::Relaxed);
    NODES[index].store(u64::from(topology::my_node().0), Ordering::Relaxed);
    barrier.wait();
}

extern "C" fn member(arg: u64) -> ! {
    program::report_exceptions();
    let _ = client::migrate_thread(thread::my_global_id(), CpuId((arg >> 8) as u16));
    work(arg as usize & 0xFF);
    thread::sleep_forever()
}

fn main() {
    let one = Args::of_program().flag("one");
    let mut report = Report::default();
    heaps(&mut report);
    let threads = topology::cpu_count().min(MOST);
    *MEETING.lock() = Some(&BARRIERS[threads - 1]);
    let variable = PerNode::new(WORDS, 4);
    report.check("os_per_node", variable.is_ok(), format_args!("{variable:?}"));
    *VARIABLE.lock() = variable.ok();
    let mut ids = Vec::new();
    for (i, stack) in STACKS.iter().enumerate().take(threads).skip(1) {
        let stack = stack.take().expect("taken once");
        ids.extend(client::create_thread(&stack, member, (i | i << 8) as u64));
    }
    report.check("os_members", ids.len() == threads - 1, format_args!("{}", ids.len()));
    work(0);
    let found: Vec<(u64, u64)> = (0..threads)
        .map(|i| (NODES[i].load(Ordering::Relaxed), FOUND[i].load(Ordering::Relaxed)))
        .collect();
    // Each node counts its own threads only.
    let of_node = |node| found.iter().filter(|(n, _)| *n == node).count() as u64;
    let want = |node| if one { threads as u64 } else { of_node(node) } * ROUNDS;
    let right = found.iter().all(|&(node, count)| count == want(node));
    report.check("os_per_node_counts", right, format_args!("node and count: {found:?}"));
    let (sum, whole) = *LOCKED.lock();
    let ok = sum == threads as u64 * ROUNDS && whole == sum;
    report.check("os_lock", ok, format_args!("{sum} of {}", threads as u64 * ROUNDS));
    for id in ids {
        let gone = client::delete_thread(id);
        report.check("os_member_gone", gone.is_ok(), format_args!("{gone:?}"));
    }
    report.end();
}

fn heaps(report: &mut Report) {
    let nodes = topology::node_count() as u8;
    let has_memory = |node: NodeId| {
        libl4::kip().numa().is_none_or(|numa| numa.ranges().any(|range| range.node == node))
    };
    for node in (0..nodes).map(NodeId).filter(|&node| has_memory(node)) {
        let base = NODE_HEAPS + STRIDE * u64::from(node.0);
        let heap = match heap_on(base, HEAP_SIZE, node) {
            Ok(heap) => heap,
            Err(error) => {
                report.check("os_node_heap", false, format_args!("{error:?}"));
                continue;
            }
        };
        let free = heap.free();
        let values: Vec<_> = (0..20).filter_map(|i| heap.put([i; 1000]).ok()).collect();
        let kept =
            values.len() == 20 && (0..20).zip(&values).all(|(i, v)| v.iter().all(|&w| w == i));
        let at = |addr| client::query(addr).is_ok_and(|p| p.frames.contains(node));
        let there = values.iter().all(|value| at(value.address()) && at(value.address() + 4000));
        let count = values.len();
        drop(values);
        let text = format_args!("node {}: {count} values, kept {kept}, there {there}", node.0);
        report.check("os_node_heap", kept && there && heap.free() == free, text);
    }
    let Ok(heap) = interleaved_heap(INTERLEAVED, HEAP_SIZE) else {
        return report.check("os_interleaved_heap", false, format_args!("refused"));
    };
    let Ok(value) = heap.put([7u64; 8 * 512]) else {
        return report.check("os_interleaved_heap", false, format_args!("no room"));
    };
    let first = value.address() / 4096;
    let home = |page: u64| client::query(page * 4096).ok()?.frames.iter().next();
    let wanted = |page: u64| NodeId((page % u64::from(nodes)) as u8);
    let right = |page: &u64| home(*page) == Some(wanted(*page)) || !has_memory(wanted(*page));
    let pages = (first..first + 8).filter(right).count();
    report.check(
        "os_interleaved_heap",
        pages == 8 && value[4095] == 7,
        format_args!("{pages} of 8"),
    );
}
