//! Structural invariants of the whole database, checked from the outside.

use std::collections::{HashMap, HashSet};

use super::sim::Sim;
use crate::mapdb::env::{Env, SpaceRef};
use crate::mapdb::node::{self, BROKEN, CHILD, INDEX, INFO, MIXED, NEXT, PARENT, PPREV, SPACE};
use crate::mapdb::pte::{self, SHADOW};

/// A page as the processor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub at: u64,
    pub entry: u64,
    pub level: u8,
    pub node: u64,
    /// Memory at the address asked for.
    pub frame: u64,
}

/// Walks the tables like the processor.
pub fn lookup(sim: &Sim, space: SpaceRef, va: u64) -> Option<Page> {
    let mut table = sim.top(space);
    for level in (1..=4u8).rev() {
        let at = table + (va >> pte::bits(level) & 511) * 8;
        let entry = sim.read(at);
        if entry & pte::P == 0 {
            return None;
        }
        if level < 4 && pte::is_page(entry, level) {
            let frame = pte::frame(entry, level) + (va & (pte::size(level) - 1));
            return Some(Page { at, entry, level, node: sim.read(at + SHADOW), frame });
        }
        table = entry & pte::ADDRESS;
    }
    unreachable!()
}

/// The page from which `page` (of memory `frame`) was mapped; nodes without pages are passed.
pub fn parent_of(sim: &Sim, page: u64, frame: u64) -> Option<(SpaceRef, u64)> {
    let mut above = sim.read(page + PARENT);
    while above != 0 {
        let info = sim.read(above + INFO);
        let space = SpaceRef(sim.read(above + SPACE));
        let va = node::va(info) + (frame - node::frame(sim, above, info));
        if space == SpaceRef::PHYSICAL {
            return None;
        }
        if info & BROKEN == 0 {
            return Some((space, va));
        }
        if node::live(sim, above, info) != 0
            && let Some(page) = lookup(sim, space, va)
            && page.node == above
        {
            return Some((space, va));
        }
        above = sim.read(above + PARENT);
    }
    None
}

#[derive(Default)]
struct Census {
    settled: bool,
    tables: u64,
    /// Nodes with pages in tables, and how many 4 KiB pages.
    live: HashMap<u64, u64>,
    seen: HashSet<u64>,
    indexes: u64,
}

/// Checks everything; panics with a description of what is wrong.
pub fn check(sim: &Sim, quiet: bool) {
    check_with(sim, quiet, true);
}

/// The same; `settled` is false while operations are under way that revoke top-down.
pub fn check_with(sim: &Sim, quiet: bool, settled: bool) {
    assert!(sim.locks_free(), "a lock is still held");
    let mut census = Census { settled, ..Census::default() };
    let tops: Vec<_> = sim.spaces.borrow().iter().map(|s| (s.top, s.alive)).collect();
    for (i, &(top, alive)) in tops.iter().enumerate() {
        if !alive {
            continue;
        }
        census.tables += 1;
        let space = if i == 0 { SpaceRef::PHYSICAL } else { SpaceRef(i as u64) };
        check_table(sim, &mut census, space, (top, top + SHADOW + 256 * 8), 4, 0);
    }
    assert_eq!(census.tables, sim.tables.get(), "page tables leaked");
    let mut starts: Vec<u64> = census.live.keys().copied().collect();
    for start in starts.clone() {
        let mut at = start;
        while sim.read(at + PARENT) != 0 {
            at = sim.read(at + PARENT);
        }
        starts.push(at);
    }
    for start in starts {
        check_node(sim, &mut census, start, quiet);
    }
    assert_eq!(census.seen.len() as u64, sim.nodes.get(), "mapping nodes leaked");
    assert_eq!(census.indexes, sim.indexes.get(), "index pages leaked");
}

