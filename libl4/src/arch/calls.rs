//! The system call stubs (ref 4.3 to 4.12).

use super::LINKS;
use core::arch::naked_asm;
use l4abi::SyscallNo;

/// Saves what the C convention wants kept and a system call may lose.
macro_rules! save {
    () => {
        "push rbx\n push rbp\n push r12\n push r13\n push r14\n push r15"
    };
}

macro_rules! restore {
    () => {
        "pop r15\n pop r14\n pop r13\n pop r12\n pop rbp\n pop rbx"
    };
}

/// Loads MR1 to MR7 into their registers; RDI is the UTCB pointer (address of MR0).
macro_rules! load_words {
    () => {
        "mov rax, [rdi + 8]\n mov rbx, [rdi + 16]\n mov r10, [rdi + 24]\n mov r12, [rdi + 32]\n \
         mov r13, [rdi + 40]\n mov r14, [rdi + 48]\n mov r15, [rdi + 56]"
    };
}

/// Stores MR1 to MR7 from their registers.
macro_rules! store_words {
    () => {
        "mov [rdi + 8], rax\n mov [rdi + 16], rbx\n mov [rdi + 24], r10\n mov [rdi + 32], r12\n \
         mov [rdi + 40], r13\n mov [rdi + 48], r14\n mov [rdi + 56], r15"
    };
}

/// A stub that passes five words in RDI, RSI, RDX, R8, R9 and returns RAX and RDX.
macro_rules! five_words {
    ($(#[$meta:meta])* $name:ident, $call:ident) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub extern "C" fn $name(a: u64, b: u64, c: u64, d: u64, e: u64) -> Pair {
            naked_asm!(
                save!(),
                "mov r9, r8",
                "mov r8, rcx",
                "call qword ptr [rip + {links} + 8 * {call}]",
                restore!(),
                "ret",
                links = sym LINKS,
                call = const SyscallNo::$call as u32,
            )
        }
    };
}

/// Two result words.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// RAX.
    pub rax: u64,
    /// RDX.
    pub rdx: u64,
}

/// Which of the two IPC links to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpcLink {
    /// Ipc.
    Ipc,
    /// Lipc: both threads are in one space.
    Lipc,
}

/// IPC on the message registers in the UTCB. Returns the raw from id; MR0 tells of errors.
#[must_use]
pub fn ipc(link: IpcLink, to: u64, from: u64, timeouts: u64) -> u64 {
    match link {
        IpcLink::Ipc => raw_ipc(to, from, timeouts),
        IpcLink::Lipc => raw_lipc(to, from, timeouts),
    }
}

macro_rules! ipc_stub {
    ($name:ident, $call:ident) => {
        #[unsafe(naked)]
        extern "C" fn $name(to: u64, from: u64, timeouts: u64) -> u64 {
            naked_asm!(
                save!(),
                "mov r8, rdx",
                "mov rdx, rsi",
                "mov rsi, rdi",
                "mov rdi, qword ptr gs:[0]",
                "mov r9, [rdi]",
                "test r9d, 0xFFF", // u and t
                "jz 2f",
                load_words!(),
                "3:",
                "call qword ptr [rip + {links} + 8 * {call}]",
                "mov [rdi], r9",
                "test r9d, 0xFFF",
                "jz 4f",
                store_words!(),
                "4:",
                "mov rax, rsi",
                restore!(),
                "ret",
                // Nothing is sent in these registers, but the partner gets them.
                "2:",
                "xor eax, eax\n xor ebx, ebx\n xor r10d, r10d\n xor r12d, r12d\n xor r13d, r13d\n \
                 xor r14d, r14d\n xor r15d, r15d",
                "jmp 3b",
                links = sym LINKS,
                call = const SyscallNo::$call as u32,
            )
        }
    };
}

ipc_stub!(raw_ipc, Ipc);
ipc_stub!(raw_lipc, Lipc);

