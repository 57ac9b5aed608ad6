//! Threads that all start on one CPU and want to run: load balancers spread them.
//!
//! Arguments: `threads=N` (8): waits until they are spread, or fails after `limit=MS` (20000); `alone=1`
//! with `ms=MS`: a single thread that must stay on its node.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use app_pager::client;
use bench::experiment::{Args, Report};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::thread::Stack;
use libl4::{NodeId, program, thread, time, topology};

libl4::program!(main);

const MOST: usize = 32;
static STACKS: [Stack<{ 8 * 1024 }>; MOST] = [const { Stack::new() }; MOST];
static CPUS: [AtomicU64; MOST] = [const { AtomicU64::new(u64::MAX) }; MOST];
static STOP: AtomicU64 = AtomicU64::new(0);
static STOPPED: AtomicU64 = AtomicU64::new(0);

extern "C" fn spin(index: u64) -> ! {
    program::report_exceptions();
    while STOP.load(Ordering::Relaxed) == 0 {
        let cpu = u64::from(thread::my_cpu().0);
        CPUS[index as usize % MOST].store(cpu, Ordering::Relaxed);
        for _ in 0..2000 {
            core::hint::spin_loop();
        }
    }
    STOPPED.fetch_add(1, Ordering::Release);
    thread::sleep_forever()
}

/// Threads on each CPU, as they say.
fn spread(threads: usize) -> Vec<u64> {
    let mut counts = alloc::vec![0; topology::cpu_count()];
    for cpu in CPUS.iter().take(threads) {
        if let Some(count) = counts.get_mut(cpu.load(Ordering::Relaxed) as usize) {
            *count += 1;
        }
    }
    counts
}

/// Another task has a thread somewhere, so CPUs may differ by two in what this task sees.
fn is_even(counts: &[u64]) -> bool {
    let (most, least) = (counts.iter().max(), counts.iter().min());
    least.is_some_and(|&least| least > 0) && most.zip(least).is_some_and(|(m, l)| m - l <= 2)
}

fn main() {
    let args = Args::of_program();
    let mut report = Report::default();
    if args.flag("alone") {
        alone(&mut report, args.number("ms", 1000));
        return report.end();
    }
    let threads = args.number("threads", 8).min(MOST as u64) as usize;
    let mut ids = Vec::new();
    for (i, stack) in STACKS.iter().enumerate().take(threads) {
        let stack = stack.take().expect("taken once");
        ids.extend(client::create_thread(&stack, spin, i as u64));
    }
    report.check("os_busy", ids.len() == threads, format_args!("{} threads", ids.len()));
    let (start, limit) = (time::now_us(), 1000 * args.number("limit", 20_000));
    let mut counts = spread(threads);
    let unequal = !is_even(&counts);
    while !is_even(&counts) && time::now_us() - start < limit {
        time::sleep_us(20_000);
        counts = spread(threads);
    }
    let ms = (time::now_us() - start) / 1000;
    let text = format_args!("unequal at first: {unequal}; {counts:?} on the CPUs after {ms} ms");
    report.check("os_balanced", unequal && is_even(&counts), text);
    let nodes = (0..topology::node_count() as u8).map(NodeId);
    let census: Vec<u64> = nodes.map(|n| client::census(n).map_or(0, |c| c.threads)).collect();
    report.check("os_balanced_census", census.iter().all(|&n| n > 0), format_args!("{census:?}"));
    STOP.store(1, Ordering::Relaxed);
    while STOPPED.load(Ordering::Acquire) < threads as u64 {
        time::sleep_us(5_000);
    }
    let gone = ids.into_iter().filter(|&id| client::delete_thread(id).is_ok()).count();
    report.check("os_busy_gone", gone == threads, format_args!("{gone} of {threads}"));
    report.end();
}

/// The last thread of a task on its node is not moved off it.
fn alone(report: &mut Report, ms: u64) {
    let (home, start) = (topology::my_node(), time::now_us());
    let mut strayed = None;
    while time::now_us() - start < 1000 * ms {
        let node = topology::my_node();
        strayed = strayed.or(Some(node).filter(|&node| node != home));
        for _ in 0..2000 {
            core::hint::spin_loop();
        }
    }
    let text = format_args!("home {}, strayed to {strayed:?}", home.0);
    report.check("os_lone_thread_stays", strayed.is_none(), text);
}
