//! The short paths behind SYSCALL: IPC in registers (or words only) between threads of this CPU, ThreadSwitch, the
//! clock.
//!
//! A list of checks, then the point of no return, then nothing that can fail: it does exactly what
//! `ipc::syscall` would do and can be removed without anybody noticing (`fastpath=off`). Everything unusual
//! about the *receiver* makes its key differ from the CPU's expected key; everything unusual about the *sender*
//! made the expected key [`Key::NEVER`](kcore::ipc::Key::NEVER) when it began to run. So both cost one compare.
//!
//! Conditions, in order:
//!
//! 1. the call is Ipc: the return address is that of its stub, no call number is needed;
//! 2. untyped words only, no flags: in registers (u < 8), or all 63 with a copy;
//! 3. a receive phase follows, without timeout;
//! 4. from the same thread, or from anybody while nobody is queued at the caller;
//! 5. the destination exists: its slot's id is the whole id (a local id never equals one);
//! 6. it waits on this CPU and nothing is special about it: its key is the expected key;
//! 7. it waits for the caller or for anybody.
//!
//! The send timeout does not matter: the receiver is waiting. Run queues are not touched: the caller stays
//! queued if it was, and is met later (`kcore::sched::runqueue`). The time slice goes with the CPU.
//!
//! Up to the point of no return only RCX and RBP are used, whose values are known (the return address) or lost
//! by the interface, so every check can fall back to the complete path with the caller's registers intact.

use core::arch::global_asm;
use core::mem::offset_of;

use kcore::ipc::{Awaited, State};
use kcore::layout::{CPU_LOCAL, NR_THREADS, TCB_AREA, cpu_local};
use l4abi::syscall::SyscallNo;

use super::entry::{cpu_field, saved, sysret_address};
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::{Exit, Tcb, reg};

/// What is left of two lines by the code that lies before `syscall_short`, so that it ends there.
const BEFORE_SHORT: usize = 2 * 64 - 86;

// The short paths store a zero to leave by SYSRET behind the stub.
const _: () = assert!(Exit::Ipc as u64 == 0);

/// Field of the TCB whose offset in the array is in RCX.
const fn slot(offset: usize) -> i32 {
    (TCB_AREA.as_u64().wrapping_add(offset as u64)) as i32
}

/// An id shifted right by this is its thread number times the size of a TCB, with some of the version below.
const ID_TO_SLOT: u32 = 32 - 12;
/// Keeps the offset in the array.
const SLOT_MASK: u64 = (NR_THREADS - 1) << 12;

/// Tag bits that must be clear for a message in registers: u of 8 and more, t, flags.
const NOT_IN_REGISTERS: u32 = 0xFFF8;
/// Tag bits that must be clear for a message of words: t, flags.
const NOT_ONLY_WORDS: u32 = 0xFFC0;
/// The first message word that is in memory, in bytes from MR0.
const FIRST_IN_MEMORY: usize = 8 * 8;

