//! SystemClock on all CPUs: one thread on each reads it by turns, hands it on in memory and by messages, sleeps by it, and
//! is migrated while it sleeps. A time that was read before is not later than one that is read afterwards, wherever, but
//! for what the kernel states (`CpuCounter::ClockBound`).
//!
//! `clock_skew=700000` on the kernel command line makes the counters of the CPUs differ by seconds. With `clock_sync=off`, too,
//! and the argument `apart=1`, the clocks must be seen to differ: otherwise the tests here could not fail.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use l4abi::ext::CpuCounter;
use l4abi::record;
use libl4::sys::{self, Schedule};
use libl4::thread::{self, Stack};
use libl4::{CpuId, MsgTag, ThreadId, ThreadNo, Time, Timeouts};
use libl4::{arch, exit, ipc, msg, println, sigma0, time, topology};

libl4::entry!(main);

/// Most CPUs that take part.
const MOST: usize = 16;
/// How long the CPUs read by turns, and how many turns at least, each.
const TURNS_US: u64 = 1_500_000;
const LEAST_TURNS: u64 = 8;
/// Rounds of messages.
const ROUNDS: u64 = 50;
/// How much later than asked a sleeper may wake. Emulated CPUs stand still at times; made-up offsets are larger.
const LATE_US: u64 = 600_000;

/// Commands.
const READ: u64 = 1;
const SLEEP: u64 = 2;
const SLEEP_UNTIL: u64 = 3;
const TAKE_TURNS: u64 = 4;

static STACKS: [Stack<8192>; MOST] = [const { Stack::new() }; MOST];
/// Whose turn it is, modulo the number of CPUs.
static TURN: AtomicU64 = AtomicU64::new(0);
/// The time that was read in the turn before.
static LAST: AtomicU64 = AtomicU64::new(0);
/// No more turns.
static STOP: AtomicBool = AtomicBool::new(false);
/// Threads that take turns.
static AT_IT: AtomicU64 = AtomicU64::new(0);
/// Turns in which the clock was behind by more than stated, and by how much at most, µs.
static BEHIND: AtomicU64 = AtomicU64::new(0);
static WORST_US: AtomicU64 = AtomicU64::new(0);

fn cpus() -> usize {
    topology::cpu_count().min(MOST)
}

fn cpu(n: usize) -> CpuId {
    CpuId(n as u16)
}

/// What the clocks of two CPUs may differ by, µs.
fn apart_us(a: usize, b: usize) -> u64 {
    let bound = |n| arch::cpu_counter(cpu(n), CpuCounter::ClockBound).unwrap_or(0);
    if a == b { 0 } else { (bound(a) + bound(b)).div_ceil(1000) + 1 }
}

fn id(n: usize) -> ThreadId {
    let first = libl4::kip().thread_ranges().root_task().number().0;
    ThreadId::global(ThreadNo(first + 1 + n as u32), 1)
}

fn main() {
    exit::exit_on_panic();
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(4096) {
        let _ = arch::touch_read(page);
    }
    for (n, stack) in STACKS.iter().enumerate().take(cpus()) {
        let utcb = thread::my_utcb_location() + 1024 * (1 + n as u64);
        thread::create_local(id(n), utcb, sigma0::id()).expect("a thread");
        move_to(n, n);
        let stack = stack.take().expect("a stack");
        thread::start_on(id(n), &stack, serve, n as u64).expect("a start");
    }
    let widest = (0..cpus()).map(|n| apart_us(0, n)).max().unwrap_or(0);
    println!("clocks: {} CPUs, at most {widest} us from the boot processor's", cpus());
    let mut ok = true;
    if libl4::boot::number(libl4::boot::arguments(), "apart").is_some() {
        by_turns();
        let (behind, worst) = (BEHIND.load(Ordering::Relaxed), WORST_US.load(Ordering::Relaxed));
        let detail = format_args!("{behind} turns behind, up to {worst} us");
        ok &= report("clock_uncorrected_is_seen", behind > 0 && worst > LATE_US, detail);
    } else {
        let turns = by_turns();
        let (behind, worst) = (BEHIND.load(Ordering::Relaxed), WORST_US.load(Ordering::Relaxed));
        let enough = turns >= LEAST_TURNS * cpus() as u64;
        let detail =
            format_args!("{turns} turns, {behind} behind by more than stated, up to {worst} us");
        ok &= report("clock_by_turns", behind == 0 && enough, detail);
        ok &= run("clock_in_messages", messages());
        ok &= run("clock_sleeps", sleeps());
        ok &= run("clock_points", points());
        ok &= run("clock_sleep_migrates", migrations());
    }
    exit::exit(if ok { exit::Outcome::Success } else { exit::Outcome::Failed });
}

