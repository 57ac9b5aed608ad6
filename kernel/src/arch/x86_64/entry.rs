//! The doors between user level and the kernel: SYSCALL, interrupts and exceptions in, SYSRET and IRETQ out.
//!
//! Everything that enters from user level saves the user registers into the current thread's TCB, moves to
//! the CPU's one kernel stack and calls Rust, which answers with the thread to run next; [`exit`](self) takes
//! that thread's registers from its TCB. So nothing on the kernel stack ever survives a switch, and a thread
//! can be moved, aborted or deleted by looking at its TCB alone.
//!
//! Interrupts from kernel mode happen only in the idle loop (nowhere else are they enabled): they nest on the
//! stack, do their work and return to the loop, which looks again. Exceptions from kernel mode are bugs.
//! NMI, double fault and machine check have stacks of their own and never touch the TCB.

use core::arch::global_asm;
use core::mem::offset_of;

use kcore::layout::{CPU_LOCAL, cpu_local};
use l4abi::syscall::SyscallNo;
use x86_64::registers::model_specific::Msr;
use x86_64::registers::rflags::RFlags;

use super::{gdt, vectors};
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::{Exit, Tcb, reg};

/// Offset of a saved register in a TCB.
pub(super) const fn saved(slot: usize) -> usize {
    offset_of!(Tcb, regs) + slot * 8
}

/// Absolute address of a field of the CPU block, as a sign-extended 32-bit displacement.
pub(super) const fn cpu_field(offset: usize) -> i32 {
    (CPU_LOCAL.as_u64().wrapping_add(offset as u64)) as i32
}

