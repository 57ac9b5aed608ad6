//! Inputs and outputs of the machine.

use crate::directory::Directory;
use crate::ids::{Caller, Frame, LaneId, PageNo, Status, TaskId, Who};
use crate::message::{ClientCall, Confirm, Reply, Request};
use alloc::boxed::Box;
use alloc::vec::Vec;
use l4abi::{CpuId, NodeId, Rights, ThreadId};

/// Something that happened to a pager. Faults and calls come to idle lanes, requests to an idle
/// worker (the kernel queues the senders); the rest answers an [`Action`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A thread faulted.
    Fault {
        /// The pager thread that got the message.
        lane: LaneId,
        /// Who faulted.
        thread: ThreadId,
        /// Where.
        page: PageNo,
        /// What was tried.
        access: Rights,
    },
    /// A client calls.
    Call {
        /// The pager thread that got the message.
        lane: LaneId,
        /// Who calls.
        thread: ThreadId,
        /// The task it is about, if the caller is a balancer.
        task: Option<TaskId>,
        /// The call.
        call: ClientCall,
    },
    /// The worker got a request.
    Request {
        /// Who waits for the confirmation.
        from: Caller,
        /// The request.
        request: Request,
    },
    /// A worker confirmed a request of this lane.
    Confirmed {
        /// The lane.
        lane: LaneId,
        /// The node whose worker it is.
        from: NodeId,
        /// The answer.
        confirm: Confirm,
    },
    /// Workers have confirmed `count` requests of this lane through its barrier.
    Gathered {
        /// The lane.
        lane: LaneId,
        /// Number of requests.
        count: u32,
        /// Their joined status bits.
        status: Status,
    },
    /// What the lane queued for is free.
    Woken(LaneId),
    /// The fault reply is sent.
    Mapped(LaneId),
    /// The kernel has unmapped the frames; their mappings had been used like this.
    Unmapped(Who, Status),
    /// The root pager has unmapped the frames.
    RootUnmapped(LaneId, Status),
    /// The frames of [`Action::Clear`] are zero.
    Cleared(Who, Vec<Frame>),
    /// The frame is filled.
    Filled(Who),
    /// The system call server answered.
    KernelDone(Who, Result<(), KernelRefused>),
}

/// The kernel or the system call server refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KernelRefused;

/// A request to the system call server of the CPU (numa-l4 4.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KernelCall {
    /// Create a thread that never runs, in a new space whose home is this node (numa-l4 4.2.4).
    CreateSpace {
        /// The task the space belongs to.
        task: TaskId,
        /// The thread.
        dummy: ThreadId,
    },
    /// Create a thread that never runs in the space of `peer`.
    CreateDummy {
        /// The task.
        task: TaskId,
        /// The thread.
        dummy: ThreadId,
        /// Names the space.
        peer: ThreadId,
    },
    /// Create and start a thread in the space of `peer` on the lane's CPU.
    CreateThread {
        /// The task.
        task: TaskId,
        /// The thread.
        thread: ThreadId,
        /// Names the space.
        peer: ThreadId,
        /// Where it starts.
        ip: u64,
        /// Its stack.
        sp: u64,
    },
    /// Move a thread to a CPU and, if `peer` is given, into the space of `peer`. Its IPC is aborted.
    MoveThread {
        /// The task.
        task: TaskId,
        /// The thread.
        thread: ThreadId,
        /// Names the space.
        peer: Option<ThreadId>,
        /// The CPU, and its node whose pager becomes the thread's pager.
        cpu: CpuId,
        /// The node.
        node: NodeId,
    },
    /// Delete a thread; the last one of a space takes the space along.
    DeleteThread {
        /// The task.
        task: TaskId,
        /// The thread.
        thread: ThreadId,
    },
}

/// What the pager wants done. Actions of one step are done in their order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Take the lock of the directory kept at node `at`, call `with_directory`, carry out the
    /// [`Action::Place`] it may give, release the lock, carry out the rest.
    Lock {
        /// The thread that takes the lock.
        who: Who,
        /// The task.
        task: TaskId,
        /// Where the directory is.
        at: NodeId,
    },
    /// Put a directory into the memory of node `at`.
    Place {
        /// The node.
        at: NodeId,
        /// The directory.
        directory: Box<Directory>,
    },
    /// Send a request to the worker of a node.
    Send {
        /// The sender.
        lane: LaneId,
        /// The receiver.
        to: NodeId,
        /// The message.
        request: Request,
    },
    /// Answer a request. The receiver waits for it: this never blocks.
    Confirm {
        /// The receiver.
        to: Caller,
        /// The message.
        confirm: Confirm,
    },
    /// Tell a lane that queued to ask again. It waits for it: this never blocks.
    Wake {
        /// The receiver.
        to: Caller,
    },
    /// Answer a fault with a mapping.
    Map {
        /// The pager thread that got the fault.
        lane: LaneId,
        /// Who gets the mapping.
        thread: ThreadId,
        /// The page.
        page: PageNo,
        /// The frame.
        frame: Frame,
        /// With these rights.
        rights: Rights,
    },
    /// Unmap frames from everybody this pager mapped them to.
    Unmap {
        /// The thread that does it.
        who: Who,
        /// The frames: at least one.
        frames: Vec<Frame>,
    },
    /// Have the root pager unmap frames from everybody, pagers included; it maps them to the
    /// pagers again.
    RootUnmap {
        /// The thread that asks.
        lane: LaneId,
        /// The frames.
        frames: Vec<Frame>,
    },
    /// Clear frames that are given back.
    Clear {
        /// The thread that does it.
        who: Who,
        /// The frames, of this node: at least one.
        frames: Vec<Frame>,
    },
    /// Copy a frame, or clear it.
    Fill {
        /// The thread that does it.
        who: Who,
        /// The frame to write.
        frame: Frame,
        /// The frame to read; `None` clears.
        from: Option<Frame>,
    },
    /// Ask the system call server of the CPU.
    Kernel {
        /// The thread that asks.
        who: Who,
        /// What.
        call: KernelCall,
    },
    /// Answer a client, or refuse a fault. Not waited for.
    Reply {
        /// The pager thread.
        lane: LaneId,
        /// The client.
        thread: ThreadId,
        /// The answer.
        reply: Reply,
    },
}
