//! Operations on a task's directory and what they give; `directory.rs` performs them.

use crate::ids::{Frame, NodeSet, PageNo, PageRange, Status};
use crate::members::{HoldMembers, MemberView};
use crate::page::PageState;
use crate::pageset::PageSet;
use crate::region::{Policy, Region};
use alloc::vec::Vec;
use l4abi::{NodeId, Rights, ThreadId};

/// What the whole system does alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DirConfig {
    /// Number of nodes.
    pub nodes: u8,
    /// One kernel space for the whole task (A11): a page cannot differ between nodes.
    pub single_space: bool,
    /// Faults hold the page until the thread has its mapping. The unmap through the root pager
    /// needs it: the root cannot see mappings that are on their way.
    pub hold_faults: bool,
    /// Page operations tell all pagers where the task is active, as the thesis does, and not only
    /// those that may have mapped the page (A12 measures the former).
    pub notify_active: bool,
}

/// Why something is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirError {
    /// The task does not exist or is ending.
    NoTask,
    /// The address belongs to no region.
    NoRegion,
    /// The region does not allow this access.
    NoRight,
    /// A page of the range exists and the request needs it not to.
    InUse,
    /// No such thread in the task.
    NoThread,
    /// The configuration cannot do that.
    Unsupported,
    /// The node, and others that might help out, have no free frame.
    NoMemory,
    /// The caller is neither a member of the task nor a balancer.
    NotAllowed,
    /// An argument makes no sense.
    Invalid,
}

/// Which pages a holder of pages is interested in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Filter {
    /// Pages that have a frame.
    Existing,
    /// Pages that may be mapped on this node.
    MappedAt(NodeId),
    /// The first page of the range, also if it has no frame.
    Exact,
}

/// What becomes of a held page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Update {
    /// It stays as it was.
    Keep,
    /// It is like this from now on.
    Set(PageState),
    /// It has no frame any more.
    Remove,
}

/// A change of the held membership.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemberChange {
    /// None.
    Keep,
    /// The thread is on this node now: it was created or moved there.
    Put(ThreadId, NodeId),
    /// The thread is gone.
    Remove(ThreadId),
}

/// An operation on a directory, in the name of a lane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DirOp {
    /// A thread on the caller's node faulted. The caller offers a zeroed frame of its node.
    Resolve {
        /// The page.
        page: PageNo,
        /// What was tried.
        access: Rights,
        /// The frame to use if the page has none and belongs on the caller's node.
        offer: Option<Frame>,
    },
    /// Hold the first page of `range` that `filter` selects.
    Hold {
        /// Where to look.
        range: PageRange,
        /// For what.
        filter: Filter,
    },
    /// Hold the first pages of `range` that have frames: up to one that somebody holds already, and
    /// not more than one message speaks of.
    HoldSome {
        /// Where to look.
        range: PageRange,
    },
    /// Let the pages that the caller holds go, unmapped from all nodes and their status bits reported.
    CommitSome {
        /// The pages.
        pages: PageSet,
        /// Whether they have no frames any more.
        remove: bool,
    },
    /// Change the page the caller holds and let it go.
    Commit {
        /// The page.
        page: PageNo,
        /// The change.
        update: Update,
    },
    /// Hold the membership of the task.
    HoldMembers(HoldMembers),
    /// Change the membership the caller holds and let it go if `release`.
    CommitMembers {
        /// The change.
        change: MemberChange,
        /// Whether the hold ends.
        release: bool,
    },
    /// Make a range a region.
    SetRegion {
        /// The pages.
        range: PageRange,
        /// What they become.
        region: Region,
    },
    /// Change the policy of a range.
    SetPolicy {
        /// The pages.
        range: PageRange,
        /// The policy.
        policy: Policy,
    },
    /// What is known about a page.
    Query {
        /// The page.
        page: PageNo,
    },
    /// How much of the task is on a node.
    Census {
        /// The node.
        node: NodeId,
    },
    /// Give the directory to another node. Only the holder of the membership asks this.
    HandOver {
        /// The new master.
        to: NodeId,
    },
    /// Remove the directory. Only the holder of a dying task's membership asks this.
    Destroy,
}

/// The answer to a [`DirOp`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Map this frame. `offered`: it is the one the caller offered.
    Map {
        /// The frame.
        frame: Frame,
        /// With these rights.
        rights: Rights,
        /// Whether the offer was taken.
        offered: bool,
    },
    /// The caller holds the page now.
    Held {
        /// Which page.
        page: PageNo,
        /// Its state, if it has a frame.
        state: Option<PageState>,
        /// Where a new frame belongs.
        home: NodeId,
        /// The region it lies in.
        region: Region,
    },
    /// The caller holds these pages now.
    HeldSome {
        /// Which.
        pages: PageSet,
        /// All their frames, at most [`MAX_REPLICAS`](crate::page::MAX_REPLICAS).
        frames: Vec<Frame>,
        /// Nodes that may have any of them mapped.
        mapped: NodeSet,
        /// Their status bits not yet reported, joined.
        status: Status,
    },
    /// The pages are node-local: serve them without asking.
    Local {
        /// The whole local region.
        range: PageRange,
        /// Rights of the region.
        rights: Rights,
    },
    /// No page (left) that the filter selects.
    NoPage,
    /// The caller holds the membership; this is what it looks like.
    Members(MemberView),
    /// Done.
    Done,
    /// What is known about a page.
    Page {
        /// Its frames: nodes that have one.
        frames: NodeSet,
        /// Its first frame.
        frame: Option<Frame>,
        /// Nodes that may have it mapped.
        mapped: NodeSet,
        /// Whether it is replicated.
        replicated: bool,
    },
    /// How much of the task is on a node.
    Census(Census),
    /// Somebody holds the object: the caller is in the queue and will be told to ask again.
    Queued,
    /// Refused.
    Refused(DirError),
}

/// What a task has on a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Census {
    /// Frames of global pages.
    pub global: u64,
    /// Frames of replicated pages.
    pub replicas: u64,
    /// Pages that may be mapped there.
    pub mapped: u64,
    /// Threads.
    pub threads: u64,
}
