//! What the experiments that run as tasks share: arguments, records, waiting.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::record::{Line, Test};
use libl4::{CpuId, NodeId, ThreadId, Time, ipc, program, sys, thread, topology};

/// The arguments of a program, `name=value` each.
#[derive(Debug)]
pub struct Args(Vec<String>);

impl Args {
    /// Those of this program.
    #[must_use]
    pub fn of_program() -> Self {
        Self(program::args())
    }

    /// The text behind `name=`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
    }

    /// A number.
    #[must_use]
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// `name=1`.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.number(name, 0) != 0
    }

    /// Numbers with commas between; `a-b` means all from a to b.
    #[must_use]
    pub fn numbers(&self, name: &str, default: &[u64]) -> Vec<u64> {
        let Some(text) = self.text(name) else { return default.to_vec() };
        let mut all = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) {
                all.extend(first..=last);
            }
        }
        all
    }
}

/// Test records, and whether one failed.
#[derive(Debug, Default)]
pub struct Report {
    /// Number of failed tests.
    pub failed: u32,
}

impl Report {
    /// Prints a test record.
    pub fn check(&mut self, name: &str, ok: bool, detail: fmt::Arguments<'_>) {
        libl4::console::record(|out| Test { name, ok, detail }.write(out));
        self.failed += u32::from(!ok);
    }

    /// Ends the program, in failure if a test failed.
    pub fn end(&self) {
        if self.failed > 0 {
            program::exit(libl4::exit::Outcome::Failed);
        }
    }
}

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    sum: u64,
    min: u64,
    max: u64,
    count: u64,
}

impl Series {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { sum: 0, min: u64::MAX, max: 0, count: 0 }
    }

    /// Just one.
    #[must_use]
    pub const fn one(value: u64) -> Self {
        Self { sum: value, min: value, max: value, count: 1 }
    }

    /// Adds one.
    pub const fn add(&mut self, value: u64) {
        self.sum += value;
        self.count += 1;
        if value < self.min {
            self.min = value;
        }
        if value > self.max {
            self.max = value;
        }
    }

    /// Whether all were `value`, and there was one.
    #[must_use]
    pub const fn is_always(&self, value: u64) -> bool {
        self.count > 0 && self.min == value && self.max == value
    }
}

impl Default for Series {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.sum.checked_div(self.count).unwrap_or(0);
        write!(f, "{mean} ({}..={}, {} times)", self.min, self.max, self.count)
    }
}

/// Prints a result record; the value is the mean.
pub fn result(
    (bench, variant): (&str, &str),
    (metric, unit): (&str, &str),
    series: Series,
    params: &[(&str, u64)],
) {
    libl4::console::record(|out| {
        let mut line = Line::begin(out, "result");
        line.str("bench", bench).str("variant", variant).str("metric", metric).str("unit", unit);
        let mean = series.sum.checked_div(series.count).unwrap_or(0);
        line.num("value", mean)
            .num("min", series.min)
            .num("max", series.max)
            .num("n", series.count);
        for &(name, value) in params {
            line.num(name, value);
        }
        line.end()
    });
}

/// Waits a little, so that other threads of the CPU run.
pub fn pause() {
    let wait = libl4::Timeouts::new(Time::NEVER, Time::period_us(1_000));
    let _ = ipc::receive(thread::my_local_id(), wait);
}

/// Spins until `word` is `value` or more; lets others run now and then.
pub fn await_at_least(word: &AtomicU64, value: u64) {
    let mut looks = 0u32;
    while word.load(Ordering::Acquire) < value {
        looks = looks.wrapping_add(1);
        match looks % 4096 {
            0 => sys::thread_switch(ThreadId::NIL),
            _ => core::hint::spin_loop(),
        }
    }
}

/// A CPU of another node than `here`, else another CPU, else the only one.
#[must_use]
pub fn other_cpu(here: NodeId) -> CpuId {
    let all = || (0..topology::cpu_count() as u16).map(CpuId);
    let other = all().find(|&cpu| topology::node_of(cpu) != here);
    other.unwrap_or(CpuId(topology::cpu_count() as u16 - 1))
}
