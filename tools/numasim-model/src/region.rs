//! Regions of interest: what was counted between their markers, per CPU.

use crate::{
    counters::{Count, Counters, KERNEL, USER},
    cpu::{Cpu, Path},
    lines::Touched,
};
use std::collections::HashMap;

/// Smallest, largest and sum of a quantity over the occurrences of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Occurrences.
    pub n: u64,
    /// Sum.
    pub sum: u64,
    /// Smallest (0 if there was none).
    pub min: u64,
    /// Largest.
    pub max: u64,
}

impl Spread {
    /// Adds one occurrence.
    pub fn add(&mut self, value: u64) {
        self.min = if self.n == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.sum += value;
        self.n += 1;
    }
}

/// How a line was touched: flags of a [`Touched`] line, for the kernel; shifted by 3 for user mode.
pub mod touch {
    /// Fetched from.
    pub const CODE: u8 = 1;
    /// Loaded from.
    pub const READ: u8 = 2;
    /// Stored to.
    pub const WRITTEN: u8 = 4;
    /// Any of them in kernel mode.
    pub const KERNEL: u8 = 7;
}

/// A reading taken when a region opens.
#[derive(Clone, Debug)]
pub struct Reading {
    counters: Counters,
    clock: u64,
    waited: u64,
    path: Path,
}

impl Reading {
    fn of(cpu: &Cpu) -> Reading {
        Reading {
            counters: cpu.counters.clone(),
            clock: cpu.clock,
            waited: cpu.waited,
            path: cpu.path(),
        }
    }
}

/// The latency path of a region, where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathSpread {
    /// Cycles from the opening CPU's clock to the closing CPU's.
    pub cycles: Spread,
    /// Kernel instructions on the path.
    pub kernel: Spread,
    /// User instructions on the path.
    pub user: Spread,
    /// Changes of CPU on the path.
    pub hops: Spread,
    /// Occurrences whose chain does not begin at the opening: no statement possible.
    pub broken: u64,
}

/// What one CPU did in a region.
#[derive(Debug, Default)]
pub struct Slot {
    open: Option<Reading>,
    /// Sum of everything counted.
    pub sum: Counters,
    /// Own cycles per occurrence.
    pub cycles: Spread,
    /// Own kernel instructions per occurrence.
    pub kernel: Spread,
    /// Own user instructions per occurrence.
    pub user: Spread,
    /// Cycles of `cycles` in which it waited for other CPUs.
    pub waited: u64,
    /// The latency path, on the CPU where the region is closed.
    pub path: PathSpread,
    /// Lines touched.
    pub lines: Touched,
    /// Lines that the kernel touched, and how: what did so first.
    pub first: HashMap<(u32, u8), Toucher>,
}

/// Who touched a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toucher {
    /// The instruction, or the start of its line.
    pub pc: u64,
    /// The virtual address.
    pub address: u64,
}

/// A region: one id under one name.
#[derive(Debug)]
pub struct Region {
    /// The id in its markers.
    pub id: u16,
    /// What NAME called it.
    pub name: String,
    /// What VALUE attached to it.
    pub values: Vec<u64>,
    /// Per CPU, where it was open.
    pub slots: Vec<Option<Box<Slot>>>,
    /// The CPU that opened it everywhere, if that is how it is open.
    opened_by: Option<usize>,
}

/// All regions.
#[derive(Debug, Default)]
pub struct Regions {
    /// In order of first use.
    pub list: Vec<Region>,
    current: HashMap<u16, usize>,
    epoch: u32,
    /// Markers that did not fit (END without BEGIN and the like): the guest is wrong.
    pub mistakes: Vec<String>,
}

