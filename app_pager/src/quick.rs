//! Faults in one step.
//!
//! Most faults need nothing but a look at two tables: this pager's own, and the directory. They are
//! served here with both locks taken once, and without a list of phases. What comes out is what
//! [`Event::Fault`](crate::event::Event::Fault), [`Pager::with_directory`] and what lies between give
//! if nothing happens in between: one of the schedules that the models explore, and the models compare
//! both at every fault.

use crate::config::Establish;
use crate::event::Action;
use crate::ids::{Caller, LaneId, PageNo, TaskId};
use crate::lane::{Job, Wait};
use crate::pager::{Out, Pager};
use crate::store::Slot;
use crate::task::Cached;
use l4abi::{Rights, ThreadId};

/// A fault, as [`Event::Fault`](crate::event::Event::Fault) has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The pager thread that got the message.
    pub lane: LaneId,
    /// Who faulted.
    pub thread: ThreadId,
    /// Where.
    pub page: PageNo,
    /// What was tried.
    pub access: Rights,
}

impl Pager {
    /// Serves a fault of a thread of `task`, with the lock of the task's directory in `slot`. Gives the
    /// mapping to make, after which [`Self::mapped_at_once`] is to be called; `None`: nothing has
    /// changed, and the fault needs more than this.
    pub fn fault_at_once(&mut self, task: TaskId, fault: Fault, slot: &mut Slot) -> Option<Action> {
        let Fault { lane, thread, page, access } = fault;
        if self.config.establish != Establish::Shared || self.config.dir.hold_faults {
            return None;
        }
        let l = self.lanes.get_mut(usize::from(lane.0)).filter(|l| l.is_idle())?;
        if self.threads.get(&thread) != Some(&task) {
            return None;
        }
        let record = self.tasks.get_mut(&task)?;
        let own = record.local_regions.find(page).map(|(_, region)| region.rights);
        let mapped = if let Some(rights) = own {
            // Node-local: the directory knows nothing of it.
            if !rights.contains(access) {
                return None;
            }
            let frame = match record.locals.get(page) {
                Some(&frame) => frame,
                None => {
                    let frame = self.pool.alloc_clean(usize::from(lane.0))?;
                    record.locals.insert(page, frame);
                    frame
                }
            };
            Cached { frame, rights }
        } else if let Some(known) = record.cache.get(page).filter(|c| c.rights.contains(access)) {
            *known
        } else {
            let Slot::Here(directory) = slot else { return None };
            let by = Caller { node: self.config.node, lane };
            let offer = self.pool.next_clean(usize::from(lane.0));
            let (mapped, offered) =
                directory.resolve_at_once(self.config.dir, by, page, access, offer)?;
            if offered {
                let _ = self.pool.alloc_clean(usize::from(lane.0));
            }
            record.cache.insert(page, mapped);
            mapped
        };
        l.job = Some(Job::Fault { thread, page, access });
        l.task = task;
        l.dir_at = record.master;
        l.mapping = Some(page);
        l.wait = Wait::Map;
        let Cached { frame, rights } = mapped;
        Some(Action::Map { lane, thread, page, frame, rights })
    }

    /// Whether `other` will do the same as this pager, whatever happens: all is equal, except where the
    /// frames are noted that both know to be clean.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let pools = self.pool.is_like(&other.pool);
        pools && Self { pool: other.pool.clone(), ..self.clone() } == *other
    }

    /// The mapping of [`Self::fault_at_once`] is made.
    pub fn mapped_at_once(&mut self, lane: LaneId, out: &mut Out) {
        let l = self.lane(lane);
        let quick = matches!((&l.wait, &l.job), (Wait::Map, Some(Job::Fault { .. })));
        if !quick || !l.phases.is_empty() || l.spare.is_some() || l.new_frame.is_some() {
            return self.on_mapped(lane, out);
        }
        (l.job, l.mapping, l.wait) = (None, None, Wait::Nothing);
        (l.task, l.dir_at) = <_>::default();
        if !self.deferred.is_empty() {
            self.start_deferred(out);
        }
        self.confirm_departures(out);
    }
}
