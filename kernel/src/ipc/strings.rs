//! String items (reference 1.6, 5.6): scatter and gather between two spaces, page faults on both sides,
//! transfer timeouts.
//!
//! Both sides are cursors over descriptors: the sender's lie in its message registers, the receiver's in its
//! buffer registers. One step copies what lies in one page on both sides, through the CPU's copy window; no
//! user address is ever dereferenced. A page that is not there parks the transfer: the thread whose page it
//! is asks its pager, in an IPC of its own, and the receiver goes on when the answer is there.
//!
//! The transfer timeout starts with the first fault. Its wake-up is always the receiver's.

use core::cell::Cell;

use kcore::ipc::{Key, State};
use l4abi::error::IpcCode;
use l4abi::item::{ItemHead, StringHead};
use l4abi::time::Timeouts;

use crate::ipc::cancel;
use crate::ipc::kernel_msg::{self, KernelIpc};
use crate::ipc::timeout::{self, Deadline};
use crate::ipc::transfer::{self, Item};
use crate::sched::percpu::PerCpu;
use crate::sched::work::{self, Work};
use crate::sched::{self, Next};
use crate::space::user::{self, Side};
use crate::thread::tcb::{Outer, TcbRef};
use crate::thread::utcb;

/// Bytes after which a copy lets interrupts in.
const STEP_BYTES: u64 = 32 << 10;

/// A place in a (compound) string: descriptor word, substring, byte in the substring.
#[derive(Debug, Default)]
pub struct Cursor {
    descriptor: Cell<usize>,
    substring: Cell<u64>,
    offset: Cell<u64>,
}

impl Cursor {
    const fn new() -> Self {
        Self { descriptor: Cell::new(0), substring: Cell::new(0), offset: Cell::new(0) }
    }

    fn start(&self, descriptor: usize) {
        self.descriptor.set(descriptor);
        self.substring.set(0);
        self.offset.set(0);
    }
}

/// Where the string copy of a transfer stands.
#[derive(Debug)]
pub struct Copy {
    /// Bytes of string data moved so far, over all strings of the message.
    pub bytes: Cell<u64>,
    /// A string has been begun and is not finished.
    active: Cell<bool>,
    source: Cursor,
    target: Cursor,
    /// BR index of the next unused buffer; 0 = none left.
    next_buffer: Cell<usize>,
    /// The transfer timeout runs already.
    timed: Cell<bool>,
}

impl Copy {
    /// Nothing copied yet.
    pub const fn new() -> Self {
        Self {
            bytes: Cell::new(0),
            active: Cell::new(false),
            source: Cursor::new(),
            target: Cursor::new(),
            next_buffer: Cell::new(1),
            timed: Cell::new(false),
        }
    }

    /// Whether a string has been begun and is not finished.
    pub fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Back to the beginning, for a new message.
    pub fn reset(&self) {
        self.bytes.set(0);
        self.active.set(false);
        self.next_buffer.set(1);
        self.timed.set(false);
    }
}

/// What is left of one substring.
struct Piece {
    /// User address.
    at: u64,
    /// Bytes.
    left: u64,
    /// Nothing of the string follows it.
    last: bool,
}

/// One side's descriptors as a sequence of words.
struct Words<'a> {
    word: &'a dyn Fn(usize) -> u64,
    /// First index behind the sequence.
    end: usize,
}

