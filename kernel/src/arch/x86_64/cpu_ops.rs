//! Single instructions with a safe face, and the ways out.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

use l4abi::marker::interrupt::{self, AtHandler};
use l4abi::marker::{self, Op};
use l4abi::syscall::debug_exit;
use x86_64::instructions::port::Port;

/// Values for [`exit`] (docs/design/architecture.md, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All went well.
    Success = debug_exit::SUCCESS as u8,
    /// Kernel tests failed.
    TestsFailed = debug_exit::FAILED as u8,
    /// The kernel panicked or refused to boot.
    Panic = debug_exit::KERNEL_PANIC as u8,
}

/// Tells the placement instrument which CPU this is (docs/design/instrument.md); nothing elsewhere.
pub fn announce(cpu: u32) {
    // SAFETY: the marker is a no-op; it is the target of a jump because it has an argument.
    unsafe {
        asm!("jmp 2f", "2: .byte 0x0f, 0x1f, 0x80", ".long {}", const marker::imm(Op::Hello, 0),
             in("rdi") u64::from(cpu), options(nostack, preserves_flags));
    }
}

/// Copies `count` words that other processors may change meanwhile: each is read and written whole, once.
///
/// # Safety
/// Both runs of words are mapped, the target writably, and nothing in Rust refers to the target but as atomics.
#[inline(always)]
pub unsafe fn copy_words(from: *const AtomicU64, to: *const AtomicU64, count: usize) {
    // SAFETY: by the caller; the direction flag is clear in the kernel.
    unsafe {
        asm!("rep movsq", inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
             options(nostack, preserves_flags));
    }
}

/// A marker for the placement instrument, without arguments.
macro_rules! mark {
    ($op:ident, $id:expr) => {
        // SAFETY: a no-op.
        unsafe {
            asm!(".byte 0x0f, 0x1f, 0x80", ".long {}", const marker::imm(Op::$op, $id),
                 options(nostack, preserves_flags));
        }
    };
}

/// An interrupt that is measured is about to be sent: `region` (`l4abi::marker::interrupt`) begins.
#[inline(always)]
pub fn mark_sent(region: u64) {
    match u16::try_from(region) {
        Ok(interrupt::DELIVERY) => mark!(BeginAll, interrupt::DELIVERY),
        Ok(interrupt::WHOLE) => mark!(BeginAll, interrupt::WHOLE),
        _ => {}
    }
}

/// It has come to its handler.
#[inline(always)]
pub fn mark_handled(what: AtHandler) {
    match what {
        AtHandler::Nothing => {}
        AtHandler::Delivered => mark!(EndAll, interrupt::DELIVERY),
        AtHandler::Returns => mark!(Begin, interrupt::RETURN),
    }
}

/// Leaves the emulator; a real machine stops here.
pub fn exit(code: ExitCode) -> ! {
    // SAFETY: the marker is a no-op; it makes the placement instrument write its results.
    unsafe {
        asm!(".byte 0x0f, 0x1f, 0x80", ".long {}", const marker::imm(Op::SimEnd, 0),
             options(nostack, preserves_flags));
    }
    // SAFETY: the debug-exit device ends the machine; where it is absent the port decodes to nothing.
    unsafe { Port::new(debug_exit::PORT).write(code as u8) };
    halt()
}

/// Resets the machine by the chip set's reset control register.
#[cfg(feature = "kdb")]
pub fn reset() -> ! {
    const RESET_CONTROL: u16 = 0xcf9;
    const COLD_RESET: u8 = 6;
    // SAFETY: ends everything; where the register is absent the port decodes to nothing.
    unsafe { Port::new(RESET_CONTROL).write(COLD_RESET) };
    halt()
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Time-stamp counter, not ordered with surrounding instructions.
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter; CR4.TSD does not concern the kernel.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Time-stamp counter, read after everything before has happened and before anything behind begins (SDM 2B, RDTSC).
/// Where LFENCE does not wait (AMD processors on which firmware left it so) the order is as loose as [`rdtsc`]'s.
pub fn rdtsc_in_order() -> u64 {
    use core::arch::x86_64::_mm_lfence;
    // SAFETY: fences and a counter; every 64-bit processor has SSE2.
    unsafe {
        _mm_lfence();
        let now = core::arch::x86_64::_rdtsc();
        _mm_lfence();
        now
    }
}

/// The caller's frame pointer, where a backtrace starts.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let rbp: u64;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    rbp
}
