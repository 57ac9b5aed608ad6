//! Translation and line accesses, and the rule that results do not precede their causes.

use super::{Block, RemoteKey, Sim};
use crate::{
    coherence::{Level, Port},
    config::Caches,
    counters::{Class, Count},
    cpu::{Cpu, Fetched, Operand, Pending, Stamp},
    phys::Place,
    region::{Toucher, touch},
    walk::{Guest, Target, Walk, walk},
};

/// Instructions after a PAUSE within which a load counts as the poll that the PAUSE belongs to.
const POLL_DISTANCE: u64 = 1000;

impl Sim {
    /// One access to a line of RAM: caches, counters, clock, touched lines, causality.
    pub(super) fn line(
        &mut self,
        cpu: usize,
        class: Class,
        place: Place,
        address: u64,
        store: bool,
        how: u8,
    ) {
        if class != Class::Fetch {
            self.wait_for_writer(cpu, place.line());
        }
        let port = if class == Class::Fetch { Port::Code } else { Port::Data };
        let out = self.caches.access(cpu, place.line(), place.node, port, store);
        let c = &mut self.cpus[cpu];
        c.clock += out.cycles;
        if out.level != Level::L1 {
            // What was displaced may have been a line of code.
            c.doubt_fetched();
        }
        let bank = c.mode;
        c.counters.access(bank, class, out.level);
        if out.invalidated > 0 || out.invalidated_far {
            c.counters.add(bank, Count::Upgrades, 1);
            c.counters.add(bank, Count::Invalidations, u64::from(out.invalidated));
            c.counters.add(bank, Count::InvalidationsFar, u64::from(out.invalidated_far));
        }
        c.counters.add(bank, Count::WritebacksLocal, u64::from(out.writebacks_local));
        c.counters.add(bank, Count::WritebacksFar, u64::from(out.writebacks_far));
        if c.open.is_empty() {
            return;
        }
        let how = if bank == crate::counters::USER { how << 3 } else { how };
        self.regions.touch(&c.open, cpu, place.line(), how, Toucher { pc: c.pc, address });
        let remote = match out.level {
            Level::Memory(home) => home != c.node,
            Level::CacheFar => true,
            _ => false,
        };
        if remote && self.config.trace_remote {
            for &region in &c.open {
                let key = RemoteKey {
                    region,
                    cpu,
                    class: class as usize,
                    pc: c.pc,
                    address,
                    home: place.node,
                };
                *self.remote.entry(key).or_insert(0) += 1;
            }
        }
    }

    /// Leaves the writer's time and chain at a line.
    pub(super) fn stamp(&mut self, cpu: usize, line: u32) {
        let c = &self.cpus[cpu];
        *self.stamps.entry(line) =
            Stamp { time: c.clock, path: c.path(), slice: self.slice, writer: cpu as u8 + 1 };
    }

    /// If another CPU has written to the line at a later time, this CPU waits for that time. A CPU
    /// that polls also continues the writer's chain if the write was made since its last PAUSE, even
    /// if its own clock is already later: what it did meanwhile was only waiting.
    fn wait_for_writer(&mut self, cpu: usize, line: u32) {
        let stamp = self.stamps.get(line);
        if stamp.writer == 0 || usize::from(stamp.writer) == cpu + 1 {
            return;
        }
        let c = &mut self.cpus[cpu];
        let news = c.paused_at.is_some_and(|(at, slice)| {
            stamp.slice > slice && c.instructions() - at < POLL_DISTANCE
        });
        if stamp.time > c.clock || news {
            c.continue_from(stamp.path, stamp.time);
        }
    }

    /// The guest-physical address of a data access.
    pub(super) fn translate(&mut self, cpu: usize, vaddr: u64, guest: &impl Guest) -> Option<u64> {
        self.apply_pending(cpu, guest);
        if let Some(gpa) = self.cpus[cpu].dtlb.lookup(vaddr) {
            return Some(gpa);
        }
        let found = self.walk(cpu, vaddr, guest);
        let says = guest.emulator_says(vaddr);
        let Some(mapping) = found.and_then(|w| w.mapping) else {
            self.checks.untranslated += 1;
            return says.map(|t| match t {
                Target::Memory(gpa) | Target::Device(gpa) => gpa,
            });
        };
        self.cpus[cpu].dtlb.insert(mapping);
        let gpa = mapping.translate(vaddr);
        if let Some(says) = says {
            self.checks.walks += 1;
            let same = match says {
                Target::Memory(there) => there == gpa,
                Target::Device(_) => self.ram.locate(gpa).is_none(),
            };
            self.checks.walks_wrong += u64::from(!same);
        }
        Some(gpa)
    }

