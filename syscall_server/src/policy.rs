//! Who may do what.

use crate::request::{Request, SpaceControl, ThreadControl};
use alloc::collections::{BTreeMap, BTreeSet};
use core::ops::Range;
use l4abi::id::IdKind;
use l4abi::{ErrorCode, ThreadId, ThreadNo};

/// A task, as the pagers number them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TaskNo(pub u32);

/// An application pager: the number of its node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PagerNo(pub u16);

/// A space: the policy's own name for it, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SpaceNo(pub u32);

#[derive(Clone, Debug)]
struct Pager {
    /// Ids of its threads: who may call, and who may be set as pager and scheduler.
    threads: BTreeSet<ThreadId>,
    /// Numbers that it may give to threads.
    numbers: Range<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Thread {
    id: ThreadId,
    task: TaskNo,
    space: SpaceNo,
}

/// A system call that may be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// ThreadControl with these arguments.
    Thread(ThreadControl),
    /// SpaceControl with these arguments.
    Space(SpaceControl),
    /// None.
    Nothing,
}

/// The right to make one call. It is worth something only until the policy changes: check, make the
/// call, apply, all under one lock.
#[derive(Debug)]
#[must_use = "make the call, then apply the permit"]
pub struct Permit {
    /// The call to make.
    pub call: Call,
    change: Change,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    None,
    Create { by: PagerNo, id: ThreadId, task: TaskNo, space: Option<SpaceNo> },
    Move { number: ThreadNo, to: SpaceNo },
    Delete { number: ThreadNo },
    Share { task: TaskNo, with: PagerNo },
}

/// The policy: pagers and tasks, threads and spaces made through the servers.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pagers: BTreeMap<PagerNo, Pager>,
    threads: BTreeMap<ThreadNo, Thread>,
    /// The pagers that serve a task.
    tasks: BTreeMap<TaskNo, BTreeSet<PagerNo>>,
    next_space: u32,
}

impl Policy {
    /// Nobody may do anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the threads of a pager in. Only the root task does this, at start.
    ///
    /// # Errors
    /// `InvalidParameter` if a thread, a number or the pager is registered already.
    pub fn add_pager(
        &mut self,
        no: PagerNo,
        threads: impl IntoIterator<Item = ThreadId>,
        numbers: Range<u32>,
    ) -> Result<(), ErrorCode> {
        let threads: BTreeSet<ThreadId> = threads.into_iter().collect();
        let clash = |p: &Pager| {
            let overlap = p.numbers.start < numbers.end && numbers.start < p.numbers.end;
            overlap || !p.threads.is_disjoint(&threads)
        };
        if self.pagers.contains_key(&no) || self.pagers.values().any(clash) {
            return Err(ErrorCode::InvalidParameter);
        }
        self.pagers.insert(no, Pager { threads, numbers });
        Ok(())
    }

    /// Whether `caller` may do this, and which system call does it.
    ///
    /// # Errors
    /// `NoPrivilege` for strangers and for everything outside the caller's tasks; otherwise what is
    /// wrong with the arguments, in the words of the kernel's own errors.
    pub fn check(&self, caller: ThreadId, request: &Request) -> Result<Permit, ErrorCode> {
        let is_caller = |(_, p): &(&PagerNo, &Pager)| p.threads.contains(&caller);
        let (&by, pager) = self.pagers.iter().find(is_caller).ok_or(ErrorCode::NoPrivilege)?;
        match *request {
            Request::Thread(t) => self.check_thread(by, pager, t),
            Request::Space(s) => self.check_space(by, s),
            Request::Share { task, with } => {
                if !self.serves(by, task) {
                    return Err(ErrorCode::NoPrivilege);
                }
                if !self.pagers.contains_key(&with) {
                    return Err(ErrorCode::InvalidParameter);
                }
                Ok(Permit { call: Call::Nothing, change: Change::Share { task, with } })
            }
        }
    }

    fn serves(&self, pager: PagerNo, task: TaskNo) -> bool {
        self.tasks.get(&task).is_some_and(|pagers| pagers.contains(&pager))
    }

    fn is_pager_thread(&self, id: ThreadId) -> bool {
        self.pagers.values().any(|p| p.threads.contains(&id))
    }

    /// The thread with this very id in this task.
    fn member(&self, id: ThreadId, task: TaskNo) -> Result<&Thread, ErrorCode> {
        let thread = self.threads.get(&id.number()).filter(|t| t.id == id);
        let thread = thread.ok_or(ErrorCode::InvalidSpace)?;
        if thread.task == task { Ok(thread) } else { Err(ErrorCode::NoPrivilege) }
    }

