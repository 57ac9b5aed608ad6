//! Taking rights away from a page and from everything derived from it.
//!
//! [`Revoke`] walks the tree below one node in preorder, restricted to a range of physical
//! memory. On the way down it changes page-table entries, so nothing can be derived from a page
//! that has lost its rights; on the way up it disposes of nodes that have nothing left. The state
//! is two node addresses. Between steps both are pinned, and nodes never move in the tree while
//! they are pinned, so any other operation may run in between (see the module head of `node`).

use super::env::{Env, SpaceRef};
use super::node::{self, BROKEN, INDEX, INFO, PARENT, SEEN, WHERE};
use super::pte;
use super::session::{Session, Slot};

/// What happens to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Rights taken away: 0 only reads and resets the status, 7 unmaps.
    pub rights: u8,
    /// Cache attribute that the page gets instead of its own (bit 0 PWT, bit 1 PCD, bit 2 PAT); its status is then
    /// left alone, and no rights are taken.
    pub cache: Option<u8>,
}

impl Change {
    /// Takes rights away.
    pub const fn revoke(rights: u8) -> Self {
        Self { rights, cache: None }
    }

    /// Changes the cache attribute.
    pub const fn attribute(cache: u8) -> Self {
        Self { rights: 0, cache: Some(cache) }
    }

    /// Whether the page entry `old` changes in more than its status.
    fn alters(self, old: u64) -> bool {
        self.rights & pte::rights(old) != 0 || self.cache.is_some()
    }
}

/// Progress below one page.
#[derive(Clone, Copy, Debug)]
pub struct Revoke {
    top: u64,
    current: u64,
    /// The physical range concerned.
    lo: u64,
    hi: u64,
    /// In a broken node: how far its entries have been visited.
    sub: u64,
    /// Status collected and not yet kept in `top`.
    status: u8,
    up: bool,
    /// Whether the top page itself is changed.
    own: bool,
    pinned: bool,
    /// There was no memory to split a page whose attribute was to change in part; it was passed over.
    short: bool,
}

impl Revoke {
    /// No page at work.
    pub const IDLE: Self = Self {
        top: 0,
        current: 0,
        lo: 0,
        hi: 0,
        sub: 0,
        status: 0,
        up: false,
        own: false,
        pinned: false,
        short: false,
    };

    /// Whether a page is at work.
    pub fn is_active(&self) -> bool {
        self.top != 0
    }

    /// Starts on `[lo, hi)` of the memory of node `top`.
    pub fn start(top: u64, lo: u64, hi: u64, own: bool) -> Self {
        Self { top, current: top, lo, hi, sub: lo, own, ..Self::IDLE }
    }

    /// Memory that is being worked on; its mapping lock must be held for [`Revoke::run`].
    pub fn frame(&self) -> u64 {
        self.lo
    }

    /// Bytes of memory that are being worked on.
    pub fn len(&self) -> u64 {
        self.hi - self.lo
    }

    /// Whether a page kept its attribute for want of memory, since the last time this was asked.
    pub fn take_short(&mut self) -> bool {
        core::mem::take(&mut self.short)
    }

