//! Work on held pages: frames, revocations, copies, commits; and ranges of pages.

use crate::config::UnmapVariant;
use crate::directory::{DirError, DirOp, Filter, Update};
use crate::event::Action;
use crate::ids::{Frame, LaneId, NodeSet, PageNo, PageRange, Status, TaskId, Who};
use crate::lane::{Held, Job, Lane, Next, PageOp, Phase, Target, Wait};
use crate::message::{ClientCall, Reply, Request};
use crate::page::PageState;
use crate::pager::{Deferred, Out, Pager};
use crate::pageset::PageSet;
use crate::plan;
use crate::region::Region;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use l4abi::NodeId;

impl Pager {
    /// The lane holds the page: decides what to do with it.
    pub(crate) fn hold_granted(
        &mut self,
        lane: LaneId,
        page: PageNo,
        state: Option<PageState>,
        home: NodeId,
        region: Region,
    ) {
        let (revoked, status) = (NodeSet::EMPTY, Status::empty());
        let held = Held { page, state, region, revoked, status };
        let (job, pages) = (self.lane(lane).job, self.lane(lane).pages);
        let phases = match (job, pages) {
            (Some(Job::Fault { access, .. }), _) => plan::fault(&self.config, &held, home, access),
            (_, Some((range, op))) => {
                let first = PageNo(page.0 + 1);
                self.lane(lane).push_front([Phase::Pages(PageRange { first, ..range }, op)]);
                plan::page_op(&self.config, &held, op)
            }
            (_, None) => [Phase::Commit(Next::Keep)].into(),
        };
        let l = self.lane(lane);
        l.held = Some(held);
        l.push_front(phases);
    }

    pub(crate) fn begin_pages(
        &mut self,
        lane: LaneId,
        range: PageRange,
        op: PageOp,
        out: &mut Out,
    ) {
        if range.is_empty() {
            return;
        }
        if op.is_parted() && self.is_long_enough(lane, range.first) {
            return;
        }
        let l = self.lane(lane);
        l.pages = Some((range, op));
        if matches!(op, PageOp::Unmap | PageOp::Discard) {
            return self.ask(lane, DirOp::HoldSome { range }, out);
        }
        l.worked += 1;
        let filter = match op {
            PageOp::AllocOn(_) => Filter::Exact,
            PageOp::Vacate(node) => Filter::MappedAt(node),
            _ => Filter::Existing,
        };
        self.ask(lane, DirOp::Hold { range, filter }, out);
    }

    /// A call that has worked on as many pages as one may ends here: the client asks again for the rest,
    /// and others are served in between.
    fn is_long_enough(&mut self, lane: LaneId, next: PageNo) -> bool {
        let most = self.config.part;
        let l = self.lane(lane);
        let calls = matches!(l.job, Some(Job::Call { call, .. }) if call != ClientCall::EndTask);
        let enough = calls && l.worked >= most;
        if enough {
            l.answer = Some(Reply::Part { count: l.count, status: l.total, next });
        }
        enough
    }

    /// The lane holds the pages: they go from all nodes, and then the next ones of the range.
    pub(crate) fn some_granted(
        &mut self,
        lane: LaneId,
        pages: PageSet,
        frames: Vec<Frame>,
        mapped: NodeSet,
        status: Status,
    ) {
        let root = self.config.unmap == UnmapVariant::Root;
        let l = self.lane(lane);
        let Some((range, op)) = l.pages else { return };
        let remove = op == PageOp::Discard;
        l.worked += u64::from(pages.len());
        l.count += u64::from(pages.len());
        l.total = l.total.union(status);
        let told = if root { frames.clone() } else { Vec::new() };
        let revoke = Phase::RevokeSome { pages, told: mapped, frames: told };
        let commit = Phase::Ask(DirOp::CommitSome { pages, remove });
        let free = if remove { Phase::Free(frames) } else { Phase::Free(Vec::new()) };
        let rest = Phase::Pages(PageRange { first: pages.range().end, ..range }, op);
        l.push_front([revoke, commit, free, rest]);
    }

    pub(crate) fn begin_revoke_some(
        &mut self,
        lane: LaneId,
        pages: PageSet,
        told: NodeSet,
        frames: Vec<Frame>,
        out: &mut Out,
    ) {
        let (me, task) = (self.config.node, self.lane(lane).task);
        if self.config.unmap == UnmapVariant::Root {
            if !told.is_empty() {
                self.gather(lane, [], 1, out);
                out.push(Action::RootUnmap { lane, frames });
            }
            return;
        }
        let own = told.contains(me);
        let request = Request::Revoke { task, pages, free: None };
        // The own unmap overlaps with those of the others.
        let others = told.without(me);
        self.gather(lane, others.iter().map(|to| (to, request.clone())), u32::from(own), out);
        if own {
            self.revoke_here(Who::Lane(lane), task, pages, out);
        }
    }