impl Words<'_> {
    /// The descriptor at `at`, if it lies inside the sequence with all its pointers.
    fn head(&self, at: usize) -> Option<StringHead> {
        let head = (at < self.end).then(|| ItemHead::parse((self.word)(at)));
        let Some(Ok(ItemHead::String(head))) = head else { return None };
        (at + 1 + head.substrings() <= self.end).then_some(head)
    }

    /// The present piece at `cursor`. `Ok(None)` at the end of the string.
    #[inline(always)]
    fn piece(&self, cursor: &Cursor) -> Result<Option<Piece>, ()> {
        loop {
            let at = cursor.descriptor.get();
            let head = self.head(at).ok_or(())?;
            let substring = cursor.substring.get();
            if substring < head.substrings() as u64 {
                let left = head.substring_len().saturating_sub(cursor.offset.get());
                if left > 0 {
                    let base = (self.word)(at + 1 + substring as usize);
                    let last = substring + 1 == head.substrings() as u64 && !head.continues();
                    return Ok(Some(Piece {
                        at: base.wrapping_add(cursor.offset.get()),
                        left,
                        last,
                    }));
                }
                cursor.substring.set(substring + 1);
                cursor.offset.set(0);
            } else if head.continues() {
                cursor.start(at + 1 + head.substrings());
            } else {
                return Ok(None);
            }
        }
    }

    /// Index behind the (compound) string that begins at `at`, and whether one of its descriptors says that
    /// another buffer follows.
    fn behind(&self, mut at: usize) -> Option<(usize, bool)> {
        let mut more = false;
        loop {
            let head = self.head(at)?;
            at += 1 + head.substrings();
            more |= head.more_buffers();
            if !head.continues() {
                return Some((at, more));
            }
        }
    }
}

const OVERFLOW: Item = Item::Failed(IpcCode::Overflow, IpcCode::Overflow);

/// Moves (on) the string item at MR `at` of `sender`; the typed part ends before MR `end` + 1. Answers how it
/// went and how many words the item has.
pub fn item(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, at: usize, end: usize) -> (Item, usize) {
    let source_word = |i| transfer::word(sender, i);
    let target_word = |i| utcb::buffer(dest, i);
    let source = Words { word: &source_word, end: end + 1 };
    let target = Words { word: &target_word, end: l4abi::acceptor::NUM_BRS };
    let Some((behind, _)) = source.behind(at) else { return (OVERFLOW, 0) };
    let copy = &dest.transfer.copy;
    if !copy.active.get() {
        let buffer = copy.next_buffer.get();
        if !kernel_msg::acceptor(dest).accepts_strings() || buffer == 0 {
            return (OVERFLOW, 0);
        }
        let Some((after, more)) = target.behind(buffer) else { return (OVERFLOW, 0) };
        copy.source.start(at);
        copy.target.start(buffer);
        copy.next_buffer.set(if more { after } else { 0 });
        copy.active.set(true);
    }
    let outcome = run(cpu, sender, dest, &source, &target);
    if matches!(outcome, Item::Done) {
        copy.active.set(false);
    }
    (outcome, behind - at)
}

/// Copies until the string ends, a page is missing, or it is time to let interrupts in.
fn run(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, source: &Words<'_>, target: &Words<'_>) -> Item {
    let copy = &dest.transfer.copy;
    let (Some(from), Some(to)) = (sender.space.get(), dest.space.get()) else { return OVERFLOW };
    let mut budget = STEP_BYTES;
    loop {
        let Ok(piece) = source.piece(&copy.source) else { return OVERFLOW };
        let Some(source_piece) = piece else { return Item::Done };
        let Ok(Some(target_piece)) = target.piece(&copy.target) else { return OVERFLOW };
        if budget == 0 {
            return park(cpu, sender, dest);
        }
        let wanted = source_piece.left.min(target_piece.left).min(budget);
        match user::copy(from, source_piece.at, to, target_piece.at, wanted) {
            Ok(copied) => {
                copy.bytes.set(copy.bytes.get() + copied);
                if source_piece.last && copied == source_piece.left {
                    return Item::Done;
                }
                copy.source.offset.set(copy.source.offset.get() + copied);
                copy.target.offset.set(copy.target.offset.get() + copied);
                budget = budget.saturating_sub(copied);
            }
            Err(side) => {
                let piece = if side == Side::Source { source_piece } else { target_piece };
                return fault(cpu, sender, dest, side, piece.at);
            }
        }
    }
}

