//! Helpers for serving faults and starting threads by message (ref 4.5, 6.1).

use crate::ipc::Received;
use crate::msg::Writer;
use l4abi::proto::{IoFault, PageFault};
use l4abi::{Fpage, IpcError, MsgTag, Rights, ThreadId, Time};

/// A fault message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A page fault.
    Page(PageFault),
    /// An I/O fault.
    Io(IoFault),
}

impl Fault {
    /// The fault in a received message, if it is one.
    #[must_use]
    pub fn of(received: &Received) -> Option<Self> {
        let (tag, mr1, mr2) = (received.tag, received.mr(1), received.mr(2));
        PageFault::parse(tag, mr1, mr2)
            .map(Self::Page)
            .or_else(|| IoFault::parse(tag, mr1, mr2).map(Self::Io))
    }
}

/// Builds the reply to a page fault: maps the page of size `2^size_log2` at `from` in this space to
/// where the fault happened. Returns the tag to send.
#[must_use]
pub fn map_reply(fault: &PageFault, from: u64, size_log2: u8, rights: Rights) -> MsgTag {
    let mut message = Writer::here();
    message.map(fault.addr, Fpage::memory(from, size_log2, rights));
    message.tag(0)
}

/// Builds the reply to an I/O fault: the ports that were touched.
#[must_use]
pub fn io_reply(fault: &IoFault) -> MsgTag {
    let mut message = Writer::here();
    message.map(0, fault.ports);
    message.tag(0)
}

/// Sends the start-up message (IP, SP) to an activated thread whose pager the caller is.
///
/// # Errors
/// As IPC.
pub fn start_message(thread: ThreadId, ip: u64, sp: u64) -> Result<(), IpcError> {
    let mut message = Writer::here();
    message.words(&[ip, sp]);
    let tag = message.tag(0);
    crate::ipc::send(thread, Time::NEVER, tag)
}