    pub(crate) fn begin_alloc(
        &mut self,
        lane: LaneId,
        node: NodeId,
        clean: bool,
        others: Vec<NodeId>,
        out: &mut Out,
    ) {
        let me = self.config.node;
        if node != me {
            let l = self.lane(lane);
            l.wait = Wait::Frame;
            // Remembered for the case that the node has none.
            l.push_front(others_first(&others, clean));
            return out.push(Action::Send { lane, to: node, request: Request::Alloc { clean } });
        }
        if let Some(spare) = self.lane(lane).spare.take() {
            self.lane(lane).new_frame = Some(spare);
            return;
        }
        match if clean { self.pool.alloc() } else { self.pool.alloc_any() } {
            Some(taken) => {
                self.lane(lane).new_frame = Some(taken.frame);
                if clean && !taken.clean {
                    self.fill(lane, taken.frame, None, out);
                }
            }
            None => {
                self.lane(lane).push_front(others_first(&others, clean));
                self.alloc_failed(lane);
            }
        }
    }

    /// Another node's worker answered a request for a frame.
    pub(crate) fn on_frame(&mut self, lane: LaneId, frame: Option<Frame>, out: &mut Out) {
        self.lane(lane).wait = Wait::Nothing;
        match frame {
            Some(frame) => {
                let l = self.lane(lane);
                l.new_frame = Some(frame);
                // The other candidates are not needed.
                if let Some(Phase::Alloc { .. }) = l.phases.front() {
                    l.phases.pop_front();
                }
            }
            None => self.alloc_failed(lane),
        }
        self.run(lane, out);
    }

    /// No frame there: tries the next node, else does without.
    fn alloc_failed(&mut self, lane: LaneId) {
        let config = self.config.clone();
        let l = self.lane(lane);
        if let Some(Phase::Alloc { .. }) = l.phases.front() {
            return;
        }
        let Some(held) = &l.held else { return };
        match l.job {
            // A replica or a move was wished for: the page is usable as it is.
            Some(Job::Fault { .. }) if held.state.is_some() => {
                l.phases = plan::in_place(&config, held).into();
            }
            _ => {
                l.error = Some(DirError::NoMemory);
                l.phases = VecDeque::from([Phase::Commit(Next::Keep)]);
            }
        }
    }

    pub(crate) fn begin_copy(&mut self, lane: LaneId, from: Frame, out: &mut Out) {
        if let Some(frame) = self.lane(lane).new_frame {
            self.fill(lane, frame, Some(from), out);
        }
    }

    pub(crate) fn begin_commit(&mut self, lane: LaneId, next: Next, out: &mut Out) {
        let me = self.config.node;
        let l = self.lane(lane);
        let Some(held) = l.held.take() else { return };
        let for_fault = matches!(l.job, Some(Job::Fault { .. }));
        let update = plan::update(&held, next, me, for_fault, l.new_frame);
        if let (Some(Job::Call { .. }), false) = (l.job, next == Next::Keep) {
            l.count += 1;
        }
        if let (Next::Unmapped | Next::Remove, Some(state)) = (next, &held.state) {
            l.total = l.total.union(state.status).union(held.status);
        }
        if !matches!(update, Update::Keep) {
            l.new_frame = None;
        }
        self.ask(lane, DirOp::Commit { page: held.page, update }, out);
    }

    pub(crate) fn begin_free(&mut self, lane: LaneId, frames: &[Frame], out: &mut Out) {
        let me = self.config.node;
        let nodes: NodeSet = frames.iter().map(|f| f.node).collect();
        let of = |node| frames.iter().copied().filter(|f| f.node == node).collect();
        let request = |node| (node, Request::Free { frames: of(node) });
        let own = nodes.contains(me);
        self.gather(lane, nodes.without(me).iter().map(request), u32::from(own), out);
        if own {
            out.push(Action::Clear { who: Who::Lane(lane), frames: of(me) });
        }
    }

    /// Frames come back clean: a fault has better things to do than to clear one, and who gives pages back
    /// in a range does so where nobody waits for a lock.
    pub(crate) fn on_cleared(&mut self, who: Who, frames: &[Frame], out: &mut Out) {
        for &frame in frames {
            let _ = self.pool.free(frame, true);
        }
        match who {
            Who::Lane(lane) => self.gathered_one(lane, out),
            Who::Worker => self.worker_cleared(out),
        }
    }

