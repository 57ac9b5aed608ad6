//! Calls to a thread on another CPU, and a page taken back from both, with pauses between, so that both CPUs sleep:
//! what `docs/design/tracing.md` explains. `cargo xtask run --machine 2n2c --roottask tracecall --trace FILE` traces it.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::record;
use libl4::sys::{self, Schedule};
use libl4::thread::{self, Stack};
use libl4::{CpuId, Fpage, Rights, ThreadId, ThreadNo, Timeouts};
use libl4::{arch, exit, ipc, msg, sigma0, time, topology};

libl4::entry!(main);

/// Calls.
const ROUNDS: u64 = 3;
/// Long enough for every CPU to fall asleep.
const PAUSE_US: u64 = 5_000;

static STACK: Stack<8192> = Stack::new();
/// The page that is taken back; the server reads it.
static PAGE: AtomicU64 = AtomicU64::new(0);

fn main() {
    exit::exit_on_panic();
    // Everything the server needs must be here: nobody serves its faults.
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(4096) {
        let _ = arch::touch_read(page);
    }
    let result = run();
    let detail = result.err().unwrap_or("done");
    libl4::console::record(|out| {
        let ok = result.is_ok();
        record::Test { name: "trace_call", ok, detail: format_args!("{detail}") }.write(out)
    });
    exit::exit(if result.is_ok() { exit::Outcome::Success } else { exit::Outcome::Failed });
}

fn run() -> Result<(), &'static str> {
    let here = thread::my_cpu();
    let others = (0..topology::cpu_count() as u16).map(CpuId).filter(|&cpu| cpu != here);
    let far = others.max_by_key(|&cpu| topology::node_of(cpu) != topology::node_of(here));
    let page = sigma0::any_page(12).map_err(|_| "no page")?;
    arch::poke(page, 1);
    PAGE.store(page, Ordering::Relaxed);
    let server = ThreadId::global(ThreadNo(thread::my_global_id().number().0 + 1), 1);
    let utcb = thread::my_utcb_location() + 1024;
    thread::create_local(server, utcb, sigma0::id()).map_err(|_| "cannot create a thread")?;
    let schedule = Schedule { processor: far, ..Schedule::default() };
    sys::schedule(server, schedule).map_err(|_| "cannot move a thread")?;
    let stack = STACK.take().ok_or("no stack")?;
    let me = thread::my_global_id().raw();
    thread::start_on(server, &stack, serve, me).map_err(|_| "cannot start a thread")?;
    for round in 0..ROUNDS {
        time::sleep_us(PAUSE_US);
        let mut message = msg::Writer::here();
        message.word(round);
        let tag = message.tag(0);
        let got = ipc::call(server, Timeouts::NEVER, tag).map_err(|_| "the call failed")?;
        if got.mr(1) != round + 1 {
            return Err("a wrong reply");
        }
    }
    // The server's CPU has the space loaded.
    let _ = sys::unmap_one(Fpage::memory(page, 12, Rights::RWX), true);
    Ok(())
}

/// Answers every message with its word plus one.
extern "C" fn serve(client: u64) -> ! {
    let client = ThreadId::from_raw(client);
    let mut result = ipc::receive(client, Timeouts::NEVER);
    loop {
        let word = result.as_ref().map_or(0, |got| got.mr(1));
        let read = arch::peek(PAGE.load(Ordering::Relaxed));
        let mut reply = msg::Writer::here();
        reply.word(word + read);
        let tag = reply.tag(0);
        result = ipc::call(client, Timeouts::NEVER, tag);
    }
}