fn report(name: &str, ok: bool, detail: core::fmt::Arguments<'_>) -> bool {
    libl4::console::record(|out| record::Test { name, ok, detail }.write(out));
    ok
}

/// The first wrong interval of a test: from where to where, the least and the greatest it may be, and what it was, µs.
struct Wrong {
    from: usize,
    to: usize,
    least: i64,
    most: i64,
    was: i64,
}

fn run(name: &str, result: Result<u64, Wrong>) -> bool {
    match result {
        Ok(count) => report(name, count > 0, format_args!("{count} intervals")),
        Err(Wrong { from, to, least, most, was }) => {
            let detail =
                format_args!("from cpu {from} to cpu {to}: {was} us, not in {least}..={most}");
            report(name, false, detail)
        }
    }
}

/// Whether the time from `start` on CPU `from` to `end` on CPU `to` is `us`, or up to `late` more.
fn judge(
    (from, start): (usize, u64),
    (to, end): (usize, u64),
    us: u64,
    late: u64,
) -> Result<(), Wrong> {
    let apart = apart_us(from, to);
    let was = end.wrapping_sub(start) as i64;
    let (least, most) = (us as i64 - apart as i64, (us + late + apart) as i64);
    match least <= was && was <= most {
        true => Ok(()),
        false => Err(Wrong { from, to, least, most, was }),
    }
}

fn move_to(n: usize, to: usize) {
    let schedule = Schedule { processor: Some(cpu(to)), ..Schedule::default() };
    sys::schedule(id(n), schedule).expect("a place");
}

/// Tells thread `n` what to do; it answers with two times.
fn ask(n: usize, order: u64, word: u64) -> (u64, u64) {
    let tag = request(order, word);
    answer(ipc::call(id(n), Timeouts::NEVER, tag))
}

fn request(order: u64, word: u64) -> MsgTag {
    let mut message = msg::Writer::here();
    message.word(word);
    message.tag(order)
}

fn answer(got: ipc::IpcResult) -> (u64, u64) {
    let got = got.expect("an answer");
    (got.mr(1), got.mr(2))
}

/// All CPUs read by turns. Answers the number of turns.
fn by_turns() -> u64 {
    for n in 0..cpus() {
        ipc::send(id(n), Time::NEVER, request(TAKE_TURNS, 0)).expect("a listener");
    }
    let least = LEAST_TURNS * cpus() as u64;
    // The sleeps, not the clock, say when it ends: the clock is what is tested. Slow emulators get more.
    let mut slept = 0;
    while slept < TURNS_US || (TURN.load(Ordering::Relaxed) < least && slept < 20 * TURNS_US) {
        time::sleep_us(10_000);
        slept += 10_000;
    }
    STOP.store(true, Ordering::Relaxed);
    while AT_IT.load(Ordering::Relaxed) > 0 {
        time::sleep_us(1_000);
    }
    TURN.load(Ordering::Relaxed)
}

fn take_turns(n: usize) {
    AT_IT.fetch_add(1, Ordering::Relaxed);
    let (all, before) = (cpus() as u64, (n + cpus() - 1) % cpus());
    let apart = apart_us(before, n);
    while !STOP.load(Ordering::Relaxed) {
        let turn = TURN.load(Ordering::Acquire);
        if turn % all != n as u64 {
            core::hint::spin_loop();
            continue;
        }
        let now = time::now_us();
        let late = (LAST.load(Ordering::Relaxed).wrapping_sub(now) as i64).max(0) as u64;
        if turn > 0 && late > apart {
            BEHIND.fetch_add(1, Ordering::Relaxed);
            WORST_US.fetch_max(late, Ordering::Relaxed);
        }
        LAST.store(now, Ordering::Relaxed);
        TURN.store(turn + 1, Ordering::Release);
    }
    AT_IT.fetch_sub(1, Ordering::Relaxed);
}

