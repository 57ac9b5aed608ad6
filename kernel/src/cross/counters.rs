//! What each CPU counts about its traffic with others. Owner-only cells; read by anybody for a report.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;
use kcore::types::CpuId;
pub use l4abi::ext::CpuCounter as Counter;
use l4abi::ext::NO_COUNTER;

/// The counters of one CPU, in lines of their own.
#[derive(Debug)]
#[repr(align(64))]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

/// Counts one on this CPU.
#[inline(always)]
pub fn count(what: Counter) {
    let counter = &cpu::this().shared.counters.0[what as usize];
    // The owner alone writes: no locked instruction.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Sets a counter of this CPU that is no count.
pub fn set(what: Counter, value: u64) {
    cpu::this().shared.counters.0[what as usize].store(value, Ordering::Relaxed);
}

/// Names and values of the counters in `counters`.
#[cfg(feature = "kdb")]
pub fn of(counters: &Counters) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    let names = Counter::ALL.iter().map(|counter| counter.name());
    names.zip(&counters.0).map(|(name, value)| (name, value.load(Ordering::Relaxed)))
}

/// The value of a counter of CPU `cpu`; [`NO_COUNTER`] if there is no such counter or CPU.
pub fn read(cpu: u64, which: u64) -> u64 {
    let counter = u32::try_from(which).ok().and_then(Counter::from_raw);
    let shared = u16::try_from(cpu).ok().and_then(|cpu| cpu::shared_of(CpuId::new(cpu)));
    match (shared, counter) {
        (Some(shared), Some(counter)) => {
            shared.counters.0[counter as usize].load(Ordering::Relaxed)
        }
        _ => NO_COUNTER,
    }
}

/// Prints the counters of all CPUs as a record.
pub fn print() {
    for number in 0..cpu::count() {
        let Some(shared) = cpu::shared_of(CpuId::new(number as u16)) else { continue };
        let value = |i: usize| shared.counters.0[i].load(Ordering::Relaxed);
        crate::console::print(format_args!("@json {{\"kind\":\"counters\",\"cpu\":{number}"));
        for (i, counter) in Counter::ALL.iter().enumerate() {
            crate::console::print(format_args!(",\"{counter}\":{}", value(i)));
        }
        crate::println!("}}");
    }
}