    /// Goes on. Returns true when the page is done, and the status seen on the way. `budget` is
    /// counted down by one for every entry or node visited.
    pub fn run<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        change: Change,
        budget: &mut i32,
    ) -> (bool, u8) {
        let env = s.env;
        if self.pinned {
            node::unpin(env, self.top);
            node::unpin(env, self.current);
            self.pinned = false;
        }
        let done = loop {
            if *budget <= 0 && self.suspend(s) {
                break false;
            }
            *budget -= 1;
            if !self.up {
                self.enter(s, change);
                continue;
            }
            let current = self.current;
            if current == self.top {
                break true;
            }
            let parent = env.read(current + PARENT);
            let next = node::next_child(env, parent, current, self.lo, self.hi);
            dispose(s, current);
            if next != 0 {
                self.go(next);
            } else {
                self.current = parent;
            }
        };
        if change.cache.is_some() {
            self.status = 0;
        }
        let status = self.keep_status(s);
        if done {
            let top = self.top;
            *self = Self { short: self.short, ..Self::IDLE };
            dispose_upwards(s, top);
        }
        (done, status)
    }

    /// Gives up an unfinished page; the mapping lock of [`Revoke::frame`] is held.
    pub fn cancel<E: Env>(&mut self, s: &mut Session<'_, E>) {
        if self.pinned {
            node::unpin(s.env, self.top);
            node::unpin(s.env, self.current);
            let (top, current) = (self.top, self.current);
            if current != top {
                dispose_until(s, current, top);
            }
            dispose_upwards(s, top);
        }
        *self = Self::IDLE;
    }

    fn go(&mut self, to: u64) {
        self.current = to;
        self.sub = self.lo;
        self.up = false;
    }

    /// Pins the two nodes. False if that is not possible here.
    fn suspend<E: Env>(&mut self, s: &Session<'_, E>) -> bool {
        if !node::pin(s.env, self.top) {
            return false;
        }
        if !node::pin(s.env, self.current) {
            node::unpin(s.env, self.top);
            return false;
        }
        self.pinned = true;
        true
    }

    /// Ancestors must find the status that was reset here (reference 4.9).
    fn keep_status<E: Env>(&mut self, s: &Session<'_, E>) -> u8 {
        let status = core::mem::take(&mut self.status);
        if status != 0 {
            let info = s.env.read(self.top + INFO);
            s.env.write(self.top + INFO, info | (status as u64) << SEEN);
        }
        status
    }

    /// Visits the current node on the way down.
    fn enter<E: Env>(&mut self, s: &mut Session<'_, E>, change: Change) {
        let env = s.env;
        let current = self.current;
        let info = env.read(current + INFO);
        let top = current == self.top;
        if self.own || !top {
            if info & BROKEN != 0 {
                if !self.visit_broken(s, info, change) {
                    return;
                }
            } else if !self.visit_page(s, info, change) {
                return; // It was split: visit its entries.
            }
        }
        if change.cache.is_none() {
            self.take_waiting(s, top);
        }
        let child = node::first_child(env, current, self.lo, self.hi);
        if child != 0 {
            self.go(child);
        } else {
            self.up = true;
        }
    }

    /// Takes the status that waits in the current node. Of a page that is covered in part it is
    /// read and left: nobody knows which part it belongs to.
    fn take_waiting<E: Env>(&mut self, s: &Session<'_, E>, top: bool) {
        let env = s.env;
        let info = env.read(self.current + INFO);
        let (taken, left) = if top {
            (node::due(info), info & !(7 << node::DUE))
        } else {
            (node::waiting(info), info & node::NOT_WAITING)
        };
        if taken == 0 {
            return;
        }
        self.status |= taken;
        let size = pte::size(node::level(info));
        let start = node::frame(env, self.current, info);
        if self.lo <= start && start + size <= self.hi {
            env.write(self.current + INFO, left);
        }
    }

    /// Changes the one entry of an unbroken node. False if the page had to be split.
    fn visit_page<E: Env>(&mut self, s: &mut Session<'_, E>, info: u64, change: Change) -> bool {
        let env = s.env;
        let level = node::level(info);
        let at = env.read(self.current + WHERE);
        let old = env.read(at);
        let start = pte::frame(old, level);
        let size = pte::size(level);
        let whole = self.lo <= start && start + size <= self.hi;
        if !whole {
            if !change.alters(old) {
                self.status |= pte::status(old);
                return true;
            }
            let space = SpaceRef(env.read(self.current + node::SPACE));
            s.hold_space(space);
            let slot = s.find(space, node::va(info), level);
            if s.split(space, &slot).is_ok() {
                return false;
            }
            if change.cache.is_some() {
                self.short = true;
                return true;
            }
            self.widen(start, size);
            return false;
        }
        let (old, gone) = change_entry(s, at, level, change);
        self.note(s, node::va(info), size, old);
        if gone {
            env.write(self.current + WHERE, node::broken(start, 0));
            env.write(self.current + INFO, env.read(self.current + INFO) | BROKEN);
        }
        true
    }

    /// There is no memory to split a page: better take too much than too little, from the top on,
    /// so that nothing keeps rights that the page it came from has lost.
    fn widen(&mut self, start: u64, size: u64) {
        self.lo = self.lo.min(start);
        self.hi = self.hi.max(start + size);
        self.go(self.top);
    }

    /// Records what the entry of a page showed.
    fn note<E: Env>(&mut self, s: &mut Session<'_, E>, va: u64, len: u64, old: u64) {
        self.status |= pte::status(old);
        if old & pte::A != 0 {
            let space = SpaceRef(s.env.read(self.current + node::SPACE));
            s.flush.add(space, va, len);
        }
    }

    /// Changes the next entry of a broken node. True when its part of the range is done.
    fn visit_broken<E: Env>(&mut self, s: &mut Session<'_, E>, info: u64, change: Change) -> bool {
        let env = s.env;
        let current = self.current;
        let start = node::frame(env, current, info);
        let end = self.hi.min(start + pte::size(node::level(info)));
        let live = node::live(env, current, info);
        let from = self.sub.max(start);
        if live == 0 || from >= end {
            return true;
        }
        let space = SpaceRef(env.read(current + node::SPACE));
        s.hold_space(space);
        let va = node::va(info) + (from - start);
        let slot = s.find(space, va, 1);
        let size = pte::size(slot.level);
        let next = (from | (size - 1)) + 1;
        if !slot.is_page() || env.read(slot.at + pte::SHADOW) != current {
            self.sub = next;
            return false;
        }
        let first = from & !(size - 1);
        let part = first < self.lo || first + size > self.hi;
        if part && !change.alters(slot.entry) {
            self.status |= pte::status(slot.entry);
            self.sub = next;
            return false;
        }
        if part {
            if s.split(space, &slot).is_ok() {
                return false;
            }
            if change.cache.is_some() {
                self.short = true;
                self.sub = next;
            } else {
                self.widen(first, size);
            }
            return false;
        }
        let (old, gone) = change_entry(s, slot.at, slot.level, change);
        self.note(s, va & !(size - 1), size, old);
        if gone {
            env.write(current + WHERE, node::broken(start, live - (size >> 12)));
            s.forget_tables();
            self.free_passed_table(s, space, va, &slot, next);
        }
        self.sub = next;
        false
    }

    /// The last entry of a leaf table was passed: the table may have become empty.
    fn free_passed_table<E: Env>(
        &self,
        s: &mut Session<'_, E>,
        space: SpaceRef,
        va: u64,
        slot: &Slot,
        next: u64,
    ) {
        if slot.level == 1 && next & (pte::size(2) - 1) == 0 {
            let above = s.find(space, va, 2);
            s.free_if_empty(space, va, &above);
        }
    }
}

