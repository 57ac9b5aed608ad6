//! The system clock and the timer, in microseconds since boot (reference 4.6).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::x86_64::{apic, clock, cpu_ops};
use crate::sched::percpu::PerCpu;
use crate::util::sealed;

/// Fraction bits of the two factors.
pub const SHIFT: u32 = 32;

sealed! {
    /// Time-stamp counter at clock zero.
    static TSC_ZERO: AtomicU64 = AtomicU64::new(0);
    /// Microseconds per TSC tick, as a fraction of 2^32.
    static US_PER_TICK: AtomicU64 = AtomicU64::new(0);
    /// Timer ticks per microsecond, as a fraction of 2^32.
    static TIMER_TICKS_PER_US: AtomicU64 = AtomicU64::new(0);
}

/// Starts the clock. The clocks are calibrated.
pub fn init() {
    let per = |a: u64, b: u64| ((u128::from(a) << SHIFT) / u128::from(b.max(1))) as u64;
    US_PER_TICK.store(per(1_000_000, clock::tsc_hz()), Ordering::Relaxed);
    TIMER_TICKS_PER_US.store(per(clock::apic_timer_hz(), 1_000_000), Ordering::Relaxed);
    TSC_ZERO.store(cpu_ops::rdtsc(), Ordering::Relaxed);
}

/// Gives a CPU its copy of what the clock needs, for the short path of SystemClock.
pub fn start_cpu(cpu: &PerCpu) {
    cpu.tsc_zero.set(TSC_ZERO.load(Ordering::Relaxed));
    cpu.us_per_tick.set(US_PER_TICK.load(Ordering::Relaxed));
}

/// Microseconds since boot.
#[inline]
pub fn now_us() -> u64 {
    let ticks = cpu_ops::rdtsc().wrapping_sub(TSC_ZERO.load(Ordering::Relaxed));
    ((u128::from(ticks) * u128::from(US_PER_TICK.load(Ordering::Relaxed))) >> SHIFT) as u64
}

/// Lets the timer of this CPU fire at `deadline_us`, or earlier if that is further than it can count.
pub fn arm_us(deadline_us: u64) {
    let wait_us = deadline_us.saturating_sub(now_us()).max(1);
    let factor = TIMER_TICKS_PER_US.load(Ordering::Relaxed);
    let ticks = ((u128::from(wait_us) * u128::from(factor)) >> SHIFT) as u64;
    apic::arm_timer(ticks.clamp(1, u64::from(u32::MAX)) as u32);
}
