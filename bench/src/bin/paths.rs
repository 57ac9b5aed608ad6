//! The kernel's paths, each in a region of interest for the placement instrument to count: `cargo xtask bench paths`.
//!
//! Root-task position, one CPU. A partner thread in a space of its own plays roles on command; this thread is its
//! pager. Region names are the rows of the table in `xtask/src/bench/paths.rs`; each region holds `ROUNDS`
//! repetitions, or one batch where the row is per item.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use libl4::arch::probe::{Trap, raise};
use libl4::l4abi::schedule::TimeControl;
use libl4::pager::{self, Fault};
use libl4::sys::{self, Schedule, ThreadControl};
use libl4::thread::{self, Stack};
use libl4::{Acceptor, Fpage, MsgTag, Rights, ThreadId, ThreadNo, Time, Timeouts};
use libl4::{arch, exit, ipc, kip, msg, println, roi, sigma0, time};

libl4::entry!(main);

/// Repetitions in a region.
const ROUNDS: u64 = 100;
/// Pages of a batch.
const BATCH: usize = 31;
const STACK_SIZE: usize = 16 * 1024;
static STACK: Stack<STACK_SIZE> = Stack::new();
/// UTCBs of the partner's space.
const PARTNER_UTCBS: u64 = 0x8000_0000;
/// Memory that the partner faults on or gets mapped: its addresses are those of memory of this thread.
const SCRATCH: u64 = 96 << 20;
const PAGE: u64 = 4096;
/// Log2 of the size of a large page, and where the partner gets parts of one.
const LARGE_LOG2: u8 = 21;
const PARTS: u64 = 0x40_0000_0000;

/// What the partner can do; the label of a command.
mod role {
    /// Answer `ROUNDS` calls by closed calls.
    pub const CALL: u64 = 1;
    /// Answer calls by reply-and-wait from anybody until a message with label 0.
    pub const SERVE: u64 = 2;
    /// Touch `ROUNDS` pages from the address in MR1 on.
    pub const TOUCH: u64 = 3;
    /// Switch to the controller `ROUNDS` times.
    pub const SWITCH: u64 = 4;
    /// Raise `ROUNDS` exceptions.
    pub const TRAP: u64 = 5;
    /// Wait for an interrupt `ROUNDS` times.
    pub const INTERRUPT: u64 = 6;
    /// Take `ROUNDS` strings of a page.
    pub const STRINGS: u64 = 7;
}

fn my_id(offset: u32) -> ThreadId {
    ThreadId::global(ThreadNo(thread::my_global_id().number().0 + offset), 1)
}

fn never() -> Timeouts {
    Timeouts::NEVER
}

/// The partner: takes commands of its creator for ever.
extern "C" fn partner(creator: u64) -> ! {
    let boss = ThreadId::from_raw(creator);
    // Everything it will use is there before anything is measured.
    let (start, end) = arch::image_range();
    for page in (start..end).step_by(PAGE as usize) {
        let _ = arch::touch_read(page);
    }
    arch::utcb().exception_handler.store(boss.raw(), Ordering::Relaxed);
    ipc::accept(Acceptor::COMPLETE);
    let mut command = ipc::call(boss, never(), MsgTag::new(0, 0, 0));
    loop {
        let Ok(got) = command else { thread::sleep_forever() };
        match got.tag.label() {
            role::CALL => answer_by_calls(boss),
            role::SERVE => serve(),
            role::TOUCH => touch(got.mr(1)),
            role::SWITCH => (0..ROUNDS).for_each(|_| sys::thread_switch(boss)),
            role::TRAP => (0..ROUNDS).for_each(|_| {
                let _ = raise(Trap::InvalidOpcode, 0);
            }),
            role::INTERRUPT => interrupts(),
            role::STRINGS => strings(boss),
            _ => {}
        }
        command = ipc::call(boss, never(), MsgTag::new(0, 0, 0));
    }
}

fn answer_by_calls(boss: ThreadId) {
    let mut words = 0;
    for _ in 0..=ROUNDS {
        if let Ok(got) = ipc::call(boss, never(), MsgTag::new(role::CALL, words, 0)) {
            words = got.tag.untyped();
        }
    }
}

