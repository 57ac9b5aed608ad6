//! Moving threads to another CPU (l4-smp 8.7).
//!
//! The mover does it on the CPU where the thread is. A thread has a *home*, the CPU on which it runs at user
//! level, and is owned by the CPU it is on. Migration changes the home; a thread that has nothing that ties it to
//! this CPU then leaves for its new home in whatever state it is, with its timeout, and those queued at it
//! follow. One that is queued at a partner here, or sends to one, stays as a visitor and goes to its new home
//! when it is done. So every state is covered by the ways that cross-CPU IPC has anyway.

use kcore::cross::NOWHERE;
use kcore::ipc::Key;
use kcore::types::{CpuId, NodeId, PhysAddr};
use l4abi::error::ErrorCode;

use crate::cross::transfer;
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::SpaceRef;
use crate::thread::tcb::TcbRef;
use crate::thread::utcb;
use crate::{cpu, irq};

/// The CR3 value of `space` on CPU `to`.
pub fn root_on(space: SpaceRef, to: u16) -> Option<u64> {
    let id = CpuId::new(to);
    let kernel_root = PhysAddr::new(cpu::shared_of(id)?.kernel_root);
    let node = NodeId::new(*cpu::node_page().nodes.get(id.index())?);
    space.root_for(id.index(), node, kernel_root)
}

/// Moves `t`, a thread of this CPU, to CPU `to`, for `me`.
///
/// # Errors
/// `InvalidParameter`: `t` is `me` (implementation decision 4: nobody migrates itself), or `to` is not up;
/// `OutOfMemory`: no root table on the new node. Nothing has changed then.
pub fn check(me: TcbRef, t: TcbRef, to: u16) -> Result<u64, ErrorCode> {
    if t == me || to == NOWHERE || cpu::shared_of(CpuId::new(to)).is_none() {
        return Err(ErrorCode::InvalidParameter);
    }
    let space = t.space.get().ok_or(ErrorCode::InvalidThread)?;
    root_on(space, to).ok_or(ErrorCode::OutOfMemory)
}

/// The part that cannot fail; `root` is the answer of [`check`].
pub fn commit(cpu: &PerCpu, me: TcbRef, t: TcbRef, to: u16, root: u64) -> Next {
    crate::trace::migrate(t, to);
    let visited = t.key().has(Key::VISITING);
    t.travel.set_home(to);
    t.root.set(root);
    utcb::set_processor(t, to);
    irq::handler_moved(t);
    transfer::moved(cpu, t, visited);
    Next::Thread(me)
}
