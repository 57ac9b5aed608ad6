//! The oracle: every mapping of some sample frames, page by page, with no idea of page sizes,
//! trees of nodes, locks or steps. What it says of a sample frame is exact; other frames are
//! looked up in the real tables where they matter.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{lookup, parent_of};
use super::sim::Sim;
use crate::mapdb::env::{Env, SpaceRef};
use crate::mapdb::node;
use crate::mapdb::pte;

pub type Key = (u64, u64);

#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub frame: u64,
    pub rights: u8,
    pub parent: Option<Key>,
    pub children: BTreeSet<Key>,
    /// Status: of the page itself, of vanished descendants, read here but not above.
    pub own: u8,
    pub due: u8,
    pub seen: u8,
}

impl Entry {
    /// The processor does not tell execution from reading: what was accessed and can be executed
    /// counts as executed.
    fn own_status(&self) -> u8 {
        let executed = self.own & pte::READ != 0 && self.rights & pte::EXECUTE != 0;
        self.own | if executed { pte::EXECUTE } else { 0 }
    }
}

/// One map or grant, as the driver describes it.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub source: SpaceRef,
    pub source_va: u64,
    pub target: SpaceRef,
    pub target_va: u64,
    pub len: u64,
    pub rights: u8,
    pub grant: bool,
}

/// An offset of an item that concerns the oracle.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    offset: u64,
    /// The source has a page that the oracle does not know (of physical memory: is usable).
    other: bool,
    /// Node of the source page.
    node: u64,
}

pub struct Model {
    pub pages: BTreeMap<Key, Entry>,
    pub samples: Vec<u64>,
    pub nx: bool,
}

impl Model {
    pub fn new(samples: Vec<u64>, nx: bool) -> Self {
        Self { pages: BTreeMap::new(), samples, nx }
    }

    fn keys(&self, space: SpaceRef, va: u64, len: u64) -> Vec<Key> {
        let end = va.saturating_add(len);
        self.pages.range((space.0, va)..(space.0, end)).map(|(k, _)| *k).collect()
    }

    /// Unlinks a page; its children go to `heir`.
    fn detach(&mut self, key: Key, heir: Option<Key>) -> Entry {
        let entry = self.pages.remove(&key).expect("page in the model");
        if let Some(parent) = entry.parent {
            self.pages.get_mut(&parent).expect("parent").children.remove(&key);
        }
        for &child in &entry.children {
            self.pages.get_mut(&child).expect("child").parent = heir;
            if let Some(heir) = heir {
                self.pages.get_mut(&heir).expect("heir").children.insert(child);
            }
        }
        entry
    }

    fn attach(&mut self, key: Key, entry: Entry) {
        if let Some(parent) = entry.parent {
            self.pages.get_mut(&parent).expect("parent").children.insert(key);
        }
        assert!(self.pages.insert(key, entry).is_none());
    }

    fn owe(&mut self, key: Option<Key>, status: u8) {
        if let Some(key) = key {
            self.pages.get_mut(&key).expect("creditor").due |= status;
        }
    }

    fn below(&self, key: Key) -> Vec<Key> {
        let mut all: Vec<Key> = self.pages[&key].children.iter().copied().collect();
        let mut i = 0;
        while i < all.len() {
            all.extend(self.pages[&all[i]].children.iter().copied());
            i += 1;
        }
        all
    }

    /// Unmap of one page and what is derived from it; status as the caller gets it.
    fn revoke(&mut self, key: Key, rights: u8, own: bool) -> u8 {
        let mut status = core::mem::take(&mut self.pages.get_mut(&key).expect("page").due);
        let mut all = self.below(key);
        for child in &all {
            let entry = self.pages.get_mut(child).expect("descendant");
            status |= entry.own_status() | entry.due | entry.seen;
            (entry.own, entry.due, entry.seen) = (0, 0, 0);
        }
        if own {
            let entry = self.pages.get_mut(&key).expect("page");
            status |= entry.own_status();
            entry.own = 0;
            all.push(key);
        }
        self.pages.get_mut(&key).expect("page").seen |= status;
        for key in all {
            let left = self.pages[&key].rights & !rights;
            if left == 0 || rights == pte::ALL {
                let parent = self.pages[&key].parent;
                let entry = self.detach(key, parent);
                self.owe(parent, entry.own_status() | entry.due | entry.seen);
            } else {
                let implied = if self.nx { pte::READ } else { pte::READ | pte::EXECUTE };
                self.pages.get_mut(&key).expect("page").rights = left | implied;
            }
        }
        status
    }

