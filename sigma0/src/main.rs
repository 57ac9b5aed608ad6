//! sigma0, the root of all memory: the server loop around [`sigma0::pool::Pool`] (ref 6.6, 8.2).
//!
//! Its own page faults are resolved by the kernel one to one, its mappings come straight from
//! physical memory, and it uses no heap. A reply never waits for its receiver.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use l4abi::proto::Sigma0Request;
use libl4::ipc::{self, Received};
use libl4::msg::Writer;
use libl4::sync::Mutex;
use libl4::{Acceptor, Fpage, MsgTag, ThreadId, println, sys};
use sigma0::pool::{Pool, State, Verdict};

libl4::entry!(main);

/// Too large for the stack; only this program's one thread locks it.
static POOL: Mutex<Pool> = Mutex::new(Pool::new());

fn main() {
    let mut pool = POOL.lock();
    let failed = pool.fill(libl4::kip());
    assert!(failed == 0, "{failed} memory descriptors did not fit");
    serve(&mut pool)
}

fn serve(pool: &mut Pool) -> ! {
    let mut verbosity = 0;
    let mut reply: Option<(ThreadId, MsgTag)> = None;
    ipc::accept(Acceptor::NONE);
    loop {
        let result = match reply.take() {
            None => ipc::wait(),
            Some((to, tag)) => ipc::reply_wait(to, tag),
        };
        // An error: a requester that was not ready for its answer, or a message that did not fit.
        let Ok(message) = result else { continue };
        reply = handle(pool, &message, &mut verbosity).map(|tag| (message.from, tag));
    }
}

fn handle(pool: &mut Pool, message: &Received, verbosity: &mut u64) -> Option<MsgTag> {
    let words = [message.mr(1), message.mr(2), message.mr(3)];
    let Ok(request) = Sigma0Request::parse(message.tag, words) else {
        if *verbosity > 0 {
            println!("sigma0: malformed {:?} from {}", message.tag, message.from);
        }
        return None;
    };
    let verdict = pool.handle(message.from, request);
    if *verbosity > 0 {
        println!("sigma0: {} asks {request:?}: {verdict:?}", message.from);
    }
    match verdict {
        Verdict::Map { fpage, attributes } => Some(map(fpage, attributes)),
        Verdict::Refuse => Some(map_item(0, Fpage::NIL)),
        Verdict::Ignore => None,
        Verdict::Verbose(level) => {
            *verbosity = level;
            None
        }
        Verdict::Dump { reply } => {
            dump(pool);
            reply.then_some(MsgTag::NIL)
        }
    }
}

/// The reply that maps `fpage` where it lies.
fn map(fpage: Fpage, attributes: u64) -> MsgTag {
    let Some(region) = fpage.memory_region() else { return map_item(0, fpage) };
    // The low two bits of the fpage select the attribute: the first.
    let plain = Fpage::from_raw(fpage.raw() & !3);
    if attributes != 0 && sys::memory_control(&[plain], [attributes, 0, 0, 0]).is_err() {
        return map_item(0, Fpage::NIL);
    }
    map_item(region.base(), fpage)
}

fn map_item(base: u64, fpage: Fpage) -> MsgTag {
    let mut message = Writer::here();
    message.map(base, fpage);
    message.tag(0)
}

fn dump(pool: &Pool) {
    for (what, low, last, state) in pool
        .memory()
        .map(|(low, last, state)| ("memory", low, last, state))
        .chain(pool.ports().map(|(low, last, state)| ("ports", low, last, state)))
    {
        match state {
            State::Owned(owner) => println!("sigma0: {what} {low:#014x}..{last:#014x} {owner}"),
            other => println!("sigma0: {what} {low:#014x}..{last:#014x} {other:?}"),
        }
    }
}
