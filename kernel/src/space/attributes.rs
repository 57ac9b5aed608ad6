//! MemoryControl (reference 4.12): cache attributes of pages, through the page attribute table.

use l4abi::error::ErrorCode;

use crate::sched::Next;
use crate::thread::tcb::{TcbRef, reg};
use crate::{syscall, thread};

/// The system call: privileged.
#[inline(never)]
pub fn syscall(_cpu: &crate::sched::percpu::PerCpu, me: TcbRef) -> Next {
    let result = if thread::is_privileged(me) {
        Err(ErrorCode::InvalidParameter)
    } else {
        Err(ErrorCode::NoPrivilege)
    };
    syscall::set_result(me, result);
    me.set_reg(reg::RDX, me.reg(reg::RAX));
    me.set_reg(reg::RDI, me.local_id.get());
    Next::Thread(core::hint::black_box(me))
}
