//! Memory accesses by node, as the processor's own counters count them (`kcore::perf` says which processors can).
//!
//! The placement instrument counts them without the program's help. On hardware the kernel has to run with `measure=on`. What cannot be
//! counted is said once, as a record of kind `absent` with the reason, and has no results.

use super::report::Subject;
use l4abi::ext::{HardwareCounter, NoCounter};
use l4abi::record::Line;
use libl4::CpuId;
use libl4::arch::timing::Pmc;
use libl4::console;

/// How many kinds there are.
const KINDS: usize = HardwareCounter::ALL.len();

/// Stands for a count that there is not, in a message.
const NONE: u64 = u64::MAX;

/// Name of the metric of a kind: that of the instrument.
const fn metric(kind: HardwareCounter) -> &'static str {
    match kind {
        HardwareCounter::RemoteAccesses => "remote",
        HardwareCounter::LocalAccesses => "local",
    }
}

/// Counts of all kinds; those that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts([Option<u64>; KINDS]);

/// Words that [`Counts::pack`] makes.
pub const PACKED: usize = KINDS;

impl Counts {
    /// None of them.
    pub const ABSENT: Self = Self([None; KINDS]);

    /// For a message.
    #[must_use]
    pub fn pack(self) -> [u64; PACKED] {
        self.0.map(|count| count.unwrap_or(NONE))
    }

    /// What [`Counts::pack`] made.
    #[must_use]
    pub fn unpack(words: [u64; PACKED]) -> Self {
        Self(words.map(|word| (word != NONE).then_some(word)))
    }

    /// Prints results: for each kind that there is, all of `n` repetitions together. `subject` says what was counted;
    /// a parameter `per` in it divides.
    pub fn report(self, subject: Subject<'_>, n: u64) {
        for (&kind, count) in HardwareCounter::ALL.iter().zip(self.0) {
            if let Some(count) = count {
                Subject { metric: metric(kind), unit: "accesses", ..subject }.number(count, n);
            }
        }
    }
}

/// The counters of a CPU, at a time.
#[derive(Clone, Copy, Debug)]
pub struct Traffic([Result<(Pmc, u64), NoCounter>; KINDS]);

impl Traffic {
    /// Begins to count on `cpu`, where the caller runs.
    #[must_use]
    pub fn start(cpu: CpuId) -> Self {
        let mut all = [Err(NoCounter::Unknown); KINDS];
        for (&kind, one) in HardwareCounter::ALL.iter().zip(&mut all) {
            *one = Pmc::find(cpu, kind).map(|counter| (counter, 0));
        }
        // Finding them is not counted.
        for (counter, start) in all.iter_mut().flatten() {
            *start = counter.read();
        }
        Self(all)
    }

    /// What was counted since; the caller is still on the same CPU.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts(self.0.map(|one| one.ok().map(|(counter, start)| counter.since(start))))
    }
}

/// Says which counts `bench` will not have on `cpu`, and why.
pub fn announce(bench: &str, cpu: CpuId) {
    for &kind in HardwareCounter::ALL {
        if let Err(why) = Pmc::find(cpu, kind) {
            console::record(|out| {
                let mut line = Line::begin(out, "absent");
                line.str("bench", bench).str("metric", metric(kind)).str("counter", kind.name());
                line.str("why", why.name()).num("cpu", u64::from(cpu.0));
                line.end()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_a_message() {
        for counts in [Counts::ABSENT, Counts([Some(7), None]), Counts([Some(0), Some(9)])] {
            assert_eq!(Counts::unpack(counts.pack()), counts);
        }
    }
}
