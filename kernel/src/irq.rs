//! Device interrupts as threads (reference 6.4): line n is the sender `(n, version 1)` of messages to the
//! handler that is attached to it.
//!
//! A line is masked at the I/O APIC from its delivery until the handler answers, so at most one interrupt per
//! line is pending, as a bit in its handler's TCB, and nothing can overflow. Lines without a handler stay
//! masked. A line's interrupt goes to the CPU of its handler.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kcore::cross::{Place, place};
use kcore::ipc::{Key, State};
use kcore::layout::{KERNEL_THREADS, MAX_SYSTEM_BASE};
use l4abi::error::ErrorCode;
use l4abi::id::ThreadId;
use l4abi::proto::INTERRUPT_TAG;
use l4abi::schedule::ThreadState;

use crate::arch::x86_64::{apic, ioapic};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread;
use crate::thread::tcb::{TcbRef, reg};
use crate::util::sealed;

/// Global ids of the handlers; 0 = not attached.
static HANDLERS: [AtomicU64; MAX_SYSTEM_BASE as usize] =
    [const { AtomicU64::new(0) }; MAX_SYSTEM_BASE as usize];

sealed! {
    /// Number of lines, set once at boot.
    static LINES: AtomicU32 = AtomicU32::new(0);
}

/// Says how many interrupt lines the machine has.
pub fn init(lines: u32) {
    LINES.store(lines.min(MAX_SYSTEM_BASE), Ordering::Relaxed);
}

/// Thread numbers below this are interrupt lines.
#[inline]
pub fn system_base() -> u32 {
    LINES.load(Ordering::Relaxed)
}

/// Thread numbers from here on belong to user level.
#[inline]
pub fn user_base() -> u32 {
    system_base() + KERNEL_THREADS
}

/// The line that `id` names, if it has the form of an interrupt thread's id.
fn line_of(id: ThreadId) -> Option<usize> {
    let number = id.number().0;
    (id.is_global() && number < system_base() && id.version() == 1).then_some(number as usize)
}

/// Whether `id` is the id of an interrupt line.
pub fn is_irq_id(id: ThreadId) -> bool {
    line_of(id).is_some()
}

/// ThreadControl on an interrupt thread: attaches `pager` as handler, or detaches if that is the line itself.
pub fn attach(id: ThreadId, pager: u64) -> Result<(), ErrorCode> {
    let line = line_of(id).ok_or(ErrorCode::InvalidThread)?;
    if pager == id.raw() {
        ioapic::mask(line as u32);
        HANDLERS[line].store(0, Ordering::Release);
        return Ok(());
    }
    let handler = thread::lookup(pager).ok_or(ErrorCode::InvalidThread)?;
    if !ioapic::is_available(line as u32) {
        return Err(ErrorCode::InvalidThread);
    }
    handler.touched.set(1);
    HANDLERS[line].store(pager, Ordering::Release);
    if !ioapic::route(line as u32, handler.travel.home()) {
        return Err(ErrorCode::InvalidThread);
    }
    ioapic::unmask(line as u32);
    Ok(())
}

/// The Schedule result for an interrupt thread; none if `id` is not one (reference 4.8).
pub fn schedule(id: u64) -> Option<Result<u64, ErrorCode>> {
    let id = ThreadId::from_raw(id);
    if id.is_nil() || !id.is_global() || id.number().0 >= system_base() {
        return None;
    }
    let attached = line_of(id).is_some_and(|l| HANDLERS[l].load(Ordering::Acquire) != 0);
    Some(if attached { Ok(ThreadState::Inactive as u64) } else { Err(ErrorCode::InvalidThread) })
}

/// A message of `me` to line `id`: the handler re-enables its line. False if `me` has no such line.
pub fn acknowledge(me: TcbRef, id: u64) -> bool {
    let Some(line) = line_of(ThreadId::from_raw(id)) else { return false };
    if HANDLERS[line].load(Ordering::Acquire) != me.id.get() {
        return false;
    }
    ioapic::unmask(line as u32);
    true
}

/// Line `line` fired on this CPU.
pub fn fired(cpu: &PerCpu, line: u32) -> Next {
    ioapic::mask(line);
    apic::end_of_interrupt();
    handle(cpu, line)
}

/// Line `line`, which is masked, fired; its handler may be on another CPU, being under way or having moved while
/// the interrupt was: then the line is passed on.
pub fn handle(cpu: &PerCpu, line: u32) -> Next {
    let current = cpu.current.get();
    let id = HANDLERS.get(line as usize).map_or(0, |h| h.load(Ordering::Acquire));
    let Some(handler) = thread::lookup(id) else { return resume(cpu, current) };
    match place(handler.key(), handler.travel.target.get() as u16, cpu.number()) {
        Place::Here => {}
        Place::At(to) | Place::Passing(to) => {
            crate::cross::pass_line(to, line);
            return resume(cpu, current);
        }
        Place::Coming => {
            crate::cross::pass_line(cpu.number(), line);
            return resume(cpu, current);
        }
    }
    handler.irq_pending.set(handler.irq_pending.get() | 1 << line);
    handler.set_flag(Key::INTERRUPT);
    if handler == current {
        cpu.expected_key.set(Key::NEVER.0);
    }
    if handler.state() == State::Waiting && receive_pending(handler) {
        sched::clear_wakeup(cpu, handler);
        handler.set_state(State::Ready);
        if current == cpu.idle.get() || handler.priority.get() > current.priority.get() {
            return Next::Thread(handler);
        }
        sched::enqueue(cpu, handler);
    }
    resume(cpu, current)
}

fn resume(cpu: &PerCpu, current: TcbRef) -> Next {
    if current == cpu.idle.get() { Next::Schedule } else { Next::Thread(current) }
}

/// Gives `t` a pending interrupt that it waits for, as a received message. False if there is none.
pub fn receive_pending(t: TcbRef) -> bool {
    let mut pending = t.irq_pending.get();
    while pending != 0 {
        let line = pending.trailing_zeros();
        pending &= pending - 1;
        let id = ThreadId::irq(line).raw();
        let wanted = t.awaited.get() == id || t.awaited.get() == ThreadId::ANY.raw();
        if wanted && !t.kernel_ipc.get().is_active() {
            let left = t.irq_pending.get() & !(1 << line);
            t.irq_pending.set(left);
            if left == 0 {
                t.clear_flag(Key::INTERRUPT);
            }
            t.set_reg(reg::R9, INTERRUPT_TAG.raw());
            t.set_reg(reg::RSI, id);
            t.set_reg(reg::RDI, t.local_id.get());
            return true;
        }
    }
    false
}

/// `t` is being deleted: lines it handled have no handler any more.
pub fn handler_gone(t: TcbRef) {
    if t.touched.get() == 0 {
        return;
    }
    for (line, handler) in HANDLERS.iter().enumerate().take(system_base() as usize) {
        if handler.load(Ordering::Relaxed) == t.id.get() {
            ioapic::mask(line as u32);
            handler.store(0, Ordering::Release);
        }
    }
}

/// `t` moved to another CPU: its lines follow.
pub fn handler_moved(t: TcbRef) {
    if t.touched.get() == 0 {
        return;
    }
    for (line, handler) in HANDLERS.iter().enumerate().take(system_base() as usize) {
        if handler.load(Ordering::Relaxed) == t.id.get() {
            let _ = ioapic::route(line as u32, t.travel.home());
        }
    }
}