fn serve() {
    let mut got = ipc::wait();
    while let Ok(message) = got {
        if message.tag.label() == 0 {
            let _ = ipc::send(message.from, Time::ZERO, MsgTag::NIL);
            return;
        }
        let words = message.tag.untyped();
        got = ipc::reply_wait(message.from, MsgTag::new(role::SERVE, words, 0));
    }
}

fn touch(from: u64) {
    for page in 0..ROUNDS {
        let _ = arch::touch_read(from + page * PAGE);
    }
}

/// The interval timer: its first channel fires once, a while after it was told to, so that the thread that runs
/// then need not be the one with the ports.
mod timer {
    use libl4::arch;

    /// Its line: the bus's line 0 is the I/O APIC's input 2 on all boards.
    pub const LINE: u32 = 2;
    const COMMAND: u16 = 0x43;
    /// Channel 0, both bytes, interrupt on terminal count.
    const ONCE: u8 = 0x30;
    const COUNT: u16 = 0x40;
    /// Ticks of 0.84 us.
    const TICKS: u16 = 240;

    /// Lets it fire in 200 us.
    pub fn start() {
        arch::port_write(COMMAND, ONCE);
        arch::port_write(COUNT, TICKS as u8);
        arch::port_write(COUNT, (TICKS >> 8) as u8);
    }
}

/// Interrupts that the partner has taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

fn interrupts() {
    let line = ThreadId::irq(timer::LINE);
    let mut got = ipc::receive(line, never());
    for n in 1..=ROUNDS {
        roi::end::<9>();
        if got.is_err() {
            return;
        }
        TAKEN.store(n, Ordering::Relaxed);
        if n < ROUNDS {
            // Re-enables the line and waits for the next.
            got = ipc::call(line, never(), MsgTag::NIL);
        }
    }
    let _ = ipc::send(line, Time::ZERO, MsgTag::NIL);
}

fn strings(boss: ThreadId) {
    ipc::accept_string(Acceptor::NONE, SCRATCH + BUFFER * PAGE, PAGE);
    let mut got = ipc::call(boss, never(), MsgTag::NIL);
    for _ in 0..ROUNDS {
        roi::end::<10>();
        if got.is_err() {
            return;
        }
        got = ipc::call(boss, never(), MsgTag::NIL);
    }
    ipc::accept(Acceptor::COMPLETE);
}

/// Page of the scratch memory that strings go to.
const BUFFER: u64 = 200;

/// Tells the partner what to do.
fn command(partner: ThreadId, role: u64, argument: u64) {
    let mut message = msg::Writer::here();
    message.word(argument);
    let tag = message.tag(role);
    check("command", ipc::send(partner, Time::NEVER, tag).is_ok());
}

/// Waits until it is done.
fn done(partner: ThreadId) {
    let got = ipc::receive(partner, never());
    check("done", got.is_ok_and(|g| g.tag.label() == 0));
}

/// A path that does not work must not be measured.
fn check(what: &str, ok: bool) {
    if !ok {
        println!("paths: {what} failed");
        exit::exit(exit::Outcome::Failed);
    }
}

fn main() {
    exit::exit_on_panic();
    for page in 0..256 {
        arch::poke(SCRATCH + page * PAGE, page);
    }
    let partner = make_partner();
    null_call();
    ipc_calls(partner);
    faults(partner);
    mappings(partner);
    switches(partner);
    exceptions(partner);
    interrupt_path(partner);
    string_path(partner);
    threads_and_spaces();
    exit::exit(exit::Outcome::Success);
}

fn make_partner() -> ThreadId {
    let id = my_id(1);
    check("space", make_space(id).is_ok());
    let highest = Schedule { priority: Some(255), ..Schedule::default() };
    check("schedule", sys::schedule(id, highest).is_ok());
    let Some(stack) = STACK.take() else { return id };
    let sp = stack.prepare(partner, thread::my_global_id().raw());
    check("start", pager::start_message(id, arch::trampoline_ip(), sp).is_ok());
    ipc::accept(Acceptor::NONE);
    // Serves its faults until it asks for work.
    let mut got = ipc::receive(id, never());
    while let Ok(message) = got {
        let Some(Fault::Page(fault)) = Fault::of(&message) else { break };
        let _ = arch::touch_read(fault.addr);
        let tag = pager::map_reply(&fault, fault.addr, 12, Rights::RWX);
        got = ipc::call(id, never(), tag);
    }
    id
}