/// Both partners into the states of a transfer under way.
fn set_parked(sender: TcbRef, dest: TcbRef) {
    sender.set_state(State::Sending);
    sender.partner.set(Some(dest));
    dest.set_state(State::Receiving);
    dest.partner.set(Some(sender));
}

/// Stops for a moment: the receiver goes on when the scheduler picks it.
fn park(cpu: &PerCpu, sender: TcbRef, dest: TcbRef) -> Item {
    set_parked(sender, dest);
    work::set(dest, Work::Transfer);
    sched::enqueue(cpu, dest);
    Item::Parked(Next::Schedule)
}

/// The page at `address` of one side is missing: that thread asks its pager.
fn fault(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, side: Side, address: u64) -> Item {
    let copy = &dest.transfer.copy;
    if !copy.timed.replace(true) {
        match transfer_deadline(sender, dest) {
            Deadline::Now => return expiry(sender, dest),
            deadline => timeout::start(cpu, dest, deadline),
        }
    }
    set_parked(sender, dest);
    let (t, partner, state, ip, access) = match side {
        Side::Source => (sender, dest, State::Sending, sender.user_ip(), 4),
        Side::Target => (dest, sender, State::Receiving, u64::MAX, 2),
    };
    let outer = Outer {
        state,
        partner: Some(partner),
        then_receive: t.then_receive.get(),
        timeouts: t.timeouts.get(),
    };
    let message = KernelIpc::PageFault(address, ip, access);
    Item::Parked(kernel_msg::raise(cpu, t, message, utcb::pager(t), outer))
}

/// The earlier of the sender's send and the receiver's receive transfer timeout.
fn transfer_deadline(sender: TcbRef, dest: TcbRef) -> Deadline {
    let send = Timeouts::from_raw(utcb::xfer_timeouts(sender)).send();
    let receive = Timeouts::from_raw(utcb::xfer_timeouts(dest)).receive();
    match (timeout::deadline(send), timeout::deadline(receive)) {
        (Deadline::Now, _) | (_, Deadline::Now) => Deadline::Now,
        (Deadline::At(a), Deadline::At(b)) => Deadline::At(a.min(b)),
        (Deadline::Never, other) | (other, Deadline::Never) => other,
    }
}

/// The codes of an expired transfer: whose timeout was shorter has its own expired (reference 5.3).
fn expiry(sender: TcbRef, dest: TcbRef) -> Item {
    let send = Timeouts::from_raw(utcb::xfer_timeouts(sender)).send();
    let receive = Timeouts::from_raw(utcb::xfer_timeouts(dest)).receive();
    let length = |t: l4abi::time::Time| {
        if t.is_never() { u64::MAX } else { t.as_period_us().unwrap_or(0) }
    };
    if length(receive) < length(send) {
        Item::Failed(IpcCode::XferTimeoutPartner, IpcCode::XferTimeoutOwn)
    } else {
        Item::Failed(IpcCode::XferTimeoutOwn, IpcCode::XferTimeoutPartner)
    }
}

/// The transfer timeout of the transfer that `dest` receives is over.
pub fn transfer_timeout(cpu: &PerCpu, dest: TcbRef) {
    let outer = dest.outer.get();
    let partner = if dest.key().has(Key::KERNEL_IPC) { outer.partner } else { dest.partner.get() };
    let Some(sender) = partner else { return };
    if let Item::Failed(to_sender, to_dest) = expiry(sender, dest) {
        cancel::end_transfer(cpu, sender, dest, (to_sender, to_dest));
    }
}

/// The pager of `t` answered a fault in a transfer: `t` is back in `outer`, the receiver goes on.
pub fn fault_answered(t: TcbRef, outer: Outer) {
    t.set_state(outer.state);
    let _ = crate::cross::transfer::resume(sched::this_cpu(), t);
}
