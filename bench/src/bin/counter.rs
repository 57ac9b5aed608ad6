//! Runs the example server of `docs/writing-a-server.md` in a thread of its own and calls it.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::counter::{CounterClient, TOO_MUCH};
use l4abi::record;
use libl4::exit::{self, Outcome};
use libl4::rpc::{Failure, RpcError, Target};
use libl4::thread::{self, Stack};
use libl4::{ThreadId, arch, sigma0};

libl4::entry!(main);

static STACK: Stack<16384> = Stack::new();

fn main() {
    exit::exit_on_panic();
    // What the server's thread needs must be here: its pager is sigma0, which gives pages to their
    // owner only.
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(4096) {
        let _ = arch::touch_read(page);
    }
    let server = ThreadId::global(libl4::kip().thread_ranges().first_free(), 1);
    let utcb = thread::my_utcb_location() + l4abi::utcb::UTCB_SIZE as u64;
    thread::create_local(server, utcb, sigma0::id()).expect("a thread");
    let stack = STACK.take().expect("unused");
    thread::start_on(server, &stack, bench::counter::main, 0).expect("a start");

    let counter = CounterClient::new(server);
    let mut ok = true;
    let mut step = |name: &str, passed: bool| {
        libl4::console::record(|out| {
            record::Test { name, ok: passed, detail: format_args!("") }.write(out)
        });
        ok &= passed;
    };
    step("counter_add", counter.add(40) == Ok(40) && counter.add(2) == Ok(42));
    step("counter_failure", counter.add(1_000) == Err(RpcError::Failed(Failure(TOO_MUCH))));
    step("counter_look", counter.look() == Ok((42, thread::my_local_id())));
    let wrong: Result<u64, _> = Target::new(server).call(0x4107, 5u64);
    step("counter_unknown_request", wrong == Err(RpcError::Unknown));
    exit::exit(if ok { Outcome::Success } else { Outcome::Failed })
}