fn make_space(id: ThreadId) -> sys::SysResult<()> {
    let me = thread::my_global_id();
    let create = ThreadControl {
        dest: id,
        space: id,
        scheduler: me,
        pager: ThreadId::NIL,
        utcb: Some(PARTNER_UTCBS),
    };
    sys::thread_control(create)?;
    let kip_area = kip().area_at(libl4::start::kip_base());
    let utcb_area = Fpage::memory(PARTNER_UTCBS, kip().utcb_area_log2(), Rights::empty());
    sys::space_control(id, 0, kip_area, utcb_area, ThreadId::NIL)?;
    sys::thread_control(ThreadControl { pager: me, utcb: None, ..create })
}

fn null_call() {
    roi::name::<1>("null");
    let mut last = time::now_us();
    roi::begin::<1>();
    for _ in 0..ROUNDS {
        last = time::now_us();
    }
    roi::end::<1>();
    check("clock", last > 0);
}

fn ipc_calls(partner: ThreadId) {
    for (words, name) in [(0, "ipc 0"), (7, "ipc 7"), (63, "ipc 63")] {
        roi::name::<2>(name);
        command(partner, role::CALL, 0);
        check("first", ipc::receive(partner, never()).is_ok());
        let tag = MsgTag::new(role::CALL, words, 0);
        // Warm: the partner answers with as many words from the second round on.
        roi::begin::<2>();
        for _ in 0..ROUNDS {
            if ipc::call(partner, never(), tag).is_err() {
                break;
            }
        }
        roi::end::<2>();
        check("call", ipc::send(partner, Time::NEVER, tag).is_ok());
        done(partner);
    }
    roi::name::<3>("ipc serve");
    command(partner, role::SERVE, 0);
    let tag = MsgTag::new(role::SERVE, 0, 0);
    check("serve", ipc::call(partner, never(), tag).is_ok());
    roi::begin::<3>();
    for _ in 0..ROUNDS {
        if ipc::call(partner, never(), tag).is_err() {
            break;
        }
    }
    roi::end::<3>();
    check("end", ipc::call(partner, never(), MsgTag::NIL).is_ok());
    done(partner);
}

fn faults(partner: ThreadId) {
    roi::name::<4>("fault");
    let same = |addr| addr;
    fault_round_trips::<4>(partner, SCRATCH, same);
    roi::name::<13>("fault in large");
    let Ok(large) = sigma0::any_page(LARGE_LOG2) else { return check("a large page", false) };
    fault_round_trips::<13>(partner, PARTS, |addr| large + (addr - PARTS));
}

/// The partner faults on `ROUNDS` pages from `first` on and gets what `source` says.
fn fault_round_trips<const ROI: u16>(partner: ThreadId, first: u64, source: impl Fn(u64) -> u64) {
    command(partner, role::TOUCH, first);
    let mut got = ipc::receive(partner, never());
    roi::begin::<ROI>();
    for _ in 0..ROUNDS {
        let Some(Fault::Page(fault)) = got.as_ref().ok().and_then(Fault::of) else { break };
        let tag = pager::map_reply(&fault, source(fault.addr), 12, Rights::RWX);
        got = ipc::call(partner, never(), tag);
    }
    roi::end::<ROI>();
    check("faults", got.is_ok_and(|g| g.tag.label() == 0));
}

fn mappings(partner: ThreadId) {
    roi::name::<5>("map 31");
    roi::name::<6>("unmap 31");
    command(partner, role::SERVE, 0);
    let pages = |n: usize| SCRATCH + n as u64 * PAGE;
    for _ in 0..4 {
        let mut message = msg::Writer::here();
        for n in 0..BATCH {
            message.map(0x4000_0000 + n as u64 * PAGE, Fpage::memory(pages(n), 12, Rights::RW));
        }
        let tag = message.tag(role::SERVE);
        roi::begin::<5>();
        let got = ipc::call(partner, never(), tag);
        roi::end::<5>();
        check("map", got.is_ok());
        let mut fpages = [Fpage::NIL; BATCH];
        for (n, fpage) in fpages.iter_mut().enumerate() {
            *fpage = Fpage::memory(pages(n), 12, Rights::RWX);
        }
        roi::begin::<6>();
        sys::unmap(&mut fpages, false);
        roi::end::<6>();
    }
    check("end", ipc::call(partner, never(), MsgTag::NIL).is_ok());
    done(partner);
}