impl Regions {
    /// Gives an id a name. A new name for a known id begins a new region.
    pub fn name(&mut self, id: u16, name: String, nr_cpus: usize) {
        let known = self.current.get(&id).map(|&i| (i, self.list[i].name.clone()));
        match known {
            Some((_, old)) if old == name => {}
            Some((i, old)) if old.is_empty() && self.list[i].slots.iter().all(Option::is_none) => {
                self.list[i].name = name;
            }
            _ => {
                let again = self.list.iter().position(|r| r.id == id && r.name == name);
                let at = again.unwrap_or_else(|| self.create(id, name, nr_cpus));
                self.current.insert(id, at);
            }
        }
    }

    /// Attaches a value to the region that the id stands for.
    pub fn value(&mut self, id: u16, value: u64, nr_cpus: usize) {
        let at = self.index(id, nr_cpus);
        self.list[at].values.push(value);
    }

    /// Opens a region on one CPU.
    pub fn begin(&mut self, cpus: &mut [Cpu], cpu: usize, id: u16) {
        let at = self.index(id, cpus.len());
        self.new_chain(&mut cpus[cpu]);
        self.open(cpus, cpu, at);
    }

    /// Closes a region on one CPU.
    pub fn end(&mut self, cpus: &mut [Cpu], cpu: usize, id: u16) {
        let at = self.index(id, cpus.len());
        if let Some(start) = self.close(cpus, cpu, at) {
            self.path(at, cpu, &start, &cpus[cpu]);
        } else {
            self.mistake(format!("END of region {id} on CPU {cpu}, where it is not open"));
        }
    }

    /// Opens a region on all CPUs.
    pub fn begin_all(&mut self, cpus: &mut [Cpu], cpu: usize, id: u16) {
        let at = self.index(id, cpus.len());
        self.new_chain(&mut cpus[cpu]);
        self.list[at].opened_by = Some(cpu);
        for other in 0..cpus.len() {
            self.open(cpus, other, at);
        }
    }

    /// Closes a region on all CPUs; its latency path ends on `cpu`.
    pub fn end_all(&mut self, cpus: &mut [Cpu], cpu: usize, id: u16) {
        let at = self.index(id, cpus.len());
        let Some(opener) = self.list[at].opened_by.take() else {
            return self.mistake(format!("END_ALL of region {id} on CPU {cpu}: it is not open"));
        };
        for other in 0..cpus.len() {
            if let Some(start) = self.close(cpus, other, at)
                && other == opener
            {
                self.path(at, cpu, &start, &cpus[cpu]);
            }
        }
    }

    /// Books a touched line in every region open on the CPU.
    pub fn touch(&mut self, open: &[usize], cpu: usize, line: u32, how: u8, by: Toucher) {
        for &at in open {
            if let Some(slot) = &mut self.list[at].slots[cpu] {
                // A line's flags say whether it has a first toucher: only then there is something to look up.
                if slot.lines.touch(line, how) && how & touch::KERNEL != 0 {
                    slot.first.entry((line, how)).or_insert(by);
                }
            }
        }
    }

    /// Lines that this CPU touched and another CPU, too, and that at least one of the two wrote to, with how this one
    /// touched them.
    #[must_use]
    pub fn shared_written(&self, region: &Region, cpu: usize) -> Vec<(u32, u8)> {
        let written = |how: u8| how & (touch::WRITTEN | touch::WRITTEN << 3) != 0;
        let Some(own) = &region.slots[cpu] else { return Vec::new() };
        let others = region.slots.iter().enumerate().filter(|&(c, _)| c != cpu);
        let others: Vec<&Touched> =
            others.filter_map(|(_, s)| s.as_ref().map(|s| &s.lines)).collect();
        let shared = |&(line, how): &(u32, u8)| {
            let hows = others.iter().map(|l| l.get(line)).filter(|&o| o != 0);
            hows.into_iter().any(|o| written(how) || written(o))
        };
        let mut lines: Vec<_> = own.lines.iter().filter(shared).collect();
        lines.sort_unstable();
        lines
    }

