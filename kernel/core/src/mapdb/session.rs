//! One stay inside the database: the locks held, the tables at hand, and walks of page tables.
//!
//! Lock order: mapping lock of a node, then one space's lock. What each protects:
//!
//! * A page entry and its node, and every node of the same memory, change only under the mapping
//!   lock of the node that the memory lies on. So while that lock is held, a page entry found
//!   stays, and so does the table it is in, because only empty tables are freed.
//! * The structure of a space's tables, and the step from an empty entry to a used one, change
//!   only under the space's lock. Emptying an entry needs the mapping lock only and touches the
//!   table last with the exchange that empties it.
//!
//! This is why a table may be remembered from page to page of a batch without holding its
//! space's lock: the entry read or written last anchors it.

use super::env::{Env, SpaceRef};
use super::flush::FlushSet;
use super::node;
use super::pte::{self, SHADOW};
use crate::types::{NodeId, PhysAddr};

/// Where a walk of a space's tables ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Address of the entry.
    pub at: u64,
    /// Its level.
    pub level: u8,
    /// Its value when read.
    pub entry: u64,
    /// Address of the word with the table's used groups.
    pub used: u64,
}

impl Slot {
    /// Whether the entry is a page (of user memory or of the kernel).
    pub fn is_page(&self) -> bool {
        pte::is_page(self.entry, self.level)
    }

    /// Writes an empty entry: `shadow` is the node of a page, or the used groups of a table.
    #[inline(always)]
    pub(super) fn fill<E: Env>(&self, env: &E, entry: u64, shadow: u64) {
        env.write(self.at + SHADOW, shadow);
        env.write(self.at, entry);
        let used = env.read(self.used);
        env.write(self.used, used | 1 << (self.at >> 6 & 63));
    }
}

/// Walks down to the entry of `va`, at most to a table of level `stop`.
#[inline(always)]
pub(super) fn walk<E: Env>(env: &E, space: SpaceRef, va: u64, stop: u8) -> Slot {
    let top = env.top(space);
    let mut used = used_of_top(top);
    let mut table = top;
    macro_rules! step {
        ($level:literal) => {
            let at = table | (va >> (pte::bits($level) - 3) & 0xFF8);
            let entry = env.read(at);
            let end = entry & pte::P == 0 || ($level < 4 && entry & pte::PS != 0);
            if end || $level == stop {
                return Slot { at, level: $level, entry, used };
            }
            used = at + SHADOW;
            table = entry & pte::ADDRESS;
        };
    }
    step!(4);
    step!(3);
    step!(2);
    let at = table | (va >> 9 & 0xFF8);
    Slot { at, level: 1, entry: env.read(at), used }
}

/// The entry of `va` at `level`, with the tables on the way made as needed; a page of a higher level that is in the
/// way is returned instead. The lock of `space` is held.
#[inline(never)]
pub(super) fn make_tables<E: Env>(
    env: &E,
    space: SpaceRef,
    va: u64,
    level: u8,
    home: NodeId,
) -> Result<Slot, OutOfMemory> {
    loop {
        let slot = walk(env, space, va, level);
        if slot.level == level || slot.entry & pte::P != 0 {
            return Ok(slot);
        }
        let table = env.alloc_table(home).ok_or(OutOfMemory)?;
        let entry = table | pte::TABLE;
        slot.fill(env, entry, 0);
        if slot.level == 4 {
            env.top_changed(space, (slot.at >> 3 & 511) as usize, entry);
        }
    }
}

/// A leaf table that was used last.
#[derive(Clone, Copy, Default)]
pub struct Leaf {
    space: SpaceRef,
    region: u64,
    table: u64,
    used: u64,
}

impl Leaf {
    #[inline(always)]
    pub(super) fn slot<E: Env>(&self, env: &E, space: SpaceRef, va: u64) -> Option<Slot> {
        if self.region != va >> 21 || self.space != space {
            return None;
        }
        let at = self.table | (va >> 9 & 0xFF8);
        Some(Slot { at, level: 1, entry: env.read(at), used: self.used })
    }

    #[inline(always)]
    pub fn set(&mut self, space: SpaceRef, va: u64, slot: &Slot) {
        let table = slot.at & !0xFFF;
        *self = Self { space, region: va >> 21, table, used: slot.used };
    }
}

/// A run of like frames, remembered from session to session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hint {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) node: NodeId,
}

impl Hint {
    /// No guess.
    pub const NONE: Self = Self { start: 0, len: 0, node: NodeId::new(0) };
}

