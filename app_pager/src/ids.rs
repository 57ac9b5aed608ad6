//! Small values of the protocol: tasks, pages, frames, sets of nodes, status bits.

use core::fmt;
use l4abi::{NodeId, Rights};

/// log2 of the page size; the protocol places memory in pages of this size.
pub const PAGE_LOG2: u8 = 12;

/// Most nodes the protocol serves: a [`NodeSet`] is one word.
pub use l4abi::id::MAX_NODES;
const _: () = assert!(MAX_NODES <= u64::BITS as usize);

/// A task: all threads and spaces of one application (numa-l4 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct TaskId(pub u32);

impl TaskId {
    /// The task number `sequence` whose directory is created on node `home`.
    #[must_use]
    pub const fn new(home: NodeId, sequence: u32) -> Self {
        Self(((home.0 as u32) << 24) | (sequence & 0xFF_FFFF))
    }

    /// Where the directory of the task was created: where to ask when nothing better is known.
    #[must_use]
    pub const fn home(self) -> NodeId {
        NodeId((self.0 >> 24) as u8)
    }
}

/// A virtual page number of a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PageNo(pub u64);

impl PageNo {
    /// The page that contains `addr`.
    #[must_use]
    pub const fn of(addr: u64) -> Self {
        Self(addr >> PAGE_LOG2)
    }

    /// First address of the page.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 << PAGE_LOG2
    }
}

/// Pages `first..end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageRange {
    /// First page.
    pub first: PageNo,
    /// One past the last page.
    pub end: PageNo,
}

impl PageRange {
    /// Every page that there can be.
    pub const ALL: Self = Self { first: PageNo(0), end: PageNo(u64::MAX) };

    /// The range `first..end`.
    #[must_use]
    pub const fn new(first: u64, end: u64) -> Self {
        Self { first: PageNo(first), end: PageNo(end) }
    }

    /// Whether it holds no page.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.first.0 >= self.end.0
    }

    /// Whether it ends before it begins: nobody means that.
    #[must_use]
    pub const fn is_reversed(self) -> bool {
        self.first.0 > self.end.0
    }

    /// Whether `page` lies inside.
    #[must_use]
    pub const fn contains(self, page: PageNo) -> bool {
        self.first.0 <= page.0 && page.0 < self.end.0
    }
}

/// A page frame: number `index` of the pool of `node`. All pagers see all pools at the same
/// addresses (numa-l4 4.2.1), so a frame means the same memory in every pager.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// The node whose pool it belongs to.
    pub node: NodeId,
    /// Number in that pool.
    pub index: u32,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F{}.{}", self.node.0, self.index)
    }
}

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeSet(pub u64);

impl NodeSet {
    /// No node.
    pub const EMPTY: Self = Self(0);

    /// Just `node`.
    #[must_use]
    pub const fn only(node: NodeId) -> Self {
        Self(1 << (node.0 & 63))
    }

    /// With `node` added.
    #[must_use]
    pub const fn with(self, node: NodeId) -> Self {
        Self(self.0 | Self::only(node).0)
    }

    /// With `node` removed.
    #[must_use]
    pub const fn without(self, node: NodeId) -> Self {
        Self(self.0 & !Self::only(node).0)
    }

    /// Members of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `node` is a member.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & Self::only(node).0 != 0
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..MAX_NODES as u8).map(NodeId).filter(move |&n| self.contains(n))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(iter: I) -> Self {
        iter.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|n| n.0)).finish()
    }
}

/// Referenced, written and executed bits, as Unmap reports them: in the places of the rights.
pub type Status = Rights;

/// A pager thread of a node: one per CPU. It serves one request at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct LaneId(pub u8);

/// A thread of a pager.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Who {
    /// A pager thread, which serves faults and clients.
    Lane(LaneId),
    /// The worker, which serves nothing but the other pagers (numa-l4 4.2.1).
    Worker,
}

/// A lane of some node: who holds an entry, who waits, who gets a confirmation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Caller {
    /// Node of the pager.
    pub node: NodeId,
    /// Its thread.
    pub lane: LaneId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_sets() {
        let s: NodeSet = [NodeId(3), NodeId(0), NodeId(63)].into_iter().collect();
        assert_eq!(s.len(), 3);
        assert!(s.iter().map(|n| n.0).eq([0, 3, 63]));
        assert!(!s.without(NodeId(3)).contains(NodeId(3)));
        assert_eq!(s.union(NodeSet::only(NodeId(1))).len(), 4);
        assert!(NodeSet::EMPTY.is_empty());
    }

    #[test]
    fn task_ids_name_their_home() {
        let t = TaskId::new(NodeId(5), 77);
        assert_eq!((t.home(), t.0 & 0xFF_FFFF), (NodeId(5), 77));
    }

    #[test]
    fn ranges() {
        let r = PageRange::new(2, 4);
        assert!(r.contains(PageNo(3)) && !r.contains(PageNo(4)) && !r.contains(PageNo(1)));
        assert!(PageRange::new(4, 4).is_empty());
        assert_eq!(PageNo::of(0x1FFF), PageNo(1));
    }
}