fn check_table(
    sim: &Sim,
    census: &mut Census,
    space: SpaceRef,
    (table, used): (u64, u64),
    level: u8,
    base: u64,
) {
    let groups = sim.read(used);
    for i in 0..if level == 4 { 256 } else { 512 } {
        let at = table + i * 8;
        let entry = sim.read(at);
        let va = base + (i << pte::bits(level));
        if entry == 0 {
            continue;
        }
        assert!(entry & pte::P != 0 && groups & 1 << (i / 8) != 0, "{va:#x}: group not marked");
        if level == 4 || !pte::is_page(entry, level) {
            census.tables += 1;
            check_table(sim, census, space, (entry & pte::ADDRESS, at + SHADOW), level - 1, va);
            continue;
        }
        let page = sim.read(at + SHADOW);
        if page == 0 {
            continue;
        }
        let info = sim.read(page + INFO);
        assert_eq!(sim.read(page + SPACE), space.0, "{va:#x}: node of another space");
        let frame = pte::frame(entry, level);
        if info & BROKEN == 0 {
            assert_eq!(sim.read(page + node::WHERE), at);
            assert_eq!((node::va(info), node::level(info)), (va, level));
            assert!(!census.live.contains_key(&page), "two entries of one node");
        } else {
            let start = node::frame(sim, page, info);
            assert!(level < node::level(info), "broken node with a whole page");
            assert_eq!(node::va(info) + (frame - start), va, "wrong part of a broken page");
            assert!(frame - start < pte::size(node::level(info)));
        }
        if census.settled
            && let Some((parent, at)) = parent_of(sim, page, frame)
        {
            let above = lookup(sim, parent, at).expect("parent page");
            let beyond = pte::rights(entry) & !pte::rights(above.entry);
            assert_eq!(beyond, 0, "{space:?} {va:#x} has more rights than its parent");
        }
        *census.live.entry(page).or_default() += pte::size(level) >> 12;
    }
}

fn check_node(sim: &Sim, census: &mut Census, start: u64, quiet: bool) {
    let mut stack = vec![start];
    while let Some(page) = stack.pop() {
        if !census.seen.insert(page) {
            continue;
        }
        assert!(sim.line_state_is_node(page));
        let info = sim.read(page + INFO);
        let live = census.live.get(&page).copied().unwrap_or(0);
        if info & BROKEN != 0 {
            assert_eq!(node::live(sim, page, info), live, "live pages of a broken node");
        } else {
            assert_eq!(live, pte::size(node::level(info)) >> 12, "page without an entry");
        }
        if quiet {
            assert!(!node::pinned(info), "forgotten pin");
        }
        assert!(!quiet || !node::is_dead(sim, page, info), "node that should have been freed");
        let frame = node::frame(sim, page, info);
        check_list(sim, page, (page + CHILD, node::level(info), false), (frame, &mut stack));
        check_index(sim, census, page, &mut stack);
        assert!(frame.is_multiple_of(pte::size(node::level(info))));
    }
}

/// One list of children; `level` and whether they must be mixed; where their memory starts.
fn check_list(
    sim: &Sim,
    parent: u64,
    (head, level, mixed): (u64, u8, bool),
    (frame, found): (u64, &mut Vec<u64>),
) -> bool {
    let mut pprev = head;
    let mut child = sim.read(head);
    let any = child != 0;
    while child != 0 {
        let info = sim.read(child + INFO);
        assert_eq!(sim.read(child + PARENT), parent);
        assert_eq!(sim.read(child + PPREV), pprev);
        assert_eq!((node::level(info), info & MIXED != 0), (level, mixed));
        assert_eq!(node::frame(sim, child, info), frame, "child of other memory");
        found.push(child);
        pprev = child + NEXT;
        child = sim.read(child + NEXT);
    }
    any
}

fn check_index(sim: &Sim, census: &mut Census, page: u64, found: &mut Vec<u64>) {
    let word = sim.read(page + INDEX);
    if word == 0 {
        return;
    }
    let info = sim.read(page + INFO);
    let level = node::level(info);
    let frame = node::frame(sim, page, info);
    let index = word & !0xFFF;
    census.indexes += 1;
    let mut count = 0;
    for i in 0..512 {
        let start = frame + (i << pte::bits(level - 1));
        count += check_list(sim, page, (index + i * 8, level - 1, true), (start, found)) as u64;
        if level < 3 {
            continue;
        }
        let sub = sim.read(index + SHADOW + i * 8);
        if sub == 0 {
            continue;
        }
        count += 1;
        census.indexes += 1;
        let mut used = 0;
        for j in 0..512 {
            let head = (sub & !0xFFF) + j * 8;
            used += check_list(sim, page, (head, 1, true), (start + (j << 12), found)) as u64;
        }
        assert_eq!(used, sub & 0xFFF, "used slots of an index page");
        assert!(used > 0);
    }
    assert_eq!(count, word & 0xFFF, "used slots of an index");
    assert!(count > 0, "empty index");
}
