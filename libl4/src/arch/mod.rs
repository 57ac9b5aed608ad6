//! Everything that needs assembly or raw memory: start-up, system call stubs, UTCB and KIP access,
//! debugger calls, ports, thread trampoline, stacks, the heap's memory.
//!
//! The stubs follow the convention of ref 4.1: a call through the link in the KIP may lose every
//! register but RSP, RBX and RBP included. LLVM cannot name those as operands, so each stub is a
//! naked function with the C convention that saves the callee-saved registers around the call.

#[cfg(target_os = "none")]
mod area;
mod calls;
mod cell;
#[cfg(any(test, target_os = "none"))]
mod classes;
#[cfg(target_os = "none")]
pub(crate) mod heap;
pub mod marker;
mod memory;
pub mod probe;
pub mod timing;

#[cfg(target_os = "none")]
pub use area::{Area, Owned};
pub use calls::{
    ExregsFrame, IpcLink, Pair, exchange_registers, ipc, memory_control, processor_control,
    schedule, space_control, system_clock, thread_control, thread_switch, unmap,
};
pub use cell::{Stack, StackTop};
pub use memory::{clear_memory, copy_memory, module_bytes, write_memory};

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::Utcb;
use l4abi::ext::{CpuCounter, MemoryCounter, NO_COUNTER};
use l4abi::syscall::COUNT;
#[cfg(target_os = "none")]
use l4abi::syscall::debugger;

/// The addresses behind the KIP's links, copied once at start-up.
pub(crate) static LINKS: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

/// Size of the first thread's stack.
#[cfg(target_os = "none")]
const START_STACK_SIZE: usize = 64 * 1024;

#[cfg(target_os = "none")]
static START_STACK: Stack<START_STACK_SIZE> = Stack::new();

/// Entry point of every program: no stack, no arguments, registers undefined (ref 7.1).
#[cfg(target_os = "none")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "lea rsp, [rip + {stack} + {size}]",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        stack = sym START_STACK,
        size = const START_STACK_SIZE,
        start = sym start_in_rust,
    )
}

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// Defined by [`crate::entry!`].
    safe fn lokal_main() -> !;
}

#[cfg(target_os = "none")]
extern "C" fn start_in_rust() -> ! {
    crate::start::init();
    lokal_main()
}

/// An Enter (ref 7.4) with the message in a static that ends with NUL: a trap that preserves everything, then a jump over
/// a MOV that is never executed and holds the address of the message. With `$nop` it only prints.
#[cfg(target_os = "none")]
macro_rules! debugger_enter {
    ($word:ident, $($nop:literal)?) => {
        // SAFETY: the kernel's debugger call changes no register and no memory of the program.
        unsafe {
            asm!("int3", $($nop,)? ".byte 0xeb, 7, 0x48, 0xc7, 0xc0", ".long {word}",
                 word = sym $word, options(nostack, preserves_flags));
        }
    };
}

/// Says to a kernel that keeps a trace that the run is about to end, so that it prints it.
#[cfg(target_os = "none")]
pub(crate) fn announce_leaving() {
    static WORD: [u8; 8] = *debugger::LEAVING;
    debugger_enter!(WORD, "nop");
}

/// Enters the kernel's debugger, if it has one; otherwise the kernel says who asked and goes on.
#[cfg(target_os = "none")]
pub fn enter_debugger() {
    static WORD: [u8; 16] = *b"debugger wanted\0";
    debugger_enter!(WORD,);
}

/// On the host there is no kernel.
#[cfg(not(target_os = "none"))]
pub(crate) fn announce_leaving() {}

/// On the host there is no kernel.
#[cfg(not(target_os = "none"))]
pub fn enter_debugger() {}

/// What the KernelInterface instruction returns (ref 4.2).
#[derive(Clone, Copy, Debug)]
pub struct KernelInterface {
    /// KIP base address in this space.
    pub kip: u64,
    /// ApiVersion.
    pub api_version: u64,
    /// ApiFlags.
    pub api_flags: u64,
    /// KernelId.
    pub kernel_id: u64,
}

/// Executes `lock; nop`, which the kernel recognises.
#[must_use]
pub fn kernel_interface() -> KernelInterface {
    let (kip, api_version, api_flags, kernel_id);
    // SAFETY: the kernel answers the invalid instruction F0 90 by filling these four registers and
    // skipping it; all others and memory stay as they are (ref 4.2).
    unsafe {
        asm!(".byte 0xf0, 0x90", out("rax") kip, out("rcx") api_version, out("rdx") api_flags,
             out("rsi") kernel_id, options(nomem, nostack, preserves_flags));
    }
    KernelInterface { kip, api_version, api_flags, kernel_id }
}