/// No memory for a table, a node or an index page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// Locks and tables at hand during a batch of operations. Dropping it releases the locks.
pub struct Session<'a, E: Env> {
    pub(super) env: &'a E,
    /// What the processors must forget once the session is over.
    pub(super) flush: &'a mut FlushSet,
    tree: Option<NodeId>,
    /// Frames known to be guarded by `tree`.
    tree_start: u64,
    tree_len: u64,
    space: SpaceRef,
    /// Leaf table the source page was found in; anchored by that page.
    pub(super) source: Leaf,
    /// Leaf table written last in the target; anchored by the page written.
    pub(super) target: Leaf,
    /// No page of the target's leaf table lies in the areas of its space.
    pub(super) target_clear: bool,
    /// Leaf table of the space whose lock is held.
    own: Leaf,
}

impl<'a, E: Env> Session<'a, E> {
    /// Starts a batch. Flush what `flush` says after the session has been dropped.
    pub fn new(env: &'a E, flush: &'a mut FlushSet) -> Self {
        let leaf = Leaf::default();
        Self {
            env,
            flush,
            tree: None,
            tree_start: 0,
            tree_len: 0,
            space: SpaceRef::NONE,
            source: leaf,
            target: leaf,
            target_clear: false,
            own: leaf,
        }
    }

    /// The run of frames that was worked on last, for [`Session::guess`] of the next session.
    #[inline]
    pub fn hint(&self) -> Hint {
        Hint { start: self.tree_start, len: self.tree_len, node: self.tree.unwrap_or_default() }
    }

    /// Takes the mapping lock of the run that an earlier session worked on, ahead of time. A right
    /// guess saves the first operation a second walk and a question about the frame; a wrong one
    /// costs a lock.
    #[inline]
    pub fn guess(&mut self, hint: Hint) {
        if self.tree.is_none() && hint.len != 0 {
            self.env.lock_tree(hint.node);
            self.tree = Some(hint.node);
            self.tree_start = hint.start;
            self.tree_len = hint.len;
        }
    }

    /// Releases the space's lock.
    pub(super) fn leave_space(&mut self) {
        if self.space != SpaceRef::NONE {
            self.env.unlock_space(self.space);
            self.space = SpaceRef::NONE;
            self.own.region = u64::MAX;
        }
    }

    /// Releases all locks.
    pub(super) fn leave(&mut self) {
        self.leave_space();
        if let Some(node) = self.tree.take() {
            self.env.unlock_tree(node);
        }
        self.tree_len = 0;
        self.forget_tables();
    }

    /// Makes the next pages be looked up from the top: an entry was emptied or a table freed, so
    /// nothing anchors the tables at hand any more.
    #[inline(always)]
    pub(super) fn forget_tables(&mut self) {
        self.source.region = u64::MAX;
        self.target.region = u64::MAX;
    }

    /// A table of the space whose lock is held has gone or changed its shape.
    pub(super) fn forget_all_tables(&mut self) {
        self.forget_tables();
        self.own.region = u64::MAX;
    }

    /// Holds the lock of `space`, and of no other.
    #[inline(always)]
    pub(super) fn hold_space(&mut self, space: SpaceRef) {
        if self.space != space {
            self.change_space(space);
        }
    }

    #[inline(never)]
    fn change_space(&mut self, space: SpaceRef) {
        self.leave_space();
        self.env.lock_space(space);
        self.space = space;
    }

    /// Whether the mapping lock held is the one for `frame`.
    #[inline(always)]
    pub(super) fn guards(&self, frame: u64) -> bool {
        frame.wrapping_sub(self.tree_start) < self.tree_len
    }

    /// Holds the mapping lock for `frame`. False if another lock had to be given up for it: then
    /// whatever was read before must be read again.
    #[inline(always)]
    pub(super) fn hold_tree(&mut self, frame: u64) -> bool {
        self.guards(frame) || self.switch_tree(frame)
    }

    #[inline(never)]
    fn switch_tree(&mut self, frame: u64) -> bool {
        let info = self.env.frame_info(PhysAddr::new(frame));
        let same = self.tree == Some(info.node);
        if !same {
            self.leave();
            self.env.lock_tree(info.node);
            self.tree = Some(info.node);
        }
        self.tree_start = info.range.start.as_u64();
        self.tree_len = info.range.len();
        same
    }

    /// Walks down to the entry of `va`, at most to a table of level `stop`. The space's lock is
    /// held.
    pub(super) fn find(&self, space: SpaceRef, va: u64, stop: u8) -> Slot {
        walk(self.env, space, va, stop)
    }

