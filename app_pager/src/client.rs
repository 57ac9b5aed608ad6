//! The application's side of the pager interface (numa-l4 4.2.1, "Application Pager API"): what a
//! task's threads ask the pager of the node they are on.

use crate::control::{AskCounts, AskThreads, Counts, LIST_MOST, ThreadInfo, ThreadList};
use crate::directory::Census;
use crate::encode::ClientRequest;
use crate::ids::{NodeSet, PageNo, PageRange, Status, TaskId};
use crate::message::{ClientCall, Reply};
use crate::region::{Policy, Region};
use crate::wire::Message;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use l4abi::{CpuId, IpcError, NodeId, Rights, ThreadId, Timeouts};
use libl4::arch::StackTop;
use libl4::ipc::{self, Received};
use libl4::msg::Writer;
use libl4::{Acceptor, arch, topology};

/// Most words of a message.
const WORDS: usize = l4abi::tag::MAX_WORDS;

/// Why a call brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskError {
    /// The pager refused.
    Refused(crate::directory::DirError),
    /// The IPC failed.
    Ipc(IpcError),
    /// The answer was not one, or not to this question.
    BadReply,
}

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Nodes that have a frame of it; for a node-local page: that have one here.
    pub frames: NodeSet,
    /// Nodes that may have it mapped.
    pub mapped: NodeSet,
    /// Whether it is replicated.
    pub replicated: bool,
    /// Whether it is node-local.
    pub local: bool,
}

/// The pages that hold `size` bytes at `addr`.
#[must_use]
pub const fn pages(addr: u64, size: u64) -> PageRange {
    PageRange::new(addr >> 12, (addr + size).div_ceil(4096))
}

/// The pager that serves the running thread.
#[must_use]
pub fn my_pager() -> ThreadId {
    ThreadId::from_raw(arch::utcb().pager.load(Ordering::Relaxed))
}

/// Reads the words of a received message.
pub fn received_words(received: &Received, words: &mut [u64; WORDS]) -> usize {
    let count = received.tag.untyped().min(WORDS);
    for (i, word) in words[..count].iter_mut().enumerate() {
        *word = received.mr(i + 1);
    }
    count
}

/// Puts a message into the message registers.
///
/// # Errors
/// `BadReply` if it does not fit.
pub fn put(message: &impl Message) -> Result<l4abi::MsgTag, TaskError> {
    let (tag, words) = message.encode().ok_or(TaskError::BadReply)?;
    Writer::here().words(words.as_slice());
    Ok(tag)
}

/// Sends `message` to `server` and decodes its answer.
///
/// # Errors
/// The IPC failed, or the answer is none.
pub fn ask<R: Message>(server: ThreadId, message: &impl Message) -> Result<R, TaskError> {
    let tag = put(message)?;
    ipc::accept(Acceptor::NONE);
    let received = ipc::call(server, Timeouts::NEVER, tag).map_err(TaskError::Ipc)?;
    let mut words = [0; WORDS];
    let count = received_words(&received, &mut words);
    R::decode(received.tag, &words[..count]).ok_or(TaskError::BadReply)
}

/// Calls the pager until it serves the thread: on the way to another node there is a moment when
/// neither does.
fn call(task: Option<TaskId>, call: ClientCall) -> Result<Reply, TaskError> {
    loop {
        match ask(my_pager(), &ClientRequest { task, call })? {
            Reply::Again => libl4::sys::thread_switch(ThreadId::NIL),
            Reply::Refused(error) => return Err(TaskError::Refused(error)),
            reply => return Ok(reply),
        }
    }
}

fn done(reply: Reply) -> Result<(), TaskError> {
    if reply == Reply::Done { Ok(()) } else { Err(TaskError::BadReply) }
}

/// Works through a range: the pager answers in between, so that it can serve others.
fn touched(mut ask: ClientCall) -> Result<(u64, Status), TaskError> {
    let (mut count, mut status) = (0, Status::empty());
    loop {
        match (call(None, ask)?, ask.range()) {
            (Reply::Pages { count: n, status: bits }, _) => {
                return Ok((count + n, status.union(bits)));
            }
            (Reply::Part { count: n, status: bits, next }, Some(range)) => {
                (count, status) = (count + n, status.union(bits));
                ask = ask.with_range(PageRange { first: next, ..range });
            }
            _ => return Err(TaskError::BadReply),
        }
    }
}

/// Makes a range of addresses accessible.
///
/// # Errors
/// [`TaskError`].
pub fn add_region(range: PageRange, rights: Rights, policy: Policy) -> Result<(), TaskError> {
    done(call(None, ClientCall::AddRegion(range, Region { rights, policy }))?)
}

/// Makes a region node-local: each node has its own pages there.
///
/// # Errors
/// [`TaskError`].
pub fn make_local(range: PageRange) -> Result<(), TaskError> {
    done(call(None, ClientCall::MakeLocal(range))?)
}

/// Changes where pages of a region are placed.
///
/// # Errors
/// [`TaskError`].
pub fn set_policy(range: PageRange, policy: Policy) -> Result<(), TaskError> {
    call(None, ClientCall::SetPolicy(range, policy)).map(|_| ())
}

/// Gives pages that have no frame one of `node`. Returns how many.
///
/// # Errors
/// [`TaskError`].
pub fn alloc_on(range: PageRange, node: NodeId) -> Result<u64, TaskError> {
    touched(ClientCall::AllocOn(range, node)).map(|(count, _)| count)
}

