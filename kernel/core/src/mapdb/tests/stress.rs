//! Several unfinished operations at once, a few entries at a time in random order. Their joint
//! outcome has no simple oracle; but the structure must stay sound, nothing may leak, and what an
//! unmap has promised holds when it returns.

use super::check::{check, lookup};
use super::random::{Driver, LARGE, Rng, SMALL, scaled};
use super::sim::{Shape, Sim};
use crate::mapdb::env::{Env, SpaceRef};
use crate::mapdb::flush::FlushSet;
use crate::mapdb::pte;
use crate::mapdb::session::Session;
use crate::mapdb::{DeleteOp, MapOp, Progress, UnmapOp};
use crate::types::{NodeId, PhysAddr};

enum Op {
    Map(MapOp),
    Unmap(UnmapOp),
}

impl Op {
    fn random(driver: &mut Driver, rng: &mut Rng) -> Self {
        if rng.below(3) > 0 {
            let item = driver.item();
            let from = (item.source, item.source_va);
            let to = (item.target, item.target_va);
            Op::Map(MapOp::new(&driver.sim, from, to, item.len, item.rights, item.grant))
        } else {
            let item = driver.item();
            let flush = rng.below(3) == 0;
            Op::Unmap(UnmapOp::new(item.source, item.source_va, item.len, item.rights, flush))
        }
    }

    fn step(&mut self, sim: &Sim, budget: i32) -> bool {
        let mut flush = FlushSet::new();
        let mut budget = budget;
        let mut s = Session::new(sim, &mut flush);
        let done = match self {
            Op::Map(op) => op.step(&mut s, &mut budget) != Ok(Progress::More),
            Op::Unmap(op) => op.step(&mut s, &mut budget) == Progress::Done,
        };
        drop(s);
        flush.take_retired(sim);
        done
    }

    fn cancel(&mut self, sim: &Sim) {
        let mut flush = FlushSet::new();
        let mut s = Session::new(sim, &mut flush);
        match self {
            Op::Map(op) => op.cancel(&mut s),
            Op::Unmap(op) => op.cancel(&mut s),
        }
        drop(s);
        flush.take_retired(sim);
    }
}

fn interleave(shape: Shape, seed: u64, steps: u64, fail: bool) {
    let mut driver = Driver::new(shape, seed);
    driver.max_log2 = driver.max_log2.min(22);
    let mut rng = Rng(seed ^ 0x5555);
    let mut ops: Vec<Op> = vec![];
    for i in 0..steps {
        if ops.len() < 8 {
            ops.push(Op::random(&mut driver, &mut rng));
        }
        if fail && rng.below(8) == 0 {
            driver.sim.fail_in.set(1 + rng.below(4));
        }
        let n = rng.below(ops.len() as u64) as usize;
        if rng.below(100) == 0 {
            ops.swap_remove(n).cancel(&driver.sim);
        } else {
            let budget = 1 + rng.below(6) as i32;
            if ops[n].step(&driver.sim, budget) {
                ops.swap_remove(n);
            }
        }
        driver.sim.fail_in.set(0);
        if i % 1000 == 0 {
            // Revocations in progress leave descendants with more than their ancestors for a while.
            check_structure(&driver.sim);
        }
    }
    for op in &mut ops {
        op.cancel(&driver.sim);
    }
    for space in 1..=5 {
        delete(&driver.sim, SpaceRef(space));
    }
    delete(&driver.sim, SpaceRef::PHYSICAL);
    check(&driver.sim, true);
    assert_eq!((driver.sim.nodes.get(), driver.sim.indexes.get()), (0, 0));
    assert_eq!(driver.sim.tables.get(), 6);
}

fn check_structure(sim: &Sim) {
    super::check::check_with(sim, false, false);
}

