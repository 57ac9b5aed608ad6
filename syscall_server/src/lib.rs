//! ThreadControl and SpaceControl by proxy (numa-l4 4.2.2).
//!
//! The kernel lets only the root task's space make and move threads and spaces. The root task runs
//! a server thread per CPU that does so for others: for the application pagers, and for nobody
//! else. This library is what those threads decide with. It is pure: [`Policy::check`] says what
//! may be done and changes nothing, the server makes the system call, [`Policy::apply`] records that
//! it succeeded. The server threads of all CPUs share one policy and hold its lock from check to
//! apply; the kernel's calls are short.
//!
//! What holds at any time: a pager can name only threads and spaces of tasks that it serves, can
//! give threads only numbers of its own range, and can set only pagers as pagers and schedulers. A
//! task begins with the pager that makes its first space; another pager serves it after a pager
//! that does has said so ([`Request::Share`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod policy;
mod request;

pub use policy::{Call, PagerNo, Permit, Policy, SpaceNo, TaskNo};
pub use request::{
    MAX_FRAMES, REGAIN_FRAMES, REPORT, Request, SCHEDULE, SpaceControl, ThreadControl, UNMAP_FRAMES,
};
