//! IPC, the complete path (reference 5).
//!
//! A rendezvous has one shape whoever comes second: [`deliver`] moves the message from a thread in its send
//! phase to a thread in its receive phase, both on this CPU, then each goes on with what it does next:
//! the sender with its receive phase ([`sent`]), the receiver to user level. A transfer that cannot finish at
//! once (a page fault in a string, a long mapping) parks both in `Sending` and `Receiving` and continues in
//! the receiver's name.
//!
//! The fast path in `arch::x86_64::fastpath` is a shortcut of `send_phase` + `deliver` + `receive_phase` for
//! the case in which every test below has its common outcome; it changes nothing that this path would not.

pub mod cancel;
pub mod kernel_msg;
pub mod propagation;
pub mod result;
pub mod short;
pub mod strings;
pub mod timeout;
pub mod transfer;

use kcore::ipc::{Awaited, Identity, Key, State, accepts};
use l4abi::error::IpcCode;
use l4abi::id::ThreadId;
use l4abi::tag::{MAX_WORDS, MsgTag, TagFlags};

use crate::ipc::result::{Phase, fail};
use crate::ipc::transfer::Outcome;
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next, work};
use crate::thread;
use crate::thread::tcb::{TcbRef, reg};
use crate::trace;

/// What an Ipc caller asks for, as its registers say it (reference 5.1).
#[derive(Clone, Copy)]
pub struct Call {
    /// Destination; 0 = no send phase.
    pub to: u64,
    /// From-specifier; 0 = no receive phase.
    pub from: u64,
    /// Timeouts of both phases.
    pub timeouts: u64,
    /// Message tag.
    pub tag: u64,
}

impl Call {
    /// From the saved registers of `me`.
    pub fn of(me: TcbRef) -> Self {
        Self {
            to: me.reg(reg::RSI),
            from: me.reg(reg::RDX),
            timeouts: me.reg(reg::R8),
            tag: me.reg(reg::R9),
        }
    }
}

/// The Ipc system call of `me`, the current thread. What a message of words needs is inlined here.
#[inline(always)]
pub fn syscall(cpu: &PerCpu, me: TcbRef, call: Call) -> Next {
    me.timeouts.set(call.timeouts);
    if let Some(dest) = thread::lookup_at_once(call.to) {
        if nothing_special(cpu, me, dest, call.tag) && takes_plainly(dest, me) {
            return exchange(cpu, me, dest, call);
        }
        if let Some(next) = crate::cross::short::send(cpu, me, dest, call) {
            return next;
        }
    }
    any_case(cpu, me, call)
}

/// The same for a proxy: `me` is not the current thread.
pub fn by_proxy(cpu: &PerCpu, me: TcbRef) -> Next {
    let call = Call::of(me);
    me.timeouts.set(call.timeouts);
    any_case(cpu, me, call)
}

/// One look at both keys and the tag answers most questions of a send phase: both threads live on this CPU, `dest`
/// waits without a timeout and not for a message of its own that the kernel made, nobody has a redirector or an
/// interrupt pending, the message is words in the sender's own name.
#[inline(always)]
fn nothing_special(cpu: &PerCpu, me: TcbRef, dest: TcbRef, tag: u64) -> bool {
    const UNUSUAL: u64 = MsgTag::new(0, 0, 63).raw() | TagFlags::PROPAGATED.bits() as u64;
    dest.key.get() == cpu.plain_waiting() && me.key.get() == cpu.plain_ready() && tag & UNUSUAL == 0
}

/// A message of words from `me` to waiting `dest`, about neither of which there is anything special, then the receive
/// phase of `me`.
#[inline(always)]
fn exchange(cpu: &PerCpu, me: TcbRef, dest: TcbRef, call: Call) -> Next {
    let tag = MsgTag::from_raw(call.tag);
    trace::ipc_send(me, dest, false);
    trace::ipc_receive(dest, me, tag.raw());
    transfer::own_words(me, dest, tag.untyped());
    dest.key.set(cpu.plain_ready());
    dest.set_reg(reg::R9, tag.with_flags(TagFlags::empty()).raw());
    dest.set_reg(reg::RSI, result::name_for(me, dest));
    dest.set_reg(reg::RDI, dest.local_id.get());
    if (call.from == call.to || call.from == Awaited::ANY.0)
        && call.timeouts as u16 == 0
        && me.senders.is_empty()
    {
        me.awaited.set(call.from);
        me.key.set(cpu.plain_waiting());
        trace::ipc_wait(me, call.from);
        return Next::Thread(dest);
    }
    me.virtual_sender.set(0);
    me.then_receive.set(call.from);
    sent(cpu, me, Next::Thread(dest))
}

