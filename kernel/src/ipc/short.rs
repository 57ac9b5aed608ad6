//! Short paths in Rust: messages that the kernel makes, and their answers, between threads of this CPU about which
//! nothing is special.
//!
//! Like those in assembly (`arch::x86_64::fastpath`) each is a list of checks, a point of no return, no failure, and
//! does exactly what the complete path (`kernel_msg`, `transfer`, `space::mapping`) would: without them everything
//! works the same (`fastpath=off`). They compare with the CPU's expected key, which no thread has while the running
//! thread is special or the short paths are off.
//!
//! What the complete path keeps in [`Outer`](crate::thread::tcb::Outer) is not touched: outside a kernel IPC it is
//! always that of a thread at user level.

use kcore::ipc::{Awaited, Key, State};
use l4abi::fpage::Rights;
use l4abi::proto;

use crate::ipc::kernel_msg::{self, KernelIpc};
use crate::ipc::{Call, result, takes_plainly};
use crate::irq::Line;
use crate::sched::{self, percpu::PerCpu};
use crate::space::{self, mapping};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{self, utcb};
use crate::trace;

/// The thread with global id `to`, if it waits on this CPU for a message of `me`, the running thread, and nothing is
/// special about either.
#[inline(always)]
fn partner(cpu: &PerCpu, me: TcbRef, to: u64) -> Option<TcbRef> {
    let dest = thread::lookup_at_once(to)?;
    (dest.key.get() == cpu.expected_key.get() && takes_plainly(dest, me)).then_some(dest)
}

/// `dest` has got a message of `me`, except for its words, and can run; `me` waits for the answer.
#[inline(always)]
fn hand_over(cpu: &PerCpu, me: TcbRef, dest: TcbRef, to: u64, tag: u64) {
    trace::ipc_send(me, dest, true);
    trace::ipc_receive(dest, me, tag);
    trace::ipc_wait(me, to);
    dest.set_reg(reg::R9, tag);
    dest.set_reg(reg::RSI, result::name_for(me, dest));
    dest.set_reg(reg::RDI, dest.local_id.get());
    dest.key.set(cpu.plain_ready());
    me.awaited.set(to);
    me.key.set(cpu.plain_waiting() | Key::KERNEL_IPC);
}

/// The page fault of `me` at `address` goes to its pager, who runs next.
#[inline(always)]
pub fn page_fault(cpu: &PerCpu, me: TcbRef, address: u64, access: u8) -> Option<TcbRef> {
    let to = utcb::pager(me);
    let pager = partner(cpu, me, to)?;
    if space::is_sigma0(me) {
        return None;
    }
    // Point of no return.
    let ip = me.reg(reg::RIP);
    me.kernel_ipc.set(KernelIpc::PageFault(address, ip, access));
    pager.set_reg(reg::RAX, address);
    pager.set_reg(reg::RBX, ip);
    let fault = proto::PageFault { access: Rights::from_bits_truncate(access), addr: 0, ip: 0 };
    hand_over(cpu, me, pager, to, fault.tag().raw());
    Some(pager)
}

/// An exception of `me` goes to its handler, who runs next.
#[inline(always)]
pub fn exception(cpu: &PerCpu, me: TcbRef, vector: u8, error: u64) -> Option<TcbRef> {
    let to = utcb::exception_handler(me);
    let handler = partner(cpu, me, to)?;
    // Point of no return.
    me.kernel_ipc.set(KernelIpc::Exception(vector, error));
    kernel_msg::exception_words(me, handler, vector, error);
    hand_over(cpu, me, handler, to, proto::EXCEPTION_TAG.raw());
    Some(handler)
}

/// `line` fired while `me` ran: its handler, who waits for it and is more important, runs next. `me` goes on later; it
/// may have the FPU or ports.
#[inline(always)]
pub fn interrupt(cpu: &PerCpu, me: TcbRef, line: &Line) -> Option<TcbRef> {
    let simple = line.simple();
    let handler = thread::lookup_at_once(simple)?;
    let id = line.id();
    let awaited = handler.awaited.get();
    let usual = handler.key.get() == cpu.short_key()
        && me.key.get() & !Key::LOADED == cpu.plain_ready()
        && (awaited == id || awaited == Awaited::ANY.0)
        && handler.priority.get() > me.priority.get();
    // This is the point of no return, unless the line has got another handler meanwhile.
    if !usual || !line.deliver_at_once(simple) {
        return None;
    }
    handler.set_reg(reg::R9, proto::INTERRUPT_TAG.raw());
    handler.set_reg(reg::RSI, id);
    handler.set_reg(reg::RDI, handler.local_id.get());
    handler.key.set(cpu.plain_ready());
    trace::wake(handler);
    if !me.ready_link.is_queued() {
        cpu.ready.put_back(me, me.priority.get());
    }
    if me.key().has(Key::LOADED) {
        sched::left(cpu, me);
    }
    Some(handler)
}

/// The answer of `me`, the running thread, to a page fault (one item that maps one small page) or to an exception (a
/// word for every register). `me` waits then, and the thread that had the fault runs next.
#[inline(always)]
pub fn answer(cpu: &PerCpu, me: TcbRef, call: Call) -> Option<TcbRef> {
    /// The bits of a tag that say what a message consists of, and what they are here.
    const SHAPE: u64 = 0xFFFF;
    const ONE_ITEM: u64 = 2 << 6;
    const ALL_REGISTERS: u64 = kernel_msg::EXCEPTION_WORDS as u64;
    let dest = thread::lookup_at_once(call.to)?;
    let usual = dest.key.get() == cpu.expected_key.get() | Key::KERNEL_IPC
        && dest.awaited.get() == me.id.get()
        && dest.outer.get().state == State::Ready
        && (call.from == call.to || call.from == Awaited::ANY.0)
        && call.timeouts as u16 == 0
        && me.senders.is_empty();
    if !usual {
        return None;
    }
    match (dest.kernel_ipc.get(), call.tag & SHAPE) {
        (KernelIpc::PageFault(..), ONE_ITEM) => {
            let (from, to) = (me.space.get()?, dest.space.get()?);
            if !mapping::one_page(cpu, from, to, me.reg(reg::RAX), me.reg(reg::RBX)) {
                return None;
            }
        }
        (KernelIpc::Exception(..), ALL_REGISTERS) => {
            kernel_msg::take_exception_words(dest, me);
        }
        _ => return None,
    }
    // Point of no return.
    dest.kernel_ipc.set(KernelIpc::None);
    dest.key.set(cpu.plain_ready());
    me.awaited.set(call.from);
    me.key.set(cpu.plain_waiting());
    Some(dest)
}