global_asm!(
    r#"
    # Fields of the CPU block are a byte shorter by their distance than by their address. The assembler takes a
    # constant there for the distance itself, so the linker (`kernel.ld`) gives `cpu_block` this value.
    .global cpu_block_address
    .set cpu_block_address, {CPU_BLOCK}

    # The checks. \kind is the message's; jumps to the complete path with nothing changed, or to \special if the
    # receiver does not just wait. RBP = the caller's id, RCX = the receiver's TCB behind them.
    .macro IPC_CHECKS kind, special
        test r8w, r8w                       # 3
        jnz ipc_\kind\()_otherwise
        cmp rdx, rsi                        # 4
        jne ipc_\kind\()_from_other
    ipc_\kind\()_from_checked:
        mov rcx, rsi                        # 5
        shr rcx, {ID_TO_SLOT}
        and ecx, {SLOT_MASK}
        lea rcx, [rcx + {SLOT}]
        cmp [rcx + {ID}], rsi
        jne ipc_\kind\()_otherwise
        mov rbp, [rip + cpu_block + {FROM_BLOCK_EXPECTED_KEY}]   # 6
        cmp [rcx + {KEY}], rbp
        jne \special
        mov rbp, [rip + cpu_block + {FROM_BLOCK_CURRENT_ID}]     # 7
        cmp [rcx + {AWAITED}], rbp
        jne ipc_\kind\()_awaits_other
    .endm

    # What is rare among the checks.
    .macro IPC_CHECKS_ASIDE kind
    ipc_\kind\()_from_other:
        cmp rdx, {ANY}
        jne ipc_\kind\()_otherwise
        mov rbp, [rip + cpu_block + {FROM_BLOCK_CURRENT}]
        cmp qword ptr [rbp + {SENDERS}], 0
        je ipc_\kind\()_from_checked
        jmp ipc_\kind\()_otherwise
    ipc_\kind\()_awaits_other:
        cmp qword ptr [rcx + {AWAITED}], {ANY}
        je ipc_\kind\()_commit
    ipc_\kind\()_otherwise:
        jmp syscall_complete_ipc
    .endm

    # The switch. RBP = the caller's id, RCX = the receiver's TCB, R11 = the caller's TCB.
    .macro IPC_SWITCH kind
        mov [r11 + {AWAITED}], rdx
        mov byte ptr [r11 + {KEY}], {WAITING}
        mov [r11 + {RSP}], rsp
        xor r8d, r8d
        mov [r11 + {EXIT}], r8
        mov byte ptr [rcx + {KEY}], {READY}
        mov [rip + cpu_block + {FROM_BLOCK_CURRENT}], rcx
        mov [rip + cpu_block + {FROM_BLOCK_CURRENT_ID}], rsi
        mov rdi, [rcx + {LOCAL_ID}]
        mov [rip + cpu_block + {FROM_BLOCK_USER_WORD}], rdi
        mov rsi, rbp
        mov rsp, [rcx + {RSP}]
        mov rdx, [rcx + {ROOT}]
        cmp rdx, [rip + cpu_block + {FROM_BLOCK_LOADED_ROOT}]
        je ipc_\kind\()_in_one_space
        mov [rip + cpu_block + {FROM_BLOCK_LOADED_ROOT}], rdx
        mov cr3, rdx
    ipc_\kind\()_leave:
        mov rcx, {IPC_RETURN}
        mov r11d, {PLAIN_FLAGS}
        xor edx, edx
        sysretq
    ipc_\kind\()_in_one_space:  # The sender is named by its local id.
        mov rsi, [r11 + {LOCAL_ID}]
        jmp ipc_\kind\()_leave
    .endm

    # The path of a message in registers to another space is the three lines from `syscall_short`; what is rare lies
    # before and behind them, where short jumps reach it.
    .align 64
    .skip {BEFORE_SHORT}, 0xCC
    # The clock: what `syscall::clock` computes. The fence keeps the counter from being read before what the program
    # read before it, such as a time that another CPU left in memory.
    not_ipc:
        cmp rcx, {CLOCK_RETURN}
        jne not_clock
        lfence
        rdtsc
        shl rdx, 32
        or rax, rdx
        sub rax, [{TSC_ZERO}]
        mul qword ptr [{US_PER_TICK}]
        shrd rax, rdx, {CLOCK_SHIFT}
        sysretq

    IPC_CHECKS_ASIDE registers

    .global syscall_short
    .align 64
    syscall_short:
        cmp rcx, {IPC_RETURN}               # 1
        jne not_ipc
        test r9d, {NOT_IN_REGISTERS}        # 2
        jnz ipc_words
        IPC_CHECKS registers, syscall_cross_ipc
    ipc_registers_commit:
        # ---- point of no return ----
        mov r11, [rip + cpu_block + {FROM_BLOCK_CURRENT}]
        IPC_SWITCH registers

    # ThreadSwitch to a ready thread of this CPU, nothing special about either, the caller in the run queue already.
    # The interface gives up all registers but RSP, so only where the caller goes on is saved.
    not_clock:
        cmp rcx, {SWITCH_RETURN}
        jne syscall_complete
        mov rcx, rdi
        shr rcx, {ID_TO_SLOT}
        and ecx, {SLOT_MASK}
        cmp [rcx + {SLOT_ID}], rdi
        jne syscall_complete_switch
        mov r8, [{EXPECTED_KEY}]
        sub r8, {WAITING} - {READY}
        cmp [rcx + {SLOT_KEY}], r8
        jne syscall_complete_switch
        mov rbp, [{CURRENT}]
        cmp qword ptr [rbp + {READY_NEXT}], 0
        je syscall_complete_switch
        # ---- point of no return ----
        mov [rbp + {RSP}], rsp
        mov [rbp + {RFLAGS}], r11
        mov qword ptr [rbp + {RIP}], {SWITCH_RETURN}
        mov qword ptr [rbp + {EXIT}], {EXIT_SYSRET}
        mov [{CURRENT_ID}], rdi
        lea rdi, [rcx + {SLOT}]
        mov [{CURRENT}], rdi
        mov rax, [rdi + {LOCAL_ID}]
        mov [{USER_WORD}], rax
        mov rax, [rdi + {ROOT}]
        cmp rax, [{LOADED_ROOT}]
        je exit_to_user
        mov [{LOADED_ROOT}], rax
        mov cr3, rax
        jmp exit_to_user

    syscall_complete_switch:
        mov rcx, {SWITCH_RETURN}
        jmp syscall_complete

    .align 64
    ipc_words:
        test r9d, {NOT_ONLY_WORDS}
        jnz syscall_answer_ipc
        IPC_CHECKS words, syscall_answer_ipc
    ipc_words_commit:
        # ---- point of no return ----
        mov r11, [rip + cpu_block + {FROM_BLOCK_CURRENT}]
        # The words in memory: MR8 to MRu.
        mov r8, rcx
        mov rsi, [r11 + {UTCB}]
        mov rdi, [rcx + {UTCB}]
        add rsi, {FIRST_IN_MEMORY}
        add rdi, {FIRST_IN_MEMORY}
        mov ecx, r9d
        and ecx, 63
        sub ecx, 7
        rep movsq
        mov rcx, r8
        mov rsi, [rcx + {ID}]
        IPC_SWITCH words

    IPC_CHECKS_ASIDE words
    "#,
    ID_TO_SLOT = const ID_TO_SLOT,
    SLOT_MASK = const SLOT_MASK,
    NOT_IN_REGISTERS = const NOT_IN_REGISTERS,
    NOT_ONLY_WORDS = const NOT_ONLY_WORDS,
    FIRST_IN_MEMORY = const FIRST_IN_MEMORY,
    ANY = const Awaited::ANY.0 as i64,
    SLOT = const slot(0),
    SLOT_ID = const slot(offset_of!(Tcb, id)),
    SLOT_KEY = const slot(offset_of!(Tcb, key)),
    ID = const offset_of!(Tcb, id),
    KEY = const offset_of!(Tcb, key),
    AWAITED = const offset_of!(Tcb, awaited),
    LOCAL_ID = const offset_of!(Tcb, local_id),
    UTCB = const offset_of!(Tcb, utcb),
    ROOT = const offset_of!(Tcb, root),
    EXIT = const offset_of!(Tcb, exit),
    RSP = const saved(reg::RSP),
    SENDERS = const offset_of!(Tcb, senders),
    WAITING = const State::Waiting as u8,
    READY = const State::Ready as u8,
    BEFORE_SHORT = const BEFORE_SHORT,
    CPU_BLOCK = const CPU_LOCAL.as_u64() as i64,
    FROM_BLOCK_CURRENT = const offset_of!(PerCpu, current),
    FROM_BLOCK_CURRENT_ID = const offset_of!(PerCpu, current_id),
    FROM_BLOCK_EXPECTED_KEY = const offset_of!(PerCpu, expected_key),
    FROM_BLOCK_LOADED_ROOT = const offset_of!(PerCpu, root),
    FROM_BLOCK_USER_WORD = const cpu_local::USER_WORD_ALIAS,
    CURRENT = const cpu_field(offset_of!(PerCpu, current)),
    CURRENT_ID = const cpu_field(offset_of!(PerCpu, current_id)),
    EXPECTED_KEY = const cpu_field(offset_of!(PerCpu, expected_key)),
    LOADED_ROOT = const cpu_field(offset_of!(PerCpu, root)),
    USER_WORD = const (CPU_LOCAL.as_u64() + cpu_local::USER_WORD_ALIAS) as i32,
    IPC_RETURN = const sysret_address(SyscallNo::Ipc) as i32,
    SWITCH_RETURN = const sysret_address(SyscallNo::ThreadSwitch) as i32,
    READY_NEXT = const offset_of!(Tcb, ready_link),
    RIP = const saved(reg::RIP),
    RFLAGS = const saved(reg::RFLAGS),
    EXIT_SYSRET = const Exit::Sysret as u64,
    CLOCK_RETURN = const sysret_address(SyscallNo::SystemClock) as i32,
    TSC_ZERO = const cpu_field(offset_of!(PerCpu, tsc_zero)),
    US_PER_TICK = const cpu_field(offset_of!(PerCpu, us_per_tick)),
    CLOCK_SHIFT = const crate::time::SHIFT,
    PLAIN_FLAGS = const super::entry::PLAIN_FLAGS,
);