/// The words of the KIP area at `base`.
pub(crate) fn kip_words(base: u64) -> &'static [u64] {
    let area_info =
        base as usize + core::mem::offset_of!(l4abi::kip::KernelInterfacePage, kip_area_info);
    // SAFETY: `base` comes from the kernel; the KIP area is mapped readable and never changes for
    // the life of the space, at least one page of it and 2^s bytes in all (ref 3).
    unsafe {
        let log2 = *(area_info as *const u64) & 0x3F;
        core::slice::from_raw_parts(base as *const u64, (1usize << log2.clamp(12, 20)) / 8)
    }
}

/// The UTCB of the running thread.
#[must_use]
pub fn utcb() -> &'static Utcb {
    let mr0: usize;
    // SAFETY: the word at gs:0 is readable and constant for a thread (ref 2.3).
    unsafe {
        asm!("mov {}, qword ptr gs:[0]", out(reg) mr0, options(pure, nomem, nostack, preserves_flags));
    }
    utcb_at(mr0)
}

/// The UTCB whose MR0 lies at `mr0`; only for addresses of threads of this space.
fn utcb_at(mr0: usize) -> &'static Utcb {
    // SAFETY: MR0 lies 512 bytes into a block that the kernel keeps present and writable as long as
    // the thread lives (ref 2.2); all its words are atomics, so sharing it is sound.
    unsafe { &*((mr0 - l4abi::utcb::MR0_OFFSET) as *const Utcb) }
}

/// Prints the NUL-terminated string at the start of `text` with the debugger call (ref 7.4).
/// Without a NUL nothing is printed.
pub fn print_cstr(text: &[u8]) {
    if !text.contains(&0) {
        return;
    }
    // SAFETY: `int3; cmp al, 1` makes the kernel read the NUL-terminated string at RAX and changes
    // no register; the comparison changes flags.
    unsafe {
        asm!(".byte 0xcc, 0x3c, 0x01", in("rax") text.as_ptr(), options(readonly, nostack));
    }
}

/// Reads a character from the kernel's console without waiting.
#[must_use]
pub fn read_char() -> Option<u8> {
    let mut c: u64 = 0;
    // SAFETY: `int3; cmp al, 8` changes AL only (ref 7.4); the comparison changes flags.
    unsafe {
        asm!(".byte 0xcc, 0x3c, 0x08", inout("rax") c, options(nomem, nostack));
    }
    let byte = c as u8;
    (byte != 0xFF).then_some(byte)
}

/// A counter of the kernel memory of a node; `None` if the node has none. See [`l4abi::ext`].
#[must_use]
pub fn kernel_memory(node: l4abi::NodeId, counter: MemoryCounter) -> Option<u64> {
    let mut value: u64 = 0;
    // SAFETY: `int3; cmp al, 0x4d` changes RAX only; the comparison changes flags.
    unsafe {
        asm!(".byte 0xcc, 0x3c, 0x4d", inout("rax") value, in("rdi") u64::from(node.0),
             in("rsi") u64::from(counter.raw()), options(nomem, nostack));
    }
    (value != NO_COUNTER).then_some(value)
}

/// A counter of a processor's traffic with others; `None` if it is not up. See [`l4abi::ext`].
#[must_use]
pub fn cpu_counter(cpu: l4abi::CpuId, counter: CpuCounter) -> Option<u64> {
    let mut value: u64 = 0;
    // SAFETY: `int3; cmp al, 0x4e` changes RAX only; the comparison changes flags.
    unsafe {
        asm!(".byte 0xcc, 0x3c, 0x4e", inout("rax") value, in("rdi") u64::from(cpu.0),
             in("rsi") u64::from(counter.raw()), options(nomem, nostack));
    }
    (value != NO_COUNTER).then_some(value)
}

/// Lets the kernel look where everything lies; it prints a `placement` record. How many things are on another node than they
/// should be; `None` unless the kernel option `placement_check` allows it, or while another thread asks.
pub fn check_placement() -> Option<u64> {
    let mut value: u64 = 0;
    // SAFETY: `int3; cmp al, 0x52` changes RAX only; the comparison changes flags.
    unsafe { asm!(".byte 0xcc, 0x3c, 0x52", inout("rax") value, options(nomem, nostack)) };
    (value != NO_COUNTER).then_some(value)
}

