//! Calibration: how fast the time-stamp counter and the APIC timer run.
//!
//! The reference is the ACPI power-management timer (3.579545 MHz, in every machine since ACPI 1.0) or,
//! where the tables name none, channel 2 of the 8254. All three are read together at both ends of one
//! window.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::{Port, PortReadOnly};

use super::{apic, cpu_ops};
use crate::util::sealed;

/// Frequency of the ACPI timer, ACPI 6.5 section 4.8.3.3.
const PM_TIMER_HZ: u64 = 3_579_545;
/// Frequency of the 8254.
const PIT_HZ: u64 = 1_193_182;
/// Length of the measurement.
const WINDOW_US: u64 = 10_000;
/// How often to look at a reference clock that does not move before it is given up.
const PATIENCE: u32 = 5_000_000;
/// Readings of which the sharpest counts.
const READINGS: u32 = 8;

sealed! {
    static TSC_HZ: AtomicU64 = AtomicU64::new(0);
    static APIC_TIMER_HZ: AtomicU64 = AtomicU64::new(0);
}

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
    let acpi = pm_timer.map(Reference::AcpiTimer);
    let rates = acpi.and_then(|clock| clock.measure()).or_else(|| Reference::Pit.measure())?;
    TSC_HZ.store(rates.tsc_hz, Ordering::Relaxed);
    APIC_TIMER_HZ.store(rates.apic_hz, Ordering::Relaxed);
    Some(rates)
}

/// A clock of known frequency.
#[derive(Clone, Copy)]
enum Reference {
    /// Counts up modulo 2^24 (some modulo 2^32).
    AcpiTimer(u16),
    /// Channel 2, counting down modulo 2^16.
    Pit,
}

/// All three clocks at one moment.
#[derive(Clone, Copy)]
struct Snapshot {
    reference: u32,
    tsc: u64,
    apic: u32,
    /// Ticks of the time-stamp counter that taking it lasted.
    blur: u64,
}

impl Reference {
    const fn hz(self) -> u64 {
        match self {
            Reference::AcpiTimer(_) => PM_TIMER_HZ,
            Reference::Pit => PIT_HZ,
        }
    }

    const fn mask(self) -> u32 {
        match self {
            Reference::AcpiTimer(_) => 0x00ff_ffff,
            Reference::Pit => 0xffff,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Reference::AcpiTimer(_) => "ACPI timer",
            Reference::Pit => "8254",
        }
    }

    /// Makes the clock run.
    fn start(self) {
        if matches!(self, Reference::Pit) {
            let mut control = Port::<u8>::new(0x61);
            let mut command = Port::<u8>::new(0x43);
            let mut counter = Port::<u8>::new(0x42);
            // SAFETY: the speaker's counter (mode 2, full period) and its gate; nobody else uses them and
            // the speaker stays off.
            unsafe {
                let gate = control.read() & !0b11;
                control.write(gate | 1);
                command.write(0b1011_0100);
                counter.write(0);
                counter.write(0);
            }
        }
    }

    /// Ticks since some moment, modulo `mask + 1`.
    fn read(self) -> u32 {
        let ticks = match self {
            // SAFETY: reading the counter has no effect.
            Reference::AcpiTimer(port) => unsafe { PortReadOnly::<u32>::new(port).read() },
            Reference::Pit => {
                let mut counter = Port::<u8>::new(0x42);
                // SAFETY: latches and reads the counter.
                let left = unsafe {
                    Port::<u8>::new(0x43).write(0b1000_0000);
                    u32::from(counter.read()) | u32::from(counter.read()) << 8
                };
                0u32.wrapping_sub(left)
            }
        };
        ticks & self.mask()
    }

    /// The sharpest of some readings: an emulated or virtual CPU can lose its processor in the middle.
    fn snapshot(self) -> Snapshot {
        let take = || {
            let before = cpu_ops::rdtsc();
            let (reference, apic) = (self.read(), apic::timer_left());
            let blur = cpu_ops::rdtsc().wrapping_sub(before);
            Snapshot { reference, tsc: before.wrapping_add(blur / 2), apic, blur }
        };
        let first = take();
        (1..READINGS)
            .map(|_| take())
            .fold(first, |best, s| if s.blur < best.blur { s } else { best })
    }

    fn measure(self) -> Option<Rates> {
        self.start();
        apic::arm_timer(u32::MAX);
        let start = self.snapshot();
        let window = (self.hz() * WINDOW_US / 1_000_000) as u32;
        let passed = |now: u32| now.wrapping_sub(start.reference) & self.mask();
        if !(0..PATIENCE).any(|_| passed(self.read()) >= window) {
            return None;
        }
        let end = self.snapshot();
        apic::arm_timer(0);
        let ticks = u128::from(passed(end.reference));
        let per_second = |n: u64| (u128::from(n) * u128::from(self.hz()) / ticks.max(1)) as u64;
        let tsc_hz = per_second(end.tsc.wrapping_sub(start.tsc));
        let apic_hz = per_second(u64::from(start.apic.wrapping_sub(end.apic)));
        let reference = self.name();
        (tsc_hz > 0 && apic_hz > 0).then_some(Rates { tsc_hz, apic_hz, reference })
    }
}
