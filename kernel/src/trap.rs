//! Exceptions and interrupts that arrive while a thread runs: what each vector becomes (reference 4.2, 6).

use kcore::ipc::Key;
use l4abi::fpage::Fpage;
use l4abi::syscall::KERNEL_INTERFACE_INSN;

use crate::arch::x86_64::vectors;
use crate::ipc::kernel_msg::{self, KernelIpc};
use crate::ipc::short;
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::space::{self, user};
use crate::thread::tcb::{Outer, TcbRef, reg};
use crate::thread::{self, utcb};
use crate::{arch, irq, kdb, println, trace};

const DEBUG: u8 = 1;
/// Vector of an undefined instruction.
pub const INVALID_OPCODE: u8 = 6;
const NO_FPU: u8 = 7;
const GENERAL_PROTECTION: u8 = 13;

/// Length of `lock; nop`.
const KERNEL_INTERFACE_LENGTH: u64 = KERNEL_INTERFACE_INSN.len() as u64;

/// Entry from assembly for page faults at user level; the registers of `me` are saved.
pub extern "C" fn page_fault_from_user(me: TcbRef, address: u64, error: u64) -> TcbRef {
    let cpu = sched::this_cpu();
    let access = access_of(error);
    trace::page_fault(me, address, access);
    trace::leave(match short::page_fault(cpu, me, address, access) {
        Some(pager) => sched::leave_to(cpu, pager),
        None => sched::leave(cpu, page_fault(cpu, me, address, access)),
    })
}

/// Entry from assembly for interrupts of devices at user level; the registers of `me` are saved.
pub extern "C" fn device_from_user(line: &'static irq::Line, me: TcbRef) -> TcbRef {
    let cpu = sched::this_cpu();
    trace::interrupt(vectors::DEVICES + line.number() as u8, me);
    trace::leave(match short::interrupt(cpu, me, line) {
        Some(handler) => {
            arch::x86_64::apic::end_of_interrupt();
            sched::leave_to(cpu, handler)
        }
        None => any_device(line),
    })
}

/// An interrupt of a device at user level, with every case.
#[inline(never)]
fn any_device(line: &'static irq::Line) -> TcbRef {
    let cpu = sched::this_cpu();
    sched::leave(cpu, irq::fired(cpu, line.number()))
}

/// Entry from assembly for all other traps at user level; the registers of `me` are saved.
pub extern "C" fn trap_from_user(vector: u64, error: u64, me: TcbRef) -> TcbRef {
    let cpu = sched::this_cpu();
    let next = match vector as u8 {
        INVALID_OPCODE => invalid_opcode(cpu, me),
        vectors::BREAKPOINT => kdb::breakpoint(cpu, me),
        NO_FPU => thread::fpu::wanted(cpu, me),
        GENERAL_PROTECTION => general_protection(cpu, me, error),
        v if v < vectors::FIRST_INTERRUPT => exception(cpu, me, v, error),
        v => interrupt(cpu, v),
    };
    trace::leave(sched::leave(cpu, next))
}

/// Entry from assembly for a request of another CPU that woke this one up. Answers whose registers to load.
pub extern "C" fn request_while_asleep() -> TcbRef {
    let cpu = sched::this_cpu();
    trace::interrupt(vectors::REQUEST, cpu.idle.get());
    arch::x86_64::apic::end_of_interrupt();
    trace::leave(sched::wake_up(cpu))
}

/// An interrupt in kernel mode, where only the idle loop and the windows between bounded steps let any in. Who
/// should run because of it is only noted: the interrupted code looks when this returns.
pub fn interrupt_in_kernel(vector: u8) {
    let cpu = sched::this_cpu();
    match interrupt(cpu, vector) {
        Next::Thread(t) if t == cpu.current.get() => {}
        Next::Thread(t) => {
            sched::enqueue(cpu, t);
            cpu.reschedule.set(true);
        }
        Next::Schedule => cpu.reschedule.set(true),
    }
}

/// An interrupt of this CPU. Answers who should run.
fn interrupt(cpu: &PerCpu, vector: u8) -> Next {
    let current = cpu.current.get();
    trace::interrupt(vector, current);
    let next = match vector {
        vectors::TIMER => {
            arch::x86_64::apic::end_of_interrupt();
            return sched::on_timer(cpu);
        }
        vectors::REQUEST | vectors::SHOOTDOWN | vectors::LINES => {
            arch::x86_64::apic::end_of_interrupt();
            crate::cross::on_interrupt(cpu, vector);
            Next::Thread(current)
        }
        vectors::PROBE => {
            crate::measure::taken(cpu);
            arch::x86_64::apic::end_of_interrupt();
            Next::Thread(current)
        }
        vectors::SPURIOUS => return stay(cpu, current),
        v if (vectors::DEVICES..vectors::TIMER).contains(&v) => {
            return irq::fired(cpu, u32::from(v - vectors::DEVICES));
        }
        _ => {
            arch::x86_64::apic::end_of_interrupt();
            Next::Thread(current)
        }
    };
    match next {
        Next::Thread(t) => stay(cpu, t),
        Next::Schedule => Next::Schedule,
    }
}

