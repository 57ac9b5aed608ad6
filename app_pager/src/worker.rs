//! The worker: serves the requests of other pagers, one at a time, and waits for nobody but the
//! kernel, its own CPU's system call server, and fault replies that are being sent (numa-l4 4.2.1:
//! without it, two pagers that unmap at once wait for each other for ever).

use crate::directory::Outcome;
use crate::event::{Action, KernelCall, KernelRefused};
use crate::ids::{Caller, Frame, Status, Who};
use crate::message::{Confirm, Request};
use crate::pager::{Departure, Out, Pager};
use crate::task::TaskRecord;
use alloc::vec::Vec;
use l4abi::{NodeId, ThreadId};

/// What the worker is doing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct WorkerJob {
    /// Who waits for the confirmation.
    pub caller: Caller,
    /// For what.
    pub request: Request,
    /// The frame being cleared.
    pub frame: Option<Frame>,
    /// The dummy thread being created or deleted.
    pub dummy: Option<ThreadId>,
}

impl Pager {
    pub(crate) fn on_request(&mut self, caller: Caller, request: Request, out: &mut Out) {
        if self.worker.is_some() {
            return;
        }
        self.worker =
            Some(WorkerJob { caller, request: request.clone(), frame: None, dummy: None });
        match request {
            Request::Revoke { task, pages, .. } => self.revoke_here(Who::Worker, task, pages, out),
            Request::Alloc { clean } => self.worker_alloc(clean, out),
            Request::Free { frames } => {
                out.push(Action::Clear { who: Who::Worker, frames });
            }
            Request::Dir { task, .. } => {
                out.push(Action::Lock { who: Who::Worker, task, at: self.config.node });
            }
            Request::Enter { task, master, thread, new_space } => {
                let record = self.tasks.entry(task).or_insert_with(|| TaskRecord::new(master));
                record.master = master;
                if !new_space {
                    self.threads.insert(thread, task);
                    return self.confirm(Confirm::Done, out);
                }
                self.worker_dummy(|dummy| KernelCall::CreateSpace { task, dummy }, out);
            }
            Request::Depart { task, thread, keep } => match keep {
                Some(peer) => {
                    let call = |dummy| KernelCall::CreateDummy { task, dummy, peer };
                    self.worker_dummy(call, out);
                }
                None => self.depart(thread, out),
            },
            Request::DropDummy { task } | Request::Leave { task } => {
                match self.tasks.get_mut(&task).and_then(|t| t.dummy.take()) {
                    Some(thread) => {
                        let call = KernelCall::DeleteThread { task, thread };
                        self.worker_kernel(Some(thread), call, out);
                    }
                    None => self.left(out),
                }
            }
            Request::Forget { task } => {
                for frame in
                    self.tasks.remove(&task).into_iter().flat_map(|t| t.locals.into_values())
                {
                    let _ = self.pool.free(frame, false);
                }
                self.threads.retain(|_, t| *t != task);
                self.confirm(Confirm::Done, out);
            }
            Request::FreeThread { thread } => {
                self.ids.give_back(thread);
                self.confirm(Confirm::Done, out);
            }
        }
    }

    fn confirm(&mut self, confirm: Confirm, out: &mut Out) {
        if let Some(job) = self.worker.take() {
            out.push(Action::Confirm { to: job.caller, confirm });
        }
    }

    fn worker_alloc(&mut self, clean: bool, out: &mut Out) {
        let taken = if clean { self.pool.alloc() } else { self.pool.alloc_any() };
        match taken {
            Some(taken) if clean && !taken.clean => {
                // The frame is cleared where it lies.
                if let Some(job) = &mut self.worker {
                    job.frame = Some(taken.frame);
                }
                out.push(Action::Fill { who: Who::Worker, frame: taken.frame, from: None });
            }
            taken => self.confirm(Confirm::Frame(taken.map(|t| t.frame)), out),
        }
    }

    pub(crate) fn worker_filled(&mut self, out: &mut Out) {
        if let Some(frame) = self.worker.as_ref().and_then(|job| job.frame) {
            self.confirm(Confirm::Frame(Some(frame)), out);
        }
    }

    pub(crate) fn worker_cleared(&mut self, out: &mut Out) {
        if matches!(&self.worker, Some(WorkerJob { request: Request::Free { .. }, .. })) {
            self.confirm(Confirm::Done, out);
        }
    }

