//! What an IPC leaves in the registers and the UTCB of its threads (reference 5.1 to 5.3).

use kcore::ipc::{Key, State};
use l4abi::error::IpcCode;
use l4abi::tag::{MsgTag, TagFlags};

use crate::ipc::{kernel_msg, space_token, transfer};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{self, utcb};
use crate::trace;

/// The phase in which an IPC failed; bit 0 of the error word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Send phase.
    Send = 0,
    /// Receive phase.
    Receive = 1,
}

/// `dest` has received the message of `sender`: results, and it is ready (but not queued).
#[inline(always)]
pub fn received(dest: TcbRef, sender: TcbRef, tag: MsgTag) {
    dest.set_state(State::Ready);
    trace::ipc_receive(dest, sender, tag.raw());
    if dest.key().has(Key::KERNEL_IPC) {
        kernel_msg::replied(dest, sender, tag);
        return;
    }
    let mut flags = tag.with_flags(TagFlags::empty());
    // Partners meet on one CPU: if they do not live on the same, one of them is a visitor.
    if Key(sender.key().0 | dest.key().0).has(Key::VISITING)
        && sender.travel.home() != dest.travel.home()
    {
        flags = flags.add_flags(TagFlags::CROSS_CPU);
    }
    dest.set_reg(reg::R9, flags.raw());
    dest.set_reg(reg::RSI, name_for(sender, dest));
    dest.set_reg(reg::RDI, dest.local_id.get());
    if sender.virtual_sender.get() != 0 {
        received_by_propagation(dest, sender);
    }
    if sender.key().has(Key::REDIRECTED) {
        received_by_redirection(dest, sender);
    }
}

/// The message was for somebody else, as its redirector `dest` learns (reference 5.5).
#[cold]
fn received_by_redirection(dest: TcbRef, sender: TcbRef) {
    if sender.redirected.get() == 0 || sender.key().has(Key::KERNEL_IPC) {
        return;
    }
    let flags = MsgTag::from_raw(dest.reg(reg::R9)).add_flags(TagFlags::REDIRECTED);
    dest.set_reg(reg::R9, flags.raw());
    utcb::set_intended_receiver(dest, sender.redirected.get());
}

/// The message came in another thread's name: `dest` sees that one, and who really sent it.
#[cold]
fn received_by_propagation(dest: TcbRef, sender: TcbRef) {
    let id = sender.virtual_sender.get();
    let Some(v) = thread::lookup(id) else { return };
    let name = name_for(v, dest);
    // It may be of another CPU, and gone since: then the message is the sender's own.
    if v.id.get() == id {
        let flags = MsgTag::from_raw(dest.reg(reg::R9)).add_flags(TagFlags::PROPAGATED);
        dest.set_reg(reg::R9, flags.raw());
        dest.set_reg(reg::RSI, name);
        utcb::set_actual_sender(dest, sender.id.get());
    }
}

/// How `dest` sees `t`: by local id in its own space, else by global id, however anybody named it.
#[inline]
pub fn name_for(t: TcbRef, dest: TcbRef) -> u64 {
    if space_token(t) == space_token(dest) { t.local_id.get() } else { t.id.get() }
}

/// A send without a receive phase succeeded.
#[inline]
pub fn send_only(t: TcbRef) {
    let tag = MsgTag::from_raw(t.reg(reg::R9));
    t.set_reg(reg::R9, tag.with_flags(tag.flags() - TagFlags::ERROR).raw());
    t.set_reg(reg::RSI, 0);
    t.set_reg(reg::RDI, t.local_id.get());
}

/// The IPC of `t` fails before any transfer: it returns to user level with the error.
pub fn fail(cpu: &PerCpu, t: TcbRef, phase: Phase, code: IpcCode, offset: u64) -> Next {
    if t.key().has(Key::KERNEL_IPC) {
        return kernel_msg::failed(cpu, t);
    }
    // Own tag after queueing, otherwise nothing but the flag (reference 5.2).
    let tag = match phase {
        Phase::Send if t.state() == State::Polling => {
            MsgTag::from_raw(t.reg(reg::R9)).add_flags(TagFlags::ERROR)
        }
        _ => MsgTag::ERROR,
    };
    error(t, tag, phase, code, offset);
    t.set_state(State::Ready);
    if cpu.current.get() == t {
        return Next::Thread(t);
    }
    sched::enqueue(cpu, t);
    Next::Thread(cpu.current.get())
}

/// Writes an error into the results of `t`.
pub fn error(t: TcbRef, tag: MsgTag, phase: Phase, code: IpcCode, offset: u64) {
    t.set_reg(reg::R9, tag.raw());
    t.set_reg(reg::RSI, 0);
    t.set_reg(reg::RDI, t.local_id.get());
    let word = phase as u64 | (code as u64) << 1 | offset << 4;
    trace::ipc_error(t, word);
    utcb::set_error(t, word);
}

/// A transfer failed: both partners learn it, each with its own code (reference 5.3). Both are ready
/// afterwards, neither is queued.
pub fn transfer_failed(
    cpu: &PerCpu,
    sender: TcbRef,
    dest: TcbRef,
    codes: (IpcCode, IpcCode),
    offset: u64,
) {
    let tag = transfer::tag_of(sender).with_flags(TagFlags::ERROR);
    for (t, phase, code) in [(sender, Phase::Send, codes.0), (dest, Phase::Receive, codes.1)] {
        sched::clear_wakeup(cpu, t);
        t.partner.set(None);
        if t.key().has(Key::KERNEL_IPC) {
            let _ = kernel_msg::failed(cpu, t);
            continue;
        }
        error(t, tag, phase, code, offset);
        t.set_state(State::Ready);
    }
}
