//! Page tables of spaces.

use core::fmt::{self, Write};

use kcore::kdb::Thread;
use kcore::layout::{MAX_CPUS, USER_END};
use kcore::mapdb::pte;

use super::memory::{self, Place, word};
use super::threads;

/// Runs shown at most.
const MOST: usize = 40;
/// Entries looked at, at most.
const PATIENCE: usize = 200_000;

/// Rights and attributes of an entry.
struct Kind(u64, u8);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind(entry, level) = *self;
        let letter = |bit: u64, letter: char| if entry & bit != 0 { letter } else { '-' };
        let x = if entry & pte::NX == 0 { 'x' } else { '-' };
        write!(f, "r{}{x}{}", letter(pte::W, 'w'), letter(pte::U, 'u'))?;
        let pat = if level == 1 { pte::PAT_SMALL } else { pte::PAT_LARGE };
        write!(f, " {}{}{}", letter(pat, 'p'), letter(pte::PCD, 'c'), letter(pte::PWT, 't'))
    }
}

/// The walk to an address, table by table, and what the CPUs' roots say.
pub fn walk(out: &mut impl Write, t: Thread, va: u64) -> fmt::Result {
    let Some(space) = threads::space_of(out, t)? else { return Ok(()) };
    if va >= USER_END.as_u64() {
        return writeln!(out, "{va:#x} is not in the user half");
    }
    let top = space.top().as_u64();
    let mut result = Ok(());
    let place = memory::walk(top, va, &mut |level, table, entry| {
        let index = va >> pte::bits(level) & 511;
        let line = writeln!(out, "  level {level} table {table:#x} [{index:3}] {entry:#018x}");
        result = result.and(line);
    });
    result?;
    match place {
        None => writeln!(out, "  there is no table")?,
        Some(p) if p.is_page() => {
            let accessed = if p.entry & pte::A != 0 { " referenced" } else { "" };
            let dirty = if p.entry & pte::D != 0 { " written" } else { "" };
            let size = pte::size(p.level) >> 10;
            writeln!(
                out,
                "{va:#x} is {:#x}, page of {size} KiB {}{accessed}{dirty}",
                p.phys(va),
                Kind(p.entry, p.level)
            )?;
        }
        Some(p) => writeln!(out, "{va:#x} is not mapped: nothing at level {}", p.level)?,
    }
    let slot = (va >> pte::bits(4) & 511) * 8;
    let own = word(top + slot);
    for number in (0..MAX_CPUS).filter(|&n| space.root_on(n) != 0) {
        let entry = word(space.root_on(number) + slot);
        let differs = entry.map(|e| e & !pte::A) != own.map(|e| e & !pte::A);
        if differs {
            writeln!(out, "  the root of cpu{number} differs: {:#018x}", entry.unwrap_or(0))?;
        }
    }
    Ok(())
}

/// A run of like pages, one behind the other.
struct Run {
    va: u64,
    phys: u64,
    length: u64,
    kind: u64,
    level: u8,
}

impl Run {
    /// Bits that make a difference.
    const KIND: u64 = pte::W | pte::U | pte::PWT | pte::PCD | pte::NX;

    fn goes_on(&self, va: u64, place: Place) -> bool {
        self.va + self.length == va
            && self.phys + self.length == place.phys(va)
            && self.level == place.level
            && self.kind == place.entry & Self::KIND
    }

    fn show(&self, out: &mut impl Write) -> fmt::Result {
        let end = self.va + self.length;
        let pages = self.length / pte::size(self.level);
        writeln!(
            out,
            "  {:#014x}..{end:#014x} -> {:#x} {} {pages} pages of {} KiB",
            self.va,
            self.phys,
            Kind(self.kind, self.level),
            pte::size(self.level) >> 10
        )
    }
}

/// What is mapped from `start` on, in runs.
pub fn list(out: &mut impl Write, t: Thread, start: u64) -> fmt::Result {
    let Some(space) = threads::space_of(out, t)? else { return Ok(()) };
    let top = space.top().as_u64();
    let (mut va, mut shown) = (start & !0xFFF, 0);
    let mut run: Option<Run> = None;
    for _ in 0..PATIENCE {
        if va >= USER_END.as_u64() {
            break;
        }
        let Some(place) = memory::walk(top, va, &mut |_, _, _| {}) else {
            return writeln!(out, "  a table on the way to {va:#x} is none");
        };
        let size = pte::size(place.level);
        va &= !(size - 1);
        if place.is_page() {
            match &mut run {
                Some(run) if run.goes_on(va, place) => run.length += size,
                _ => {
                    if let Some(run) = run.take() {
                        run.show(out)?;
                        shown += 1;
                    }
                    let (kind, level) = (place.entry & Run::KIND, place.level);
                    run = Some(Run { va, phys: place.phys(va), length: size, kind, level });
                }
            }
        }
        if shown == MOST {
            return writeln!(out, "and more from {va:#x} on");
        }
        va += size;
    }
    if let Some(run) = run {
        run.show(out)?;
        shown += 1;
    }
    if va < USER_END.as_u64() {
        return writeln!(out, "and perhaps more from {va:#x} on");
    }
    writeln!(out, "{shown} runs")
}
