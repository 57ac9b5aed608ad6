//! The database of ports against a map from (space, port) to the space it came from.

use std::collections::{BTreeMap, BTreeSet};

use super::random::{Rng, SMALL, scaled};
use super::sim::Sim;
use crate::mapdb::env::SpaceRef;
use crate::mapdb::ports::{PORTS, PortDb};
use crate::mapdb::{OutOfMemory, Progress};

/// Per port: the spaces that hold it, and whom they have it from.
type Held = BTreeMap<u32, BTreeMap<u64, Option<u64>>>;

/// What the bitmaps show, kept up by the database's own reports.
#[derive(Default)]
struct Bitmaps(BTreeSet<(u64, u16)>);

impl Bitmaps {
    fn change(&mut self, space: SpaceRef, port: u16, open: bool) {
        let new =
            if open { self.0.insert((space.0, port)) } else { self.0.remove(&(space.0, port)) };
        assert!(new, "port {port} of {space:?} reported twice");
    }
}

fn remove(holders: &mut BTreeMap<u64, Option<u64>>, space: u64) {
    let above = holders.remove(&space).expect("held");
    for from in holders.values_mut().filter(|from| **from == Some(space)) {
        *from = above;
    }
}

fn revoke(holders: &mut BTreeMap<u64, Option<u64>>, space: Option<u64>) {
    let below: Vec<u64> =
        holders.iter().filter(|(_, from)| **from == space).map(|(s, _)| *s).collect();
    for child in below {
        revoke(holders, Some(child));
        holders.remove(&child);
    }
}

fn model_map(held: &mut Held, from: Option<u64>, to: u64, ports: (u32, u32), grant: bool) {
    for port in ports.0..ports.1 {
        let holders = held.entry(port).or_default();
        if from == Some(to) || from.is_some_and(|f| !holders.contains_key(&f)) {
            continue;
        }
        holders.entry(to).or_insert(from);
        if let (true, Some(from)) = (grant, from) {
            remove(holders, from);
        }
    }
}

fn model_unmap(held: &mut Held, from: Option<u64>, ports: (u32, u32), own: bool) {
    for (_, holders) in held.range_mut(ports.0..ports.1) {
        if from.is_none_or(|f| holders.contains_key(&f)) {
            revoke(holders, from);
            if let (true, Some(from)) = (own, from) {
                holders.remove(&from);
            }
        }
    }
}

#[test]
fn random_operations() {
    let sim = Sim::new(SMALL, 5);
    let mut rng = Rng(0x10);
    let (mut db, mut held, mut bitmaps) = (PortDb::new(), Held::new(), Bitmaps::default());
    for i in 0..scaled(30_000) {
        let log2 = [0, 0, 1, 3, 5, 7][rng.below(6) as usize];
        let first = [0x3F8, 0x7FE, 0x800, 0x60, 0xFFFF][rng.below(5) as usize] >> log2 << log2;
        let range = (first, first + (1 << log2));
        let space = SpaceRef(1 + rng.below(5));
        let from = if rng.below(4) == 0 { None } else { Some(1 + rng.below(5)) };
        let source = from.map_or(SpaceRef::PHYSICAL, SpaceRef);
        match rng.below(10) {
            0..6 => {
                let grant = rng.below(4) == 0;
                let report = |s: SpaceRef, p, open| bitmaps.change(s, p, open);
                let count = range.1 - range.0;
                db.map(&sim, (source, space), (first, count), grant, report).expect("memory");
                model_map(&mut held, from, space.0, range, grant);
            }
            6..9 => {
                let own = rng.below(2) == 0 && from.is_some();
                let mut next = range.0;
                loop {
                    let report = |s: SpaceRef, p, open| bitmaps.change(s, p, open);
                    let mut budget = 1 + rng.below(50) as i32;
                    let part = (&mut next, range.1);
                    if db.unmap(&sim, source, part, own, &mut budget, report) == Progress::Done {
                        break;
                    }
                }
                model_unmap(&mut held, from, range, own);
            }
            _ if rng.below(40) == 0 => {
                delete(&sim, &mut db, space, &mut bitmaps);
                model_unmap(&mut held, Some(space.0), (0, PORTS), true);
            }
            _ => {}
        }
        if i % 50 == 0 {
            let wanted: BTreeSet<_> =
                held.iter().flat_map(|(p, h)| h.keys().map(|s| (*s, *p as u16))).collect();
            assert_eq!(wanted, bitmaps.0);
            assert!(wanted.iter().all(|&(s, p)| db.holds(&sim, SpaceRef(s), p)));
        }
    }
    for space in 1..=5 {
        delete(&sim, &mut db, SpaceRef(space), &mut bitmaps);
    }
    assert!(bitmaps.0.is_empty());
    assert_eq!(sim.indexes.get(), 0, "pages leaked");
}

fn delete(sim: &Sim, db: &mut PortDb, space: SpaceRef, bitmaps: &mut Bitmaps) {
    let mut next = 0;
    let report = |s: SpaceRef, p, open| bitmaps.change(s, p, open);
    let mut budget = i32::MAX;
    let whole = (&mut next, PORTS);
    assert_eq!(db.unmap(sim, space, whole, true, &mut budget, report), Progress::Done);
    db.release(sim, space);
}

#[test]
fn the_whole_space_passes_through_a_chain_and_comes_back() {
    let sim = Sim::new(SMALL, 5);
    let mut db = PortDb::new();
    let mut open = 0i64;
    let whole = (0, if cfg!(miri) { 64 } else { PORTS });
    let spaces = [SpaceRef::PHYSICAL, SpaceRef(1), SpaceRef(2), SpaceRef(3)];
    for pair in spaces.windows(2) {
        let report = |_, _, on| open += if on { 1 } else { -1 };
        assert_eq!(db.map(&sim, (pair[0], pair[1]), whole, false, report), Ok(()));
    }
    assert_eq!(open, 3 * i64::from(whole.1));
    let report = |_, _, on| open += if on { 1 } else { -1 };
    let mut budget = i32::MAX;
    let part = (&mut 0, PORTS);
    assert_eq!(db.unmap(&sim, SpaceRef(1), part, false, &mut budget, report), Progress::Done);
    assert_eq!(open, i64::from(whole.1));
    assert!(db.holds(&sim, SpaceRef(1), 5) && !db.holds(&sim, SpaceRef(3), 5));
}

#[test]
fn no_memory_is_an_error_and_changes_nothing_else() {
    let sim = Sim::new(SMALL, 5);
    let mut db = PortDb::new();
    for fail in 1..=2 {
        sim.fail_in.set(fail);
        let result = db.map(&sim, (SpaceRef::PHYSICAL, SpaceRef(1)), (0, 8), false, |_, _, _| ());
        assert_eq!(result, Err(OutOfMemory));
        assert!(!db.holds(&sim, SpaceRef(1), 0));
    }
    db.release(&sim, SpaceRef(1));
    assert_eq!(sim.indexes.get(), 0);
}
