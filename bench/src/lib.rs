//! Guest programs of Lokal: the conformance suite and the experiments, as a library with thin
//! binaries.
//!
//! [`harness`] runs tests in the root task's position: a controller that survives hanging tests, a
//! pager with a programmable policy, and *puppets*, threads that execute one command after the
//! other for a test. [`conf`] holds the tests, one module per area. [`lab`] is what the benchmark programs share.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod conf;
pub mod counter;
pub mod experiment;
pub mod harness;
pub mod lab;
