//! The thesis' array walk (numa-l4 5.4.1, A7 to A11): two threads, one per node, walk parts of an array
//! that overlap more or less, one upwards and the other downwards, and turn round at the ends.
//!
//! Arguments (`docs/design/os.md` has the table): `pages`, `overlap`, `passes`, `step`, `local`, `serial`,
//! and what the system is: `flat`, `single`. `overlap` and `passes` may be lists: each combination is one
//! run on fresh pages. The timed part of each is a region of interest on all CPUs.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
use app_pager::client;
use app_pager::region::Policy;
use bench::experiment::{Args, Report, Series, await_at_least, other_cpu, result};
use bench::lab::report::Subject;
use bench::lab::traffic::{self, Counts, Traffic};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::thread::Stack;
use libl4::{
    CpuId, MsgTag, NodeId, Rights, ThreadId, Time, arch, ipc, program, roi, thread, time, topology,
};

libl4::program!(main);

const ARRAY: u64 = 0x1_0000_0000;
/// Distance from a run's array to the next one's.
const RUN: u64 = 0x1_0000_0000;
/// A page that both threads touch before the first run.
const SCRATCH: u64 = 0x8000_0000;
const PAGE: u64 = 4096;
/// Distance between the words that the two threads write in each page: a line.
const OWN: u64 = 64;
const ROI: u16 = 11;

static STACK: Stack<{ 16 * 1024 }> = Stack::new();

/// What the second thread is to do.
static FIRST: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);
static PASSES: AtomicU64 = AtomicU64::new(0);
static STEP: AtomicU64 = AtomicU64::new(0);
/// Number of walks that the second thread may begin, has got ready for, and has ended.
static GO: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
/// Words that were not what they should be.
static WRONG: AtomicU64 = AtomicU64::new(0);
/// What the second thread's processor counted in its last walk.
static COUNTED: [AtomicU64; traffic::PACKED] = [const { AtomicU64::new(0) }; traffic::PACKED];
/// The pager that serves the second thread.
static PAGER: AtomicU64 = AtomicU64::new(0);

struct Params {
    pages: u64,
    overlaps: Vec<u64>,
    passes: Vec<u64>,
    step: u64,
    local: bool,
    serial: bool,
    flat: bool,
    single: bool,
}

impl Params {
    fn read() -> Self {
        let args = Args::of_program();
        Self {
            pages: args.number("pages", 64).max(1),
            overlaps: args.numbers("overlap", &[100]),
            passes: args.numbers("passes", &[2]),
            step: args.number("step", PAGE).clamp(4, PAGE),
            local: args.flag("local"),
            serial: args.flag("serial"),
            flat: args.flag("flat"),
            single: args.flag("single"),
        }
    }

    const fn variant(&self) -> &'static str {
        match (self.flat, self.single, self.local) {
            (true, ..) => "flat",
            (_, true, _) => "single",
            (_, _, true) => "numa-local",
            _ => "numa",
        }
    }
}

/// One run.
struct Run {
    base: u64,
    overlap: u64,
    passes: u64,
    /// Pages that both threads touch.
    shared: u64,
    /// The threads are on different nodes, and the system has a pager for each.
    two: bool,
    /// The second thread.
    second: ThreadId,
}

/// Walks `pages` pages from `first` on, `passes` times, turning round at the ends, and reads each in
/// steps. With steps of a page, which count faults and measure nothing, thread number `who` also
/// writes a word of its own in each page and finds it again.
fn walk(first: u64, pages: u64, passes: u64, step: u64, who: u64) {
    let (mut wrong, writes) = (0, step == PAGE);
    for pass in 0..passes {
        // The first thread starts at the bottom, the second at the top.
        let upwards = (pass + who).is_multiple_of(2);
        for i in 0..pages {
            let at = first + PAGE * if upwards { i } else { pages - 1 - i };
            let own = at + OWN * who;
            if writes {
                wrong += u64::from(arch::peek(own) != if pass > 0 { at } else { 0 });
                arch::poke(own, at);
            }
            let mut offset = 0;
            while offset < PAGE {
                let inside = if upwards { offset } else { PAGE - step - offset };
                let _ = arch::peek((at + inside) & !7);
                offset += step;
            }
        }
    }
    WRONG.fetch_add(wrong, Ordering::Relaxed);
}

