//! What to do with a page once it is held: pure decisions, from the page's state and the wish.
//!
//! Orders that matter, and why:
//! - allocate before revoking: an exhausted node then changes nothing;
//! - revoke before copying: nobody writes the old frame while it is copied (numa-l4 4.2.6);
//! - commit after the fault reply: the page is held, so no revocation can overtake the mapping;
//! - free frames that others might still have mapped only after all revocations.

use crate::config::{Exhausted, PagerConfig, UnmapVariant};
use crate::directory::{Update, first_mode, mapped_rights};
use crate::ids::{Frame, NodeSet};
use crate::lane::{FrameRef, Held, Next, PageOp, Phase, Target};
use crate::page::{Frames, MAX_REPLICAS, Mode, PageState};
use alloc::vec;
use alloc::vec::Vec;
use l4abi::{NodeId, Rights};

/// Phases that satisfy a fault on a held page. `home`: where its first frame belongs.
#[must_use]
pub fn fault(config: &PagerConfig, held: &Held, home: NodeId, access: Rights) -> Vec<Phase> {
    let (me, region) = (config.node, held.region);
    let write = access.contains(Rights::W);
    let Some(state) = &held.state else {
        let mode = first_mode(region, write);
        let map = Phase::Map(FrameRef::New, mapped_rights(mode, region));
        let alloc = Phase::Alloc { node: home, clean: true, others: helpers(config, home) };
        return vec![alloc, map, Phase::Commit(Next::First(mode))];
    };
    let (frame, own) = state.frame_for(me);
    match state.mode {
        Mode::Replicated if write => withdraw(config, held, state, frame),
        Mode::Replicated if !own && state.frames.len() < MAX_REPLICAS && !mapped(state, me) => {
            let map = Phase::Map(FrameRef::New, mapped_rights(Mode::Replicated, region));
            let alloc = Phase::Alloc { node: me, clean: false, others: Vec::new() };
            vec![alloc, Phase::Copy(frame), map, Phase::Commit(Next::Replica)]
        }
        Mode::Global if state.next_touch && !own => {
            let map = Phase::Map(FrameRef::New, region.rights);
            let alloc = Phase::Alloc { node: me, clean: false, others: Vec::new() };
            let revoke = revoke(config, state, state.mapped, &[]);
            let commit = Phase::Commit(Next::Moved);
            vec![alloc, revoke, Phase::Copy(frame), map, commit, Phase::Free(vec![frame])]
        }
        _ => in_place(config, held),
    }
}

fn mapped(state: &PageState, node: NodeId) -> bool {
    state.mapped.contains(node)
}

/// Phases that map the page from the frame it has: also what is left when a wish for another frame
/// cannot be fulfilled.
#[must_use]
pub fn in_place(config: &PagerConfig, held: &Held) -> Vec<Phase> {
    let Some(state) = &held.state else { return vec![Phase::Commit(Next::Keep)] };
    let rights = mapped_rights(state.mode, held.region);
    let frame = FrameRef::This(state.frame_for(config.node).0);
    vec![Phase::Map(frame, rights), Phase::Commit(Next::Mapped)]
}

/// The first write to a replicated page: all replicas go, then the page becomes global
/// (numa-l4 4.2.5). The writer's own replica survives, or the first one.
fn withdraw(config: &PagerConfig, held: &Held, state: &PageState, survivor: Frame) -> Vec<Phase> {
    let me = config.node;
    // This node's mapping of the survivor may stay: it just gets the write right.
    let told =
        if config.unmap == UnmapVariant::Root { state.mapped } else { state.mapped.without(me) };
    let goes: Vec<Frame> = state.frames.iter().copied().filter(|&f| f != survivor).collect();
    let revoke = revoke(config, state, told, &goes);
    let map = Phase::Map(FrameRef::This(survivor), held.region.rights);
    let mut phases = vec![revoke, map, Phase::Commit(Next::Collapsed(survivor))];
    phases.extend(free_later(config, state, &goes));
    phases
}

