//! SystemClock and ProcessorControl (reference 4.6, 4.11).

use l4abi::error::ErrorCode;

use crate::sched::Next;
use crate::thread::tcb::{TcbRef, reg};
use crate::{cpu, thread, time};

/// The clock in µs since boot.
#[inline(never)]
pub fn syscall(me: TcbRef) -> Next {
    me.set_reg(reg::RAX, time::now_in_order_us());
    Next::Thread(core::hint::black_box(me))
}

/// Frequencies and voltages cannot be changed on the machines that Lokal runs on: a privileged caller that
/// names a processor succeeds without effect, as the manual allows.
#[inline(never)]
pub fn processor_control(me: TcbRef) -> Next {
    let processor = me.reg(reg::RDI);
    let result = if !thread::is_privileged(me) {
        Err(ErrorCode::NoPrivilege)
    } else if processor >= cpu::count() as u64 {
        Err(ErrorCode::InvalidParameter)
    } else {
        Ok(1)
    };
    crate::syscall::set_result(me, result);
    Next::Thread(core::hint::black_box(me))
}
