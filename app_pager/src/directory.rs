//! The directory of a task: the master pager's data structure (numa-l4 3.2.3, 4.2.1).
//!
//! It lies in the memory of the task's master node. Operations are atomic: the caller has the
//! directory's lock. Either each pager takes the lock itself (shared memory), or the master's
//! worker does so for the pagers that send it a [`DirOp`]; the operations are the same.
//!
//! Nobody keeps the lock while other pagers are asked. What takes longer *holds* one page, or the
//! membership. Requests for a held object queue there and ask again when it is released. A holder
//! of a page never waits for another page or for the membership, and a holder of the membership
//! waits for pages only: so no cycle of waiting exists.

use crate::ids::{Caller, Frame, NodeSet, PageNo, PageRange, Status, TaskId};
use crate::members::Members;
pub use crate::op::{Census, DirConfig, DirError, DirOp, Filter, MemberChange, Outcome, Update};
use crate::page::{Entry, MAX_REPLICAS, Mode, PageState};
use crate::pagemap::PageMap;
use crate::pageset::PageSet;
use crate::region::{Policy, Region, RegionMap};
use crate::task::Cached;
use alloc::vec::Vec;
use l4abi::{NodeId, Rights};

/// The directory of a task.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Directory {
    /// The task.
    pub task: TaskId,
    /// Its regions.
    pub regions: RegionMap,
    /// Its pages.
    pub entries: PageMap<Entry>,
    /// Its threads.
    pub members: Members,
}

/// Who is to be told to ask again.
pub type Wakes = Vec<Caller>;

impl Directory {
    /// The directory of a new task without threads.
    #[must_use]
    pub fn new(task: TaskId) -> Self {
        let (regions, entries) = (RegionMap::new(), PageMap::new());
        Self { task, regions, entries, members: Members::default() }
    }

    /// Performs `op` for `by`. Lanes that queued for something now free are added to `wakes`.
    /// [`DirOp::HandOver`] and [`DirOp::Destroy`] are the business of who keeps the directory.
    pub fn apply(
        &mut self,
        config: DirConfig,
        by: Caller,
        op: &DirOp,
        wakes: &mut Wakes,
    ) -> Outcome {
        match *op {
            DirOp::Resolve { page, access, offer } => self.resolve(config, by, page, access, offer),
            DirOp::Hold { range, filter } => self.hold(config, by, range, filter),
            DirOp::HoldSome { range } => self.hold_some(config, by, range),
            DirOp::CommitSome { pages, remove } => self.commit_some(by, pages, remove, wakes),
            DirOp::Commit { page, ref update } => self.commit(by, page, update.clone(), wakes),
            DirOp::HoldMembers(ask) => self.members.hold(by, ask),
            DirOp::CommitMembers { change, release } => {
                self.members.commit(by, change, release, wakes)
            }
            DirOp::SetRegion { range, region } => self.set_region(config, range, region),
            DirOp::SetPolicy { range, policy } => self.set_policy(config, range, policy),
            DirOp::Query { page } => self.query(config, page),
            DirOp::Census { node } => Outcome::Census(self.census(node)),
            DirOp::HandOver { .. } | DirOp::Destroy => Outcome::Refused(DirError::Invalid),
        }
    }

    /// Everybody who waits for anything; the queues are empty afterwards.
    pub fn drain_waiters(&mut self, wakes: &mut Wakes) {
        for entry in self.entries.values_mut() {
            wakes.extend(entry.waiters.drain(..));
        }
        wakes.extend(self.members.waiters.drain(..));
    }

    fn resolve(
        &mut self,
        config: DirConfig,
        by: Caller,
        page: PageNo,
        access: Rights,
        offer: Option<Frame>,
    ) -> Outcome {
        if self.members.dying {
            return Outcome::Refused(DirError::NoTask);
        }
        let Some((range, region)) = self.region_of(config, page) else {
            return Outcome::Refused(DirError::NoRegion);
        };
        if !region.rights.contains(access) {
            return Outcome::Refused(DirError::NoRight);
        }
        if region.policy == Policy::NodeLocal {
            return Outcome::Local { range, rights: region.rights };
        }
        let home = region.policy.home(page, by.node, config.nodes as usize);
        let entry = self.entries.get_or_insert_with(page, Entry::default);
        if entry.holder.is_some() {
            entry.waiters.push_back(by);
            return Outcome::Queued;
        }
        if !config.hold_faults
            && let Some((Cached { frame, rights }, offered)) =
                resolve_at_once(entry, by.node, region, access, home, offer)
        {
            return Outcome::Map { frame, rights, offered };
        }
        entry.holder = Some(by);
        Outcome::Held { page, state: entry.state.clone(), home, region }
    }

