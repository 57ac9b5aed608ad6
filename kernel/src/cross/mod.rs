//! Across CPUs: threads that travel, shootdowns, migration.
//!
//! What one CPU wants done to a thread of another is done by the thread that wants it, on the CPU of the other
//! (`kcore::cross` has the rules). So a cross-CPU send is the sender travelling to the receiver's CPU and
//! sending there; a call from afar is the caller running its system call there and going home. All code
//! outside this directory works on threads of its own CPU only.
//!
//! A thread that waits for the reply of a partner *waits where the partner is*. The reply is then delivered
//! there, whatever its send timeout, and takes the caller home: two interrupts per round trip, and none if
//! the other CPU looks by itself while it has nothing to do.
//!
//! ```text
//!  CPU A                            CPU B
//!  client: Call(server)
//!   send phase: not here
//!   depart ------- mailbox, IPI --> arrive: send phase, the server runs
//!   (others run)                    client waits here, its key says VISITING
//!                                   server: ReplyWait(client)
//!                                   reply delivered, client is ready, not at home
//!   arrive: ready <-- mailbox, IPI -- depart
//! ```

pub mod counters;
pub mod errand;
pub mod migrate;
pub mod quarantine;
pub mod shootdown;
pub mod short;
pub mod transfer;

use kcore::cross::mailbox::{Letter, Ring};
use kcore::cross::{NOWHERE, Step, place, step};
use kcore::ipc::{Key, State};
use kcore::sched::List;
use kcore::types::{CpuId, VirtAddr};
use l4abi::error::IpcCode;
use l4abi::ext::IpcFlags;
use l4abi::syscall::SyscallNo;

use crate::arch::x86_64::{apic, cpulocal, entry, vectors};
use crate::cross::counters::{Counter, count};
use crate::cross::errand::Errand;
use crate::ipc::result::{Phase, fail};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, NEVER_US, Next};
use crate::thread::tcb::{Sender, TcbRef};
use crate::thread::{self, utcb};
use crate::{cpu, irq, time, trace};

/// How long a thread waits before it looks again for one that is under way.
const RETRY_US: u64 = 20;
/// How long an idle CPU looks by itself before it sleeps.
const LOOK_US: u64 = 30;

/// A thread in a mailbox, named by its page in the pool window: unlike its slot of the array that address is
/// right on every CPU at all times.
#[derive(Clone, Copy)]
pub struct Parcel(u64);

impl Letter for Parcel {
    type Word = core::sync::atomic::AtomicU64;

