//! Stress across CPUs: clients call servers with checked payloads while this thread migrates, cancels, deletes
//! and recreates them and unmaps pages that they use, at random from a printed seed.
//!
//! A call may fail by what is done to the threads; an answer may never be wrong, nobody may stop for good, and at
//! the end everybody is where the processor number in its UTCB says.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::exregs::Control;
use l4abi::record;
use libl4::sys::{self, Exregs, Schedule};
use libl4::thread::{self, Stack};
use libl4::{CpuId, MsgTag, ThreadId, ThreadNo, Time, Timeouts};
use libl4::{arch, exit, ipc, msg, println, sigma0, time, topology};

libl4::entry!(main);

const SERVERS: usize = 4;
const CLIENTS: usize = 8;
const ALL: usize = SERVERS + CLIENTS;
/// Length of the run.
const RUN_US: u64 = 4_000_000;
/// After the run everybody must do something within this time.
const CALM_US: u64 = 1_000_000;
const SEED: u64 = 0x5EED_0007;

static STACKS: [Stack<8192>; ALL] = [const { Stack::new() }; ALL];
static IDS: [AtomicU64; ALL] = [const { AtomicU64::new(0) }; ALL];
static DONE: [AtomicU64; ALL] = [const { AtomicU64::new(0) }; ALL];
static FAILED: [AtomicU64; ALL] = [const { AtomicU64::new(0) }; ALL];
/// Failed calls by code and phase.
static ERRORS: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
static WRONG: AtomicU64 = AtomicU64::new(0);
static WHERE: [AtomicU64; ALL] = [const { AtomicU64::new(0) }; ALL];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn main() {
    exit::exit_on_panic();
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(4096) {
        let _ = arch::touch_read(page);
    }
    println!("s07_stress: seed {SEED:#x}, {} CPUs", topology::cpu_count());
    let mut random = Random(SEED);
    for n in 0..ALL {
        make(n, 1, CpuId((n % topology::cpu_count()) as u16));
    }
    let end = time::now_us() + RUN_US;
    let (mut moves, mut cancels, mut deletions) = (0u64, 0u64, 0u64);
    let mut version = 1;
    while time::now_us() < end {
        let n = random.below(ALL);
        match random.below(16) {
            0..=7 => moves += u64::from(move_to(n, random.below(topology::cpu_count()))),
            8..=13 => cancels += u64::from(cancel(n)),
            14 => {
                // A version whose low six bits are clear would make a local id.
                version += if version % 64 == 63 { 2 } else { 1 };
                deletions += u64::from(replace(n, version, &mut random));
            }
            _ => time::sleep_us(200),
        }
    }
    let ok = finish();
    let sum = |of: &[AtomicU64; ALL]| of.iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>();
    println!(
        "s07_stress: {} calls, {} failed, {moves} migrations, {cancels} cancels, {deletions} deletions",
        sum(&DONE),
        sum(&FAILED)
    );
    for (i, count) in ERRORS.iter().enumerate().filter(|(_, c)| c.load(Ordering::Relaxed) > 0) {
        println!("  code {} phase {}: {}", i / 2, i % 2, count.load(Ordering::Relaxed));
    }
    exit::exit(if ok { exit::Outcome::Success } else { exit::Outcome::Failed });
}

fn id_of(n: usize) -> ThreadId {
    ThreadId::from_raw(IDS[n].load(Ordering::Relaxed))
}

/// Makes thread `n` on a CPU.
fn make(n: usize, version: u32, cpu: CpuId) {
    let number = thread::my_global_id().number().0 + 1 + n as u32;
    let id = ThreadId::global(ThreadNo(number), version);
    IDS[n].store(id.raw(), Ordering::Relaxed);
    let utcb = thread::my_utcb_location() + 1024 * (1 + n as u64);
    thread::create_local(id, utcb, sigma0::id()).expect("a thread");
    let schedule = Schedule { processor: Some(cpu), ..Schedule::default() };
    sys::schedule(id, schedule).expect("a place");
    STACKS[n].release();
    let stack = STACKS[n].take().expect("a stack");
    let entry = if n < SERVERS { serve } else { call };
    thread::start_on(id, &stack, entry, n as u64).expect("a start");
}

