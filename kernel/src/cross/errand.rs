//! What a travelling thread does where it arrives.

use kcore::ipc::{Key, State};
use l4abi::error::IpcCode;
use l4abi::syscall::SyscallNo;

use crate::cross::transfer::End;
use crate::cross::{Reached, must_stay, reach, transfer, would_cross};
use crate::ipc::result::{Phase, fail};
use crate::ipc::timeout::{self, Deadline};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread;
use crate::thread::tcb::TcbRef;

/// The errand of a thread in a mailbox. Its kind is a word of its own, so that asking for it is one comparison.
#[derive(Clone, Copy)]
#[repr(u64)]
pub enum Errand {
    /// None: it goes on in the state it is in.
    Home,
    /// The receive phase that was to follow its send phase.
    Receive,
    /// Its send phase, to the thread with this global id.
    Send {
        /// Receiver.
        dest: u64,
        /// When it was queued there first; 0 = not yet.
        since: u64,
    },
    /// The same the first time, and plain: a message of words in its own name, then a receive phase from the same thread
    /// without timeout, and nothing special about the thread itself.
    Call {
        /// Receiver.
        dest: u64,
    },
    /// Its system call, from the beginning.
    Syscall {
        /// Which one.
        call: SyscallNo,
    },
    /// Its look at where everything lies ([`crate::survey`]), at this CPU.
    Survey {
        /// It wants the result.
        answer: bool,
    },
    /// A fault in the middle of its transfer was answered: back to the partner.
    Resume {
        /// `Sending` or `Receiving`.
        state: State,
    },
    /// It receives and has come for its sender.
    Fetch,
    /// Its transfer has ended; the partner must learn it.
    End {
        /// The partner.
        partner: TcbRef,
        /// What the partner gets.
        end: End,
    },
}

/// Runs the errand of `t`, which is of this CPU now.
pub fn run(cpu: &PerCpu, t: TcbRef) -> Next {
    match t.travel.errand.get() {
        Errand::Home => {
            if t.is_runnable() {
                sched::enqueue(cpu, t);
            }
            Next::Schedule
        }
        Errand::Receive => {
            t.set_state(State::Ready);
            crate::ipc::receive_phase(cpu, t, t.then_receive.get(), Next::Schedule)
        }
        Errand::Send { dest, since } => send(cpu, t, dest, since),
        Errand::Call { dest } => send(cpu, t, dest, 0),
        Errand::Syscall { call } => {
            t.set_state(State::Ready);
            crate::syscall::run(cpu, t, call)
        }
        Errand::Survey { answer } => crate::survey::arrive(cpu, t, answer),
        Errand::Resume { state } => {
            t.set_state(state);
            transfer::resume(cpu, t)
        }
        Errand::Fetch => {
            t.set_state(State::Receiving);
            transfer::fetch(cpu, t)
        }
        Errand::End { partner, end } => transfer::end_partner(cpu, t, partner, end),
    }
}

/// The send phase of `t` to the thread with global id `dest`.
fn send(cpu: &PerCpu, t: TcbRef, dest: u64, since: u64) -> Next {
    match thread::lookup(dest) {
        None => no_partner(cpu, t),
        // It was queued here and moved away.
        Some(d) if must_stay(t, d) => {
            sched::clear_wakeup(cpu, t);
            would_cross(cpu, t, d)
        }
        Some(d) => send_to(cpu, t, d, dest, since),
    }
}

/// The same when a thread with that id was found a moment ago: `d`.
pub fn send_to(cpu: &PerCpu, t: TcbRef, d: TcbRef, dest: u64, since: u64) -> Next {
    match reach(cpu, t, d, Errand::Send { dest, since }) {
        Reached::It => send_here(cpu, t, d, since),
        Reached::NotYet => Next::Schedule,
        Reached::Nobody => no_partner(cpu, t),
    }
}

fn no_partner(cpu: &PerCpu, t: TcbRef) -> Next {
    sched::clear_wakeup(cpu, t);
    fail(cpu, t, Phase::Send, IpcCode::NoPartner, 0)
}

/// The send phase of `me`, which has come to the CPU of `dest`. If it was queued at `dest` before, it gets its turn
/// back: others may have come before it this time.
pub fn send_here(cpu: &PerCpu, me: TcbRef, dest: TcbRef, since: u64) -> Next {
    // A sender that followed its partner to here keeps its deadline. The time of a thread in a kernel-made
    // message is that of the transfer around it.
    let carried = me.key().has(Key::TIMED) && !me.key().has(Key::KERNEL_IPC);
    let deadline = carried.then(|| Deadline::At(me.wake_link.at()));
    if carried {
        sched::clear_wakeup(cpu, me);
    }
    let ready = dest.state() == State::Waiting && crate::ipc::takes(dest, me);
    if since != 0 && !ready {
        let deadline = deadline.unwrap_or_else(|| timeout::send_deadline(me));
        crate::ipc::poll_since(cpu, me, dest, deadline, since);
        return Next::Schedule;
    }
    crate::ipc::send_local(cpu, me, dest, deadline)
}
