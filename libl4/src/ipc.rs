//! IPC on the message registers in the UTCB (ref 4.3, 5).
//!
//! Every function here sends what lies in MR0.. and leaves there what arrived; [`crate::msg`] builds
//! and reads it. `tag` is put into MR0 first.

use crate::arch::{self, IpcLink, utcb};
use core::sync::atomic::Ordering;
use l4abi::ext::IpcFlags;
use l4abi::{Acceptor, IpcError, MsgTag, ThreadId, Time, Timeouts};

/// A message that arrived: its words are in the UTCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The sender: a local id if it is in this space, else global. Nil after a pure send.
    pub from: ThreadId,
    /// Its tag.
    pub tag: MsgTag,
}

impl Received {
    /// Message register `i`.
    #[must_use]
    pub fn mr(&self, i: usize) -> u64 {
        utcb().load_mr(i)
    }
}

/// The result of an IPC.
pub type IpcResult = Result<Received, IpcError>;

/// Both phases at once: the system call itself.
///
/// # Errors
/// The error word of ref 5.3.
pub fn ipc(to: ThreadId, from: ThreadId, timeouts: Timeouts, tag: MsgTag) -> IpcResult {
    through(IpcLink::Ipc, to, from, timeouts, tag)
}

/// [`ipc`] by the Lipc link.
///
/// # Errors
/// As [`ipc`].
pub fn lipc(to: ThreadId, from: ThreadId, timeouts: Timeouts, tag: MsgTag) -> IpcResult {
    through(IpcLink::Lipc, to, from, timeouts, tag)
}

fn through(
    link: IpcLink,
    to: ThreadId,
    from: ThreadId,
    timeouts: Timeouts,
    tag: MsgTag,
) -> IpcResult {
    let me = utcb();
    me.store_mr(0, tag.raw());
    let from = arch::ipc(link, to.raw(), from.raw(), timeouts.raw());
    let tag = MsgTag::from_raw(me.load_mr(0));
    if tag.is_error() {
        return Err(IpcError::from_raw(me.error_code.load(Ordering::Relaxed)));
    }
    Ok(Received { from: ThreadId::from_raw(from), tag })
}

/// Sends to `to` and receives from it.
///
/// # Errors
/// As [`ipc`].
pub fn call(to: ThreadId, timeouts: Timeouts, tag: MsgTag) -> IpcResult {
    ipc(to, to, timeouts, tag)
}

/// Sends.
///
/// # Errors
/// As [`ipc`].
pub fn send(to: ThreadId, timeout: Time, tag: MsgTag) -> Result<(), IpcError> {
    ipc(to, ThreadId::NIL, Timeouts::new(timeout, Time::NEVER), tag).map(|_| ())
}

/// Receives from one thread, or from any with [`ThreadId::ANY`] and [`ThreadId::ANY_LOCAL`].
///
/// # Errors
/// As [`ipc`].
pub fn receive(from: ThreadId, timeouts: Timeouts) -> IpcResult {
    ipc(ThreadId::NIL, from, timeouts, MsgTag::NIL)
}

/// Waits for a message from anyone, for ever.
///
/// # Errors
/// As [`ipc`].
pub fn wait() -> IpcResult {
    receive(ThreadId::ANY, Timeouts::NEVER)
}

/// Replies without waiting for the partner, then waits for anyone.
///
/// # Errors
/// As [`ipc`]; a partner that is gone shows as an error of the send phase.
pub fn reply_wait(to: ThreadId, tag: MsgTag) -> IpcResult {
    ipc(to, ThreadId::ANY, Timeouts::new(Time::ZERO, Time::NEVER), tag)
}

/// Sets BR0: what the next receives let in.
pub fn accept(acceptor: Acceptor) {
    utcb().br(0).store(acceptor.raw(), Ordering::Relaxed);
}

/// Accepts strings into one buffer, and map items as `acceptor` says. The buffer must outlive the
/// receives; the kernel writes to it.
pub fn accept_string(acceptor: Acceptor, addr: u64, len: u64) {
    let me = utcb();
    let [head, pointer] = l4abi::item::string_item(addr, len);
    me.br(1).store(head, Ordering::Relaxed);
    me.br(2).store(pointer, Ordering::Relaxed);
    accept(acceptor.and_strings());
}

/// Runs `body` with sends that fail instead of crossing to another processor (`l4abi::ext`).
pub fn staying_on_cpu<R>(body: impl FnOnce() -> R) -> R {
    let flags = &utcb().flags;
    let set = |on: IpcFlags| flags.store(on.put(flags.load(Ordering::Relaxed)), Ordering::Relaxed);
    set(IpcFlags::STAY_ON_CPU);
    let result = body();
    set(IpcFlags::empty());
    result
}