    pub fn unmap(&mut self, space: SpaceRef, va: u64, len: u64, rights: u8, flush: bool) -> u8 {
        let mut status = 0;
        if space == SpaceRef::PHYSICAL {
            let roots: Vec<Key> = self
                .pages
                .iter()
                .filter(|(_, e)| e.parent.is_none() && e.frame >= va && e.frame - va < len)
                .map(|(k, _)| *k)
                .collect();
            for key in roots {
                if self.pages.contains_key(&key) {
                    let entry = &self.pages[&key];
                    status |= entry.due | entry.seen;
                    status |= self.revoke(key, rights, true);
                    if let Some(entry) = self.pages.get_mut(&key) {
                        (entry.seen, entry.due) = (0, 0);
                    }
                }
            }
            return status;
        }
        for key in self.keys(space, va, len) {
            if self.pages.contains_key(&key) {
                status |= self.revoke(key, rights, flush);
            }
        }
        status
    }

    /// Rights as the hardware can give them; `None`: nothing is mapped.
    fn given(rights: u8, sender: u8, nx: bool) -> Option<u8> {
        let exec = if nx { rights & pte::EXECUTE } else { pte::EXECUTE };
        if rights & pte::READ == 0 && rights & sender == 0 {
            return None;
        }
        Some(sender & (pte::READ | rights & pte::WRITE | exec) | pte::READ)
    }

    /// Offsets at which the item can concern a sample frame, and what the real tables hold in the
    /// source where the model knows nothing.
    pub fn prepare(&self, sim: &Sim, item: &Item) -> Vec<Spot> {
        let mut offsets = BTreeSet::new();
        for key in self.keys(item.target, item.target_va, item.len) {
            offsets.insert(key.1 - item.target_va);
        }
        if item.source == SpaceRef::PHYSICAL {
            let inside = |f: &&u64| **f >= item.source_va && **f - item.source_va < item.len;
            offsets.extend(self.samples.iter().filter(inside).map(|f| f - item.source_va));
        } else {
            for key in self.keys(item.source, item.source_va, item.len) {
                offsets.insert(key.1 - item.source_va);
            }
        }
        let other = |offset| {
            let va = item.source_va + offset;
            if item.source == SpaceRef::PHYSICAL {
                sim.frame_info(crate::types::PhysAddr::new(va)).usable
            } else {
                let foreign = !self.pages.contains_key(&(item.source.0, va));
                foreign && lookup(sim, item.source, va).is_some_and(|p| p.node != 0)
            }
        };
        let node = |offset| lookup(sim, item.source, item.source_va + offset).map_or(0, |p| p.node);
        let spot = |offset| Spot { offset, other: other(offset), node: node(offset) };
        offsets.into_iter().map(spot).collect()
    }

    /// Whether a grant's outcome can be told from the tables after it: of several pages, a later one
    /// could undo what an earlier one did.
    pub fn can_judge_grant(&self, item: &Item) -> bool {
        let sources = self.keys(item.source, item.source_va, item.len);
        let end = item.source_va + item.len;
        let derived = |key: &Key| {
            let inside = |c: &Key| c.0 == key.0 && item.source_va <= c.1 && c.1 < end;
            self.pages[key].children.iter().any(inside)
        };
        item.len == 4096
            || (self.keys(item.target, item.target_va, item.len).is_empty()
                && !sources.iter().any(derived))
    }

    /// Map or grant, after the real one; `plan` is from before it.
    pub fn map(&mut self, sim: &Sim, item: &Item, plan: &[Spot]) {
        for &Spot { offset, other, node } in plan {
            let target = (item.target.0, item.target_va + offset);
            if sim.reserved(item.target, target.1, 4096) {
                continue;
            }
            let at = item.source_va + offset;
            let source = (item.source.0, at);
            let physical = item.source == SpaceRef::PHYSICAL;
            let (frame, sender) = if physical {
                (at, pte::ALL)
            } else if let Some(entry) = self.pages.get(&source) {
                (entry.frame, entry.rights)
            } else {
                if other {
                    self.replaced_by_other(sim, item, target);
                }
                continue;
            };
            if physical && !other {
                continue;
            }
            if physical && !self.samples.contains(&frame) {
                self.replaced_by_other(sim, item, target);
                continue;
            }
            let Some(rights) = Self::given(item.rights, sender, sim.nx()) else {
                continue;
            };
            self.map_page(sim, (item, physical, node), (source, target), (frame, rights));
        }
    }

