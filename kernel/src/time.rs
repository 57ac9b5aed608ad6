//! The system clock and the timer, in microseconds since boot (reference 4.6).
//!
//! The clock is this CPU's time-stamp counter less a number that the CPU keeps in its own block: the boot processor's
//! counter at clock zero plus the CPU's offset to it, which was measured when it started
//! ([`crate::arch::x86_64::clock_sync`]). So a time means the same moment on every CPU, to within
//! [`disagreement_us`]: timeouts and turns travel with threads as they are.

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::types::CpuId;

use crate::arch::x86_64::{apic, clock, clock_sync, cpu_ops};
use crate::cpu;
use crate::cross::counters::{self, Counter};
use crate::sched;
use crate::util::sealed;

/// Fraction bits of the two factors.
pub const SHIFT: u32 = 32;

sealed! {
    /// Time-stamp counter of the boot processor at clock zero.
    static TSC_ZERO: AtomicU64 = AtomicU64::new(0);
    /// Microseconds per TSC tick, as a fraction of 2^32.
    static US_PER_TICK: AtomicU64 = AtomicU64::new(0);
    /// Timer ticks per microsecond, as a fraction of 2^32.
    static TIMER_TICKS_PER_US: AtomicU64 = AtomicU64::new(0);
}

/// Starts the clock, on the boot processor. The clocks are calibrated.
pub fn init() {
    let per = |a: u64, b: u64| ((u128::from(a) << SHIFT) / u128::from(b.max(1))) as u64;
    US_PER_TICK.store(per(1_000_000, clock::tsc_hz()), Ordering::Relaxed);
    TIMER_TICKS_PER_US.store(per(clock::apic_timer_hz(), 1_000_000), Ordering::Relaxed);
    TSC_ZERO.store(cpu_ops::rdtsc(), Ordering::Relaxed);
    start_cpu();
}

/// Gives this CPU what it needs of the clock. Its counter has been compared with the boot processor's.
pub fn start_cpu() {
    let cpu = sched::this_cpu();
    cpu.tsc_zero.set(TSC_ZERO.load(Ordering::Relaxed).wrapping_add(clock_sync::correction()));
    cpu.us_per_tick.set(US_PER_TICK.load(Ordering::Relaxed));
    let bound = u128::from(cpu::this().shared.clock.estimate().bound);
    let bound_ns = (bound * 1_000_000_000).div_ceil(u128::from(clock::tsc_hz().max(1)));
    counters::set(Counter::ClockBound, u64::try_from(bound_ns).unwrap_or(u64::MAX - 1));
}

/// Ticks of the time-stamp counter since boot, the same on all CPUs to within [`bound_ticks`].
#[inline]
pub fn ticks() -> u64 {
    cpu_ops::rdtsc().wrapping_sub(sched::this_cpu().tsc_zero.get())
}

/// The same, read after everything before has happened: a time that another CPU's message says has passed has passed.
#[inline]
pub fn ticks_in_order() -> u64 {
    cpu_ops::rdtsc_in_order().wrapping_sub(sched::this_cpu().tsc_zero.get())
}

#[inline(always)]
fn to_us(ticks: u64) -> u64 {
    ((u128::from(ticks) * u128::from(sched::this_cpu().us_per_tick.get())) >> SHIFT) as u64
}

/// Microseconds since boot.
#[inline]
pub fn now_us() -> u64 {
    to_us(ticks())
}

/// The same, in order with everything around it.
pub fn now_in_order_us() -> u64 {
    to_us(ticks_in_order())
}

/// The clock of CPU `id` can be wrong by so many ticks against the boot processor's; `None` if it is not up.
pub fn bound_ticks(id: CpuId) -> Option<u64> {
    cpu::shared_of(id).map(|shared| shared.clock.estimate().bound)
}

/// The clocks of two CPUs differ by at most so many microseconds at the same moment; `None` if one is not up.
pub fn disagreement_us(a: CpuId, b: CpuId) -> Option<u64> {
    Some(kcore::clock::disagreement_us(bound_ticks(a)?, bound_ticks(b)?, clock::tsc_hz()))
}

/// Lets the timer of this CPU fire at `deadline_us`, or earlier if that is further than it can count.
pub fn arm_us(deadline_us: u64) {
    let wait_us = deadline_us.saturating_sub(now_us()).max(1);
    let factor = TIMER_TICKS_PER_US.load(Ordering::Relaxed);
    let ticks = ((u128::from(wait_us) * u128::from(factor)) >> SHIFT) as u64;
    apic::arm_timer(ticks.clamp(1, u64::from(u32::MAX)) as u32);
}
