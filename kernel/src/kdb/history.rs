//! The trace, as text.

use core::fmt::{self, Write};

use l4abi::trace::{Event, IDLE, Record};

use super::{cpus, shared};
use crate::cpu;
use crate::machine;

/// The last `count` records of each CPU.
pub fn last(out: &mut impl Write, count: u64) -> fmt::Result {
    if !machine::get().options.trace {
        return writeln!(out, "the kernel option trace=on records what happens");
    }
    let factor = cpu::this().scheduling.us_per_tick.get();
    for number in cpus(None) {
        let Some(ring) = shared(number).map(|s| &s.trace) else { continue };
        let kept = ring.kept();
        let start = kept.end.saturating_sub(count).max(kept.start);
        writeln!(out, "cpu{number}: {} records, the last {}", ring.written(), kept.end - start)?;
        for n in start..kept.end {
            let record = ring.record(n);
            let us = (u128::from(record.time) * u128::from(factor)) >> crate::time::SHIFT;
            line(out, us as u64, &record)?;
        }
    }
    Ok(())
}

fn line(out: &mut impl Write, us: u64, r: &Record) -> fmt::Result {
    let name = r.event().map_or("?", Event::name);
    write!(out, "{us:12} us  {name:17}")?;
    match r.thread() {
        IDLE => out.write_str("      -")?,
        number => write!(out, " {number:6}")?,
    }
    writeln!(out, " {:#6x} {:#x} {:#x}", r.detail(), r.a, r.b)
}
