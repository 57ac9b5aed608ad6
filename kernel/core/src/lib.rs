//! Pure kernel logic of Lokal: everything that needs no register and no MSR, tested on the host
//! by examples, by random operations against simple oracles, and under miri.
//!
//! Memory is reached through traits or slices that the kernel hands in, so nothing here is unsafe.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod clock;
pub mod cross;
pub mod decode;
pub mod fixed;
pub mod ipc;
pub mod kdb;
pub mod layout;
pub mod mapdb;
pub mod options;
pub mod paging;
pub mod perf;
pub mod pool;
pub mod sched;
pub mod slab;
#[cfg(test)]
mod testing;
pub mod topology;
pub mod types;
