//! What the root task and clients ask a pager beside the protocol: starting tasks, counts.

use crate::ids::TaskId;
use crate::wire::{Message, wire_struct};
use l4abi::ThreadId;

/// The root task asks the pager of a node to start a task there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spawn {
    /// The task.
    pub task: TaskId,
    /// Physical address of the program's module.
    pub module: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Physical address of the start page's content.
    pub start_page: u64,
}
wire_struct!(Spawn { task, module, size, start_page });

/// The answer: the task's first thread, or nil.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spawned {
    /// The thread.
    pub thread: ThreadId,
}
wire_struct!(Spawned { thread });

/// Anybody asks what the pager has done for a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskCounts {
    /// The task; `None` for the caller's own.
    pub task: Option<TaskId>,
}
wire_struct!(AskCounts { task });

/// What a pager has done, all since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// The task that is meant, if the pager knows it.
    pub task: Option<TaskId>,
    /// Page faults of the task's threads.
    pub faults: u64,
    /// Requests from other pagers to unmap a page (all tasks).
    pub revokes: u64,
    /// Frames of the node's pool in use (all tasks).
    pub frames_used: u64,
    /// Frames of the node's pool.
    pub frames: u64,
}
wire_struct!(Counts { task, faults, revokes, frames_used, frames });

impl Message for Spawn {
    const LABEL: u64 = 0x5030;
}
impl Message for Spawned {
    const LABEL: u64 = 0x5031;
}
impl Message for AskCounts {
    const LABEL: u64 = 0x5032;
}
impl Message for Counts {
    const LABEL: u64 = 0x5033;
}
