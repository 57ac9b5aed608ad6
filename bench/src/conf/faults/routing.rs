//! Interrupts follow their handler (ref 6.4; l4-smp 8.7): it is migrated to every CPU in every state that a line can be in,
//! and deleted in them. A level-triggered line is that of the board's power management, which its timer asserts.

use super::interrupts::{LONG_US, attach, attach_line, check_nothing, fire, line, ports};
use crate::harness::{Ctx, IpcCmd, Puppet, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::error::IpcCode;
use l4abi::ext::CpuCounter;
use l4abi::proto::INTERRUPT_TAG;
use libl4::sys::{self, Schedule};
use libl4::{CpuId, MsgTag, ThreadId, Time, Timeouts, arch, ipc, thread, time, topology};

tests! {
    irq_follows_a_waiting_handler, Once, "a waiting handler is migrated to every CPU: the next interrupt comes there, straight";
    irq_follows_in_service, Once, "between an interrupt and its answer the handler is migrated: what came meanwhile comes after the answer";
    irq_follows_pending, Once, "an interrupt that waits for its handler goes with it to every CPU";
    irq_follows_at_any_moment, Once, "a handler that is migrated while the interrupt comes gets each one once";
    irq_handler_deleted, Once, "a handler is deleted while it waits, has one pending, or has not answered: the line is free";
    irq_changes_hands, Once, "a line that gets another handler while it fires is that one's, open, and the former one gets nothing more";
    irq_level, Once, "a level-triggered line comes again after the answer for as long as it is asserted, on every CPU";
}

/// Every CPU twice, so that each one is left, too.
fn tour() -> impl Iterator<Item = CpuId> {
    let cpus = topology::cpu_count() as u16;
    (1..=2 * cpus).map(move |n| CpuId(n % cpus))
}

fn move_to(handler: &Puppet, cpu: CpuId) -> TestResult {
    need!(sys::schedule(handler.id, Schedule { processor: Some(cpu), ..Schedule::default() }));
    Ok(())
}

fn check_got(handler: &Puppet) -> TestResult {
    let got = handler.finish()?;
    check_eq!((got.tag, got.from), (INTERRUPT_TAG, line()));
    Ok(())
}

fn wait() -> IpcCmd<'static> {
    IpcCmd::receive(line()).timeouts(Time::NEVER, Time::NEVER)
}

fn answer_and_wait() -> IpcCmd<'static> {
    IpcCmd::call(line()).timeouts(Time::NEVER, Time::NEVER)
}

fn irq_follows_a_waiting_handler(ctx: &mut Ctx) -> TestResult {
    let handler = ctx.puppet()?;
    attach(handler.id)?;
    let mut cmd = wait();
    let received = |cpu| arch::cpu_counter(cpu, CpuCounter::InterruptsReceived).unwrap_or(0);
    for cpu in tour() {
        handler.start_ipc(&cmd)?;
        ctx.settle();
        move_to(&handler, cpu)?;
        // It arrives, and its CPU comes to rest.
        time::sleep_us(LONG_US / 2);
        let before = received(cpu);
        fire();
        let limit = time::now_us() + 100 * LONG_US;
        while !handler.is_done() {
            check!(time::now_us() < limit, "nothing comes on {cpu:?}");
            // On the runner's own CPU the handler has to get it.
            if cpu == thread::my_cpu() { time::sleep_us(300) } else { core::hint::spin_loop() }
        }
        // A line that was routed elsewhere would have been passed on by an interrupt of another CPU.
        check_eq!(received(cpu) - before, 0, "interrupts of other CPUs");
        check_got(&handler)?;
        cmd = answer_and_wait();
    }
    attach_line(line())
}

fn irq_follows_in_service(ctx: &mut Ctx) -> TestResult {
    let handler = ctx.puppet()?;
    attach(handler.id)?;
    handler.start_ipc(&wait())?;
    fire();
    check_got(&handler)?;
    for cpu in tour() {
        // Kept, and the line masked, before the journey; one more behind it must not count.
        fire();
        time::sleep_us(LONG_US / 2);
        move_to(&handler, cpu)?;
        fire();
        time::sleep_us(LONG_US / 2);
        handler.start_ipc(&answer_and_wait())?;
        check_got(&handler)?;
    }
    let _ = handler.run_ipc(&IpcCmd::send(line()))?;
    let quiet = IpcCmd::receive(line()).timeouts(Time::NEVER, Time::period_us(LONG_US));
    check!(handler.run_ipc(&quiet)?.ipc_error().is_some(), "one too many");
    attach_line(line())
}

fn irq_follows_pending(ctx: &mut Ctx) -> TestResult {
    let handler = ctx.puppet()?;
    attach(handler.id)?;
    for cpu in tour() {
        // The handler waits for somebody else.
        fire();
        time::sleep_us(LONG_US / 2);
        move_to(&handler, cpu)?;
        handler.start_ipc(&wait())?;
        check_got(&handler)?;
        let _ = handler.run_ipc(&IpcCmd::send(line()))?;
    }
    attach_line(line())
}

