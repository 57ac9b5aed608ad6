//! Map and grant (reference 5.6).
//!
//! The two regions have the same size (`l4abi::plan_map` fits send fpage and window) and are worked
//! through in chunks: the largest hardware page that the source page, the alignment and the
//! receiver's own areas allow. A chunk is looked at anew after every interruption, so nothing
//! but the offset and the state of an eviction has to survive one.
//!
//! What is visible does not depend on the sizes of hardware pages that happen to be used: a part
//! of a large page can be mapped, replaced, revoked and granted like a page of its own.

use super::Progress;
use super::env::{Env, SpaceRef};
use super::node::{self, BROKEN, Fresh, INFO, PARENT};
use super::pte::{self, SHADOW};
use super::revoke::{Change, Revoke};
use super::session::{OutOfMemory, Session, Slot};
use super::unmap::USER_END;

/// Map or grant of one item; keep it in the TCB between steps.
#[derive(Clone, Copy, Debug)]
pub struct MapOp {
    pub(super) source: SpaceRef,
    pub(super) target: SpaceRef,
    source_va: u64,
    target_va: u64,
    len: u64,
    pub(super) offset: u64,
    /// While positive: old mappings in the target are being removed up to this offset.
    evict_end: u64,
    evict_at: u64,
    revoke: Revoke,
    rights: u8,
    grant: bool,
    /// The target region touches the receiver's KIP or UTCB area.
    guarded: bool,
}

/// A page of the source.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub slot: Slot,
    pub node: u64,
    /// The memory at the operation's offset.
    pub frame: u64,
    /// The source entry with the rights that the new page gets.
    pub entry: u64,
}

impl MapOp {
    /// Maps (or grants) `[source_va, + len)` of `source` to `[target_va, + len)` of `target` with
    /// at most `rights` (r 4, w 2, x 1). Both start at multiples of `len`, a power of two; 0 means
    /// the whole address space. `source` is [`SpaceRef::PHYSICAL`] for sigma0: then `source_va`
    /// is a physical address, and granting is the same as mapping.
    pub fn new<E: Env>(
        env: &E,
        (source, source_va): (SpaceRef, u64),
        (target, target_va): (SpaceRef, u64),
        len: u64,
        rights: u8,
        grant: bool,
    ) -> Self {
        let len = if len == 0 { USER_END } else { len };
        let room = USER_END.saturating_sub(source_va.max(target_va));
        let len = if rights & pte::ALL == 0 { 0 } else { len.min(room) };
        Self {
            source,
            target,
            source_va,
            target_va,
            len,
            offset: 0,
            evict_end: 0,
            evict_at: 0,
            revoke: Revoke::IDLE,
            rights: rights & pte::ALL,
            grant: grant && source != SpaceRef::PHYSICAL,
            guarded: env.reserved(target, target_va, len),
        }
    }

