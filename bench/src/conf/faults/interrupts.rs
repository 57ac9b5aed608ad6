//! Interrupts as messages (ref 6.4), made with the board's interval timer.

use crate::harness::{Ctx, IpcCmd, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::proto::INTERRUPT_TAG;
use libl4::sys::{self, ThreadControl};
use libl4::{IpcCode, MsgTag, ThreadId, Time, Timeouts, arch, ipc, sigma0, time};

tests! {
    irq_delivered, All, "an interrupt comes as a message of its line, and again after each answer";
    irq_waits_for_the_handler, Once, "an interrupt whose handler does something else is there when it waits";
    irq_only_after_the_answer, Once, "an interrupt before the answer to the last one comes after the answer, once";
    irq_preempts, Once, "a waiting handler of higher priority runs at once, and the thread that ran goes on";
    irq_answered_by_others, All, "a message to a line from a thread that does not handle it: no partner";
    irq_detached, Once, "a line without handler delivers nothing";
}

/// The interval timer: the bus's line 0 is the I/O APIC's input 2 on all boards.
const LINE: u32 = 2;
const FIRST_PORT: u16 = 0x40;
const COUNT: u16 = 0x40;
const COMMAND: u16 = 0x43;
/// Channel 0, both bytes, interrupt on terminal count.
const ONCE: u8 = 0x30;
/// Ticks of 0.84 us.
const TICKS: u16 = 600;
/// Longer than the timer takes, in a busy emulator, too.
pub(super) const LONG_US: u64 = 20_000;

pub(super) fn line() -> ThreadId {
    ThreadId::irq(LINE)
}

/// Gets I/O ports for the runner's space, which has them after the first test; then sigma0 refuses.
pub(super) fn ports(first: u16, log2: u8) {
    let _ = sigma0::io_ports(first, log2);
}

pub(super) fn attach(handler: ThreadId) -> TestResult {
    ports(FIRST_PORT, 2);
    attach_to(line(), handler)
}

/// Takes the handler of a line away.
pub(super) fn attach_line(line: ThreadId) -> TestResult {
    attach_to(line, line)
}

/// Gives a line a handler.
pub(super) fn attach_to(line: ThreadId, handler: ThreadId) -> TestResult {
    let args = ThreadControl {
        dest: line,
        space: line,
        scheduler: ThreadId::NIL,
        pager: handler,
        utcb: None,
    };
    need!(sys::thread_control(args));
    Ok(())
}

/// Lets the timer fire once, in half a millisecond.
pub(super) fn fire() {
    arch::port_write(COMMAND, ONCE);
    arch::port_write(COUNT, TICKS as u8);
    arch::port_write(COUNT, (TICKS >> 8) as u8);
}

fn quiet() -> Timeouts {
    Timeouts::new(Time::NEVER, Time::period_us(LONG_US))
}

/// The runner gets an interrupt of the line.
fn check_interrupt() -> TestResult {
    let got = need!(ipc::receive(line(), Timeouts::NEVER));
    check_eq!((got.tag, got.from), (INTERRUPT_TAG, line()));
    Ok(())
}

pub(super) fn check_nothing() -> TestResult {
    let got = ipc::receive(line(), quiet());
    check_eq!(got.map(|g| g.tag).map_err(|e| e.code), Err(IpcCode::Timeout));
    Ok(())
}

fn answer() -> TestResult {
    need!(ipc::send(line(), Time::ZERO, MsgTag::NIL));
    Ok(())
}

fn irq_delivered(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    attach(partner.id)?;
    let mut cmd = IpcCmd::receive(line());
    for _ in 0..20 {
        partner.start_ipc(&cmd)?;
        fire();
        let got = partner.finish()?;
        check_eq!((got.tag, got.from), (INTERRUPT_TAG, line()));
        // From now on the answer to the last one and the wait for the next are one call.
        cmd = IpcCmd::call(line());
    }
    attach(line())
}

fn irq_waits_for_the_handler(ctx: &mut Ctx) -> TestResult {
    attach(ctx.me())?;
    fire();
    time::sleep_us(LONG_US);
    check_interrupt()?;
    answer()?;
    check_nothing()?;
    attach(line())
}

fn irq_only_after_the_answer(ctx: &mut Ctx) -> TestResult {
    attach(ctx.me())?;
    fire();
    check_interrupt()?;
    for _ in 0..3 {
        fire();
        check_nothing()?;
    }
    answer()?;
    check_interrupt()?;
    answer()?;
    check_nothing()?;
    fire();
    check_interrupt()?;
    answer()?;
    attach(line())
}

fn irq_preempts(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    need!(sys::schedule(partner.id, sys::Schedule { priority: Some(255), ..Default::default() }));
    attach(partner.id)?;
    for _ in 0..20 {
        let wait = IpcCmd::receive(line()).timeouts(Time::NEVER, Time::NEVER);
        partner.start_ipc(&wait)?;
        fire();
        let end = time::now_us() + LONG_US * 50;
        // Without a system call that would let the partner run.
        while !partner.is_done() {
            check!(time::now_us() < end, "the handler does not run");
        }
        check_eq!(partner.finish()?.tag, INTERRUPT_TAG);
        partner.run_ipc(&IpcCmd::send(line()))?;
    }
    attach(line())
}

fn irq_answered_by_others(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    attach(ctx.me())?;
    let got = partner.run_ipc(&IpcCmd::send(line()))?;
    check_eq!(got.ipc_error().map(|e| e.code), Some(IpcCode::NoPartner));
    attach(line())
}

fn irq_detached(ctx: &mut Ctx) -> TestResult {
    attach(ctx.me())?;
    fire();
    check_interrupt()?;
    answer()?;
    attach(line())?;
    fire();
    check_nothing()?;
    let sent = ipc::send(line(), Time::ZERO, MsgTag::NIL);
    check_eq!(sent.map_err(|e| e.code), Err(IpcCode::NoPartner));
    Ok(())
}