    /// [`DirOp::Resolve`], if that gives [`Outcome::Map`]: the mapping, and whether the offer was taken.
    /// Else nothing changes.
    pub fn resolve_at_once(
        &mut self,
        config: DirConfig,
        by: Caller,
        page: PageNo,
        access: Rights,
        offer: Option<Frame>,
    ) -> Option<(Cached, bool)> {
        if self.members.dying || config.hold_faults {
            return None;
        }
        let (_, region) = self.region_of(config, page)?;
        if !region.rights.contains(access) || region.policy == Policy::NodeLocal {
            return None;
        }
        let home = region.policy.home(page, by.node, config.nodes as usize);
        match self.entries.get_mut(page) {
            Some(entry) if entry.holder.is_some() => None,
            Some(entry) => resolve_at_once(entry, by.node, region, access, home, offer),
            None => {
                let (mapped, state) = first_state(by.node, region, access, home, offer)?;
                self.entries.insert(page, Entry::idle(state));
                Some((mapped, true))
            }
        }
    }

    fn hold(&mut self, config: DirConfig, by: Caller, range: PageRange, filter: Filter) -> Outcome {
        if range.is_empty() {
            return Outcome::NoPage;
        }
        let selects = |entry: &Entry| match (filter, &entry.state) {
            // A page in somebody's hands may get a frame, or a mapping: one has to wait and see.
            _ if entry.holder.is_some() => true,
            (Filter::Existing, state) => state.is_some(),
            (Filter::MappedAt(node), Some(state)) => state.mapped.contains(node),
            (Filter::MappedAt(_), None) => false,
            (Filter::Exact, _) => true,
        };
        let page = match filter {
            Filter::Exact => range.first,
            _ => match self.entries.range(range).find(|(_, e)| selects(e)) {
                Some((page, _)) => page,
                None => return Outcome::NoPage,
            },
        };
        let found = self.region_of(config, page).map(|(_, region)| region);
        let Some(region) = found else { return Outcome::Refused(DirError::NoRegion) };
        if region.policy == Policy::NodeLocal {
            return Outcome::Refused(DirError::Unsupported);
        }
        let home = region.policy.home(page, by.node, config.nodes as usize);
        let entry = self.entries.get_or_insert_with(page, Entry::default);
        if entry.holder.is_some() {
            entry.waiters.push_back(by);
            return Outcome::Queued;
        }
        entry.holder = Some(by);
        let mut state = entry.state.clone();
        if let (true, Some(state)) = (config.notify_active, &mut state) {
            state.mapped = state.mapped.union(self.members.active());
        }
        Outcome::Held { page, state, home, region }
    }

    /// Who holds pages never waits for another one: the set ends where somebody else holds a page, and
    /// only a caller that holds none queues.
    fn hold_some(&mut self, config: DirConfig, by: Caller, range: PageRange) -> Outcome {
        if range.is_empty() {
            return Outcome::NoPage;
        }
        let told = config.notify_active.then(|| self.members.active());
        let mut mapped = told.unwrap_or(NodeSet::EMPTY);
        let mut held: Option<PageSet> = None;
        let (mut frames, mut status) = (Vec::new(), Status::empty());
        let mut rest = range;
        while let Some((page, entry)) = self.entries.first_in(rest) {
            rest.first = PageNo(page.0 + 1);
            if entry.holder.is_some() {
                if held.is_none() {
                    entry.waiters.push_back(by);
                    return Outcome::Queued;
                }
                break;
            }
            let Some(state) = &entry.state else { continue };
            if frames.len() + state.frames.len() > MAX_REPLICAS {
                break;
            }
            let Some(with) = held.map_or(Some(PageSet::one(page)), |held| held.with(page)) else {
                break;
            };
            held = Some(with);
            entry.holder = Some(by);
            frames.extend_from_slice(&state.frames);
            mapped = mapped.union(state.mapped);
            status = status.union(state.status);
        }
        match held {
            Some(pages) => Outcome::HeldSome { pages, frames, mapped, status },
            None => Outcome::NoPage,
        }
    }

    fn commit_some(
        &mut self,
        by: Caller,
        pages: PageSet,
        remove: bool,
        wakes: &mut Wakes,
    ) -> Outcome {
        let held = |page| self.entries.get(page).is_some_and(|entry| entry.holder == Some(by));
        if !pages.iter().all(held) {
            return Outcome::Refused(DirError::Invalid);
        }
        for page in pages.iter() {
            let Some(entry) = self.entries.get_mut(page) else { continue };
            entry.holder = None;
            wakes.extend(entry.waiters.drain(..));
            if remove {
                self.entries.remove(page);
            } else if let Some(state) = &mut entry.state {
                (state.mapped, state.status) = (NodeSet::EMPTY, Status::empty());
            }
        }
        Outcome::Done
    }