    /// The entry of `va` in a leaf table or above; by the table at hand if it is the right one.
    #[inline(always)]
    pub(super) fn find_source(&mut self, space: SpaceRef, va: u64) -> Slot {
        if let Some(slot) = self.source.slot(self.env, space, va) {
            return slot;
        }
        self.hold_space(space);
        self.find(space, va, 1)
    }

    /// The entry of `va` in a leaf table or above, with the space's lock held afterwards.
    #[inline(always)]
    pub(super) fn find_own(&mut self, space: SpaceRef, va: u64) -> Slot {
        self.hold_space(space);
        if let Some(slot) = self.own.slot(self.env, space, va) {
            return slot;
        }
        let slot = self.find(space, va, 1);
        if slot.level == 1 {
            self.own.set(space, va, &slot);
        }
        slot
    }

    /// The entry of `va` at `level`, with the tables on the way made as needed; a page of a higher
    /// level that is in the way is returned instead. The lock of `space` is held afterwards.
    #[inline(always)]
    pub(super) fn find_target(
        &mut self,
        space: SpaceRef,
        va: u64,
        level: u8,
        home: NodeId,
    ) -> Result<Slot, OutOfMemory> {
        self.hold_space(space);
        if level == 1
            && let Some(slot) = self.target.slot(self.env, space, va)
        {
            return Ok(slot);
        }
        make_tables(self.env, space, va, level, home)
    }

    /// Writes an empty entry: `shadow` is the node of a page, or the used groups of a table.
    #[inline(always)]
    pub(super) fn fill(&self, slot: &Slot, entry: u64, shadow: u64) {
        slot.fill(self.env, entry, shadow);
    }

    /// Splits the page at `slot` of `space` into 512 of the next lower level; its node becomes
    /// broken. Mapping lock and space lock are held.
    pub(super) fn split(&mut self, space: SpaceRef, slot: &Slot) -> Result<(), OutOfMemory> {
        let env = self.env;
        let page = env.read(slot.at + SHADOW);
        let info = env.read(page + node::INFO);
        let table = env.alloc_table(env.home(space)).ok_or(OutOfMemory)?;
        let lower = slot.level - 1;
        let old = env.read(slot.at);
        let first = pte::resize(old, slot.level, lower);
        for i in 0..512 {
            env.write(table + i * 8, first + (i << pte::bits(lower)));
            env.write(table + SHADOW + i * 8, page);
        }
        if page != 0 && info & node::BROKEN == 0 {
            let at = pte::frame(old, slot.level);
            env.write(page + node::WHERE, node::broken(at, pte::size(slot.level) >> 12));
            env.write(page + node::INFO, info | node::BROKEN);
        }
        let last = env.swap(slot.at, table | pte::TABLE);
        env.write(slot.at + SHADOW, u64::MAX);
        // Status that the processor set between the copy and the exchange.
        let missed = last & !old & (pte::A | pte::D);
        if missed != 0 {
            for i in 0..512 {
                env.fetch_or(table + i * 8, missed);
            }
        }
        if last & pte::A != 0 {
            self.flush.add(space, node::va(info), pte::size(node::level(info)));
        }
        self.forget_all_tables();
        Ok(())
    }

    /// The first used entry of the table behind `slot` (a table entry) with an index of at least
    /// `from`. Groups found empty are struck off the list of used groups.
    pub(super) fn first_used(&self, table: u64, used: u64, from: u64) -> Option<u64> {
        let env = self.env;
        if from >= 512 {
            return None;
        }
        let mut groups = env.read(used) & (u64::MAX << (from >> 3));
        while groups != 0 {
            let group = groups.trailing_zeros() as u64;
            let mut any = 0;
            for i in group * 8..group * 8 + 8 {
                let entry = env.read(table + i * 8);
                any |= entry;
                if entry != 0 && i >= from {
                    return Some(i);
                }
            }
            if any == 0 {
                env.write(used, env.read(used) & !(1 << group));
            }
            groups &= groups - 1;
        }
        None
    }

    /// Frees the table behind `slot`, a table entry, if it is empty. The space's lock is held.
    pub(super) fn free_if_empty(&mut self, space: SpaceRef, va: u64, slot: &Slot) -> bool {
        let table = slot.entry & pte::ADDRESS;
        if slot.level == 4 || self.first_used(table, slot.at + SHADOW, 0).is_some() {
            return false;
        }
        self.env.swap(slot.at, 0);
        self.flush.retire(self.env, space, va, table);
        self.forget_all_tables();
        true
    }
}

impl<E: Env> Drop for Session<'_, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The used groups of a top table are kept in its shadow page behind the lower half.
pub fn used_of_top(top: u64) -> u64 {
    top + SHADOW + 256 * 8
}
