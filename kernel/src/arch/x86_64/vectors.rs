//! Interrupt vectors: who has which.

/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// `int3`.
pub const BREAKPOINT: u8 = 3;
/// Double fault.
pub const DOUBLE_FAULT: u8 = 8;
/// General protection fault.
pub const GENERAL_PROTECTION: u8 = 13;
/// Page fault.
pub const PAGE_FAULT: u8 = 14;
/// Undefined instruction.
pub const INVALID_OPCODE: u8 = 6;
/// Machine check.
pub const MACHINE_CHECK: u8 = 18;
/// First vector that is not an exception.
pub const FIRST_INTERRUPT: u8 = 0x20;
/// First vector of I/O APIC inputs: input `n` has vector `DEVICES + n`.
pub const DEVICES: u8 = 0x30;
/// Most device inputs with a vector of their own.
pub const MAX_DEVICES: u8 = 128;
/// One-shot timer of the local APIC.
pub const TIMER: u8 = 0xf0;
/// Request from another CPU: look into the mailbox.
pub const REQUEST: u8 = 0xf1;
/// Translation look-aside buffer shootdown.
pub const SHOOTDOWN: u8 = 0xf2;
/// Request from another CPU: interrupt lines whose handler is here.
pub const LINES: u8 = 0xf4;
/// Sent by a program to measure it (`measure`).
pub const PROBE: u8 = 0xf3;
/// Error interrupt of the local APIC.
pub const APIC_ERROR: u8 = 0xfe;
/// Spurious interrupt of the local APIC; not acknowledged.
pub const SPURIOUS: u8 = 0xff;

const _: () = assert!(DEVICES as u16 + MAX_DEVICES as u16 <= TIMER as u16);