/// There and back by message: read here, there and here.
fn messages() -> Result<u64, Wrong> {
    let mut count = 0;
    for _ in 0..ROUNDS {
        for n in 0..cpus() {
            let before = time::now_us();
            let (there, _) = ask(n, READ, 0);
            let after = time::now_us();
            let home = usize::from(thread::my_cpu().0);
            judge((home, before), (n, there), 0, LATE_US)?;
            judge((n, there), (home, after), 0, LATE_US)?;
            count += 2;
        }
    }
    Ok(count)
}

/// Everybody sleeps for some time, by his own clock and by this CPU's.
fn sleeps() -> Result<u64, Wrong> {
    const US: u64 = 5_000;
    for n in 0..cpus() {
        let home = usize::from(thread::my_cpu().0);
        let before = time::now_us();
        let (from, until) = ask(n, SLEEP, US);
        let after = time::now_us();
        // Periods have ten significant bits.
        let asked = Time::period_us(US).as_period_us().unwrap_or(US);
        judge((n, from), (n, until), asked, LATE_US)?;
        judge((home, before), (home, after), asked, LATE_US)?;
    }
    Ok(2 * cpus() as u64)
}

/// Everybody sleeps until a point in time that this CPU names.
fn points() -> Result<u64, Wrong> {
    const US: u64 = 20_000;
    for n in 0..cpus() {
        let home = usize::from(thread::my_cpu().0);
        // Points are coarser the further away they are.
        let at = (time::now_us() + US) & !1023;
        let (_, until) = ask(n, SLEEP_UNTIL, at);
        judge((home, at), (n, until), 0, LATE_US)?;
        // It woke by its own clock.
        judge((home, at - apart_us(home, n)), (home, time::now_us()), 0, LATE_US)?;
    }
    Ok(2 * cpus() as u64)
}

/// Everybody is migrated to every other CPU while he sleeps.
fn migrations() -> Result<u64, Wrong> {
    const US: u64 = 40_000;
    let mut count = 0;
    for n in 0..cpus() {
        // With many CPUs: to the next, across the machine, to the one before.
        let all = cpus();
        let ways = [1, all / 2, all - 1].map(|step| (n + step) % all);
        for (i, &to) in ways.iter().enumerate() {
            if to == n || ways[..i].contains(&to) {
                continue;
            }
            ipc::send(id(n), Time::NEVER, request(SLEEP, US)).expect("a listener");
            time::sleep_us(US / 4);
            move_to(n, to);
            let (from, until) = answer(ipc::receive(id(n), Timeouts::NEVER));
            let asked = Time::period_us(US).as_period_us().unwrap_or(US);
            // On a stalled host it may have woken before it was moved: then its own CPU's clock was read.
            let woke = if until >> 63 == 1 { to } else { n };
            judge((n, from), (woke, until & !(1 << 63)), asked, LATE_US)?;
            move_to(n, n);
            count += 1;
        }
    }
    // All sleepers have been about: everything is where it should be (kernel option `placement_check`).
    let _ = arch::check_placement();
    // A single CPU has nowhere to go.
    Ok(count.max(u64::from(cpus() == 1)))
}

/// The thread of CPU `n`.
extern "C" fn serve(n: u64) -> ! {
    let n = n as usize;
    let mut got = ipc::wait();
    loop {
        let Ok(request) = got else {
            got = ipc::wait();
            continue;
        };
        let (order, word) = (request.tag.label(), request.mr(1));
        if order == TAKE_TURNS {
            take_turns(n);
            got = ipc::wait();
            continue;
        }
        let from = time::now_us();
        let until = match order {
            SLEEP => doze(Time::period_us(word)),
            // A point that is too near or too far to be named has passed.
            SLEEP_UNTIL => doze(Time::point_at(word, from).unwrap_or(Time::ZERO)),
            _ => from,
        };
        // Which CPU's clock the second time is of: bit 63 says that it is not the thread's first one.
        let moved = thread::my_cpu() != cpu(n);
        let mut message = msg::Writer::here();
        message.words(&[from, until | u64::from(moved) << 63]);
        let tag = message.tag(0);
        got = ipc::reply_wait(request.from, tag);
    }
}

/// Sleeps, and answers when it ended.
fn doze(timeout: Time) -> u64 {
    // A receive from oneself ends with its timeout.
    let _ = ipc::receive(thread::my_global_id(), Timeouts::new(Time::NEVER, timeout));
    time::now_us()
}
