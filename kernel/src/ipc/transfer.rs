//! Moving a message: words, then typed items in order (reference 5.6).
//!
//! Words of a user message come from the sender's saved registers (MR1..MR7) and its UTCB (MR8..); words of a
//! kernel message from [`kernel_msg`]. Typed items run as a loop over the sender's item words with its state in
//! the receiver's TCB, so that it can stop at a fault or for a preemption and go on later.

use core::cell::Cell;

use kcore::ipc::Key;
use l4abi::error::IpcCode;
use l4abi::item::ItemHead;
use l4abi::tag::{MAX_WORDS, MsgTag};

use crate::ipc::kernel_msg::{self, KernelIpc};
use crate::ipc::result;
use crate::ipc::strings::{self, Copy};
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::mapping;
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::utcb;

/// How the message part of a rendezvous went.
pub enum Outcome {
    /// Complete: the receiver is ready, not queued; the sender's send phase is over.
    Done,
    /// Failed: both have their error and are ready, neither is queued.
    Failed,
    /// Neither: both are parked; this runs next.
    Parked(Next),
}

/// How one typed item went.
pub enum Item {
    /// Moved.
    Done,
    /// The message ends here with an error for sender and receiver.
    Failed(IpcCode, IpcCode),
    /// Stopped; [`resume`] goes on when the receiver runs again.
    Parked(Next),
}

/// Typed items in flight. Belongs to the receiver.
pub struct Transfer {
    /// MR index of the item to be moved next.
    next_item: Cell<usize>,
    /// The same for the answer to a fault, which may come in the middle of a string copy: that must find
    /// `next_item` and `copy` as they were. (Answers have no strings: nothing accepts them.)
    next_answer_item: Cell<usize>,
    /// Strings: where the copy stands.
    pub copy: Copy,
}

impl Transfer {
    /// Nothing in flight.
    pub const fn new() -> Self {
        Self { next_item: Cell::new(0), next_answer_item: Cell::new(0), copy: Copy::new() }
    }

    /// Nothing in flight any more.
    pub fn reset(&self) {
        self.next_item.set(0);
        self.next_answer_item.set(0);
        self.copy.reset();
    }
}

/// Whether no string of a message to `t` is under way.
pub fn is_idle(t: TcbRef) -> bool {
    !t.transfer.copy.is_active()
}

/// The tag of the message that `t` sends.
#[inline]
pub fn tag_of(t: TcbRef) -> MsgTag {
    if t.key().has(Key::KERNEL_IPC) { kernel_msg::tag(t) } else { MsgTag::from_raw(t.reg(reg::R9)) }
}

/// Word `i` (from 1) of the message that `t` sends.
#[inline]
pub fn word(t: TcbRef, i: usize) -> u64 {
    if t.key().has(Key::KERNEL_IPC) {
        kernel_msg::word(t, i)
    } else if i < 8 {
        t.reg(reg::R9 + i)
    } else {
        utcb::mr(t, i)
    }
}

/// Copies all words of the message, typed items included, verbatim. A receiver in a kernel-made IPC keeps its
/// message registers.
#[inline(always)]
pub fn words(sender: TcbRef, dest: TcbRef, tag: MsgTag) {
    if (dest.key.get() | sender.key.get()) & Key::KERNEL_IPC != 0 {
        kernel_words(sender, dest, tag);
        return;
    }
    own_words(sender, dest, tag.untyped() + tag.typed());
}

/// Copies `count` words between two threads in IPC of their own. Those in registers are always copied.
#[inline(always)]
pub fn own_words(sender: TcbRef, dest: TcbRef, count: usize) {
    for slot in reg::RAX..=reg::R15 {
        dest.set_reg(slot, sender.reg(slot));
    }
    if count > 7 {
        utcb::copy_mrs(sender, dest, 8, count);
    }
}

/// The words of a kernel message; nothing if the receiver itself waits for the answer to one.
#[inline(never)]
fn kernel_words(sender: TcbRef, dest: TcbRef, tag: MsgTag) {
    if dest.key().has(Key::KERNEL_IPC) {
        return;
    }
    if let KernelIpc::Exception(vector, error) = sender.kernel_ipc.get() {
        kernel_msg::exception_words(sender, dest, vector, error);
        return;
    }
    for i in 1..=tag.words() {
        set_word(dest, i, kernel_msg::word(sender, i));
    }
}

