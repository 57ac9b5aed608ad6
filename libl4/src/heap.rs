//! The heap behind `alloc`. It is empty until memory is given to it.

/// Gives memory to the heap: the first region, or one that continues it. The memory must stay
/// mapped (or be served by the pager) for good and belong to nobody else. Returns whether it was
/// taken.
#[cfg(target_os = "none")]
pub fn give(base: u64, size: usize) -> bool {
    let (first, last) = crate::arch::image_range();
    let end = base.saturating_add(size as u64);
    let outside = end <= first || base > last;
    outside && base != 0 && size >= 64 && crate::arch::heap::give(base as usize, size)
}

/// Takes one page of `2^size_log2` bytes from sigma0 for the heap.
///
/// # Errors
/// As [`crate::sigma0::any_page`]; `BadReply` if the heap cannot use the page.
#[cfg(target_os = "none")]
pub fn give_from_sigma0(size_log2: u8) -> Result<(), crate::sigma0::Sigma0Error> {
    let base = crate::sigma0::any_page(size_log2)?;
    if give(base, 1 << size_log2) { Ok(()) } else { Err(crate::sigma0::Sigma0Error::BadReply) }
}

/// Bytes free.
#[cfg(target_os = "none")]
#[must_use]
pub fn free() -> usize {
    crate::arch::heap::free()
}

/// Heaps beside the program's own.
#[cfg(target_os = "none")]
pub use crate::arch::{Area, Owned};

/// Address of node 0's shared heap, and the distance from one node's to the next.
#[cfg(target_os = "none")]
pub use crate::arch::heap::{SHARED_BASE, SHARED_STRIDE};

/// Makes a heap in `size` bytes of fresh memory in the shared area of `node` and allocates there from
/// now on. All programs that share must have it mapped at the same address for good. Returns whether
/// the arguments were good.
#[cfg(target_os = "none")]
#[must_use]
pub fn use_shared(node: usize, size: usize) -> bool {
    crate::arch::heap::use_shared(node, size)
}
