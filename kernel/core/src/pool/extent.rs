//! The buddy allocator of one contiguous extent.
//!
//! Every page of the extent has a [`PageDesc`] in a slice that lies in the extent itself. A block
//! of `2^order` pages starts at a frame number that is a multiple of `2^order`, so blocks are
//! naturally aligned in physical memory wherever the extent starts. The descriptor of a block's
//! first page says what the block is; the descriptors of its other pages say [`Kind::Tail`].
//!
//! Invariant: the blocks tile the extent, and no two free buddies of the same order exist.

use crate::layout::PAGE_SIZE;
use crate::types::{PhysAddr, PhysRange};

/// Largest order: 2^18 pages, 1 GiB.
pub const MAX_ORDER: u8 = 18;

const NR_ORDERS: usize = MAX_ORDER as usize + 1;
const NONE: u32 = u32::MAX;

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub(super) enum Kind {
    /// Not the first page of a block. Zero, so that zeroed memory holds valid descriptors.
    #[default]
    Tail = 0,
    /// First page of a free block; linked into the free list of its order.
    Free = 1,
    /// First page of an allocated block.
    Allocated = 2,
    /// A single page in the cache in front of the buddy allocator.
    Cached = 3,
    /// Never allocated: holds the pool's own metadata.
    Reserved = 4,
}

/// Descriptor of one page of a pool, 12 bytes. All-zero bytes are a valid value.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PageDesc {
    next: u32,
    prev: u32,
    pub(super) kind: Kind,
    pub(super) order: u8,
    unused: u16,
}

const _: () = assert!(size_of::<PageDesc>() == 12 && align_of::<PageDesc>() == 4);

/// One contiguous extent of a pool.
#[derive(Debug)]
pub(super) struct Extent<'m> {
    first_frame: u64,
    descs: &'m mut [PageDesc],
    heads: [u32; NR_ORDERS],
    /// Bit k is set if the free list of order k is not empty.
    non_empty: u32,
}

impl<'m> Extent<'m> {
    /// An extent of `descs.len()` pages at `start`, the first `reserved` of which are not free.
    pub(super) fn new(start: PhysAddr, descs: &'m mut [PageDesc], reserved: usize) -> Self {
        descs.fill(PageDesc::default());
        let reserved = reserved.min(descs.len());
        descs[..reserved].fill(PageDesc { kind: Kind::Reserved, ..PageDesc::default() });
        let pages = descs.len();
        let mut extent =
            Self { first_frame: start.frame(), descs, heads: [NONE; NR_ORDERS], non_empty: 0 };
        let mut at = reserved;
        while at < pages {
            let frame = extent.first_frame + at as u64;
            let fits = (pages - at).ilog2();
            let order = frame.trailing_zeros().min(fits).min(u32::from(MAX_ORDER)) as u8;
            extent.link(at as u32, order);
            at += 1 << order;
        }
        extent
    }

    /// The addresses of the extent.
    pub(super) fn range(&self) -> PhysRange {
        PhysRange::from_len(self.first_frame * PAGE_SIZE, self.descs.len() as u64 * PAGE_SIZE)
    }

    /// Index of the page at `frame`, if it lies in the extent.
    #[inline]
    pub(super) fn index_of(&self, frame: u64) -> Option<u32> {
        let index = frame.wrapping_sub(self.first_frame);
        (index < self.descs.len() as u64).then_some(index as u32)
    }

    /// Address of a page.
    #[inline]
    pub(super) fn address(&self, index: u32) -> PhysAddr {
        PhysAddr::from_frame(self.first_frame + u64::from(index))
    }

    /// Descriptor of a page.
    #[inline]
    pub(super) fn desc(&mut self, index: u32) -> &mut PageDesc {
        &mut self.descs[index as usize]
    }

    /// Takes a block of `2^order` pages (`order <= MAX_ORDER`) and returns its first page.
    pub(super) fn take(&mut self, order: u8) -> Option<u32> {
        let candidates = self.non_empty >> order;
        if candidates == 0 {
            return None;
        }
        let mut have = order + candidates.trailing_zeros() as u8;
        let index = self.heads[have as usize];
        self.unlink(index);
        while have > order {
            have -= 1;
            self.link(index + (1 << have), have);
        }
        let desc = self.desc(index);
        desc.kind = Kind::Allocated;
        desc.order = order;
        Some(index)
    }

    /// Gives back the allocated or cached block that starts at `index`, joining it with its free
    /// buddies. The caller has checked what the block is.
    pub(super) fn give(&mut self, index: u32) {
        let mut order = self.desc(index).order;
        self.desc(index).kind = Kind::Tail;
        let mut index = index;
        while order < MAX_ORDER {
            let frame = self.first_frame + u64::from(index);
            let Some(buddy) = self.index_of(frame ^ (1 << order)) else { break };
            let desc = *self.desc(buddy);
            if desc.kind != Kind::Free || desc.order != order {
                break;
            }
            self.unlink(buddy);
            self.desc(buddy).kind = Kind::Tail;
            index = index.min(buddy);
            order += 1;
        }
        self.link(index, order);
    }

    fn link(&mut self, index: u32, order: u8) {
        let head = self.heads[order as usize];
        *self.desc(index) = PageDesc { next: head, prev: NONE, kind: Kind::Free, order, unused: 0 };
        if head != NONE {
            self.desc(head).prev = index;
        }
        self.heads[order as usize] = index;
        self.non_empty |= 1 << order;
    }

    fn unlink(&mut self, index: u32) {
        let desc = *self.desc(index);
        if desc.next != NONE {
            self.desc(desc.next).prev = desc.prev;
        }
        if desc.prev != NONE {
            self.desc(desc.prev).next = desc.next;
        } else {
            self.heads[desc.order as usize] = desc.next;
            if desc.next == NONE {
                self.non_empty &= !(1 << desc.order);
            }
        }
    }

    /// Checks the invariants and returns the number of free and of cached pages.
    #[cfg(test)]
    pub(super) fn check(&self) -> (u64, u64) {
        let (mut at, mut free, mut cached) = (0usize, 0u64, 0u64);
        while at < self.descs.len() {
            let desc = self.descs[at];
            let len = match desc.kind {
                Kind::Reserved => 1,
                Kind::Tail => panic!("page {at} belongs to no block"),
                _ => 1usize << desc.order,
            };
            let frame = self.first_frame + at as u64;
            assert!(frame.is_multiple_of(len as u64) && at + len <= self.descs.len());
            assert!(self.descs[at + 1..at + len].iter().all(|d| d.kind == Kind::Tail));
            if desc.kind == Kind::Free {
                free += len as u64;
                let buddy = self.index_of(frame ^ len as u64).map(|b| self.descs[b as usize]);
                let joinable = buddy.is_some_and(|b| b.kind == Kind::Free && b.order == desc.order);
                assert!(!joinable || desc.order == MAX_ORDER, "free buddies at {at}");
            }
            cached += u64::from(desc.kind == Kind::Cached);
            at += len;
        }
        let mut linked = 0;
        for order in 0..NR_ORDERS {
            let (mut index, mut prev) = (self.heads[order], NONE);
            assert_eq!(self.non_empty >> order & 1 == 1, index != NONE);
            while index != NONE {
                let desc = self.descs[index as usize];
                assert_eq!((desc.kind, desc.order as usize, desc.prev), (Kind::Free, order, prev));
                linked += 1u64 << order;
                (prev, index) = (index, desc.next);
            }
        }
        assert_eq!(linked, free);
        (free, cached)
    }
}
