//! Device interrupts as threads (reference 6.4): line n is the sender `(n, version 1)` of messages to the
//! handler that is attached to it.
//!
//! From its delivery until the handler answers a line delivers nothing more, so at most one interrupt per line is
//! pending, as a bit in its handler's TCB, and nothing can overflow. A level-triggered line is masked at the I/O APIC
//! for that time, or it would fire for ever. An edge-triggered one is only noted to be open: the usual case then needs
//! neither the device nor its lock, and an edge that comes meanwhile is kept (and the line masked, so that no device
//! can keep a CPU busy) where a masked I/O APIC would lose it.
//!
//! Lines without a handler stay masked. A line's interrupt goes to the CPU of its handler. Who handles a line, and how far its
//! last interrupt has come, is one word that any CPU may change at any time; its rules are `kcore::cross::line`. The I/O APIC
//! follows: it is set, under its lock, to what the word says then ([`settle`]).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kcore::cross::{Place, line, place};
use kcore::ipc::{Key, State};
use kcore::layout::{KERNEL_THREADS, MAX_SYSTEM_BASE};
use l4abi::error::ErrorCode;
use l4abi::id::ThreadId;
use l4abi::proto::INTERRUPT_TAG;
use l4abi::schedule::ThreadState;
use l4abi::syscall::SyscallNo;

use crate::arch::x86_64::{apic, ioapic};
use crate::cross::{Reached, errand::Errand, reach};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread;
use crate::thread::tcb::{TcbRef, reg};
use crate::util::sealed;

