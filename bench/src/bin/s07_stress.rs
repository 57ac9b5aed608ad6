//! Stress across CPUs: clients call servers with words, strings and mapped pages, all checked, while this thread
//! migrates, cancels, deletes and recreates them and unmaps pages that they use, at random from a printed seed.
//!
//! A call may fail by what is done to the threads; an answer may never be wrong, nobody may stop for good, and at
//! the end everybody is where the processor number in its UTCB says.
//!
//! `cargo xtask test s07 --seconds N --seed S` runs longer and with another seed: the same seed does the same things
//! to the threads in the same order, at other moments.
//!
//! Memory: one region of `PAGES` pages of the root task, and the same pages once more at [`ALIAS`], where a pager thread
//! maps them as they are touched. Strings lie there, so what is unmapped is missing in the middle of a copy. A mapped
//! message is a page of the region, received in the server's own window.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::exregs::Control;
use l4abi::record;
use libl4::ipc::Received;
use libl4::pager::Fault;
use libl4::sys::{self, Exregs, Schedule};
use libl4::thread::{self, Stack};
use libl4::{
    Acceptor, CpuId, Fpage, IpcCode, IpcError, MsgTag, Rights, ThreadId, ThreadNo, Time, Timeouts,
};
use libl4::{arch, exit, ipc, msg, println, sigma0, time, topology};

libl4::entry!(main);

const SERVERS: usize = 4;
const CLIENTS: usize = 8;
const ALL: usize = SERVERS + CLIENTS;
/// Length of the run.
const RUN_US: u64 = 4_000_000;
/// After the run everybody must do something within this time.
const CALM_US: u64 = 1_000_000;
/// The seed that is used without another.
const DEFAULT_SEED: u64 = 0x5EED_0007;
/// Log2 of the region's size.
const REGION_LOG2: u8 = 20;
const PAGE: u64 = 4096;
/// Where the pager maps the region's pages.
const ALIAS: u64 = 0x20_0000_0000;
/// Windows of servers for mapped messages, one page each.
const WINDOWS: u64 = 0x21_0000_0000;
/// First pages of the region for strings sent, strings received, mapped messages, and one that stays zero.
const SENT: u64 = 0;
const RECEIVED: u64 = 32;
const MAPPED: u64 = 64;
const ZERO: u64 = 96;

/// Labels of requests: what they carry.
const WORDS: u64 = 1;
const STRING: u64 = 2;
const MAP: u64 = 3;

