//! Page faults: the local ones, which ask nobody, and the global ones, which ask the directory.

use crate::directory::{DirError, DirOp};
use crate::event::Action;
use crate::ids::{Frame, LaneId, PageNo, PageRange, Who};
use crate::lane::{FrameRef, Job, Phase, Wait};
use crate::pager::{Out, Pager};
use crate::region::{Policy, Region};
use crate::task::Cached;
use l4abi::Rights;

impl Pager {
    /// Plans how a fault is served.
    pub(crate) fn plan_fault(&mut self, lane: LaneId, page: PageNo, access: Rights) {
        let record = self.lane_ref(lane).and_then(|l| self.tasks.get(&l.task));
        let known = record.and_then(|record| {
            if let Some((_, region)) = record.local_regions.find(page) {
                let allowed = region.rights.contains(access);
                return Some(if allowed { Phase::Local(region.rights) } else { Phase::Resolve });
            }
            // Another thread of this node was here before: this pager's own table knows.
            let cached = record.cache.get(page).filter(|c| c.rights.contains(access))?;
            Some(Phase::Map(FrameRef::This(cached.frame), cached.rights))
        });
        let phases = &mut self.lane(lane).phases;
        match known {
            Some(phase) => phases.push_back(phase),
            None => phases.extend([Phase::Offer, Phase::Resolve]),
        }
    }

    /// Takes a zeroed frame along, so that a first touch is one operation on the directory.
    pub(crate) fn begin_offer(&mut self, lane: LaneId, out: &mut Out) {
        if self.lane(lane).spare.is_some() {
            return;
        }
        let Some(taken) = self.pool.alloc() else { return };
        self.lane(lane).spare = Some(taken.frame);
        if !taken.clean {
            self.fill(lane, taken.frame, None, out);
        }
    }

    pub(crate) fn fill(&mut self, lane: LaneId, frame: Frame, from: Option<Frame>, out: &mut Out) {
        self.lane(lane).wait = Wait::Fill;
        out.push(Action::Fill { who: Who::Lane(lane), frame, from });
    }

    pub(crate) fn begin_resolve(&mut self, lane: LaneId, out: &mut Out) {
        let l = self.lane(lane);
        let Some(Job::Fault { page, access, .. }) = l.job else { return };
        l.stale = false;
        let offer = l.spare;
        self.ask(lane, DirOp::Resolve { page, access, offer }, out);
    }

    /// The directory names the frame.
    pub(crate) fn resolved(&mut self, lane: LaneId, frame: Frame, rights: Rights, offered: bool) {
        let l = self.lane(lane);
        if offered {
            l.spare = None;
        }
        if l.stale {
            // A revocation was served here after the directory had answered: the answer is old.
            l.push_front([Phase::Offer, Phase::Resolve]);
        } else {
            l.push_front([Phase::Map(FrameRef::This(frame), rights)]);
        }
    }

    /// The directory says that the page is node-local: it will not be asked again for the region.
    pub(crate) fn learned_local(&mut self, lane: LaneId, range: PageRange, rights: Rights) {
        let task = self.lane(lane).task;
        if let Some(record) = self.tasks.get_mut(&task) {
            record.local_regions.set(range, Region { rights, policy: Policy::NodeLocal });
        }
        let l = self.lane(lane);
        match l.job {
            Some(Job::Fault { .. }) => l.push_front([Phase::Local(rights)]),
            Some(Job::Call { call, .. }) => {
                let frame = match call {
                    crate::message::ClientCall::Query(page) => {
                        self.tasks.get(&task).and_then(|r| r.locals.get(page).copied())
                    }
                    _ => None,
                };
                self.answer_local(lane, frame);
            }
            None => {}
        }
    }

    pub(crate) fn begin_local(&mut self, lane: LaneId, rights: Rights, out: &mut Out) {
        let l = self.lane(lane);
        let (Some(Job::Fault { page, .. }), task) = (l.job, l.task) else { return };
        let Some(record) = self.tasks.get(&task) else {
            return self.fault_fails(lane, DirError::NoTask);
        };
        if let Some(&frame) = record.locals.get(page) {
            return self.lane(lane).push_front([Phase::Map(FrameRef::This(frame), rights)]);
        }
        self.lane(lane).push_front([Phase::LocalReady(rights)]);
        self.begin_offer(lane, out);
    }

    /// The spare frame, now zero, becomes the local page, unless another lane was faster.
    pub(crate) fn local_ready(&mut self, lane: LaneId, rights: Rights, out: &mut Out) {
        let l = self.lane(lane);
        let (Some(Job::Fault { page, .. }), task, spare) = (l.job, l.task, l.spare) else { return };
        let Some(record) = self.tasks.get_mut(&task) else {
            return self.fault_fails(lane, DirError::NoTask);
        };
        if record.locals.get(page).is_none() {
            // Node-local memory is of the node or does not exist: no other node helps out.
            let Some(frame) = spare else { return self.fault_fails(lane, DirError::NoMemory) };
            record.locals.insert(page, frame);
            self.lane(lane).spare = None;
        }
        self.begin_local(lane, rights, out);
    }

    fn fault_fails(&mut self, lane: LaneId, error: DirError) {
        self.lane(lane).error = Some(error);
    }

    pub(crate) fn begin_map(
        &mut self,
        lane: LaneId,
        frame: FrameRef,
        rights: Rights,
        out: &mut Out,
    ) {
        let l = self.lane(lane);
        let Some(Job::Fault { thread, page, .. }) = l.job else { return };
        let Some(frame) = (match frame {
            FrameRef::This(frame) => Some(frame),
            FrameRef::New => l.new_frame,
        }) else {
            return;
        };
        l.wait = Wait::Map;
        l.mapping = Some(page);
        let task = l.task;
        let held = self.config.dir.hold_faults;
        if let Some(record) = self.tasks.get_mut(&task)
            && !held
            && record.local_regions.find(page).is_none()
        {
            record.cache.insert(page, Cached { frame, rights });
        }
        out.push(Action::Map { lane, thread, page, frame, rights });
    }

    pub(crate) fn on_mapped(&mut self, lane: LaneId, out: &mut Out) {
        if self.lane_ref(lane).is_none_or(|l| l.wait != Wait::Map) {
            return;
        }
        let l = self.lane(lane);
        l.wait = Wait::Nothing;
        l.mapping = None;
        self.start_deferred(out);
        self.run(lane, out);
    }
}
