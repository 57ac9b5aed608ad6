//! Memory for tests: one region of RAM, mapped one to one in the root task's space, and the windows
//! in which puppets see parts of it where and when the pager lets them.

use core::sync::atomic::{AtomicU64, Ordering};
use libl4::{arch, sigma0};

/// log2 of the arena's size.
pub const ARENA_LOG2: u8 = 22;
/// Size of the arena.
pub const ARENA_SIZE: u64 = 1 << ARENA_LOG2;
/// Page size.
pub const PAGE: u64 = 4096;
/// First address of the windows; nothing else lies there in any space.
pub const WINDOW_BASE: u64 = 0x100_0000_0000;
/// Distance of the windows.
pub const WINDOW_STRIDE: u64 = 0x1000_0000;

static BASE: AtomicU64 = AtomicU64::new(0);

/// Takes the arena from sigma0.
///
/// # Panics
/// If sigma0 has no such region.
pub(crate) fn take() {
    let base = sigma0::any_page(ARENA_LOG2).expect("the arena from sigma0");
    BASE.store(base, Ordering::Relaxed);
}

/// Address of the arena in the root task's space.
#[must_use]
pub fn base() -> u64 {
    BASE.load(Ordering::Relaxed)
}

/// Address of page `n` of the arena.
#[must_use]
pub fn page(n: u64) -> u64 {
    base() + n * PAGE
}

/// Whether the arena contains an address.
#[must_use]
pub fn contains(addr: u64) -> bool {
    (base()..base() + ARENA_SIZE).contains(&addr)
}

/// log2 of the size of all windows together.
pub const WINDOWS_LOG2: u8 = 30;

/// Address of window `n`.
#[must_use]
pub const fn window(n: u64) -> u64 {
    WINDOW_BASE + n * WINDOW_STRIDE
}

/// The byte that [`fill`] puts at position `i` of a pattern.
#[must_use]
pub const fn pattern(seed: u64, i: u64) -> u8 {
    let x = (seed ^ i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x >> 56) as u8
}

/// Fills memory (whole words) with a pattern.
pub fn fill(addr: u64, len: u64, seed: u64) {
    for at in (0..len).step_by(8) {
        let bytes = core::array::from_fn(|i| pattern(seed, at + i as u64));
        arch::poke(addr + at, u64::from_le_bytes(bytes));
    }
}

/// Fills memory (whole words) with one byte.
pub fn wipe(addr: u64, len: u64, byte: u8) {
    for at in (0..len).step_by(8) {
        arch::poke(addr + at, u64::from_le_bytes([byte; 8]));
    }
}

/// The byte at an address.
#[must_use]
pub fn byte(addr: u64) -> u8 {
    arch::touch_read(addr)
}

/// First position in `0..len` where memory differs from the pattern.
#[must_use]
pub fn mismatch(addr: u64, len: u64, seed: u64) -> Option<u64> {
    (0..len).find(|&i| byte(addr + i) != pattern(seed, i))
}

/// First position in `0..len` where memory differs from one byte.
#[must_use]
pub fn not_all(addr: u64, len: u64, want: u8) -> Option<u64> {
    (0..len).find(|&i| byte(addr + i) != want)
}
