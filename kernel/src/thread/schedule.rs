//! Schedule and ThreadSwitch (reference 4.7, 4.8).

use kcore::ipc::{Key, State};
use l4abi::error::ErrorCode;
use l4abi::schedule::{PreemptionControl, TimeControl, parse_priority, parse_processor};
use l4abi::syscall::SyscallNo;
use l4abi::time::Time;

use crate::cross;
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next, preempt};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{self, control::is_active};

/// ThreadSwitch: donate the rest of the slice, or give it up.
#[inline(never)]
pub fn thread_switch(cpu: &PerCpu, me: TcbRef) -> Next {
    let dest = match me.reg(reg::RDI) {
        0 => None,
        id => thread::resolve(me, id),
    };
    match dest {
        Some(t) if t == me => Next::Thread(me),
        Some(t) if sched::may_run(cpu, t) => {
            cpu.ready.enqueue(me, me.priority.get());
            Next::Thread(t)
        }
        _ => sched::yield_slice(cpu, me),
    }
}

/// Schedule. Runs on the CPU that owns the destination.
#[inline(never)]
pub fn schedule(cpu: &PerCpu, me: TcbRef) -> Next {
    let dest = me.reg(reg::RDI);
    if let Some(result) = crate::irq::schedule(dest) {
        crate::syscall::set_result(me, result);
        return Next::Thread(me);
    }
    let Some(t) = thread::resolve(me, dest) else {
        crate::syscall::set_result(me, Err(ErrorCode::InvalidThread));
        return Next::Thread(me);
    };
    if t.key().cpu() != cpu.number() {
        return cross::forward(cpu, me, t, SyscallNo::Schedule);
    }
    match decode(me, t) {
        Err(error) => {
            crate::syscall::set_result(me, Err(error));
            Next::Thread(me)
        }
        Ok(change) => commit(cpu, me, t, &change),
    }
}

/// Checked arguments; `None` = unchanged.
struct Change {
    priority: Option<u8>,
    slice_us: Option<u64>,
    quantum_us: Option<u64>,
    /// New processor with the root table for it.
    processor: Option<(u16, u64)>,
    sensitive: Option<(u8, u16)>,
}

fn decode(me: TcbRef, t: TcbRef) -> Result<Change, ErrorCode> {
    let privileged = thread::is_privileged(me);
    let scheduler = thread::lookup(t.scheduler.get());
    if !privileged && !scheduler.is_some_and(|s| s.space.get() == me.space.get()) {
        return Err(ErrorCode::NoPrivilege);
    }
    let priority = parse_priority(me.reg(reg::RSI));
    let sensitive = PreemptionControl::parse(me.reg(reg::R9));
    let limit = me.priority.get();
    let too_high = priority.is_some_and(|p| p > limit)
        || sensitive.is_some_and(|s| s.sensitive_priority > limit);
    if too_high && !privileged {
        return Err(ErrorCode::NoPrivilege);
    }
    let time = TimeControl::parse(me.reg(reg::RDX));
    let periods = time.map(|t| (period_us(t.timeslice), period_us(t.quantum)));
    if matches!(periods, Some((None, _) | (_, None))) {
        return Err(ErrorCode::InvalidParameter);
    }
    let processor = parse_processor(me.reg(reg::R8)).map(|p| p.0);
    let processor = match processor.filter(|&p| p != t.travel.home()) {
        Some(p) => Some((p, cross::migrate::check(me, t, p)?)),
        None => None,
    };
    Ok(Change {
        priority,
        slice_us: periods
            .and_then(|(slice, _)| slice)
            .map(|us| if us == u64::MAX { 0 } else { us }),
        quantum_us: periods.and_then(|(_, quantum)| quantum),
        processor,
        sensitive: sensitive.map(|s| (s.sensitive_priority, s.max_delay_us)),
    })
}

/// Length of a period; `u64::MAX` = endless. None for a point in time.
fn period_us(time: Time) -> Option<u64> {
    if time.is_never() { Some(u64::MAX) } else { time.as_period_us() }
}

/// A period for the caller; 0 = endless.
fn period(us: u64) -> Time {
    if us == 0 { Time::NEVER } else { Time::period_us(us) }
}

fn commit(cpu: &PerCpu, me: TcbRef, t: TcbRef, change: &Change) -> Next {
    let state = if t.key().has(Key::HALTED) && t.state() == State::Ready {
        2
    } else if t.state() == State::Inactive || !is_active(t) {
        1
    } else {
        t.state().x2()
    };
    let old_time = TimeControl {
        timeslice: period(sched::remaining_slice(cpu, t)),
        quantum: match preempt::remaining(cpu, t) {
            sched::NEVER_US => Time::NEVER,
            us => Time::period_us(us),
        },
    };
    if let Some(p) = change.priority {
        sched::set_priority(cpu, t, p);
    }
    if let Some(us) = change.slice_us {
        sched::set_slice(cpu, t, us);
    }
    if let Some(us) = change.quantum_us {
        preempt::set_quantum(cpu, t, us);
    }
    if let Some((priority, delay_us)) = change.sensitive {
        t.sensitive.set(priority);
        t.max_delay_us.set(delay_us);
    }
    crate::syscall::set_error(me, None);
    me.set_reg(reg::RAX, state);
    me.set_reg(reg::RDX, old_time.raw());
    match change.processor {
        Some((to, root)) => cross::migrate::commit(cpu, me, t, to, root),
        None => Next::Thread(me),
    }
}
