//! The thesis' array walk (numa-l4 5.3): threads on different nodes touch pages of an array, with
//! more or less overlap; what is counted are page faults, and where the pages lie afterwards.
//!
//! Arguments: `pages=N` pages of each thread's part, `overlap=P` percent of them that both threads
//! touch, `passes=N`, `local=1` for a node-local array,
//! `flat=1` in the system with `numa = "flat"` (one space: a page faults once).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use app_pager::client;
use app_pager::region::Policy;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::record::{Line, Test};
use libl4::exit::Outcome;
use libl4::thread::Stack;
use libl4::{CpuId, NodeId, Rights, Time, arch, ipc, println, program, thread, topology};

libl4::program!(main);

const ARRAY: u64 = 0x1_0000_0000;
const PAGE: u64 = 4096;

static STACK: Stack<{ 16 * 1024 }> = Stack::new();

/// What the second thread is to do, and what it found.
static FIRST: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);
static PASSES: AtomicU64 = AtomicU64::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
/// The pager that serves the second thread.
static PAGER: AtomicU64 = AtomicU64::new(0);
/// 1 go, 2 done.
static PHASE: AtomicU64 = AtomicU64::new(0);

struct Params {
    pages: u64,
    overlap: u64,
    passes: u64,
    local: bool,
    /// The system is `numa=flat`.
    flat: bool,
}

fn parse(args: &[String]) -> Params {
    let value = |name: &str, default: u64| {
        let found = args.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        found.unwrap_or(default)
    };
    Params {
        pages: value("pages", 64),
        overlap: value("overlap", 100),
        passes: value("passes", 2),
        local: value("local", 0) != 0,
        flat: value("flat", 0) != 0,
    }
}

struct Report {
    failed: u32,
}

impl Report {
    fn check(&mut self, name: &str, ok: bool, detail: fmt::Arguments<'_>) {
        libl4::console::record(|out| Test { name, ok, detail }.write(out));
        self.failed += u32::from(!ok);
    }
}

fn result(variant: &str, metric: &str, value: u64) {
    libl4::console::record(|out| {
        let mut line = Line::begin(out, "result");
        line.str("bench", "arraywalk").str("variant", variant).str("metric", metric);
        line.str("unit", "count").num("value", value).num("min", value).num("max", value);
        line.num("n", 1);
        line.end()
    });
}

/// Writes and reads the first word of each page, `passes` times. Returns the faults it took.
fn walk(first: u64, pages: u64, passes: u64) -> u64 {
    let before = client::counts().map_or(0, |c| c.faults);
    for _ in 0..passes {
        for page in first..first + pages {
            let at = ARRAY + page * PAGE + 8 * (topology::my_node().0 as u64 + 1);
            arch::poke(at, page);
            WRONG.fetch_add(u64::from(arch::peek(at) != page), Ordering::Relaxed);
        }
    }
    client::counts().map_or(0, |c| c.faults) - before
}

extern "C" fn second(cpu: u64) -> ! {
    let me = thread::my_global_id();
    program::report_exceptions();
    let moved = client::migrate_thread(me, CpuId(cpu as u16));
    if moved.is_err() {
        println!("arraywalk: the second thread stays: {moved:?}");
    }
    while PHASE.load(Ordering::Acquire) != 1 {
        pause();
    }
    PAGER.store(client::my_pager().raw(), Ordering::Relaxed);
    let (first, pages) = (FIRST.load(Ordering::Relaxed), PAGES.load(Ordering::Relaxed));
    let faults = walk(first, pages, PASSES.load(Ordering::Relaxed));
    FAULTS.store(faults, Ordering::Relaxed);
    PHASE.store(2, Ordering::Release);
    thread::sleep_forever()
}

/// Waits a little, so that other threads of the CPU run.
fn pause() {
    let wait = libl4::Timeouts::new(Time::NEVER, Time::period_us(1_000));
    let _ = ipc::receive(thread::my_local_id(), wait);
}

/// Nodes of the array's pages.
fn nodes_of(first: u64, pages: u64) -> Vec<Option<NodeId>> {
    let node = |page: u64| client::query(ARRAY + page * PAGE).ok()?.frames.iter().next();
    (first..first + pages).map(node).collect()
}

