//! The one definition of Lokal's application binary interface.
//!
//! Kernel, user library, servers and host tools all take types, layouts, numbers, errors, protocols
//! and records from here; nothing of it is written a second time. The interface is L4 X.2 on amd64
//! (`docs/design/architecture.md`); section numbers in the comments ("ref 1.2") are those of the
//! project's ABI reference. What Lokal adds lives in [`ext`] and in [`kip::numa`].
//!
//! Everything here is plain data and `const fn` arithmetic: no hardware, no memory access, no
//! `unsafe`. Values that come from user level are *parsed*, never trusted: every parser is total.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod acceptor;
pub mod archive;
pub mod bootinfo;
pub mod control;
pub mod error;
pub mod exregs;
pub mod ext;
pub mod fpage;
pub mod id;
pub mod item;
pub mod kip;
pub mod marker;
pub mod proto;
pub mod record;
pub mod schedule;
pub mod syscall;
pub mod tag;
pub mod time;
pub mod trace;
pub mod utcb;

pub use acceptor::Acceptor;
pub use error::{ErrorCode, IpcCode, IpcError, Phase};
pub use fpage::{Fpage, FpageKind, Region, Rights};
pub use id::{CpuId, NodeId, ThreadId, ThreadNo};
pub use syscall::SyscallNo;
pub use tag::MsgTag;
pub use time::{Time, Timeouts};
pub use utcb::Utcb;
