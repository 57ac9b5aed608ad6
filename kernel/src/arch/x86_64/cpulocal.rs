//! The few things of the CPU-local window that change with the running thread.

use core::arch::asm;

use kcore::layout::{CPU_LOCAL, cpu_local};
use kcore::types::VirtAddr;

/// What `gs:0` shows at user level: the address of MR0 of the running thread.
#[inline]
pub fn set_user_word(value: u64) {
    let at = (CPU_LOCAL.as_u64() + cpu_local::USER_WORD_ALIAS) as *mut u64;
    // SAFETY: the kernel's alias of the user word page, mapped on every CPU; user level only reads it.
    unsafe { at.write_volatile(value) };
}

/// Switches to another root table of this CPU.
#[inline]
pub fn load_root(root: u64) {
    // SAFETY: every root table of a space has the upper half of the CPU it was made for, and is loaded only
    // there; the kernel's own mappings do not change.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Forgets this CPU's translation of one page.
#[inline]
pub fn forget_page(at: VirtAddr) {
    // SAFETY: dropping a cached translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) at.as_u64(), options(nostack, preserves_flags)) };
}

/// Lets pending interrupts in.
#[inline]
pub fn interrupt_window() {
    // SAFETY: nothing is half done; called only between bounded steps of a long operation.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}