/// Takes rights from a page entry of `level` and resets its status, or changes its cache attribute. Returns the old
/// entry and whether the page is gone.
#[inline(always)]
pub fn change_entry<E: Env>(
    s: &mut Session<'_, E>,
    at: u64,
    level: u8,
    change: Change,
) -> (u64, bool) {
    let env = s.env;
    if change.rights == pte::ALL {
        return (env.swap(at, 0), true);
    }
    if let Some(cache) = change.cache {
        // First what is added, then what goes: in between the attribute is the union of both, which is never more
        // cached than either (`pte::cache_bits`), and the status bits that the processor sets are not lost.
        let bits = pte::cache_bits(cache, level);
        let old = env.fetch_or(at, bits);
        env.fetch_and(at, bits | !pte::cache_bits(7, level));
        return (old, false);
    }
    let old = env.read(at);
    if pte::rights(old) & !change.rights == 0 {
        return (env.swap(at, 0), true);
    }
    let mut mask = !(pte::A | pte::D);
    if change.rights & pte::WRITE != 0 {
        mask &= !pte::W;
    }
    let old = env.fetch_and(at, mask);
    if change.rights & pte::EXECUTE != 0 && env.nx() {
        env.fetch_or(at, pte::NX);
    }
    (old, false)
}

/// Frees a node that has nothing left; its status goes to its parent.
#[inline(always)]
pub fn dispose<E: Env>(s: &mut Session<'_, E>, current: u64) -> bool {
    let env = s.env;
    let info = env.read(current + INFO);
    if !node::is_dead(env, current, info) {
        return false;
    }
    let parent = env.read(current + PARENT);
    pass_up(env, parent, node::waiting(info));
    node::unlink(env, current, info, node::frame(env, current, info));
    env.free_node(current);
    s.forget_tables();
    true
}

/// Leaves status that nobody above has read with the parent.
#[inline(always)]
pub fn pass_up<E: Env>(env: &E, parent: u64, status: u8) {
    if status != 0 && parent != 0 {
        let info = env.read(parent + INFO);
        env.write(parent + INFO, info | (status as u64) << node::DUE);
    }
}

/// Frees `from` and every node above it that has nothing left with it.
pub fn dispose_upwards<E: Env>(s: &mut Session<'_, E>, from: u64) {
    let mut current = from;
    while current != 0 {
        let parent = s.env.read(current + PARENT);
        if !dispose(s, current) {
            break;
        }
        current = parent;
    }
}

/// The same, but `stop` is left alone.
fn dispose_until<E: Env>(s: &mut Session<'_, E>, from: u64, stop: u64) {
    let mut current = from;
    while current != stop && current != 0 {
        let parent = s.env.read(current + PARENT);
        if !dispose(s, current) {
            break;
        }
        current = parent;
    }
}

/// Whether the node has exactly one entry of level 1 and neither children nor pins: the case that
/// the short paths handle.
#[inline(always)]
pub fn is_simple_leaf<E: Env>(env: &E, current: u64, info: u64) -> bool {
    info & (BROKEN | node::LEVEL) == 1
        && !node::pinned(info)
        && env.read(current + node::CHILD) == 0
        && env.read(current + INDEX) == 0
}