    fn check_thread(
        &self,
        by: PagerNo,
        pager: &Pager,
        t: ThreadControl,
    ) -> Result<Permit, ErrorCode> {
        if !matches!(t.dest.kind(), IdKind::Global { .. }) {
            return Err(ErrorCode::InvalidSpace);
        }
        let number = t.dest.number();
        let exists = self.threads.get(&number);
        // Nobody else may fault to, or be scheduled by, what is no pager: that would let a pager
        // make threads that answer to a thread outside its reach.
        if !t.pager.is_nil() && !self.is_pager_thread(t.pager) {
            return Err(ErrorCode::InvalidThread);
        }
        if !t.scheduler.is_nil() && !self.is_pager_thread(t.scheduler) {
            return Err(ErrorCode::InvalidScheduler);
        }
        let change = match exists {
            Some(thread) => {
                // Another version would rename the thread (ref 4.5): an old id could come back.
                if thread.task != t.task || thread.id != t.dest || !self.serves(by, t.task) {
                    return Err(ErrorCode::NoPrivilege);
                }
                if t.space.is_nil() {
                    Change::Delete { number }
                } else {
                    Change::Move { number, to: self.member(t.space, t.task)?.space }
                }
            }
            None => self.check_create(by, pager, t)?,
        };
        Ok(Permit { call: Call::Thread(t), change })
    }

    fn check_create(
        &self,
        by: PagerNo,
        pager: &Pager,
        t: ThreadControl,
    ) -> Result<Change, ErrorCode> {
        if !pager.numbers.contains(&t.dest.number().0) {
            return Err(ErrorCode::NoPrivilege);
        }
        if t.space.is_nil() || !t.dest.is_well_formed_global() {
            return Err(ErrorCode::InvalidThread);
        }
        if t.scheduler.is_nil() {
            return Err(ErrorCode::InvalidScheduler);
        }
        if self.tasks.contains_key(&t.task) && !self.serves(by, t.task) {
            return Err(ErrorCode::NoPrivilege);
        }
        let space = match t.space == t.dest {
            true => None,
            false => Some(self.member(t.space, t.task)?.space),
        };
        Ok(Change::Create { by, id: t.dest, task: t.task, space })
    }

    fn check_space(&self, by: PagerNo, s: SpaceControl) -> Result<Permit, ErrorCode> {
        if !self.serves(by, s.task) {
            return Err(ErrorCode::NoPrivilege);
        }
        self.member(s.space, s.task)?;
        if !s.redirector.is_nil() && !self.is_pager_thread(s.redirector) {
            return Err(ErrorCode::InvalidThread);
        }
        Ok(Permit { call: Call::Space(s), change: Change::None })
    }

    /// Records that the permitted call has succeeded. A call that failed changes nothing: drop the
    /// permit.
    pub fn apply(&mut self, permit: Permit) {
        match permit.change {
            Change::None => {}
            Change::Create { by, id, task, space } => {
                let space = space.unwrap_or_else(|| {
                    self.next_space += 1;
                    SpaceNo(self.next_space)
                });
                self.tasks.entry(task).or_insert_with(|| BTreeSet::from([by]));
                self.threads.insert(id.number(), Thread { id, task, space });
            }
            Change::Move { number, to } => {
                if let Some(thread) = self.threads.get_mut(&number) {
                    thread.space = to;
                }
            }
            Change::Delete { number } => self.gone(number),
            Change::Share { task, with } => {
                self.tasks.entry(task).or_default().insert(with);
            }
        }
    }

    fn gone(&mut self, number: ThreadNo) {
        let Some(thread) = self.threads.remove(&number) else { return };
        if self.threads.values().all(|t| t.task != thread.task) {
            self.tasks.remove(&thread.task);
        }
    }

    /// All threads of a task: what the supervisor deletes when the task dies.
    pub fn threads_of(&self, task: TaskNo) -> impl Iterator<Item = ThreadId> {
        self.threads.values().filter(move |t| t.task == task).map(|t| t.id)
    }

    /// All threads of all tasks: what the supervisor deletes when it starts the pagers anew.
    pub fn threads(&self) -> impl Iterator<Item = ThreadId> {
        self.threads.values().map(|t| t.id)
    }

    /// The space of a thread.
    #[must_use]
    pub fn space_of(&self, thread: ThreadId) -> Option<SpaceNo> {
        self.threads.get(&thread.number()).filter(|t| t.id == thread).map(|t| t.space)
    }
}
