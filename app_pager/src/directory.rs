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

use crate::ids::{Caller, Frame, NodeSet, PageNo, PageRange, TaskId};
use crate::members::{HoldMembers, MemberView, Members};
use crate::page::{Entry, Mode, PageState};
use crate::region::{Policy, Region, RegionMap};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use l4abi::{NodeId, Rights, ThreadId};

/// What the whole system does alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DirConfig {
    /// Number of nodes.
    pub nodes: u8,
    /// One kernel space for the whole task (A11): a page cannot differ between nodes.
    pub single_space: bool,
    /// Faults hold the page until the thread has its mapping. The unmap through the root pager
    /// needs it: the root cannot see mappings that are on their way.
    pub hold_faults: bool,
    /// Page operations tell all pagers where the task is active, as the thesis does, and not only
    /// those that may have mapped the page (A12 measures the former).
    pub notify_active: bool,
}

/// Why something is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirError {
    /// The task does not exist or is ending.
    NoTask,
    /// The address belongs to no region.
    NoRegion,
    /// The region does not allow this access.
    NoRight,
    /// A page of the range exists and the request needs it not to.
    InUse,
    /// No such thread in the task.
    NoThread,
    /// The configuration cannot do that.
    Unsupported,
    /// The node, and others that might help out, have no free frame.
    NoMemory,
    /// The caller is neither a member of the task nor a balancer.
    NotAllowed,
    /// An argument makes no sense.
    Invalid,
}

/// Which pages a holder of pages is interested in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Filter {
    /// Pages that have a frame.
    Existing,
    /// Pages that may be mapped on this node.
    MappedAt(NodeId),
    /// The first page of the range, also if it has no frame.
    Exact,
}

/// What becomes of a held page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Update {
    /// It stays as it was.
    Keep,
    /// It is like this from now on.
    Set(PageState),
    /// It has no frame any more.
    Remove,
}

/// A change of the held membership.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemberChange {
    /// None.
    Keep,
    /// The thread is on this node now: it was created or moved there.
    Put(ThreadId, NodeId),
    /// The thread is gone.
    Remove(ThreadId),
}

/// An operation on a directory, in the name of a lane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DirOp {
    /// A thread on the caller's node faulted. The caller offers a zeroed frame of its node.
    Resolve {
        /// The page.
        page: PageNo,
        /// What was tried.
        access: Rights,
        /// The frame to use if the page has none and belongs on the caller's node.
        offer: Option<Frame>,
    },
    /// Hold the first page of `range` that `filter` selects.
    Hold {
        /// Where to look.
        range: PageRange,
        /// For what.
        filter: Filter,
    },
    /// Change the page the caller holds and let it go.
    Commit {
        /// The page.
        page: PageNo,
        /// The change.
        update: Update,
    },
    /// Hold the membership of the task.
    HoldMembers(HoldMembers),
    /// Change the membership the caller holds and let it go if `release`.
    CommitMembers {
        /// The change.
        change: MemberChange,
        /// Whether the hold ends.
        release: bool,
    },
    /// Make a range a region.
    SetRegion {
        /// The pages.
        range: PageRange,
        /// What they become.
        region: Region,
    },
    /// Change the policy of a range.
    SetPolicy {
        /// The pages.
        range: PageRange,
        /// The policy.
        policy: Policy,
    },
    /// What is known about a page.
    Query {
        /// The page.
        page: PageNo,
    },
    /// Give the directory to another node. Only the holder of the membership asks this.
    HandOver {
        /// The new master.
        to: NodeId,
    },
    /// Remove the directory. Only the holder of a dying task's membership asks this.
    Destroy,
}

/// The answer to a [`DirOp`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Map this frame. `offered`: it is the one the caller offered.
    Map {
        /// The frame.
        frame: Frame,
        /// With these rights.
        rights: Rights,
        /// Whether the offer was taken.
        offered: bool,
    },
    /// The caller holds the page now.
    Held {
        /// Which page.
        page: PageNo,
        /// Its state, if it has a frame.
        state: Option<PageState>,
        /// Where a new frame belongs.
        home: NodeId,
        /// The region it lies in.
        region: Region,
    },
    /// The pages are node-local: serve them without asking.
    Local {
        /// The whole local region.
        range: PageRange,
        /// Rights of the region.
        rights: Rights,
    },
    /// No page (left) that the filter selects.
    NoPage,
    /// The caller holds the membership; this is what it looks like.
    Members(MemberView),
    /// Done.
    Done,
    /// What is known about a page.
    Page {
        /// Its frames: nodes that have one.
        frames: NodeSet,
        /// Its first frame.
        frame: Option<Frame>,
        /// Nodes that may have it mapped.
        mapped: NodeSet,
        /// Whether it is replicated.
        replicated: bool,
    },
    /// Somebody holds the object: the caller is in the queue and will be told to ask again.
    Queued,
    /// Refused.
    Refused(DirError),
}

