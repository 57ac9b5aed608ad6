//! What a thread still has to do in the kernel before it runs at user level again.
//!
//! The kernel is event-driven: an operation that cannot finish at once keeps its state in the TCB and names
//! its continuation here; the scheduler runs the continuation when it picks the thread.

use kcore::ipc::Key;

use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::TcbRef;

/// The continuation of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Back to user level.
    None,
    /// The send phase is over and a queued sender may match: do the receive phase.
    Receive,
    /// Go on with the typed items of the message that is being received.
    Transfer,
    /// Go on with an Unmap.
    Unmap,
}

/// Gives `t` something to do before it returns to user level.
pub fn set(t: TcbRef, work: Work) {
    t.work.set(work);
    t.set_flag(Key::WORK);
}

/// Forgets the pending work of `t`.
pub fn clear(t: TcbRef) {
    t.work.set(Work::None);
    t.clear_flag(Key::WORK);
}

/// Runs the pending work of `t`, the current thread.
#[cold]
pub fn run(cpu: &PerCpu, t: TcbRef) -> Next {
    let work = t.work.get();
    clear(t);
    match work {
        Work::None => Next::Thread(t),
        Work::Receive => crate::ipc::receive_phase(cpu, t, t.then_receive.get(), Next::Thread(t)),
        Work::Transfer => crate::ipc::transfer::resume(cpu, t),
        Work::Unmap => crate::syscall::unmap::resume(cpu, t),
    }
}
