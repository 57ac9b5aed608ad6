//! IPC for the placement instrument: call and reply between two threads of the root space, on chosen
//! CPUs, in named regions of interest. `cargo xtask sim simipc --machine 2n4c --caches ideal` shows the
//! instructions, with caches off the accesses.
//!
//! Regions: `call X` is a call and its reply, counted on the caller's CPU (on one CPU that is all of
//! both sides); `one way X` is open on all CPUs from the caller's system call to the server's return
//! from its receive: its latency path is the one way of a message.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::record;
use libl4::sys::{self, Schedule};
use libl4::thread::{self, Stack};
use libl4::{CpuId, MsgTag, NodeId, ThreadId, ThreadNo, Time, Timeouts};
use libl4::{arch, exit, ipc, msg, println, roi, sigma0, topology};

libl4::entry!(main);

/// Rounds that are not counted, so that everything is mapped and warm.
const WARM_UP: u64 = 10;
/// Rounds that are counted.
const ROUNDS: u64 = 50;
/// How long the driver waits for a case, in emulated time.
const PATIENCE: Time = Time::period_us(200_000);
/// Stacks: two per case.
const CASES: usize = 4;

static STACKS: [Stack<8192>; 2 * CASES] = [const { Stack::new() }; 2 * CASES];

/// The case that runs: where, and the partners.
struct Case {
    name: &'static str,
    one_way: &'static str,
    caller: CpuId,
    server: CpuId,
}

static CALLER: AtomicU64 = AtomicU64::new(0);
static SERVER: AtomicU64 = AtomicU64::new(0);
static DRIVER: AtomicU64 = AtomicU64::new(0);

/// Where caller and server found themselves.
static FOUND: [AtomicU64; 2] = [const { AtomicU64::new(u64::MAX) }; 2];

fn main() {
    exit::exit_on_panic();
    // Everything the threads need must be here: nobody serves their faults.
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(4096) {
        let _ = arch::touch_read(page);
    }
    DRIVER.store(thread::my_global_id().raw(), Ordering::Relaxed);
    let cpu = |node: usize, n: usize| {
        let node = NodeId(u8::try_from(node).unwrap_or(0));
        topology::cpus_of(node).nth(n)
    };
    let last = topology::node_count() - 1;
    let first_cpu = cpu(0, 0).unwrap_or(CpuId(0));
    let far = cpu(last, 0);
    let mut all_ok = true;
    let cases = [
        Some(("call same cpu", "one way same cpu", first_cpu, first_cpu)),
        cpu(0, 1).map(|c| ("call same node", "one way same node", first_cpu, c)),
        far.filter(|_| last > 0).map(|c| ("call other node", "one way other node", first_cpu, c)),
        far.filter(|_| last > 0).map(|c| ("call last node", "one way last node", c, c)),
    ];
    for (index, case) in cases.into_iter().enumerate() {
        let Some((name, one_way, caller, server)) = case else { continue };
        let case = Case { name, one_way, caller, server };
        let result = run(index, &case);
        let ok = result.is_ok();
        all_ok &= ok;
        let detail = result.err().unwrap_or("done");
        let name = case.name;
        libl4::console::record(|out| {
            record::Test { name, ok, detail: format_args!("{detail}") }.write(out)
        });
    }
    exit::exit(if all_ok { exit::Outcome::Success } else { exit::Outcome::Failed });
}