/// Writes a byte to an I/O port. Without permission this raises an I/O fault to the pager.
pub fn port_write(port: u16, value: u8) {
    // SAFETY: a port write has no effect on this program's memory; what the device does with it is
    // the business of who got the port from sigma0.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

/// Reads a byte from an I/O port. Without permission this raises an I/O fault to the pager.
#[must_use]
pub fn port_read(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as for `port_write`.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    }
    value
}

/// The time stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is allowed at user level (ref 4.1) and only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Touches a byte: reads it, so that an absent page is faulted in.
///
/// For memory that may be absent this is how a program provokes a fault on purpose.
#[must_use]
pub fn touch_read(addr: u64) -> u8 {
    let value: u8;
    // SAFETY: the read is opaque to the compiler; if nothing is mapped at `addr` the pager hears of
    // it. The value is only returned.
    unsafe {
        asm!("mov {}, byte ptr [{}]", out(reg_byte) value, in(reg) addr, options(readonly, nostack, preserves_flags))
    }
    value
}

/// First and last address of the program's image, its bss included.
#[cfg(target_os = "none")]
#[must_use]
pub fn image_range() -> (u64, u64) {
    unsafe extern "C" {
        static __image_start: u8;
        static __image_end: u8;
    }
    // Linker symbols: only their addresses mean anything.
    (&raw const __image_start as u64, &raw const __image_end as u64 - 1)
}

/// On the host (tests of pure parts) there is no image; everything counts as one.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn image_range() -> (u64, u64) {
    (0, u64::MAX)
}

/// Writes a word that belongs to no Rust object (a page of a window, a device).
///
/// # Panics
/// If `addr` lies in the program's image or in its heap.
pub fn poke(addr: u64, value: u64) {
    let (first, last) = image_range();
    assert!(addr.wrapping_add(7) < first || addr > last, "poke into the image");
    #[cfg(target_os = "none")]
    assert!(!heap::contains(addr, 8), "poke into the heap");
    // SAFETY: the address is outside of everything that Rust objects live in (image with stacks,
    // heap); UTCBs consist of atomics; if nothing is mapped there the pager hears of it.
    unsafe {
        asm!("mov qword ptr [{}], {}", in(reg) addr, in(reg) value, options(nostack, preserves_flags))
    }
}

/// Reads a word that belongs to no Rust object.
#[must_use]
pub fn peek(addr: u64) -> u64 {
    let value;
    // SAFETY: as for `touch_read`.
    unsafe {
        asm!("mov {}, qword ptr [{}]", out(reg) value, in(reg) addr, options(readonly, nostack, preserves_flags))
    }
    value
}

/// A word that several threads or programs use, at an address that belongs to no Rust object.
///
/// # Panics
/// If it lies in the program's image or heap, or is not aligned.
#[must_use]
pub fn shared_word(addr: u64) -> &'static AtomicU64 {
    let (first, last) = image_range();
    assert!(addr.wrapping_add(7) < first || addr > last, "a shared word in the image");
    #[cfg(target_os = "none")]
    assert!(!heap::contains(addr, 8), "a shared word in the heap");
    assert!(addr != 0 && addr.is_multiple_of(8), "a shared word must be aligned");
    // SAFETY: aligned, outside of everything that Rust objects live in, and only ever an atomic; if
    // nothing is mapped there the pager hears of it.
    unsafe { &*(addr as *const AtomicU64) }
}

/// First code of a thread made by [`crate::thread`]: takes the entry function and its argument from
/// the stack, where [`StackTop::prepare`] put them.
#[unsafe(naked)]
extern "C" fn trampoline() -> ! {
    naked_asm!(
        "pop rax",
        "pop rdi",
        "xor ebp, ebp",
        "and rsp, -16",
        "call rax",
        "call {ended}",
        "ud2",
        ended = sym thread_ended,
    )
}

extern "C" fn thread_ended() -> ! {
    crate::thread::sleep_forever()
}

/// Address of [`trampoline`], the IP to start a prepared thread with.
#[must_use]
pub fn trampoline_ip() -> u64 {
    trampoline as *const () as u64
}

pub(crate) fn store_link(index: usize, addr: u64) {
    LINKS[index].store(addr, Ordering::Relaxed);
}
