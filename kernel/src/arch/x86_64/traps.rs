//! Traps and interrupts that arrive in kernel mode.
//!
//! Every vector has a stub that makes the stack uniform (vector and error code pushed) and saves all
//! general registers as a [`TrapFrame`]. In the kernel itself only NMIs, machine checks and, in the idle
//! loop, interrupts are expected: anything else is a kernel bug and ends in an epitaph. Entries from user
//! level have their own path (`entry`), which the interrupt table names where the two differ.

use core::arch::{asm, global_asm};
use core::fmt;
use core::mem::offset_of;

use x86_64::instructions::segmentation::{CS, SS, Segment};

use super::{cpu_ops, selftest, vectors};
use crate::cpu;

/// Registers of the interrupted code, as the stubs push them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 22 * 8);

global_asm!(
    r#"
    .section .text.traps, "ax"
    .balign 16
    .global trap_stubs
    trap_stubs:
    .set vector, 0
    .rept 256
        .balign 16
        // Vectors with an error code: SDM 3A table 6-1.
        .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
        .else
            push 0
        .endif
        push vector
        // These have stacks of their own and never touch the running thread.
        .if vector == 2 || vector == 8 || vector == 18
            jmp trap_in_kernel
        .else
            jmp trap_common
        .endif
        .set vector, vector + 1
    .endr

    .global trap_common
    trap_common:
        test byte ptr [rsp + 24], 3
        jnz trap_from_user_level
    .global trap_in_kernel
    trap_in_kernel:
        push rax
        push rcx
        push rdx
        push rsi
        push rdi
        push r8
        push r9
        push r10
        push r11
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        cld
        mov rdi, rsp
        // The frame is 22 words on a 16-byte boundary: the call finds the stack aligned.
        call {trap}
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        pop r11
        pop r10
        pop r9
        pop r8
        pop rdi
        pop rsi
        pop rdx
        pop rcx
        pop rax
        add rsp, 16
        iretq
    .text
    "#,
    trap = sym trap,
);

/// Size of one stub; the interrupt table points at `trap_stubs + vector * STUB_SIZE`.
const STUB_SIZE: u64 = 16;

/// Address of the kernel-mode stub of `vector`.
pub fn stub(vector: u8) -> u64 {
    unsafe extern "C" {
        static trap_stubs: u8;
    }
    &raw const trap_stubs as u64 + u64::from(vector) * STUB_SIZE
}

extern "C" fn trap(frame: &mut TrapFrame) {
    let vector = frame.vector as u8;
    if vector >= vectors::FIRST_INTERRUPT && cpu::local_window_live() {
        crate::interrupt::in_kernel(vector);
        crate::trap::interrupt_in_kernel(vector);
        return;
    }
    exception(frame);
}

/// An exception in kernel mode: returns only if a self-test provoked it.
pub fn exception(frame: &mut TrapFrame) {
    if frame.vector as u8 == vectors::NMI && crate::panic::in_progress() {
        crate::kdb::stopped(frame.rip, frame.rsp);
        cpu_ops::halt();
    }
    if frame.vector as u8 == vectors::NMI && crate::kdb::hold(frame.rip, frame.rsp) {
        return;
    }
    if !selftest::resume(frame) {
        crate::panic::trap(frame);
    }
}

/// Stores a register into the field of the same name.
macro_rules! store {
    ($frame:expr, $($register:ident)*) => {
        // SAFETY: each instruction writes one word of `$frame`.
        unsafe {
            asm!(
                $(concat!("mov [{0} + {", stringify!($register), "}], ", stringify!($register)),)*
                in(reg) &raw mut $frame,
                $($register = const offset_of!(TrapFrame, $register),)*
                options(nostack, preserves_flags)
            );
        }
    };
}

impl TrapFrame {
    /// The registers as they are here. Those that a caller saves say little about it.
    #[inline(always)]
    pub fn here() -> Self {
        let mut frame = Self::default();
        store!(frame, rax rcx rdx rsi rdi r8 r9 r10 r11 rbx rbp r12 r13 r14 r15 rsp);
        frame.rip = x86_64::registers::read_rip().as_u64();
        frame.rflags = x86_64::registers::rflags::read_raw();
        frame.cs = u64::from(CS::get_reg().0);
        frame.ss = u64::from(SS::get_reg().0);
        frame
    }

    /// What happened, in words.
    pub fn what(&self) -> What<'_> {
        What(self)
    }

    /// Prints the registers as lines.
    pub fn print(&self, mut line: impl FnMut(fmt::Arguments<'_>)) {
        let f = self;
        line(format_args!(
            "rip={:#018x} cs={:#x} rflags={:#x} rsp={:#018x} ss={:#x}",
            f.rip, f.cs, f.rflags, f.rsp, f.ss
        ));
        line(format_args!(
            "rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} rdi={:#x}",
            f.rax, f.rbx, f.rcx, f.rdx, f.rsi, f.rdi
        ));
        line(format_args!(
            "rbp={:#x} r8={:#x} r9={:#x} r10={:#x} r11={:#x}",
            f.rbp, f.r8, f.r9, f.r10, f.r11
        ));
        line(format_args!("r12={:#x} r13={:#x} r14={:#x} r15={:#x}", f.r12, f.r13, f.r14, f.r15));
        line(format_args!("cr2={:#018x} cr3={:#x}", super::regs::cr2(), super::regs::cr3()));
    }
}

/// Names a trap (SDM 3A table 6-1).
pub struct What<'a>(&'a TrapFrame);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 22] = [
            "divide error",
            "debug exception",
            "NMI",
            "breakpoint",
            "overflow",
            "bound range exceeded",
            "invalid opcode",
            "device not available",
            "double fault",
            "trap 9",
            "invalid TSS",
            "segment not present",
            "stack fault",
            "general protection fault",
            "page fault",
            "trap 15",
            "x87 error",
            "alignment check",
            "machine check",
            "SIMD error",
            "virtualization exception",
            "control protection exception",
        ];
        match NAMES.get(self.0.vector as usize) {
            Some(name) => write!(f, "{name} (error code {:#x})", self.0.error),
            None => write!(f, "interrupt {:#x}", self.0.vector),
        }
    }
}