fn main() {
    let params = parse(&program::args());
    let mut report = Report { failed: 0 };
    let (pages, shared) = (params.pages, params.pages * params.overlap / 100);
    let all = client::pages(ARRAY, (2 * pages - shared) * PAGE);
    let policy = if params.local { Policy::NodeLocal } else { Policy::FirstTouch };
    let region = client::add_region(all, Rights::RW, policy);
    report.check("os_add_region", region.is_ok(), format_args!("{region:?}"));

    let here = topology::my_node();
    let other =
        (0..topology::cpu_count() as u16).map(CpuId).find(|&c| topology::node_of(c) != here);
    let cpu = other.unwrap_or(CpuId(topology::cpu_count() as u16 - 1));
    let numa = topology::node_of(cpu) != here && !params.flat;
    let stack = STACK.take().expect("taken once");
    let thread = client::create_thread(&stack, second, u64::from(cpu.0));
    report.check("os_create_thread", thread.is_ok(), format_args!("{thread:?}"));

    let faults = walk(0, pages, params.passes);
    FIRST.store(pages - shared, Ordering::Relaxed);
    PAGES.store(pages, Ordering::Relaxed);
    PASSES.store(params.passes, Ordering::Relaxed);
    PHASE.store(1, Ordering::Release);
    while PHASE.load(Ordering::Acquire) != 2 {
        pause();
    }
    let others = FAULTS.load(Ordering::Relaxed);
    check_counts(&mut report, &params, numa, (faults, others));
    end(&mut report, &params, numa, thread.ok());
}

fn check_counts(report: &mut Report, params: &Params, numa: bool, faults: (u64, u64)) {
    let shared = params.pages * params.overlap / 100;
    // numa-l4 5.3: each node takes a fault for each page it touches; in one space a page faults once.
    let want = if numa || params.local { params.pages } else { params.pages - shared };
    let text = format_args!("first {} second {} of {}", faults.0, faults.1, params.pages);
    report.check("os_arraywalk_first", faults.0 == params.pages, text);
    report.check("os_arraywalk_second", faults.1 == want, text);
    let wrong = WRONG.load(Ordering::Relaxed);
    report.check("os_arraywalk_words", wrong == 0, format_args!("{wrong} wrong"));
    let variant = if numa { "numa" } else { "flat" };
    result(variant, "faults", faults.0 + faults.1);
}

fn end(report: &mut Report, params: &Params, numa: bool, thread: Option<libl4::ThreadId>) {
    let here = topology::my_node();
    let (pages, shared) = (params.pages, params.pages * params.overlap / 100);
    if !params.local {
        let on = |first, count, wanted: &dyn Fn(NodeId) -> bool| {
            let nodes = nodes_of(first, count);
            nodes.iter().filter(|n| n.is_some_and(wanted)).count() as u64
        };
        let first = on(0, pages, &|node| node == here);
        let text = format_args!("{first} of {pages} on node {}", here.0);
        report.check("os_first_touch", first == pages, text);
        let rest = on(pages, pages - shared, &|node| (node == here) != numa);
        let text = format_args!("{rest} of {} where they were touched", pages - shared);
        report.check("os_first_touch_second", rest == pages - shared, text);
        unmap(report, pages, if numa { shared } else { 0 }, here);
    }
    if let Some(thread) = thread {
        let deleted = client::delete_thread(thread);
        report.check("os_delete_thread", deleted.is_ok(), format_args!("{deleted:?}"));
    }
    if report.failed > 0 {
        program::exit(Outcome::Failed);
    }
}

/// Unmaps the first thread's part: the other pager hears only of the pages it has mapped itself.
fn unmap(report: &mut Report, pages: u64, shared: u64, here: NodeId) {
    let other = libl4::ThreadId::from_raw(PAGER.load(Ordering::Relaxed));
    let told = || client::counts_of(other, None).map_or(u64::MAX, |c| c.revokes);
    let before = told();
    let unmapped = client::unmap(client::pages(ARRAY, pages * PAGE));
    let ok = unmapped.is_ok_and(|(n, bits)| n == pages && bits.contains(Rights::W));
    report.check("os_unmap_reports", ok, format_args!("{unmapped:?}"));
    let notified = told() - before;
    let text = format_args!("{notified} notifications for {shared} pages mapped elsewhere");
    report.check("os_unmap_notifies", notified == shared, text);
    result("unmap", "notifications", notified);
    // The contents stay.
    let value = arch::peek(ARRAY + PAGE + 8 * (u64::from(here.0) + 1));
    report.check("os_unmap_keeps", value == 1, format_args!("{value}"));
}