/// An interrupt line, in a cache line of its own.
#[repr(align(64))]
pub struct Line {
    /// Its handler and its state.
    word: line::Line<AtomicU64>,
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

impl Line {
    const fn new() -> Self {
        Self { word: line::Line::new(AtomicU64::new(0)), id: 0 }
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

    /// A word that is the global id of the handler if an interrupt needs nothing but delivery: no device access, none was
    /// delivered before. Otherwise no thread has that id.
    #[inline(always)]
    pub fn simple(&self) -> u64 {
        self.word.look()
    }

    /// An interrupt is delivered to the waiting handler `simple`. False if that is not so simple any more.
    #[inline(always)]
    #[must_use]
    pub fn deliver_at_once(&self, simple: u64) -> bool {
        self.word.deliver_at_once(simple)
    }
}

/// Makes the I/O APIC do what line `number` says.
fn settle(number: u32) {
    ioapic::settle(number, || Line::of(number).word.is_masked());
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

/// ThreadControl on an interrupt thread: attaches `pager` as handler, or detaches if that is the line itself. A handler is
/// attached on its own CPU, where it can be neither deleted nor moved meanwhile: none if `me` is under way to it.
pub fn attach(cpu: &PerCpu, me: TcbRef, id: ThreadId, pager: u64) -> Option<Result<(), ErrorCode>> {
    let Some(number) = line_of(id) else { return Some(Err(ErrorCode::InvalidThread)) };
    let line = Line::of(number);
    if pager == id.raw() {
        line.word.detach();
        settle(number);
        return Some(Ok(()));
    }
    let Some(handler) = thread::lookup(pager) else { return Some(Err(ErrorCode::InvalidThread)) };
    if handler.key().cpu() != cpu.number() {
        let errand = Errand::Syscall { call: SyscallNo::ThreadControl };
        match reach(cpu, me, handler, errand) {
            Reached::NotYet => return None,
            // The slot may have shown this CPU another thread before.
            Reached::It if handler.id.get() == pager => {}
            _ => return Some(Err(ErrorCode::InvalidThread)),
        }
    }
    let home = handler.travel.home();
    let Some(is_edge) = ioapic::trigger(number).filter(|_| ioapic::may_route(number, home)) else {
        return Some(Err(ErrorCode::InvalidThread));
    };
    handler.touched.set(1);
    line.word.attach(pager, !is_edge);
    follow(number, handler);
    settle(number);
    Some(Ok(()))
}

/// Routes line `number` to the home of `handler`, a thread of this CPU, unless it has got another one meanwhile.
fn follow(number: u32, handler: TcbRef) {
    let its_own = || Line::of(number).word.handler() == handler.id.get();
    ioapic::route(number, handler.travel.home(), its_own);
}

/// The Schedule result for an interrupt thread; none if `id` is not one (reference 4.8).
pub fn schedule(id: u64) -> Option<Result<u64, ErrorCode>> {
    let id = ThreadId::from_raw(id);
    if id.is_nil() || !id.is_global() || id.number().0 >= system_base() {
        return None;
    }
    let attached = line_of(id).is_some_and(|l| Line::of(l).word.handler() != 0);
    Some(if attached { Ok(ThreadState::Inactive as u64) } else { Err(ErrorCode::InvalidThread) })
}

/// A message of `me` to line `id`: the handler re-enables its line. False if `me` has no such line.
pub fn acknowledge(cpu: &PerCpu, me: TcbRef, id: u64) -> bool {
    let Some(number) = line_of(ThreadId::from_raw(id)) else { return false };
    let noted = me.irq_pending.get() & 1 << number != 0;
    let Some(done) = Line::of(number).word.acknowledge(me.id.get(), noted) else { return false };
    if done.again {
        note(cpu, me, number);
    }
    if done.settle {
        settle(number);
    }
    true
}

/// Line `line` fired on this CPU.
pub fn fired(cpu: &PerCpu, line: u32) -> Next {
    if crate::kdb::on_line(line) {
        return resume(cpu, cpu.current.get());
    }
    let fired = Line::of(line).word.fire();
    if fired.settle {
        settle(line);
    }
    apic::end_of_interrupt();
    if fired.deliver { handle(cpu, line) } else { resume(cpu, cpu.current.get()) }
}

/// An interrupt of line `line` waits for its handler, a thread of this CPU.
fn note(cpu: &PerCpu, handler: TcbRef, line: u32) {
    handler.irq_pending.set(handler.irq_pending.get() | 1 << line);
    handler.set_flag(Key::INTERRUPT);
    if handler == cpu.current.get() {
        cpu.expected_key.set(Key::NEVER.0);
    }
}

/// Line `line` has an interrupt under way; its handler may be on another CPU, being under way or having moved while
/// the interrupt was: then the line is passed on.
pub fn handle(cpu: &PerCpu, line: u32) -> Next {
    let current = cpu.current.get();
    let Some(handler) = thread::lookup(Line::of(line).word.handler()) else {
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
            crate::cross::keep_line(line);
            return resume(cpu, current);
        }
    }
    // The line may have been detached, or have another handler since.
    if !Line::of(line).word.take(handler.id.get()) {
        return resume(cpu, current);
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
            if !Line::of(line).word.stands(t.id.get()) {
                continue;
            }
            t.set_reg(reg::R9, INTERRUPT_TAG.raw());
            t.set_reg(reg::RSI, id);
            t.set_reg(reg::RDI, t.local_id.get());
            return true;
        }
    }
    false
}

/// `t` is about to have this id no more, or to be no thread: lines it handled have no handler any more.
pub fn handler_gone(t: TcbRef) {
    for line in lines_of(t) {
        if Line::of(line).word.handler_gone(t.id.get()) {
            settle(line);
        }
    }
}

/// `t`, a thread of this CPU, has another home: its lines follow.
pub fn handler_moved(t: TcbRef) {
    for line in lines_of(t) {
        follow(line, t);
    }
}

/// The lines that `t` handles: none if it was never named as a handler.
fn lines_of(t: TcbRef) -> impl Iterator<Item = u32> {
    let most = if t.touched.get() == 0 { 0 } else { system_base() };
    (0..most).filter(move |&line| Line::of(line).word.handler() == t.id.get())
}
