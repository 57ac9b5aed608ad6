//! Short paths for one 4 KiB page, the case that page faults and batches are made of.
//!
//! Each is a list of checks, then a point of no return, then no failure. A check that fails says
//! `None` and has changed nothing that matters: the complete operation does it then. With these
//! two functions always answering `None` everything works the same.

use super::env::{Env, SpaceRef};
use super::node::{self, BROKEN, CHILD, Fresh, INFO, LEVEL, PARENT, SEEN, SPACE, WHERE};
use super::pte::{self, SHADOW};
use super::revoke::{is_simple_leaf, pass_up};
use super::session::{Session, Slot};
use super::unmap::USER_END;

/// Children that the short unmap removes without looking for a preemption.
const FEW: u32 = 4;

impl<E: Env> Session<'_, E> {
    /// Maps the 4 KiB page at `source.1` of space `source.0` to `target`, if it is a small page
    /// and the place is free. `Some` if it is done, else use `MapOp`.
    #[inline]
    pub fn map_page(
        &mut self,
        source: (SpaceRef, u64),
        target: (SpaceRef, u64),
        rights: u8,
    ) -> Option<()> {
        let env = self.env;
        let from = self.source_page(source.0, source.1)?;
        let parent = env.read(from.at + SHADOW);
        let frame = pte::frame(from.entry, 1);
        if rights & pte::READ == 0 || parent == 0 || target.1 >= USER_END {
            return None;
        }
        if env.read(parent + INFO) & (BROKEN | LEVEL) != 1 {
            return None;
        }
        let home = env.home(target.0);
        self.hold_space(target.0);
        let slot = match self.target.slot(env, target.0, target.1) {
            Some(slot) if self.target_clear => slot,
            near => self.new_target_page(target, near)?,
        };
        if slot.entry != 0 {
            return None;
        }
        let new = env.alloc_node(home)?;
        // Point of no return.
        let entry = pte::handed_on(from.entry, rights, env.nx());
        let fresh = Fresh { space: target.0, va: target.1, level: 1, entry: slot.at };
        node::init(env, new, (parent, false), parent + CHILD, frame, fresh);
        self.fill(&slot, entry, new);
        if !self.target_clear {
            self.target.set(target.0, target.1, &slot);
        }
        Some(())
    }

    /// The entry for a small page at `target`, unless the receiver's areas are there. From the second page
    /// of a leaf table on (`near`) it is known whether the areas touch any of that table's pages.
    #[inline(never)]
    fn new_target_page(&mut self, target: (SpaceRef, u64), near: Option<Slot>) -> Option<Slot> {
        let env = self.env;
        self.target_clear = false;
        if env.reserved(target.0, target.1, 4096) {
            return None;
        }
        if let Some(slot) = near {
            let size = pte::size(2);
            self.target_clear = !env.reserved(target.0, target.1 & !(size - 1), size);
            return Some(slot);
        }
        let slot = self.find_target(target.0, target.1, 1, env.home(target.0)).ok()?;
        (slot.level == 1).then_some(slot)
    }

    /// The small page at `va`, under its mapping lock; remembered as an anchor.
    #[inline(always)]
    fn source_page(&mut self, space: SpaceRef, va: u64) -> Option<Slot> {
        if let Some(slot) = self.source.slot(self.env, space, va) {
            let held = slot.entry & pte::P != 0 && self.guards(pte::frame(slot.entry, 1));
            return held.then_some(slot);
        }
        self.new_source_page(space, va)
    }

    #[inline(never)]
    fn new_source_page(&mut self, space: SpaceRef, va: u64) -> Option<Slot> {
        if space == SpaceRef::PHYSICAL || va >= USER_END {
            return None;
        }
        loop {
            self.hold_space(space);
            let slot = self.find(space, va, 1);
            if slot.level != 1 || slot.entry & pte::P == 0 || self.env.read(slot.at + SHADOW) == 0 {
                return None;
            }
            if self.hold_tree(pte::frame(slot.entry, 1)) {
                self.source.set(space, va, &slot);
                return Some(slot);
            }
        }
    }

    /// Unmaps completely the 4 KiB page at `va` from everybody who got it from `space`, and with
    /// `own` from `space` itself, if it is a small page with few and simple children. `Some` with
    /// the status if it is done, else use `UnmapOp`.
    #[inline]
    pub fn unmap_page(&mut self, space: SpaceRef, va: u64, own: bool) -> Option<u8> {
        if space == SpaceRef::PHYSICAL || va >= USER_END {
            return None;
        }
        let env = self.env;
        let slot = self.own_page(space, va)?;
        let page = env.read(slot.at + SHADOW);
        if page == 0 {
            return None;
        }
        let info = env.read(page + INFO);
        let parent = env.read(page + PARENT);
        if info & (BROKEN | LEVEL) != 1
            || own && (node::pinned(info) || env.read(parent + INFO) & BROKEN != 0)
        {
            return None;
        }
        let mut status = node::due(info);
        let mut left = FEW;
        loop {
            let child = env.read(page + CHILD);
            if child == 0 {
                break;
            }
            let child_info = env.read(child + INFO);
            if left == 0 || !is_simple_leaf(env, child, child_info) {
                self.keep_for_above(page, status);
                return None;
            }
            left -= 1;
            status |= node::waiting(child_info) | self.drop_page(child, child_info);
        }
        if own {
            status |= self.drop_page(page, info);
            pass_up(env, parent, status | node::waiting(info));
        } else if status != 0 {
            let kept = info & !(7 << node::DUE);
            env.write(page + INFO, kept | (status as u64) << SEEN);
        }
        self.forget_tables();
        Some(status)
    }

    /// The entry of `va` if that is a small page; its mapping lock is held.
    #[inline(always)]
    fn own_page(&mut self, space: SpaceRef, va: u64) -> Option<Slot> {
        let slot = self.find_own(space, va);
        if slot.level != 1 || slot.entry & pte::P == 0 {
            return None;
        }
        if self.guards(pte::frame(slot.entry, 1)) {
            return Some(slot);
        }
        self.hold_tree(pte::frame(slot.entry, 1));
        let slot = self.find_own(space, va);
        let same = slot.level == 1 && slot.entry & pte::P != 0;
        (same && self.guards(pte::frame(slot.entry, 1))).then_some(slot)
    }

    /// Removes a page with its node; answers the status of the entry.
    #[inline(always)]
    fn drop_page(&mut self, page: u64, info: u64) -> u8 {
        let env = self.env;
        let entry = env.swap(env.read(page + WHERE), 0);
        let space = SpaceRef(env.read(page + SPACE));
        if entry & pte::A != 0 {
            self.flush.add(space, node::va(info), 4096);
        }
        node::unlink(env, page, info, pte::frame(entry, 1));
        if info & node::ABROAD == 0 {
            env.free_node_at(page, env.home(space));
        } else {
            env.free_node(page);
        }
        pte::status(entry)
    }

    /// The short path stops half way: the children that are gone leave their status as due.
    #[inline(never)]
    fn keep_for_above(&mut self, page: u64, status: u8) {
        let info = self.env.read(page + INFO);
        self.env.write(page + INFO, info | (status as u64) << node::DUE);
        self.forget_tables();
    }
}
