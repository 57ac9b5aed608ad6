//! The thin slice: a program in the root task's position that touches every basic mechanism once.
//!
//! It prints the KIP, asks sigma0 for pages, plays ping-pong with a second thread of its own space
//! and with a thread in a new space whose faults it serves, prints one `test` record per step, and
//! leaves through the debug-exit port. Steps are ordered so that the first failing one names the
//! broken layer.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use l4abi::proto::PageFault;
use l4abi::record;
use libl4::pager::{self, Fault};
use libl4::sys::{self, ThreadControl};
use libl4::thread::{self, Stack};
use libl4::{Acceptor, Fpage, MsgTag, Rights, ThreadId, ThreadNo, Time, Timeouts};
use libl4::{arch, exit, ipc, kip, msg, println, sigma0, time};

libl4::entry!(main);

const STACK_SIZE: usize = 16 * 1024;
static LOCAL_STACK: Stack<STACK_SIZE> = Stack::new();
static REMOTE_STACK: Stack<STACK_SIZE> = Stack::new();

/// Rounds of ping-pong.
const ROUNDS: u64 = 100;
/// Label of a ping; everything else ends the partner.
const PING: u64 = 0x11;
/// A second's patience, so that a broken step fails instead of hanging.
const PATIENCE: Time = Time::period_us(1_000_000);

struct Report {
    failed: u32,
}

impl Report {
    fn step(&mut self, name: &str, ok: bool, detail: core::fmt::Arguments<'_>) {
        libl4::console::record(|out| record::Test { name, ok, detail }.write(out));
        if !ok {
            self.failed += 1;
        }
    }
}

fn main() {
    exit::exit_on_panic();
    // Everything the partners need must be here: while they fault, nobody serves them.
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(4096) {
        let _ = arch::touch_read(page);
    }
    let mut report = Report { failed: 0 };
    print_kip();
    report.step("hello_start", true, format_args!("{}", thread::my_global_id()));
    clock(&mut report);
    memory(&mut report);
    local_thread(&mut report);
    remote_thread(&mut report);
    let outcome = if report.failed == 0 { exit::Outcome::Success } else { exit::Outcome::Failed };
    exit::exit(outcome);
}

fn print_kip() {
    let kip = kip();
    println!(
        "KIP at {:#x}: api {:#x}, {} CPUs, {} nodes, threads {:?}",
        libl4::start::kip_base(),
        kip.api_version(),
        kip.processor_count(),
        libl4::topology::node_count(),
        kip.thread_ranges()
    );
    for desc in kip.memory() {
        let name = desc.kind().map_or("?", l4abi::kip::MemoryType::name);
        println!(
            "  {:#014x}..{:#014x} {name} {}",
            desc.low(),
            desc.last(),
            if desc.is_virtual() { "virtual" } else { "" }
        );
    }
}

fn clock(report: &mut Report) {
    let before = time::now_us();
    time::sleep_us(2_000);
    let after = time::now_us();
    report.step("hello_sleep", after >= before + 1_900, format_args!("{before} {after}"));
}

fn memory(report: &mut Report) {
    match sigma0::any_page(12) {
        Ok(addr) => {
            arch::poke(addr, 0x1234_5678);
            let read = arch::peek(addr);
            report.step("hello_any_page", read == 0x1234_5678, format_args!("at {addr:#x}"));
        }
        Err(error) => report.step("hello_any_page", false, format_args!("{error:?}")),
    }
    // RAM somewhere above the program images.
    let specific = 96 << 20;
    let result = sigma0::specific_page(specific, 12);
    if result.is_ok() {
        arch::poke(specific, 42);
    }
    let ok = result.is_ok() && arch::peek(specific) == 42;
    report.step("hello_specific_page", ok, format_args!("{result:?}"));
    // A page fault: sigma0 is the pager.
    let faulted = 97 << 20;
    arch::poke(faulted, 43);
    report.step("hello_fault", arch::peek(faulted) == 43, format_args!("{faulted:#x}"));
}

/// The partner: answers every ping with its word plus one, ends at any other label.
extern "C" fn pong(creator: u64) -> ! {
    let mut result = ipc::receive(ThreadId::from_raw(creator), Timeouts::NEVER);
    while let Ok(ping) = result {
        if ping.tag.label() != PING {
            break;
        }
        let mut reply = msg::Writer::here();
        reply.word(ping.mr(1) + 1);
        let tag = reply.tag(PING);
        result = ipc::call(ThreadId::from_raw(creator), Timeouts::NEVER, tag);
    }
    thread::sleep_forever()
}

/// Maps the page one to one. It is touched first, so that it is there to be mapped.
fn answer(fault: &PageFault) -> MsgTag {
    let _ = arch::touch_read(fault.addr);
    pager::map_reply(fault, fault.addr, 12, Rights::RWX)
}

