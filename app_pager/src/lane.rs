//! A pager thread at work: what it was asked, what is left to do, what it waits for.
//!
//! A lane serves one request at a time, as a list of phases. Each phase either is done at once or
//! makes the lane wait for exactly one kind of event.

use crate::directory::{DirError, DirOp, MemberChange};
use crate::event::KernelCall;
use crate::ids::{Frame, NodeSet, PageNo, PageRange, Status, TaskId};
use crate::members::MemberView;
use crate::message::{ClientCall, Request};
use crate::page::{Mode, PageState};
use crate::pageset::PageSet;
use crate::region::Region;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use l4abi::{CpuId, NodeId, Rights, ThreadId};

/// What a lane was asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Job {
    /// A page fault.
    Fault {
        /// Of this thread.
        thread: ThreadId,
        /// At this page.
        page: PageNo,
        /// What was tried.
        access: Rights,
    },
    /// A call.
    Call {
        /// Of this thread.
        thread: ThreadId,
        /// The call.
        call: ClientCall,
    },
}

impl Job {
    /// Who waits for the answer.
    #[must_use]
    pub const fn thread(self) -> ThreadId {
        match self {
            Self::Fault { thread, .. } | Self::Call { thread, .. } => thread,
        }
    }

    /// Whether it never waits for the membership: who holds that may wait for it. Its answer may
    /// carry status bits, so a thread does not depart before it has got it.
    #[must_use]
    pub const fn is_brief(self) -> bool {
        match self {
            Self::Fault { .. } => true,
            Self::Call { call, .. } => !call.changes_membership(),
        }
    }
}

/// What to do with each page of a range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageOp {
    /// Unmap, report the status bits.
    Unmap,
    /// Unmap, report, free.
    Discard,
    /// Move to a node.
    Migrate(NodeId),
    /// Make replicated.
    Replicate,
    /// Make it move to the node that touches it next.
    MarkNextTouch,
    /// Give it a frame on a node, if it has none.
    AllocOn(NodeId),
    /// Unmap from a node that the task leaves.
    Vacate(NodeId),
}

impl PageOp {
    /// Whether a client's call may end in the middle of the range: it asks again for the rest. Others are
    /// steps of something larger.
    #[must_use]
    pub const fn is_parted(self) -> bool {
        !matches!(self, Self::MarkNextTouch | Self::Vacate(_))
    }
}

/// The frame to map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FrameRef {
    /// The one allocated.
    New,
    /// This one.
    This(Frame),
}

/// How a held page continues.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Next {
    /// As it was.
    Keep,
    /// Without a frame.
    Remove,
    /// With its first frame, the new one.
    First(Mode),
    /// As it was, and mapped on this node too.
    Mapped,
    /// With the new frame as this node's replica, mapped on this node.
    Replica,
    /// Global, with this frame alone, mapped on this node alone.
    Collapsed(Frame),
    /// Global, with the new frame instead of the old one.
    Moved,
    /// Unmapped everywhere, the status bits reported.
    Unmapped,
    /// Unmapped on the nodes told.
    Vacated,
    /// Replicated, and mapped nowhere.
    Replicated,
    /// Mapped nowhere, to move at the next touch.
    NextTouch,
}

/// A pager to tell that a page goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Its node.
    pub node: NodeId,
    /// The frame of that node to free.
    pub free: Option<Frame>,
}