    #[inline(always)]
    fn to_word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn from_word(word: u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    fn link(&self) -> &Self::Word {
        &thread::table::in_window(self.0).travel.link
    }
}

/// Looks for threads from other CPUs and runs their errands. Everything else comes with an interrupt of its own.
#[inline(always)]
pub fn poll(cpu: &PerCpu) {
    if !is_quiet() {
        serve(cpu);
    }
}

/// Whether no thread from another CPU waits to be let in.
#[inline(always)]
pub fn is_quiet() -> bool {
    cpu::this().shared.mailbox.is_empty()
}

#[cold]
#[inline(never)]
fn serve(cpu: &PerCpu) {
    let shared = &cpu::this().shared;
    serve_shootdowns();
    for parcel in shared.mailbox.take::<Parcel>() {
        let t = welcome(cpu, parcel);
        settle(cpu, errand::run(cpu, t));
    }
    deliver_lines(cpu);
    // The thread that was to run may have been changed, moved or deleted.
    cpu.reschedule.set(true);
}

/// Serves shootdown requests only; safe anywhere.
pub fn serve_shootdowns() {
    if cpu::local_window_live() {
        shootdown::serve();
    }
}

/// An interrupt of another CPU arrived. Requests wait for the way out of the kernel ([`poll`]).
pub fn on_interrupt(cpu: &PerCpu, vector: u8) {
    count(Counter::InterruptsReceived);
    trace::ipi_received(vector);
    match vector {
        vectors::SHOOTDOWN => serve_shootdowns(),
        vectors::LINES => deliver_lines(cpu),
        _ => {}
    }
}

/// Interrupt lines that were passed to this CPU, or kept here.
fn deliver_lines(cpu: &PerCpu) {
    cpu::this().shared.irq_lines.take(|line| settle(cpu, irq::handle(cpu, line as u32)));
}

/// This CPU is about to run a thread: if it has promised to look, it takes that back and looks once more. True if there
/// was something.
#[inline(always)]
pub fn stop_looking(cpu: &PerCpu) -> bool {
    let mailbox = &cpu::this().shared.mailbox;
    if !mailbox.is_promised() {
        return false;
    }
    let something = mailbox.stop_looking();
    if something {
        serve(cpu);
    }
    something
}

/// Nothing runs: looks for a while, then sleeps until an interrupt. Answers who can run, and since when, if a thread
/// from another CPU brought that about and nothing else has happened.
pub fn idle(cpu: &PerCpu) -> Option<(TcbRef, u64)> {
    let shared = &cpu::this().shared;
    // The short way lets a thread in and looks at nothing else: not if an interrupt is kept for one.
    let kept = !shared.irq_lines.is_empty();
    cpu.reschedule.set(kept);
    shared.mailbox.promise();
    let end = time::now_us() + LOOK_US;
    loop {
        let now = time::now_us();
        if let Some(parcel) = shared.mailbox.last() {
            if !kept && let Some(t) = let_in(cpu, parcel) {
                return Some((t, now));
            }
            break;
        }
        serve_shootdowns();
        if now > end && shared.mailbox.may_sleep() {
            // A request goes to [`woken`] from here; every other interrupt comes back.
            entry::sleep();
            break;
        }
        core::hint::spin_loop();
    }
    // Under the promise, if it stands: `stop_looking` takes it back when somebody is to run.
    poll(cpu);
    None
}

/// A request came while this CPU slept in [`idle`], which nobody returns to: who runs now.
#[inline(always)]
pub fn woken(cpu: &PerCpu) -> Option<TcbRef> {
    count(Counter::InterruptsReceived);
    trace::ipi_received(vectors::REQUEST);
    // Another interrupt may have come first, and made somebody ready; or a line is kept for somebody.
    if cpu.reschedule.get() {
        return None;
    }
    short::arrive(cpu, cpu::this().shared.mailbox.last()?)
}

/// Lets in the thread that lies in the mailbox, by the short way if that is all there is. It is taken out under the promise,
/// so that its sender does not ring; if others came under the promise, it is queued and they are looked at.
#[inline(always)]
fn let_in(cpu: &PerCpu, parcel: Parcel) -> Option<TcbRef> {
    let t = short::arrive(cpu, parcel)?;
    if cpu::this().shared.mailbox.stop_looking() {
        sched::enqueue(cpu, t);
        return None;
    }
    Some(t)
}

/// Somebody should run after work for another CPU: he is queued, the interrupted thread goes on if it can.
fn settle(cpu: &PerCpu, next: Next) {
    if let Next::Thread(t) = next
        && t.is_runnable()
        && t != cpu.idle.get()
    {
        sched::enqueue(cpu, t);
    }
}

/// A thread arrives: from here on this CPU owns it.
fn welcome(cpu: &PerCpu, parcel: Parcel) -> TcbRef {
    let here = cpu.number();
    let page = thread::table::in_window(parcel.0);
    let t = thread::slot(l4abi::id::ThreadId::from_raw(page.id.get()).number().0);
    trace::arrive(t.number());
    if !page.travel.is_known(here) {
        // This CPU may have a translation from before the thread existed.
        cpulocal::forget_page(VirtAddr::new(core::ptr::from_ref(t) as u64));
        page.travel.set_known(here);
        t.touched.set(1);
    }
    let at_home = t.travel.home() == here;
    let mut key = t.key().with_cpu(here).0 & !Key::VISITING;
    if !at_home {
        key |= Key::VISITING;
    }
    t.key.set(key);
    if at_home {
        settle_in(cpu, t);
    }
    let deadline = t.travel.deadline.replace(NEVER_US);
    if deadline != NEVER_US {
        sched::set_wakeup(cpu, t, deadline);
    }
    count(Counter::RequestsReceived);
    t
}

/// `t`, a thread of this CPU, is at home here: its control block comes to this node, if it is elsewhere.
pub fn settle_in(cpu: &PerCpu, t: TcbRef) {
    let here = cpu.number();
    if !t.travel.is_placed(here) {
        quarantine::move_to_node(cpu, t);
        t.travel.set_placed(here);
    }
}

/// Sends `t`, a thread of this CPU, to CPU `to` with `errand`. Its state stays what it is; it is nobody's from
/// here on. Those queued at it follow.
pub fn depart(cpu: &PerCpu, t: TcbRef, to: u16, errand: Errand) {
    let followers = List::<TcbRef, Sender>::new();
    dispatch(cpu, t, to, errand, &followers);
    while let Some(s) = followers.pop() {
        let errand = Errand::Send { dest: s.travel.follows.take(), since: s.travel.since.get() };
        s.set_state(State::Remote);
        dispatch(cpu, s, to, errand, &followers);
    }
}

fn dispatch(cpu: &PerCpu, t: TcbRef, to: u16, errand: Errand, followers: &List<TcbRef, Sender>) {
    debug_assert!(to != cpu.number() && t.key().cpu() == cpu.number());
    trace::depart(t, to);
    while let Some(s) = t.senders.pop() {
        s.partner.set(None);
        s.travel.follows.set(t.id.get());
        followers.push_back(s);
    }
    cpu.ready.dequeue(t, t.priority.get());
    let deadline = if t.key().has(Key::TIMED) { t.wake_link.at() } else { NEVER_US };
    sched::clear_wakeup(cpu, t);
    t.travel.deadline.set(deadline);
    t.travel.errand.set(errand);
    t.travel.target.set(u64::from(to));
    // That it has a deadline stays to be seen in its key.
    let timed = if deadline == NEVER_US { 0 } else { Key::TIMED };
    t.key.set(t.key().with_cpu(NOWHERE).0 | Key::VISITING | timed);
    sched::vacate(cpu, t);
    thread::fpu::write_back(cpu, t);
    count(Counter::RequestsSent);
    let Some(shared) = cpu::shared_of(CpuId::new(to)) else {
        panic!("thread {:#x} sent to CPU {to}, which is not up", t.id.get());
    };
    if shared.mailbox.push(Parcel(t.travel.page.get())) == Ring::Needed {
        ring(to, vectors::REQUEST);
        count(Counter::RequestInterrupts);
    }
}

/// Interrupts another CPU.
#[inline(always)]
fn ring(to: u16, vector: u8) {
    trace::ipi_sent(vector, to);
    apic::send(vector, cpu::apic_id_of_known(CpuId::new(to)));
}

/// Interrupt line `line` is the matter of a thread on CPU `to`.
pub fn pass_line(to: u16, line: u32) {
    if let Some(shared) = cpu::shared_of(CpuId::new(to)) {
        shared.irq_lines.ask(line as usize);
        ring(to, vectors::LINES);
    }
}

/// Interrupt line `line` is the matter of a thread that is on its way here: it is looked at again when that has come in
/// ([`serve`]). This CPU does not interrupt itself for it: it would do so again and again, and let nobody in.
pub fn keep_line(line: u32) {
    cpu::this().shared.irq_lines.ask(line as usize);
}

/// A thread that is not of this CPU, or not at home here, was to run: it goes home. One that is elsewhere
/// already is no longer this CPU's matter.
#[cold]
#[inline(never)]
pub fn go_home(cpu: &PerCpu, t: TcbRef) {
    if t.key().cpu() == cpu.number() && matches!(t.state(), State::Ready | State::Receiving) {
        depart(cpu, t, t.travel.home(), Errand::Home);
    }
}

/// `t`, which is of this CPU, stays here whatever happens to it until [`unpin`]. Answers its home.
pub fn pin(cpu: &PerCpu, t: TcbRef) -> u16 {
    let home = t.travel.home();
    t.travel.set_home(cpu.number());
    t.clear_flag(Key::VISITING);
    home
}

/// `t` may go home again, and does if it can run.
pub fn unpin(cpu: &PerCpu, t: TcbRef, home: u16) {
    if home == cpu.number() {
        return;
    }
    cpu.ready.dequeue(t, t.priority.get());
    t.travel.set_home(home);
    t.set_flag(Key::VISITING);
    go_home(cpu, t);
}

/// Where a thread stands that wants to be where another is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// On its CPU, which is this one.
    It,
    /// Before an empty slot: it has been deleted.
    Nobody,
    /// Under way, or looking again in a moment.
    NotYet,
}