    /// Notes that the guest's markers are wrong; only the first few are kept.
    pub fn mistake(&mut self, what: String) {
        if self.mistakes.len() < 16 {
            self.mistakes.push(what);
        }
    }

    fn new_chain(&mut self, cpu: &mut Cpu) {
        self.epoch += 1;
        cpu.epoch = self.epoch;
    }

    fn index(&mut self, id: u16, nr_cpus: usize) -> usize {
        if let Some(&at) = self.current.get(&id) {
            return at;
        }
        let at = self.create(id, String::new(), nr_cpus);
        self.current.insert(id, at);
        at
    }

    fn create(&mut self, id: u16, name: String, nr_cpus: usize) -> usize {
        let slots = (0..nr_cpus).map(|_| None).collect();
        self.list.push(Region { id, name, values: Vec::new(), slots, opened_by: None });
        self.list.len() - 1
    }

    fn open(&mut self, cpus: &mut [Cpu], cpu: usize, at: usize) {
        let c = &mut cpus[cpu];
        c.reset_filters();
        if c.open.contains(&at) {
            let id = self.list[at].id;
            self.mistake(format!("region {id} opened twice on CPU {cpu}"));
        } else {
            c.open.push(at);
        }
        let slot = self.list[at].slots[cpu].get_or_insert_default();
        match &mut slot.open {
            Some(reading) => *reading = Reading::of(c),
            None => slot.open = Some(Reading::of(c)),
        }
    }

    fn close(&mut self, cpus: &mut [Cpu], cpu: usize, at: usize) -> Option<Reading> {
        let c = &mut cpus[cpu];
        c.open.retain(|&o| o != at);
        let slot = self.list[at].slots[cpu].as_mut()?;
        let start = slot.open.take()?;
        let own = |bank| {
            c.counters.get(bank, Count::Instructions)
                - start.counters.get(bank, Count::Instructions)
        };
        slot.kernel.add(own(KERNEL));
        slot.user.add(own(USER));
        slot.cycles.add(c.clock - start.clock);
        slot.waited += c.waited - start.waited;
        slot.sum.add_difference(&c.counters, &start.counters);
        Some(start)
    }