/// A step of a job.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Take a zeroed frame to offer.
    Offer,
    /// Ask the directory about the faulting page.
    Resolve,
    /// Ask the directory something else.
    Ask(DirOp),
    /// Have a frame of a node for the held page.
    Alloc {
        /// The node.
        node: NodeId,
        /// Whether it must be zero.
        clean: bool,
        /// Other nodes to try.
        others: Vec<NodeId>,
    },
    /// Unmap the held page from nodes.
    Revoke(Vec<Target>),
    /// Unmap pages held together.
    RevokeSome {
        /// The pages.
        pages: PageSet,
        /// Nodes that may have any of them mapped.
        told: NodeSet,
        /// Their frames, if the root pager unmaps.
        frames: Vec<Frame>,
    },
    /// Copy to the new frame.
    Copy(Frame),
    /// Answer the fault with a mapping.
    Map(FrameRef, Rights),
    /// Let the held page go, changed.
    Commit(Next),
    /// Free frames, each on its node.
    Free(Vec<Frame>),
    /// Serve a fault in a node-local region.
    Local(Rights),
    /// Make the local page from the spare frame, map it.
    LocalReady(Rights),
    /// Do something with each page of a range.
    Pages(PageRange, PageOp),
    /// Have a worker do something.
    Send(NodeId, Request),
    /// Have workers do something, all at once.
    SendAll(NodeSet, Request),
    /// Have the kernel do something.
    Kernel(KernelCall),
    /// Move the thread into the space that the destination's worker named, or into that of `peer`.
    Move {
        /// The thread.
        thread: ThreadId,
        /// The CPU.
        cpu: CpuId,
        /// Its node.
        node: NodeId,
    },
    /// Change the held membership.
    Members(MemberChange, bool),
    /// Delete the threads of the dying task that are left.
    KillAll,
    /// Give this thread's faults to this pager from now on.
    Adopt(ThreadId),
}

/// What a lane waits for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Wait {
    /// Nothing.
    #[default]
    Nothing,
    /// The directory's lock or answer, for this operation.
    Directory(DirOp),
    /// Confirmations (and its own unmap): so many are on their way, these are still to be sent.
    Gather {
        /// Not yet confirmed.
        pending: u32,
        /// Not yet sent.
        unsent: VecDeque<(NodeId, Request)>,
    },
    /// A frame from another node.
    Frame,
    /// A frame being filled.
    Fill,
    /// The fault reply.
    Map,
    /// The system call server, for this call.
    Kernel(KernelCall),
}

/// The page that a lane holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    /// Which.
    pub page: PageNo,
    /// Its state when it was taken.
    pub state: Option<PageState>,
    /// Region it lies in.
    pub region: Region,
    /// Nodes that have been told to unmap it.
    pub revoked: NodeSet,
    /// What they reported.
    pub status: Status,
}

/// A pager thread. What one thread writes at each fault lies in lines of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[repr(align(128))]
pub struct Lane {
    /// What it was asked; `None` when it waits for requests.
    pub job: Option<Job>,
    /// The task that the job is about.
    pub task: TaskId,
    /// Where the directory is believed to be.
    pub dir_at: NodeId,
    /// What is left to do.
    pub phases: VecDeque<Phase>,
    /// What it waits for.
    pub wait: Wait,
    /// The range it works through, and what it does to the pages.
    pub pages: Option<(PageRange, PageOp)>,
    /// The page it holds.
    pub held: Option<Held>,
    /// A zeroed frame of its own node, not (yet) used.
    pub spare: Option<Frame>,
    /// The frame allocated for the held page.
    pub new_frame: Option<Frame>,
    /// The page whose mapping is on its way to the thread.
    pub mapping: Option<PageNo>,
    /// The page was revoked while the directory's answer was on its way: ask again.
    pub stale: bool,
    /// The membership it holds, as it was when taken.
    pub members: Option<MemberView>,
    /// Names the destination's space.
    pub peer: Option<ThreadId>,
    /// The thread being created.
    pub created: Option<ThreadId>,
    /// Answer for the client.
    pub answer: Option<crate::message::Reply>,
    /// Pages held so far for the call.
    pub worked: u64,
    /// Pages done.
    pub count: u64,
    /// Their status bits.
    pub total: Status,
    /// Why it failed.
    pub error: Option<DirError>,
}

impl Lane {
    /// Whether it waits for requests.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.job.is_none()
    }

    /// Puts phases before those left to do.
    pub(crate) fn push_front<P>(&mut self, phases: P)
    where
        P: IntoIterator<Item = Phase, IntoIter: DoubleEndedIterator>,
    {
        for phase in phases.into_iter().rev() {
            self.phases.push_front(phase);
        }
    }

    /// Makes the lane ready for the next request, and gives what it was. The list of phases keeps its
    /// memory: a page fault needs nothing from the heap for it.
    pub(crate) fn renew(&mut self) -> Self {
        let mut phases = core::mem::take(&mut self.phases);
        phases.clear();
        core::mem::replace(self, Self { phases, ..Self::default() })
    }
}
