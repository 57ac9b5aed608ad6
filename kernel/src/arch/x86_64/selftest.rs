//! Traps that kernel self-tests provoke on purpose.

use core::sync::atomic::{AtomicU32, Ordering};

static EXPECTED_BREAKPOINTS: AtomicU32 = AtomicU32::new(0);

/// A breakpoint in kernel mode is a test's: counts it off.
pub fn breakpoint_expected() -> bool {
    let counted_off = |left: u32| left.checked_sub(1);
    EXPECTED_BREAKPOINTS.try_update(Ordering::Relaxed, Ordering::Relaxed, counted_off).is_ok()
}