/// Touches what a walk needs beside the array.
fn warm_up(who: u64) {
    arch::poke(SCRATCH + OWN * who, 0);
    walk(SCRATCH, 1, 2, PAGE, who);
    let _ = faults(false);
}

extern "C" fn second(cpu: u64) -> ! {
    program::report_exceptions();
    // A failure shows in the placement that is checked.
    let _ = client::migrate_thread(thread::my_global_id(), CpuId(cpu as u16));
    PAGER.store(client::my_pager().raw(), Ordering::Relaxed);
    warm_up(1);
    for round in 1.. {
        // Asleep while the first thread gets a walk ready and gives its pages back, which takes longer than the walk.
        let _ = ipc::wait();
        READY.store(round, Ordering::Release);
        await_at_least(&GO, round);
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let counted = Traffic::start(CpuId(cpu as u16));
        walk(of(&FIRST), of(&PAGES), of(&PASSES), of(&STEP), 1);
        for (word, count) in COUNTED.iter().zip(counted.counts().pack()) {
            word.store(count, Ordering::Relaxed);
        }
        DONE.store(round, Ordering::Release);
    }
    thread::sleep_forever()
}

/// Page faults of the task that the pagers of the first and of the second thread have served; all of
/// them in the first number if one pager serves both.
fn faults(two: bool) -> (u64, u64) {
    let task = client::my_task().ok();
    let of = |pager| client::counts_of(pager, task).map_or(0, |c| c.faults);
    let other = ThreadId::from_raw(PAGER.load(Ordering::Relaxed));
    (of(client::my_pager()), if two { of(other) } else { 0 })
}

fn main() {
    let params = Params::read();
    let mut report = Report::default();
    let here = topology::my_node();
    let cpu = other_cpu(here);
    let two = topology::node_of(cpu) != here && !params.flat;
    let scratch = client::add_region(client::pages(SCRATCH, PAGE), Rights::RW, Policy::FirstTouch);
    report.check("os_add_region", scratch.is_ok(), format_args!("{scratch:?}"));
    let stack = STACK.take().expect("taken once");
    let thread = client::create_thread(&stack, second, u64::from(cpu.0));
    report.check("os_create_thread", thread.is_ok(), format_args!("{thread:?}"));
    let Ok(second) = thread else { return report.end() };
    warm_up(0);
    traffic::announce("arraywalk", thread::my_cpu());
    traffic::announce("arraywalk", cpu);
    let mut round = 0;
    for &overlap in &params.overlaps {
        for &passes in &params.passes {
            let base = ARRAY + round * RUN;
            round += 1;
            let shared = params.pages * overlap.min(100) / 100;
            let run = Run { base, overlap, passes, shared, two, second };
            measure(&mut report, &params, &run, round);
        }
    }
    let deleted = client::delete_thread(second);
    report.check("os_delete_thread", deleted.is_ok(), format_args!("{deleted:?}"));
    report.end();
}