    pub(crate) fn worker_unmapped(&mut self, status: Status, out: &mut Out) {
        let Some(Request::Revoke { free, .. }) = self.worker.as_ref().map(|job| &job.request)
        else {
            return;
        };
        if let Some(frame) = *free {
            let _ = self.pool.free(frame, false);
        }
        self.confirm(Confirm::Revoked(status), out);
    }

    /// The directory answered the worker, which asked for somebody else. Who is queued hears so, and
    /// goes on waiting until it is told to ask again. The two messages may overtake each other:
    /// hearing of the queue changes nothing.
    pub(crate) fn worker_answers(&mut self, answer: Result<Outcome, NodeId>, out: &mut Out) {
        match answer {
            Ok(outcome) => self.confirm(Confirm::Dir(outcome), out),
            Err(to) => self.confirm(Confirm::Moved(to), out),
        }
    }

    fn worker_dummy(&mut self, call: impl FnOnce(ThreadId) -> KernelCall, out: &mut Out) {
        match self.ids.take() {
            Some(dummy) => self.worker_kernel(Some(dummy), call(dummy), out),
            None => self.confirm(Confirm::Failed, out),
        }
    }

    fn worker_kernel(&mut self, dummy: Option<ThreadId>, call: KernelCall, out: &mut Out) {
        if let Some(job) = &mut self.worker {
            job.dummy = dummy;
        }
        out.push(Action::Kernel { who: Who::Worker, call });
    }

    pub(crate) fn worker_kernel_done(&mut self, result: Result<(), KernelRefused>, out: &mut Out) {
        let Some(job) = self.worker.clone() else { return };
        let Some(dummy) = job.dummy else { return };
        match (job.request, result) {
            (Request::Enter { task, thread, .. }, Ok(())) => {
                self.threads.insert(thread, task);
                self.set_dummy(task, Some(dummy));
                self.confirm(Confirm::Entered(dummy), out);
            }
            (Request::Depart { task, thread, .. }, Ok(())) => {
                self.set_dummy(task, Some(dummy));
                self.depart(thread, out);
            }
            (Request::Enter { .. } | Request::Depart { .. }, Err(KernelRefused)) => {
                self.ids.give_back(dummy);
                self.confirm(Confirm::Failed, out);
            }
            // A dummy that cannot be deleted is gone already: its space was killed.
            (Request::DropDummy { .. } | Request::Leave { .. }, _) => {
                self.ids.give_back(dummy);
                self.left(out);
            }
            _ => {}
        }
    }

    fn set_dummy(&mut self, task: crate::ids::TaskId, dummy: Option<ThreadId>) {
        if let Some(record) = self.tasks.get_mut(&task) {
            record.dummy = dummy;
        }
    }

    /// Ends [`Request::DropDummy`] and [`Request::Leave`].
    fn left(&mut self, out: &mut Out) {
        if let Some(Request::Leave { task }) = self.worker.as_ref().map(|job| &job.request)
            && let Some(record) = self.tasks.get_mut(task)
        {
            // All pages were unmapped here before (`PageOp::Vacate`); local frames stay.
            debug_assert!(record.cache.is_empty());
            record.cache.clear();
        }
        self.confirm(Confirm::Done, out);
    }

    /// Serves no more faults and calls of `thread`. If one is being served, the lane that does so
    /// confirms: the worker is free meanwhile, because that lane may need it.
    fn depart(&mut self, thread: ThreadId, out: &mut Out) {
        self.threads.remove(&thread);
        if let Some(job) = self.worker.take() {
            self.departures.push(Departure { thread, caller: job.caller });
            self.confirm_departures(out);
        }
    }

    pub(crate) fn confirm_departures(&mut self, out: &mut Out) {
        if self.departures.is_empty() {
            return;
        }
        let lanes = &self.lanes;
        let waits = |d: &Departure| {
            lanes.iter().filter_map(|l| l.job).any(|job| job.thread() == d.thread && job.is_brief())
        };
        let (wait, go): (Vec<_>, Vec<_>) = self.departures.drain(..).partition(waits);
        self.departures = wait;
        for d in go {
            out.push(Action::Confirm { to: d.caller, confirm: Confirm::Done });
        }
    }
}
