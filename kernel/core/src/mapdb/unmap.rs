//! Unmap: rights and status of what a space holds and has handed out (reference 4.9), and the
//! deletion of a space.

use super::Progress;
use super::env::{Env, SpaceRef};
use super::node::{self, CHILD, INDEX, INFO, PARENT, SEEN, SPACE, WHERE};
use super::pte::{self, SHADOW};
use super::revoke::{Change, Revoke, change_entry, dispose_upwards, is_simple_leaf, pass_up};
use super::session::{Session, Slot};

/// First address that user level cannot have.
pub const USER_END: u64 = 1 << 47;

/// Unmap of one fpage; keep it in the TCB between steps.
#[derive(Clone, Copy, Debug)]
pub struct UnmapOp {
    space: SpaceRef,
    cursor: u64,
    end: u64,
    rights: u8,
    own: bool,
    status: u8,
    revoke: Revoke,
}

impl UnmapOp {
    /// Takes `rights` (bits r 4, w 2, x 1; 7 unmaps, 0 only reads the status) in
    /// `[va, va + len)` from everything that `space` has handed out, and with `flush` from the
    /// space itself. `len` 0 means up to the end of the address space.
    ///
    /// sigma0's own mappings of memory are not its to give up: with `space`
    /// [`SpaceRef::PHYSICAL`] (what sigma0 has handed out), `flush` has no meaning.
    pub fn new(space: SpaceRef, va: u64, len: u64, rights: u8, flush: bool) -> Self {
        let end = if len == 0 { USER_END } else { va.saturating_add(len).min(USER_END) };
        Self {
            space,
            cursor: va,
            end,
            rights: rights & pte::ALL,
            own: flush && space != SpaceRef::PHYSICAL,
            status: 0,
            revoke: Revoke::IDLE,
        }
    }

    /// Status bits found so far (r was referenced, w was written, x was executed).
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Goes on for about `budget` page-table entries and nodes. Between two steps the session may
    /// be ended and its flush done.
    #[inline]
    pub fn step<E: Env>(&mut self, s: &mut Session<'_, E>, budget: &mut i32) -> Progress {
        let change = Change::revoke(self.rights);
        loop {
            if self.revoke.is_active() && !self.run(s, change, budget) {
                return Progress::More;
            }
            if self.cursor >= self.end {
                return Progress::Done;
            }
            if *budget <= 0 {
                return Progress::More;
            }
            *budget -= 1;
            let slot = s.find_own(self.space, self.cursor);
            if !slot.is_page() {
                self.skip(s, &slot);
                continue;
            }
            let size = pte::size(slot.level);
            let page = s.env.read(slot.at + SHADOW);
            if page == 0 {
                self.advance(size); // A kernel page: KIP or UTCB.
                continue;
            }
            let frame = pte::frame(slot.entry, slot.level);
            if !s.hold_tree(frame) {
                continue;
            }
            if slot.level == 1 && self.simple_page(s, page, slot.at, change, budget) {
                let passed = self.cursor;
                self.cursor += size;
                if self.cursor & (pte::size(2) - 1) == 0 {
                    self.free_passed_tables(s, passed);
                }
                continue;
            }
            let base = self.cursor & !(size - 1);
            let lo = frame + (self.cursor - base);
            let hi = frame + (self.end - base).min(size);
            self.revoke = Revoke::start(page, lo, hi, self.own);
        }
    }

    /// Ends an unfinished operation (its thread is deleted). Every active operation must be either
    /// finished or cancelled, or it keeps nodes pinned.
    pub fn cancel<E: Env>(&mut self, s: &mut Session<'_, E>) {
        cancel(&mut self.revoke, s);
        self.cursor = self.end;
    }

    fn run<E: Env>(&mut self, s: &mut Session<'_, E>, change: Change, budget: &mut i32) -> bool {
        let (lo, length) = (self.revoke.frame(), self.revoke.len());
        s.hold_tree(lo);
        let (done, status) = self.revoke.run(s, change, budget);
        self.status |= status;
        if done {
            let passed = self.cursor;
            self.cursor += length;
            self.free_passed_tables(s, passed);
        }
        done
    }

    fn advance(&mut self, size: u64) {
        let next = (self.cursor | (size - 1)) + 1;
        self.cursor = next;
    }

    /// Passes a hole: on to the next used entry of the same table, or past the table.
    fn skip<E: Env>(&mut self, s: &mut Session<'_, E>, slot: &Slot) {
        let table = slot.at & !0xFFF;
        let index = slot.at >> 3 & 511;
        let size = pte::size(slot.level);
        let base = self.cursor & !(size - 1);
        let passed = self.cursor;
        self.cursor = match s.first_used(table, slot.used, index + 1) {
            Some(used) if slot.level < 4 || used < 256 => base + (used - index) * size,
            _ if slot.level == 4 => USER_END,
            _ => (self.cursor | (pte::size(slot.level + 1) - 1)) + 1,
        };
        self.free_passed_tables(s, passed);
    }

    /// A complete flush that has passed a leaf table from its first to its last entry frees it.
    fn free_passed_tables<E: Env>(&self, s: &mut Session<'_, E>, passed: u64) {
        let region = passed & !(pte::size(2) - 1);
        let whole = self.cursor.min(self.end) >= region + pte::size(2);
        if !self.own || self.rights != pte::ALL || !whole {
            return;
        }
        s.hold_space(self.space);
        let slot = s.find(self.space, passed, 2);
        if slot.level == 2 && slot.entry & pte::P != 0 && !slot.is_page() {
            s.free_if_empty(self.space, region, &slot);
        }
    }