    fn path(&mut self, at: usize, cpu: usize, start: &Reading, end: &Cpu) {
        let Some(slot) = &mut self.list[at].slots[cpu] else { return };
        let now = end.path();
        if now.epoch < start.path.epoch {
            slot.path.broken += 1;
            return;
        }
        slot.path.cycles.add(end.clock.saturating_sub(start.clock));
        slot.path.kernel.add(now.kernel.wrapping_sub(start.path.kernel));
        slot.path.user.add(now.user.wrapping_sub(start.path.user));
        slot.path.hops.add(u64::from(now.hops.wrapping_sub(start.path.hops)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, TEST_MACHINE};

    fn cpus() -> Vec<Cpu> {
        let config = Config::parse(TEST_MACHINE).expect("parses");
        (0..4).map(|i| Cpu::new(&config, i)).collect()
    }

    fn run(cpu: &mut Cpu, kernel: u64, user: u64) {
        cpu.counters.add(KERNEL, Count::Instructions, kernel);
        cpu.counters.add(USER, Count::Instructions, user);
        cpu.clock += kernel + user;
    }

    #[test]
    fn a_region_counts_between_its_markers_only() {
        let (mut c, mut r) = (cpus(), Regions::default());
        run(&mut c[0], 5, 5);
        for i in 1..=3 {
            r.begin(&mut c, 0, 7);
            run(&mut c[0], 10 * i, i);
            r.end(&mut c, 0, 7);
            run(&mut c[0], 1000, 1000);
        }
        let slot = r.list[0].slots[0].as_ref().expect("was open");
        assert_eq!(slot.kernel, Spread { n: 3, sum: 60, min: 10, max: 30 });
        assert_eq!(slot.user, Spread { n: 3, sum: 6, min: 1, max: 3 });
        assert_eq!(slot.cycles.sum, 66);
        assert_eq!(slot.path.kernel, slot.kernel, "nothing crossed CPUs");
        assert!(r.list[0].slots[1].is_none() && r.mistakes.is_empty());
    }

    #[test]
    fn a_region_over_all_cpus_has_a_path_across_them() {
        let (mut c, mut r) = (cpus(), Regions::default());
        c[2].clock = 77;
        r.begin_all(&mut c, 0, 1);
        run(&mut c[0], 100, 0);
        let (path, time) = (c[0].path(), c[0].clock + 1000);
        run(&mut c[0], 50, 0);
        c[2].continue_from(path, time);
        run(&mut c[2], 40, 2);
        r.end_all(&mut c, 2, 1);
        let slot = |i: usize| r.list[0].slots[i].as_ref().expect("was open");
        assert_eq!(slot(0).kernel.sum, 150, "all that the sender did");
        assert_eq!(slot(2).kernel.sum, 40);
        let p = slot(2).path;
        assert_eq!((p.kernel.sum, p.user.sum, p.hops.sum, p.broken), (140, 2, 1, 0));
        assert_eq!(p.cycles.sum, 1142);
        assert_eq!(slot(0).path, PathSpread::default());
        r.begin_all(&mut c, 0, 1);
        r.end_all(&mut c, 3, 1);
        let slot = r.list[0].slots[3].as_ref().expect("was open");
        assert_eq!(slot.path.broken, 1, "CPU 3 never heard of CPU 0");
    }

    #[test]
    fn names_begin_new_regions() {
        let (mut c, mut r) = (cpus(), Regions::default());
        for (name, n) in [("a", 1), ("b", 10), ("a", 100)] {
            r.name(3, name.into(), 4);
            r.begin(&mut c, 1, 3);
            run(&mut c[1], n, 0);
            r.end(&mut c, 1, 3);
        }
        let sums: Vec<_> = r
            .list
            .iter()
            .map(|l| (l.name.as_str(), l.slots[1].as_ref().map(|s| s.kernel.sum)))
            .collect();
        assert_eq!(sums, [("a", Some(101)), ("b", Some(10))]);
    }

    #[test]
    fn shared_lines_need_a_writer() {
        let (mut c, mut r) = (cpus(), Regions::default());
        r.begin_all(&mut c, 0, 1);
        let open = c[0].open.clone();
        let by = |pc| Toucher { pc, address: 64 * pc };
        r.touch(&open, 0, 10, touch::READ, by(1));
        r.touch(&open, 1, 10, touch::READ, by(2));
        r.touch(&open, 0, 11, touch::WRITTEN, by(3));
        r.touch(&open, 0, 12, touch::READ, by(4));
        r.touch(&open, 0, 12, touch::READ, by(5));
        r.touch(&open, 1, 12, touch::WRITTEN << 3, by(6));
        r.end_all(&mut c, 0, 1);
        let shared: Vec<_> = (0..3).map(|i| r.shared_written(&r.list[0], i)).collect();
        assert_eq!(shared, [vec![(12, touch::READ)], vec![(12, touch::WRITTEN << 3)], vec![]]);
        let firsts = |cpu: usize| r.list[0].slots[cpu].as_ref().map(|s| &s.first);
        assert_eq!(firsts(0).and_then(|f| f.get(&(12, touch::READ))), Some(&by(4)), "the first");
        assert_eq!(firsts(1).map(|f| f.len()), Some(1), "user mode is not asked");
    }

    #[test]
    fn wrong_markers_are_reported() {
        let (mut c, mut r) = (cpus(), Regions::default());
        r.end(&mut c, 0, 9);
        r.end_all(&mut c, 0, 8);
        r.begin(&mut c, 0, 7);
        r.begin(&mut c, 0, 7);
        assert_eq!(r.mistakes.len(), 3);
    }
}
