//! System calls: from the stub that was used to the function that does it (reference 4).

pub mod clock;
pub mod space_control;
pub mod unmap;

use kcore::layout::STUB_PAGE;
use l4abi::error::ErrorCode;
use l4abi::syscall::SyscallNo;

use crate::ipc;
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread::tcb::{Exit, TcbRef, reg};
use crate::thread::{self, utcb};
use crate::trace;

/// Bytes between stubs in the stub page.
pub const STUB_STRIDE: u64 = 16;

/// Address of the stub of `call`, for the KIP.
pub const fn stub_address(call: SyscallNo) -> u64 {
    // Lipc is Ipc: both links name one stub, so that its return address says enough.
    let stub = match call {
        SyscallNo::Lipc => SyscallNo::Ipc,
        call => call,
    };
    STUB_PAGE.as_u64() + stub as u64 * STUB_STRIDE
}

/// Entry from assembly for Ipc: the registers of `me` are saved, and its arguments are still in those in which
/// they came, which are those of a C function.
pub extern "C" fn ipc_from_user(
    me: TcbRef,
    to: u64,
    from: u64,
    _return_address: u64,
    timeouts: u64,
    tag: u64,
) -> TcbRef {
    let cpu = sched::this_cpu();
    trace::enter_ipc(me, to, from);
    trace::leave(sched::leave(cpu, ipc::syscall(cpu, me, ipc::Call { to, from, timeouts, tag })))
}

/// The same for a message in registers and a receive phase without timeout, when the short path found that `dest`, whose
/// id is `to`, does not just wait on this CPU.
pub extern "C" fn cross_from_user(
    me: TcbRef,
    to: u64,
    from: u64,
    dest: TcbRef,
    timeouts: u64,
    tag: u64,
) -> TcbRef {
    let cpu = sched::this_cpu();
    let call = ipc::Call { to, from, timeouts, tag };
    match crate::cross::short::call(cpu, me, dest, call) {
        Some(next) => sched::leave(cpu, next),
        None => ipc_from_user(me, to, from, 0, timeouts, tag),
    }
}

/// The same for what may be the answer to a message that the kernel made, when short paths are allowed.
pub extern "C" fn answer_from_user(
    me: TcbRef,
    to: u64,
    from: u64,
    _return_address: u64,
    timeouts: u64,
    tag: u64,
) -> TcbRef {
    let cpu = sched::this_cpu();
    let call = ipc::Call { to, from, timeouts, tag };
    me.timeouts.set(timeouts);
    match ipc::short::answer(cpu, me, call) {
        Some(dest) => sched::leave_to(cpu, dest),
        None => sched::leave(cpu, ipc::any_case(cpu, me, call)),
    }
}

/// Entry from assembly: the registers of `me` are saved; `return_address` is where SYSCALL returns to and so
/// says which stub it was. Answers whose registers to load.
pub extern "C" fn syscall_from_user(return_address: u64, me: TcbRef) -> TcbRef {
    let cpu = sched::this_cpu();
    let offset = return_address.wrapping_sub(STUB_PAGE.as_u64());
    let next = match SyscallNo::ALL.get((offset / STUB_STRIDE) as usize) {
        Some(&call) => {
            trace::enter(me, call);
            run(cpu, me, call)
        }
        None => not_a_stub(cpu, me),
    };
    trace::leave(sched::leave(cpu, next))
}

/// Runs `call` in the name of `me`. With `me` on another CPU this is a proxy: the arguments are in its saved
/// registers, the results go there too. None of the calls is inlined, and none
/// lets the compiler see that it always answers `me`, so this is a jump and no frame.
#[inline(never)]
pub fn run(cpu: &PerCpu, me: TcbRef, call: SyscallNo) -> Next {
    match call {
        SyscallNo::Ipc | SyscallNo::Lipc => ipc::by_proxy(cpu, me),
        SyscallNo::SystemClock => clock::syscall(me),
        SyscallNo::ThreadSwitch => thread::schedule::thread_switch(cpu, me),
        SyscallNo::Schedule => thread::schedule::schedule(cpu, me),
        SyscallNo::ExchangeRegisters => thread::exregs::syscall(cpu, me),
        SyscallNo::ThreadControl => thread::control::syscall(cpu, me),
        SyscallNo::SpaceControl => space_control::syscall(cpu, me),
        SyscallNo::Unmap => unmap::syscall(cpu, me),
        SyscallNo::ProcessorControl => clock::processor_control(me),
        SyscallNo::MemoryControl => crate::space::attributes::syscall(cpu, me),
    }
}

/// SYSCALL outside the stub page: as if the instruction did not exist.
#[cold]
fn not_a_stub(cpu: &PerCpu, me: TcbRef) -> Next {
    const SYSCALL_LENGTH: u64 = 2;
    me.exit.set(Exit::Iret);
    me.set_reg(reg::RIP, me.reg(reg::RIP).wrapping_sub(SYSCALL_LENGTH));
    crate::trap::exception(cpu, me, crate::trap::INVALID_OPCODE, 0)
}

/// Writes the ErrorCode TCR.
pub fn set_error(me: TcbRef, error: Option<ErrorCode>) {
    utcb::set_error(me, error.map_or(0, |e| e as u64));
}

/// Result register of most calls: the value, or 0 and the error.
pub fn set_result(me: TcbRef, result: Result<u64, ErrorCode>) {
    match result {
        Ok(value) => me.set_reg(reg::RAX, value),
        Err(error) => {
            me.set_reg(reg::RAX, 0);
            set_error(me, Some(error));
        }
    }
}