    /// The short path: a 4 KiB page of a node with only simple children. True if it was that.
    #[inline(always)]
    fn simple_page<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        page: u64,
        at: u64,
        change: Change,
        budget: &mut i32,
    ) -> bool {
        let env = s.env;
        let info = env.read(page + INFO);
        if info & (node::BROKEN | node::LEVEL) != 1 || change.rights != pte::ALL {
            return false;
        }
        let mut status = node::due(info);
        loop {
            let child = env.read(page + CHILD);
            if child == 0 {
                break;
            }
            let child_info = env.read(child + INFO);
            *budget -= 1;
            if *budget <= 0 || !is_simple_leaf(env, child, child_info) {
                return self.not_simple(s, page, status);
            }
            let entry = env.swap(env.read(child + WHERE), 0);
            status |= pte::status(entry) | node::waiting(child_info);
            if entry & pte::A != 0 {
                let space = SpaceRef(env.read(child + SPACE));
                s.flush.add(space, node::va(child_info), 4096);
            }
            node::unlink(env, child, child_info, pte::frame(entry, 1));
            env.free_node(child);
        }
        if self.own {
            if node::pinned(info) || env.read(page + INDEX) != 0 {
                return self.not_simple(s, page, status);
            }
            let (entry, _) = change_entry(s, at, 1, change);
            status |= pte::status(entry);
            if entry & pte::A != 0 {
                s.flush.add(self.space, node::va(info), 4096);
            }
            let parent = env.read(page + PARENT);
            pass_up(env, parent, status | node::waiting(info));
            node::unlink(env, page, info, pte::frame(entry, 1));
            env.free_node(page);
            if parent != 0 && env.read(parent + INFO) & node::BROKEN != 0 {
                dispose_upwards(s, parent);
            }
        } else if status != 0 {
            let kept = info & !(7 << node::DUE);
            env.write(page + INFO, kept | (status as u64) << SEEN);
        }
        s.forget_tables();
        self.status |= status;
        true
    }

    /// The short path meets something else: what it did so far is kept, the long one goes on.
    #[inline(never)]
    fn not_simple<E: Env>(&mut self, s: &mut Session<'_, E>, page: u64, status: u8) -> bool {
        self.status |= status;
        let info = s.env.read(page + INFO);
        s.env.write(page + INFO, info | (status as u64) << SEEN);
        s.forget_tables();
        false
    }
}

fn cancel<E: Env>(revoke: &mut Revoke, s: &mut Session<'_, E>) {
    if revoke.is_active() {
        s.hold_tree(revoke.frame());
        revoke.cancel(s);
    }
}

/// Deletion of a space: every page it holds is unmapped with everything derived from it, and the
/// tables below the top table are freed. No thread runs in the space any more and nothing is
/// mapped into it during the operation.
#[derive(Clone, Copy, Debug)]
pub struct DeleteOp {
    space: SpaceRef,
    revoke: Revoke,
}

impl DeleteOp {
    /// Starts the deletion.
    pub fn new(space: SpaceRef) -> Self {
        Self { space, revoke: Revoke::IDLE }
    }

    /// Goes on for about `budget` entries and nodes.
    pub fn step<E: Env>(&mut self, s: &mut Session<'_, E>, budget: &mut i32) -> Progress {
        let change = Change::revoke(pte::ALL);
        loop {
            if self.revoke.is_active() {
                s.hold_tree(self.revoke.frame());
                if !self.revoke.run(s, change, budget).0 {
                    return Progress::More;
                }
            }
            if *budget <= 0 {
                return Progress::More;
            }
            *budget -= 1;
            s.hold_space(self.space);
            match self.deepest(s) {
                None => return Progress::Done,
                Some((slot, _)) if slot.is_page() => self.unmap_page(s, &slot),
                Some((slot, va)) => self.free_table(s, &slot, va),
            }
        }
    }

    /// The first page of the space, or an empty table, or nothing.
    fn deepest<E: Env>(&self, s: &Session<'_, E>) -> Option<(Slot, u64)> {
        let mut table = s.env.top(self.space);
        let mut used = super::session::used_of_top(table);
        let mut above: Option<(Slot, u64)> = None;
        let mut va = 0;
        let mut level = 4;
        loop {
            let index = match s.first_used(table, used, 0) {
                Some(index) if level < 4 || index < 256 => index,
                _ => return above,
            };
            let at = table + index * 8;
            let entry = s.env.read(at);
            let slot = Slot { at, level, entry, used };
            va |= index << pte::bits(level);
            if slot.is_page() {
                return Some((slot, va));
            }
            above = Some((slot, va));
            table = entry & pte::ADDRESS;
            used = at + SHADOW;
            level -= 1;
        }
    }

    fn unmap_page<E: Env>(&mut self, s: &mut Session<'_, E>, slot: &Slot) {
        let page = s.env.read(slot.at + SHADOW);
        if page == 0 {
            s.env.swap(slot.at, 0);
            return;
        }
        let frame = pte::frame(slot.entry, slot.level);
        if s.hold_tree(frame) {
            let hi = frame + pte::size(slot.level);
            self.revoke = Revoke::start(page, frame, hi, true);
        }
    }

    fn free_table<E: Env>(&self, s: &mut Session<'_, E>, slot: &Slot, va: u64) {
        let env = s.env;
        env.swap(slot.at, 0);
        if slot.level == 4 {
            env.top_changed(self.space, (slot.at >> 3 & 511) as usize, 0);
        }
        s.flush.retire(env, self.space, va, slot.entry & pte::ADDRESS);
        s.forget_tables();
    }
}
