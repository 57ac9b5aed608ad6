//! Timeouts of IPC (reference 1.8, 5.1): from the 16-bit form to a deadline, and what happens at it.

use kcore::ipc::{Key, State};
use l4abi::error::IpcCode;
pub use l4abi::time::Deadline;
use l4abi::time::{Time, Timeouts};

use crate::ipc::result::{Phase, fail};
use crate::sched::percpu::PerCpu;
use crate::sched::{self};
use crate::thread::tcb::TcbRef;
use crate::time;

/// The deadline that a time value means at `now`, read only if it is needed.
pub fn deadline(value: Time) -> Deadline {
    if value.is_never() {
        return Deadline::Never;
    }
    if value.is_zero() {
        return Deadline::Now;
    }
    value.deadline(time::now_us())
}

/// Deadline of the send phase of `t`.
#[inline]
pub fn send_deadline(t: TcbRef) -> Deadline {
    deadline(Timeouts::from_raw(t.timeouts.get()).send())
}

/// Deadline of the receive phase of `t`.
#[inline]
pub fn receive_deadline(t: TcbRef) -> Deadline {
    deadline(Timeouts::from_raw(t.timeouts.get()).receive())
}

/// Starts the clock of a thread that blocks.
#[inline]
pub fn start(cpu: &PerCpu, t: TcbRef, deadline: Deadline) {
    if let Deadline::At(at) = deadline {
        sched::set_wakeup(cpu, t, at);
    }
}

/// The wait of `t` is over: its clock stops. In a message that the kernel makes a thread has no clock of its own; one that
/// runs is that of the transfer in which it had its fault.
#[inline(always)]
pub fn stop(cpu: &PerCpu, t: TcbRef) {
    if !t.key().has(Key::KERNEL_IPC) {
        sched::clear_wakeup(cpu, t);
    }
}

/// The time of `t` has come; it is out of the wake-up queue already.
pub fn expired(cpu: &PerCpu, t: TcbRef) {
    if t.state() == State::Remote {
        crate::cross::again(cpu, t);
        return;
    }
    if matches!(t.state(), State::Sending | State::Receiving)
        || (t.key().has(Key::KERNEL_IPC) && t.outer.get().state == State::Receiving)
    {
        crate::ipc::strings::transfer_timeout(cpu, t);
        return;
    }
    let _ = match t.state() {
        State::Polling => {
            if let Some(partner) = t.partner.take() {
                partner.senders.remove(t);
            }
            fail(cpu, t, Phase::Send, IpcCode::Timeout, 0)
        }
        State::Waiting => fail(cpu, t, Phase::Receive, IpcCode::Timeout, 0),
        _ => return,
    };
}