global_asm!(
    r#"
    .macro SAVE_TO base
        mov [\base + {R9}], r9
        mov [\base + {RBX}], rbx
        mov [\base + {R10}], r10
        mov [\base + {R12}], r12
        mov [\base + {R13}], r13
        mov [\base + {R14}], r14
        mov [\base + {R15}], r15
        mov [\base + {RDI}], rdi
        mov [\base + {RSI}], rsi
        mov [\base + {RDX}], rdx
        mov [\base + {R8}], r8
        mov [\base + {RCX}], rcx
        mov [\base + {RBP}], rbp
        mov [\base + {R11}], r11
    .endm
    # The user state of a trap into the current thread's TCB; RIP lies \frame above the stack pointer. RAX = the TCB.
    .macro SAVE_TRAP frame
        cld
        mov [{USER_RAX}], rax
        mov rax, [{CURRENT}]
        SAVE_TO rax
        mov rcx, [{USER_RAX}]
        mov [rax + {RAX}], rcx
        mov rcx, [rsp + \frame]
        mov [rax + {RIP}], rcx
        mov rcx, [rsp + \frame + 16]
        mov [rax + {RFLAGS}], rcx
        mov rcx, [rsp + \frame + 24]
        mov [rax + {RSP}], rcx
        mov qword ptr [rax + {EXIT}], {EXIT_IRET}
    .endm
    .macro LOAD_RESULT_FROM_RDI
        mov r9, [rdi + {R9}]
        mov rax, [rdi + {RAX}]
        mov rbx, [rdi + {RBX}]
        mov r10, [rdi + {R10}]
        mov r12, [rdi + {R12}]
        mov r13, [rdi + {R13}]
        mov r14, [rdi + {R14}]
        mov r15, [rdi + {R15}]
        mov rsi, [rdi + {RSI}]
    .endm
    .macro LOAD_FROM_RDI
        LOAD_RESULT_FROM_RDI
        mov rdx, [rdi + {RDX}]
        mov r8, [rdi + {R8}]
        mov rbp, [rdi + {RBP}]
    .endm

    # --- SYSCALL: RCX = return address in the stub page, R11 = flags, RSP = the user's --------------------
    # `fastpath` comes first and jumps here for everything that it does not do.
    .global syscall_complete_ipc
    .global syscall_complete
    .align 64
    # Ipc saves what it needs and no more: where it goes on is known, the rest is lost by the interface.
    .macro IPC_ENTRY function
        mov rbp, [{CURRENT}]
        mov [rbp + {RSP}], rsp
        mov [rbp + {R9}], r9
        mov [rbp + {RAX}], rax
        mov [rbp + {RBX}], rbx
        mov [rbp + {R10}], r10
        mov [rbp + {R12}], r12
        mov [rbp + {R13}], r13
        mov [rbp + {R14}], r14
        mov [rbp + {R15}], r15
        mov [rbp + {RSI}], rsi
        mov [rbp + {RDX}], rdx
        mov [rbp + {R8}], r8
        mov qword ptr [rbp + {EXIT}], {EXIT_IPC}
        mov rdi, rbp
        mov rsp, {STACK_TOP}
        call \function
        mov rdi, rax
        jmp exit_to_user
    .endm
    syscall_complete_ipc:
        IPC_ENTRY {ipc}
    # RCX = the destination's TCB: a message in registers, the reply awaited without timeout.
    .global syscall_cross_ipc
    syscall_cross_ipc:
        IPC_ENTRY {cross}
    .global syscall_answer_ipc
    syscall_answer_ipc:
        IPC_ENTRY {answer}

    syscall_complete:
        cmp rcx, {IPC_RETURN}
        je syscall_complete_ipc
        mov [{USER_RSP}], rsp
        mov rsp, [{CURRENT}]
        SAVE_TO rsp
        mov [rsp + {RAX}], rax
        mov rax, [{USER_RSP}]
        mov [rsp + {RIP}], rcx
        mov [rsp + {RFLAGS}], r11
        mov [rsp + {RSP}], rax
        mov qword ptr [rsp + {EXIT}], {EXIT_SYSRET}
        mov rdi, rcx
        mov rsi, rsp
        mov rsp, {STACK_TOP}
        call {syscall}
        mov rdi, rax
        # falls through

    # --- out: RDI = TCB of the thread to run ---------------------------------------------------------------
    .global exit_to_user
    exit_to_user:
        cmp qword ptr [rdi + {EXIT}], {EXIT_SYSRET}
        ja 1f
        jb 2f
        LOAD_FROM_RDI
        mov rcx, [rdi + {RIP}]
        mov r11, [rdi + {RFLAGS}]
        mov rsp, [rdi + {RSP}]
        mov rdi, [rdi + {RDI}]
        sysretq
    2:
        LOAD_RESULT_FROM_RDI
        xor edx, edx
        xor r8d, r8d
        xor ebp, ebp
        mov rcx, {IPC_RETURN}
        mov r11d, {PLAIN_FLAGS}
        mov rsp, [rdi + {RSP}]
        mov rdi, [rdi + {RDI}]
        sysretq
    1:
        mov rsp, {STACK_TOP}
        push {USER_SS}
        push qword ptr [rdi + {RSP}]
        push qword ptr [rdi + {RFLAGS}]
        push {USER_CS}
        # User level chose the address. IRETQ to one that is not canonical faults in the kernel (SDM 2A, IRET), so
        # the bits above 47 are made copies of that; the thread faults where it goes then.
        mov rcx, [rdi + {RIP}]
        shl rcx, 16
        sar rcx, 16
        push rcx
        LOAD_FROM_RDI
        mov rcx, [rdi + {RCX}]
        mov r11, [rdi + {R11}]
        mov rdi, [rdi + {RDI}]
        iretq

    # --- traps at user level: stack = vector, error code, RIP, CS, RFLAGS, RSP, SS (`traps` sorts out the rest) ---
    .global trap_from_user_level
    .align 16
    trap_from_user_level:
        SAVE_TRAP 16
        mov rdi, [rsp]
        mov rsi, [rsp + 8]
        mov rdx, rax
        mov rsp, {STACK_TOP}
        call {trap_from_user}
        mov rdi, rax
        jmp exit_to_user

    # --- devices have doors of their own: stack = address of the line, RIP, CS, RFLAGS, RSP, SS ----------------------
    .global device_entries
    .align 16
    device_entries:
    .set line, 0
    .rept {MAX_DEVICES}
        .align {DEVICE_ENTRY_SIZE}
        push offset {LINES} + line * {LINE_SIZE}
        jmp device_entry
        .set line, line + 1
    .endr
    .align 16
    device_entry:
        test byte ptr [rsp + 16], 3
        jz 5f
        SAVE_TRAP 8
        mov rdi, [rsp]
        mov rsi, rax
        mov rsp, {STACK_TOP}
        call {device_from_user}
        mov rdi, rax
        jmp exit_to_user
    5:  # As the stubs of `traps` leave it: vector, then an error code.
        push rax
        mov rax, [rsp + 8]
        sub rax, offset {LINES}
        shr rax, {LINE_SHIFT}
        add rax, {DEVICES}
        mov qword ptr [rsp + 8], 0
        xchg rax, [rsp]
        jmp trap_in_kernel

    # --- the end of the idle loop, and the door of requests of other CPUs: stack = RIP, CS, RFLAGS, RSP, SS ----------
    # STI takes effect after HLT has begun, so no wake-up is lost (SDM 2B, STI). A request that finds the CPU there does
    # not return to the idle loop: nothing on the stack is needed, and who runs may be known at once.
    .global idle_sleep
    idle_sleep:
        sti
        hlt
    idle_woken:
        cli
        ret
    .global request_entry
    .align 16
    request_entry:
        # The address alone says nothing: user level may have jumped there and not have faulted yet.
        test byte ptr [rsp + 8], 3
        jnz 6f
        cmp qword ptr [rsp], offset idle_woken
        jne 6f
        mov rsp, {STACK_TOP}
        call {woken}
        mov rdi, rax
        jmp exit_to_user
    6:
        push 0
        push {REQUEST}
        jmp trap_common

    # --- page faults have a door of their own: stack = error code, RIP, CS, RFLAGS, RSP, SS ----------------------
    .global page_fault_entry
    .align 16
    page_fault_entry:
        test byte ptr [rsp + 16], 3
        jz 4f
        SAVE_TRAP 8
        mov rdi, rax
        mov rsi, cr2
        mov rdx, [rsp]
        mov rsp, {STACK_TOP}
        call {page_fault_from_user}
        mov rdi, rax
        jmp exit_to_user
    4:
        push {PAGE_FAULT}
        jmp trap_in_kernel

    "#,
    R9 = const saved(reg::R9),
    RAX = const saved(reg::RAX),
    RBX = const saved(reg::RBX),
    R10 = const saved(reg::R10),
    R12 = const saved(reg::R12),
    R13 = const saved(reg::R13),
    R14 = const saved(reg::R14),
    R15 = const saved(reg::R15),
    RDI = const saved(reg::RDI),
    RSI = const saved(reg::RSI),
    RDX = const saved(reg::RDX),
    R8 = const saved(reg::R8),
    RCX = const saved(reg::RCX),
    RBP = const saved(reg::RBP),
    R11 = const saved(reg::R11),
    RIP = const saved(reg::RIP),
    RFLAGS = const saved(reg::RFLAGS),
    RSP = const saved(reg::RSP),
    EXIT = const offset_of!(Tcb, exit),
    EXIT_IPC = const Exit::Ipc as u64,
    EXIT_SYSRET = const Exit::Sysret as u64,
    EXIT_IRET = const Exit::Iret as u64,
    IPC_RETURN = const sysret_address(SyscallNo::Ipc) as i32,
    PLAIN_FLAGS = const PLAIN_FLAGS,
    CURRENT = const cpu_field(offset_of!(PerCpu, current)),
    USER_RSP = const cpu_field(offset_of!(PerCpu, user_word)),
    USER_RAX = const cpu_field(offset_of!(PerCpu, user_word)),
    PAGE_FAULT = const vectors::PAGE_FAULT,
    STACK_TOP = const cpu_field(cpu_local::KERNEL_STACK_TOP as usize),
    USER_CS = const gdt::USER_CODE,
    USER_SS = const gdt::USER_DATA,
    syscall = sym crate::syscall::syscall_from_user,
    ipc = sym crate::syscall::ipc_from_user,
    cross = sym crate::syscall::cross_from_user,
    answer = sym crate::syscall::answer_from_user,
    trap_from_user = sym crate::trap::trap_from_user,
    page_fault_from_user = sym crate::trap::page_fault_from_user,
    REQUEST = const vectors::REQUEST,
    woken = sym crate::trap::request_while_asleep,
    device_from_user = sym crate::trap::device_from_user,
    MAX_DEVICES = const vectors::MAX_DEVICES,
    DEVICES = const vectors::DEVICES,
    DEVICE_ENTRY_SIZE = const DEVICE_ENTRY_SIZE,
    LINES = sym crate::irq::TABLE,
    LINE_SIZE = const size_of::<crate::irq::Line>(),
    LINE_SHIFT = const size_of::<crate::irq::Line>().trailing_zeros(),
);

