//! The pure part of sigma0: who owns which memory and which ports, and what each request gets.
//!
//! [`interval::IntervalMap`] is the data structure, [`pool::Pool`] the rules of the protocol over
//! it. Nothing here does IPC; the binary is a loop around [`pool::Pool::handle`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod interval;
pub mod pool;

#[cfg(test)]
mod tests;