    /// A fetch from another line than the last one.
    pub(super) fn fetch_line(&mut self, cpu: usize, block: &Block, guest: &impl Guest) {
        let c = &mut self.cpus[cpu];
        let now = Fetched { line: block.vaddr >> 6, place: None, mode: c.mode };
        let before = std::mem::replace(&mut c.fetched, now);
        // Any miss from here on takes this back.
        c.fetched_before = before;
        let place = block.gpa.and_then(|gpa| {
            self.fetch_walk(cpu, block.vaddr, gpa, guest);
            let place = self.ram.locate(gpa)?;
            self.line(cpu, Class::Fetch, place, block.vaddr, false, touch::CODE);
            Some(place)
        });
        self.checks.fetch_unknown += u64::from(block.gpa.is_none());
        let line = place.map(Place::line);
        let apart = before.place.zip(line).is_some_and(|(before_line, line)| {
            self.config.mode() == Caches::On
                && self.caches.in_other_set(Port::Code, before_line, line)
                && self.cpus[cpu].itlb.is_apart(before.line << 6, block.vaddr)
        });
        let c = &mut self.cpus[cpu];
        c.fetched.place = line;
        if !apart {
            c.fetched_before = Fetched::NOTHING;
        }
    }

    /// Models the walk for a fetch if its page is not in the instruction TLB.
    pub(super) fn fetch_walk(&mut self, cpu: usize, vaddr: u64, gpa: u64, guest: &impl Guest) {
        if self.cpus[cpu].itlb.lookup(vaddr).is_some() {
            return;
        }
        self.cpus[cpu].doubt_fetched();
        let Some(mapping) = self.walk(cpu, vaddr, guest).and_then(|w| w.mapping) else {
            self.checks.untranslated += 1;
            return;
        };
        self.checks.walks += 1;
        self.checks.walks_wrong += u64::from(mapping.translate(vaddr) != gpa);
        self.cpus[cpu].itlb.insert(mapping);
    }

    /// What the hardware reads at a page fault on `vaddr`: the walk that found nothing.
    pub(super) fn faulting_walk(&mut self, cpu: usize, vaddr: u64, guest: &impl Guest) {
        let c = &mut self.cpus[cpu];
        c.doubt_fetched();
        // SDM 3A 4.10.4.1: a page fault drops the entry of the faulting address.
        c.itlb.invalidate(vaddr);
        c.dtlb.invalidate(vaddr);
        self.walk(cpu, vaddr, guest);
    }

    /// Flushes what CR3 loads, INVLPG and mode changes since the last access ask for.
    #[inline]
    pub(super) fn apply_pending(&mut self, cpu: usize, guest: &impl Guest) {
        if !matches!(self.cpus[cpu].pending, Pending::Nothing) {
            self.flush_pending(cpu, guest);
        }
    }

    #[cold]
    fn flush_pending(&mut self, cpu: usize, guest: &impl Guest) {
        let c = &mut self.cpus[cpu];
        let pending = std::mem::replace(&mut c.pending, Pending::Nothing);
        c.reset_filters();
        c.walk_cache.clear();
        match pending {
            Pending::Nothing => {}
            Pending::Page(operand) => {
                let vaddr = address(operand, guest);
                c.itlb.invalidate(vaddr);
                c.dtlb.invalidate(vaddr);
            }
            Pending::Context | Pending::All => {
                c.control = guest.control(cpu);
                let keep_global = pending == Pending::Context;
                c.itlb.flush(keep_global);
                c.dtlb.flush(keep_global);
            }
        }
    }

    fn walk(&mut self, cpu: usize, vaddr: u64, guest: &impl Guest) -> Option<Walk> {
        let c = &self.cpus[cpu];
        let key = vaddr >> 21;
        let from = c.walk_cache.iter().find(|e| e.0 == key).map(|e| e.1);
        let out = walk(guest, c.control, vaddr, from)?;
        if out.reads > 0 {
            let c = &mut self.cpus[cpu];
            c.counters.add(c.mode, Count::Walks, 1);
        }
        for &gpa in &out.entries[..out.reads] {
            if let Some(place) = self.ram.locate(gpa) {
                self.line(cpu, Class::Walk, place, gpa, false, touch::READ);
            }
        }
        if let Some(table) = out.last_table {
            remember(&mut self.cpus[cpu], key, table, self.config.walk_cache);
        }
        Some(out)
    }
}

fn remember(cpu: &mut Cpu, key: u64, table: u64, size: usize) {
    cpu.walk_cache.retain(|e| e.0 != key);
    cpu.walk_cache.insert(0, (key, table));
    cpu.walk_cache.truncate(size);
}

fn address(operand: Operand, guest: &impl Guest) -> u64 {
    let base = operand.base.map_or(0, |r| guest.register(r));
    let index =
        operand.index.map_or(0, |(r, factor)| guest.register(r).wrapping_mul(u64::from(factor)));
    base.wrapping_add(index).wrapping_add(operand.displacement)
}