    /// A page of no sample frame took the place of `target`'s, if it could.
    fn replaced_by_other(&mut self, sim: &Sim, item: &Item, target: Key) {
        let Some(entry) = self.pages.get(&target) else {
            return;
        };
        let real = lookup(sim, item.target, target.1).map(|p| p.frame);
        if real != Some(entry.frame) {
            self.revoke(target, pte::ALL, true);
        }
    }

    fn map_page(
        &mut self,
        sim: &Sim,
        (item, physical, node): (&Item, bool, u64),
        (source, target): (Key, Key),
        (frame, rights): (u64, u8),
    ) {
        let parent = (!physical).then_some(source);
        if let Some(there) = self.pages.get(&target) {
            let missing = rights & !there.rights;
            if there.frame == frame && (missing == 0 || there.parent == parent) {
                self.pages.get_mut(&target).expect("page").rights |= rights;
                if item.grant && !physical && source != target {
                    let above = self.pages[&source].parent;
                    let old = self.detach(source, above);
                    self.owe(above, old.own_status() | old.due | old.seen);
                }
                return;
            }
            self.revoke(target, pte::ALL, true);
            if !physical && !self.pages.contains_key(&source) {
                return; // Went with the page that it was derived from... or was it.
            }
        }
        if item.grant && !physical {
            let above = self.pages[&source].parent;
            let old = self.detach(source, above);
            let mut new = Entry { frame, rights, parent: above, ..Entry::default() };
            let kept = Self::grant_moved(sim, target, node);
            self.owe(above, old.own_status());
            if kept {
                (new.due, new.seen) = (old.due, old.seen);
            } else {
                self.owe(above, old.due | old.seen);
            }
            self.attach(target, new);
            for &child in &old.children {
                let real = self.real_parent(sim, child);
                assert!(real == Some(target) || real == above, "child after a grant");
                if real == Some(target) {
                    let entry = self.detach_only(child);
                    self.attach(child, Entry { parent: real, ..entry });
                }
            }
            return;
        }
        self.attach(target, Entry { frame, rights, parent, ..Entry::default() });
    }

    /// Whether a grant moved the node (then status stays with it) or made a new one below it.
    fn grant_moved(sim: &Sim, target: Key, old_node: u64) -> bool {
        let page = lookup(sim, SpaceRef(target.0), target.1).expect("granted page");
        sim.read(page.node + node::PARENT) != old_node
    }

    fn detach_only(&mut self, key: Key) -> Entry {
        let entry = self.pages.remove(&key).expect("page");
        if let Some(parent) = entry.parent {
            self.pages.get_mut(&parent).expect("parent").children.remove(&key);
        }
        entry
    }

    fn real_parent(&self, sim: &Sim, key: Key) -> Option<Key> {
        let page = lookup(sim, SpaceRef(key.0), key.1).expect("page of the model");
        parent_of(sim, page.node, page.frame).map(|(s, va)| (s.0, va))
    }

    pub fn touch(&mut self, key: Key, write: bool) {
        if let Some(entry) = self.pages.get_mut(&key) {
            entry.own |= if write { pte::READ | pte::WRITE } else { pte::READ };
        }
    }

    pub fn delete(&mut self, space: SpaceRef) {
        for key in self.keys(space, 0, u64::MAX) {
            if self.pages.contains_key(&key) {
                self.revoke(key, pte::ALL, true);
            }
        }
    }

    /// Compares with the real tables.
    pub fn compare(&self, sim: &Sim) {
        for (&key, entry) in &self.pages {
            let page = lookup(sim, SpaceRef(key.0), key.1)
                .unwrap_or_else(|| panic!("{key:x?} is missing: {entry:x?}"));
            assert_eq!(page.frame, entry.frame, "{key:x?} maps other memory");
            assert_eq!(pte::rights(page.entry), entry.rights, "rights of {key:x?}");
            assert_eq!(self.real_parent(sim, key), entry.parent, "parent of {key:x?}");
        }
    }

    /// Takes over what the real tables say (after an operation whose exact outcome is not
    /// defined). `spaces` are the live ones.
    pub fn adopt(&mut self, sim: &Sim, spaces: &[SpaceRef], real: Vec<(Key, u64, u8)>) {
        self.pages.clear();
        for &(key, frame, rights) in &real {
            assert!(spaces.contains(&SpaceRef(key.0)));
            self.pages.insert(key, Entry { frame, rights, ..Entry::default() });
        }
        for (key, _, _) in real {
            let parent = self.real_parent(sim, key);
            self.pages.get_mut(&key).expect("page").parent = parent;
            if let Some(parent) = parent {
                self.pages.get_mut(&parent).expect("parent").children.insert(key);
            }
        }
    }
}
