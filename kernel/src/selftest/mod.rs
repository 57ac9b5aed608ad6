//! Tests that run in the kernel after boot (`test=boot`), in layers: the first failing number names the broken
//! layer. Each prints one `test` record; the machine leaves with the verdict.
//!
//! The boot processor runs them. Tests of what every CPU must have run on all CPUs at the same time: the
//! others wait in [`serve`] and are woken by an interrupt from the boot processor.

mod s00_boot;
mod s01_traps;
mod s02_memory;
mod tables;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use kcore::types::CpuId;
use l4abi::record;
use spin::Mutex;

use crate::arch::x86_64::{apic, clock, cpu_ops, selftest as probe, vectors};
use crate::{console, cpu, machine};

/// A short text without a heap; what does not fit is cut.
pub struct Text {
    bytes: [u8; Text::CAPACITY],
    len: u8,
}

impl Text {
    const CAPACITY: usize = 110;

    /// Formats.
    pub fn new(args: fmt::Arguments<'_>) -> Self {
        let mut text = Text { bytes: [0; Text::CAPACITY], len: 0 };
        // `write_str` cuts and never fails.
        let _ = text.write_fmt(args);
        text
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            let at = usize::from(self.len);
            if let Some(room) = self.bytes.get_mut(at..at + c.len_utf8()) {
                c.encode_utf8(room);
                self.len += c.len_utf8() as u8;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?"))
    }
}

/// What was seen, or what is wrong.
pub type Verdict = Result<Text, Text>;

/// Ends a test with a reason unless a condition holds.
macro_rules! check {
    ($condition:expr, $($why:tt)*) => {
        if !$condition {
            return Err($crate::selftest::Text::new(format_args!($($why)*)));
        }
    };
}
/// Ends a test well, telling what was seen.
macro_rules! seen {
    ($($what:tt)*) => { Ok($crate::selftest::Text::new(format_args!($($what)*))) };
}
use {check, seen};

/// A test of the whole machine, run by the boot processor.
type Test = (&'static str, fn() -> Verdict);

/// Tests that every CPU runs for itself; what they say must hold on each.
const ON_EVERY_CPU: &[Test] = &[
    ("s00_boot.answers", s00_boot::answers),
    ("s00_boot.identity", s00_boot::identity),
    ("s00_boot.time_runs", s00_boot::time_runs),
    ("s00_boot.clocks_agree", s00_boot::clocks_agree),
    ("s00_boot.timer_fires", s00_boot::timer_fires),
    ("s01_traps.breakpoint", s01_traps::breakpoint),
    ("s01_traps.undefined", s01_traps::undefined),
    ("s01_traps.nmi", s01_traps::nmi),
    ("s01_traps.unmapped", s01_traps::unmapped),
    ("s01_traps.not_canonical", s01_traps::not_canonical),
    ("s01_traps.write_protection", s01_traps::write_protection),
    ("s01_traps.execute_protection", s01_traps::execute_protection),
    ("s01_traps.user_pages", s01_traps::user_pages),
    ("s01_traps.stack_guards", s01_traps::stack_guards),
    ("s02_memory.mappings", s02_memory::mappings),
    ("s02_memory.windows", s02_memory::windows),
    ("s02_memory.attributes", s02_memory::attributes),
    ("s02_memory.absent_threads", s02_memory::absent_threads),
    ("s02_memory.pool_stress", s02_memory::pool_stress),
    ("s02_memory.slab_stress", s02_memory::slab_stress),
];

/// Tests that only the boot processor runs.
const ON_BOOT_PROCESSOR: &[Test] = &[
    ("s00_boot.all_cpus", s00_boot::all_cpus),
    ("s00_boot.placement", s00_boot::placement),
    ("s00_boot.clocks", s00_boot::clocks),
    ("s00_boot.offsets_found", s00_boot::offsets_found),
    ("s02_memory.replicas", s02_memory::replicas),
    ("s02_memory.pools", s02_memory::pools),
    ("s02_memory.exhaustion", s02_memory::exhaustion),
    ("s02_memory.slabs", s02_memory::slabs),
];

/// Runs everything; true if all passed.
pub fn run() -> bool {
    let (mut passed, mut failed) = (0, 0);
    let mut report = |name: &str, verdict: &Verdict| {
        let (ok, detail) = match verdict {
            Ok(seen) => (true, seen),
            Err(why) => (false, why),
        };
        if ok {
            passed += 1
        } else {
            failed += 1
        }
        console::with(|out| {
            let detail = format_args!("{detail}");
            // The port cannot fail.
            let _ = record::Test { name, ok, detail }.write(out);
        });
    };
    for (name, test) in ON_BOOT_PROCESSOR {
        report(name, &test());
    }
    for (number, (name, _)) in ON_EVERY_CPU.iter().enumerate() {
        report(name, &on_every_cpu(number));
    }
    crate::println!("self-tests: {passed} passed, {failed} failed");
    failed == 0
}

/// Number of the test that the other CPUs run, plus one; 0 at first.
static ROUND: AtomicUsize = AtomicUsize::new(0);
/// CPUs that finished the round.
static FINISHED: AtomicU32 = AtomicU32::new(0);
/// The first failure of the round.
static FAILURE: Mutex<Option<Text>> = Mutex::new(None);

/// How long the slowest CPU may take for one test.
const PATIENCE_US: u64 = 30_000_000;

/// CPUs other than the boot processor that are up.
fn others() -> impl Iterator<Item = CpuId> {
    let all = 1..machine::get().topology.nr_cpus();
    all.map(|n| CpuId::new(n as u16)).filter(|&id| cpu::shared_of(id).is_some())
}

fn on_every_cpu(number: usize) -> Verdict {
    *FAILURE.lock() = None;
    FINISHED.store(0, Ordering::SeqCst);
    ROUND.store(number + 1, Ordering::SeqCst);
    for id in others() {
        if let Some(apic_id) = cpu::apic_id_of(id) {
            apic::send(vectors::REQUEST, apic_id);
        }
    }
    let own = one_cpu(number);
    let wanted = others().count() as u32;
    let start = cpu_ops::rdtsc();
    while FINISHED.load(Ordering::SeqCst) < wanted {
        let waited = clock::tsc_to_us(cpu_ops::rdtsc().wrapping_sub(start));
        let finished = FINISHED.load(Ordering::SeqCst);
        check!(waited < PATIENCE_US, "only {finished} of {wanted} other CPUs finished in time");
        core::hint::spin_loop();
    }
    match FAILURE.lock().take() {
        Some(why) => Err(why),
        None => own,
    }
}

/// Runs one test on this CPU and keeps its failure.
fn one_cpu(number: usize) -> Verdict {
    let Some((_, test)) = ON_EVERY_CPU.get(number) else { return seen!("") };
    let verdict = test();
    if let Err(why) = &verdict {
        let me = cpu::this().identity.id;
        FAILURE.lock().get_or_insert_with(|| Text::new(format_args!("cpu {me}: {why}")));
    }
    verdict
}

/// What the other CPUs do while the boot processor tests.
pub fn serve() -> ! {
    let mut served = 0;
    loop {
        let round = ROUND.load(Ordering::SeqCst);
        if round == served {
            probe::wait_for_interrupt();
            continue;
        }
        served = round;
        // A failure is kept in `FAILURE`.
        let _ = one_cpu(round - 1);
        FINISHED.fetch_add(1, Ordering::SeqCst);
    }
}