/// The directory of a task.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Directory {
    /// The task.
    pub task: TaskId,
    /// Its regions.
    pub regions: RegionMap,
    /// Its pages.
    pub entries: BTreeMap<PageNo, Entry>,
    /// Its threads.
    pub members: Members,
}

/// Who is to be told to ask again.
pub type Wakes = Vec<Caller>;

impl Directory {
    /// The directory of a new task without threads.
    #[must_use]
    pub fn new(task: TaskId) -> Self {
        let (regions, entries) = (RegionMap::new(), BTreeMap::new());
        Self { task, regions, entries, members: Members::default() }
    }

    /// Performs `op` for `by`. Lanes that queued for something now free are added to `wakes`.
    /// [`DirOp::HandOver`] and [`DirOp::Destroy`] are the business of who keeps the directory.
    pub fn apply(
        &mut self,
        config: DirConfig,
        by: Caller,
        op: DirOp,
        wakes: &mut Wakes,
    ) -> Outcome {
        match op {
            DirOp::Resolve { page, access, offer } => self.resolve(config, by, page, access, offer),
            DirOp::Hold { range, filter } => self.hold(config, by, range, filter),
            DirOp::Commit { page, update } => self.commit(by, page, update, wakes),
            DirOp::HoldMembers(ask) => self.members.hold(by, ask),
            DirOp::CommitMembers { change, release } => {
                self.members.commit(by, change, release, wakes)
            }
            DirOp::SetRegion { range, region } => self.set_region(config, range, region),
            DirOp::SetPolicy { range, policy } => self.set_policy(config, range, policy),
            DirOp::Query { page } => self.query(config, page),
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
        let entry = self.entries.entry(page).or_default();
        if entry.holder.is_some() {
            entry.waiters.push_back(by);
            return Outcome::Queued;
        }
        if !config.hold_faults
            && let Some(outcome) = resolve_at_once(entry, by.node, region, access, home, offer)
        {
            return outcome;
        }
        entry.holder = Some(by);
        Outcome::Held { page, state: entry.state.clone(), home, region }
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
            _ => match self.entries.range(range.first..range.end).find(|(_, e)| selects(e)) {
                Some((&page, _)) => page,
                None => return Outcome::NoPage,
            },
        };
        let found = self.region_of(config, page).map(|(_, region)| region);
        let Some(region) = found else { return Outcome::Refused(DirError::NoRegion) };
        if region.policy == Policy::NodeLocal {
            return Outcome::Refused(DirError::Unsupported);
        }
        let home = region.policy.home(page, by.node, config.nodes as usize);
        let entry = self.entries.entry(page).or_default();
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

    fn commit(&mut self, by: Caller, page: PageNo, update: Update, wakes: &mut Wakes) -> Outcome {
        let Some(entry) = self.entries.get_mut(&page).filter(|e| e.holder == Some(by)) else {
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
            self.entries.remove(&page);
        }
        Outcome::Done
    }

    fn region_of(&self, config: DirConfig, page: PageNo) -> Option<(PageRange, Region)> {
        let (range, region) = self.regions.find(page)?;
        Some((range, Region { policy: effective(config, region.policy), ..region }))
    }

    fn set_region(&mut self, config: DirConfig, range: PageRange, region: Region) -> Outcome {
        if range.is_empty() {
            return Outcome::Refused(DirError::Invalid);
        }
        if self.entries.range(range.first..range.end).next().is_some() || self.has_local(range) {
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
        if policy == Policy::NodeLocal
            && self.entries.range(range.first..range.end).next().is_some()
        {
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
        let state = self.entries.get(&page).and_then(|e| e.state.as_ref());
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
) -> Option<Outcome> {
    let write = access.contains(Rights::W);
    let Some(state) = &mut entry.state else {
        let frame = offer.filter(|_| home == node)?;
        let mode = first_mode(region, write);
        entry.state = Some(PageState::first(mode, frame, NodeSet::only(node)));
        return Some(Outcome::Map { frame, rights: mapped_rights(mode, region), offered: true });
    };
    let (frame, own) = state.frame_for(node);
    match state.mode {
        Mode::Replicated if write || !own && state.frames.len() < crate::page::MAX_REPLICAS => {
            return None;
        }
        Mode::Global if state.next_touch && !own => return None,
        _ => {}
    }
    state.next_touch = false;
    state.mapped = state.mapped.with(node);
    Some(Outcome::Map { frame, rights: mapped_rights(state.mode, region), offered: false })
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
