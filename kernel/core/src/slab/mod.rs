//! Small objects of one size, from single pages of a pool.
//!
//! A slab belongs to a node and takes its pages from that node's pool; whoever owns the slab
//! also brings the lock. Memory is reached through [`SlabMemory`], which the kernel implements on
//! the pool window.
//!
//! ```text
//! page:   [ header, 64 bytes | slack | object | object | ... | object ]   objects end the page
//! header: tag and size, head of the free list, objects in use, next and previous page
//! ```
//!
//! Free objects of a page are linked through their first word. One page is *current*: its free
//! list is kept in the slab itself, so an allocation is one load and a free of a recent object one
//! store. The other pages are full (on no list) or partial (on the slab's list). A page without
//! objects goes back to the pool, but one is kept to avoid thrashing at the boundary.
//!
//! Invariants: a page on the list has a free and a used object; only the header of a page that is
//! not current is valid in its free list and count.

#[cfg(test)]
mod tests;

use crate::layout::PAGE_SIZE;
use crate::pool::{FreeError, OutOfMemory};
use crate::types::PhysAddr;

/// Smallest object size in bytes.
pub const MIN_OBJECT: u64 = 64;
/// Largest object size in bytes.
pub const MAX_OBJECT: u64 = 1024;

/// Bytes at the start of a page that hold no object.
const HEADER: u64 = 64;
/// In the upper half of a header's first word; the object size is in the lower half.
const TAG: u64 = 0x51AB_51AB << 32;
const FREE_AT: u64 = 8;
const IN_USE_AT: u64 = 16;
const NEXT_AT: u64 = 24;
const PREV_AT: u64 = 32;
/// No object and no page: frame 0 is never pool memory.
const NONE: PhysAddr = PhysAddr::ZERO;

/// How a slab reaches its pages and gets new ones.
pub trait SlabMemory {
    /// Loads an aligned word of a page of the slab.
    fn load(&self, at: PhysAddr) -> u64;

    /// Stores an aligned word of a page of the slab.
    fn store(&mut self, at: PhysAddr, value: u64);

    /// Takes a page from the pool.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn take_page(&mut self) -> Result<PhysAddr, OutOfMemory>;

    /// Gives a page back to the pool.
    fn give_page(&mut self, page: PhysAddr);
}

/// What a slab has done and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlabCounters {
    /// Successful allocations.
    pub allocs: u64,
    /// Successful frees.
    pub frees: u64,
    /// Pages held now.
    pub pages: u64,
}

impl SlabCounters {
    /// Objects allocated now.
    pub const fn in_use(&self) -> u64 {
        self.allocs - self.frees
    }
}

/// Objects of one size.
#[derive(Debug)]
pub struct Slab {
    /// Free objects of the current page.
    free: PhysAddr,
    current: PhysAddr,
    current_free: u32,
    per_page: u32,
    partial: PhysAddr,
    spare: PhysAddr,
    size: u64,
    counters: SlabCounters,
}

impl Slab {
    /// A slab for objects of `size` bytes, rounded up to a multiple of 64 between
    /// [`MIN_OBJECT`] and [`MAX_OBJECT`]. Holds no page yet. An object whose size is a power of
    /// two is aligned to it, any other to 64 bytes.
    pub const fn new(size: u64) -> Self {
        let size = size.next_multiple_of(MIN_OBJECT);
        let size = if size < MIN_OBJECT {
            MIN_OBJECT
        } else if size > MAX_OBJECT {
            MAX_OBJECT
        } else {
            size
        };
        Self {
            free: NONE,
            current: NONE,
            current_free: 0,
            per_page: ((PAGE_SIZE - HEADER) / size) as u32,
            partial: NONE,
            spare: NONE,
            size,
            counters: SlabCounters { allocs: 0, frees: 0, pages: 0 },
        }
    }

    /// Bytes of an object.
    pub const fn object_size(&self) -> u64 {
        self.size
    }

    /// Objects that fit into a page.
    pub const fn objects_per_page(&self) -> u32 {
        self.per_page
    }

    /// The counters.
    pub const fn counters(&self) -> SlabCounters {
        self.counters
    }

    /// Allocates an object. Its contents are undefined.
    ///
    /// # Errors
    /// [`OutOfMemory`] if a page is needed and the pool has none.
    #[inline]
    pub fn alloc(&mut self, memory: &mut impl SlabMemory) -> Result<PhysAddr, OutOfMemory> {
        if self.free == NONE {
            self.next_page(memory)?;
        }
        let object = self.free;
        self.free = PhysAddr::new(memory.load(object));
        self.current_free -= 1;
        self.counters.allocs += 1;
        Ok(object)
    }

    /// Allocates all free objects of one page at once, in a few steps however many they are: the first, which
    /// links to the next through its first word and so on (0 ends the list), and their number, at least one.
    ///
    /// # Errors
    /// As for [`Slab::alloc`].
    pub fn alloc_list(
        &mut self,
        memory: &mut impl SlabMemory,
    ) -> Result<(PhysAddr, u32), OutOfMemory> {
        if self.free == NONE {
            self.next_page(memory)?;
        }
        let list = (self.free, self.current_free);
        self.counters.allocs += u64::from(self.current_free);
        (self.free, self.current_free) = (NONE, 0);
        Ok(list)
    }

