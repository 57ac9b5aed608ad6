//! What each CPU counts about its traffic with others. Owner-only cells; read by anybody for a report.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;
use kcore::types::CpuId;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Threads sent to other CPUs.
    RequestsSent,
    /// Threads that arrived.
    RequestsReceived,
    /// Interrupts sent for them.
    RequestInterrupts,
    /// Operations that had other CPUs flush.
    Shootdowns,
    /// Interrupts sent for that.
    ShootdownInterrupts,
    /// Shootdown requests served.
    ShootdownsServed,
    /// Interrupts of other CPUs taken.
    InterruptsReceived,
    /// Messages sent to threads on other CPUs.
    CrossIpc,
    /// Thread control blocks moved to this CPU's node.
    TcbMoves,
}

/// Names, in the order of [`Counter`].
const NAMES: [&str; 9] = [
    "requests_sent",
    "requests_received",
    "request_interrupts",
    "shootdowns",
    "shootdown_interrupts",
    "shootdowns_served",
    "interrupts_received",
    "cross_ipc",
    "tcb_moves",
];

/// The counters of one CPU, in lines of their own.
#[derive(Debug)]
#[repr(align(64))]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; NAMES.len()])
    }
}

/// Counts one on this CPU.
#[inline(always)]
pub fn count(what: Counter) {
    let counter = &cpu::this().shared.counters.0[what as usize];
    // The owner alone writes: no locked instruction.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Names and values of the counters in `counters`.
#[cfg(feature = "kdb")]
pub fn of(counters: &Counters) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    NAMES.iter().zip(&counters.0).map(|(name, value)| (*name, value.load(Ordering::Relaxed)))
}

/// Prints the counters of all CPUs as a record.
pub fn print() {
    for number in 0..cpu::count() {
        let Some(shared) = cpu::shared_of(CpuId::new(number as u16)) else { continue };
        let value = |i: usize| shared.counters.0[i].load(Ordering::Relaxed);
        crate::console::print(format_args!("@json {{\"kind\":\"counters\",\"cpu\":{number}"));
        for (i, name) in NAMES.iter().enumerate() {
            crate::console::print(format_args!(",\"{name}\":{}", value(i)));
        }
        crate::println!("}}");
    }
}
