//! Messages that the kernel makes in a thread's name: faults, exceptions, preemption, and the start-up wait
//! (reference 4.5, 6).
//!
//! They go through the same rendezvous as any message. What differs is where the words come from (the TCB,
//! not the thread's message registers, which survive) and what the answer does. A thread in such an IPC has
//! [`Key::KERNEL_IPC`] set. One level of nesting exists: a page fault in the middle of a string transfer;
//! the transfer's state is kept in [`Outer`] meanwhile.

use core::fmt;
use core::sync::atomic::Ordering;

use kcore::ipc::{Awaited, Key, State};
use l4abi::acceptor::Acceptor;
use l4abi::exregs::USER_FLAGS;
use l4abi::fpage::{Fpage, Rights};
use l4abi::proto;
use l4abi::tag::MsgTag;

use crate::ipc::{begin_transfer, cancel, poll_at, takes, timeout, transfer};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread::tcb::{Exit, Outer, TcbRef, reg};
use crate::thread::{self, utcb};
use crate::trace;

/// The kernel-made IPC that a thread is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KernelIpc {
    /// None.
    None,
    /// Activated, waits for its start message.
    Startup,
    /// Page fault: address, instruction, access bits (r 4, w 2, x 1).
    PageFault(u64, u64, u8),
    /// I/O fault: I/O fpage, instruction.
    IoFault(Fpage, u64),
    /// Exception: vector, error code.
    Exception(u8, u64),
    /// The total quantum is used up: clock.
    Preemption(u64),
    /// A delayed preemption overran its time: clock.
    PreemptionFault(u64),
}

impl KernelIpc {
    /// Whether the thread is in one.
    #[inline(always)]
    pub fn is_active(self) -> bool {
        !matches!(self, Self::None)
    }
}

impl fmt::Display for KernelIpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => f.write_str("message"),
            Self::Startup => f.write_str("start"),
            Self::PageFault(address, _, access) => {
                write!(f, "page fault at {address:#x} (access {access})")
            }
            Self::IoFault(ports, _) => write!(f, "access to ports {:#x}", ports.raw()),
            Self::Exception(vector, error) => write!(f, "exception {vector} (error {error:#x})"),
            Self::Preemption(_) | Self::PreemptionFault(_) => f.write_str("preemption"),
        }
    }
}

/// Registers of MR1..MR18 of an exception message, in order (reference 6.3).
const EXCEPTION_REGS: [usize; 18] = [
    reg::RIP,
    reg::RBX,
    reg::R10,
    reg::R12,
    reg::R13,
    reg::R14,
    reg::R15,
    reg::RAX,
    reg::RCX,
    reg::RDX,
    reg::RSI,
    reg::RDI,
    reg::RBP,
    reg::R8,
    reg::R9,
    reg::R11,
    reg::RSP,
    reg::RFLAGS,
];

/// Words of an answer to an exception message that mean something.
pub const EXCEPTION_WORDS: usize = EXCEPTION_REGS.len();

/// RFLAGS bits that user level may choose: CF PF AF ZF SF TF DF OF AC ID; IF stays set, IOPL stays 0.
const FLAGS_FREE: u64 = 0x0024_0DD5;
/// Bits that are always set: IF and the reserved bit 1.
const FLAGS_FIXED: u64 = 0x202;

/// RFLAGS as a thread may have them.
pub fn user_flags(wanted: u64) -> u64 {
    wanted & FLAGS_FREE | FLAGS_FIXED
}

/// `old` with the arithmetic flags of `new`: what ExchangeRegisters may change.
pub fn arithmetic_flags(old: u64, new: u64) -> u64 {
    user_flags(old & !USER_FLAGS | new & USER_FLAGS)
}

