//! What a pager knows of a task: only what concerns its own node.

use crate::ids::Frame;
use crate::pagemap::PageMap;
use crate::pageset::PageSet;
use crate::region::RegionMap;
use alloc::vec::Vec;
use l4abi::{NodeId, Rights, ThreadId};

/// A mapping that this pager has made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cached {
    /// The frame.
    pub frame: Frame,
    /// The rights given.
    pub rights: Rights,
}

/// A pager's record of a task.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TaskRecord {
    /// Where the directory was when last heard of.
    pub master: NodeId,
    /// Global pages that this pager has mapped: an answer without asking the master, and what a
    /// revocation has to unmap. Nothing is mapped that is not here (numa-l4 4.2.1: the `pdir`).
    pub cache: PageMap<Cached>,
    /// Regions known to be node-local.
    pub local_regions: RegionMap,
    /// Frames of node-local pages. They outlive the space: a task that comes back to the node finds
    /// its data again. They go with the task.
    pub locals: PageMap<Frame>,
    /// The dummy thread that keeps the space while it has no other thread (numa-l4 4.2.4).
    pub dummy: Option<ThreadId>,
}

impl TaskRecord {
    /// A task whose directory is at `master`.
    #[must_use]
    pub fn new(master: NodeId) -> Self {
        Self {
            master,
            cache: PageMap::new(),
            local_regions: RegionMap::new(),
            locals: PageMap::new(),
            dummy: None,
        }
    }

    /// Takes what this pager has mapped of `pages` out of its table: the frames.
    pub fn forget_mapped(&mut self, pages: PageSet) -> Vec<Frame> {
        pages.iter().filter_map(|page| Some(self.cache.remove(page)?.frame)).collect()
    }
}
