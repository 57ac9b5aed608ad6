//! Ending somebody's IPC: ExchangeRegisters, migration between spaces, deletion (reference 5.7).

use kcore::ipc::{Key, State};
use l4abi::error::IpcCode;

use crate::ipc::result::{Phase, fail};
use crate::ipc::{kernel_msg, transfer};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, work};
use crate::thread::tcb::{Outer, TcbRef};

/// Aborts the receive and/or send phase of `t`, a thread of this CPU, if it is in one.
pub fn abort(cpu: &PerCpu, t: TcbRef, receive: bool, send: bool) {
    if t.state() == State::Remote {
        crate::cross::interrupt_errand(cpu, t);
    }
    let state = t.state();
    // A fault in the middle of a transfer hides the transfer: it goes first.
    if t.key().has(Key::KERNEL_IPC) {
        abort_kernel_ipc(cpu, t, receive, send);
        return;
    }
    match state {
        State::Polling if send => {
            unqueue(t);
            sched::clear_wakeup(cpu, t);
            let _ = fail(cpu, t, Phase::Send, IpcCode::Canceled, 0);
        }
        State::Waiting if receive => {
            sched::clear_wakeup(cpu, t);
            let _ = fail(cpu, t, Phase::Receive, IpcCode::Canceled, 0);
        }
        State::Sending if send => {
            if let Some(dest) = t.partner.get() {
                abort_transfer(cpu, t, dest);
            }
        }
        State::Receiving if receive => {
            if let Some(sender) = t.partner.get() {
                abort_transfer(cpu, sender, t);
            }
        }
        State::Ready if receive && t.work.get() == work::Work::Receive => {
            work::clear(t);
            let _ = fail(cpu, t, Phase::Receive, IpcCode::Canceled, 0);
        }
        _ => {}
    }
}

/// Ends the transfer from `sender` to `dest`, both of which are parked: both get 'aborted'.
pub fn abort_transfer(cpu: &PerCpu, sender: TcbRef, dest: TcbRef) {
    end_transfer(cpu, sender, dest, (IpcCode::Aborted, IpcCode::Aborted));
}

/// Ends the parked transfer from `sender` to `dest` with an error for each.
pub fn end_transfer(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, codes: (IpcCode, IpcCode)) {
    crate::cross::transfer::end(cpu, sender, dest, codes);
}

/// `t` is in an IPC that the kernel makes. Outside a transfer it restarts at user level; the instruction that
/// faulted is executed again.
fn abort_kernel_ipc(cpu: &PerCpu, t: TcbRef, receive: bool, send: bool) {
    let outer = t.outer.get();
    match outer.state {
        State::Sending | State::Receiving => {
            let (acts, sender, dest) = match (outer.state, outer.partner) {
                (State::Sending, Some(dest)) => (send, t, dest),
                (_, Some(sender)) => (receive, sender, t),
                _ => return,
            };
            if acts {
                abort_transfer(cpu, sender, dest);
            }
        }
        _ => {
            let acts = match t.state() {
                State::Polling => send,
                State::Waiting => receive,
                _ => false,
            };
            if acts {
                drop_kernel_ipc(cpu, t);
                t.set_state(State::Ready);
                sched::enqueue(cpu, t);
            }
        }
    }
}

/// Forgets the kernel IPC of `t` without an answer.
pub fn drop_kernel_ipc(cpu: &PerCpu, t: TcbRef) {
    unqueue(t);
    sched::clear_wakeup(cpu, t);
    let outer = t.outer.replace(Outer::USER);
    kernel_msg::end(t);
    t.partner.set(outer.partner);
    t.then_receive.set(outer.then_receive);
    t.timeouts.set(outer.timeouts);
}

/// Takes a polling thread out of its partner's queue.
fn unqueue(t: TcbRef) {
    if t.state() == State::Polling
        && let Some(partner) = t.partner.take()
    {
        partner.senders.remove(t);
    }
}

/// `t` is about to be deleted: it leaves every rendezvous, and those queued at it fail with 'no partner'.
pub fn for_deletion(cpu: &PerCpu, t: TcbRef) {
    abort(cpu, t, true, true);
    unqueue(t);
    work::clear(t);
    dismiss_senders(cpu, t);
    debug_assert!(transfer::is_idle(t));
}

/// Those queued at `t` fail with 'no partner'.
#[inline]
pub fn dismiss_senders(cpu: &PerCpu, t: TcbRef) {
    while let Some(sender) = t.senders.pop() {
        sender.partner.set(None);
        sched::clear_wakeup(cpu, sender);
        let _ = fail(cpu, sender, Phase::Send, IpcCode::NoPartner, 0);
    }
}