/// Makes the kernel message `ipc` of `t` and sends it to the thread with global id `to`.
pub fn raise(cpu: &PerCpu, t: TcbRef, ipc: KernelIpc, to: u64, outer: Outer) -> Next {
    t.outer.set(outer);
    t.kernel_ipc.set(ipc);
    t.set_flag(Key::KERNEL_IPC);
    t.then_receive.set(to);
    t.virtual_sender.set(0);
    t.timeouts.set(0);
    let Some(dest) = thread::lookup(to) else { return failed(cpu, t) };
    trace::ipc_send(t, dest, true);
    if dest.key().cpu() != t.key().cpu() {
        t.partner.set(None);
        return crate::cross::send(cpu, t, dest, to);
    }
    if dest.state() == State::Waiting && takes(dest, t) {
        return match begin_transfer(cpu, t, dest) {
            transfer::Outcome::Done => sent(cpu, t, Next::Thread(dest)),
            transfer::Outcome::Failed => {
                sched::enqueue(cpu, dest);
                Next::Schedule
            }
            transfer::Outcome::Parked(next) => next,
        };
    }
    poll_at(cpu, t, dest, timeout::Deadline::Never);
    Next::Schedule
}

/// The kernel message of `t` was taken: `t` waits for the answer.
pub fn sent(_cpu: &PerCpu, t: TcbRef, partner: Next) -> Next {
    t.awaited.set(t.then_receive.get());
    t.partner.set(None);
    t.set_state(State::Waiting);
    partner
}

/// `t` waits for its start message from `pager` (reference 4.5).
pub fn await_start(t: TcbRef, pager: u64) {
    t.outer.set(Outer::USER);
    t.kernel_ipc.set(KernelIpc::Startup);
    t.set_flag(Key::KERNEL_IPC);
    t.awaited.set(pager);
    t.set_state(State::Waiting);
}

/// The kernel message of `t` cannot be delivered, or its answer is aborted by a failure: the thread stops. If it had a
/// fault in the middle of a transfer, which cannot go on without the page, the transfer is aborted instead.
pub fn failed(cpu: &PerCpu, t: TcbRef) -> Next {
    let (message, outer) = (t.kernel_ipc.get(), t.outer.get());
    match (outer.state, outer.partner) {
        (State::Sending, Some(dest)) => cancel::abort_transfer(cpu, t, dest),
        (State::Receiving, Some(sender)) => cancel::abort_transfer(cpu, sender, t),
        _ => {
            end(t);
            t.awaited.set(Awaited::NOBODY.0);
            t.set_state(State::Ready);
            t.set_state(State::Stopped);
            crate::trap::report_stopped(t, message);
        }
    }
    match cpu.current.get() {
        c if c == t => Next::Schedule,
        c => Next::Thread(c),
    }
}

/// The answer to the kernel message of `t` is there; its typed items have been processed. `t` is ready.
pub fn replied(t: TcbRef, sender: TcbRef, tag: MsgTag) {
    match t.kernel_ipc.get() {
        KernelIpc::Startup => {
            t.set_reg(reg::RIP, transfer::word(sender, 1));
            trace::begin(t, t.reg(reg::RIP));
            t.set_reg(reg::RSP, transfer::word(sender, 2));
            t.set_reg(reg::RFLAGS, FLAGS_FIXED);
            t.exit.set(Exit::Iret);
        }
        KernelIpc::Exception(..) => {
            let words = tag.untyped().min(EXCEPTION_WORDS);
            for (i, &slot) in EXCEPTION_REGS[..words].iter().enumerate() {
                t.set_reg(slot, transfer::word(sender, i + 1));
            }
            settle_exception(t);
        }
        _ => {}
    }
    end(t);
}

/// All registers of `t`, which raised an exception, from a message of `sender`'s own that answers it.
#[inline(always)]
pub fn take_exception_words(t: TcbRef, sender: TcbRef) {
    for (i, &slot) in EXCEPTION_REGS[..IN_REGISTERS].iter().enumerate() {
        t.set_reg(slot, sender.reg(reg::R9 + 1 + i));
    }
    if let Some(mrs) = utcb::mrs(sender) {
        for (mr, &slot) in mrs[IN_REGISTERS + 1..].iter().zip(&EXCEPTION_REGS[IN_REGISTERS..]) {
            t.set_reg(slot, mr.load(Ordering::Relaxed));
        }
    }
    settle_exception(t);
}