fn move_to(n: usize, cpu: usize) -> bool {
    let schedule = Schedule { processor: Some(CpuId(cpu as u16)), ..Schedule::default() };
    sys::schedule(id_of(n), schedule).is_ok()
}

fn cancel(n: usize) -> bool {
    let change = Exregs { control: Control::RECEIVE | Control::SEND, ..Exregs::default() };
    sys::exchange_registers(id_of(n), change).is_ok()
}

fn replace(n: usize, version: u32, random: &mut Random) -> bool {
    let deleted = thread::delete(id_of(n)).is_ok();
    make(n, version, CpuId(random.below(topology::cpu_count()) as u16));
    deleted
}

/// Everybody must go on without being disturbed, where it was put.
fn finish() -> bool {
    let mut all_ok = true;
    let mut report = |name: &str, ok: bool, detail: core::fmt::Arguments<'_>| {
        libl4::console::record(|out| record::Test { name, ok, detail }.write(out));
        all_ok &= ok;
    };
    let wrong = WRONG.load(Ordering::Relaxed);
    report("s07_payloads", wrong == 0, format_args!("{wrong} wrong answers, seed {SEED:#x}"));
    for n in 0..ALL {
        let _ = move_to(n, n % topology::cpu_count());
    }
    time::sleep_us(CALM_US / 10);
    let before: [u64; ALL] = core::array::from_fn(|n| DONE[n].load(Ordering::Relaxed));
    let limit = time::now_us() + CALM_US;
    let moving = |n: usize| DONE[n].load(Ordering::Relaxed) > before[n];
    while !(0..ALL).all(moving) && time::now_us() < limit {
        time::sleep_us(1_000);
    }
    let stuck = (SERVERS..ALL).filter(|&n| !moving(n)).count();
    report("s07_progress", stuck == 0, format_args!("{stuck} clients stuck, seed {SEED:#x}"));
    let astray = (SERVERS..ALL)
        .filter(|&n| WHERE[n].load(Ordering::Relaxed) != (n % topology::cpu_count()) as u64)
        .count();
    report("s07_places", astray == 0, format_args!("{astray} clients elsewhere"));
    let mut deleted = true;
    for n in 0..ALL {
        deleted &= thread::delete(id_of(n)).is_ok();
    }
    report("s07_deletion", deleted, format_args!("all threads deleted"));
    all_ok
}

/// What the server makes of a word.
const fn answer(word: u64) -> u64 {
    word.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x55
}

extern "C" fn serve(n: u64) -> ! {
    let mut got = ipc::wait();
    loop {
        got = match got {
            Ok(received) => {
                let words: [u64; 16] = core::array::from_fn(|i| received.mr(i + 1));
                let count = received.tag.untyped().min(16);
                let mut reply = msg::Writer::here();
                for word in &words[..count] {
                    reply.word(answer(*word));
                }
                DONE[n as usize].fetch_add(1, Ordering::Relaxed);
                let tag = reply.tag(0);
                ipc::reply_wait(received.from, tag)
            }
            Err(_) => ipc::wait(),
        }
    }
}

extern "C" fn call(n: u64) -> ! {
    let mut random = Random(SEED ^ (n + 1).wrapping_mul(0x1234_5678_9ABC_DEF1));
    let index = n as usize;
    loop {
        let server = id_of(random.below(SERVERS));
        let count = 1 + random.below(16);
        let words: [u64; 16] = core::array::from_fn(|_| random.next());
        let mut message = msg::Writer::here();
        message.words(&words[..count]);
        let tag: MsgTag = message.tag(0);
        let patience = match random.below(4) {
            0 => Timeouts::new(Time::period_us(500), Time::period_us(700)),
            _ => Timeouts::new(Time::period_us(50_000), Time::period_us(50_000)),
        };
        match ipc::call(server, patience, tag) {
            Ok(got) => {
                let right = got.tag.untyped() == count
                    && (0..count).all(|i| got.mr(i + 1) == answer(words[i]));
                if !right {
                    WRONG.fetch_add(1, Ordering::Relaxed);
                }
                DONE[index].fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                FAILED[index].fetch_add(1, Ordering::Relaxed);
                let kind = error.code as usize & 7;
                ERRORS[2 * kind + usize::from(error.phase == l4abi::error::Phase::Receive)]
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        WHERE[index].store(u64::from(thread::my_cpu().0), Ordering::Relaxed);
    }
}
