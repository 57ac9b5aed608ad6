//! Grant: the new page takes the place of the sender's in the tree (reference 5.6).
//!
//! A page that is granted whole moves with all that was derived from it. Part of a larger page
//! becomes a page of its own below the sender's node, which keeps the place in the tree for what
//! was derived from it earlier; seen from above and from the receiver that is the same.

use super::env::{Env, SpaceRef};
use super::map::{MapOp, Source};
use super::node::{self, BROKEN, Fresh, INFO, PARENT, WHERE};
use super::pte;
use super::revoke::{dispose_upwards, pass_up};
use super::session::{OutOfMemory, Session, Slot};

impl MapOp {
    /// The new page takes the place of the sender's.
    #[inline(never)]
    pub(super) fn grant_page<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        from: Source,
        slot: &Slot,
        entry: u64,
        fresh: Fresh,
    ) -> Result<(), OutOfMemory> {
        let env = s.env;
        let info = env.read(from.node + INFO);
        if from.slot.level > fresh.level {
            // Part of a larger page: let it become pages of its own, then look again.
            return s.split_in(self.source, &from.slot);
        }
        let whole = info & BROKEN == 0 && !node::pinned(info);
        let narrows = pte::rights(entry) != pte::rights(from.slot.entry);
        let leaf = env.read(from.node + node::CHILD) == 0 && env.read(from.node + node::INDEX) == 0;
        if whole && (leaf || !narrows) && env.read(from.node + PARENT) != 0 {
            let mut moved = from.node;
            if leaf && env.home(self.source) != env.home(self.target) {
                moved = env.alloc_node(env.home(self.target)).ok_or(OutOfMemory)?;
                node::replace(env, from.node, moved, fresh);
                env.free_node(from.node);
            } else {
                let mut kept = info & !(0xFFFF_FFFF_F000 | node::LEVEL);
                if env.home(self.source) != env.home(self.target) {
                    kept |= node::ABROAD;
                }
                env.write(moved + node::SPACE, fresh.space.0);
                env.write(moved + INFO, kept | fresh.va | fresh.level as u64);
                env.write(moved + WHERE, fresh.entry);
            }
            s.fill(slot, entry, moved);
            let old = env.swap(from.slot.at, 0);
            s.leave_behind(moved, self.source, node::va(info), &from.slot, old);
            self.offset += pte::size(fresh.level);
            return Ok(());
        }
        let node = env.alloc_node(env.home(self.target)).ok_or(OutOfMemory)?;
        let level = node::level(info);
        let home = || env.home(self.source);
        let Some(head) = node::child_head(env, from.node, level, fresh.level, from.frame, home)
        else {
            env.free_node(node);
            return Err(OutOfMemory);
        };
        let place = (from.node, level != fresh.level);
        node::init(env, node, place, head, from.frame, fresh);
        s.fill(slot, entry, node);
        s.abandon(self.source, &from.slot, from.node, from.frame);
        self.offset += pte::size(fresh.level);
        Ok(())
    }
}

impl<E: Env> Session<'_, E> {
    pub(super) fn split_in(&mut self, space: SpaceRef, slot: &Slot) -> Result<(), OutOfMemory> {
        self.hold_space(space);
        self.split(space, slot)
    }

    /// Empties an entry whose page was granted. What was derived from it stays, below a node
    /// without pages.
    pub(super) fn abandon(&mut self, space: SpaceRef, slot: &Slot, page: u64, frame: u64) {
        let env = self.env;
        let info = env.read(page + INFO);
        let old = env.swap(slot.at, 0);
        let start = if info & BROKEN == 0 { frame } else { node::frame(env, page, info) };
        let live = if info & BROKEN == 0 {
            0
        } else {
            node::live(env, page, info) - (pte::size(slot.level) >> 12)
        };
        env.write(page + WHERE, node::broken(start, live));
        let mut info = info | BROKEN;
        if live == 0 {
            pass_up(env, env.read(page + PARENT), node::waiting(info));
            info &= node::NOT_WAITING;
        }
        env.write(page + INFO, info);
        let va = node::va(info) + (frame - start);
        self.leave_behind(page, space, va, slot, old);
        dispose_upwards(self, page);
    }

    /// Status of an emptied entry goes to the parent of `page`, and the flush is noted.
    fn leave_behind(&mut self, page: u64, space: SpaceRef, va: u64, slot: &Slot, old: u64) {
        let status = pte::status(old);
        pass_up(self.env, self.env.read(page + PARENT), status);
        if old & pte::A != 0 {
            self.flush.add(space, va, pte::size(slot.level));
        }
        self.forget_tables();
    }
}