unsafe extern "C" {
    /// SYSCALL entry.
    safe static syscall_complete: u8;
    /// SYSCALL entry with the short paths first.
    safe static syscall_short: u8;
    /// Interrupts of I/O APIC inputs, from user level and in the idle loop; [`DEVICE_ENTRY_SIZE`] bytes each.
    safe static device_entries: u8;
    /// Page faults, from user level and in the kernel.
    safe static page_fault_entry: u8;
    /// Requests of other CPUs.
    safe static request_entry: u8;
    fn idle_sleep();
    fn exit_to_user(next: u64) -> !;
}

/// RFLAGS of a thread that comes out of the Ipc stub: IF and the bit that is always set. The interface gives up the
/// arithmetic flags there.
pub const PLAIN_FLAGS: u32 = 0x202;

/// Where SYSRET returns to after `call`: behind the SYSCALL in its stub.
pub const fn sysret_address(call: SyscallNo) -> u64 {
    let code = match call {
        SyscallNo::MemoryControl => STUB_OF_MEMORY_CONTROL.len(),
        _ => STUB.len(),
    };
    crate::syscall::stub_address(call) + code as u64 - RET_LENGTH
}

const RET_LENGTH: u64 = 1;

/// SYSCALL; RET.
const STUB: [u8; 3] = [0x0F, 0x05, 0xC3];
/// MOV RBP, R11 and MOV RDI, RCX before it: SYSCALL takes R11 and RCX, in which two of MemoryControl's attributes come.
const STUB_OF_MEMORY_CONTROL: [u8; 9] = [0x4C, 0x89, 0xDD, 0x48, 0x89, 0xCF, 0x0F, 0x05, 0xC3];

