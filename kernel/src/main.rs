//! The Lokal microkernel.
//!
//! Boot starts in `arch::x86_64::{pvh, bootloader}`, runs the stages of [`boot`] and ends in [`start`] on
//! every CPU.
#![no_std]
#![no_main]
#![deny(unsafe_code)]
#![allow(dead_code, reason = "until threads and interprocess communication use what boot provides")]

#[expect(unsafe_code, reason = "the home of instructions, registers and page tables")]
mod arch;
mod boot;
mod console;
mod cpu;
mod interrupt;
mod machine;
#[expect(unsafe_code, reason = "places the pools in the memory they manage")]
mod memory;
mod panic;
mod selftest;

/// Every CPU ends up here after its start-up, on its own stack with interrupts off. Placeholder: idles.
fn start() -> ! {
    arch::x86_64::cpu_ops::idle()
}
