//! The regions of a task: which addresses exist, with which rights and placement.
//!
//! The map of a task is part of its directory, so one copy is the truth. Pagers remember only
//! which regions are node-local (a region never stops being local), so that faults there ask nobody.

use crate::ids::{PageNo, PageRange};
use alloc::collections::BTreeMap;
use l4abi::{NodeId, Rights};

/// Where a page of a region goes when it is touched for the first time, and what it does later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Policy {
    /// On the node of the first touch: what numa-l4 4.2.6 has.
    FirstTouch,
    /// Page number modulo the number of nodes.
    Interleave,
    /// On this node.
    OnNode(NodeId),
    /// A copy on each node that reads, until somebody writes (numa-l4 4.2.5).
    Replicate,
    /// Existing pages move to the node that touches them next, new ones to the first touch.
    NextTouch,
    /// A page per node, never shared (numa-l4 4.2.1, `make_local`).
    NodeLocal,
}

impl Policy {
    /// The node that gets `page`, touched on `toucher`, in a system of `nodes` nodes.
    #[must_use]
    pub fn home(self, page: PageNo, toucher: NodeId, nodes: usize) -> NodeId {
        match self {
            Self::Interleave => NodeId((page.0 % nodes.max(1) as u64) as u8),
            Self::OnNode(node) => node,
            Self::FirstTouch | Self::Replicate | Self::NextTouch | Self::NodeLocal => toucher,
        }
    }
}

/// Rights and policy of a run of pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// What threads may do there.
    pub rights: Rights,
    /// Placement.
    pub policy: Policy,
}

/// The regions of a task: disjoint, each at least one page, equal neighbours joined.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct RegionMap {
    /// First page to (one past the last page, region).
    runs: BTreeMap<PageNo, (PageNo, Region)>,
}

/// Part of the range has no region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmapped;

impl RegionMap {
    /// No region at all.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new() }
    }

    /// The run that contains `page`.
    #[must_use]
    pub fn find(&self, page: PageNo) -> Option<(PageRange, Region)> {
        let (&first, &(end, region)) = self.runs.range(..=page).next_back()?;
        (page < end).then_some((PageRange { first, end }, region))
    }

    /// Makes `range` a region, whatever was there before.
    pub fn set(&mut self, range: PageRange, region: Region) {
        if range.is_empty() {
            return;
        }
        self.split_at(range.first);
        self.split_at(range.end);
        self.runs.retain(|&first, _| !range.contains(first));
        let (mut first, mut end) = (range.first, range.end);
        if let Some((&before, &(e, r))) = self.runs.range(..first).next_back()
            && e == first
            && r == region
        {
            self.runs.remove(&before);
            first = before;
        }
        if let Some(&(e, r)) = self.runs.get(&end)
            && r == region
        {
            self.runs.remove(&end);
            end = e;
        }
        self.runs.insert(first, (end, region));
    }

    /// Changes the policy of `range` and keeps its rights.
    ///
    /// # Errors
    /// [`Unmapped`] if part of the range is no region; nothing changes.
    pub fn set_policy(&mut self, range: PageRange, policy: Policy) -> Result<(), Unmapped> {
        let mut at = range.first;
        let mut parts = alloc::vec::Vec::new();
        while at < range.end {
            let (run, region) = self.find(at).ok_or(Unmapped)?;
            let end = run.end.min(range.end);
            parts.push((PageRange { first: at, end }, Region { policy, ..region }));
            at = end;
        }
        for (part, region) in parts {
            self.set(part, region);
        }
        Ok(())
    }

    /// Cuts a run in two at `page`.
    fn split_at(&mut self, page: PageNo) {
        if let Some((&first, &(end, region))) = self.runs.range(..page).next_back()
            && page < end
        {
            self.runs.insert(first, (page, region));
            self.runs.insert(page, (end, region));
        }
    }

    /// All runs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (PageRange, Region)> {
        self.runs.iter().map(|(&first, &(end, region))| (PageRange { first, end }, region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const RW: Region = Region { rights: Rights::RW, policy: Policy::FirstTouch };
    const RX: Region = Region { rights: Rights::RX, policy: Policy::Replicate };

    #[test]
    fn splits_and_joins() {
        let mut map = RegionMap::new();
        map.set(PageRange::new(0, 10), RW);
        map.set(PageRange::new(3, 5), RX);
        assert_eq!(map.iter().count(), 3);
        assert_eq!(map.find(PageNo(4)), Some((PageRange::new(3, 5), RX)));
        assert_eq!(map.find(PageNo(5)), Some((PageRange::new(5, 10), RW)));
        map.set(PageRange::new(3, 5), RW);
        assert!(map.iter().eq([(PageRange::new(0, 10), RW)]));
        assert_eq!(map.find(PageNo(10)), None);
    }

    #[test]
    fn a_policy_keeps_rights_and_needs_the_whole_range() {
        let mut map = RegionMap::new();
        map.set(PageRange::new(0, 4), RW);
        map.set(PageRange::new(4, 8), RX);
        assert_eq!(map.set_policy(PageRange::new(2, 9), Policy::Interleave), Err(Unmapped));
        assert_eq!(map.iter().count(), 2);
        map.set_policy(PageRange::new(2, 6), Policy::Interleave).unwrap();
        let at = |p| map.find(PageNo(p)).unwrap().1;
        assert_eq!(at(3), Region { rights: Rights::RW, policy: Policy::Interleave });
        assert_eq!(at(5), Region { rights: Rights::RX, policy: Policy::Interleave });
        assert_eq!((at(1), at(7)), (RW, RX));
    }

    #[test]
    fn homes() {
        let (p, n) = (PageNo(7), NodeId(1));
        assert_eq!(Policy::Interleave.home(p, n, 4), NodeId(3));
        assert_eq!(Policy::OnNode(NodeId(2)).home(p, n, 4), NodeId(2));
        assert_eq!(Policy::FirstTouch.home(p, n, 4), n);
    }

    #[test]
    fn random_changes_against_an_array() {
        const PAGES: u64 = 40;
        let mut rng = Rng::new(7);
        let mut map = RegionMap::new();
        let mut oracle = [None::<Region>; PAGES as usize];
        let policies = [Policy::FirstTouch, Policy::Interleave, Policy::NodeLocal];
        for _ in 0..5000 {
            let first = rng.below(PAGES);
            let end = first + rng.below(PAGES - first + 1);
            let range = PageRange::new(first, end);
            let policy = policies[rng.below(3) as usize];
            let slice = &mut oracle[first as usize..end as usize];
            if rng.below(3) == 0 {
                let whole = slice.iter().all(Option::is_some);
                assert_eq!(map.set_policy(range, policy).is_ok(), whole);
                if whole {
                    slice.iter_mut().flatten().for_each(|r| r.policy = policy);
                }
            } else {
                let region = Region { policy, ..if rng.below(2) == 0 { RW } else { RX } };
                map.set(range, region);
                slice.fill(Some(region));
            }
            for (p, want) in oracle.iter().enumerate() {
                assert_eq!(map.find(PageNo(p as u64)).map(|f| f.1), *want);
            }
            let runs: alloc::vec::Vec<_> = map.iter().collect();
            assert!(runs.iter().all(|(r, _)| !r.is_empty()));
            assert!(runs.windows(2).all(|w| w[0].0.end < w[1].0.first || w[0].1 != w[1].1));
        }
    }
}
