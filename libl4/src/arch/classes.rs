//! A heap with lists of free blocks by size in front: what programs free they soon want again.
//!
//! `linked_list_allocator` looks through its holes in the order of their addresses, for each object that
//! comes or goes: after a while that is what a pager's page fault costs most. Here small blocks have sizes
//! of powers of two, and a freed one goes on a list of its size, from where the next object takes it: a
//! few instructions. Blocks do not go back to the heap behind; a program's needs repeat.

use core::alloc::Layout;
use core::ptr::NonNull;
use linked_list_allocator::Heap;

/// Smallest and largest size that has a list, log2.
const LEAST: u32 = 4;
const MOST: u32 = 10;
/// Alignment of every block.
const ALIGN: usize = 16;

/// A free block: the next of its size.
struct Free {
    next: Option<NonNull<Free>>,
}

/// The heap.
pub struct Classes {
    heap: Heap,
    lists: [Option<NonNull<Free>>; (MOST - LEAST + 1) as usize],
    /// Bytes on the lists.
    listed: usize,
}

// SAFETY: the lists link memory that the heap owns alone; who has the heap has the lists.
unsafe impl Send for Classes {}

/// The layout of the block for an object, and the number of its list. `None` for what has no list.
fn class_of(layout: Layout) -> Option<(Layout, usize)> {
    if layout.align() > ALIGN || layout.size() > 1 << MOST {
        return None;
    }
    let log2 = layout.size().max(1 << LEAST).next_power_of_two().ilog2();
    Some((Layout::from_size_align(1 << log2, ALIGN).ok()?, (log2 - LEAST) as usize))
}

impl Classes {
    /// A heap without memory.
    pub const fn empty() -> Self {
        let lists = [None; (MOST - LEAST + 1) as usize];
        Self { heap: Heap::empty(), lists, listed: 0 }
    }

    /// The heap behind the lists: to give it memory, and to ask where it is.
    pub const fn heap(&mut self) -> &mut Heap {
        &mut self.heap
    }

    /// Bytes free.
    pub fn free(&self) -> usize {
        self.heap.free() + self.listed
    }

    /// Memory for an object.
    pub fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let Some((block, class)) = class_of(layout) else {
            return self.heap.allocate_first_fit(layout).ok();
        };
        let Some(first) = self.lists[class] else {
            return self.heap.allocate_first_fit(block).ok();
        };
        // SAFETY: a block on a list is free and holds a `Free`, written when it came there.
        self.lists[class] = unsafe { first.as_ref() }.next;
        self.listed -= block.size();
        Some(first.cast())
    }

    /// Takes an object's memory back.
    ///
    /// # Safety
    /// It came from [`Self::allocate`] of this heap with this layout and is used no more.
    pub unsafe fn deallocate(&mut self, object: NonNull<u8>, layout: Layout) {
        let Some((block, class)) = class_of(layout) else {
            // SAFETY: the caller's promise; such objects come from the heap as they are.
            return unsafe { self.heap.deallocate(object, layout) };
        };
        let free = object.cast::<Free>();
        // SAFETY: a block is at least 16 bytes, aligned to 16, and free from now on.
        unsafe { free.write(Free { next: self.lists[class] }) };
        self.lists[class] = Some(free);
        self.listed += block.size();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_never_overlap_and_all_memory_is_found_again() {
        let mut memory = vec![0u128; 4096];
        let mut classes = Classes::empty();
        // SAFETY: the vector outlives the heap and is used by nobody else.
        unsafe { classes.heap().init(memory.as_mut_ptr().cast(), 65536) };
        let whole = classes.free();
        let mut objects: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
        let mut seed = 7u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let check = |(at, layout, mark): &(NonNull<u8>, Layout, u8)| {
            // SAFETY: the object is live.
            let bytes = unsafe { core::slice::from_raw_parts(at.as_ptr(), layout.size()) };
            assert!(bytes.iter().all(|byte| byte == mark));
        };
        for step in 0..20_000u64 {
            if random(2) == 0 && !objects.is_empty() {
                let object = objects.swap_remove(random(objects.len() as u64) as usize);
                check(&object);
                // SAFETY: allocated below with this layout.
                unsafe { classes.deallocate(object.0, object.1) };
                continue;
            }
            let most = [8, 64, 500, 3000][random(4) as usize];
            let size = 1 + random(most) as usize;
            let layout = Layout::from_size_align(size, 1 << random(7)).unwrap();
            let Some(at) = classes.allocate(layout) else { continue };
            assert_eq!(at.as_ptr() as usize % layout.align(), 0);
            // SAFETY: fresh memory of this size.
            unsafe { at.write_bytes(step as u8, size) };
            objects.push((at, layout, step as u8));
        }
        for object in objects {
            check(&object);
            // SAFETY: as above.
            unsafe { classes.deallocate(object.0, object.1) };
        }
        assert_eq!(classes.free(), whole);
    }

    #[test]
    fn a_freed_block_is_the_next_of_its_size() {
        let mut memory = vec![0u128; 256];
        let mut classes = Classes::empty();
        // SAFETY: as above.
        unsafe { classes.heap().init(memory.as_mut_ptr().cast(), 4096) };
        let layout = Layout::from_size_align(40, 8).unwrap();
        let first = classes.allocate(layout).unwrap();
        // SAFETY: just allocated.
        unsafe { classes.deallocate(first, layout) };
        let other = Layout::from_size_align(60, 16).unwrap();
        assert_eq!(classes.allocate(other), Some(first));
        assert_ne!(classes.allocate(layout), Some(first));
    }
}