    /// Goes on for about `budget` page-table entries and nodes. Between two steps the session may
    /// be ended and its flush done.
    ///
    /// # Errors
    /// [`OutOfMemory`]: what lies before the failing page is mapped, the rest is not. The operation
    /// is over.
    #[inline]
    pub fn step<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        budget: &mut i32,
    ) -> Result<Progress, OutOfMemory> {
        loop {
            if self.evict_end != 0 && !self.evict(s, budget) {
                return Ok(Progress::More);
            }
            if self.offset >= self.len {
                return Ok(Progress::Done);
            }
            if *budget <= 0 {
                return Ok(Progress::More);
            }
            *budget -= 1;
            let va = self.source_va + self.offset;
            let slot = s.find_source(self.source, va);
            if !slot.is_page() {
                if self.source == SpaceRef::PHYSICAL {
                    self.offset += s.provide(va, &slot)?;
                } else {
                    self.skip_hole(s, &slot);
                }
                continue;
            }
            let node = s.env.read(slot.at + SHADOW);
            if node == 0 {
                self.offset += 4096; // The sender's KIP or a UTCB.
                continue;
            }
            let frame = pte::frame(slot.entry, slot.level) + (va & (pte::size(slot.level) - 1));
            if !s.hold_tree(frame) {
                continue;
            }
            if slot.level == 1 {
                s.source.set(self.source, va, &slot);
            }
            let Some(entry) = self.entry_for(slot.entry, s.env.nx()) else {
                let size = pte::size(slot.level);
                self.offset += size - (va & (size - 1)); // No right is left to give.
                continue;
            };
            self.chunk(s, Source { slot, node, frame, entry })?;
        }
    }

    /// Ends an unfinished operation (its thread is deleted); see `UnmapOp::cancel`.
    pub fn cancel<E: Env>(&mut self, s: &mut Session<'_, E>) {
        if self.revoke.is_active() {
            s.hold_tree(self.revoke.frame());
            self.revoke.cancel(s);
        }
        self.evict_end = 0;
        self.offset = self.len;
    }

    /// Passes a hole in the source.
    fn skip_hole<E: Env>(&mut self, s: &mut Session<'_, E>, slot: &Slot) {
        s.hold_space(self.source);
        let va = self.source_va + self.offset;
        let index = slot.at >> 3 & 511;
        let size = pte::size(slot.level);
        let next = match s.first_used(slot.at & !0xFFF, slot.used, index + 1) {
            Some(used) if slot.level < 4 || used < 256 => {
                (va & !(size - 1)) + (used - index) * size
            }
            _ if slot.level == 4 => USER_END,
            _ => (va | (pte::size(slot.level + 1) - 1)) + 1,
        };
        self.offset = next - self.source_va;
    }

    /// Largest level that fits at the offset, not above `limit`; `None` if the page is one that
    /// the receiver's areas occupy.
    #[inline(always)]
    fn fitting_level<E: Env>(&self, s: &Session<'_, E>, limit: u8) -> Option<u8> {
        let mut level = limit;
        while level > 1
            && (self.offset & (pte::size(level) - 1) != 0
                || self.len - self.offset < pte::size(level))
        {
            level -= 1;
        }
        if self.guarded {
            while s.env.reserved(self.target, self.target_va + self.offset, pte::size(level)) {
                if level == 1 {
                    return None;
                }
                level -= 1;
            }
        }
        Some(level)
    }

    /// Maps one chunk, or starts the eviction of what is in its way.
    #[inline(always)]
    fn chunk<E: Env>(&mut self, s: &mut Session<'_, E>, from: Source) -> Result<(), OutOfMemory> {
        let Some(mut level) = self.fitting_level(s, from.slot.level) else {
            self.offset += 4096;
            return Ok(());
        };
        let va = self.target_va + self.offset;
        let home = s.env.home(self.target);
        loop {
            let slot = s.find_target(self.target, va, level, home)?;
            if slot.entry == 0 {
                return self.install(s, from, &slot, level, home);
            }
            if slot.is_page() {
                return self.meet_page(s, from, &slot, level);
            }
            // A table where a large page is to go.
            if s.free_if_empty(self.target, va, &slot) {
                continue;
            }
            if s.holds_any_of(&slot, from.frame, level) {
                level -= 1;
                continue;
            }
            self.start_eviction(pte::size(level));
            return Ok(());
        }
    }

    fn start_eviction(&mut self, size: u64) {
        self.evict_at = self.offset;
        self.evict_end = self.offset + size;
    }

    /// Rights that the page gets: never more than the sender has.
    #[inline(always)]
    fn entry_for(&self, entry: u64, nx: bool) -> Option<u64> {
        let mut new = entry & !(pte::A | pte::D);
        if self.rights & pte::WRITE == 0 {
            new &= !pte::W;
        }
        if self.rights & pte::EXECUTE == 0 && nx {
            new |= pte::NX;
        }
        if self.rights & pte::READ == 0 && self.rights & pte::rights(entry) == 0 {
            return None;
        }
        Some(new)
    }

    /// Fills an empty entry of the target.
    #[inline(always)]
    fn install<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        from: Source,
        slot: &Slot,
        level: u8,
        home: crate::types::NodeId,
    ) -> Result<(), OutOfMemory> {
        let env = s.env;
        let size = pte::size(level);
        let va = self.target_va + self.offset;
        let entry = if from.slot.level == 1 {
            from.entry
        } else {
            let first = pte::resize(from.entry, from.slot.level, level);
            first + (from.frame - pte::frame(from.entry, from.slot.level))
        };
        let fresh = Fresh { space: self.target, va, level, entry: slot.at };
        if self.grant {
            return self.grant_page(s, from, slot, entry, fresh);
        }
        let node = env.alloc_node(home).ok_or(OutOfMemory)?;
        let info = env.read(from.node + INFO);
        let parent_level = node::level(info);
        let parent_home = || env.home(SpaceRef(env.read(from.node + node::SPACE)));
        let Some(head) =
            node::child_head(env, from.node, parent_level, level, from.frame, parent_home)
        else {
            env.free_node(node);
            return Err(OutOfMemory);
        };
        node::init(env, node, (from.node, parent_level != level), head, from.frame, fresh);
        s.fill(slot, entry, node);
        if level == 1 {
            s.target.set(self.target, va, slot);
            s.target_clear = false;
        }
        self.offset += size;
        Ok(())
    }

    /// There is a page already: of the same memory (add rights), or in the way.
    #[inline(never)]
    fn meet_page<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        from: Source,
        slot: &Slot,
        level: u8,
    ) -> Result<(), OutOfMemory> {
        let env = s.env;
        let size = pte::size(level);
        let va = self.target_va + self.offset;
        let page = env.read(slot.at + SHADOW);
        if page == 0 {
            self.offset += size; // A kernel page outside the areas: not for user level.
            return Ok(());
        }
        let there = pte::frame(slot.entry, slot.level) + (va & (pte::size(slot.level) - 1));
        if there != from.frame {
            self.start_eviction(size);
            return Ok(());
        }
        let missing = pte::rights(from.entry) & !pte::rights(slot.entry);
        if missing != 0 {
            // Parts of what a large page was mapped from may have been granted away: then its parts come from
            // different pages, and each is judged by itself.
            let above = env.read(page + node::PARENT);
            if slot.level > 1 && above != 0 && env.read(above + INFO) & node::BROKEN != 0 {
                return s.split_in(self.target, slot);
            }
            // Only its parent may add rights. Those that another page lends could not be taken
            // back through that page, and an unmap in progress may have been here already.
            if s.page_above(page, there, from.node) != from.node {
                self.start_eviction(size);
                return Ok(());
            }
            if slot.level > level {
                return s.split_in(self.target, slot);
            }
            if missing & pte::EXECUTE != 0 {
                env.fetch_and(slot.at, !pte::NX);
            }
            if missing & pte::WRITE != 0 {
                env.fetch_or(slot.at, pte::W);
            }
        }
        if self.grant && from.slot.at != slot.at {
            if from.slot.level > level {
                return s.split_in(self.source, &from.slot);
            }
            s.abandon(self.source, &from.slot, from.node, from.frame);
        }
        self.offset += size;
        Ok(())
    }

    /// Removes what is mapped in the target up to `evict_end`. True when done.
    #[inline(never)]
    fn evict<E: Env>(&mut self, s: &mut Session<'_, E>, budget: &mut i32) -> bool {
        let change = Change::revoke(pte::ALL);
        loop {
            if self.revoke.is_active() {
                let (lo, len) = (self.revoke.frame(), self.revoke.len());
                s.hold_tree(lo);
                if !self.revoke.run(s, change, budget).0 {
                    return false;
                }
                self.evict_at += len;
            }
            if self.evict_at >= self.evict_end {
                self.evict_end = 0;
                return true;
            }
            if *budget <= 0 {
                return false;
            }
            *budget -= 1;
            let va = self.target_va + self.evict_at;
            let slot = s.find_own(self.target, va);
            let size = pte::size(slot.level);
            let inside = va & (size - 1);
            let node = s.env.read(slot.at + SHADOW);
            if !slot.is_page() || node == 0 {
                self.evict_at += size - inside;
                continue;
            }
            let base = pte::frame(slot.entry, slot.level);
            if s.hold_tree(base) {
                let end = self.target_va + self.evict_end;
                let hi = base + size.min(end - (va - inside));
                self.revoke = Revoke::start(node, base + inside, hi, true);
            }
        }
    }
}

