//! Interrupts that arrive while the kernel itself is interruptible, that is in the idle loop.

use crate::arch::x86_64::vectors;
use crate::cpu;

/// Serves `vector`; the caller acknowledges it afterwards.
pub fn in_kernel(vector: u8) {
    let local = &cpu::this().local;
    let counter = match vector {
        vectors::TIMER => &local.timer_interrupts,
        _ => &local.other_interrupts,
    };
    counter.set(counter.get() + 1);
}