/// The seed of this run.
static SEED: AtomicU64 = AtomicU64::new(DEFAULT_SEED);
/// The region.
static REGION: AtomicU64 = AtomicU64::new(0);
/// Calls done, by what they carried.
static KINDS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Faults that the pager served.
static FAULTS: AtomicU64 = AtomicU64::new(0);
static PAGER_STACK: Stack<8192> = Stack::new();
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
    let arguments = libl4::boot::arguments();
    let seed = libl4::boot::number(arguments, "seed").filter(|&s| s != 0).unwrap_or(DEFAULT_SEED);
    let run_us = libl4::boot::number(arguments, "seconds").map_or(RUN_US, |s| s * 1_000_000);
    SEED.store(seed, Ordering::Relaxed);
    println!("s07_stress: seed {seed:#x}, {} CPUs", topology::cpu_count());
    REGION.store(sigma0::any_page(REGION_LOG2).expect("a region"), Ordering::Relaxed);
    for page in 0..1 << (REGION_LOG2 - 12) {
        arch::clear_memory(region(page), PAGE);
    }
    let mut random = Random(seed);
    start_pager();
    for n in 0..ALL {
        make(n, 1, CpuId((n % topology::cpu_count()) as u16));
    }
    let end = time::now_us() + run_us;
    let (mut moves, mut cancels, mut deletions, mut unmaps) = (0u64, 0u64, 0u64, 0u64);
    let mut version = 1;
    while time::now_us() < end {
        let n = random.below(ALL);
        match random.below(16) {
            0..=5 => moves += u64::from(move_to(n, random.below(topology::cpu_count()))),
            6..=10 => cancels += u64::from(cancel(n)),
            11..=13 => unmaps += unmap(&mut random),
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
        "s07_stress: {} calls, {} failed, {moves} migrations, {cancels} cancels, {deletions} deletions, {unmaps} unmaps",
        sum(&DONE),
        sum(&FAILED)
    );
    println!(
        "  answered: {} with words, {} with strings, {} with a page; {} faults served",
        KINDS[WORDS as usize].load(Ordering::Relaxed),
        KINDS[STRING as usize].load(Ordering::Relaxed),
        KINDS[MAP as usize].load(Ordering::Relaxed),
        FAULTS.load(Ordering::Relaxed),
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
    let number = controller().number().0 + 1 + n as u32;
    let id = ThreadId::global(ThreadNo(number), version);
    IDS[n].store(id.raw(), Ordering::Relaxed);
    let utcb = thread::my_utcb_location() + 1024 * (1 + n as u64);
    // The pager names threads by local id, so it may answer a thread in the name of one before it: nobody waits for his
    // start from it.
    thread::create_local(id, utcb, sigma0::id()).expect("a thread");
    let schedule = Schedule { processor: Some(cpu), ..Schedule::default() };
    sys::schedule(id, schedule).expect("a place");
    STACKS[n].release();
    let stack = STACKS[n].take().expect("a stack");
    let entry = if n < SERVERS { serve } else { call };
    let start = Exregs {
        control: Control::ABORT_IPC | Control::RESUME,
        sp: Some(stack.prepare(entry, n as u64)),
        ip: Some(arch::trampoline_ip()),
        pager: Some(pager()),
        ..Exregs::default()
    };
    sys::exchange_registers(id, start).expect("a start");
}

/// Address of page `n` of the region.
fn region(n: u64) -> u64 {
    REGION.load(Ordering::Relaxed) + n * PAGE
}

/// The same page where it comes and goes.
const fn alias(n: u64) -> u64 {
    ALIAS + n * PAGE
}

fn pager() -> ThreadId {
    ThreadId::global(ThreadNo(controller().number().0 + 1 + ALL as u32), 1)
}

/// The first thread, whose numbers the others' count from.
fn controller() -> ThreadId {
    libl4::kip().thread_ranges().root_task()
}

fn start_pager() {
    let utcb = thread::my_utcb_location() + 1024 * (1 + ALL as u64);
    thread::create_local(pager(), utcb, sigma0::id()).expect("a pager");
    let stack = PAGER_STACK.take().expect("taken once");
    thread::start_on(pager(), &stack, serve_faults, 0).expect("its start");
}

/// Maps pages of the region where they are missed; what is missed in a window is a page of zeros, whose reader has
/// lost the one that was sent.
extern "C" fn serve_faults(_: u64) -> ! {
    let mut got = ipc::wait();
    loop {
        got = match got.map(|received| (received.from, Fault::of(&received))) {
            Ok((from, Some(Fault::Page(fault)))) => {
                FAULTS.fetch_add(1, Ordering::Relaxed);
                let page = match fault.addr.checked_sub(ALIAS).map(|offset| offset / PAGE) {
                    Some(n) if n < ZERO => n,
                    _ => ZERO,
                };
                let reply = libl4::pager::map_reply(&fault, region(page), 12, Rights::RW);
                ipc::reply_wait(from, reply)
            }
            _ => ipc::wait(),
        }
    }
}

/// Takes a page of strings away: where it is used, or all that was made of it.
fn unmap(random: &mut Random) -> u64 {
    let page = random.below(RECEIVED as usize + SERVERS) as u64;
    match random.below(2) {
        0 => sys::unmap_one(Fpage::memory(alias(page), 12, Rights::RWX), true),
        _ => sys::unmap_one(Fpage::memory(region(page), 12, Rights::RWX), false),
    };
    1
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
    let (wrong, seed) = (WRONG.load(Ordering::Relaxed), SEED.load(Ordering::Relaxed));
    report("s07_payloads", wrong == 0, format_args!("{wrong} wrong answers, seed {seed:#x}"));
    for n in 0..ALL {
        let _ = move_to(n, n % topology::cpu_count());
    }
    time::sleep_us(CALM_US / 10);
    let before: [u64; ALL] = core::array::from_fn(|n| DONE[n].load(Ordering::Relaxed));
    let limit = time::now_us() + CALM_US;
    let moving = |n: usize| DONE[n].load(Ordering::Relaxed) > before[n];
    // A host that stands still lets the clock go on: time alone says nothing.
    let mut looks = 0;
    while !(0..ALL).all(moving) && (time::now_us() < limit || looks < 1_000) {
        time::sleep_us(1_000);
        looks += 1;
    }
    let stuck = (0..ALL).filter(|&n| !moving(n)).count();
    if stuck > 0 {
        (0..ALL).map(id_of).chain([pager()]).for_each(bench::harness::print_state);
    }
    report("s07_progress", stuck == 0, format_args!("{stuck} threads stuck, seed {seed:#x}"));
    let astray = (SERVERS..ALL)
        .filter(|&n| WHERE[n].load(Ordering::Relaxed) != (n % topology::cpu_count()) as u64)
        .count();
    report("s07_places", astray == 0, format_args!("{astray} clients elsewhere, seed {seed:#x}"));
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

/// The answer to `count` words that begin at `at`.
fn digest(at: u64, count: u64) -> u64 {
    (0..count).fold(count, |sum, i| answer(sum ^ arch::peek(at + 8 * i)))
}

extern "C" fn serve(n: u64) -> ! {
    let window = Fpage::memory(WINDOWS + n * PAGE, 12, Rights::RWX);
    let buffer = alias(RECEIVED + n);
    ipc::accept_string(Acceptor::window(window), buffer, PAGE);
    let mut got = ipc::wait();
    loop {
        got = match got {
            Ok(received) => {
                let tag = answer_request(&received, buffer, WINDOWS + n * PAGE);
                if received.tag.label() == MAP {
                    // After the answer is made and before it is sent: the messages registers are in use.
                    let kept: [u64; 3] = core::array::from_fn(|i| received.mr(i));
                    sys::unmap_one(window, true);
                    restore(&kept);
                }
                DONE[n as usize].fetch_add(1, Ordering::Relaxed);
                ipc::reply_wait(received.from, tag)
            }
            Err(_) => ipc::wait(),
        }
    }
}

/// Puts message registers back.
fn restore(kept: &[u64]) {
    for (i, &word) in kept.iter().enumerate() {
        arch::utcb().store_mr(i, word);
    }
}

/// Makes the answer to a request in the message registers.
fn answer_request(received: &Received, buffer: u64, window: u64) -> MsgTag {
    let count = received.tag.untyped().min(16);
    let words: [u64; 16] = core::array::from_fn(|i| received.mr(i + 1));
    let mut reply = msg::Writer::here();
    match received.tag.label() {
        STRING => {
            // Word 1: its length in words, word 2: how much of it is wanted back.
            let sum = digest(buffer, words[0].min(PAGE / 8));
            reply.word(sum);
            if words[1] > 0 {
                reply.string(buffer, words[1].min(PAGE / 8) * 8);
            }
        }
        MAP => {
            reply.word(digest(window, 4));
        }
        _ => {
            for word in &words[..count] {
                reply.word(answer(*word));
            }
        }
    }
    reply.tag(received.tag.label())
}

/// What one client does.
struct Client {
    n: u64,
    random: Random,
}

impl Client {
    fn patience(&mut self) -> Timeouts {
        match self.random.below(4) {
            0 => Timeouts::new(Time::period_us(500), Time::period_us(700)),
            _ => Timeouts::new(Time::period_us(50_000), Time::period_us(50_000)),
        }
    }

    /// A call with words. The answer is whether it was right.
    fn words(&mut self, server: ThreadId) -> Result<bool, IpcError> {
        let count = 1 + self.random.below(16);
        let words: [u64; 16] = core::array::from_fn(|_| self.random.next());
        let patience = self.patience();
        let mut message = msg::Writer::here();
        message.words(&words[..count]);
        let got = ipc::call(server, patience, message.tag(WORDS))?;
        let same = (0..count).all(|i| got.mr(i + 1) == answer(words[i]));
        Ok(got.tag.untyped() == count && same)
    }

    /// A call with a string, of which some comes back.
    fn string(&mut self, server: ThreadId) -> Result<bool, IpcError> {
        let (from, to) = (alias(SENT + self.n), alias(RECEIVED + SERVERS as u64 + self.n));
        let length = 1 + self.random.below((PAGE / 8) as usize) as u64;
        let back = if self.random.below(3) == 0 { 1 + self.random.next() % length } else { 0 };
        let seed = self.random.next();
        for i in 0..length {
            arch::poke(from + 8 * i, answer(seed ^ i));
        }
        let sum = digest(from, length);
        let patience = self.patience();
        ipc::accept_string(Acceptor::NONE, to, PAGE);
        let mut message = msg::Writer::here();
        message.words(&[length, back]).string(from, length * 8);
        let got = ipc::call(server, patience, message.tag(STRING))?;
        let told = got.mr(1);
        let same = (0..back).all(|i| arch::peek(to + 8 * i) == answer(seed ^ i));
        Ok(told == sum && same)
    }

    /// A call with a page, taken back afterwards.
    fn page(&mut self, server: ThreadId) -> Result<bool, IpcError> {
        let page = region(MAPPED + self.n);
        for i in 0..4 {
            arch::poke(page + 8 * i, self.random.next());
        }
        let sum = digest(page, 4);
        let patience = self.patience();
        let fpage = Fpage::memory(page, 12, Rights::RW);
        let mut message = msg::Writer::here();
        message.map(0, fpage);
        let got = ipc::call(server, patience, message.tag(MAP));
        let told = got.map(|got| got.mr(1));
        sys::unmap_one(fpage, false);
        Ok(told? == sum)
    }
}

extern "C" fn call(n: u64) -> ! {
    let index = n as usize;
    let seed = SEED.load(Ordering::Relaxed) ^ (n + 1).wrapping_mul(0x1234_5678_9ABC_DEF1);
    let mut client = Client { n: n - SERVERS as u64, random: Random(seed | 1) };
    loop {
        let server = id_of(client.random.below(SERVERS));
        let (kind, result) = match client.random.below(8) {
            0 | 1 => (STRING, client.string(server)),
            2 => (MAP, client.page(server)),
            _ => (WORDS, client.words(server)),
        };
        match result {
            Ok(right) => {
                WRONG.fetch_add(u64::from(!right), Ordering::Relaxed);
                DONE[index].fetch_add(1, Ordering::Relaxed);
                KINDS[kind as usize].fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                if error.code == IpcCode::NoPartner {
                    time::sleep_us(200);
                }
                FAILED[index].fetch_add(1, Ordering::Relaxed);
                let kind = error.code as usize & 7;
                ERRORS[2 * kind + usize::from(error.phase == l4abi::error::Phase::Receive)]
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        WHERE[index].store(u64::from(thread::my_cpu().0), Ordering::Relaxed);
    }
}