fn switches(partner: ThreadId) {
    roi::name::<7>("switch");
    command(partner, role::SWITCH, 0);
    sys::thread_switch(partner);
    roi::begin::<7>();
    for _ in 1..ROUNDS {
        sys::thread_switch(partner);
    }
    roi::end::<7>();
    done(partner);
}

fn exceptions(partner: ThreadId) {
    roi::name::<8>("exception");
    command(partner, role::TRAP, 0);
    let mut got = ipc::receive(partner, never());
    roi::begin::<8>();
    for _ in 0..ROUNDS {
        let Ok(message) = &got else { break };
        let skipped = message.mr(1) + Trap::InvalidOpcode.len();
        arch::utcb().store_mr(1, skipped);
        got = ipc::call(partner, never(), MsgTag::new(0, 18, 0));
    }
    roi::end::<8>();
    check("exceptions", got.is_ok_and(|g| g.tag.label() == 0));
}

fn interrupt_path(partner: ThreadId) {
    roi::name::<9>("interrupt");
    let line = ThreadId::irq(timer::LINE);
    let attach = ThreadControl {
        dest: line,
        space: line,
        scheduler: ThreadId::NIL,
        pager: partner,
        utcb: None,
    };
    check("attach", sys::thread_control(attach).is_ok());
    let me = thread::my_global_id();
    let endless = TimeControl { timeslice: Time::NEVER, quantum: Time::NEVER };
    let below = Schedule { priority: Some(200), time: Some(endless), ..Schedule::default() };
    check("schedule", sys::schedule(me, below).is_ok());
    command(partner, role::INTERRUPT, 0);
    for n in 0..ROUNDS {
        timer::start();
        // Whoever has used ports is a special case when it is interrupted, until it has left the CPU once.
        time::sleep_us(20);
        check("too early", TAKEN.load(Ordering::Relaxed) == n);
        roi::begin::<9>();
        while TAKEN.load(Ordering::Relaxed) == n {
            core::hint::spin_loop();
        }
    }
    done(partner);
    let above = Schedule { priority: Some(255), ..Schedule::default() };
    check("schedule", sys::schedule(me, above).is_ok());
}

fn string_path(partner: ThreadId) {
    roi::name::<10>("string 4096");
    // The buffer is mapped by a fault of the partner.
    command(partner, role::TOUCH, SCRATCH + (BUFFER - ROUNDS + 1) * PAGE);
    let mut got = ipc::receive(partner, never());
    while let Some(Fault::Page(fault)) = got.as_ref().ok().and_then(Fault::of) {
        let tag = pager::map_reply(&fault, fault.addr, 12, Rights::RWX);
        got = ipc::call(partner, never(), tag);
    }
    command(partner, role::STRINGS, 0);
    check("first", ipc::receive(partner, never()).is_ok());
    for _ in 0..ROUNDS {
        let mut message = msg::Writer::here();
        message.string(SCRATCH, PAGE);
        let tag = message.tag(role::STRINGS);
        roi::begin::<10>();
        check("string", ipc::call(partner, never(), tag).is_ok());
    }
    check("last", ipc::send(partner, Time::NEVER, MsgTag::NIL).is_ok());
    done(partner);
}

fn threads_and_spaces() {
    let me = thread::my_global_id();
    let id = my_id(2);
    let create =
        ThreadControl { dest: id, space: me, scheduler: me, pager: ThreadId::NIL, utcb: None };
    roi::name::<11>("thread");
    roi::name::<12>("space");
    for warm in [true, false] {
        if !warm {
            roi::begin::<11>();
        }
        let made = sys::thread_control(create);
        let gone = thread::delete(id);
        if !warm {
            roi::end::<11>();
        }
        check("thread", made.is_ok() && gone.is_ok());
    }
    for warm in [true, false] {
        if !warm {
            roi::begin::<12>();
        }
        let made = make_space(id);
        let gone = thread::delete(id);
        if !warm {
            roi::end::<12>();
        }
        check("space", made.is_ok() && gone.is_ok());
    }
}
