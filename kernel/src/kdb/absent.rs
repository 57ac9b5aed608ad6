//! A kernel without the debugger: everything is empty.

use core::fmt;

use crate::sched::percpu::PerCpu;

/// Nothing is kept about stopped CPUs.
pub struct Held;

impl Held {
    /// Nothing.
    pub const fn new() -> Self {
        Held
    }
}

/// Nothing.
pub fn start(_: &PerCpu) {}

/// Nobody stops other CPUs.
#[inline(always)]
pub fn hold(_: u64, _: u64) -> bool {
    false
}

/// Nothing is kept about it.
#[inline(always)]
pub fn stopped(_: u64, _: u64) {}

/// Nothing is kept.
#[inline(always)]
pub fn kept() -> Option<u8> {
    None
}

/// Every byte is the program's.
#[inline(always)]
pub fn typed(byte: u8) -> Option<u8> {
    Some(byte)
}

/// Nothing was asked for.
#[inline(always)]
pub fn look() {}

/// No interrupt line is the debugger's.
#[inline(always)]
pub fn on_line(_: u32) -> bool {
    false
}

/// There is nothing to enter.
#[inline(always)]
pub fn enter(_: fmt::Arguments<'_>) {}

/// There is nothing to enter.
#[inline(always)]
pub fn panicked() {}
