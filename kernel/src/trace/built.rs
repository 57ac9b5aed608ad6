//! The rings of a kernel that can trace.

mod dump;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use l4abi::trace::{RECORD_BYTES, Record, head};
use spin::Once;

pub use dump::print;

use super::points::Entry;
use crate::sched::percpu::PerCpu;
use crate::{cpu, machine, memory, println, time};

/// This kernel can trace.
pub const BUILT: bool = true;

/// A record in a ring: words, because others read it while it may be overwritten.
type Slot = [AtomicU64; 4];

const _: () = assert!(size_of::<Slot>() == RECORD_BYTES);

/// The ring of one CPU.
pub struct Ring {
    /// Records are taken.
    on: AtomicBool,
    /// Records that were ever written; the next goes to this modulo the number of slots.
    written: AtomicU64,
    /// The memory, in the CPU's node: a power of two of slots.
    slots: Once<&'static [Slot]>,
}

impl Ring {
    /// No memory, off.
    pub const fn new() -> Self {
        Ring { on: AtomicBool::new(false), written: AtomicU64::new(0), slots: Once::new() }
    }

    /// Owner only.
    #[inline(never)]
    fn write(&self, head: u64, a: u64, b: u64) {
        let Some(slots) = self.slots.get() else { return };
        let number = self.written.load(Ordering::Relaxed);
        // The length is a power of two, so that this never fails.
        let Some(words) = slots.get(number as usize & (slots.len() - 1)) else { return };
        words[0].store(time::ticks(), Ordering::Relaxed);
        words[1].store(head, Ordering::Relaxed);
        words[2].store(a, Ordering::Relaxed);
        words[3].store(b, Ordering::Relaxed);
        self.written.store(number + 1, Ordering::Release);
    }

    /// Records that were ever written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Numbers of the records that the ring still has. While its CPU writes, the oldest may be half overwritten: it is
    /// left out.
    pub fn kept(&self) -> core::ops::Range<u64> {
        let slots = self.slots.get().map_or(0, |s| s.len() as u64);
        let written = self.written();
        (written + 1).saturating_sub(slots).min(written)..written
    }

    /// Record `number`, which is one of [`Self::kept`].
    pub fn record(&self, number: u64) -> Record {
        let words = self.slots.get().and_then(|s| s.get(number as usize & (s.len() - 1)));
        let word = |i: usize| words.map_or(0, |w| w[i].load(Ordering::Relaxed));
        Record { time: word(0), head: word(1), a: word(2), b: word(3) }
    }

    /// Takes records, or no more.
    pub fn switch(&self, on: bool) {
        self.on.store(on && self.slots.get().is_some(), Ordering::Relaxed);
    }
}

/// Takes a record, if this CPU does.
#[inline(always)]
pub fn put(entry: impl FnOnce() -> Entry) {
    let ring = &cpu::this().shared.trace;
    if ring.on.load(Ordering::Relaxed) {
        let (event, detail, thread, a, b) = entry();
        ring.write(head(event, detail, thread), a, b);
    }
}

/// Gives this CPU its ring, if the option asks for it.
pub fn start(cpu: &PerCpu) {
    let options = &machine::get().options;
    if !options.trace {
        return;
    }
    let ring = &cpu::this().shared.trace;
    match memory::alloc_words(cpu.node(), options.trace_size) {
        Some(words) => {
            ring.slots.call_once(|| words.as_chunks().0);
            ring.switch(true);
        }
        None => {
            println!("cpu{}: no memory for {} bytes of trace", cpu.number(), options.trace_size)
        }
    }
}
