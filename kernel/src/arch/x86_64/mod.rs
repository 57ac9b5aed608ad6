//! x86-64: instructions, registers, tables and devices of the processor.

pub mod apic;
pub mod backtrace;
mod bootloader;
pub mod bootmem;
pub mod clock;
pub mod copy_window;
pub mod cpu_ops;
pub mod cpu_start;
pub mod cpulocal;
pub mod entry;
pub mod fastpath;
pub mod fpu;
pub mod gdt;
pub mod idt;
pub mod image;
pub mod io_window;
pub mod ioapic;
pub mod paging;
mod pvh;
pub mod regs;
pub mod selftest;
pub mod serial;
pub mod tables;
pub mod tcb_area;
pub mod trampoline;
pub mod traps;
pub mod vectors;