/// Phases for one page of a range.
#[must_use]
pub fn page_op(config: &PagerConfig, held: &Held, op: PageOp) -> Vec<Phase> {
    let release = vec![Phase::Commit(Next::Keep)];
    let Some(state) = &held.state else {
        return match op {
            PageOp::AllocOn(node) => {
                let alloc = Phase::Alloc { node, clean: true, others: Vec::new() };
                vec![alloc, Phase::Commit(Next::First(Mode::Global))]
            }
            _ => release,
        };
    };
    let revoke_all = revoke(config, state, state.mapped, &[]);
    match op {
        PageOp::Unmap => vec![revoke_all, Phase::Commit(Next::Unmapped)],
        PageOp::Discard => {
            let revoke = revoke(config, state, state.mapped, &state.frames);
            let mut phases = vec![revoke, Phase::Commit(Next::Remove)];
            phases.extend(free_later(config, state, &state.frames));
            phases
        }
        PageOp::Migrate(to) => {
            let old = state.frames[0];
            if state.mode == Mode::Replicated || old.node == to {
                return release;
            }
            let alloc = Phase::Alloc { node: to, clean: false, others: Vec::new() };
            let commit = Phase::Commit(Next::Moved);
            vec![alloc, revoke_all, Phase::Copy(old), commit, Phase::Free(vec![old])]
        }
        PageOp::Replicate if state.mode == Mode::Global => {
            vec![revoke_all, Phase::Commit(Next::Replicated)]
        }
        PageOp::MarkNextTouch if state.mode == Mode::Global => {
            vec![revoke_all, Phase::Commit(Next::NextTouch)]
        }
        PageOp::Vacate(node) if state.mapped.contains(node) => {
            // The root pager cannot unmap from one node only.
            let only = NodeSet::only(node);
            let told = if config.unmap == UnmapVariant::Root { state.mapped } else { only };
            vec![revoke(config, state, told, &[]), Phase::Commit(Next::Vacated)]
        }
        _ => release,
    }
}

/// Tells the `told` nodes, and those whose frame `goes` and can be freed on the way.
fn revoke(config: &PagerConfig, state: &PageState, told: NodeSet, goes: &[Frame]) -> Phase {
    let free_at = |node| {
        let frame = goes.iter().copied().find(|f| f.node == node)?;
        frees_early(config, state, frame).then_some(frame)
    };
    let freeing: NodeSet =
        goes.iter().filter(|f| free_at(f.node).is_some()).map(|f| f.node).collect();
    let targets = told.union(freeing).iter().map(|node| Target { node, free: free_at(node) });
    Phase::Revoke(targets.collect())
}

/// A frame that only its own node can have mapped is freed with the revocation there: one message
/// less.
fn frees_early(config: &PagerConfig, state: &PageState, frame: Frame) -> bool {
    config.unmap != UnmapVariant::Root
        && !config.dir.single_space
        && frame.node != config.node
        && state.is_exclusive(frame)
}

fn free_later(config: &PagerConfig, state: &PageState, goes: &[Frame]) -> Option<Phase> {
    let late: Vec<Frame> =
        goes.iter().copied().filter(|&f| !frees_early(config, state, f)).collect();
    (!late.is_empty()).then_some(Phase::Free(late))
}

/// Nodes that may help out a fault whose page belongs on `home`, this node first.
fn helpers(config: &PagerConfig, home: NodeId) -> Vec<NodeId> {
    if config.exhausted == Exhausted::Error {
        return Vec::new();
    }
    let nodes = core::iter::once(config.node).chain(config.neighbours.iter().copied());
    nodes.filter(|&n| n != home).collect()
}

/// How the held page continues.
#[must_use]
pub fn update(held: &Held, next: Next, me: NodeId, for_fault: bool, new: Option<Frame>) -> Update {
    let here = if for_fault { NodeSet::only(me) } else { NodeSet::EMPTY };
    if let Next::First(mode) = next {
        return new.map_or(Update::Keep, |f| Update::Set(PageState::first(mode, f, here)));
    }
    let Some(old) = &held.state else { return Update::Keep };
    let mut state = old.clone();
    state.status = old.status.union(held.status);
    state.mapped = NodeSet(old.mapped.0 & !held.revoked.0);
    match (next, new) {
        (Next::Keep, _) => {}
        (Next::Remove, _) => return Update::Remove,
        (Next::Mapped, _) => {
            state.mapped = state.mapped.with(me);
            state.next_touch = false;
        }
        (Next::Replica, Some(frame)) => {
            state.frames.push(frame);
            state.mapped = state.mapped.with(me);
        }
        (Next::Collapsed(frame), _) => {
            state.mode = Mode::Global;
            state.frames = Frames::One(frame);
            state.mapped = here;
        }
        (Next::Moved, Some(frame)) => {
            state.frames = Frames::One(frame);
            state.mapped = here;
            state.next_touch = false;
        }
        (Next::Unmapped, _) => state.status = Rights::empty(),
        (Next::Vacated, _) => {}
        (Next::Replicated, _) => state.mode = Mode::Replicated,
        (Next::NextTouch, _) => state.next_touch = true,
        (Next::Replica | Next::Moved | Next::First(_), _) => {}
    }
    Update::Set(state)
}