impl<E: Env> Session<'_, E> {
    /// The node of the page from which `page` was mapped, at `frame`. Nodes that have lost that
    /// page stand for the ones above them. `guess` is known to have it.
    fn page_above(&mut self, page: u64, frame: u64, guess: u64) -> u64 {
        let env = self.env;
        let mut above = env.read(page + PARENT);
        while above != 0 && above != guess {
            let info = env.read(above + INFO);
            if info & BROKEN == 0 {
                return above;
            }
            if node::live(env, above, info) != 0 {
                let space = SpaceRef(env.read(above + node::SPACE));
                let at = node::va(info) + (frame - node::frame(env, above, info));
                self.hold_space(space);
                let slot = self.find(space, at, 1);
                if slot.is_page() && env.read(slot.at + SHADOW) == above {
                    return above;
                }
            }
            above = env.read(above + PARENT);
        }
        above
    }

    /// Whether some page in the tables below `slot` is the very memory that a page of `level` for
    /// `frame` would bring there. (Tables below tables count as such.)
    fn holds_any_of(&self, slot: &Slot, frame: u64, level: u8) -> bool {
        let table = slot.entry & pte::ADDRESS;
        let lower = level - 1;
        let mut from = 0;
        while let Some(i) = self.first_used(table, slot.at + SHADOW, from) {
            let entry = self.env.read(table + i * 8);
            let page = pte::is_page(entry, lower);
            let node = self.env.read(table + i * 8 + SHADOW);
            let wanted = frame + (i << pte::bits(lower));
            if !page || node == 0 || pte::frame(entry, lower) == wanted {
                return true;
            }
            from = i + 1;
        }
        false
    }
}
