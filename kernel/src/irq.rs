//! Device interrupts as threads (reference 6.4): line n is the sender `(n, version 1)` of messages to the
//! handler that is attached to it.
//!
//! From its delivery until the handler answers a line delivers nothing more, so at most one interrupt per line is
//! pending, as a bit in its handler's TCB, and nothing can overflow. A level-triggered line is masked at the I/O APIC
//! for that time, or it would fire for ever. An edge-triggered one is only noted to be open: the usual case then needs
//! neither the device nor its lock, and an edge that comes meanwhile is kept (and the line masked, so that no device
//! can keep a CPU busy) where a masked I/O APIC would lose it.
//!
//! Lines without a handler stay masked. A line's interrupt goes to the CPU of its handler.

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

/// An interrupt line. Written where it is attached and on the CPU of its handler only; a cache line of its own.
#[repr(align(64))]
pub struct Line {
    /// Global id of the handler; 0 = not attached.
    handler: AtomicU64,
    /// [`EDGE`], [`OPEN`], [`AGAIN`].
    state: AtomicU64,
    /// Its global id.
    id: u64,
}

/// All lines; the doors of devices hand on the address of theirs.
pub static TABLE: [Line; MAX_SYSTEM_BASE as usize] = {
    let mut table = [const { Line::new() }; MAX_SYSTEM_BASE as usize];
    let mut number = 0;
    while number < MAX_SYSTEM_BASE {
        table[number as usize].id = ThreadId::irq(number).raw();
        number += 1;
    }
    table
};

/// The line is edge-triggered.
const EDGE: u64 = 1;
/// Edge-triggered lines: an interrupt was delivered and the handler has not answered.
const OPEN: u64 = 2;
/// It came again since; the line is masked.
const AGAIN: u64 = 4;

impl Line {
    const fn new() -> Self {
        Self { handler: AtomicU64::new(0), state: AtomicU64::new(0), id: 0 }
    }

    /// The line `number`; those that do not exist have no handler.
    #[inline(always)]
    pub fn of(number: u32) -> &'static Self {
        &TABLE[number as usize % MAX_SYSTEM_BASE as usize]
    }

    /// Its global id, in whose name it sends.
    #[inline(always)]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        ThreadId::from_raw(self.id).number().0
    }

    /// Global id of the handler; 0 = not attached.
    #[inline(always)]
    pub fn handler(&self) -> u64 {
        self.handler.load(Ordering::Relaxed)
    }

    /// Whether an interrupt needs nothing but delivery: no device access, none was delivered before.
    #[inline(always)]
    pub fn is_simple(&self) -> bool {
        self.state.load(Ordering::Relaxed) == EDGE
    }

    /// An interrupt of a line that is simple is delivered.
    #[inline(always)]
    pub fn open(&self) {
        self.state.store(EDGE | OPEN, Ordering::Relaxed);
    }

    /// Gives the line another handler, or none. It is masked.
    fn set_handler(&self, number: u32, handler: u64) {
        let kind = if ioapic::is_edge_triggered(number) { EDGE } else { 0 };
        self.state.store(kind, Ordering::Relaxed);
        self.handler.store(handler, Ordering::Release);
    }

    /// The line, number `number`, fired: false if nothing is to be delivered now.
    fn fires(&self, number: u32) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state == EDGE && self.handler() != 0 {
            self.open();
            return true;
        }
        ioapic::mask(number);
        if state & EDGE != 0 {
            self.state.store(state | AGAIN, Ordering::Relaxed);
        }
        state & EDGE == 0
    }

    /// The handler has answered. True if the line fired again meanwhile.
    fn closes(&self, number: u32) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state == EDGE | OPEN {
            self.state.store(EDGE, Ordering::Relaxed);
            return false;
        }
        let again = state & AGAIN != 0;
        let kind = state & EDGE;
        self.state.store(if again { kind | OPEN } else { kind }, Ordering::Relaxed);
        ioapic::unmask(number);
        again
    }
}

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
fn line_of(id: ThreadId) -> Option<u32> {
    let number = id.number().0;
    (id.is_global() && number < system_base() && id.version() == 1).then_some(number)
}

