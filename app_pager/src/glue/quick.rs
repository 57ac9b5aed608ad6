//! Faults that the machine serves in one step.

use super::act;
use super::thread::{Serving, count_fault, with_pager};
use app_pager::event::Action;
use app_pager::quick::Fault;

impl Serving {
    /// Serves a fault with the directory's lock and the pager's taken once each, and the pager's once
    /// more when the thread has its mapping. `false`: it needs more than that, and nothing was done.
    pub fn fault_at_once(&mut self, fault: Fault) -> bool {
        // What the lane remembers may be old; the machine looks whether the thread is of that task.
        let Some((_, task)) = self.last.filter(|&(thread, _)| thread == fault.thread) else {
            return false;
        };
        let Some(known) = self.slot.take_if(|known| known.task == task) else { return false };
        let with = |slot: &mut _| with_pager(|pager| pager.fault_at_once(task, fault, slot));
        let action = known.slot.with(self.caller(), 0, with);
        self.slot = Some(known);
        let Some(Action::Map { lane, thread, page, frame, rights }) = action else { return false };
        count_fault(lane.0, task);
        act::map(thread, page.address(), frame, rights);
        self.step(|pager, out| pager.mapped_at_once(lane, out));
        true
    }
}
