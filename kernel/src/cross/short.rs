//! The short way of a call and its reply between CPUs.
//!
//! Like the other short paths each is a list of checks, a point of no return, no failure, and does exactly what the
//! complete path (`cross::send`, `dispatch`, `welcome`, `errand`) would; without them everything works the
//! same (`fastpath=off`). The caller puts itself into the mailbox *before* anything else is settled on its CPU; the
//! other CPU, if it looks by itself, delivers the message and runs its receiver without a turn through the
//! run queue. The time of the receiver's slice was read before the message was seen.

use kcore::cross::NOWHERE;
use kcore::cross::mailbox::{Ring, is_only};
use kcore::ipc::{Awaited, Key, State};
use kcore::types::CpuId;
use l4abi::ext::IpcFlags;
use l4abi::tag::{MsgTag, TagFlags};

use crate::arch::x86_64::vectors;
use crate::cpu;
use crate::cross::counters::{Counter, count};
use crate::cross::errand::Errand;
use crate::cross::{Parcel, ring};
use crate::ipc::{Call, result, takes_plainly, transfer};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{self, table, utcb};
use crate::trace;

/// Key of a thread in a mailbox that is to send, with nothing special about it.
const TO_SEND: u64 = Key::new(State::Remote, NOWHERE).0 | Key::VISITING;
/// Key of one that goes home and can run there.
const GOING_HOME: u64 = Key::new(State::Ready, NOWHERE).0 | Key::VISITING;
/// What the key of a thread that waits has in common on all CPUs, with nothing special about it.
const WAITING: u64 = Key::new(State::Waiting, 0).0;
/// The CPU in a key.
const CPU: u64 = Key::new(State::Absent, u16::MAX).0;
/// Tag bits of a message that is more than words in the sender's own name.
const UNUSUAL: u64 = MsgTag::new(0, 0, 63).raw() | TagFlags::PROPAGATED.bits() as u64;

/// A message of words from `me`, the running thread, to `dest` by the short way. None: nothing has happened.
#[inline(always)]
pub fn send(cpu: &PerCpu, me: TcbRef, dest: TcbRef, call: Call) -> Option<Next> {
    let usual = me.key.get() == cpu.plain_ready()
        && cpu.expected_key.get() == cpu.plain_waiting()
        && call.tag & UNUSUAL == 0
        && me.senders.is_empty();
    if !usual {
        return None;
    }
    let key = dest.key.get();
    if key == cpu.plain_waiting() | Key::VISITING {
        return reply(cpu, me, dest, call);
    }
    if key & !CPU != WAITING || key == cpu.plain_waiting() || call.timeouts as u16 != 0 {
        return None;
    }
    trace::ipc_send(me, dest, false);
    request(cpu, me, Key(key).cpu(), call)
}

/// The same when the short path in assembly found that `call` is plain, that it is for `dest`, and that the key of `dest` is not
/// the expected one.
#[inline(always)]
pub fn call(cpu: &PerCpu, me: TcbRef, dest: TcbRef, call: Call) -> Option<Next> {
    let usual = me.key.get() == cpu.plain_ready()
        && cpu.expected_key.get() == cpu.plain_waiting()
        && me.senders.is_empty();
    let key = dest.key.get();
    if !usual || key & !CPU != WAITING {
        return None;
    }
    me.timeouts.set(call.timeouts);
    trace::ipc_send(me, dest, false);
    request(cpu, me, Key(key).cpu(), call)
}

/// `me` travels to CPU `to`; its receive phase has no timeout.
#[inline(always)]
fn request(cpu: &PerCpu, me: TcbRef, to: u16, call: Call) -> Option<Next> {
    let free = call.from == call.to
        && !me.ready_link.is_queued()
        && cpu.fpu_owner.get() != Some(me)
        && !IpcFlags::of(utcb::flags(me)).contains(IpcFlags::STAY_ON_CPU);
    if !free {
        return None;
    }
    let shared = cpu::shared_of(CpuId::new(to))?;
    // Point of no return.
    trace::depart(me, to);
    me.then_receive.set(call.from);
    me.virtual_sender.set(0);
    me.travel.errand.set(Errand::Call { dest: call.to });
    me.travel.target.set(u64::from(to));
    me.key.set(TO_SEND);
    let bell = shared.mailbox.push(Parcel(me.travel.page.get()));
    // From here on `me` is nobody's.
    finish(to, bell);
    sched::abandon(cpu);
    count(Counter::CrossIpc);
    Some(Next::Schedule)
}

