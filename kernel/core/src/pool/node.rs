//! The pool of one node: a short list of extents and a cache of single pages in front of them.

use super::extent::{Extent, Kind, MAX_ORDER, PageDesc};
use super::plan::MAX_EXTENTS;
use super::{FreeError, OutOfMemory};
use crate::fixed::FixedVec;
use crate::layout::PAGE_SIZE;
use crate::types::{PhysAddr, PhysRange};

/// Single pages kept in front of the buddy allocators, most recently freed on top.
const CACHE_PAGES: usize = 64;
/// Pages moved at once between the cache and the buddy allocators.
const CACHE_BATCH: usize = 16;

/// A cached page: extent number in the two top bits, page index below.
#[derive(Clone, Copy, Debug)]
struct Slot(u32);

const _: () = assert!(MAX_EXTENTS <= 4);

impl Slot {
    fn new(extent: usize, page: u32) -> Self {
        Self((extent as u32) << 30 | page)
    }

    fn extent(self) -> usize {
        (self.0 >> 30) as usize
    }

    fn page(self) -> u32 {
        self.0 & 0x3FFF_FFFF
    }
}

/// What a pool has done and has left. All numbers of pages are of 4 KiB pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolCounters {
    /// Pages that can be allocated at all (without the pool's own metadata).
    pub total_pages: u64,
    /// Pages that are free now.
    pub free_pages: u64,
    /// Most pages that were ever allocated at the same time.
    pub peak_pages: u64,
    /// Successful allocations, of any size.
    pub allocs: u64,
    /// Successful frees.
    pub frees: u64,
    /// Allocations that failed.
    pub failures: u64,
}

impl PoolCounters {
    /// Pages allocated now.
    pub const fn used_pages(&self) -> u64 {
        self.total_pages - self.free_pages
    }
}

/// Why memory cannot be added to a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentError {
    /// The pool has all the extents it can have.
    TooMany,
    /// The range is empty, not page-aligned, not as long as the slice of descriptors, or too long.
    BadRange,
}

/// The pool of one node. Not synchronised: see [`super::SharedPool`].
#[derive(Debug)]
pub struct NodePool<'m> {
    cache: FixedVec<Slot, CACHE_PAGES>,
    counters: PoolCounters,
    nr_extents: usize,
    extents: [Option<Extent<'m>>; MAX_EXTENTS],
}

impl Default for NodePool<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'m> NodePool<'m> {
    /// A pool without memory.
    pub const fn new() -> Self {
        Self {
            cache: FixedVec::new(Slot(0)),
            counters: PoolCounters {
                total_pages: 0,
                free_pages: 0,
                peak_pages: 0,
                allocs: 0,
                frees: 0,
                failures: 0,
            },
            nr_extents: 0,
            extents: [const { None }; MAX_EXTENTS],
        }
    }

    /// Adds an extent. `descs` has one descriptor per page of `range`; the first
    /// `reserved_pages` pages, which hold the metadata, are never given out.
    ///
    /// # Errors
    /// See [`ExtentError`]; the pool is then unchanged.
    pub fn add_extent(
        &mut self,
        range: PhysRange,
        descs: &'m mut [PageDesc],
        reserved_pages: u64,
    ) -> Result<(), ExtentError> {
        let pages = range.len() / PAGE_SIZE;
        let aligned = range.start.is_aligned(PAGE_SIZE) && range.end.is_aligned(PAGE_SIZE);
        if !aligned || pages == 0 || pages != descs.len() as u64 || pages > 1 << 30 {
            return Err(ExtentError::BadRange);
        }
        let slot = self.extents.get_mut(self.nr_extents).ok_or(ExtentError::TooMany)?;
        let reserved = reserved_pages.min(pages);
        *slot = Some(Extent::new(range.start, descs, reserved as usize));
        self.nr_extents += 1;
        self.counters.total_pages += pages - reserved;
        self.counters.free_pages += pages - reserved;
        Ok(())
    }

    /// The pool's memory, metadata included.
    pub fn extents(&self) -> impl Iterator<Item = PhysRange> {
        self.extents.iter().flatten().map(Extent::range)
    }

    /// The counters.
    pub const fn counters(&self) -> PoolCounters {
        self.counters
    }