/// The system call with every case.
#[inline(never)]
pub fn any_case(cpu: &PerCpu, me: TcbRef, call: Call) -> Next {
    match call.to {
        0 => {
            me.set_reg(reg::R9, 0);
            receive_phase(cpu, me, call.from, Next::Thread(me))
        }
        to => send_phase(cpu, me, to, call.from),
    }
}

/// A thread as IPC partners may name it.
#[inline]
pub fn identity(t: TcbRef) -> Identity {
    Identity { global: t.id.get(), space: space_token(t) }
}

/// An opaque word that two threads share exactly if they are in the same space.
#[inline]
pub fn space_token(t: TcbRef) -> u64 {
    t.space.get().map_or(0, |s| core::ptr::from_ref(s) as u64)
}

/// Whether waiting `receiver` takes what `sender` has to say.
#[inline(always)]
pub fn takes(receiver: TcbRef, sender: TcbRef) -> bool {
    takes_plainly(receiver, sender) || takes_otherwise(receiver, sender)
}

/// Whether it waits for anybody or for that thread.
#[inline(always)]
pub fn takes_plainly(receiver: TcbRef, sender: TcbRef) -> bool {
    let awaited = receiver.awaited.get();
    awaited == sender.id.get() || awaited == Awaited::ANY.0
}

/// The rare reasons: any local thread, a virtual sender.
#[inline(never)]
fn takes_otherwise(receiver: TcbRef, sender: TcbRef) -> bool {
    let awaited = receiver.awaited.get();
    let speaks_for = match sender.virtual_sender.get() {
        0 => None,
        id => thread::lookup(id).map(|v| Identity { global: id, space: space_token(v) }),
    };
    accepts(Awaited(awaited), space_token(receiver), identity(sender), speaks_for)
}

/// Send phase of `me` to `to`, then a receive phase from `from` (0 = none).
fn send_phase(cpu: &PerCpu, me: TcbRef, to: u64, from: u64) -> Next {
    me.then_receive.set(from);
    me.virtual_sender.set(0);
    let Some(mut dest) = thread::resolve(me, to) else { return no_thread(cpu, me, to) };
    if me.key().has(Key::REDIRECTED) {
        let Some(taker) = thread::redirect(me, dest) else { return no_thread(cpu, me, 0) };
        dest = taker;
    }
    if MsgTag::from_raw(me.reg(reg::R9)).is_propagated()
        && !propagation::begin(cpu, me, dest, id_of(me, dest, to))
    {
        return Next::Schedule;
    }
    trace::ipc_send(me, dest, false);
    if dest.key().cpu() != me.key().cpu() {
        return crate::cross::send(cpu, me, dest, id_of(me, dest, to));
    }
    send_local(cpu, me, dest, None)
}

/// The id of `dest`, which `me` has called `to`. What its slot says a moment later may be another thread's.
#[inline(always)]
fn id_of(me: TcbRef, dest: TcbRef, to: u64) -> u64 {
    // Under a local id, and as redirector, goes whoever is there.
    let named = ThreadId::from_raw(to).is_local() || me.key().has(Key::REDIRECTED);
    if named { dest.id.get() } else { to }
}

/// `to` names no thread: an interrupt line that is to be enabled again, or nobody.
#[cold]
fn no_thread(cpu: &PerCpu, me: TcbRef, to: u64) -> Next {
    match crate::irq::acknowledge(cpu, me, to) {
        true => sent(cpu, me, Next::Thread(me)),
        false => fail(cpu, me, Phase::Send, IpcCode::NoPartner, 0),
    }
}

/// The send phase when both threads are on this CPU. `deadline` is that of a send phase that has begun already.
#[inline(always)]
pub fn send_local(
    cpu: &PerCpu,
    me: TcbRef,
    dest: TcbRef,
    deadline: Option<timeout::Deadline>,
) -> Next {
    if dest.state() == State::Waiting && takes(dest, me) {
        return deliver(cpu, me, dest);
    }
    not_ready(cpu, me, dest, deadline)
}

