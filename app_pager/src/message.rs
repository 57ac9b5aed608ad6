//! What pagers say to each other, and what clients ask them (numa-l4 4.2.1, "Application Pager API").

use crate::directory::{Census, DirError, DirOp, Outcome};
use crate::ids::{Frame, NodeSet, PageNo, PageRange, Status, TaskId};
use crate::pageset::PageSet;
use crate::region::{Policy, Region};
use alloc::vec::Vec;
use l4abi::{CpuId, NodeId, ThreadId};

/// A request of a pager thread to the worker of a pager. Workers answer each with one [`Confirm`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// Unmap pages of a task from this node; then free a frame of this node's pool.
    Revoke {
        /// The task.
        task: TaskId,
        /// The pages.
        pages: PageSet,
        /// The frame to free.
        free: Option<Frame>,
    },
    /// Allocate a frame of this node. `clean`: it must be zero.
    Alloc {
        /// Whether it must be zero.
        clean: bool,
    },
    /// Free frames of this node.
    Free {
        /// The frames: at least one, at most [`MAX_REPLICAS`](crate::page::MAX_REPLICAS).
        frames: Vec<Frame>,
    },
    /// Perform an operation on the directory that this node keeps.
    Dir {
        /// The task.
        task: TaskId,
        /// The operation.
        op: DirOp,
    },
    /// Page faults of this thread will come to this node.
    Enter {
        /// The task.
        task: TaskId,
        /// Where its directory is.
        master: NodeId,
        /// The thread.
        thread: ThreadId,
        /// Whether the task has no space here yet: make one, with a dummy thread in it.
        new_space: bool,
    },
    /// Serve no more faults and calls of this thread; confirm when none is being served.
    Depart {
        /// The task.
        task: TaskId,
        /// The thread.
        thread: ThreadId,
        /// A thread that names the space here, if the space must outlive the thread: put a dummy
        /// thread into it.
        keep: Option<ThreadId>,
    },
    /// Remove the dummy thread; the space stays if it has other threads.
    DropDummy {
        /// The task.
        task: TaskId,
    },
    /// The task has no threads here any more: remove the dummy, and what is known of the space.
    Leave {
        /// The task.
        task: TaskId,
    },
    /// The task is gone: free everything of it.
    Forget {
        /// The task.
        task: TaskId,
    },
    /// Take a thread number of this node back.
    FreeThread {
        /// The thread that had it.
        thread: ThreadId,
    },
}

/// The answer of a worker.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Confirm {
    /// The page is unmapped on this node; what its mappings had seen.
    Revoked(Status),
    /// The frame asked for.
    Frame(Option<Frame>),
    /// Done.
    Done,
    /// Done; this dummy thread names the new space.
    Entered(ThreadId),
    /// The kernel refused.
    Failed,
    /// The outcome of an operation on the directory.
    Dir(Outcome),
    /// The directory is elsewhere: ask there.
    Moved(NodeId),
}

/// What a thread asks its pager. All concern the caller's own task, unless the caller is a balancer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClientCall {
    /// Make a range accessible.
    AddRegion(PageRange, Region),
    /// Make a region node-local.
    MakeLocal(PageRange),
    /// Change the placement of a region.
    SetPolicy(PageRange, Policy),
    /// Put pages that have no frame yet on a node.
    AllocOn(PageRange, NodeId),
    /// Unmap pages from all nodes and report their status bits. The contents stay.
    Unmap(PageRange),
    /// Unmap pages from all nodes, report their status bits and free their frames.
    Discard(PageRange),
    /// Move pages to a node.
    MigratePages(PageRange, NodeId),
    /// Replicate pages until they are written to.
    Replicate(PageRange),
    /// Where a page is.
    Query(PageNo),
    /// How much of the task is on a node.
    Census(NodeId),
    /// Create a thread on the CPU of the lane asked.
    CreateThread {
        /// Where it starts.
        ip: u64,
        /// Its stack.
        sp: u64,
    },
    /// Delete a thread.
    DeleteThread(ThreadId),
    /// Move a thread.
    MigrateThread {
        /// The thread.
        thread: ThreadId,
        /// Node of the CPU.
        node: NodeId,
        /// The CPU.
        cpu: CpuId,
    },
    /// End the task.
    EndTask,
}

impl ClientCall {
    /// The range it is about, if it is about one.
    #[must_use]
    pub const fn range(self) -> Option<PageRange> {
        match self {
            Self::AddRegion(range, _)
            | Self::MakeLocal(range)
            | Self::SetPolicy(range, _)
            | Self::AllocOn(range, _)
            | Self::Unmap(range)
            | Self::Discard(range)
            | Self::MigratePages(range, _)
            | Self::Replicate(range) => Some(range),
            _ => None,
        }
    }

    /// The same for another range; a call that is about none stays as it is.
    #[must_use]
    pub const fn with_range(self, range: PageRange) -> Self {
        match self {
            Self::AddRegion(_, region) => Self::AddRegion(range, region),
            Self::MakeLocal(_) => Self::MakeLocal(range),
            Self::SetPolicy(_, policy) => Self::SetPolicy(range, policy),
            Self::AllocOn(_, node) => Self::AllocOn(range, node),
            Self::Unmap(_) => Self::Unmap(range),
            Self::Discard(_) => Self::Discard(range),
            Self::MigratePages(_, node) => Self::MigratePages(range, node),
            Self::Replicate(_) => Self::Replicate(range),
            other => other,
        }
    }

    /// Whether the call holds the membership of the task.
    #[must_use]
    pub const fn changes_membership(self) -> bool {
        matches!(
            self,
            Self::CreateThread { .. }
                | Self::DeleteThread(_)
                | Self::MigrateThread { .. }
                | Self::EndTask
        )
    }
}

/// The answer to a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reply {
    /// Done, for so many pages, which had been used like this.
    Pages {
        /// Number of pages touched by the operation.
        count: u64,
        /// Their status bits, joined.
        status: Status,
    },
    /// As [`Self::Pages`], but only the pages below `next` are done: ask again for the rest of the range.
    /// Other threads are served in between.
    Part {
        /// Number of pages touched by the operation.
        count: u64,
        /// Their status bits, joined.
        status: Status,
        /// The first page that is not done.
        next: PageNo,
    },
    /// The new thread.
    Thread(ThreadId),
    /// Where a page is.
    Placement {
        /// Nodes that have a frame of it.
        frames: NodeSet,
        /// The (first) frame.
        frame: Option<Frame>,
        /// Nodes that may have it mapped.
        mapped: NodeSet,
        /// Whether it is replicated.
        replicated: bool,
        /// Whether the page is node-local; then the rest tells of the asking node only.
        local: bool,
    },
    /// How much of the task is on the node.
    Census(Census),
    /// Done.
    Done,
    /// This pager does not serve the thread, which may be on its way to another node: fault or call
    /// again, there. A fault reply that maps nothing.
    Again,
    /// Refused.
    Refused(DirError),
}
