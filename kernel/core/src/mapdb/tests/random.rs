//! Random operations on several spaces, compared with the oracle.

use std::collections::HashMap;

use super::check::{check, lookup};
use super::model::{Item, Key, Model};
use super::sim::{Shape, Sim};
use crate::mapdb::env::{Env, SpaceRef};
use crate::mapdb::flush::FlushSet;
use crate::mapdb::pte::{self, SHADOW};
use crate::mapdb::session::{Hint, Session};
use crate::mapdb::{DeleteOp, MapOp, Progress, UnmapOp, map_single, node};

const M: u64 = 1 << 20;
const PAGE: u64 = 4096;
const SPACES: u64 = 5;

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Frames whose every mapping the oracle knows: ends of pages of all sizes, the border between
/// the nodes, the border of the device.
pub fn samples() -> Vec<u64> {
    let mut all = vec![];
    for base in [M, 2 * M, 4 * M, 2048 * M, 2050 * M, 3072 * M] {
        all.extend([base, base + PAGE, base + 3 * PAGE]);
    }
    for base in [4 * M, 1027 * M, 1027 * M + 3 * PAGE, 2050 * M, 3072 * M] {
        all.extend([base - PAGE, base - 2 * PAGE]);
    }
    all.sort_unstable();
    all.dedup();
    all
}

pub struct Driver {
    pub sim: Sim,
    pub model: Model,
    pub rng: Rng,
    /// What the processors have cached: page to frame and whether writes go through.
    pub tlb: HashMap<Key, (u64, bool)>,
    exact_status: bool,
    pub max_log2: u64,
    pub pages_mapped: u64,
    /// Operations that the short paths did.
    short_paths: u64,
    singles: u64,
    parts: u64,
    hint: Hint,
}