pub fn delete(sim: &Sim, space: SpaceRef) {
    let mut op = DeleteOp::new(space);
    let mut flush = FlushSet::new();
    loop {
        let mut s = Session::new(sim, &mut flush);
        let progress = op.step(&mut s, &mut 50);
        drop(s);
        flush.take_retired(sim);
        if progress == Progress::Done {
            break;
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn interleaved_operations_of_all_sizes() {
    interleave(LARGE, 0x99, scaled(60_000), false);
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn interleaved_operations_without_memory() {
    interleave(LARGE, 0x1F, scaled(40_000), true);
}

#[test]
fn interleaved_operations_on_small_pages() {
    interleave(SMALL, 0x3, scaled(200_000), false);
}

fn map(sim: &Sim, from: (SpaceRef, u64), to: (SpaceRef, u64), len: u64, rights: u8, grant: bool) {
    let mut flush = FlushSet::new();
    let mut s = Session::new(sim, &mut flush);
    let mut op = MapOp::new(sim, from, to, len, rights, grant);
    let r = op.step(&mut s, &mut i32::MAX.clone());
    assert_eq!(
        r,
        Ok(Progress::Done),
        "{} {} {}",
        sim.nodes.get(),
        sim.tables.get(),
        sim.indexes.get()
    );
    drop(s);
    flush.take_retired(sim);
}

fn unmap(sim: &Sim, space: SpaceRef, va: u64, len: u64, rights: u8, flush_own: bool) -> u8 {
    let mut flush = FlushSet::new();
    let mut s = Session::new(sim, &mut flush);
    let mut op = UnmapOp::new(space, va, len, rights, flush_own);
    assert_eq!(op.step(&mut s, &mut i32::MAX.clone()), Progress::Done);
    drop(s);
    flush.take_retired(sim);
    op.status()
}

const ROOT: SpaceRef = SpaceRef::PHYSICAL;
const A: SpaceRef = SpaceRef(1);
const B: SpaceRef = SpaceRef(2);
const C: SpaceRef = SpaceRef(3);
const FRAME: u64 = 2048 << 20;

#[test]
fn thousands_of_mappings_of_one_frame_go_in_bounded_steps() {
    let sim = Sim::new(LARGE, 5);
    map(&sim, (ROOT, FRAME), (A, 0x1000_0000), 4096, 7, false);
    let n = if cfg!(miri) { 40 } else { 5000 };
    for i in 0..n {
        map(&sim, (A, 0x1000_0000), (B, 0x1000_0000 + i * 4096), 4096, 7, false);
        map(&sim, (B, 0x1000_0000 + i * 4096), (C, 0x1000_0000 + i * 4096), 4096, 7, false);
    }
    assert_eq!(sim.nodes.get(), 2 * n + 2);
    let mut op = UnmapOp::new(A, 0x1000_0000, 4096, 7, false);
    let mut steps = 0;
    loop {
        let before = sim.nodes.get();
        let mut flush = FlushSet::new();
        let mut s = Session::new(&sim, &mut flush);
        let progress = op.step(&mut s, &mut 20);
        drop(s);
        assert!(before - sim.nodes.get() <= 22, "a step did more than it was allowed to");
        flush.take_retired(&sim);
        steps += 1;
        if progress == Progress::Done {
            break;
        }
        super::check::check_with(&sim, false, false);
        if steps == 30 {
            // Another thread of A does the same at once; the first has only its pins left.
            assert_eq!(unmap(&sim, A, 0x1000_0000, 4096, 7, false), 0);
            assert!(sim.nodes.get() <= 4);
        }
    }
    assert_eq!(sim.nodes.get(), 2);
    check(&sim, true);
}

/// While A's unmap is under way in small steps, everybody who has the page passes it on, grants it
/// and unmaps it. When it returns, nobody but A has it.
#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn an_unmap_keeps_its_promise_whatever_happens_meanwhile() {
    let mut rng = Rng(77);
    for round in 0..if cfg!(miri) { 3 } else { 300 } {
        let sim = Sim::new(Shape { pool_pages: 2000, ..LARGE }, 5);
        let large = round % 2 == 0;
        let len = if large { 1 << 21 } else { 4096 };
        map(&sim, (ROOT, FRAME), (A, 0x20_0000), len, 7, false);
        let spot = |rng: &mut Rng, len: u64| {
            (SpaceRef(2 + rng.below(4)), (0x100_0000 + rng.below(16) * 0x1000) & !(len - 1))
        };
        let pass_on = |rng: &mut Rng, len: u64| {
            let len = if rng.below(3) == 0 { len } else { 4096 };
            let (from, to) = (spot(rng, len), spot(rng, len));
            map(&sim, from, to, len, 7, rng.below(4) == 0);
        };
        for _ in 0..4 {
            let (space, va) = spot(&mut rng, len);
            map(&sim, (A, 0x20_0000), (space, va), len, 7, false);
        }
        for _ in 0..rng.below(60) {
            pass_on(&mut rng, len);
        }
        let rights = if rng.below(2) == 0 { 7 } else { 2 };
        let mut op = Op::Unmap(UnmapOp::new(A, 0x20_0000, len, rights, false));
        while !op.step(&sim, 4 + rng.below(3) as i32) {
            // One page at a time: who derives faster than the unmap goes on keeps ahead of it.
            pass_on(&mut rng, 4096);
            let (space, va) = spot(&mut rng, 4096);
            unmap(&sim, space, va, 4096, 7, rng.below(2) == 0);
        }
        for space in 2..=5 {
            for i in 0..1024 {
                let page = lookup(&sim, SpaceRef(space), 0x100_0000 + i * 4096);
                assert!(page.is_none_or(|p| rights == 2 && p.entry & pte::W == 0));
            }
        }
        assert_eq!(pte::rights(lookup(&sim, A, 0x20_0000).expect("A's page").entry), 7);
        check(&sim, true);
    }
}

#[test]
fn a_chain_of_any_depth_is_no_recursion() {
    let sim = Sim::new(SMALL, 5);
    map(&sim, (ROOT, FRAME), (A, 0), 4096, 7, false);
    let n = if cfg!(miri) { 40 } else { 20_000 };
    for i in 0..n {
        map(&sim, (A, i << 12), (A, (i + 1) << 12), 4096, 7, false);
    }
    unmap(&sim, A, 0, 4096, 7, false);
    assert_eq!(sim.nodes.get(), 2);
    check(&sim, true);
}

#[test]
fn grant_takes_the_senders_place() {
    let sim = Sim::new(LARGE, 5);
    map(&sim, (ROOT, FRAME), (A, 0x20_0000), 1 << 21, 7, false);
    map(&sim, (A, 0x20_0000), (B, 0x40_0000), 1 << 21, 7, false);
    map(&sim, (B, 0x40_1000), (C, 0x1000), 4096, 7, false);
    // B grants one page of its large page; C's older page stays.
    map(&sim, (B, 0x40_1000), (C, 0x80_0000), 4096, 7, true);
    assert!(lookup(&sim, B, 0x40_1000).is_none() && lookup(&sim, B, 0x40_2000).is_some());
    assert_eq!(lookup(&sim, C, 0x80_0000).map(|p| p.frame), Some(FRAME + 0x1000));
    check(&sim, true);
    unmap(&sim, B, 0x40_0000, 1 << 21, 7, true);
    assert!(lookup(&sim, C, 0x80_0000).is_some(), "B has no say any more");
    // A's right to take it back does not depend on who passed it on.
    unmap(&sim, A, 0x20_1000, 4096, 7, false);
    assert!(lookup(&sim, C, 0x80_0000).is_none() && lookup(&sim, C, 0x1000).is_none());
    check(&sim, true);
    // A whole page moves with what was derived from it.
    map(&sim, (A, 0x20_0000), (B, 0x80_0000), 1 << 21, 7, false);
    map(&sim, (B, 0x80_0000), (A, 0x100_0000), 4096, 7, false);
    map(&sim, (B, 0x80_0000), (C, 0x100_0000), 1 << 21, 7, true);
    assert!(lookup(&sim, B, 0x80_0000).is_none());
    unmap(&sim, C, 0x100_0000, 4096, 7, false);
    assert!(lookup(&sim, A, 0x100_0000).is_none() && lookup(&sim, C, 0x100_0000).is_some());
    check(&sim, true);
}

#[test]
fn status_is_kept_for_mappers_higher_up() {
    let sim = Sim::new(SMALL, 5);
    map(&sim, (ROOT, FRAME), (A, 0x1000), 4096, 7, false);
    map(&sim, (A, 0x1000), (B, 0x2000), 4096, 7, false);
    map(&sim, (B, 0x2000), (C, 0x3000), 4096, 7, false);
    let page = lookup(&sim, C, 0x3000).expect("page");
    sim.fetch_or(page.at, pte::A | pte::D);
    assert_eq!(unmap(&sim, B, 0x2000, 4096, 0, false), 7, "B reads it");
    assert_eq!(unmap(&sim, B, 0x2000, 4096, 0, false), 0, "and reset it for itself");
    assert_eq!(unmap(&sim, C, 0x3000, 4096, 0, true), 0, "C lost it");
    assert_eq!(unmap(&sim, A, 0x1000, 4096, 0, false), 7, "A still sees it");
    assert_eq!(unmap(&sim, A, 0x1000, 4096, 0, false), 0);
    sim.fetch_or(page.at, pte::A);
    assert_eq!(unmap(&sim, C, 0x3000, 4096, 7, true), 5);
    assert_eq!(unmap(&sim, B, 0x2000, 4096, 0, false), 5, "a page that is gone is reported above");
    assert_eq!(unmap(&sim, A, 0x1000, 4096, 7, false), 5);
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn large_fpages_use_large_pages_inside_one_node() {
    let sim = Sim::new(LARGE, 5);
    map(&sim, (ROOT, 0), (A, 0), 1 << 32, 7, false);
    let level = |mb: u64| lookup(&sim, A, mb << 20).map(|p| (p.level, p.node != 0));
    assert_eq!(level(0), None, "below the first usable frame");
    assert_eq!(level(1), Some((1, true)));
    assert_eq!(level(512), Some((2, true)));
    assert_eq!(level(1026), Some((1, true)), "2 MiB around the border of the nodes");
    assert_eq!(level(2048), Some((3, true)));
    let device = lookup(&sim, A, 3073 << 20).expect("device");
    assert_eq!(device.entry & (pte::PCD | pte::PWT), pte::PCD, "attribute of device memory");
    assert!(lookup(&sim, A, 3200 << 20).is_none());
    check(&sim, true);
    let nodes = sim.nodes.get();
    map(&sim, (ROOT, 0), (A, 0), 1 << 32, 7, false);
    assert_eq!(sim.nodes.get(), nodes, "mapping the same frames again changes nothing");
    // Nodes and tables lie with the space: A's home is node 1.
    assert_eq!(sim.home(A), NodeId::new(1));
    delete(&sim, A);
    delete(&sim, ROOT);
    assert_eq!(sim.nodes.get(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "too slow there")]
fn kernel_areas_are_left_out() {
    let sim = Sim::new(LARGE, 5);
    map(&sim, (ROOT, 2048 << 20), (A, 0), 1 << 30, 7, false);
    assert!(lookup(&sim, A, 0x40_3000).is_none() && lookup(&sim, A, 0x60_3000).is_none());
    assert!(lookup(&sim, A, 0x40_4000).is_some() && lookup(&sim, A, 0x60_4000).is_some());
    assert_eq!(lookup(&sim, A, 0x80_0000).map(|p| p.level), Some(2));
    check(&sim, true);
}

#[test]
fn kernel_pages_are_nobodys() {
    let sim = Sim::new(LARGE, 5);
    let mut flush = FlushSet::new();
    let mut s = Session::new(&sim, &mut flush);
    let kip = PhysAddr::new(0x1234_5000);
    assert_eq!(s.enter_kernel_page(A, 0x40_3000, kip, false), Ok(()));
    let found = s.look_up(A, 0x40_3008).expect("KIP");
    assert_eq!((found.at.as_u64(), found.rights, found.kernel), (0x1234_5008, 4, true));
    drop(s);
    map(&sim, (ROOT, 2048 << 20), (A, 0x40_0000), 1 << 21, 7, false);
    map(&sim, (A, 0x40_0000), (B, 0x80_0000), 1 << 21, 5, false);
    assert!(lookup(&sim, B, 0x80_3000).is_none(), "nobody can map it on");
    unmap(&sim, A, 0, 0, 7, true);
    let mut s = Session::new(&sim, &mut flush);
    assert!(s.look_up(A, 0x40_3000).is_some() && s.look_up(A, 0x40_4000).is_none());
    assert_eq!(s.unmap_kernel_page(A, 0x40_3000), Some(kip));
    assert_eq!(s.unmap_kernel_page(A, 0x40_3000), None);
    assert_eq!(s.enter_kernel_page(A, 0x40_3000, kip, true), Ok(()));
    drop(s);
    flush.take_retired(&sim);
    check(&sim, true);
    for space in [A, B, ROOT] {
        delete(&sim, space);
    }
    assert_eq!((sim.nodes.get(), sim.tables.get()), (0, 6));
}

#[test]
fn the_kernels_own_accesses_leave_status() {
    let sim = Sim::new(LARGE, 5);
    map(&sim, (ROOT, FRAME), (A, 0x1000), 4096, 5, false);
    map(&sim, (ROOT, FRAME + 0x1000), (A, 0x2000), 4096, 7, false);
    let mut flush = FlushSet::new();
    let mut s = Session::new(&sim, &mut flush);
    assert_eq!(s.access(A, 0x1008, true), None);
    assert_eq!(s.access(A, 0x1008, false).map(|f| f.at.as_u64()), Some(FRAME + 8));
    assert_eq!(s.access(A, 0x2010, true).map(|f| f.at.as_u64()), Some(FRAME + 0x1010));
    assert_eq!(s.access(A, 0x3000, false), None);
    drop(s);
    assert_eq!(unmap(&sim, A, 0x1000, 4096, 0, true), 5);
    assert_eq!(unmap(&sim, A, 0x2000, 4096, 0, true), 7);
}