    pub(crate) fn begin_revoke(&mut self, lane: LaneId, targets: &[Target], out: &mut Out) {
        let (me, variant) = (self.config.node, self.config.unmap);
        let l = self.lane(lane);
        let (Some(held), task) = (&mut l.held, l.task) else { return };
        let page = held.page;
        held.revoked = held.revoked.union(targets.iter().map(|t| t.node).collect());
        if variant == UnmapVariant::Root {
            let frames = held.state.as_ref().map(|s| s.frames.to_vec()).unwrap_or_default();
            if !held.revoked.is_empty() {
                self.gather(lane, [], 1, out);
                out.push(Action::RootUnmap { lane, frames });
            }
            return;
        }
        let own = targets.iter().filter(|t| t.node == me).count() as u32;
        let others = targets.iter().filter(|t| t.node != me);
        let pages = PageSet::one(page);
        let requests = others.map(|t| (t.node, Request::Revoke { task, pages, free: t.free }));
        // The own unmap overlaps with those of the others.
        self.gather(lane, requests.collect::<Vec<_>>(), own, out);
        if own > 0 {
            self.revoke_here(Who::Lane(lane), task, pages, out);
        }
    }

    /// Sends requests and waits for their confirmations, and for `own` more.
    pub(crate) fn gather(
        &mut self,
        lane: LaneId,
        requests: impl IntoIterator<Item = (NodeId, Request)>,
        own: u32,
        out: &mut Out,
    ) {
        let mut unsent: VecDeque<_> = requests.into_iter().collect();
        let mut pending = own;
        let at_once = match self.config.unmap {
            UnmapVariant::OneByOne if own > 0 => 0,
            UnmapVariant::OneByOne => 1,
            UnmapVariant::Parallel | UnmapVariant::Root => unsent.len(),
        };
        // In ascending order of nodes, the same for all.
        for (to, request) in unsent.drain(..at_once.min(unsent.len())) {
            pending += 1;
            out.push(Action::Send { lane, to, request });
        }
        if pending > 0 {
            self.lane(lane).wait = Wait::Gather { pending, unsent };
        }
    }

    /// One of the confirmations that the lane waits for.
    pub(crate) fn gathered_one(&mut self, lane: LaneId, out: &mut Out) {
        let Some(l) = self.lanes.get_mut(usize::from(lane.0)) else { return };
        let Wait::Gather { pending, unsent } = &mut l.wait else { return };
        *pending -= 1;
        if let Some((to, request)) = unsent.pop_front() {
            *pending += 1;
            out.push(Action::Send { lane, to, request });
        } else if *pending == 0 {
            self.lane(lane).wait = Wait::Nothing;
            self.run(lane, out);
        }
    }

    /// Unmapped mappings of what the lane holds had been used like this.
    pub(crate) fn note_status(&mut self, lane: LaneId, status: Status) {
        let Some(l) = self.lanes.get_mut(usize::from(lane.0)) else { return };
        match &mut l.held {
            Some(held) => held.status = held.status.union(status),
            None => l.total = l.total.union(status),
        }
    }

    /// A node has unmapped what the lane holds.
    pub(crate) fn on_revoked(&mut self, lane: LaneId, status: Status, out: &mut Out) {
        self.note_status(lane, status);
        self.gathered_one(lane, out);
    }

    /// Unmaps pages of a task from this node; `who` is told when it is done.
    pub(crate) fn revoke_here(&mut self, who: Who, task: TaskId, pages: PageSet, out: &mut Out) {
        for (i, l) in self.lanes.iter_mut().enumerate() {
            let asks = matches!(l.wait, Wait::Directory(DirOp::Resolve { page, .. }) if pages.contains(page));
            // Its answer may be on its way already, and be older than this revocation.
            if asks && l.task == task && who != Who::Lane(LaneId(i as u8)) {
                l.stale = true;
            }
        }
        self.deferred.push(Deferred { who, task, pages });
        self.start_deferred(out);
    }

    /// Starts the revocations that no mapping on its way to a thread stands against. It never takes
    /// long until one is: a fault reply does not block.
    pub(crate) fn start_deferred(&mut self, out: &mut Out) {
        if self.deferred.is_empty() {
            return;
        }
        let lanes = &self.lanes;
        let maps = |l: &Lane, d: &Deferred| l.mapping.is_some_and(|page| d.pages.contains(page));
        let blocked = |d: &Deferred| lanes.iter().any(|l| l.task == d.task && maps(l, d));
        let (wait, go): (Vec<_>, Vec<_>) = self.deferred.drain(..).partition(blocked);
        self.deferred = wait;
        for Deferred { who, task, pages } in go {
            let frames = self.tasks.get_mut(&task).map(|t| t.forget_mapped(pages));
            match frames.filter(|frames| !frames.is_empty()) {
                Some(frames) => out.push(Action::Unmap { who, frames }),
                None => self.on_unmapped(who, Status::empty(), out),
            }
        }
    }

    pub(crate) fn on_unmapped(&mut self, who: Who, status: Status, out: &mut Out) {
        match who {
            Who::Lane(lane) => self.on_revoked(lane, status, out),
            Who::Worker => self.worker_unmapped(status, out),
        }
    }
}

fn others_first(others: &[NodeId], clean: bool) -> Option<Phase> {
    let (&node, rest) = others.split_first()?;
    Some(Phase::Alloc { node, clean, others: rest.to_vec() })
}