impl Driver {
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            sim: Sim::new(shape, SPACES as usize),
            model: Model::new(samples(), shape.nx),
            rng: Rng(seed | 1),
            tlb: HashMap::new(),
            exact_status: shape.max_level == 1,
            max_log2: if shape.max_level == 1 { 16 } else { 31 },
            pages_mapped: 0,
            short_paths: 0,
            singles: 0,
            parts: 0,
            hint: Hint::NONE,
        }
    }

    fn space(&mut self) -> SpaceRef {
        SpaceRef(1 + self.rng.below(SPACES))
    }

    fn log2(&mut self) -> u64 {
        let r = self.rng.below(1000);
        let log2 = match r {
            0..700 => 12,
            700..800 => 13 + self.rng.below(3),
            800..880 => 16 + self.rng.below(5),
            880..960 => 21,
            960..985 => 22 + self.rng.below(3),
            985..995 => 30,
            _ => self.rng.pick(&[25, 29, 31]),
        };
        log2.min(self.max_log2)
    }

    pub fn va(&mut self) -> u64 {
        let top = self.rng.pick(&[0, 0, 0, 1 << 39, 255 << 39]);
        let g = self.rng.pick(&[0, 0, 1, 3]);
        let m = self.rng.pick(&[0, 0, 1, 2, 3, 511]);
        let k = self.rng.pick(&[0, 1, 2, 3, 510, 511]);
        top + (g << 30) + (m << 21) + (k << 12)
    }

    fn known(&mut self) -> Option<Key> {
        let n = self.model.pages.len() as u64;
        if n == 0 {
            return None;
        }
        let from = (self.space().0, self.va());
        let next = self.model.pages.range(from..).next();
        next.or_else(|| self.model.pages.iter().next()).map(|(k, _)| *k)
    }

    pub fn item(&mut self) -> Item {
        let len = 1 << self.log2();
        let rights = self.rng.pick(&[7, 7, 7, 6, 5, 4, 2, 1, 3]);
        let target = self.space();
        let target_va = self.va() & !(len - 1);
        let (source, at) = match self.rng.below(10) {
            0..3 => {
                let frame = self.rng.pick(&self.model.samples.clone());
                (SpaceRef::PHYSICAL, frame)
            }
            3 => (self.space(), self.va()),
            _ => match self.known() {
                Some((space, va)) => (SpaceRef(space), va),
                None => (self.space(), self.va()),
            },
        };
        let grant = self.rng.below(6) == 0;
        Item { source, source_va: at & !(len - 1), target, target_va, len, rights, grant }
    }

    fn budget(&mut self) -> i32 {
        if self.rng.below(3) == 0 { 1 + self.rng.below(12) as i32 } else { 10_000 }
    }

    /// Runs steps until the operation is over. True if it was not cut short by lack of memory.
    pub fn run(
        &mut self,
        mut step: impl FnMut(&mut Session<'_, Sim>, &mut i32) -> Result<Progress, ()>,
    ) -> bool {
        let mut result = Ok(Progress::More);
        while result == Ok(Progress::More) {
            let mut flush = FlushSet::new();
            let mut budget = self.budget();
            let mut session = Session::new(&self.sim, &mut flush);
            if self.rng.below(4) == 0 {
                session.guess(self.hint);
            }
            result = step(&mut session, &mut budget);
            self.hint = session.hint();
            drop(session);
            self.flushed(&flush);
            flush.take_retired(&self.sim);
        }
        result.is_ok()
    }

    /// The translation caches forget what they were told; the rest must still be right.
    fn flushed(&mut self, flush: &FlushSet) {
        let sim = &self.sim;
        self.tlb.retain(|&(space, va), &mut (frame, write)| {
            if flush.covers(SpaceRef(space), va) {
                return false;
            }
            let page = lookup(sim, SpaceRef(space), va)
                .unwrap_or_else(|| panic!("stale translation of {space} {va:#x}"));
            assert_eq!(page.frame, frame, "stale translation of {space} {va:#x}");
            assert!(!write || page.entry & pte::W != 0, "stale write permission at {va:#x}");
            assert!(page.entry & pte::A != 0, "cached, but not marked as accessed");
            assert!(!write || page.entry & pte::D != 0, "cached dirty, but not marked");
            true
        });
    }

    pub fn map(&mut self) {
        let item = self.item();
        self.map_item(item);
    }

    /// 4 KiB of a page that somebody has, of whatever size that is.
    fn map_part(&mut self) {
        let Some((space, va)) = self.known() else { return };
        let source = (SpaceRef(space), va & !(PAGE - 1));
        let item = self.item();
        let target_va = item.target_va & !(PAGE - 1);
        self.map_item(Item { source: source.0, source_va: source.1, target_va, len: PAGE, ..item });
    }

    fn map_item(&mut self, item: Item) {
        let overlap = item.source == item.target
            && item.source_va < item.target_va + item.len
            && item.target_va < item.source_va + item.len;
        if overlap && item.source_va != item.target_va {
            return;
        }
        let mut item = item;
        item.grant &= self.model.can_judge_grant(&item);
        let plan = self.model.prepare(&self.sim, &item);
        let from = (item.source, item.source_va);
        let to = (item.target, item.target_va);
        trace(|| format!("{item:x?}"));
        if item.len == PAGE && !item.grant && self.rng.below(2) == 0 && self.short_map(&item) {
            self.model.map(&self.sim, &item, &plan);
            return;
        }
        let mut op = MapOp::new(&self.sim, from, to, item.len, item.rights, item.grant);
        let complete = self.run(|s, budget| op.step(s, budget).map_err(|_| ()));
        if complete && !self.sim.failed.get() {
            self.pages_mapped += plan.len() as u64;
            self.model.map(&self.sim, &item, &plan);
        } else {
            self.resync();
        }
    }

    /// A short path for one page; false if none applies.
    fn short_map(&mut self, item: &Item) -> bool {
        let (from, to) = ((item.source, item.source_va), (item.target, item.target_va));
        if self.rng.below(2) == 0 && map_single(&self.sim, self.hint, from, to, item.rights) {
            // Now there is a page.
            assert!(!map_single(&self.sim, self.hint, from, to, item.rights));
            self.singles += 1;
            let source = lookup(&self.sim, item.source, item.source_va);
            let level = source.map_or(0, |page| node::level(self.sim.read(page.node + node::INFO)));
            self.parts += u64::from(level > 1);
            return true;
        }
        let mut flush = FlushSet::new();
        let mut session = Session::new(&self.sim, &mut flush);
        session.guess(self.hint);
        let done = session.map_page(from, to, item.rights).is_some();
        if done && self.rng.below(2) == 0 {
            // Again, from the tables at hand: there is a page now.
            assert_eq!(session.map_page(from, to, item.rights), None);
        }
        drop(session);
        self.short_paths += done as u64;
        self.flushed(&flush);
        done
    }

    fn short_unmap(&mut self, space: u64, va: u64, own: bool) -> Option<u8> {
        let mut flush = FlushSet::new();
        let mut session = Session::new(&self.sim, &mut flush);
        let status = session.unmap_page(SpaceRef(space), va, own);
        drop(session);
        self.short_paths += status.is_some() as u64;
        self.flushed(&flush);
        status
    }

    pub fn unmap(&mut self) {
        let len = if self.rng.below(200) == 0 { 0 } else { 1 << self.log2() };
        let (mut space, mut va) = self.known().map_or((1, 0), |(s, va)| (s, va));
        if self.rng.below(12) == 0 {
            space = SpaceRef::PHYSICAL.0;
            va = self.rng.pick(&self.model.samples.clone());
        }
        va = if len == 0 { 0 } else { va & !(len - 1) };
        let rights = self.rng.pick(&[7, 7, 7, 0, 0, 2, 1, 4, 6, 5, 3]);
        let flush = self.rng.below(3) == 0;
        trace(|| format!("unmap {space:x} {va:#x}+{len:#x} rights {rights} flush {flush}"));
        let short = len == PAGE && rights == pte::ALL && self.rng.below(2) == 0;
        let status = match short.then(|| self.short_unmap(space, va, flush)).flatten() {
            Some(status) => status,
            None => {
                let mut op = UnmapOp::new(SpaceRef(space), va, len, rights, flush);
                self.run(|s, budget| Ok(op.step(s, budget)));
                op.status()
            }
        };
        if self.sim.failed.get() {
            self.resync();
            return;
        }
        let model_len = if len == 0 { u64::MAX } else { len };
        let want = self.model.unmap(SpaceRef(space), va, model_len, rights, flush);
        assert_eq!(want & !status, 0, "lost status of {space} {va:#x}+{len:#x}: {want} {status}");
        if self.exact_status && space != SpaceRef::PHYSICAL.0 {
            assert_eq!(status, want, "status of {space} {va:#x}+{len:#x}");
        }
    }

    /// A program reads or writes; the processor sets status bits and caches the translation.
    pub fn touch(&mut self) {
        let Some((space, va)) = self.known() else { return };
        let Some(page) = lookup(&self.sim, SpaceRef(space), va) else { return };
        trace(|| format!("touch {space} {va:#x}"));
        let write = self.rng.below(2) == 0 && page.entry & pte::W != 0;
        self.sim.fetch_or(page.at, if write { pte::A | pte::D } else { pte::A });
        self.model.touch((space, va), write);
        if self.tlb.len() < 48 {
            let cached = self.tlb.entry((space, va)).or_insert((page.frame, write));
            cached.1 |= write;
        }
    }

    pub fn delete(&mut self, space: SpaceRef) {
        trace(|| format!("delete {space:?}"));
        let mut op = DeleteOp::new(space);
        self.run(|s, budget| Ok(op.step(s, budget)));
        self.model.delete(space);
        self.tlb.retain(|k, _| k.0 != space.0);
    }

    /// The outcome of an operation that ran out of memory is not defined page by page.
    fn resync(&mut self) {
        self.sim.failed.set(false);
        check(&self.sim, true);
        let spaces: Vec<_> = (1..=SPACES).map(SpaceRef).collect();
        let real = self.real_pages();
        self.model.adopt(&self.sim, &spaces, real);
    }

    /// All pages of sample frames, from the real tables.
    fn real_pages(&self) -> Vec<(Key, u64, u8)> {
        let mut all = vec![];
        for space in 1..=SPACES {
            self.collect(space, self.sim.top(SpaceRef(space)), 4, 0, &mut all);
        }
        all
    }

    fn collect(&self, space: u64, table: u64, level: u8, base: u64, all: &mut Vec<(Key, u64, u8)>) {
        for i in 0..if level == 4 { 256 } else { 512 } {
            let at = table + i * 8;
            let entry = self.sim.read(at);
            let va = base + (i << pte::bits(level));
            if entry == 0 {
                continue;
            }
            if level == 4 || !pte::is_page(entry, level) {
                self.collect(space, entry & pte::ADDRESS, level - 1, va, all);
            } else if self.sim.read(at + SHADOW) != 0 {
                let frame = pte::frame(entry, level);
                let known = &self.model.samples;
                let first = known.partition_point(|&f| f < frame);
                for &f in &known[first..] {
                    if f - frame >= pte::size(level) {
                        break;
                    }
                    all.push(((space, va + f - frame), f, pte::rights(entry)));
                }
            }
        }
    }

    pub fn verify(&self) {
        check(&self.sim, true);
        self.model.compare(&self.sim);
        let real = self.real_pages();
        assert_eq!(real.len(), self.model.pages.len(), "pages that should not be there");
    }

    pub fn random_op(&mut self) {
        match self.rng.below(1000) {
            0..40 => self.map_part(),
            40..450 => self.map(),
            450..640 => self.unmap(),
            640..650 => self.attribute(),
            650..996 => self.touch(),
            _ => {
                let space = self.space();
                self.delete(space);
            }
        }
    }

    /// Everything goes; nothing may be left.
    pub fn finish(mut self) {
        for space in 1..=SPACES {
            self.delete(SpaceRef(space));
        }
        self.verify();
        assert!(self.model.pages.is_empty());
        self.delete(SpaceRef::PHYSICAL);
        check(&self.sim, true);
        assert_eq!(self.sim.nodes.get(), 0);
        assert_eq!(self.sim.indexes.get(), 0);
        assert_eq!(self.sim.tables.get(), 1 + SPACES);
    }
}

