//! What the debugger sees of a frame is what the tables and the oracle say.

use super::random::{Driver, LARGE, SMALL, samples};
use super::sim::{Shape, Sim};
use crate::mapdb::env::{Env, SpaceRef};
use crate::mapdb::view::{Holder, Seen, tree};
use crate::testing::rounds;

fn holders(sim: &Sim, frame: u64, read: &dyn Fn(u64) -> Option<u64>) -> (Seen, Vec<Holder>) {
    let mut holders = Vec::new();
    let seen = tree(sim.top(SpaceRef::PHYSICAL), frame, read, &mut |h| holders.push(h));
    (seen, holders)
}

/// Everybody who has a page of the frame is seen below the one it comes from, and nobody else is seen
/// with rights.
fn compare(driver: &Driver) -> usize {
    let sim = &driver.sim;
    let mut pages = 0;
    for frame in samples() {
        let (seen, found) = holders(sim, frame, &|at| Some(sim.read(at)));
        assert_ne!(seen, Seen::Part);
        let known = driver.model.pages.iter().filter(|(_, entry)| entry.frame == frame);
        for (key, entry) in known {
            let is = |h: &&Holder| (h.space.0, h.va) == *key;
            // A node that has lost its page but not its children may stand for the same place.
            let here: Vec<_> = found.iter().filter(is).collect();
            let whole: Vec<_> = here.iter().filter(|h| h.rights != 0).collect();
            assert!(!here.is_empty() && whole.len() <= 1, "{key:x?} of {frame:#x}: {found:x?}");
            assert!(whole.iter().all(|h| h.rights == entry.rights));
            if let (Some(parent), [child]) = (entry.parent, &here[..]) {
                let mut above = found.iter().filter(|h| (h.space.0, h.va) == parent);
                assert!(above.any(|h| h.depth < child.depth));
            }
            pages += 1;
        }
        for holder in found.iter().filter(|h| h.rights != 0 && h.space != SpaceRef::PHYSICAL) {
            let key = (holder.space.0, holder.va);
            assert_eq!(driver.model.pages.get(&key).map(|e| e.frame), Some(frame), "{holder:x?}");
        }
    }
    pages
}

fn run(shape: Shape, seed: u64) {
    let mut driver = Driver::new(shape, seed);
    let mut pages = 0;
    for i in 0..rounds(30_000) {
        driver.random_op();
        if i % 300 == 0 {
            pages += compare(&driver);
        }
    }
    assert!(cfg!(miri) || pages > 1000, "hardly anything was mapped: {pages}");
}

#[test]
fn the_tree_is_what_the_oracle_says() {
    run(LARGE, 0x5151);
    run(SMALL, 0x7777);
}

/// Words that cannot be read, or are anything at all, end a look early and do no harm.
#[test]
fn damaged_words_do_no_harm() {
    let mut driver = Driver::new(LARGE, 0x1357);
    for _ in 0..rounds(5_000) {
        driver.random_op();
    }
    let sim = &driver.sim;
    let mut partial = 0;
    for round in 0..rounds(2_000) as u64 {
        let frame = samples()[round as usize % samples().len()];
        let reads = std::cell::Cell::new(0u64);
        let (seen, _) = holders(sim, frame, &|at| {
            reads.set(reads.get() + 1);
            let wild =
                at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ round.wrapping_mul(0xD134_2543_DE82_EF95);
            match wild >> 60 {
                0 => None,
                1 => Some(wild),
                _ if at.is_multiple_of(8) && sim.holds(at) => Some(sim.read(at)),
                _ => Some(wild.rotate_left(17)),
            }
        });
        assert!(reads.get() < 100_000, "a look without end");
        partial += usize::from(seen == Seen::Part);
    }
    assert!(cfg!(miri) || partial > 100);
}