/// Brings `me` one step nearer to `other`. If it is not there yet it runs `errand` when it is.
pub fn reach(cpu: &PerCpu, me: TcbRef, other: TcbRef, errand: Errand) -> Reached {
    let other = thread::at_present(other);
    let at = place(other.key(), other.travel.target.get() as u16, cpu.number());
    match step(at, me.number().get(), other.number().get()) {
        Step::Act => return Reached::It,
        Step::GiveUp => return Reached::Nobody,
        Step::Follow(to) => {
            me.set_state(State::Remote);
            depart(cpu, me, to, errand);
        }
        Step::Wait => wait_a_moment(cpu, me, errand),
    }
    Reached::NotYet
}

/// `me` looks again soon. The wake-up that it may have keeps its time meanwhile.
pub fn wait_a_moment(cpu: &PerCpu, me: TcbRef, errand: Errand) {
    let deadline = if me.key().has(Key::TIMED) { me.wake_link.at() } else { NEVER_US };
    me.travel.deadline.set(deadline);
    me.travel.errand.set(errand);
    me.set_state(State::Remote);
    sched::set_wakeup(cpu, me, time::now_us() + RETRY_US);
}

/// The moment is over.
pub fn again(cpu: &PerCpu, me: TcbRef) {
    restore_deadline(cpu, me);
    settle(cpu, errand::run(cpu, me));
}

