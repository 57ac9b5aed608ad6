//! Total quanta and delayed preemption (ref 4.8, 6.5).

use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Place, Puppet, PuppetOptions, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::schedule::{PreemptionControl, TimeControl};
use l4abi::utcb::{PreemptFlags, word};
use libl4::sys::{self, Schedule};
use libl4::{Time, time};

tests! {
    sch_quantum_again, Once, "a stopped thread goes on when Schedule gives it a new total quantum, and only then";
    sch_quantum_counts, Once, "only the time a thread runs is taken from its total quantum";
    sch_delay, Once, "flag d delays a preemption by the maximum delay, and flag I says so";
    sch_delay_is_limited, Once, "a preemption by a priority above the sensitive one is not delayed";
    sch_delay_fault, Once, "a thread with flag s that overruns its delay raises a preemption fault";
}

fn give(puppet: &Puppet, quantum: Time) -> TestResult<Option<u64>> {
    let time = TimeControl { timeslice: Time::period_us(5_000), quantum };
    let args = Schedule { time: Some(time), ..Schedule::default() };
    let (_, old) = need!(sys::schedule(puppet.id, args));
    Ok(Time::from_raw(old as u16).as_period_us())
}

fn left(puppet: &Puppet) -> TestResult<u64> {
    let (_, old) = need!(sys::schedule(puppet.id, Schedule::default()));
    let quantum = Time::from_raw(old as u16).as_period_us();
    check!(quantum.is_some(), "an endless quantum");
    Ok(quantum.unwrap_or(0))
}

fn await_preemption(ctx: &Ctx, puppet: &Puppet) -> TestResult {
    let got = ctx.ipc(&IpcCmd::receive(puppet.id));
    check!(!got.tag.is_error(), "no preemption message: {:?}", got.ipc_error());
    check_eq!(got.tag.raw(), l4abi::proto::PREEMPTION_TAG.raw(), "tag");
    let now = time::now_us();
    check!(got.mr[1] <= now && now - got.mr[1] < 1_000_000, "clock {} at {now}", got.mr[1]);
    check_eq!(got.mr[2], 0);
    Ok(())
}

fn sch_quantum_again(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    give(&partner, Time::period_us(20_000))?;
    partner.start(Op::Spin, &[])?;
    for round in 0..3 {
        await_preemption(ctx, &partner)?;
        check_eq!(left(&partner)?, 0, "round {round}: quantum left");
        let count = partner.peek_result(0);
        // An answer is no quantum: it asks again.
        let answer = ctx.ipc(&IpcCmd::send(partner.id));
        check!(!answer.tag.is_error(), "{:?}", answer.ipc_error());
        await_preemption(ctx, &partner)?;
        check_eq!(partner.peek_result(0), count, "round {round}: it ran without a quantum");
        give(&partner, Time::period_us(10_000))?;
        time::sleep_us(4_000);
        check!(partner.peek_result(0) > count, "round {round}: it does not go on");
    }
    give(&partner, Time::NEVER)?;
    let count = partner.peek_result(0);
    time::sleep_us(40_000);
    check!(partner.peek_result(0) > count, "it does not run with an endless quantum");
    Ok(())
}

fn sch_quantum_counts(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    ctx.settle();
    give(&partner, Time::period_us(500_000))?;
    time::sleep_us(50_000);
    let before = left(&partner)?;
    check!(before > 490_000, "{before} us left of a waiting thread's 500 ms");
    partner.start(Op::Spin, &[])?;
    time::sleep_us(50_000);
    let after = left(&partner)?;
    check!(after < before - 20_000, "{before} us, then {after} us left after 50 ms of spinning");
    check!(after > 300_000, "{after} us left after 50 ms of spinning");
    let told = give(&partner, Time::NEVER)?;
    check!(told.is_some_and(|us| us <= after), "old quantum {told:?} after {after}");
    Ok(())
}

/// A puppet below the runner that delays preemption by priorities up to `sensitive` for 30 ms.
fn delaying(ctx: &mut Ctx, sensitive: u8, flags: PreemptFlags) -> TestResult<Puppet> {
    let options = PuppetOptions { place: Place::Local, space_of: None, priority: 90 };
    let puppet = ctx.puppet_with(options)?;
    let control = PreemptionControl { sensitive_priority: sensitive, max_delay_us: 30_000 };
    let args = Schedule { preemption: Some(control), ..Schedule::default() };
    need!(sys::schedule(puppet.id, args));
    puppet.run(Op::WriteTcr, &[word::EXCEPTION_HANDLER as u64, ctx.me().raw()])?;
    puppet.run(Op::WriteTcr, &[word::FLAGS as u64, u64::from(flags.bits())])?;
    Ok(puppet)
}

/// How long the runner sleeps if it asks for 3 ms.
fn nap() -> u64 {
    let before = time::now_us();
    time::sleep_us(3_000);
    time::now_us() - before
}

fn sch_delay(ctx: &mut Ctx) -> TestResult {
    let partner = delaying(ctx, 255, PreemptFlags::DELAY)?;
    partner.start(Op::Spin, &[])?;
    let took = nap();
    check!(took > 25_000, "preempted after {took} us");
    check!(took < 300_000, "preempted only after {took} us");
    let count = partner.peek_result(0);
    check!(count > 0, "it never ran");
    partner.set_arg(7, 1);
    partner.finish()?;
    let flags = partner.run(Op::ReadTcr, &[word::FLAGS as u64])?.results[0];
    let wanted = PreemptFlags::DELAY | PreemptFlags::PENDING;
    check_eq!(flags & 0xFF, u64::from(wanted.bits()), "flags");
    Ok(())
}

fn sch_delay_is_limited(ctx: &mut Ctx) -> TestResult {
    let partner = delaying(ctx, 100, PreemptFlags::DELAY)?;
    partner.start(Op::Spin, &[])?;
    let took = nap();
    check!(took < 20_000, "preempted only after {took} us");
    Ok(())
}

fn sch_delay_fault(ctx: &mut Ctx) -> TestResult {
    let rival =
        ctx.puppet_with(PuppetOptions { place: Place::Local, space_of: None, priority: 110 })?;
    let partner = delaying(ctx, 120, PreemptFlags::DELAY | PreemptFlags::SIGNAL)?;
    partner.start(Op::Spin, &[])?;
    // The rival wakes in 5 ms; that preemption is delayed, and overruns.
    let wait = IpcCmd::receive(partner.id).timeouts(Time::ZERO, Time::period_us(5_000));
    rival.start_ipc(&wait)?;
    await_preemption(ctx, &partner)?;
    let count = partner.peek_result(0);
    time::sleep_us(10_000);
    check_eq!(partner.peek_result(0), count, "it runs without an answer");
    let answer = ctx.ipc(&IpcCmd::send(partner.id));
    check!(!answer.tag.is_error(), "{:?}", answer.ipc_error());
    time::sleep_us(10_000);
    check!(partner.peek_result(0) > count, "it does not go on after the answer");
    Ok(())
}
