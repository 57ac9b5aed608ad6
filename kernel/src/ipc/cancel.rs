//! Ending somebody's IPC: ExchangeRegisters, migration between spaces, deletion (reference 5.7).

use kcore::ipc::State;
use l4abi::error::IpcCode;

use crate::cross::transfer::{self, Ending};
use crate::ipc::kernel_msg;
use crate::ipc::result::{Phase, fail};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, work};
use crate::thread::tcb::{Outer, TcbRef};

/// Aborts the receive and/or send phase of `t`, a thread of this CPU, if it is in one. What that ends is said by the rules
/// (`kcore::cross::transfer::abort`).
pub fn abort(cpu: &PerCpu, t: TcbRef, receive: bool, send: bool) {
    match transfer::abort(cpu, t, receive, send) {
        Ending::Send => {
            unqueue(t);
            sched::clear_wakeup(cpu, t);
            let _ = fail(cpu, t, Phase::Send, IpcCode::Canceled, 0);
        }
        Ending::Receive => {
            sched::clear_wakeup(cpu, t);
            let _ = fail(cpu, t, Phase::Receive, IpcCode::Canceled, 0);
        }
        Ending::Transfer(sender, dest) => abort_transfer(cpu, sender, dest),
        Ending::Message => {
            drop_kernel_ipc(cpu, t);
            t.set_state(State::Ready);
            sched::enqueue(cpu, t);
        }
        Ending::Nothing => {
            // A receive phase that was put off until the thread is picked.
            if t.state() == State::Ready && receive && t.work.get() == work::Work::Receive {
                work::clear(t);
                let _ = fail(cpu, t, Phase::Receive, IpcCode::Canceled, 0);
            }
        }
    }
}

/// Ends the transfer from `sender` to `dest`, both of which are parked: both get 'aborted'.
pub fn abort_transfer(cpu: &PerCpu, sender: TcbRef, dest: TcbRef) {
    end_transfer(cpu, sender, dest, (IpcCode::Aborted, IpcCode::Aborted));
}

/// Ends the parked transfer from `sender` to `dest` with an error for each.
pub fn end_transfer(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, codes: (IpcCode, IpcCode)) {
    transfer::end(cpu, sender, dest, codes);
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
    debug_assert!(crate::ipc::transfer::is_idle(t));
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