/// Unmaps pages on all nodes and reports how they had been used. Their contents stay.
///
/// # Errors
/// [`TaskError`].
pub fn unmap(range: PageRange) -> Result<(u64, Status), TaskError> {
    touched(ClientCall::Unmap(range))
}

/// [`unmap`], and the contents go.
///
/// # Errors
/// [`TaskError`].
pub fn discard(range: PageRange) -> Result<(u64, Status), TaskError> {
    touched(ClientCall::Discard(range))
}

/// Moves pages to a node. Returns how many moved.
///
/// # Errors
/// [`TaskError`].
pub fn migrate_pages(range: PageRange, node: NodeId) -> Result<u64, TaskError> {
    touched(ClientCall::MigratePages(range, node)).map(|(count, _)| count)
}

/// Replicates pages until somebody writes to them. Returns how many.
///
/// # Errors
/// [`TaskError`].
pub fn replicate(range: PageRange) -> Result<u64, TaskError> {
    touched(ClientCall::Replicate(range)).map(|(count, _)| count)
}

/// Where the page of an address is.
///
/// # Errors
/// [`TaskError`].
pub fn query(addr: u64) -> Result<Placement, TaskError> {
    match call(None, ClientCall::Query(PageNo::of(addr)))? {
        Reply::Placement { frames, mapped, replicated, local, .. } => {
            Ok(Placement { frames, mapped, replicated, local })
        }
        _ => Err(TaskError::BadReply),
    }
}

/// How much of the task is on a node.
///
/// # Errors
/// [`TaskError`].
pub fn census(node: NodeId) -> Result<Census, TaskError> {
    census_of(None, node)
}

/// How much of a task is on a node. Of another task than the caller's only balancers may ask.
///
/// # Errors
/// [`TaskError`].
pub fn census_of(task: Option<TaskId>, node: NodeId) -> Result<Census, TaskError> {
    match call(task, ClientCall::Census(node))? {
        Reply::Census(census) => Ok(census),
        _ => Err(TaskError::BadReply),
    }
}

/// Starts a thread of the task on the caller's CPU, in `entry(arg)` on `stack`.
///
/// # Errors
/// [`TaskError`].
pub fn create_thread(
    stack: &StackTop,
    entry: extern "C" fn(u64) -> !,
    arg: u64,
) -> Result<ThreadId, TaskError> {
    let (ip, sp) = (arch::trampoline_ip(), stack.prepare(entry, arg));
    match call(None, ClientCall::CreateThread { ip, sp })? {
        Reply::Thread(thread) => Ok(thread),
        _ => Err(TaskError::BadReply),
    }
}

/// Deletes a thread of the task.
///
/// # Errors
/// [`TaskError`].
pub fn delete_thread(thread: ThreadId) -> Result<(), TaskError> {
    done(call(None, ClientCall::DeleteThread(thread))?)
}

/// Moves a thread of the task (the caller, too) to a CPU. The thread's IPC is aborted.
///
/// # Errors
/// [`TaskError`]. A caller that moves itself to another node gets no answer: its own call is
/// aborted, and that counts as success.
pub fn migrate_thread(thread: ThreadId, cpu: CpuId) -> Result<(), TaskError> {
    let node = topology::node_of(cpu);
    let me = libl4::thread::my_global_id();
    match call(None, ClientCall::MigrateThread { thread, node, cpu }) {
        Err(TaskError::Ipc(_)) if thread == me => Ok(()),
        Err(error) => Err(error),
        Ok(reply) => done(reply),
    }
}

/// Moves a thread of another task to a CPU. For load balancers (manifest: `balancer = true`).
///
/// # Errors
/// [`TaskError`].
pub fn move_thread_of(task: TaskId, thread: ThreadId, cpu: CpuId) -> Result<(), TaskError> {
    let node = topology::node_of(cpu);
    done(call(Some(task), ClientCall::MigrateThread { thread, node, cpu })?)
}

/// All threads that the caller's pager serves. For load balancers.
///
/// # Errors
/// [`TaskError`]; `BadReply` if the caller is none.
pub fn threads_here() -> Result<Vec<ThreadInfo>, TaskError> {
    let mut all: Vec<ThreadInfo> = Vec::new();
    loop {
        let after = all.last().map_or(ThreadId::NIL, |info| info.thread);
        let ThreadList(more) = ask(my_pager(), &AskThreads { after })?;
        let full = more.len() == LIST_MOST;
        all.extend(more);
        if !full {
            return Ok(all);
        }
    }
}

/// What the caller's pager has done for the task.
///
/// # Errors
/// [`TaskError`].
pub fn counts() -> Result<Counts, TaskError> {
    counts_of(my_pager(), None)
}

/// The caller's task.
///
/// # Errors
/// [`TaskError`]; `BadReply` if the pager does not know the caller.
pub fn my_task() -> Result<TaskId, TaskError> {
    counts()?.task.ok_or(TaskError::BadReply)
}

/// What a pager has done for a task.
///
/// # Errors
/// [`TaskError`].
pub fn counts_of(pager: ThreadId, task: Option<TaskId>) -> Result<Counts, TaskError> {
    ask(pager, &AskCounts { task })
}
