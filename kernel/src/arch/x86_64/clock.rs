//! Calibration: how fast the time-stamp counter and the APIC timer run.
//!
//! The reference is the ACPI power-management timer (3.579545 MHz, in every machine since ACPI 1.0) or,
//! where the tables name none, channel 2 of the 8254. One window measures both clocks, so their ratio is
//! as exact as their reading.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::{Port, PortReadOnly};

use super::{apic, cpu_ops};

/// Frequency of the ACPI timer, ACPI 6.5 section 4.8.3.3.
const PM_TIMER_HZ: u64 = 3_579_545;
/// Frequency of the 8254.
const PIT_HZ: u64 = 1_193_182;
/// Length of the measurement.
const WINDOW_US: u64 = 10_000;
/// How often to look at a reference clock that does not move before it is given up.
const PATIENCE: u32 = 20_000_000;

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
static APIC_TIMER_HZ: AtomicU64 = AtomicU64::new(0);

/// Ticks of the time-stamp counter per second; 0 before calibration.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Ticks of the local APIC timer per second; 0 before calibration.
pub fn apic_timer_hz() -> u64 {
    APIC_TIMER_HZ.load(Ordering::Relaxed)
}

/// Microseconds that `ticks` of the time-stamp counter last; 0 before calibration.
pub fn tsc_to_us(ticks: u64) -> u64 {
    let hz = tsc_hz();
    if hz == 0 { 0 } else { (u128::from(ticks) * 1_000_000 / u128::from(hz)) as u64 }
}

/// Waits at least `us` microseconds.
pub fn delay_us(us: u64) {
    let start = cpu_ops::rdtsc();
    let ticks = (u128::from(tsc_hz()) * u128::from(us) / 1_000_000) as u64;
    while cpu_ops::rdtsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// What calibration found.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Time-stamp counter, Hz.
    pub tsc_hz: u64,
    /// Local APIC timer, Hz.
    pub apic_hz: u64,
    /// The clock they were measured against.
    pub reference: &'static str,
}

/// Measures both clocks against the ACPI timer at I/O port `pm_timer`, or the 8254. The local APIC must
/// be on and its timer interrupt masked by RFLAGS.IF. `None`: no reference clock runs.
pub fn calibrate(pm_timer: Option<u16>) -> Option<Rates> {
    let by_pm = pm_timer.and_then(|port| measure_pm(port).map(|(t, a)| (t, a, "ACPI timer")));
    let (tsc_hz, apic_hz, reference) =
        by_pm.or_else(|| measure_pit().map(|(t, a)| (t, a, "8254")))?;
    TSC_HZ.store(tsc_hz, Ordering::Relaxed);
    APIC_TIMER_HZ.store(apic_hz, Ordering::Relaxed);
    Some(Rates { tsc_hz, apic_hz, reference })
}

struct Sample {
    tsc: u64,
    apic: u32,
}

impl Sample {
    fn start() -> Self {
        apic::arm_timer(u32::MAX);
        Sample { tsc: cpu_ops::rdtsc(), apic: apic::timer_left() }
    }

    /// Rates if `ticks` of a clock of `hz` passed since the sample was taken.
    fn rates(&self, ticks: u64, hz: u64) -> Option<(u64, u64)> {
        let apic = u64::from(self.apic.wrapping_sub(apic::timer_left()));
        let tsc = cpu_ops::rdtsc().wrapping_sub(self.tsc);
        apic::arm_timer(0);
        let per_second =
            |n: u64| (u128::from(n) * u128::from(hz) / u128::from(ticks.max(1))) as u64;
        (tsc > 0 && apic > 0).then(|| (per_second(tsc), per_second(apic)))
    }
}

/// The ACPI timer counts up, modulo 2^24 at least.
fn measure_pm(port: u16) -> Option<(u64, u64)> {
    const MASK: u32 = 0x00ff_ffff;
    let mut timer = PortReadOnly::<u32>::new(port);
    // SAFETY: reading the counter has no effect.
    let mut read = || unsafe { timer.read() } & MASK;
    let window = (PM_TIMER_HZ * WINDOW_US / 1_000_000) as u32;
    // Begin at an edge.
    let before = read();
    let first = wait(|| Some(read()).filter(|&now| now != before))?;
    let sample = Sample::start();
    let passed = wait(|| Some(read().wrapping_sub(first) & MASK).filter(|&n| n >= window))?;
    sample.rates(u64::from(passed), PM_TIMER_HZ)
}

/// Channel 2 in mode 0 counts down once; its output shows in bit 5 of port 0x61.
fn measure_pit() -> Option<(u64, u64)> {
    const COUNT: u16 = (PIT_HZ * WINDOW_US / 1_000_000) as u16;
    const OUTPUT: u8 = 1 << 5;
    let mut control = Port::<u8>::new(0x61);
    let mut command = Port::<u8>::new(0x43);
    let mut counter = Port::<u8>::new(0x42);
    // SAFETY: the speaker's counter and its gate; nobody else uses them, the speaker stays off.
    unsafe {
        let gate = control.read() & !0b11;
        control.write(gate | 1);
        command.write(0b1011_0000);
        counter.write(COUNT as u8);
        counter.write((COUNT >> 8) as u8);
    }
    let sample = Sample::start();
    // SAFETY: reading the port has no effect.
    wait(|| (unsafe { control.read() } & OUTPUT != 0).then_some(()))?;
    sample.rates(u64::from(COUNT), PIT_HZ)
}

fn wait<T>(mut done: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..PATIENCE {
        if let Some(value) = done() {
            return Some(value);
        }
        core::hint::spin_loop();
    }
    None
}
