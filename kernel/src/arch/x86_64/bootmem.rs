//! All physical memory, as the boot stages see it before the kernel address space exists.
//!
//! Both boot paths map physical memory at `PHYS_OFFSET`. The final address space maps only pool memory
//! there, so a [`BootWindow`] must not outlive the switch: the stage that switches consumes it.

use core::marker::PhantomData;

/// A type for which every bit pattern is a value.
///
/// # Safety
/// Implementors consist of integers only and have no padding that is read.
pub unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}

/// Proof that physical memory is readable at `PHYS_OFFSET`. Not `Send`: only the boot processor has it.
pub struct BootWindow {
    limit: u64,
    boot_processor_only: PhantomData<*const ()>,
}

impl BootWindow {
    /// # Safety
    /// The page tables in use map physical memory below `limit` at `PHYS_OFFSET`, and stay in use while the window
    /// exists.
    pub unsafe fn new(limit: u64) -> Self {
        BootWindow { limit, boot_processor_only: PhantomData }
    }

    /// First physical address that is not in the window.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Where a physical address is seen.
    pub fn pointer<T>(&self, physical: u64) -> *mut T {
        kcore::layout::PHYS_OFFSET.wrapping_add(physical) as *mut T
    }

    /// Reads a value at any alignment. An address without memory behind it reads as ones.
    pub fn read<T: Plain>(&self, physical: u64) -> T {
        // SAFETY: mapped by the invariant of `new`; `T` takes any bit pattern.
        unsafe { self.pointer::<T>(physical).read_unaligned() }
    }

    /// The bytes of a firmware table.
    pub fn bytes(&self, physical: u64, length: usize) -> &[u8] {
        // SAFETY: mapped by the invariant of `new`; nobody writes firmware tables or the boot archive.
        unsafe { core::slice::from_raw_parts(self.pointer(physical), length) }
    }
}
