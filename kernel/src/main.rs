//! The Lokal microkernel.
//!
//! Boot starts in `arch::x86_64::{pvh, bootloader}`, runs the stages of [`boot`] and ends in [`start`] on
//! every CPU.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "the home of instructions, registers and page tables")]
mod arch;
mod boot;
mod console;
mod cpu;
mod cross;
mod interrupt;
mod ipc;
mod irq;
mod kdb;
mod kip;
mod machine;
mod measure;
#[expect(unsafe_code, reason = "places the pools in the memory they manage")]
mod memory;
mod panic;
mod sched;
mod selftest;
mod space;
mod survey;
mod syscall;
mod thread;
mod time;
mod trace;
mod trap;
mod util;

/// Every CPU ends up here after its start-up, on its own stack with interrupts off: it becomes its idle thread.
fn start(boot_processor: bool) -> ! {
    sched::run(boot_processor)
}
