//! The offset of each CPU's time-stamp counter to that of the boot processor, measured when the CPU starts.
//!
//! The boot processor asks and the new CPU answers, through one line of shared memory; `kcore::clock` draws the
//! conclusion. The CPU keeps the result in its own block and from there on all its readings of the clock are
//! corrected ([`crate::time`]) at no cost: the correction is part of the number that is subtracted anyway.
//!
//! Counters are measured, never written: IA32_TSC cannot be set to better than the time of the write, and what firmware put
//! into IA32_TSC_ADJUST (SDM 3B 18.17.3) may be what makes the counters of two sockets agree. The register is read and
//! reported where the processor has it.
//!
//! The option `clock_skew` makes a CPU add a made-up offset to whatever it reads of its counter. It must then be found and
//! taken out again, or SystemClock shows it.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use kcore::clock::{Estimate, Estimator, Exchange};
use kcore::types::CpuId;
use x86_64::registers::model_specific::Msr;

use super::{clock, cpu_ops};
use crate::cpu::{self, Shared};
use crate::machine;

/// Exchanges to take at least. Real processors are sharp after so many.
const ROUNDS: u32 = 256;
/// An interval as short as this is sharp, µs.
const SHARP_US: u64 = 2;
/// How long to take exchanges for all CPUs together, and for one, µs: emulated CPUs that share few real ones rarely run at
/// the same time.
const ALL_US: u64 = 300_000;
const ONE_US: core::ops::RangeInclusive<u64> = 2_000..=100_000;
/// How long to wait for the first exchange, µs.
const PATIENCE_US: u64 = 2_000_000;
/// IA32_TSC_ADJUST.
const TSC_ADJUST: u32 = 0x3b;
/// The question that ends the exchange.
const DONE: u64 = u64::MAX;

/// The line between the two CPUs, and the result.
#[repr(align(64))]
pub struct Meeting {
    /// Number of the question; 0 before the first, [`DONE`] after the last.
    question: AtomicU64,
    /// Counter of the answering CPU; 0 = no answer yet.
    answer: AtomicU64,
    offset: AtomicI64,
    bound: AtomicU64,
    round_trip: AtomicU64,
    rounds: AtomicU32,
    unsteady: AtomicU32,
    /// What firmware adds to the counter.
    adjust: AtomicI64,
    /// What the option adds.
    made_up: AtomicI64,
}

impl Meeting {
    /// Nothing measured: no offset.
    pub const fn new() -> Self {
        Meeting {
            question: AtomicU64::new(0),
            answer: AtomicU64::new(0),
            offset: AtomicI64::new(0),
            bound: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            rounds: AtomicU32::new(0),
            unsteady: AtomicU32::new(0),
            adjust: AtomicI64::new(0),
            made_up: AtomicI64::new(0),
        }
    }

    /// What was measured; all zero for the boot processor.
    pub fn estimate(&self) -> Estimate {
        Estimate {
            offset: self.offset.load(Ordering::Relaxed),
            bound: self.bound.load(Ordering::Relaxed),
            round_trip: self.round_trip.load(Ordering::Relaxed),
            rounds: self.rounds.load(Ordering::Relaxed),
            steady: self.unsteady.load(Ordering::Relaxed) == 0,
        }
    }

    /// What firmware adds to the counter of this CPU, ticks; 0 where the processor does not say.
    pub fn adjust(&self) -> i64 {
        self.adjust.load(Ordering::Relaxed)
    }

    /// What the option `clock_skew` adds to the counter of this CPU, ticks.
    pub fn made_up(&self) -> i64 {
        self.made_up.load(Ordering::Relaxed)
    }

    fn keep(&self, found: Estimate) {
        self.offset.store(found.offset, Ordering::Relaxed);
        self.bound.store(found.bound, Ordering::Relaxed);
        self.round_trip.store(found.round_trip, Ordering::Relaxed);
        self.rounds.store(found.rounds, Ordering::Relaxed);
        self.unsteady.store(u32::from(!found.steady), Ordering::Relaxed);
    }
}

/// Ticks that the option makes CPU `cpu` add to its counter.
fn made_up(cpu: CpuId) -> i64 {
    let us = machine::get().options.clock_skew_us.unwrap_or(0);
    let ticks = (u128::from(us) * u128::from(clock::tsc_hz()) / 1_000_000) as i64;
    let number = i64::from(cpu.get());
    ticks.wrapping_mul(if number % 2 == 1 { number } else { -number })
}

/// The counter of this CPU as the exchange sees it.
fn counter(made_up: i64) -> u64 {
    cpu_ops::rdtsc_in_order().wrapping_add(made_up as u64)
}

/// The boot processor's part: measures the CPU whose shared state is `other`. False if it does not answer.
pub fn lead(other: &Shared) -> bool {
    let meeting = &other.clock;
    let mut all = Estimator::new();
    let others = cpu::count().saturating_sub(1).max(1) as u64;
    let enough_us = (ALL_US / others).clamp(*ONE_US.start(), *ONE_US.end());
    let sharp = clock::tsc_hz() * SHARP_US / 1_000_000;
    let start = cpu_ops::rdtsc();
    let waited_us = || clock::tsc_to_us(cpu_ops::rdtsc().wrapping_sub(start));
    while all.rounds() == 0
        || (all.rounds() < ROUNDS || all.width() > sharp) && waited_us() < enough_us
    {
        meeting.answer.store(0, Ordering::Relaxed);
        let asked = cpu_ops::rdtsc_in_order();
        meeting.question.store(u64::from(all.rounds()) + 1, Ordering::Release);
        let remote = loop {
            match meeting.answer.load(Ordering::Acquire) {
                0 if waited_us() < PATIENCE_US => core::hint::spin_loop(),
                counter => break counter,
            }
        };
        let answered = cpu_ops::rdtsc_in_order();
        if remote == 0 {
            break;
        }
        all.add(Exchange { asked, remote, answered });
    }
    let found = all.finish();
    if let Some(found) = found {
        meeting.keep(found);
    }
    meeting.question.store(DONE, Ordering::Release);
    found.is_some()
}

/// The new CPU's part. Returns when the boot processor has measured it.
pub fn follow() {
    let this = cpu::this();
    let meeting = &this.shared.clock;
    let skew = made_up(this.identity.id);
    meeting.made_up.store(skew, Ordering::Relaxed);
    read_adjust();
    let mut last = 0;
    loop {
        let question = meeting.question.load(Ordering::Acquire);
        if question == DONE {
            return;
        }
        if question != last {
            last = question;
            meeting.answer.store(counter(skew).max(1), Ordering::Release);
        }
        core::hint::spin_loop();
    }
}

/// Notes what firmware adds to this CPU's counter.
pub fn read_adjust() {
    if machine::get().features.tsc_adjust {
        // SAFETY: the processor has the register; reading it changes nothing.
        let adjust = unsafe { Msr::new(TSC_ADJUST).read() };
        cpu::this().shared.clock.adjust.store(adjust as i64, Ordering::Relaxed);
    }
}

/// What a reading of this CPU's counter must be lessened by to be one of the boot processor's, modulo 2^64.
pub fn correction() -> u64 {
    let meeting = &cpu::this().shared.clock;
    let measured = match machine::get().options.clock_sync {
        true => meeting.estimate().offset,
        false => 0,
    };
    measured.wrapping_sub(meeting.made_up()) as u64
}