    fn commit(&mut self, by: Caller, page: PageNo, update: Update, wakes: &mut Wakes) -> Outcome {
        let Some(entry) = self.entries.get_mut(page).filter(|e| e.holder == Some(by)) else {
            return Outcome::Refused(DirError::Invalid);
        };
        entry.holder = None;
        wakes.extend(entry.waiters.drain(..));
        match update {
            Update::Keep => {}
            Update::Set(state) => entry.state = Some(state),
            Update::Remove => entry.state = None,
        }
        if entry.state.is_none() {
            self.entries.remove(page);
        }
        Outcome::Done
    }

    fn region_of(&self, config: DirConfig, page: PageNo) -> Option<(PageRange, Region)> {
        let (range, region) = self.regions.find(page)?;
        Some((range, Region { policy: effective(config, region.policy), ..region }))
    }

    /// Counts what the task has on `node`.
    #[must_use]
    pub fn census(&self, node: NodeId) -> Census {
        let threads = self.members.count(node) as u64;
        let states = self.entries.values().filter_map(|e| e.state.as_ref());
        states.fold(Census { threads, ..Census::default() }, |mut census, state| {
            let frames = u64::from(state.frame_nodes().contains(node));
            match state.mode {
                Mode::Global => census.global += frames,
                Mode::Replicated => census.replicas += frames,
            }
            census.mapped += u64::from(state.mapped.contains(node));
            census
        })
    }

    /// Gives a page a frame with content before the task starts: program text (replicated) and data.
    /// `false` if the page is not part of a global region or has a frame already.
    #[must_use]
    pub fn preload(&mut self, page: PageNo, frame: Frame) -> bool {
        let Some((_, region)) = self.regions.find(page) else { return false };
        if region.policy == Policy::NodeLocal || self.entries.get(page).is_some() {
            return false;
        }
        let state = PageState::first(first_mode(region, false), frame, NodeSet::EMPTY);
        self.entries.insert(page, Entry::idle(state));
        true
    }

    fn set_region(&mut self, config: DirConfig, range: PageRange, region: Region) -> Outcome {
        if range.is_empty() {
            return Outcome::Refused(DirError::Invalid);
        }
        if self.entries.range(range).next().is_some() || self.has_local(range) {
            return Outcome::Refused(DirError::InUse);
        }
        self.regions.set(range, Region { policy: effective(config, region.policy), ..region });
        Outcome::Done
    }

    fn set_policy(&mut self, config: DirConfig, range: PageRange, policy: Policy) -> Outcome {
        if range.is_empty() {
            return Outcome::Refused(DirError::Invalid);
        }
        let policy = effective(config, policy);
        if self.has_local(range) && policy != Policy::NodeLocal {
            return Outcome::Refused(DirError::InUse);
        }
        // Local and global pages of one address must never coexist.
        if policy == Policy::NodeLocal && self.entries.range(range).next().is_some() {
            return Outcome::Refused(DirError::InUse);
        }
        match self.regions.set_policy(range, policy) {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Refused(DirError::NoRegion),
        }
    }

    fn has_local(&self, range: PageRange) -> bool {
        let overlaps = |r: PageRange| r.first < range.end && range.first < r.end;
        self.regions.iter().any(|(r, g)| overlaps(r) && g.policy == Policy::NodeLocal)
    }

    fn query(&self, config: DirConfig, page: PageNo) -> Outcome {
        let Some((range, region)) = self.region_of(config, page) else {
            return Outcome::Refused(DirError::NoRegion);
        };
        if region.policy == Policy::NodeLocal {
            return Outcome::Local { range, rights: region.rights };
        }
        let state = self.entries.get(page).and_then(|e| e.state.as_ref());
        Outcome::Page {
            frames: state.map_or(NodeSet::EMPTY, PageState::frame_nodes),
            frame: state.map(|s| s.frames[0]),
            mapped: state.map_or(NodeSet::EMPTY, |s| s.mapped),
            replicated: state.is_some_and(|s| s.mode == Mode::Replicated),
        }
    }
}

/// What a policy means where one space serves all nodes: nothing can differ between nodes there.
const fn effective(config: DirConfig, policy: Policy) -> Policy {
    match policy {
        Policy::Replicate | Policy::NodeLocal if config.single_space => Policy::FirstTouch,
        policy => policy,
    }
}

