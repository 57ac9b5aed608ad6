//! What is found of a space from its top table is what the oracle says it has.

use std::collections::BTreeMap;

use super::random::{Driver, LARGE, SMALL, samples};
use super::sim::Shape;
use crate::mapdb::env::{Env, SpaceRef};
use crate::mapdb::holdings::{Part, holdings};
use crate::mapdb::node::SPACE;
use crate::testing::rounds;

/// Every page that is found, of all spaces that have one, as far as the oracle knows its frames.
fn compare(driver: &Driver) -> usize {
    let sim = &driver.sim;
    let mut wanted: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    for (&(space, va), entry) in &driver.model.pages {
        wanted.entry(space).or_default().insert(va, entry.frame);
    }
    for (&space, pages) in &wanted {
        let mut found = BTreeMap::new();
        let mut tables = 0;
        let all =
            holdings(sim.top(SpaceRef(space)), &|at| Some(sim.read(at)), &mut |part| match part {
                Part::Table(_) => tables += 1,
                Part::Page { va, level, frame, node, .. } => {
                    assert!(node == 0 || sim.read(node + SPACE) == space);
                    let size = crate::mapdb::pte::size(level);
                    for sample in
                        samples().into_iter().filter(|s| (frame..frame + size).contains(s))
                    {
                        assert_eq!(found.insert(va + (sample - frame), sample), None, "twice");
                    }
                }
            });
        assert!(all && tables >= 4);
        assert_eq!(&found, pages, "space {space:#x}");
    }
    driver.model.pages.len()
}

fn run(shape: Shape, seed: u64) {
    let mut driver = Driver::new(shape, seed);
    let mut pages = 0;
    for i in 0..rounds(10_000) {
        driver.random_op();
        if i % 500 == 0 {
            pages += compare(&driver);
        }
    }
    assert!(cfg!(miri) || pages > 1000, "hardly anything was mapped: {pages}");
}

#[test]
fn a_space_has_what_the_oracle_says() {
    run(LARGE, 0x1212);
    run(SMALL, 0x3434);
}
