//! Heaps beside the program's own: in memory of a chosen node, spread over nodes, or for one purpose.

use crate::sync::Mutex;
use core::alloc::Layout;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use linked_list_allocator::Heap;

/// A heap in a piece of memory.
pub struct Area {
    heap: Mutex<Heap>,
}

impl fmt::Debug for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area").field("free", &self.free()).finish_non_exhaustive()
    }
}

impl Area {
    /// A heap in `[base, base + size)`. The memory must be mapped, or be served by the pager, for good and
    /// belong to nobody else. `None` if it is too small, or lies in the program's image or its heap.
    #[must_use]
    pub fn new(base: u64, size: usize) -> Option<Self> {
        let (first, last) = super::image_range();
        let end = base.checked_add(size as u64)?;
        if base == 0 || size < 4096 || (end > first && base <= last) {
            return None;
        }
        if super::heap::contains(base, size as u64) {
            return None;
        }
        // SAFETY: outside of everything that Rust objects live in (checked); that nobody else uses the
        // memory is what the caller states, as for `heap::give`.
        let heap = unsafe { Heap::new(base as *mut u8, size) };
        Some(Self { heap: Mutex::new(heap) })
    }

    /// Puts a value into the heap; gives it back if there is no room.
    ///
    /// # Errors
    /// The value.
    pub fn put<T>(&self, value: T) -> Result<Owned<'_, T>, T> {
        let Ok(at) = self.heap.lock().allocate_first_fit(Layout::new::<T>()) else {
            return Err(value);
        };
        let at = at.cast::<T>();
        // SAFETY: fresh memory of the layout of `T`.
        unsafe { at.write(value) };
        Ok(Owned { area: self, at })
    }

    /// Bytes free.
    pub fn free(&self) -> usize {
        self.heap.lock().free()
    }
}

/// A value in an [`Area`], dropped and given back with this handle.
pub struct Owned<'a, T> {
    area: &'a Area,
    at: NonNull<T>,
}

// SAFETY: the handle owns the value alone; what it gives back to is behind a lock.
unsafe impl<T: Send> Send for Owned<'_, T> {}
// SAFETY: a shared handle gives shared references only.
unsafe impl<T: Sync> Sync for Owned<'_, T> {}

impl<T> Owned<'_, T> {
    /// Where the value is.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }
}

impl<T> Deref for Owned<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value lives as long as the handle.
        unsafe { self.at.as_ref() }
    }
}

impl<T> DerefMut for Owned<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the handle is borrowed alone.
        unsafe { self.at.as_mut() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Owned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Drop for Owned<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the handle owns the value, which was allocated with this layout, and is used no more.
        unsafe {
            self.at.drop_in_place();
            self.area.heap.lock().deallocate(self.at.cast(), Layout::new::<T>());
        }
    }
}
