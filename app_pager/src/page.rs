//! What the directory knows about one page of a task.

use crate::ids::{Caller, Frame, NodeSet, Status};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Deref;
use l4abi::NodeId;

/// Most frames of one page. Nodes beyond that map the first frame from afar.
pub const MAX_REPLICAS: usize = 32;

/// Whether a page has one frame that all nodes share, or one per reading node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// One frame, which may be written.
    Global,
    /// Equal frames, mapped without the write right; made global by the first write.
    Replicated,
}

/// The frames of a page, at least one. Most pages have one: it needs nothing from the heap.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Frames {
    /// The only one.
    One(Frame),
    /// Two or more.
    More(Vec<Frame>),
}

impl Frames {
    /// Adds a frame.
    pub fn push(&mut self, frame: Frame) {
        match self {
            Self::One(first) => *self = Self::More(alloc::vec![*first, frame]),
            Self::More(frames) => frames.push(frame),
        }
    }

    /// The frames in a list; `None` if there is none.
    #[must_use]
    pub fn from_list(frames: Vec<Frame>) -> Option<Self> {
        match frames[..] {
            [] => None,
            [one] => Some(Self::One(one)),
            _ => Some(Self::More(frames)),
        }
    }
}

impl Deref for Frames {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        match self {
            Self::One(frame) => core::slice::from_ref(frame),
            Self::More(frames) => frames,
        }
    }
}

/// The state of a page.
///
/// Invariants: at least one frame; exactly one if global; at most one per node; a node that is
/// not in `mapped` has no mapping of the page in its space of the task.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PageState {
    /// Global or replicated.
    pub mode: Mode,
    /// The frames. Nodes without one of their own map the first.
    pub frames: Frames,
    /// Nodes whose pager may have mapped the page: those that an unmap must notify.
    pub mapped: NodeSet,
    /// Status bits gathered by unmaps and not yet reported to the task.
    pub status: Status,
    /// The page moves to the node that touches it next.
    pub next_touch: bool,
}

impl PageState {
    /// A page with its first frame.
    #[must_use]
    pub fn first(mode: Mode, frame: Frame, mapped: NodeSet) -> Self {
        let frames = Frames::One(frame);
        Self { mode, frames, mapped, status: Status::empty(), next_touch: false }
    }

    /// The frame that `node` uses, and whether it is its own.
    #[must_use]
    pub fn frame_for(&self, node: NodeId) -> (Frame, bool) {
        let own = self.frames.iter().copied().find(|f| f.node == node);
        match own {
            Some(frame) => (frame, true),
            None => (self.frames[0], self.frames[0].node == node),
        }
    }

    /// Whether no node but the frame's own can have it mapped.
    #[must_use]
    pub fn is_exclusive(&self, frame: Frame) -> bool {
        self.mapped.without(frame.node).iter().all(|n| self.frame_for(n).0 != frame)
    }

    /// Nodes that have a frame of the page.
    #[must_use]
    pub fn frame_nodes(&self) -> NodeSet {
        self.frames.iter().map(|f| f.node).collect()
    }
}

/// An entry of the directory. An entry that somebody holds may not be read or changed by others:
/// they queue (numa-l4 4.2.6 holds the master's lock instead, which stops the whole task).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Entry {
    /// The page, unless it has no frame (then the entry exists because it is held).
    pub state: Option<PageState>,
    /// Who holds it.
    pub holder: Option<Caller>,
    /// Who waits to ask again, in the order of arrival.
    pub waiters: VecDeque<Caller>,
}

impl Entry {
    /// An entry nobody holds.
    #[must_use]
    pub const fn idle(state: PageState) -> Self {
        Self { state: Some(state), holder: None, waiters: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn frame(node: u8) -> Frame {
        Frame { node: NodeId(node), index: 9 }
    }

    #[test]
    fn nodes_use_their_own_frame_or_the_first() {
        let mut s = PageState::first(Mode::Replicated, frame(0), NodeSet::EMPTY);
        s.frames.push(frame(2));
        assert_eq!(s.frame_for(NodeId(0)), (frame(0), true));
        assert_eq!(s.frame_for(NodeId(1)), (frame(0), false));
        assert_eq!(s.frame_for(NodeId(2)), (frame(2), true));
        assert_eq!(s.frame_nodes().len(), 2);
        s.mapped = NodeSet::only(NodeId(1)).with(NodeId(2));
        assert!(!s.is_exclusive(frame(0)));
        assert!(s.is_exclusive(frame(2)));
    }
}
