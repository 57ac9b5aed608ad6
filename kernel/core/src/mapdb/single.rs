//! One 4 KiB page in one go: what a pager's answer to a page fault is made of.
//!
//! The same as a [`Session`](super::Session) that maps one page, with what a session is for left out: nothing is
//! remembered, nothing is flushed. A list of checks, a point of no return, no failure; a check that fails answers
//! false, nothing has changed, and the complete operation does it.

use super::env::{Env, SpaceRef};
use super::node::{self, BROKEN, CHILD, Fresh, INFO, LEVEL};
use super::pte::{self, SHADOW};
use super::session::{Hint, Slot, make_tables, walk};
use super::unmap::USER_END;

/// Maps the 4 KiB page at `source.1` of space `source.0` to `target` with at most `rights` (r 4, w 2, x 1), if it is a
/// page, or part of a larger page, of the run of frames that `hint` names and the place is free. False if not, or if
/// memory for a node or a table is missing: use `MapOp`.
///
/// The tables of the source are walked under the mapping lock alone. So this must run on a CPU that translates by
/// them and that serves no shootdown but while it waits for a lock: then a table that others take away cannot be
/// reused before this is over. A present entry of guarded memory says that its table is not one of those (head of
/// `session.rs`).
#[inline(always)]
pub fn map_single<E: Env>(
    env: &E,
    hint: Hint,
    source: (SpaceRef, u64),
    target: (SpaceRef, u64),
    rights: u8,
) -> bool {
    let usual = source.0 != SpaceRef::PHYSICAL
        && source.1 < USER_END
        && target.1 < USER_END
        && rights & pte::READ != 0
        && hint.len != 0
        && !env.reserved(target.0, target.1, 4096);
    if !usual {
        return false;
    }
    env.lock_tree(hint.node);
    let done = under_lock(env, hint, source, target, rights);
    env.unlock_tree(hint.node);
    done
}

#[inline(always)]
fn under_lock<E: Env>(
    env: &E,
    hint: Hint,
    source: (SpaceRef, u64),
    target: (SpaceRef, u64),
    rights: u8,
) -> bool {
    let from = walk(env, source.0, source.1, 1);
    let frame = pte::frame(from.entry, 1);
    if from.level != 1 || from.entry & pte::P == 0 || frame.wrapping_sub(hint.start) >= hint.len {
        return general(env, hint, (from, source.1), target, rights);
    }
    let parent = env.read(from.at + SHADOW);
    if parent == 0 || env.read(parent + INFO) & (BROKEN | LEVEL) != 1 {
        return general(env, hint, (from, source.1), target, rights);
    }
    env.lock_space(target.0);
    let to = walk(env, target.0, target.1, 1);
    let new = match to.level == 1 && to.entry == 0 {
        true => env.alloc_node(env.home(target.0)),
        false => None,
    };
    // Point of no return.
    if let Some(new) = new {
        let fresh = Fresh { space: target.0, va: target.1, level: 1, entry: to.at };
        node::init(env, new, (parent, false), parent + CHILD, frame, fresh);
        to.fill(env, pte::handed_on(from.entry, rights, env.nx()), new);
    }
    env.unlock_space(target.0);
    new.is_some() || to.level != 1 && general(env, hint, (from, source.1), target, rights)
}

/// The same for what is a little less usual: the 4 KiB at `va` out of the larger page behind `from`, or of one that was
/// larger; a place whose tables are made now.
#[inline(never)]
fn general<E: Env>(
    env: &E,
    hint: Hint,
    (from, va): (Slot, u64),
    target: (SpaceRef, u64),
    rights: u8,
) -> bool {
    let inside = va & (pte::size(from.level) - 1) & !0xFFF;
    let frame = pte::frame(from.entry, from.level) + inside;
    if !from.is_page() || frame.wrapping_sub(hint.start) >= hint.len {
        return false;
    }
    let parent = env.read(from.at + SHADOW);
    if parent == 0 {
        return false;
    }
    env.lock_space(target.0);
    let home = env.home(target.0);
    let done = make_tables(env, target.0, target.1, 1, home).is_ok_and(|to| {
        if to.level != 1 || to.entry != 0 {
            return false;
        }
        let Some(new) = env.alloc_node(home) else { return false };
        let level = node::level(env.read(parent + INFO));
        let parent_home = || env.home(SpaceRef(env.read(parent + node::SPACE)));
        let Some(head) = node::child_head(env, parent, level, 1, frame, parent_home) else {
            env.free_node(new);
            return false;
        };
        // Point of no return.
        let fresh = Fresh { space: target.0, va: target.1, level: 1, entry: to.at };
        node::init(env, new, (parent, level != 1), head, frame, fresh);
        let entry = pte::resize(from.entry, from.level, 1) + inside;
        to.fill(env, pte::handed_on(entry, rights, env.nx()), new);
        true
    });
    env.unlock_space(target.0);
    done
}
