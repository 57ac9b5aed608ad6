//! The global unmap of one page (numa-l4 5.4.2, A12): a task is active on so many nodes, a thread on the
//! first touches a page and calls its pager's unmap. What is counted are the pagers told of it.
//!
//! Arguments (`docs/design/os.md` has the table): `nodes`, `rounds`, `touch`, and what the system is:
//! `variant`, `active`, `flat`, `single`. The call is a region of interest on all CPUs.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use app_pager::client;
use app_pager::region::Policy;
use bench::experiment::{Args, Report, Series, await_at_least, result};
use bench::lab::measure;
use bench::lab::report::Subject;
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::thread::Stack;
use libl4::{CpuId, NodeId, Rights, ThreadId, arch, program, roi, thread, time, topology};

libl4::program!(main);

const AT: u64 = 0x1_0000_0000;
const PAGE: u64 = 4096;
const MOST: usize = 64;
const ROI: u16 = 12;

static STACKS: [Stack<{ 8 * 1024 }>; MOST] = [const { Stack::new() }; MOST];
static SCOUT: Stack<{ 8 * 1024 }> = Stack::new();
/// By node: its pager, as the scout found it.
static PAGERS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// Number of rounds that threads may begin, and by thread: rounds done (one more than all when it has
/// arrived).
static GO: AtomicU64 = AtomicU64::new(0);
static DONE: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static SCOUTED: AtomicU64 = AtomicU64::new(0);

struct Params {
    rounds: u64,
    /// All threads touch the page; else only the one that unmaps it.
    all_touch: bool,
    variant: String,
    active: bool,
    flat: bool,
    single: bool,
}

impl Params {
    fn read(args: &Args) -> Self {
        Self {
            rounds: args.number("rounds", 8).max(1),
            all_touch: args.text("touch").is_none_or(|who| who != "one"),
            variant: args.text("variant").unwrap_or("parallel").into(),
            active: args.flag("active"),
            flat: args.flag("flat"),
            single: args.flag("single"),
        }
    }

    /// Pagers that an unmap has to tell when the task is active on `nodes` nodes.
    fn told(&self, nodes: u64) -> u64 {
        let mapped = self.all_touch && !self.single;
        let others = self.variant != "root" && !self.flat && (self.active || mapped);
        if others { nodes - 1 } else { 0 }
    }

    fn name(&self) -> &str {
        if self.flat { "flat" } else { &self.variant }
    }
}

/// A CPU of each node that has one, the caller's node first.
fn cpus() -> Vec<CpuId> {
    let here = topology::my_node();
    let mut all = alloc::vec![thread::my_cpu()];
    let others = (0..topology::node_count() as u8).map(NodeId).filter(|&node| node != here);
    all.extend(others.filter_map(|node| topology::cpus_of(node).next()));
    all.truncate(MOST);
    all
}

/// Goes to all nodes and notes their pagers.
extern "C" fn scout(_: u64) -> ! {
    program::report_exceptions();
    for cpu in cpus() {
        let _ = client::migrate_thread(thread::my_global_id(), cpu);
        let node = topology::my_node().index();
        PAGERS[node % MOST].store(client::my_pager().raw(), Ordering::Relaxed);
    }
    SCOUTED.store(1, Ordering::Release);
    thread::sleep_forever()
}

/// Touches the page of each round.
extern "C" fn toucher(arg: u64) -> ! {
    program::report_exceptions();
    let (index, cpu) = (arg as usize % MOST, CpuId((arg >> 8) as u16));
    let _ = client::migrate_thread(thread::my_global_id(), cpu);
    let first = GO.load(Ordering::Relaxed);
    // The table of pages that this thread needs to wait and to answer.
    let done = &DONE[index];
    done.store(first, Ordering::Relaxed);
    let _ = arch::peek(AT + PAGE);
    for round in first + 1.. {
        done.store(round, Ordering::Release);
        await_at_least(&GO, round);
        let _ = arch::peek(AT);
    }
    thread::sleep_forever()
}