/// `dest` does not wait for `me`: `me` polls, or gives up at once.
#[inline(never)]
fn not_ready(cpu: &PerCpu, me: TcbRef, dest: TcbRef, deadline: Option<timeout::Deadline>) -> Next {
    // A visitor from another CPU would take those who wait for it there.
    if dest.key().has(Key::VISITING) && crate::cross::must_stay(me, dest) {
        return crate::cross::would_cross(cpu, me, dest);
    }
    match deadline.unwrap_or_else(|| timeout::send_deadline(me)) {
        timeout::Deadline::Now => fail(cpu, me, Phase::Send, IpcCode::Timeout, 0),
        deadline => {
            poll_at(cpu, me, dest, deadline);
            Next::Schedule
        }
    }
}

/// Queues `me` at `dest` until that takes its message.
pub fn poll_at(cpu: &PerCpu, me: TcbRef, dest: TcbRef, deadline: timeout::Deadline) {
    poll_since(cpu, me, dest, deadline, crate::time::ticks());
}

/// The same, in the turn of one that is queued since then (clock ticks).
pub fn poll_since(cpu: &PerCpu, me: TcbRef, dest: TcbRef, deadline: timeout::Deadline, since: u64) {
    me.set_state(State::Polling);
    me.partner.set(Some(dest));
    me.travel.since.set(since);
    dest.senders.insert_by(me, |s| s.travel.since.get());
    timeout::start(cpu, me, deadline);
}

/// Moves the message of `sender` to `dest`, which waits for it. Both are on this CPU; either may be current.
#[inline(always)]
fn deliver(cpu: &PerCpu, sender: TcbRef, dest: TcbRef) -> Next {
    if dest.key().has(Key::VISITING) && transfer::has_strings(sender) {
        return crate::cross::meet_at_home(cpu, sender, dest);
    }
    match begin_transfer(cpu, sender, dest) {
        Outcome::Done => sent(cpu, sender, Next::Thread(dest)),
        Outcome::Failed => {
            sched::enqueue(cpu, dest);
            Next::Thread(sender)
        }
        Outcome::Parked(next) => next,
    }
}

/// The message part of a rendezvous: afterwards `dest` is ready but not queued, or both are parked.
#[inline(always)]
pub fn begin_transfer(cpu: &PerCpu, sender: TcbRef, dest: TcbRef) -> Outcome {
    timeout::stop(cpu, dest);
    let tag = transfer::tag_of(sender);
    if tag.typed() == 0 && tag.untyped() <= MAX_WORDS {
        transfer::words(sender, dest, tag);
        result::received(dest, sender, tag);
        return Outcome::Done;
    }
    transfer::begin(cpu, sender, dest, tag)
}

/// The send phase of `sender` is over: its receive phase, or back to user level. `partner` is who runs if
/// the sender blocks; if it does not, the partner is made ready beside it.
#[inline(always)]
pub fn sent(cpu: &PerCpu, sender: TcbRef, partner: Next) -> Next {
    if sender.key().has(Key::KERNEL_IPC) {
        return kernel_msg::sent(cpu, sender, partner);
    }
    match sender.then_receive.get() {
        0 => {
            result::send_only(sender);
            go_on(cpu, sender, partner)
        }
        from => receive_phase(cpu, sender, from, partner),
    }
}

/// `me` stays runnable although it might have blocked: `partner` becomes ready beside it.
fn go_on(cpu: &PerCpu, me: TcbRef, partner: Next) -> Next {
    if let Next::Thread(p) = partner
        && p != me
    {
        sched::enqueue(cpu, p);
    }
    me.set_state(State::Ready);
    if cpu.current.get() == me {
        return Next::Thread(me);
    }
    sched::enqueue(cpu, me);
    partner
}

/// Receive phase of `me`. If nothing can be received at once the thread waits and `partner` runs.
///
/// The common case is here: from anybody or the thread the message went to, without timeout, and nothing is
/// there yet.
#[inline(always)]
pub fn receive_phase(cpu: &PerCpu, me: TcbRef, from: u64, partner: Next) -> Next {
    if let Next::Thread(p) = partner
        && p != me
        && (from == Awaited::ANY.0 || from == p.id.get())
        && me.timeouts.get() as u16 == 0
        && me.senders.is_empty()
        && !me.key().has(Key::INTERRUPT)
    {
        me.awaited.set(from);
        me.set_state(State::Waiting);
        trace::ipc_wait(me, from);
        return partner;
    }
    receive_phase_full(cpu, me, from, partner)
}

