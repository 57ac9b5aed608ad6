//! The user library of Lokal.
//!
//! A program is a `no_std`, `no_main` binary that names its main function with [`entry!`]:
//!
//! ```ignore
//! libl4::entry!(main);
//! fn main() {
//!     libl4::println!("hello from {}", libl4::thread::my_global_id());
//! }
//! ```
//!
//! Layers, from below: [`arch`] holds all assembly and all `unsafe` of the library; [`sys`] gives
//! each system call a typed, safe form; [`ipc`] and [`msg`] build and read messages in the UTCB;
//! above them are threads, pager helpers, the sigma0 client, the server loop and typed RPC.
//!
//! *Safe* here means what it means for a process on any system: no call can break Rust's rules by
//! itself, but memory that is mapped, unmapped or written by a string transfer changes under the
//! program's feet. Windows and buffers must be chosen outside of live objects.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

#[expect(unsafe_code, reason = "the one home of assembly and raw memory in the library")]
pub mod arch;
pub mod boot;
pub mod console;
pub mod exit;
pub mod heap;
pub mod ipc;
pub mod msg;
pub mod pager;
pub mod program;
pub mod roi;
pub mod rpc;
pub mod server;
pub mod sigma0;
pub mod start;
pub mod sync;
pub mod sys;
pub mod thread;
pub mod time;
pub mod topology;

pub use l4abi;
pub use l4abi::{
    Acceptor, CpuId, ErrorCode, Fpage, IpcCode, IpcError, MsgTag, NodeId, Phase, Region, Rights,
    ThreadId, ThreadNo, Time, Timeouts, Utcb,
};
pub use start::kip;
