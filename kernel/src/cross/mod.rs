//! Across CPUs: requests to the owners of threads, shootdowns.

pub mod shootdown;

use l4abi::error::IpcCode;

use crate::ipc::result::{Phase, fail};
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::TcbRef;

/// Serves requests of other CPUs.
#[inline]
pub fn poll(_cpu: &PerCpu) {}

/// Serves shootdown requests only; safe anywhere.
pub fn serve_shootdowns() {}

/// An interrupt of another CPU arrived.
pub fn on_interrupt(_cpu: &PerCpu, _vector: u8) {}

/// Has the system call of `me` done on CPU `owner`.
pub fn forward(_cpu: &PerCpu, me: TcbRef, _owner: u16) -> Next {
    Next::Thread(me)
}

/// Send phase of `me` to a thread on another CPU.
pub fn send(cpu: &PerCpu, me: TcbRef, _dest: TcbRef) -> Next {
    fail(cpu, me, Phase::Send, IpcCode::NoPartner, 0)
}

/// `me` takes the message of a queued sender on another CPU.
pub fn accept(_cpu: &PerCpu, _me: TcbRef, _sender: TcbRef) -> Next {
    Next::Schedule
}

/// Moves `t` to CPU `to` for `me`.
pub fn migrate(_cpu: &PerCpu, me: TcbRef, _t: TcbRef, _to: u16) -> Next {
    Next::Thread(me)
}

/// The thread that `sender`, of another CPU, is queued at is gone.
pub fn partner_gone(_cpu: &PerCpu, _sender: TcbRef) {}
