//! The frames of a pager's own node (numa-l4 4.2.1, "Synchronization of Free Lists").
//!
//! A pager allocates and frees frames of its own node only; nobody else touches this structure, so
//! it needs no lock between pagers. Free frames that are known to be zero are kept apart: a fault
//! offers one to the directory before it knows whether it will be used, and gets it back clean.
//! Frames never handed out are counted, not listed: a pool of any size costs nothing at start.

use crate::ids::Frame;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use l4abi::NodeId;

/// The frame is not one that this pool has handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAllocated(pub Frame);

/// A pool of frames of one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodePool {
    node: NodeId,
    total: u32,
    /// Frames from here on were never used; they are zero (the root task cleared the pool).
    fresh: u32,
    clean: Vec<u32>,
    dirty: Vec<u32>,
    used: BTreeSet<u32>,
}

/// A frame just allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocated {
    /// The frame.
    pub frame: Frame,
    /// Whether its content is known to be zero.
    pub clean: bool,
}

impl NodePool {
    /// A pool of `total` frames of `node`, all zero.
    #[must_use]
    pub const fn new(node: NodeId, total: u32) -> Self {
        Self { node, total, fresh: 0, clean: Vec::new(), dirty: Vec::new(), used: BTreeSet::new() }
    }

    /// Takes a frame, a clean one if there is one; `None` when the node is exhausted.
    pub fn alloc(&mut self) -> Option<Allocated> {
        let taken = self.clean.pop().map(|i| (i, true)).or_else(|| self.take_fresh());
        let taken = taken.or_else(|| self.dirty.pop().map(|i| (i, false)));
        self.hand_out(taken)
    }

    /// Takes a frame that will be overwritten anyway: leaves the clean ones to others.
    pub fn alloc_any(&mut self) -> Option<Allocated> {
        let taken = self.dirty.pop().map(|i| (i, false));
        let taken = taken.or_else(|| self.clean.pop().map(|i| (i, true)));
        let taken = taken.or_else(|| self.take_fresh());
        self.hand_out(taken)
    }

    fn take_fresh(&mut self) -> Option<(u32, bool)> {
        (self.fresh < self.total).then(|| {
            self.fresh += 1;
            (self.fresh - 1, true)
        })
    }

    fn hand_out(&mut self, taken: Option<(u32, bool)>) -> Option<Allocated> {
        taken.map(|(index, clean)| {
            self.used.insert(index);
            Allocated { frame: Frame { node: self.node, index }, clean }
        })
    }

    /// Takes a frame back; `clean` if nobody has written to it.
    ///
    /// # Errors
    /// [`NotAllocated`] if the frame is of another node or not in use; nothing changes.
    pub fn free(&mut self, frame: Frame, clean: bool) -> Result<(), NotAllocated> {
        if frame.node != self.node || !self.used.remove(&frame.index) {
            return Err(NotAllocated(frame));
        }
        if clean {
            self.clean.push(frame.index)
        } else {
            self.dirty.push(frame.index)
        }
        Ok(())
    }

    /// Whether `frame` is of this pool and handed out.
    #[must_use]
    pub fn is_used(&self, frame: Frame) -> bool {
        frame.node == self.node && self.used.contains(&frame.index)
    }

    /// Number of frames handed out.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// Number of frames that can be handed out.
    #[must_use]
    pub fn available(&self) -> usize {
        self.total as usize - self.used.len()
    }

    /// Number of frames.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use alloc::collections::BTreeMap;

    #[test]
    fn runs_dry_and_recovers() {
        let mut pool = NodePool::new(NodeId(1), 2);
        let a = pool.alloc().unwrap();
        let b = pool.alloc().unwrap();
        assert!(a.clean && b.clean && a.frame != b.frame);
        assert_eq!((pool.alloc(), pool.alloc_any()), (None, None));
        pool.free(a.frame, false).unwrap();
        assert_eq!(pool.alloc(), Some(Allocated { frame: a.frame, clean: false }));
    }

    #[test]
    fn refuses_strangers_and_double_frees() {
        let mut pool = NodePool::new(NodeId(1), 2);
        let a = pool.alloc().unwrap().frame;
        let stranger = Frame { node: NodeId(0), index: a.index };
        assert_eq!(pool.free(stranger, true), Err(NotAllocated(stranger)));
        pool.free(a, true).unwrap();
        assert_eq!(pool.free(a, true), Err(NotAllocated(a)));
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn random_operations_conserve_frames() {
        let mut rng = Rng::new(42);
        let mut pool = NodePool::new(NodeId(2), 50);
        // The oracle: what is out, and whether each frame's memory is zero.
        let mut out: BTreeMap<Frame, bool> = BTreeMap::new();
        let mut zero = [true; 50];
        for _ in 0..20_000 {
            if rng.below(2) == 0 {
                let got = if rng.below(2) == 0 { pool.alloc() } else { pool.alloc_any() };
                assert_eq!(got.is_none(), out.len() == 50);
                if let Some(a) = got {
                    assert!(!a.clean || zero[a.frame.index as usize], "dirty frame called clean");
                    assert_eq!(out.insert(a.frame, a.clean), None, "frame handed out twice");
                }
            } else if let Some((&frame, &clean)) = out.iter().nth(rng.below(50) as usize) {
                out.remove(&frame);
                let stays_clean = clean && rng.below(2) == 0;
                zero[frame.index as usize] = stays_clean;
                pool.free(frame, stays_clean).unwrap();
            }
            assert_eq!(pool.used(), out.len());
            assert_eq!(pool.used() + pool.available(), 50);
        }
    }
}