fn stay(cpu: &PerCpu, t: TcbRef) -> Next {
    if t == cpu.idle.get() { Next::Schedule } else { Next::Thread(t) }
}

/// Page fault error code bits (SDM 3A 4.7).
mod pf {
    pub const WRITE: u64 = 1 << 1;
    pub const FETCH: u64 = 1 << 4;
}

/// What a page fault wanted, as access bits (r 4, w 2, x 1).
#[inline(always)]
fn access_of(error: u64) -> u8 {
    if error & pf::FETCH != 0 {
        1
    } else if error & pf::WRITE != 0 {
        2
    } else {
        4
    }
}

/// A page fault of `me` at `address`: to its pager, or resolved here for sigma0.
#[inline(never)]
fn page_fault(cpu: &PerCpu, me: TcbRef, address: u64, access: u8) -> Next {
    if space::is_sigma0(me)
        && me.space.get().is_some_and(|s| space::mapping::resolve_identity(s, address))
    {
        return Next::Thread(me);
    }
    let fault = KernelIpc::PageFault(address, me.reg(reg::RIP), access);
    kernel_msg::raise(cpu, me, fault, utcb::pager(me), Outer::USER)
}

/// An exception of `me`, the running thread: to its exception handler; without one the thread stops.
pub fn exception(cpu: &PerCpu, me: TcbRef, vector: u8, error: u64) -> Next {
    trace::exception(me, vector, error);
    if vector == DEBUG {
        arch::x86_64::regs::clear_debug_status();
    }
    if let Some(handler) = short::exception(cpu, me, vector, error) {
        return Next::Thread(handler);
    }
    let message = KernelIpc::Exception(vector, error);
    kernel_msg::raise(cpu, me, message, utcb::exception_handler(me), Outer::USER)
}

/// `lock; nop` asks for the kernel interface page; everything else is an exception.
fn invalid_opcode(cpu: &PerCpu, me: TcbRef) -> Next {
    let ip = me.reg(reg::RIP);
    if !me.space.get().is_some_and(|s| user::has_code(s, ip, KERNEL_INTERFACE_INSN)) {
        return exception(cpu, me, INVALID_OPCODE, 0);
    }
    let kip = crate::kip::facts();
    me.set_reg(reg::RAX, me.space.get().map_or(0, |s| s.kip_address()));
    me.set_reg(reg::RCX, kip.api_version);
    me.set_reg(reg::RDX, kip.api_flags);
    me.set_reg(reg::RSI, kip.kernel_id);
    me.set_reg(reg::RIP, me.reg(reg::RIP) + KERNEL_INTERFACE_LENGTH);
    Next::Thread(me)
}

/// #GP: a port access without permission becomes an I/O fault, the rest an exception (reference 6.2, 6.3).
fn general_protection(cpu: &PerCpu, me: TcbRef, error: u64) -> Next {
    let Some(space) = me.space.get() else { return Next::Schedule };
    let mut code = [0u8; 15];
    let length = user::read_some(space, me.reg(reg::RIP), &mut code);
    match kcore::decode::port_access(&code[..length], me.reg(reg::RDX) as u16) {
        Some(access) if error == 0 => {
            if space::io::grant_cpu(cpu, space, access) {
                return Next::Thread(me);
            }
            if space::is_sigma0(me) {
                space::io::open_all(space);
                return Next::Thread(me);
            }
            let fpage = Fpage::io(access.port & !((1 << access.size_log2) - 1), access.size_log2);
            let fault = KernelIpc::IoFault(fpage, me.reg(reg::RIP));
            kernel_msg::raise(cpu, me, fault, utcb::pager(me), Outer::USER)
        }
        _ => exception(cpu, me, GENERAL_PROTECTION, error),
    }
}

/// A thread stops for good: nobody handles its fault. Said once on the console, because it is nearly always a
/// mistake in a program.
pub fn report_stopped(t: TcbRef, message: KernelIpc) {
    println!(
        "thread {:#x} stopped at {:#x}: no pager or handler takes its {message}",
        t.id.get(),
        t.reg(reg::RIP),
    );
    debug_assert!(!t.key().has(Key::KERNEL_IPC));
}
