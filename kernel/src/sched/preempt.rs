//! Total quanta and delayed preemption (reference 4.8, 6.5, 2.1).
//!
//! Both concern few threads. Such a thread has [`Key::SCHED`] set, which keeps the fast path away from it on
//! both sides, so that [`super::leave`] sees it come and go; everybody else pays nothing.
//!
//! * A thread with a finite quantum is charged for the time it is current. At the end of its quantum it calls its
//!   scheduler with the preemption message and runs again when that answers *and* there is quantum left, or at
//!   once when Schedule gives it a new quantum.
//! * A thread that asks for it (flag d) delays a preemption by a priority up to its sensitive priority for at most
//!   its maximum delay; flag I tells it. It should yield then. If it does not, it is preempted at the end of the
//!   delay, and if it wants to know (flag s) its exception handler gets the preemption message.

use kcore::ipc::{Awaited, Key, State};
use l4abi::utcb::PreemptFlags;

use crate::ipc::cancel;
use crate::ipc::kernel_msg::{self, KernelIpc};
use crate::sched::percpu::PerCpu;
use crate::sched::{NEVER_US, Next, arm};
use crate::thread::tcb::{Outer, TcbRef};
use crate::thread::{self, utcb};
use crate::time;

/// [`PerCpu::delay_end_us`] of a thread that has used up its delay: no new one before it has left the CPU.
const USED_UP: u64 = 0;

/// Sets both ends that concern the running thread, and the timer.
fn set_ends(cpu: &PerCpu, quantum_end_us: u64, delay_end_us: u64) {
    cpu.quantum_end_us.set(quantum_end_us);
    cpu.delay_end_us.set(delay_end_us);
    let delay = if delay_end_us == USED_UP { NEVER_US } else { delay_end_us };
    cpu.special_end_us.set(quantum_end_us.min(delay));
    arm(cpu);
}

/// `t`, which has [`Key::SCHED`] set, begins to run.
#[cold]
pub fn enter(cpu: &PerCpu, t: TcbRef) {
    let now = time::now_us();
    cpu.quantum_start_us.set(now);
    set_ends(cpu, now.saturating_add(t.quantum_left_us.get()), NEVER_US);
}

/// `t`, which has [`Key::SCHED`] set, stops running: it pays for its time, and its delay is over.
#[cold]
pub fn leave(cpu: &PerCpu, t: TcbRef) {
    charge(cpu, t, time::now_us());
    set_ends(cpu, NEVER_US, NEVER_US);
    settle_flag(t);
}

/// Takes the time since the last charge from the quantum of the running thread.
fn charge(cpu: &PerCpu, t: TcbRef, now: u64) {
    let left = t.quantum_left_us.get();
    if left != NEVER_US {
        let used = now.saturating_sub(cpu.quantum_start_us.get());
        t.quantum_left_us.set(left.saturating_sub(used));
    }
    cpu.quantum_start_us.set(now);
}

/// Whoever neither has a finite quantum nor delays anything is like everybody else.
fn settle_flag(t: TcbRef) {
    if t.quantum_left_us.get() == NEVER_US {
        t.clear_flag(Key::SCHED);
    }
}

/// The running thread yields: its delay, if any, is over.
pub fn end_delay(cpu: &PerCpu, t: TcbRef) {
    if t == cpu.current.get() {
        set_ends(cpu, cpu.quantum_end_us.get(), NEVER_US);
        settle_flag(t);
        super::settle_expected(cpu, t);
    }
}

/// `t`, current and with [`Key::SCHED`] set, is about to run at user level. If its quantum is used up, it calls
/// its scheduler instead.
#[cold]
pub fn check(cpu: &PerCpu, t: TcbRef) -> Option<Next> {
    let now = time::now_us();
    if now < cpu.quantum_end_us.get() || t.state() != State::Ready {
        return None;
    }
    charge(cpu, t, now);
    set_ends(cpu, NEVER_US, NEVER_US);
    let message = KernelIpc::Preemption(now);
    let scheduler = t.scheduler.get();
    if thread::lookup(scheduler).is_some() {
        return Some(kernel_msg::raise(cpu, t, message, scheduler, Outer::USER));
    }
    // Nobody to tell: it stops until Schedule gives it a new quantum.
    t.outer.set(Outer::USER);
    t.kernel_ipc.set(message);
    t.set_flag(Key::KERNEL_IPC);
    t.awaited.set(Awaited::NOBODY.0);
    t.set_state(State::Waiting);
    Some(Next::Schedule)
}

/// What is left of the total quantum of `t`, µs; [`NEVER_US`] = endless.
pub fn remaining(cpu: &PerCpu, t: TcbRef) -> u64 {
    if t == cpu.current.get() && t.key().has(Key::SCHED) {
        charge(cpu, t, time::now_us());
    }
    t.quantum_left_us.get()
}

/// Gives `t` a new total quantum; [`NEVER_US`] = endless. A thread that stopped at the end of the last one goes on.
pub fn set_quantum(cpu: &PerCpu, t: TcbRef, us: u64) {
    t.quantum_left_us.set(us);
    if us != NEVER_US {
        t.set_flag(Key::SCHED);
    }
    if t == cpu.current.get() {
        enter(cpu, t);
        settle_flag(t);
        super::settle_expected(cpu, t);
    } else {
        settle_flag(t);
    }
    if us != 0 && matches!(t.kernel_ipc.get(), KernelIpc::Preemption(_)) {
        cancel::abort(cpu, t, true, true);
    }
}

fn flags(t: TcbRef) -> PreemptFlags {
    PreemptFlags::from_bits_truncate(utcb::flags(t) as u8)
}

/// Whether `t`, the running thread, may go on although `priority` should preempt it. True starts the delay, or
/// keeps the one under way.
#[cold]
pub fn delays(cpu: &PerCpu, t: TcbRef, priority: u8) -> bool {
    let wants = flags(t).contains(PreemptFlags::DELAY);
    if t != cpu.current.get() || priority > t.sensitive.get() || !wants {
        return false;
    }
    let now = time::now_us();
    if !t.key().has(Key::SCHED) {
        t.set_flag(Key::SCHED);
        enter(cpu, t);
    }
    let end = match cpu.delay_end_us.get() {
        NEVER_US => now + u64::from(t.max_delay_us.get()),
        end => end,
    };
    if now >= end {
        return false;
    }
    set_ends(cpu, cpu.quantum_end_us.get(), end);
    utcb::set_flags(t, utcb::flags(t) | u64::from(PreemptFlags::PENDING.bits()));
    super::settle_expected(cpu, t);
    // Every way out of the kernel looks again.
    cpu.reschedule.set(true);
    true
}

/// The timer fired: did `t`, the running thread, overrun its delay? Then it is preempted, and if it wants to know,
/// its exception handler gets the message.
pub fn overrun(cpu: &PerCpu, t: TcbRef, now: u64) -> Option<Next> {
    let end = cpu.delay_end_us.get();
    if end == USED_UP || now < end {
        return None;
    }
    let rival = cpu.ready.pick(|q| q.is_runnable()).is_some_and(|(_, p)| p >= t.priority.get());
    set_ends(cpu, cpu.quantum_end_us.get(), if rival { USED_UP } else { NEVER_US });
    cpu.reschedule.set(true);
    let handler = utcb::exception_handler(t);
    if !rival || handler == 0 || !flags(t).contains(PreemptFlags::SIGNAL) {
        return None;
    }
    Some(kernel_msg::raise(cpu, t, KernelIpc::PreemptionFault(now), handler, Outer::USER))
}