/// Writes MR `i` (from 1) of `t`.
fn set_word(t: TcbRef, i: usize, value: u64) {
    if i < 8 { t.set_reg(reg::R9 + i, value) } else { utcb::set_mr(t, i, value) }
}

/// Whether the message that `t` sends has string items.
pub fn has_strings(t: TcbRef) -> bool {
    let tag = tag_of(t);
    let mut at = tag.untyped() + 1;
    let end = (tag.untyped() + tag.typed()).min(MAX_WORDS);
    while at <= end {
        match ItemHead::parse(word(t, at)) {
            Ok(ItemHead::String(_)) => return true,
            Ok(_) => at += 2,
            Err(_) => return false,
        }
    }
    false
}

/// Moves a message with typed items.
#[inline(never)]
pub fn begin(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, tag: MsgTag) -> Outcome {
    let (untyped, typed) = (tag.untyped(), tag.typed());
    if untyped + typed > MAX_WORDS {
        let overflow = (IpcCode::Overflow, IpcCode::Overflow);
        result::transfer_failed(cpu, sender, dest, overflow, 0);
        return Outcome::Failed;
    }
    words(sender, dest, tag);
    next_item(dest).set(untyped + 1);
    if !dest.key().has(Key::KERNEL_IPC) {
        dest.transfer.copy.reset();
    }
    items(cpu, sender, dest, tag)
}

/// Goes on with a parked transfer, in the name of the receiver `dest`, which is current.
pub fn resume(cpu: &PerCpu, dest: TcbRef) -> Next {
    let Some(sender) = dest.partner.get() else { return Next::Schedule };
    // The answer to a fault puts back what the fault interrupted: a transfer with another partner, its clock running.
    let own = !dest.key().has(Key::KERNEL_IPC);
    match items(cpu, sender, dest, tag_of(sender)) {
        Outcome::Done => {
            sender.partner.set(None);
            if own {
                crate::sched::clear_wakeup(cpu, dest);
                dest.partner.set(None);
            }
            let _ = crate::ipc::sent(cpu, sender, Next::Thread(dest));
            Next::Thread(dest)
        }
        Outcome::Failed => {
            crate::sched::enqueue(cpu, sender);
            Next::Thread(dest)
        }
        Outcome::Parked(next) => next,
    }
}

/// Where `dest` notes the item to be moved next.
fn next_item(dest: TcbRef) -> &'static Cell<usize> {
    let transfer = &dest.transfer;
    if dest.key().has(Key::KERNEL_IPC) { &transfer.next_answer_item } else { &transfer.next_item }
}

/// The loop over typed items.
fn items(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, tag: MsgTag) -> Outcome {
    let end = tag.untyped() + tag.typed();
    let mut at = next_item(dest).get();
    while at <= end {
        let (outcome, length) = match ItemHead::parse(word(sender, at)) {
            Ok(ItemHead::Map { .. } | ItemHead::Grant { .. }) if at < end => {
                mapping::items(cpu, sender, dest, at, end)
            }
            Ok(ItemHead::String(_)) => strings::item(cpu, sender, dest, at, end),
            _ => (Item::Failed(IpcCode::Overflow, IpcCode::Overflow), 0),
        };
        match outcome {
            Item::Done => at += length,
            Item::Failed(to_sender, to_dest) => {
                let in_string = !dest.key().has(Key::KERNEL_IPC);
                let offset = if in_string { dest.transfer.copy.bytes.get() } else { 0 };
                result::transfer_failed(cpu, sender, dest, (to_sender, to_dest), offset);
                if in_string {
                    dest.transfer.copy.reset();
                }
                return Outcome::Failed;
            }
            Item::Parked(next) => return Outcome::Parked(next),
        }
        next_item(dest).set(at);
    }
    result::received(dest, sender, tag);
    Outcome::Done
}
