//! The client's side of the sigma0 protocol (ref 6.6).

use crate::ipc;
use crate::msg::{Reader, Writer};
use l4abi::proto::Sigma0Request;
use l4abi::{Acceptor, Fpage, FpageKind, IpcError, NodeId, Rights, ThreadId, Timeouts};

/// Why a request brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sigma0Error {
    /// sigma0 refused: a nilpage came back.
    Refused,
    /// The IPC failed.
    Ipc(IpcError),
    /// The answer was no map item.
    BadReply,
}

impl From<IpcError> for Sigma0Error {
    fn from(error: IpcError) -> Self {
        Self::Ipc(error)
    }
}

/// sigma0's thread id.
#[must_use]
pub fn id() -> ThreadId {
    crate::kip().sigma0()
}

/// Sends `request` to `server` (sigma0, or a pager that speaks the protocol) and receives what it
/// maps into `window`. Returns the send fpage of the reply: for a complete window, where the pages
/// now are.
///
/// # Errors
/// [`Sigma0Error`].
pub fn request(
    server: ThreadId,
    request: Sigma0Request,
    window: Acceptor,
    timeouts: Timeouts,
) -> Result<Fpage, Sigma0Error> {
    let (tag, words) = request.encode();
    let mut message = Writer::here();
    message.words(&words[..tag.untyped()]);
    ipc::accept(window);
    let result = ipc::call(server, timeouts, tag);
    ipc::accept(Acceptor::NONE);
    let received = result?;
    let typed = Reader::here(received.tag).typed_words();
    let fpage = typed.first_fpage().ok_or(Sigma0Error::BadReply)?;
    if fpage.kind() == FpageKind::Nothing { Err(Sigma0Error::Refused) } else { Ok(fpage) }
}

fn pages(fpage: Fpage) -> Result<Fpage, Sigma0Error> {
    let ask = Sigma0Request::Pages { fpage, attributes: 0 };
    request(id(), ask, Acceptor::COMPLETE, Timeouts::NEVER)
}

/// Any free page of `2^size_log2` bytes, mapped where it lies. Returns its address.
///
/// # Errors
/// [`Sigma0Error`].
pub fn any_page(size_log2: u8) -> Result<u64, Sigma0Error> {
    let fpage = pages(Fpage::any_of_size(size_log2))?;
    fpage.memory_region().map(l4abi::Region::base).ok_or(Sigma0Error::BadReply)
}

/// Any free page of `2^size_log2` bytes of a node's memory, mapped where it lies.
///
/// # Errors
/// [`Sigma0Error`].
pub fn any_page_on(node: NodeId, size_log2: u8) -> Result<u64, Sigma0Error> {
    let fpage = Fpage::any_of_size(size_log2);
    let ask = Sigma0Request::PagesOnNode { fpage, attributes: 0, node };
    let got = request(id(), ask, Acceptor::COMPLETE, Timeouts::NEVER)?;
    got.memory_region().map(l4abi::Region::base).ok_or(Sigma0Error::BadReply)
}

/// The specific page at `addr`, mapped where it lies.
///
/// # Errors
/// [`Sigma0Error`].
pub fn specific_page(addr: u64, size_log2: u8) -> Result<(), Sigma0Error> {
    pages(Fpage::memory(addr, size_log2, Rights::RWX)).map(|_| ())
}

/// I/O ports.
///
/// # Errors
/// [`Sigma0Error`].
pub fn io_ports(port: u16, ports_log2: u8) -> Result<(), Sigma0Error> {
    pages(Fpage::io(port, ports_log2)).map(|_| ())
}