    /// Allocates one 4 KiB page. Its contents are whatever they were.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the pool is empty.
    #[inline]
    pub fn alloc_page(&mut self) -> Result<PhysAddr, OutOfMemory> {
        let slot = match self.cache.pop() {
            Some(slot) => slot,
            None => self.refill()?,
        };
        let Some(extent) = &mut self.extents[slot.extent()] else { return Err(OutOfMemory) };
        extent.desc(slot.page()).kind = Kind::Allocated;
        let address = extent.address(slot.page());
        self.count_alloc(1);
        Ok(address)
    }

    /// Allocates `2^order` contiguous pages, aligned to their size.
    ///
    /// # Errors
    /// [`OutOfMemory`] if no extent has a free block of that size (or `order > MAX_ORDER`).
    pub fn alloc(&mut self, order: u8) -> Result<PhysAddr, OutOfMemory> {
        if order == 0 {
            return self.alloc_page();
        }
        let found = self.take_block(order).or_else(|| {
            // The cached pages may be what keeps a block from being whole.
            self.drain(CACHE_PAGES);
            self.take_block(order)
        });
        match found {
            Some(address) => {
                self.count_alloc(1 << order);
                Ok(address)
            }
            None => {
                self.counters.failures += 1;
                Err(OutOfMemory)
            }
        }
    }

    /// Frees the block that starts at `address`; returns the order it was allocated with.
    ///
    /// # Errors
    /// See [`FreeError`]; the pool is then unchanged.
    #[inline]
    pub fn free(&mut self, address: PhysAddr) -> Result<u8, FreeError> {
        let (number, page) = self.locate(address).ok_or(FreeError::Foreign)?;
        let Some(extent) = &mut self.extents[number] else { return Err(FreeError::Foreign) };
        let desc = extent.desc(page);
        if desc.kind != Kind::Allocated || address.page_offset() != 0 {
            return Err(FreeError::NotAllocated);
        }
        let order = desc.order;
        if order == 0 {
            desc.kind = Kind::Cached;
            if self.cache.is_full() {
                self.drain(CACHE_BATCH);
            }
            // Cannot be full any more.
            let _ = self.cache.push(Slot::new(number, page));
        } else {
            extent.give(page);
        }
        self.counters.frees += 1;
        self.counters.free_pages += 1 << order;
        Ok(order)
    }

    #[inline]
    fn locate(&self, address: PhysAddr) -> Option<(usize, u32)> {
        let frame = address.frame();
        let mut extents = self.extents[..self.nr_extents].iter().enumerate();
        extents.find_map(|(i, e)| Some((i, e.as_ref()?.index_of(frame)?)))
    }

    #[inline]
    fn count_alloc(&mut self, pages: u64) {
        let c = &mut self.counters;
        c.allocs += 1;
        c.free_pages -= pages;
        c.peak_pages = c.peak_pages.max(c.total_pages - c.free_pages);
    }

    fn take_block(&mut self, order: u8) -> Option<PhysAddr> {
        if order > MAX_ORDER {
            return None;
        }
        let mut extents = self.extents.iter_mut().flatten();
        extents.find_map(|e| e.take(order).map(|page| e.address(page)))
    }

    /// Fills the empty cache by one batch and takes one page of it.
    #[cold]
    fn refill(&mut self) -> Result<Slot, OutOfMemory> {
        'batch: for (number, extent) in self.extents.iter_mut().enumerate() {
            let Some(extent) = extent else { break };
            while let Some(page) = extent.take(0) {
                extent.desc(page).kind = Kind::Cached;
                let _ = self.cache.push(Slot::new(number, page));
                if self.cache.len() == CACHE_BATCH {
                    break 'batch;
                }
            }
        }
        // Lowest addresses first.
        self.cache.reverse();
        self.cache.pop().ok_or_else(|| {
            self.counters.failures += 1;
            OutOfMemory
        })
    }

    /// Gives the `count` longest cached pages back to the buddy allocators.
    #[cold]
    fn drain(&mut self, count: usize) {
        let count = count.min(self.cache.len());
        for i in 0..count {
            let slot = self.cache[i];
            if let Some(extent) = &mut self.extents[slot.extent()] {
                extent.give(slot.page());
            }
        }
        self.cache.remove(0, count);
    }

    /// Checks every invariant of the pool.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let (mut free, mut cached) = (0, 0);
        for extent in self.extents.iter().flatten() {
            let (f, c) = extent.check();
            free += f;
            cached += c;
        }
        assert_eq!(cached, self.cache.len() as u64);
        assert_eq!(free + cached, self.counters.free_pages);
        assert!(self.counters.peak_pages >= self.counters.used_pages());
    }
}
