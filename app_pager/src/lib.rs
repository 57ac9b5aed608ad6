//! The application pager's protocol: one address space that spans all nodes, out of one kernel
//! space per node, kept in step by the pagers of the nodes through a master pager per task
//! (numa-l4 3.2.3 and 4.2; `docs/design/pagers.md`).
//!
//! Everything here is a pure state machine without time, memory access or system calls.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod directory;
pub mod ids;
pub mod members;
pub mod page;
pub mod pool;
pub mod region;
#[doc(hidden)]
pub mod rng;
