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
mod interrupt;
mod machine;
mod memory;
mod panic;

/// Every CPU ends up here after its start-up, on its own stack with interrupts off.
fn start(_: &boot::BootProcessor) -> ! {
    println!("up on cpu{}", cpu::this().identity.id);
    arch::x86_64::cpu_ops::exit(arch::x86_64::cpu_ops::ExitCode::Success)
}