fn run(shape: Shape, seed: u64, ops: u64, verify_every: u64, fail: bool) {
    let mut driver = Driver::new(shape, seed);
    for i in 0..ops {
        trace(|| format!("operation {i}"));
        if fail && driver.rng.below(4) == 0 {
            let n = 1 + driver.rng.below(6);
            driver.sim.fail_in.set(n);
        }
        driver.random_op();
        driver.sim.fail_in.set(0);
        if verify_now(i, verify_every) {
            driver.verify();
        }
    }
    assert!(driver.short_paths > ops / 50, "the short paths were hardly used");
    assert!(driver.singles > ops / 500, "the short path for one page was hardly used");
    let parts = if !driver.exact_status { ops / 2_000 } else { 0 };
    assert!(driver.parts >= parts, "{} parts of larger pages took the short path", driver.parts);
    driver.finish();
}

pub const LARGE: Shape =
    Shape { max_level: 3, nx: true, pool_pages: if cfg!(miri) { 500 } else { 24_000 } };
pub const SMALL: Shape =
    Shape { max_level: 1, nx: true, pool_pages: if cfg!(miri) { 300 } else { 4_000 } };

/// MAPDB_FROM=n verifies after every operation from the nth on.
fn verify_now(i: u64, every: u64) -> bool {
    static FROM: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        std::env::var("MAPDB_FROM").ok().and_then(|v| v.parse().ok()).unwrap_or(u64::MAX)
    });
    i.is_multiple_of(every) || i >= *FROM
}

/// With MAPDB_TRACE set, prints what is done.
fn trace(what: impl Fn() -> String) {
    static ON: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("MAPDB_TRACE").is_some());
    if *ON {
        println!("{}", what());
    }
}

/// Fewer operations under miri.
pub fn scaled(ops: u64) -> u64 {
    if cfg!(miri) { 60 } else { ops }
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn all_page_sizes() {
    run(LARGE, 0x1234_5678, scaled(450_000), 1500, false);
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn two_page_sizes_without_no_execute() {
    let shape = Shape { max_level: 2, nx: false, ..LARGE };
    run(shape, 0xABCDE, scaled(200_000), 1000, false);
}

#[test]
fn small_pages_with_exact_status() {
    run(SMALL, 0x777, scaled(400_000), 500, false);
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn out_of_memory_anywhere() {
    run(LARGE, 0x4242, scaled(40_000), 500, true);
}
