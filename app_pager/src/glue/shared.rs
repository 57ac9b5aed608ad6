//! What the pagers of all nodes see of each other: directories and in-boxes, each in the shared heap
//! of its own node, at the same address in every pager.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use app_pager::event::Action;
use app_pager::ids::TaskId;
use app_pager::layout::MAX_LANES;
use app_pager::message::Confirm;
use app_pager::store::Slot;
use l4abi::{MsgTag, NodeId, ThreadId, Time};
use libl4::sync::Mutex;
use libl4::{arch, heap, ipc};

/// In the first page of a shared heap's area: where the node's [`Shared`] is.
const POINTER_AT: u64 = 2048;
/// Label of the message that wakes a thread whose in-box got something.
pub const WAKE: u64 = 0x5040;

/// Something for a pager thread that it did not ask the kernel for.
#[derive(Debug)]
pub enum Note {
    /// A worker confirmed a request.
    Confirmed(NodeId, Confirm),
    /// What the lane queued for is free.
    Woken,
    /// Another thread of the pager stepped the machine, and this is for the receiver to do.
    Act(Action),
    /// The worker may have become idle.
    Idle,
}

#[derive(Debug, Default)]
struct Content {
    notes: VecDeque<Note>,
    /// The owner is about to wait, or waits, for messages.
    sleeping: bool,
    /// Who has taken it upon itself to wake the owner.
    waker: Option<ThreadId>,
}

/// The in-box of a pager thread. Posting never waits for the owner to finish anything: it sends a
/// message only when the owner is on its way into an open receive and does nothing else before.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Content>);

impl Inbox {
    /// Puts a note in; `owner` is whose in-box it is.
    pub fn post(&self, owner: ThreadId, note: Note) {
        let wake = {
            let mut inside = self.0.lock();
            inside.notes.push_back(note);
            let wake = core::mem::take(&mut inside.sleeping);
            if wake {
                inside.waker = Some(libl4::thread::my_global_id());
            }
            wake
        };
        if wake {
            // The owner goes straight into a receive that takes this (see `before_wait`).
            let _ = ipc::send(owner, Time::NEVER, MsgTag::new(WAKE, 0, 0));
        }
    }

    /// Takes a note out.
    pub fn take(&self) -> Option<Note> {
        self.0.lock().notes.pop_front()
    }

    /// The owner is about to wait for messages. False if it must not: there are notes.
    pub fn before_wait(&self) -> bool {
        let mut inside = self.0.lock();
        inside.sleeping = inside.notes.is_empty();
        inside.sleeping
    }

    /// The owner has received something that is no wake-up. If somebody is sending one, its sender:
    /// the owner must receive that before anything else.
    pub fn after_wait(&self) -> Option<ThreadId> {
        let mut inside = self.0.lock();
        inside.sleeping = false;
        inside.waker.take()
    }

    /// The owner has received the wake-up.
    pub fn woken(&self) {
        self.0.lock().waker = None;
    }
}

/// What a node's pager shares.
#[derive(Debug)]
pub struct Shared {
    slots: Mutex<BTreeMap<TaskId, Arc<Mutex<Slot>>>>,
    inboxes: [Inbox; MAX_LANES as usize + 1],
}

impl Shared {
    /// The place of a task's directory in this node's memory, made if there is none.
    pub fn slot(&self, task: TaskId) -> Arc<Mutex<Slot>> {
        Arc::clone(self.slots.lock().entry(task).or_default())
    }

    /// The task is gone.
    pub fn remove_slot(&self, task: TaskId) {
        self.slots.lock().remove(&task);
    }

    /// The in-box of lane `index`, or of the worker.
    pub fn inbox(&self, index: u8) -> &Inbox {
        &self.inboxes[usize::from(index.min(MAX_LANES))]
    }
}

fn pointer(node: NodeId) -> u64 {
    (heap::SHARED_BASE + usize::from(node.0) * heap::SHARED_STRIDE) as u64 + POINTER_AT
}

/// Makes this node's shared data. Called once, before any other pager may look for it.
pub fn create(node: NodeId) {
    let inboxes = core::array::from_fn(|_| Inbox::default());
    let shared = Box::leak(Box::new(Shared { slots: Mutex::new(BTreeMap::new()), inboxes }));
    arch::poke(pointer(node), core::ptr::from_ref(shared) as u64);
}

/// The shared data of a node.
///
/// # Panics
/// If the node's pager has not started.
pub fn of(node: NodeId) -> &'static Shared {
    let at = arch::peek(pointer(node));
    assert!(at != 0, "the pager of node {} is not there", node.0);
    // SAFETY: written by `create` only, with the address of an object that is never freed, lies in
    // memory mapped at the same address in all pagers, and is `Sync`. All pagers run one binary, so
    // they agree on its layout.
    unsafe { &*(at as *const Shared) }
}