fn restore_deadline(cpu: &PerCpu, me: TcbRef) {
    sched::clear_wakeup(cpu, me);
    let deadline = me.travel.deadline.replace(NEVER_US);
    if deadline != NEVER_US {
        sched::set_wakeup(cpu, me, deadline);
    }
}

/// `t`, which looks for another thread in the middle of an IPC, is to be aborted: back into the state that the
/// rules of aborting know.
pub fn interrupt_errand(cpu: &PerCpu, t: TcbRef) {
    let state = match t.travel.errand.get() {
        Errand::Send { .. } | Errand::Call { .. } => State::Polling,
        Errand::Resume { state } => state,
        Errand::Fetch => State::Receiving,
        _ => return,
    };
    restore_deadline(cpu, t);
    t.set_state(state);
}

/// Has the system call of `me` done on the CPU of `t`.
pub fn forward(cpu: &PerCpu, me: TcbRef, t: TcbRef, call: SyscallNo) -> Next {
    match reach(cpu, me, t, Errand::Syscall { call }) {
        // It came here meanwhile, or is gone: the call looks for it again.
        Reached::It | Reached::Nobody => crate::syscall::run(cpu, me, call),
        Reached::NotYet => Next::Schedule,
    }
}

/// Whether `me` has said that its message shall not cross, and `dest` lives on another CPU.
pub fn must_stay(me: TcbRef, dest: TcbRef) -> bool {
    dest.travel.home() != me.travel.home()
        && !me.key().has(Key::KERNEL_IPC)
        && IpcFlags::of(utcb::flags(me)).contains(IpcFlags::STAY_ON_CPU)
}

/// The send phase of `me`, which must stay, ends with the processor number of `dest`.
#[cold]
pub fn would_cross(cpu: &PerCpu, me: TcbRef, dest: TcbRef) -> Next {
    // Bit 63 of the error word: it is not zero even for processor 0.
    let offset = u64::from(dest.travel.home()) | 1 << 59;
    fail(cpu, me, Phase::Send, IpcCode::WouldCross, offset)
}

/// Send phase of `me` to `dest`, which was found by its global id `id` and was not of this CPU. The id in its slot may be
/// another by now.
pub fn send(cpu: &PerCpu, me: TcbRef, dest: TcbRef, id: u64) -> Next {
    if must_stay(me, dest) {
        return would_cross(cpu, me, dest);
    }
    count(Counter::CrossIpc);
    errand::send_to(cpu, me, dest, id, 0)
}

/// Whether visiting `me`, about to wait for `awaited`, does so here: the partner lives on this CPU.
pub fn may_wait_here(cpu: &PerCpu, me: TcbRef, awaited: u64) -> bool {
    me.senders.is_empty()
        && thread::lookup(awaited).is_some_and(|partner| partner.key().lives_on(cpu.number()))
}

/// Visiting `me` goes home and does its receive phase from `from` there.
pub fn receive_at_home(cpu: &PerCpu, me: TcbRef, from: u64) {
    me.then_receive.set(from);
    me.set_state(State::Remote);
    depart(cpu, me, me.travel.home(), Errand::Receive);
}

/// `sender` has strings for `dest`, which waits away from home: both go there, because strings are copied on the
/// receiver's CPU.
pub fn meet_at_home(cpu: &PerCpu, sender: TcbRef, dest: TcbRef) -> Next {
    let home = dest.travel.home();
    let id = dest.id.get();
    depart(cpu, dest, home, Errand::Home);
    sender.set_state(State::Remote);
    depart(cpu, sender, home, Errand::Send { dest: id, since: 0 });
    Next::Schedule
}