/// Unmap of the fpages in MR0.. (ref 4.9); the results replace them.
#[unsafe(naked)]
pub extern "C" fn unmap(control: u64) {
    naked_asm!(
        save!(),
        "mov rdx, rdi",
        "mov rdi, qword ptr gs:[0]",
        "mov r9, [rdi]",
        load_words!(),
        "call qword ptr [rip + {links} + 8 * {call}]",
        "mov [rdi], r9",
        store_words!(),
        restore!(),
        "ret",
        links = sym LINKS,
        call = const SyscallNo::Unmap as u32,
    )
}

/// MemoryControl of the fpages in MR0.. (ref 4.12). Returns the result word. The message registers
/// are undefined afterwards.
#[unsafe(naked)]
pub extern "C" fn memory_control(control: u64, attributes: &[u64; 4]) -> u64 {
    naked_asm!(
        save!(),
        "mov rdx, rdi",
        "mov rcx, rsi",
        "mov rsi, [rcx + 8]",
        "mov r8, [rcx + 16]",
        "mov r11, [rcx + 24]",
        "mov rcx, [rcx]",
        "mov rdi, qword ptr gs:[0]",
        "mov r9, [rdi]",
        load_words!(),
        "call qword ptr [rip + {links} + 8 * {call}]",
        "mov rax, rdx",
        restore!(),
        "ret",
        links = sym LINKS,
        call = const SyscallNo::MemoryControl as u32,
    )
}

/// Registers of ExchangeRegisters, in and out (ref 4.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ExregsFrame {
    /// dest, then the result.
    pub rax_dest: u64,
    /// Control.
    pub rsi_control: u64,
    /// SP.
    pub rdx_sp: u64,
    /// IP.
    pub r8_ip: u64,
    /// FLAGS.
    pub r9_flags: u64,
    /// UserDefinedHandle.
    pub r10_handle: u64,
    /// Pager.
    pub rdi_pager: u64,
}

/// ExchangeRegisters.
#[unsafe(naked)]
pub extern "C" fn exchange_registers(frame: &mut ExregsFrame) {
    naked_asm!(
        save!(),
        "push rdi",
        "mov rax, [rdi]",
        "mov rsi, [rdi + 8]",
        "mov rdx, [rdi + 16]",
        "mov r8, [rdi + 24]",
        "mov r9, [rdi + 32]",
        "mov r10, [rdi + 40]",
        "mov rdi, [rdi + 48]",
        "call qword ptr [rip + {links} + 8 * {call}]",
        "pop r11",
        "mov [r11], rax",
        "mov [r11 + 8], rsi",
        "mov [r11 + 16], rdx",
        "mov [r11 + 24], r8",
        "mov [r11 + 32], r9",
        "mov [r11 + 40], r10",
        "mov [r11 + 48], rdi",
        restore!(),
        "ret",
        links = sym LINKS,
        call = const SyscallNo::ExchangeRegisters as u32,
    )
}

/// SystemClock: microseconds.
#[must_use]
#[unsafe(naked)]
pub extern "C" fn system_clock() -> u64 {
    naked_asm!(
        save!(),
        "call qword ptr [rip + {links} + 8 * {call}]",
        restore!(),
        "ret",
        links = sym LINKS,
        call = const SyscallNo::SystemClock as u32,
    )
}

/// ThreadSwitch.
#[unsafe(naked)]
pub extern "C" fn thread_switch(dest: u64) {
    naked_asm!(
        save!(),
        "call qword ptr [rip + {links} + 8 * {call}]",
        restore!(),
        "ret",
        links = sym LINKS,
        call = const SyscallNo::ThreadSwitch as u32,
    )
}

five_words!(
    /// ThreadControl: dest, pager, scheduler, space specifier, UTCB location.
    thread_control,
    ThreadControl
);
five_words!(
    /// SpaceControl: specifier, control, KIP area, UTCB area, redirector. RDX is the old control.
    space_control,
    SpaceControl
);
five_words!(
    /// Schedule: dest, priority, time, processor, preemption control. RDX is the old time control.
    schedule,
    Schedule
);
five_words!(
    /// ProcessorControl: processor, internal kHz, external kHz, voltage; the fifth word is unused.
    processor_control,
    ProcessorControl
);