/// `t` goes on with the registers that its exception handler chose.
#[inline(always)]
fn settle_exception(t: TcbRef) {
    t.set_reg(reg::RFLAGS, user_flags(t.reg(reg::RFLAGS)));
    t.exit.set(Exit::Iret);
}

/// Ends the kernel IPC of `t` and puts back what it interrupted.
pub fn end(t: TcbRef) {
    t.kernel_ipc.set(KernelIpc::None);
    t.clear_flag(Key::KERNEL_IPC);
    let outer = t.outer.replace(Outer::USER);
    t.then_receive.set(outer.then_receive);
    t.timeouts.set(outer.timeouts);
    t.partner.set(outer.partner);
    if outer.state != State::Ready {
        crate::ipc::strings::fault_answered(t, outer);
    }
}

/// The tag of the kernel message of `t`.
pub fn tag(t: TcbRef) -> MsgTag {
    match t.kernel_ipc.get() {
        KernelIpc::None | KernelIpc::Startup => MsgTag::NIL,
        KernelIpc::PageFault(_, _, access) => {
            proto::PageFault { access: Rights::from_bits_truncate(access), addr: 0, ip: 0 }.tag()
        }
        KernelIpc::IoFault(..) => proto::Protocol::IoFault.tag(6, 2),
        KernelIpc::Exception(..) => proto::EXCEPTION_TAG,
        KernelIpc::Preemption(_) | KernelIpc::PreemptionFault(_) => proto::PREEMPTION_TAG,
    }
}

/// Word `i` (from 1) of the kernel message of `t`.
pub fn word(t: TcbRef, i: usize) -> u64 {
    match (t.kernel_ipc.get(), i) {
        (KernelIpc::PageFault(address, _, _), 1) => address,
        (KernelIpc::PageFault(_, ip, _) | KernelIpc::IoFault(_, ip), 2) => ip,
        (KernelIpc::IoFault(fpage, _), 1) => fpage.raw(),
        (KernelIpc::Exception(..), 1..=18) => t.reg(EXCEPTION_REGS[i - 1]),
        (KernelIpc::Exception(vector, _), 19) => u64::from(vector),
        (KernelIpc::Exception(_, error), 20) => error,
        (KernelIpc::Preemption(clock) | KernelIpc::PreemptionFault(clock), 1) => clock,
        _ => 0,
    }
}

/// Copies the words of the exception message of `t` to `dest`: MR1..MR7 to its registers, the rest to its UTCB.
#[inline(always)]
pub fn exception_words(t: TcbRef, dest: TcbRef, vector: u8, error: u64) {
    for (i, &slot) in EXCEPTION_REGS.iter().enumerate().take(IN_REGISTERS) {
        dest.set_reg(reg::R9 + 1 + i, t.reg(slot));
    }
    let Some(mrs) = utcb::mrs(dest) else { return };
    for (mr, &slot) in mrs[IN_REGISTERS + 1..].iter().zip(&EXCEPTION_REGS[IN_REGISTERS..]) {
        mr.store(t.reg(slot), Ordering::Relaxed);
    }
    mrs[19].store(u64::from(vector), Ordering::Relaxed);
    mrs[20].store(error, Ordering::Relaxed);
}

/// MRs behind MR0 that travel in registers.
const IN_REGISTERS: usize = 7;

/// What `t` accepts in the receive phase it is in.
pub fn acceptor(t: TcbRef) -> Acceptor {
    match t.kernel_ipc.get() {
        KernelIpc::None => Acceptor::from_raw(utcb::buffer(t, 0)),
        // The answer may map into the whole space (reference 6.1).
        KernelIpc::PageFault(..) | KernelIpc::IoFault(..) => Acceptor::COMPLETE,
        KernelIpc::Startup
        | KernelIpc::Exception(..)
        | KernelIpc::Preemption(_)
        | KernelIpc::PreemptionFault(_) => Acceptor::NONE,
    }
}
