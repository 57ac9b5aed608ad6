//! What the root task and clients ask a pager beside the protocol: starting tasks, counts.

use crate::ids::TaskId;
use crate::wire::{Reader, Wire, Words, labels, wire_struct};
use alloc::vec::Vec;
use l4abi::{CpuId, ThreadId};

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

/// A thread that a pager serves, as load balancers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadInfo {
    /// The thread.
    pub thread: ThreadId,
    /// Its task.
    pub task: TaskId,
    /// Its CPU.
    pub cpu: CpuId,
    /// It runs or wants to; otherwise it waits for something.
    pub runs: bool,
}
wire_struct!(ThreadInfo { thread, task, cpu, runs });

/// A balancer asks for the threads that a pager serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskThreads {
    /// Threads with a higher id only: where the list before ended, or nil.
    pub after: ThreadId,
}
wire_struct!(AskThreads { after });

/// Most threads of a [`ThreadList`].
pub const LIST_MOST: usize = 15;

/// The answer: at most [`LIST_MOST`] threads in ascending order of their ids. A full list may go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThreadList(pub Vec<ThreadInfo>);

impl Wire for ThreadList {
    fn put(&self, out: &mut Words) {
        out.push(self.0.len() as u64);
        self.0.iter().for_each(|info| info.put(out));
    }

    fn get<I: Iterator<Item = u64>>(input: &mut Reader<I>) -> Option<Self> {
        let count = input.word().filter(|&count| count <= LIST_MOST as u64)?;
        (0..count).map(|_| ThreadInfo::get(input)).collect::<Option<_>>().map(Self)
    }
}

/// The root task makes the threads of a task load balancers, or ends that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Designate {
    /// The task.
    pub task: TaskId,
    /// Whether its threads may act for any task from now on.
    pub balances: bool,
}
wire_struct!(Designate { task, balances });

labels! {
    Spawn = 0x5030,
    Spawned = 0x5031,
    AskCounts = 0x5032,
    Counts = 0x5033,
    AskThreads = 0x5034,
    ThreadList = 0x5035,
    Designate = 0x5036,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;
    use l4abi::ThreadNo;

    #[test]
    fn lists_of_threads_fit() {
        let info = |n| ThreadInfo {
            thread: ThreadId::global(ThreadNo(n), 1),
            task: TaskId(u32::MAX),
            cpu: CpuId(n as u16),
            runs: n % 2 == 0,
        };
        for count in [0, 1, LIST_MOST] {
            let list = ThreadList((0..count as u32).map(info).collect());
            let (tag, words) = list.encode().expect("it fits");
            assert_eq!(ThreadList::decode(tag, words.as_slice()), Some(list));
        }
        let mut words = Words::default();
        words.push(LIST_MOST as u64 + 1);
        assert_eq!(ThreadList::get(&mut Reader::new(words.as_slice().iter().copied())), None);
    }
}