/// The faults that need nothing but the directory: the page is there for the taking, or the offered
/// frame becomes the page.
fn resolve_at_once(
    entry: &mut Entry,
    node: NodeId,
    region: Region,
    access: Rights,
    home: NodeId,
    offer: Option<Frame>,
) -> Option<(Cached, bool)> {
    let Some(state) = &mut entry.state else {
        let (mapped, state) = first_state(node, region, access, home, offer)?;
        entry.state = Some(state);
        return Some((mapped, true));
    };
    let write = access.contains(Rights::W);
    let (frame, own) = state.frame_for(node);
    match state.mode {
        Mode::Replicated if write || !own && state.frames.len() < MAX_REPLICAS => {
            return None;
        }
        Mode::Global if state.next_touch && !own => return None,
        _ => {}
    }
    state.next_touch = false;
    state.mapped = state.mapped.with(node);
    Some((Cached { frame, rights: mapped_rights(state.mode, region) }, false))
}

/// A page without a frame takes the offered one if it belongs on that node.
fn first_state(
    node: NodeId,
    region: Region,
    access: Rights,
    home: NodeId,
    offer: Option<Frame>,
) -> Option<(Cached, PageState)> {
    let frame = offer.filter(|_| home == node)?;
    let mode = first_mode(region, access.contains(Rights::W));
    let mapped = Cached { frame, rights: mapped_rights(mode, region) };
    Some((mapped, PageState::first(mode, frame, NodeSet::only(node))))
}

/// How a page of `region` starts when it is first touched by a read or a `write`.
#[must_use]
pub fn first_mode(region: Region, write: bool) -> Mode {
    if region.policy == Policy::Replicate && !write { Mode::Replicated } else { Mode::Global }
}

/// The rights a mapping gets: all that the region allows, without writing if replicated.
#[must_use]
pub fn mapped_rights(mode: Mode, region: Region) -> Rights {
    match mode {
        Mode::Global => region.rights,
        Mode::Replicated => region.rights.difference(Rights::W),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LaneId;
    use alloc::vec;

    const CONFIG: DirConfig =
        DirConfig { nodes: 2, single_space: false, hold_faults: false, notify_active: false };

    fn with_pages(pages: impl Iterator<Item = u64>) -> Directory {
        let mut directory = Directory::new(TaskId(1));
        let region = Region { rights: Rights::RW, policy: Policy::FirstTouch };
        directory.regions.set(PageRange::new(0, 1000), region);
        for page in pages {
            let frame = Frame { node: NodeId(0), index: page as u32 };
            assert!(directory.preload(PageNo(page), frame));
        }
        directory
    }

    fn caller(lane: u8) -> Caller {
        Caller { node: NodeId(0), lane: LaneId(lane) }
    }

    #[test]
    fn pages_are_held_in_bounded_pieces_and_let_go_together() {
        // Every third page: what limits a piece is the number of frames. Then two far from each other.
        let mut directory = with_pages((0..40).map(|i| i * 3 / 2).chain([200, 300]));
        let (mut sizes, mut first, mut wakes) = (vec![], 0, vec![]);
        loop {
            let range = PageRange::new(first, 1000);
            match directory.apply(CONFIG, caller(0), &DirOp::HoldSome { range }, &mut wakes) {
                Outcome::HeldSome { pages, frames, .. } => {
                    assert_eq!(frames.len(), pages.len() as usize);
                    assert!(pages.range().end.0 - pages.first().0 <= 64);
                    sizes.push(pages.len());
                    first = pages.range().end.0;
                    let commit = DirOp::CommitSome { pages, remove: true };
                    let stranger = directory.apply(CONFIG, caller(1), &commit, &mut wakes);
                    assert_eq!(stranger, Outcome::Refused(DirError::Invalid));
                    let done = directory.apply(CONFIG, caller(0), &commit, &mut wakes);
                    assert_eq!(done, Outcome::Done);
                }
                Outcome::NoPage => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sizes, [32, 8, 1, 1]);
        assert!(directory.entries.is_empty() && wakes.is_empty());
    }

    #[test]
    fn a_holder_of_pages_does_not_wait_for_another() {
        let mut directory = with_pages(0..4);
        let mut wakes = vec![];
        let mut hold = |by, first| {
            let op = DirOp::HoldSome { range: PageRange::new(first, 9) };
            directory.apply(CONFIG, caller(by), &op, &mut wakes)
        };
        let held = |outcome| match outcome {
            Outcome::HeldSome { pages, .. } => pages,
            other => panic!("{other:?}"),
        };
        let upper = held(hold(0, 2));
        let lower = held(hold(1, 0));
        assert!(lower.iter().map(|p| p.0).eq([0, 1]) && upper.iter().map(|p| p.0).eq([2, 3]));
        assert_eq!(hold(2, 0), Outcome::Queued);
        let commit = DirOp::CommitSome { pages: lower, remove: false };
        assert_eq!(directory.apply(CONFIG, caller(1), &commit, &mut wakes), Outcome::Done);
        assert_eq!(wakes, [caller(2)]);
    }
}