fn irq_follows_at_any_moment(ctx: &mut Ctx) -> TestResult {
    let handler = ctx.puppet()?;
    attach(handler.id)?;
    let mut cmd = wait();
    for (n, cpu) in tour().chain(tour()).chain(tour()).enumerate() {
        handler.start_ipc(&cmd)?;
        fire();
        // The timer takes half a millisecond: before, at and after that moment.
        let end = time::now_us() + 150 * (n as u64 % 7);
        while time::now_us() < end {}
        move_to(&handler, cpu)?;
        check_got(&handler)?;
        cmd = answer_and_wait();
    }
    let _ = handler.run_ipc(&IpcCmd::send(line()))?;
    let quiet = IpcCmd::receive(line()).timeouts(Time::NEVER, Time::period_us(LONG_US));
    check!(handler.run_ipc(&quiet)?.ipc_error().is_some(), "one too many");
    attach_line(line())
}

fn irq_handler_deleted(ctx: &mut Ctx) -> TestResult {
    let last = CpuId(topology::cpu_count() as u16 - 1);
    for state in 0..3 {
        let handler = ctx.puppet()?;
        attach(handler.id)?;
        move_to(&handler, last)?;
        match state {
            // It waits.
            0 => {
                handler.start_ipc(&wait())?;
                time::sleep_us(LONG_US / 2);
            }
            // One is pending.
            1 => {
                fire();
                time::sleep_us(LONG_US / 2);
            }
            // One is not answered, and another one has come.
            _ => {
                handler.start_ipc(&wait())?;
                fire();
                check_got(&handler)?;
                fire();
                time::sleep_us(LONG_US / 2);
            }
        }
        need!(thread::delete(handler.id));
        // Nobody's: nothing happens.
        fire();
        time::sleep_us(LONG_US / 2);
        attach(ctx.me())?;
        check_nothing()?;
        fire();
        let got = need!(ipc::receive(line(), Timeouts::NEVER));
        check_eq!((got.tag, got.from), (INTERRUPT_TAG, line()), "state {state}");
        attach_line(line())?;
    }
    Ok(())
}

fn irq_changes_hands(ctx: &mut Ctx) -> TestResult {
    let (a, b) = (ctx.puppet()?, ctx.puppet()?);
    move_to(&b, CpuId(topology::cpu_count() as u16 - 1))?;
    let soon = |limit| IpcCmd::receive(line()).timeouts(Time::NEVER, Time::period_us(limit));
    for (n, cpu) in tour().chain(tour()).chain(tour()).chain(tour()).enumerate() {
        let (old, new) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        attach(old.id)?;
        // The former handler waits, or has the interrupt noted.
        let waits = n / 2 % 2 == 0;
        if waits {
            old.start_ipc(&soon(LONG_US))?;
        }
        fire();
        // The timer takes half a millisecond: before, at and after that moment.
        let end = time::now_us() + 150 * (n as u64 % 7);
        while time::now_us() < end {}
        attach(new.id)?;
        let got = if waits { old.finish()? } else { old.run_ipc(&soon(LONG_US / 4))? };
        check!(waits || got.ipc_error().is_some(), "noted at {n}, and received without the line");
        // The first may have come to either, or to nobody in between. From now on none is lost.
        while new.run_ipc(&soon(LONG_US / 4))?.ipc_error().is_none() {
            let _ = new.run_ipc(&IpcCmd::send(line()))?;
        }
        move_to(new, cpu)?;
        new.start_ipc(&wait())?;
        fire();
        check_got(new)?;
        let refused = old.run_ipc(&IpcCmd::send(line()))?.ipc_error().map(|e| e.code);
        check_eq!(refused, Some(IpcCode::NoPartner), "the former handler answers");
        let _ = new.run_ipc(&IpcCmd::send(line()))?;
    }
    attach_line(line())
}

/// Power management of the chip set that the emulator has; SCI is line 9.
const SCI: u32 = 9;
const PM_STATUS: u16 = 0x600;
const PM_ENABLE: u16 = 0x602;
/// The timer's top bit changed.
const TIMER: u8 = 1;

fn irq_level(ctx: &mut Ctx) -> TestResult {
    ports(PM_STATUS, 2);
    let sci = ThreadId::irq(SCI);
    let handler = ctx.puppet()?;
    super::interrupts::attach_to(sci, handler.id)?;
    arch::port_write(PM_STATUS, TIMER);
    arch::port_write(PM_ENABLE, TIMER);
    // Every 2.35 s.
    let limit = time::now_us() + 20_000_000;
    handler.start_ipc(&IpcCmd::receive(sci).timeouts(Time::NEVER, Time::NEVER))?;
    while !handler.is_done() && time::now_us() < limit {
        time::sleep_us(10_000);
    }
    let got = handler.finish()?;
    check_eq!((got.tag, got.from), (INTERRUPT_TAG, sci), "the first");
    // Asserted still: masked until the answer, then there at once, wherever the handler is.
    for cpu in tour() {
        move_to(&handler, cpu)?;
        let cmd = IpcCmd::call(sci).timeouts(Time::NEVER, Time::period_us(50 * LONG_US));
        let got = handler.run_ipc(&cmd)?;
        check_eq!((got.tag, got.from), (INTERRUPT_TAG, sci), "asserted");
    }
    arch::port_write(PM_ENABLE, 0);
    arch::port_write(PM_STATUS, TIMER);
    let cmd = IpcCmd::call(sci).timeouts(Time::NEVER, Time::period_us(LONG_US));
    let got = handler.run_ipc(&cmd)?;
    check!(got.ipc_error().is_some(), "not asserted any more: {:?}", got.tag == MsgTag::NIL);
    super::interrupts::attach_to(sci, sci)
}
