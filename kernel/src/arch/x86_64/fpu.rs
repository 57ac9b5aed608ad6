//! Extended processor state: XSAVE where the CPU has it, FXSAVE otherwise.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::registers::control::{Cr0, Cr0Flags};

use crate::thread::tcb::{FPU_AREA, FpuArea};
use crate::util::sealed;

/// x87, SSE, AVX, AVX-512: components of XCR0 that user programs get where they fit into a TCB.
const SSE: u64 = 0b11;
const AVX: u64 = 0b111;
const AVX512: u64 = 0b1110_0111;

sealed! {
    /// Components in use; 0 = FXSAVE.
    static COMPONENTS: AtomicU64 = AtomicU64::new(0);
}

/// Chooses components and turns them on for this CPU. CR4.OSXSAVE is set if the CPU has it.
pub fn init(xsave: bool) {
    set_task_switched();
    if !xsave {
        return;
    }
    let leaf = __cpuid_count(0xD, 0);
    let offered = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
    for wanted in [AVX512, AVX, SSE] {
        if offered & wanted != wanted {
            continue;
        }
        // SAFETY: OSXSAVE is set and the components are offered.
        unsafe { set_components(wanted) };
        let size = __cpuid_count(0xD, 0).ebx as usize;
        if size <= FPU_AREA {
            if COMPONENTS.load(Ordering::Relaxed) != wanted {
                // The boot processor, during boot.
                COMPONENTS.store(wanted, Ordering::Relaxed);
            }
            return;
        }
    }
}

/// # Safety
/// CR4.OSXSAVE is set and the CPU offers `components`.
unsafe fn set_components(components: u64) {
    // SAFETY: by the caller.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0u32,
            in("eax") components as u32,
            in("edx") (components >> 32) as u32,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// FPU instructions work.
#[inline]
pub fn clear_task_switched() {
    // SAFETY: only changes whether FPU instructions trap.
    unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) };
}

/// FPU instructions trap (#NM).
#[inline]
pub fn set_task_switched() {
    // SAFETY: as above.
    unsafe { Cr0::write(Cr0::read() | Cr0Flags::TASK_SWITCHED) };
}

fn split() -> Option<(u32, u32)> {
    match COMPONENTS.load(Ordering::Relaxed) {
        0 => None,
        c => Some((c as u32, (c >> 32) as u32)),
    }
}

/// Saves the registers; TS must be clear.
pub fn save(area: &FpuArea) {
    let at = area.0.as_ptr();
    // SAFETY: the area is 64-byte aligned, large enough for the components in use (`init`), and changed only
    // here, by the CPU that owns the thread.
    unsafe {
        match split() {
            Some((low, high)) => {
                asm!("xsave64 [{}]", in(reg) at, in("eax") low, in("edx") high, options(nostack));
            }
            None => asm!("fxsave64 [{}]", in(reg) at, options(nostack)),
        }
    }
}

/// Loads the registers from a saved area; TS must be clear.
pub fn restore(area: &FpuArea) {
    let at = area.0.as_ptr();
    // SAFETY: the area was written by `save` or `reset` and nothing else, so it cannot fault.
    unsafe {
        match split() {
            Some((low, high)) => {
                asm!("xrstor64 [{}]", in(reg) at, in("eax") low, in("edx") high, options(nostack));
            }
            None => asm!("fxrstor64 [{}]", in(reg) at, options(nostack)),
        }
    }
}

/// Offset of MXCSR in the legacy area, and its value at reset.
const MXCSR: usize = 24;
const MXCSR_RESET: u32 = 0x1F80;
/// x87 control word at reset.
const FCW_RESET: u16 = 0x037F;

/// The initial state, in the registers and in `area`; TS must be clear.
pub fn reset(area: &FpuArea) {
    for byte in &area.0[..] {
        byte.set(0);
    }
    for (i, byte) in FCW_RESET.to_le_bytes().into_iter().enumerate() {
        area.0[i].set(byte);
    }
    for (i, byte) in MXCSR_RESET.to_le_bytes().into_iter().enumerate() {
        area.0[MXCSR + i].set(byte);
    }
    // With XSTATE_BV = 0 XRSTOR loads the initial configuration of every component (SDM 1 13.8).
    restore(area);
}