/// The code of the stub of `call`. SYSRET only ever returns behind one of these.
pub fn stub_code(call: SyscallNo) -> &'static [u8] {
    match call {
        SyscallNo::MemoryControl => &STUB_OF_MEMORY_CONTROL,
        _ => &STUB,
    }
}

/// Makes SYSCALL enter the kernel on this CPU.
pub fn init(fastpath: bool) {
    let entry = if fastpath { &raw const syscall_short } else { &raw const syscall_complete };
    let star = u64::from(gdt::SYSRET_BASE) << 48 | u64::from(gdt::KERNEL_CODE) << 32;
    // Interrupts off, direction up, no single steps, no alignment checks, no nested task in the kernel.
    let mask = (RFlags::INTERRUPT_FLAG
        | RFlags::DIRECTION_FLAG
        | RFlags::TRAP_FLAG
        | RFlags::ALIGNMENT_CHECK
        | RFlags::NESTED_TASK)
        .bits();
    // SAFETY: the selectors are those of the descriptor table, the entry is `syscall_entry`.
    unsafe {
        Msr::new(STAR).write(star);
        Msr::new(LSTAR).write(entry as u64);
        Msr::new(SFMASK).write(mask);
    }
}

const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const SFMASK: u32 = 0xC000_0084;

/// Address of the code for `vector` once threads run, if that has a door of its own.
pub fn door(vector: u8) -> Option<u64> {
    let line = vector.wrapping_sub(vectors::DEVICES);
    match vector {
        vectors::PAGE_FAULT => Some(&raw const page_fault_entry as u64),
        vectors::REQUEST => Some(&raw const request_entry as u64),
        _ if line < vectors::MAX_DEVICES => {
            Some(&raw const device_entries as u64 + u64::from(line) * DEVICE_ENTRY_SIZE)
        }
        _ => None,
    }
}

const DEVICE_ENTRY_SIZE: u64 = 16;

/// Sleeps until an interrupt; the end of the idle loop. A request of another CPU does not return here.
#[inline]
pub fn sleep() {
    // SAFETY: the idle loop: nothing is half done, so interrupt handlers may return here, or never do.
    unsafe { idle_sleep() };
}

/// Leaves the kernel for the first time on this CPU.
pub fn start(next: &Tcb) -> ! {
    // SAFETY: `next` was chosen and activated by the scheduler on this CPU: its space is loaded and its saved
    // registers are complete. The present stack is abandoned, which `!` allows.
    unsafe { exit_to_user(core::ptr::from_ref(next) as u64) }
}
