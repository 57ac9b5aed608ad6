//! What the pagers of all nodes see of each other: directories and in-boxes, each in the shared heap
//! of its own node, at the same address in every pager.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use app_pager::barrier::Barrier;
use app_pager::event::Action;
use app_pager::ids::{Caller, Frame, NodeSet, TaskId};
use app_pager::layout::MAX_LANES;
use app_pager::mcs::{McsLock, McsPlace, Place};
use app_pager::message::Confirm;
use app_pager::store::Slot;
use core::cell::UnsafeCell;
use l4abi::{CpuId, MsgTag, NodeId, ThreadId, ThreadNo, Time};
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
    /// Workers confirmed all of the requests that the lane sent together.
    Gathered,
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
/// Lanes on different CPUs have in-boxes in different lines.
#[derive(Debug, Default)]
#[repr(align(64))]
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
            // The owner goes straight into a receive that takes this (see `next`).
            let _ = ipc::send(owner, Time::NEVER, MsgTag::new(WAKE, 0, 0));
        }
    }

    /// Takes a note out. If there is none and `waits`, the owner is about to wait for messages.
    pub fn next(&self, waits: bool) -> Option<Note> {
        let mut inside = self.0.lock();
        let note = inside.notes.pop_front();
        inside.sleeping = waits && note.is_none();
        note
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

/// Threads of a pager that wait for locks: lanes and the worker.
const THREADS: usize = MAX_LANES as usize + 1;
/// Places of each thread: a hand-over takes the next node's lock while it holds its own.
const DEPTH: usize = 2;
/// Looks at a lock before the CPU is offered to others.
const PATIENCE: u32 = 1000;

/// A place for the directory of a task, behind a queue lock (numa-l4 4.2.1): each waiter spins on its
/// own place in its own node's memory.
#[derive(Debug, Default)]
pub struct LockedSlot {
    lock: McsLock,
    slot: UnsafeCell<Slot>,
}

// SAFETY: `slot` is reached through `with` only, by the one thread that holds `lock`.
unsafe impl Send for LockedSlot {}
// SAFETY: as above.
unsafe impl Sync for LockedSlot {}

impl LockedSlot {
    /// Runs `body` on the slot. `me` is the calling thread, which holds `depth` other slots' locks.
    ///
    /// # Panics
    /// If `depth` is 2 or more.
    pub fn with<R>(&self, me: Caller, depth: usize, body: impl FnOnce(&mut Slot) -> R) -> R {
        assert!(depth < DEPTH, "no place to wait at");
        let thread = usize::from(me.node.0) * THREADS + usize::from(me.lane.0.min(MAX_LANES));
        let place = Place((thread * DEPTH + depth) as u32);
        self.lock.lock(place, place_of, polite());
        // SAFETY: this thread holds the lock until `unlock`, and `body` keeps no reference.
        let result = body(unsafe { &mut *self.slot.get() });
        self.lock.unlock(place, place_of, polite());
        result
    }
}

/// Waits a moment; after many, lets other threads of the CPU run: one of them may hold the lock.
fn polite() -> impl FnMut() {
    let mut looks = 0;
    move || {
        looks += 1;
        match looks % PATIENCE {
            0 => libl4::sys::thread_switch(ThreadId::NIL),
            _ => core::hint::spin_loop(),
        }
    }
}

fn place_of(place: Place) -> &'static McsPlace {
    let (thread, depth) = (place.0 as usize / DEPTH, place.0 as usize % DEPTH);
    &of(NodeId((thread / THREADS) as u8)).places[thread % THREADS][depth]
}

/// What a node's pager shares.
#[derive(Debug)]
pub struct Shared {
    slots: Mutex<BTreeMap<TaskId, Arc<LockedSlot>>>,
    inboxes: [Inbox; THREADS],
    barriers: [Barrier; THREADS],
    places: [[McsPlace; DEPTH]; THREADS],
    /// Where threads of tasks were put on this node, by thread number.
    cpus: Mutex<BTreeMap<ThreadNo, CpuId>>,
    /// Frames of this node that the root task has unmapped, and pagers that have not got them back.
    lost: Mutex<BTreeMap<Frame, NodeSet>>,
}

impl Shared {
    /// The place of a task's directory in this node's memory, made if there is none.
    pub fn slot(&self, task: TaskId) -> Arc<LockedSlot> {
        Arc::clone(self.slots.lock().entry(task).or_default())
    }

    /// Where the requests that a thread has sent together are confirmed.
    pub fn barrier(&self, index: u8) -> &Barrier {
        &self.barriers[usize::from(index.min(MAX_LANES))]
    }

    /// A thread of a task is on this CPU of the node from now on.
    pub fn put_on(&self, thread: ThreadId, cpu: CpuId) {
        self.cpus.lock().insert(thread.number(), cpu);
    }

    /// Where a thread of a task was put last on this node.
    pub fn cpu_of(&self, thread: ThreadId) -> Option<CpuId> {
        self.cpus.lock().get(&thread.number()).copied()
    }

    /// All pagers lose a frame of this node: the root task is about to unmap it.
    pub fn lose(&self, frame: Frame, pagers: u8) {
        let all = (0..pagers).map(NodeId).collect();
        self.lost.lock().insert(frame, all);
    }

    /// Whether the pager of `node` has lost a frame of this node. It gets it back now.
    pub fn regain(&self, frame: Frame, node: NodeId) -> bool {
        let mut lost = self.lost.lock();
        let Some(nodes) = lost.get_mut(&frame).filter(|nodes| nodes.contains(node)) else {
            return false;
        };
        *nodes = nodes.without(node);
        if nodes.is_empty() {
            lost.remove(&frame);
        }
        true
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
    let shared = Box::leak(Box::new(Shared {
        slots: Mutex::new(BTreeMap::new()),
        inboxes: core::array::from_fn(|_| Inbox::default()),
        barriers: core::array::from_fn(|_| Barrier::new()),
        places: core::array::from_fn(|_| core::array::from_fn(|_| McsPlace::default())),
        cpus: Mutex::new(BTreeMap::new()),
        lost: Mutex::new(BTreeMap::new()),
    }));
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