fn measure(report: &mut Report, params: &Params, run: &Run, round: u64) {
    let pages = params.pages;
    let all = client::pages(run.base, (2 * pages - run.shared) * PAGE);
    let made = client::add_region(all, Rights::RW, Policy::FirstTouch)
        .and_then(|()| if params.local { client::make_local(all) } else { Ok(()) });
    report.check("os_make_region", made.is_ok(), format_args!("{made:?}"));
    FIRST.store(run.base + (pages - run.shared) * PAGE, Ordering::Relaxed);
    PAGES.store(pages, Ordering::Relaxed);
    PASSES.store(run.passes, Ordering::Relaxed);
    STEP.store(params.step, Ordering::Relaxed);
    let woken = ipc::send(run.second, Time::NEVER, MsgTag::NIL);
    report.check("os_arraywalk_ready", woken.is_ok(), format_args!("{woken:?}"));
    await_at_least(&READY, round);
    let before = faults(run.two);
    let name = format!("walk {} o={} n={}", params.variant(), run.overlap, run.passes);
    roi::name::<ROI>(&name);
    let counted_here = Traffic::start(thread::my_cpu());
    let (start, start_tsc) = (time::now_us(), arch::tsc());
    roi::begin_all::<ROI>();
    if !params.serial {
        GO.store(round, Ordering::Release);
    }
    walk(run.base, pages, run.passes, params.step, 0);
    let counted_here = counted_here.counts();
    GO.store(round, Ordering::Release);
    await_at_least(&DONE, round);
    roi::end_all::<ROI>();
    let (took, ticks) = (time::now_us() - start, arch::tsc().wrapping_sub(start_tsc));
    let after = faults(run.two);
    let counted = (after.0 - before.0, after.1 - before.1);
    check_counts(report, params, run, counted);
    let values = [
        ("overlap", run.overlap),
        ("passes", run.passes),
        ("pages", pages),
        ("step", params.step),
        ("local", u64::from(params.local)),
    ];
    let what = ("arraywalk", params.variant());
    result(what, ("time", "us"), Series::one(took), &values);
    result(what, ("faults", "count"), Series::one(counted.0 + counted.1), &values);
    // The name of the region: where there is no instrument, this is what the figures show.
    result(("arraywalk", &name), ("time", "TSC ticks"), Series::one(ticks), &values);
    let there = Counts::unpack(COUNTED.each_ref().map(|word| word.load(Ordering::Relaxed)));
    for (cpu, counts) in [(0, counted_here), (1, there)] {
        let (metric, unit) = ("remote", "accesses");
        let parameters = &[("cpu", cpu)];
        counts.report(Subject { bench: "arraywalk", variant: &name, metric, unit, parameters }, 1);
    }
    if !params.local {
        place(report, params, run);
        let gone = client::discard(all);
        report.check("os_discard", gone.is_ok(), format_args!("{gone:?}"));
    }
}

/// numa-l4 5.4.1: with a space per node each node faults once for each page it touches; in one space a
/// page faults once. Two threads that meet on a page may both fault there, and they meet once.
fn check_counts(report: &mut Report, params: &Params, run: &Run, (first, second): (u64, u64)) {
    let pages = params.pages;
    let text = format_args!("{first} and {second}, overlap {} passes {}", run.overlap, run.passes);
    if run.two && !params.single {
        report.check("os_arraywalk_faults", (first, second) == (pages, pages), text);
    } else {
        let want = 2 * pages - run.shared;
        let meet = u64::from(!params.serial && run.shared > 0);
        let ok = (want..=want + meet).contains(&(first + second));
        report.check("os_arraywalk_faults", ok, text);
    }
    let wrong = WRONG.load(Ordering::Relaxed);
    report.check("os_arraywalk_words", wrong == 0, format_args!("{wrong} wrong"));
}

/// Each page lies on the node that touched it first: asked, not assumed. Who came first in the shared
/// part is known only if one thread walked after the other.
fn place(report: &mut Report, params: &Params, run: &Run) {
    let here = topology::my_node();
    let (pages, own) = (params.pages, params.pages - run.shared);
    let on = |first: u64, count: u64, home: bool| {
        let node = |page: u64| client::query(run.base + page * PAGE).ok()?.frames.iter().next();
        let there = |node: NodeId| (node == here) == home;
        (first..first + count).filter(|&page| node(page).is_some_and(there)).count() as u64
    };
    let first = if params.serial { pages } else { own };
    let found = on(0, first, true);
    let text = format_args!("{found} of {first} on node {}", here.0);
    report.check("os_first_touch", found == first, text);
    let found = on(pages, own, !run.two);
    let text = format_args!("{found} of {own} where the second thread is");
    report.check("os_first_touch_second", found == own, text);
}