fn my_id(offset: u32) -> ThreadId {
    ThreadId::global(ThreadNo(thread::my_global_id().number().0 + offset), 1)
}

/// Plays the rounds; serves the partner's faults meanwhile. Returns how many were right and how
/// many faults there were.
fn ping(partner: ThreadId) -> (u64, u64) {
    let (mut right, mut faults) = (0, 0);
    for round in 0..ROUNDS {
        let mut message = msg::Writer::here();
        message.word(round);
        let mut tag = message.tag(PING);
        loop {
            match ipc::call(partner, Timeouts::new(PATIENCE, PATIENCE), tag) {
                Ok(got) if got.tag.label() == PING => {
                    right += u64::from(got.mr(1) == round + 1);
                    break;
                }
                Ok(got) => match Fault::of(&got) {
                    Some(Fault::Page(fault)) => {
                        faults += 1;
                        tag = answer(&fault);
                    }
                    _ => break,
                },
                Err(error) => {
                    println!("round {round}: {error}");
                    return (right, faults);
                }
            }
        }
    }
    (right, faults)
}

fn local_thread(report: &mut Report) {
    let id = my_id(1);
    let utcb = thread::my_utcb_location() + 1024;
    let me = thread::my_global_id();
    let created = thread::create_local(id, utcb, me);
    report.step("hello_create_local", created.is_ok(), format_args!("{created:?}"));
    let Some(stack) = LOCAL_STACK.take() else { return };
    let started = thread::start_on(id, &stack, pong, me.raw());
    report.step("hello_start_local", started.is_ok(), format_args!("{started:?}"));
    if created.is_err() || started.is_err() {
        return;
    }
    let (right, faults) = ping(id);
    report.step("hello_ping_local", right == ROUNDS, format_args!("{right} right {faults} faults"));
    let deleted = thread::delete(id);
    report.step("hello_delete_local", deleted.is_ok(), format_args!("{deleted:?}"));
}

fn make_space(id: ThreadId) -> sys::SysResult<()> {
    let me = thread::my_global_id();
    let utcb_base = 0x8000_0000;
    let create = ThreadControl {
        dest: id,
        space: id,
        scheduler: me,
        pager: ThreadId::NIL,
        utcb: Some(utcb_base),
    };
    sys::thread_control(create)?;
    let kip_area = kip().area_at(libl4::start::kip_base());
    let utcb_area = Fpage::memory(utcb_base, kip().utcb_area_log2(), Rights::empty());
    sys::space_control(id, 0, kip_area, utcb_area, ThreadId::NIL)?;
    sys::thread_control(ThreadControl { pager: me, utcb: None, ..create })
}

fn remote_thread(report: &mut Report) {
    let id = my_id(2);
    let created = make_space(id);
    report.step("hello_create_space", created.is_ok(), format_args!("{created:?}"));
    let Some(stack) = REMOTE_STACK.take() else { return };
    let sp = stack.prepare(pong, thread::my_global_id().raw());
    let started = pager::start_message(id, arch::trampoline_ip(), sp);
    report.step("hello_start_message", started.is_ok(), format_args!("{started:?}"));
    if created.is_err() || started.is_err() {
        return;
    }
    ipc::accept(Acceptor::NONE);
    // The first thing to hear is the fault on its first instruction.
    let first = ipc::receive(id, Timeouts::new(Time::NEVER, PATIENCE));
    let fault = first.ok().and_then(|got| Fault::of(&got));
    report.step("hello_first_fault", fault.is_some(), format_args!("{fault:?}"));
    let Some(Fault::Page(fault)) = fault else { return };
    let replied = ipc::send(id, PATIENCE, answer(&fault));
    report.step("hello_fault_reply", replied.is_ok(), format_args!("{replied:?}"));
    let (right, faults) = serve_until_ready(id);
    report.step(
        "hello_ping_remote",
        right == ROUNDS && faults > 0,
        format_args!("{right} right {faults} faults"),
    );
    let end = ipc::send(id, PATIENCE, MsgTag::new(0, 0, 0));
    report.step("hello_end_remote", end.is_ok(), format_args!("{end:?}"));
    let deleted = thread::delete(id);
    report.step("hello_delete_space", deleted.is_ok(), format_args!("{deleted:?}"));
}

/// Serves faults until the partner is quiet for a moment, then plays.
fn serve_until_ready(id: ThreadId) -> (u64, u64) {
    let mut served = 1;
    let quiet = Timeouts::new(Time::NEVER, Time::period_us(20_000));
    while let Ok(got) = ipc::receive(id, quiet) {
        let Some(Fault::Page(fault)) = Fault::of(&got) else { break };
        served += 1;
        if ipc::send(id, PATIENCE, answer(&fault)).is_err() {
            break;
        }
    }
    let (right, faults) = ping(id);
    (right, served + faults)
}