/// `dest`, which came from afar and waits here for `me`, has its reply and goes home; `me` waits.
#[inline(always)]
fn reply(cpu: &PerCpu, me: TcbRef, dest: TcbRef, call: Call) -> Option<Next> {
    let simple = takes_plainly(dest, me)
        && (call.from == call.to || call.from == Awaited::ANY.0)
        && call.timeouts as u16 == 0
        && dest.senders.is_empty()
        && !dest.ready_link.is_queued()
        && cpu.fpu_owner.get() != Some(dest);
    let to = dest.travel.home();
    if !simple || to == cpu.number() {
        return None;
    }
    let shared = cpu::shared_of(CpuId::new(to))?;
    // Point of no return.
    trace::ipc_send(me, dest, false);
    trace::ipc_receive(dest, me, call.tag);
    trace::ipc_wait(me, call.from);
    trace::depart(dest, to);
    hand_over(me, dest, call.tag);
    me.awaited.set(call.from);
    me.key.set(cpu.plain_waiting());
    dest.travel.errand.set(Errand::Home);
    dest.travel.target.set(u64::from(to));
    dest.key.set(GOING_HOME);
    let bell = shared.mailbox.push(Parcel(dest.travel.page.get()));
    finish(to, bell);
    Some(Next::Schedule)
}

#[inline(always)]
fn finish(to: u16, bell: Ring) {
    if bell == Ring::Needed {
        ring(to, vectors::REQUEST);
        count(Counter::RequestInterrupts);
    }
    // The answer may be here before this CPU has come to rest. `Next::Schedule` either does that or takes it back.
    cpu::this().shared.mailbox.promise();
    count(Counter::RequestsSent);
}

/// The message of `from`, who lives on another CPU than `to`.
#[inline(always)]
fn hand_over(from: TcbRef, to: TcbRef, tag: u64) {
    let tag = MsgTag::from_raw(tag);
    transfer::own_words(from, to, tag.untyped());
    to.set_reg(reg::R9, tag.with_flags(TagFlags::CROSS_CPU).raw());
    to.set_reg(reg::RSI, result::name_for(from, to));
    to.set_reg(reg::RDI, to.local_id.get());
}

/// This CPU has nothing to do and `parcel` in its mailbox: lets the thread in, and answers who runs because of it. None:
/// nothing has happened, the complete path is to look.
#[inline(always)]
pub fn arrive(cpu: &PerCpu, parcel: Parcel) -> Option<TcbRef> {
    let mailbox = &cpu::this().shared.mailbox;
    let page = table::in_window(parcel.0);
    let here = cpu.number();
    if !is_only(parcel) || !page.travel.is_known(here) {
        return None;
    }
    let t = thread::slot(l4abi::id::ThreadId::from_raw(page.id.get()).number().0);
    match page.travel.errand.get() {
        Errand::Call { dest: id } => {
            let dest = thread::lookup_at_once(id)?;
            let tag = t.reg(reg::R9);
            let simple = dest.key.get() == cpu.plain_waiting() && takes_plainly(dest, t);
            if !simple || !mailbox.remove(parcel) {
                return None;
            }
            // Point of no return.
            trace::arrive(t.number());
            trace::ipc_receive(dest, t, tag);
            trace::ipc_wait(t, id);
            hand_over(t, dest, tag);
            t.awaited.set(id);
            t.key.set(cpu.plain_waiting() | Key::VISITING);
            dest.key.set(cpu.plain_ready());
            trace::wake(dest);
            count(Counter::RequestsReceived);
            Some(dest)
        }
        Errand::Home
            if page.key.get() == GOING_HOME
                && page.travel.home() == here
                && t.travel.is_placed(here) =>
        {
            if !mailbox.remove(parcel) {
                return None;
            }
            trace::arrive(t.number());
            t.key.set(cpu.plain_ready());
            trace::wake(t);
            count(Counter::RequestsReceived);
            Some(t)
        }
        _ => None,
    }
}
