//! Instructions that tests need one by one: exceptions on purpose, SSE state, register checks.

use core::arch::{asm, naked_asm};

/// An instruction that raises an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// `ud2`: vector 6.
    InvalidOpcode,
    /// `div ecx` by zero: vector 0.
    DivideError,
    /// A read of a non-canonical address: vector 13.
    NonCanonical,
    /// `int3` that is no debugger call: vector 3.
    Breakpoint,
    /// `hlt`: vector 13.
    Privileged,
    /// `syscall` outside of the kernel's stubs.
    Syscall,
    /// `rdpmc` of the first counter: vector 13, unless the kernel lets programs read counters.
    Counter,
}

impl Trap {
    /// Length of the instruction, which a handler skips.
    #[must_use]
    pub const fn len(self) -> u64 {
        match self {
            Self::Breakpoint | Self::Privileged => 1,
            _ => 2,
        }
    }

    /// Whether the instruction is empty: never.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}

macro_rules! trap {
    ($name:ident, $($line:literal),+) => {
        /// Returns RAX, which is `seed` unless a handler changed it.
        #[unsafe(naked)]
        extern "C" fn $name(seed: u64) -> u64 {
            naked_asm!("mov rax, rdi", $($line,)+ "ret")
        }
    };
}

trap!(trap_ud, "ud2");
trap!(trap_de, "xor edx, edx", "xor ecx, ecx", "div ecx");
trap!(trap_gp, "mov rcx, 0x8000000000000000", "mov cl, [rcx]");
trap!(trap_bp, "int3", "nop");
trap!(trap_hlt, "hlt");
trap!(trap_syscall, "syscall");
trap!(trap_counter, "xor ecx, ecx", "rdpmc");

/// Raises the exception with `seed` in RAX. Returns RAX as the handler leaves it.
pub fn raise(trap: Trap, seed: u64) -> u64 {
    match trap {
        Trap::InvalidOpcode => trap_ud(seed),
        Trap::DivideError => trap_de(seed),
        Trap::NonCanonical => trap_gp(seed),
        Trap::Breakpoint => trap_bp(seed),
        Trap::Privileged => trap_hlt(seed),
        Trap::Syscall => trap_syscall(seed),
        Trap::Counter => trap_counter(seed),
    }
}

/// Jumps to `addr` if a `ret` (C3) lies there. Returns whether it did.
#[must_use]
pub fn execute_ret(addr: u64) -> bool {
    if super::touch_read(addr) != 0xC3 {
        return false;
    }
    // SAFETY: the code at `addr` is one `ret`, checked above; if the page may not be executed the
    // pager hears of it.
    unsafe { asm!("call {}", in(reg) addr) }
    true
}

/// Puts a value into XMM7 and its complement into XMM15.
pub fn fpu_set(value: u64) {
    // SAFETY: code for this target never keeps anything in SSE registers.
    unsafe {
        asm!("movq xmm7, {}", "movq xmm15, {}", in(reg) value, in(reg) !value, options(nomem, nostack, preserves_flags));
    }
}

/// Reads back what [`fpu_set`] put there: XMM7 and XMM15.
#[must_use]
pub fn fpu_get() -> (u64, u64) {
    let (a, b);
    // SAFETY: as for `fpu_set`.
    unsafe {
        asm!("movq {}, xmm7", "movq {}, xmm15", out(reg) a, out(reg) b, options(nomem, nostack, preserves_flags));
    }
    (a, b)
}

/// Executes KernelInterface with a known value in every register it must preserve (ref 4.2) and
/// returns a mask of those that changed: bits 0 to 9 are RBX, RDI, RBP, R8 to R11, R12 to R14.
#[unsafe(naked)]
#[must_use]
pub extern "C" fn kernel_interface_changes() -> u64 {
    naked_asm!(
        "push rbx\n push rbp\n push r12\n push r13\n push r14\n push r15",
        "mov rbx, 0x101\n mov rdi, 0x102\n mov rbp, 0x103\n mov r8, 0x104\n mov r9, 0x105",
        "mov r10, 0x106\n mov r11, 0x107\n mov r12, 0x108\n mov r13, 0x109\n mov r14, 0x10a",
        ".byte 0xf0, 0x90",
        "xor eax, eax",
        "cmp rbx, 0x101\n je 2f\n or eax, 1\n 2:",
        "cmp rdi, 0x102\n je 2f\n or eax, 2\n 2:",
        "cmp rbp, 0x103\n je 2f\n or eax, 4\n 2:",
        "cmp r8, 0x104\n je 2f\n or eax, 8\n 2:",
        "cmp r9, 0x105\n je 2f\n or eax, 16\n 2:",
        "cmp r10, 0x106\n je 2f\n or eax, 32\n 2:",
        "cmp r11, 0x107\n je 2f\n or eax, 64\n 2:",
        "cmp r12, 0x108\n je 2f\n or eax, 128\n 2:",
        "cmp r13, 0x109\n je 2f\n or eax, 256\n 2:",
        "cmp r14, 0x10a\n je 2f\n or eax, 512\n 2:",
        "pop r15\n pop r14\n pop r13\n pop r12\n pop rbp\n pop rbx",
        "ret",
    )
}