/// The receive phase with every case.
#[inline(never)]
fn receive_phase_full(cpu: &PerCpu, me: TcbRef, from: u64, partner: Next) -> Next {
    if from == 0 {
        me.set_reg(reg::RSI, 0);
        me.set_reg(reg::RDI, me.local_id.get());
        return go_on(cpu, me, partner);
    }
    let Some(awaited) = awaited(me, from) else {
        return receive_failed(cpu, me, IpcCode::NoPartner, partner);
    };
    me.awaited.set(awaited.0);
    if me.key().has(Key::VISITING) && !crate::cross::may_wait_here(cpu, me, awaited.0) {
        crate::cross::receive_at_home(cpu, me, from);
        return partner;
    }
    if !me.senders.is_empty()
        && let Some(sender) = me.senders.find(|s| takes(me, s))
    {
        if cpu.current.get() != me {
            // Not on behalf of others: chains of rendezvous would nest without bound.
            me.then_receive.set(from);
            me.set_state(State::Ready);
            work::set(me, work::Work::Receive);
            sched::enqueue(cpu, me);
            return partner;
        }
        return receive_from(cpu, me, sender, partner);
    }
    if crate::irq::receive_pending(me) {
        return go_on(cpu, me, partner);
    }
    match timeout::receive_deadline(me) {
        timeout::Deadline::Now => receive_failed(cpu, me, IpcCode::Timeout, partner),
        deadline => {
            me.set_state(State::Waiting);
            trace::ipc_wait(me, awaited.0);
            timeout::start(cpu, me, deadline);
            match partner {
                Next::Thread(p) if p == me => Next::Schedule,
                other => other,
            }
        }
    }
}

/// The receive phase of `me` fails at once; `partner` becomes ready beside it.
fn receive_failed(cpu: &PerCpu, me: TcbRef, code: IpcCode, partner: Next) -> Next {
    if let Next::Thread(p) = partner
        && p != me
    {
        sched::enqueue(cpu, p);
    }
    let current = cpu.current.get() == me;
    // A visitor is on its way home after this: nothing here may touch it any more.
    let next = fail(cpu, me, Phase::Receive, code, 0);
    if current { next } else { partner }
}

/// `me`, current and about to wait, takes the message of `sender`, which is queued at it.
fn receive_from(cpu: &PerCpu, me: TcbRef, sender: TcbRef, partner: Next) -> Next {
    if let Next::Thread(p) = partner
        && p != me
    {
        sched::enqueue(cpu, p);
    }
    me.senders.remove(sender);
    me.set_state(State::Waiting);
    timeout::stop(cpu, sender);
    sender.partner.set(None);
    match begin_transfer(cpu, sender, me) {
        Outcome::Done => {
            // The sender goes on with its receive phase or returns.
            let _ = sent(cpu, sender, Next::Thread(me));
            sender_first(cpu, me, sender)
        }
        Outcome::Failed => {
            if sender.is_runnable() {
                sched::enqueue(cpu, sender);
            }
            sender_first(cpu, me, sender)
        }
        Outcome::Parked(next) => next,
    }
}

/// Who runs after `me` took the message of a queued `sender`. If both can, the sender: it waited longer, and
/// programs written for other X.2 kernels count on it.
fn sender_first(cpu: &PerCpu, me: TcbRef, sender: TcbRef) -> Next {
    if !sched::may_run(cpu, sender) || sender.priority.get() < me.priority.get() {
        return Next::Thread(me);
    }
    cpu.ready.enqueue_first(me, me.priority.get());
    Next::Thread(sender)
}

/// What a from-specifier means for `me`; none if it names no thread.
fn awaited(me: TcbRef, from: u64) -> Option<Awaited> {
    match ThreadId::from_raw(from) {
        ThreadId::ANY => Some(Awaited::ANY),
        ThreadId::ANY_LOCAL => Some(Awaited::ANY_LOCAL),
        id if crate::irq::is_irq_id(id) => Some(Awaited(from)),
        _ => thread::resolve(me, from).map(|t| Awaited(t.id.get())),
    }
}
