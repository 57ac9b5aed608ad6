//! Memory that belongs to no Rust object: frames of pools, modules, windows.

use core::arch::asm;

/// Checks that `[at, at + bytes)` is outside of everything Rust objects live in.
pub(super) fn check_foreign(at: u64, bytes: u64) {
    let (first, last) = super::image_range();
    let end = at.checked_add(bytes).expect("a range that wraps around");
    assert!(end <= first || at > last, "write into the image");
    #[cfg(target_os = "none")]
    assert!(!super::heap::contains(at, bytes), "write into the heap");
}

/// Copies `data` to memory that belongs to no Rust object.
///
/// # Panics
/// If the target lies in the program's image or in its heap.
pub fn write_memory(at: u64, data: &[u8]) {
    check_foreign(at, data.len() as u64);
    // SAFETY: the source is a live slice; the target is outside of image and heap (checked), so no
    // Rust object changes. If nothing is mapped there the pager hears of it.
    unsafe {
        asm!("rep movsb", inout("rdi") at => _, inout("rsi") data.as_ptr() => _,
             inout("rcx") data.len() => _, options(nostack, preserves_flags));
    }
}

/// Copies `bytes` (a multiple of 8) between places that belong to no Rust object.
///
/// # Panics
/// If the target lies in the program's image or in its heap.
pub fn copy_memory(to: u64, from: u64, bytes: u64) {
    check_foreign(to, bytes);
    // SAFETY: as for `write_memory`; the source is only read, by instructions the compiler knows
    // nothing about.
    unsafe {
        asm!("rep movsq", inout("rdi") to => _, inout("rsi") from => _,
             inout("rcx") bytes / 8 => _, options(nostack, preserves_flags));
    }
}

/// Writes zeros to `bytes` (a multiple of 8) of memory that belongs to no Rust object.
///
/// # Panics
/// If it lies in the program's image or in its heap.
pub fn clear_memory(at: u64, bytes: u64) {
    check_foreign(at, bytes);
    // SAFETY: as for `write_memory`.
    unsafe {
        asm!("rep stosq", inout("rdi") at => _, inout("rcx") bytes / 8 => _, in("rax") 0u64,
             options(nostack, preserves_flags));
    }
}

/// The bytes of a boot module, or of other memory that is mapped for good and that nobody writes.
///
/// # Panics
/// If it lies in the program's image or in its heap, or starts at 0.
#[must_use]
pub fn module_bytes(at: u64, bytes: u64) -> &'static [u8] {
    assert!(at != 0, "a module at address 0");
    check_foreign(at, bytes);
    // SAFETY: outside of image and heap (checked). That it stays mapped and unwritten is what the
    // caller states; who gives a wrong address gets a fault to the pager or changing bytes, as
    // with any mapped file.
    unsafe { core::slice::from_raw_parts(at as *const u8, bytes as usize) }
}
