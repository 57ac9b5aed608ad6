//! The application pager's protocol: one address space that spans all nodes, out of one kernel
//! space per node, kept in step by the pagers of the nodes through a master pager per task
//! (numa-l4 3.2.3 and 4.2; `docs/design/pagers.md`).
//!
//! Everything here is a pure state machine without time, memory access or system calls.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod barrier;
#[cfg(target_os = "none")]
pub mod client;
pub mod config;
pub mod control;
pub mod directory;
pub mod encode;
pub mod event;
mod fault;
mod hold;
pub mod ids;
pub mod image;
pub mod lane;
pub mod layout;
pub mod mcs;
pub mod members;
#[cfg(target_os = "none")]
pub mod memory;
pub mod message;
pub mod numbers;
pub mod op;
pub mod page;
pub mod pagemap;
pub mod pager;
pub mod pageset;
pub mod plan;
pub mod pool;
pub mod quick;
pub mod region;
#[doc(hidden)]
pub mod rng;
pub mod store;
pub mod task;
mod threads;
pub mod wire;
pub mod worker;