/// Runs one case with two new threads.
fn run(index: usize, case: &Case) -> Result<(), &'static str> {
    roi::name::<1>(case.name);
    roi::name::<2>(case.one_way);
    let number = thread::my_global_id().number().0 + 1 + 2 * index as u32;
    let server = ThreadId::global(ThreadNo(number), 1);
    let caller = ThreadId::global(ThreadNo(number + 1), 1);
    SERVER.store(server.raw(), Ordering::Relaxed);
    CALLER.store(caller.raw(), Ordering::Relaxed);
    place(server, 2 * index, case.server, serve)?;
    place(caller, 2 * index + 1, case.caller, call)?;
    ipc::send(caller, PATIENCE, MsgTag::new(0, 0, 0)).map_err(|_| "the caller does not listen")?;
    let done = ipc::receive(caller, Timeouts::new(Time::NEVER, PATIENCE));
    let right = done.map_err(|_| "the caller does not end")?.mr(1);
    thread::delete(caller).map_err(|_| "the caller stays")?;
    thread::delete(server).map_err(|_| "the server stays")?;
    if right != 2 * (WARM_UP + ROUNDS) {
        return Err("wrong replies");
    }
    let wanted = [case.caller, case.server].map(|cpu| u64::from(cpu.0));
    let found = [0, 1].map(|i: usize| FOUND[i].load(Ordering::Relaxed));
    if found == wanted { Ok(()) } else { Err("the threads were not where they should be") }
}

/// A thread on a CPU.
fn place(
    id: ThreadId,
    stack: usize,
    cpu: CpuId,
    entry: extern "C" fn(u64) -> !,
) -> Result<(), &'static str> {
    let utcb = thread::my_utcb_location() + 1024 * (1 + stack as u64);
    thread::create_local(id, utcb, sigma0::id()).map_err(|_| "cannot create a thread")?;
    let schedule = Schedule { processor: Some(cpu), ..Schedule::default() };
    if cpu != thread::my_cpu() {
        sys::schedule(id, schedule).map_err(|_| "cannot move a thread")?;
    }
    let stack = STACKS[stack].take().ok_or("no stack")?;
    thread::start_on(id, &stack, entry, 0).map_err(|_| "cannot start a thread")
}

fn id_of(word: &AtomicU64) -> ThreadId {
    ThreadId::from_raw(word.load(Ordering::Relaxed))
}

/// Answers every message with its word plus one. A word with bit 0 set ends an open region 2.
extern "C" fn serve(_: u64) -> ! {
    let caller = id_of(&CALLER);
    FOUND[1].store(u64::from(thread::my_cpu().0), Ordering::Relaxed);
    let mut result = ipc::receive(caller, Timeouts::NEVER);
    loop {
        if let Ok(got) = &result {
            let word = got.mr(1);
            if word & 1 == 1 {
                roi::end_all::<2>();
            }
            let mut reply = msg::Writer::here();
            reply.word(word + 1);
            let tag = reply.tag(0);
            result = ipc::call(caller, Timeouts::NEVER, tag);
        } else {
            result = ipc::receive(caller, Timeouts::NEVER);
        }
    }
}

/// Calls the server: first for region 1, then for region 2, and tells the driver how often the answer was
/// right.
extern "C" fn call(_: u64) -> ! {
    let (driver, server) = (id_of(&DRIVER), id_of(&SERVER));
    if ipc::receive(driver, Timeouts::NEVER).is_err() {
        println!("the driver is gone");
    }
    FOUND[0].store(u64::from(thread::my_cpu().0), Ordering::Relaxed);
    let mut right = 0;
    for round in 0..WARM_UP + ROUNDS {
        let counted = round >= WARM_UP;
        let mut message = msg::Writer::here();
        message.word(2 * round);
        let tag = message.tag(0);
        if counted {
            roi::begin::<1>();
        }
        let got = ipc::call(server, Timeouts::NEVER, tag);
        if counted {
            roi::end::<1>();
        }
        right += u64::from(got.is_ok_and(|got| got.mr(1) == 2 * round + 1));
    }
    for round in 0..WARM_UP + ROUNDS {
        let counted = round >= WARM_UP;
        let word = 2 * round + u64::from(counted);
        let mut message = msg::Writer::here();
        message.word(word);
        let tag = message.tag(0);
        if counted {
            roi::begin_all::<2>();
        }
        let got = ipc::call(server, Timeouts::NEVER, tag);
        right += u64::from(got.is_ok_and(|got| got.mr(1) == word + 1));
    }
    let mut message = msg::Writer::here();
    message.word(right);
    let tag = message.tag(0);
    if ipc::send(driver, Time::NEVER, tag).is_err() {
        println!("the driver does not listen");
    }
    thread::sleep_forever()
}
