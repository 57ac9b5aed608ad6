//! x87, SSE and AVX state: lazily loaded, never leaked.
//!
//! A thread that never uses the FPU pays nothing. The registers keep the state of the CPU's *owner* thread;
//! while any other thread runs, CR0.TS makes their first FPU instruction trap (#NM), and only then the state
//! changes hands. A thread whose state is loaded while it runs has [`Key::LOADED`] set, so that the fast
//! path is not taken out of it and the complete path sets TS again.

use kcore::ipc::Key;

use crate::arch::x86_64::fpu as hw;
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::TcbRef;

/// #NM: `t` uses the FPU and the registers are not its own.
pub fn wanted(cpu: &PerCpu, t: TcbRef) -> Next {
    hw::clear_task_switched();
    let owner = cpu.fpu_owner.get();
    if owner != Some(t) {
        if let Some(owner) = owner {
            hw::save(&owner.fpu);
        }
        if t.fpu_valid.get() {
            hw::restore(&t.fpu);
        } else {
            hw::reset(&t.fpu);
            t.fpu_valid.set(true);
        }
        cpu.fpu_owner.set(Some(t));
    }
    t.set_flag(Key::LOADED);
    cpu.expected_key.set(Key::NEVER.0);
    Next::Thread(t)
}

/// `before` stops running on this CPU.
#[inline]
pub fn on_leave(before: TcbRef) {
    if before.key().has(Key::LOADED) {
        before.clear_flag(Key::LOADED);
        hw::set_task_switched();
    }
}

/// `t` leaves this CPU: its state goes into its TCB.
pub fn write_back(cpu: &PerCpu, t: TcbRef) {
    if cpu.fpu_owner.get() == Some(t) {
        hw::clear_task_switched();
        hw::save(&t.fpu);
        hw::set_task_switched();
        t.clear_flag(Key::LOADED);
        cpu.fpu_owner.set(None);
    }
}

/// `t` is deleted: its state is worth nothing.
pub fn drop_state(cpu: &PerCpu, t: TcbRef) {
    t.fpu_valid.set(false);
    if cpu.fpu_owner.get() == Some(t) {
        cpu.fpu_owner.set(None);
    }
}