/// Whether `id` is the id of an interrupt line.
pub fn is_irq_id(id: ThreadId) -> bool {
    line_of(id).is_some()
}

/// ThreadControl on an interrupt thread: attaches `pager` as handler, or detaches if that is the line itself.
pub fn attach(id: ThreadId, pager: u64) -> Result<(), ErrorCode> {
    let line = line_of(id).ok_or(ErrorCode::InvalidThread)?;
    if pager == id.raw() {
        ioapic::mask(line);
        Line::of(line).set_handler(line, 0);
        return Ok(());
    }
    let handler = thread::lookup(pager).ok_or(ErrorCode::InvalidThread)?;
    if !ioapic::is_available(line) {
        return Err(ErrorCode::InvalidThread);
    }
    handler.touched.set(1);
    ioapic::mask(line);
    Line::of(line).set_handler(line, pager);
    if !ioapic::route(line, handler.travel.home()) {
        return Err(ErrorCode::InvalidThread);
    }
    ioapic::unmask(line);
    Ok(())
}

/// The Schedule result for an interrupt thread; none if `id` is not one (reference 4.8).
pub fn schedule(id: u64) -> Option<Result<u64, ErrorCode>> {
    let id = ThreadId::from_raw(id);
    if id.is_nil() || !id.is_global() || id.number().0 >= system_base() {
        return None;
    }
    let attached = line_of(id).is_some_and(|l| Line::of(l).handler() != 0);
    Some(if attached { Ok(ThreadState::Inactive as u64) } else { Err(ErrorCode::InvalidThread) })
}

/// A message of `me` to line `id`: the handler re-enables its line. False if `me` has no such line.
pub fn acknowledge(cpu: &PerCpu, me: TcbRef, id: u64) -> bool {
    let Some(number) = line_of(ThreadId::from_raw(id)) else { return false };
    let line = Line::of(number);
    if line.handler() != me.id.get() {
        return false;
    }
    if line.closes(number) {
        note(cpu, me, number);
    }
    true
}

/// Line `line` fired on this CPU.
pub fn fired(cpu: &PerCpu, line: u32) -> Next {
    if crate::kdb::on_line(line) {
        return resume(cpu, cpu.current.get());
    }
    let deliver = Line::of(line).fires(line);
    apic::end_of_interrupt();
    if deliver { handle(cpu, line) } else { resume(cpu, cpu.current.get()) }
}

/// An interrupt of line `line` waits for its handler, a thread of this CPU.
fn note(cpu: &PerCpu, handler: TcbRef, line: u32) {
    handler.irq_pending.set(handler.irq_pending.get() | 1 << line);
    handler.set_flag(Key::INTERRUPT);
    if handler == cpu.current.get() {
        cpu.expected_key.set(Key::NEVER.0);
    }
}

/// Line `line` has an interrupt to be delivered; its handler may be on another CPU, being under way or having moved while
/// the interrupt was: then the line is passed on.
pub fn handle(cpu: &PerCpu, line: u32) -> Next {
    let current = cpu.current.get();
    let Some(handler) = thread::lookup(Line::of(line).handler()) else {
        return resume(cpu, current);
    };
    match place(handler.key(), handler.travel.target.get() as u16, cpu.number()) {
        Place::Here => {}
        Place::Nobody => return resume(cpu, current),
        Place::At(to) | Place::Passing(to) => {
            crate::cross::pass_line(to, line);
            return resume(cpu, current);
        }
        Place::Coming => {
            crate::cross::pass_line(cpu.number(), line);
            return resume(cpu, current);
        }
    }
    note(cpu, handler, line);
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
    for line in lines_of(t) {
        ioapic::mask(line);
        Line::of(line).set_handler(line, 0);
    }
}

/// `t` moved to another CPU: its lines follow.
pub fn handler_moved(t: TcbRef) {
    for line in lines_of(t) {
        let _ = ioapic::route(line, t.travel.home());
    }
}

/// The lines that `t` handles: none if it was never named as a handler.
fn lines_of(t: TcbRef) -> impl Iterator<Item = u32> {
    let most = if t.touched.get() == 0 { 0 } else { system_base() };
    (0..most).filter(move |&line| Line::of(line).handler() == t.id.get())
}