/// Requests to unmap that all pagers but the caller's have got.
fn told() -> u64 {
    let mine = client::my_pager().raw();
    let others = PAGERS.iter().map(|p| p.load(Ordering::Relaxed)).filter(|&p| p != 0 && p != mine);
    let of = |pager| client::counts_of(ThreadId::from_raw(pager), None).map_or(0, |c| c.revokes);
    others.map(of).sum()
}

fn main() {
    let args = Args::of_program();
    let params = Params::read(&args);
    let mut report = Report::default();
    let region = client::add_region(client::pages(AT, 2 * PAGE), Rights::RW, Policy::FirstTouch);
    report.check("os_add_region", region.is_ok(), format_args!("{region:?}"));
    arch::poke(AT + PAGE, 1);
    let stack = SCOUT.take().expect("taken once");
    let thread = client::create_thread(&stack, scout, 0);
    await_at_least(&SCOUTED, 1);
    let gone = thread.and_then(client::delete_thread);
    report.check("os_scout", gone.is_ok(), format_args!("{gone:?}"));
    let cpus = cpus();
    let all: Vec<u64> = (1..=cpus.len() as u64).collect();
    let mut active = 1;
    let mut threads = Vec::new();
    for nodes in args.numbers("nodes", &all) {
        // Ascending numbers only: threads stay where they are.
        while active < nodes.min(cpus.len() as u64) {
            let stack = STACKS[active as usize].take().expect("taken once");
            let arg = active | u64::from(cpus[active as usize].0) << 8;
            let made = client::create_thread(&stack, toucher, arg);
            report.check("os_create_thread", made.is_ok(), format_args!("{made:?}"));
            threads.extend(made);
            await_at_least(&DONE[active as usize], GO.load(Ordering::Relaxed) + 1);
            active += 1;
        }
        unmaps(&mut report, &params, active);
    }
    for thread in threads {
        let gone = client::delete_thread(thread);
        report.check("os_delete_thread", gone.is_ok(), format_args!("{gone:?}"));
    }
    report.end();
}

fn unmaps(report: &mut Report, params: &Params, nodes: u64) {
    let page = client::pages(AT, PAGE);
    let (mut notified, mut took) = (Series::new(), Series::new());
    let mut ticks = Vec::new();
    let overhead = measure::overhead::<32>(arch::tsc);
    let name = format!("unmap {} nodes={nodes}", params.name());
    roi::name::<ROI>(&name);
    let mut complete = true;
    for round in 0..params.rounds {
        arch::poke(AT, round);
        if params.all_touch {
            let next = GO.fetch_add(1, Ordering::AcqRel) + 2;
            DONE[1..nodes as usize].iter().for_each(|done| await_at_least(done, next));
        }
        let before = told();
        let (start, start_tsc) = (time::now_us(), arch::tsc());
        roi::begin_all::<ROI>();
        let unmapped = client::unmap(page);
        roi::end_all::<ROI>();
        ticks.push(arch::tsc().wrapping_sub(start_tsc));
        took.add(time::now_us() - start);
        notified.add(told() - before);
        // The written bit of this round, and the page stays.
        complete &= unmapped.is_ok_and(|(n, bits)| n == 1 && bits.contains(Rights::W));
        complete &= arch::peek(AT) == round;
    }
    let want = params.told(nodes);
    let text = format_args!("{} on {nodes} nodes: {notified}, derived {want}", params.name());
    report.check("os_unmap_notifies", notified.is_always(want), text);
    report.check("os_unmap_complete", complete, format_args!("{} rounds", params.rounds));
    let values = [
        ("nodes", nodes),
        ("touch_all", u64::from(params.all_touch)),
        ("active", u64::from(params.active)),
        ("derived", want),
    ];
    let what = ("unmap", params.name());
    result(what, ("notifications", "count"), notified, &values);
    result(what, ("time", "us"), took, &values);
    // The name of the region: where there is no instrument, this is what the figures show.
    let (metric, unit) = ("time", "TSC ticks");
    let parameters = &[("touch_all", u64::from(params.all_touch))];
    Subject { bench: "unmap", variant: &name, metric, unit, parameters }
        .series(measure::judge(&mut ticks, overhead));
}
