//! Looking at the tree of a frame without locks, for the kernel debugger: other CPUs are stopped, perhaps in the middle
//! of a change, so nothing that is read is trusted. Every word comes from a function that may refuse, and what is
//! visited is bounded.

use super::env::SpaceRef;
use super::node::{
    BROKEN, CHILD, COUNT, INDEX, INFO, NEXT, SPACE, WHERE, level, live_mask, va, waiting,
};
use super::pte;

/// Nodes visited at most.
const MOST: usize = 512;
/// Depth at most.
const DEEPEST: usize = 24;

/// One holder of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// How many hands the page has gone through.
    pub depth: usize,
    /// The space that has it.
    pub space: SpaceRef,
    /// Where, in that space.
    pub va: u64,
    /// 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.
    pub level: u8,
    /// Rights (r 4, w 2, x 1); 0 if the page is no longer one entry of a table.
    pub rights: u8,
    /// Status that waits in the node to be read.
    pub status: u8,
    /// Address of the node.
    pub node: u64,
}

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Everything was seen.
    All,
    /// Nobody holds the frame.
    Nobody,
    /// Something could not be read, or there was too much.
    Part,
}

/// Visits everybody who holds the frame at `at`, the giver before the receiver. `top` is the top table of physical
/// memory's own space; `read` gives a word of a table, node or index page, or nothing if that is none.
pub fn tree(
    top: u64,
    at: u64,
    read: &dyn Fn(u64) -> Option<u64>,
    visit: &mut dyn FnMut(Holder),
) -> Seen {
    let Some(root) = root_of(top, at, read) else { return Seen::Part };
    if root == 0 {
        return Seen::Nobody;
    }
    let mut look = Look { at, read, visit, left: MOST, whole: true };
    look.node(root, 0);
    if look.whole { Seen::All } else { Seen::Part }
}

/// The node of the page of physical memory around `at`; 0 if nothing of it was ever mapped.
fn root_of(top: u64, at: u64, read: &dyn Fn(u64) -> Option<u64>) -> Option<u64> {
    let mut table = top;
    for level in (1..=4).rev() {
        let slot = table + (at >> pte::bits(level) & 511) * 8;
        let entry = read(slot)?;
        if entry & pte::P == 0 {
            return Some(0);
        }
        if level < 4 && pte::is_page(entry, level) {
            return read(slot + pte::SHADOW);
        }
        table = entry & pte::ADDRESS;
    }
    None
}

struct Look<'a> {
    at: u64,
    read: &'a dyn Fn(u64) -> Option<u64>,
    visit: &'a mut dyn FnMut(Holder),
    left: usize,
    whole: bool,
}

impl Look<'_> {
    /// The word at `offset` of `base`; 0, and the look is not whole, if it cannot be read.
    fn word(&mut self, base: u64, offset: u64) -> u64 {
        let word = (self.read)(base.wrapping_add(offset));
        self.whole &= word.is_some();
        word.unwrap_or(0)
    }

    /// A node and everybody below it who has the frame.
    fn node(&mut self, node: u64, depth: usize) {
        if self.left == 0 || depth == DEEPEST {
            self.whole = false;
            return;
        }
        self.left -= 1;
        let info = self.word(node, INFO);
        let place = self.word(node, WHERE);
        let (broken, level) = (info & BROKEN != 0, level(info).max(1));
        let (entry, start) = if broken {
            (0, place & !live_mask(level))
        } else {
            let entry = self.word(place, 0);
            (entry, pte::frame(entry, level))
        };
        let size = pte::size(level);
        if self.at < start || self.at - start >= size {
            return; // A sibling of another frame of the same large page.
        }
        let space = SpaceRef(self.word(node, SPACE));
        (self.visit)(Holder {
            depth,
            space,
            va: va(info) + ((self.at - start) & !0xFFF),
            level,
            rights: if broken { 0 } else { pte::rights(entry) },
            status: waiting(info) | pte::status(entry),
            node,
        });
        let child = self.word(node, CHILD);
        self.list(child, depth + 1);
        self.smaller(node, level, depth + 1);
    }

    fn list(&mut self, first: u64, depth: usize) {
        let mut node = first;
        while node != 0 && self.left > 0 {
            self.node(node, depth);
            node = self.word(node, NEXT);
        }
    }

    /// Children with smaller pages, in index pages.
    fn smaller(&mut self, node: u64, level: u8, depth: usize) {
        let index = self.word(node, INDEX) & !COUNT;
        if index == 0 || level < 2 {
            return;
        }
        let small = (self.at >> 12 & 511) * 8;
        if level == 2 {
            let first = self.word(index, small);
            self.list(first, depth);
            return;
        }
        let large = (self.at >> 21 & 511) * 8;
        let first = self.word(index, large);
        self.list(first, depth);
        let sub = self.word(index, pte::SHADOW + large) & !COUNT;
        if sub != 0 {
            let first = self.word(sub, small);
            self.list(first, depth);
        }
    }
}