    /// Frees an object.
    ///
    /// # Errors
    /// [`FreeError::Foreign`] if the page is not of a slab of this size,
    /// [`FreeError::NotAllocated`] if the page has no object in use. Builds with debug assertions
    /// also find addresses that are not an object's start, and every double free.
    #[inline]
    pub fn free(
        &mut self,
        memory: &mut impl SlabMemory,
        object: PhysAddr,
    ) -> Result<(), FreeError> {
        if cfg!(debug_assertions) {
            self.check_object(memory, object)?;
        }
        if object.page_base() != self.current {
            return self.free_elsewhere(memory, object);
        }
        memory.store(object, self.free.as_u64());
        self.free = object;
        self.current_free += 1;
        self.counters.frees += 1;
        Ok(())
    }

    /// Gives every page without objects back to the pool.
    pub fn shrink(&mut self, memory: &mut impl SlabMemory) {
        if self.spare != NONE {
            self.give(memory, self.spare);
            self.spare = NONE;
        }
        if self.current != NONE && self.current_free == self.per_page {
            self.give(memory, self.current);
            (self.current, self.free, self.current_free) = (NONE, NONE, 0);
        }
    }

    fn give(&mut self, memory: &mut impl SlabMemory, page: PhysAddr) {
        memory.store(page, 0);
        memory.give_page(page);
        self.counters.pages -= 1;
    }

    /// Makes a page with a free object current. The page before is full.
    #[cold]
    fn next_page(&mut self, memory: &mut impl SlabMemory) -> Result<(), OutOfMemory> {
        let page = if self.partial != NONE {
            let page = self.partial;
            self.unlink(memory, page);
            page
        } else if self.spare != NONE {
            core::mem::replace(&mut self.spare, NONE)
        } else {
            let page = memory.take_page()?;
            self.counters.pages += 1;
            self.format(memory, page);
            page
        };
        if self.current != NONE {
            memory.store(self.current.offset(FREE_AT), NONE.as_u64());
            memory.store(self.current.offset(IN_USE_AT), u64::from(self.per_page));
        }
        self.current = page;
        self.free = PhysAddr::new(memory.load(page.offset(FREE_AT)));
        self.current_free = self.per_page - memory.load(page.offset(IN_USE_AT)) as u32;
        Ok(())
    }

    /// Links all objects of a new page, ascending.
    fn format(&self, memory: &mut impl SlabMemory, page: PhysAddr) {
        let first = page.offset(PAGE_SIZE - u64::from(self.per_page) * self.size);
        memory.store(page, TAG | self.size);
        memory.store(page.offset(FREE_AT), first.as_u64());
        memory.store(page.offset(IN_USE_AT), 0);
        let last = page.offset(PAGE_SIZE - self.size);
        let mut object = first;
        while object < last {
            let next = object.offset(self.size);
            memory.store(object, next.as_u64());
            object = next;
        }
        memory.store(last, NONE.as_u64());
    }

    fn free_elsewhere(
        &mut self,
        memory: &mut impl SlabMemory,
        object: PhysAddr,
    ) -> Result<(), FreeError> {
        let page = object.page_base();
        if memory.load(page) != TAG | self.size {
            return Err(FreeError::Foreign);
        }
        let in_use = memory.load(page.offset(IN_USE_AT));
        if in_use == 0 {
            return Err(FreeError::NotAllocated);
        }
        memory.store(object, memory.load(page.offset(FREE_AT)));
        memory.store(page.offset(FREE_AT), object.as_u64());
        memory.store(page.offset(IN_USE_AT), in_use - 1);
        self.counters.frees += 1;
        let was_full = in_use == u64::from(self.per_page);
        match (in_use - 1, was_full) {
            (0, _) => {
                if !was_full {
                    self.unlink(memory, page);
                }
                if self.spare == NONE {
                    self.spare = page;
                } else {
                    self.give(memory, page);
                }
            }
            (_, true) => self.link(memory, page),
            (_, false) => {}
        }
        Ok(())
    }

    fn link(&mut self, memory: &mut impl SlabMemory, page: PhysAddr) {
        memory.store(page.offset(NEXT_AT), self.partial.as_u64());
        memory.store(page.offset(PREV_AT), NONE.as_u64());
        if self.partial != NONE {
            memory.store(self.partial.offset(PREV_AT), page.as_u64());
        }
        self.partial = page;
    }

    fn unlink(&mut self, memory: &mut impl SlabMemory, page: PhysAddr) {
        let next = PhysAddr::new(memory.load(page.offset(NEXT_AT)));
        let prev = PhysAddr::new(memory.load(page.offset(PREV_AT)));
        if next != NONE {
            memory.store(next.offset(PREV_AT), prev.as_u64());
        }
        if prev != NONE {
            memory.store(prev.offset(NEXT_AT), next.as_u64());
        } else {
            self.partial = next;
        }
    }

    /// The checks of debug builds: an object's start, in use.
    fn check_object(&self, memory: &impl SlabMemory, object: PhysAddr) -> Result<(), FreeError> {
        let page = object.page_base();
        let first = PAGE_SIZE - u64::from(self.per_page) * self.size;
        if memory.load(page) != TAG | self.size {
            return Err(FreeError::Foreign);
        }
        let inside = object.page_offset().checked_sub(first);
        if inside.is_none_or(|offset| !offset.is_multiple_of(self.size)) {
            return Err(FreeError::NotAllocated);
        }
        let mut free = if page == self.current {
            self.free
        } else {
            PhysAddr::new(memory.load(page.offset(FREE_AT)))
        };
        while free != NONE {
            if free == object {
                return Err(FreeError::NotAllocated);
            }
            free = PhysAddr::new(memory.load(free));
        }
        Ok(())
    }
}
