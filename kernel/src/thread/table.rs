//! The virtual array of TCBs. The only place that makes references to TCBs out of numbers.

#![expect(unsafe_code, reason = "thread numbers become references to always-mapped slots")]

use kcore::layout::tcb_slot;
use kcore::types::{PhysAddr, ThreadNo, VirtAddr};

use crate::arch::x86_64::cpulocal::forget_page;
use crate::thread::tcb::{Tcb, TcbRef};

/// The slot of thread number `number` (masked to the array). Never faults: slots without a thread show a page
/// in which the id never matches and the key names no CPU; it is read-only.
#[inline(always)]
pub fn slot(number: u32) -> TcbRef {
    let at = tcb_slot(ThreadNo::new(number)).as_u64();
    // SAFETY: every slot of the array is mapped at all times, to a TCB or to the page of nobody, and both
    // are valid `Tcb`s (all-zero but for the key is: `Option`s are none, enums have a variant 0, no references). TCBs are
    // changed through `Cell`s by their owning CPU with interrupts off, and through atomics by others.
    unsafe { &*(at as *const Tcb) }
}

/// The TCB in the page at pool-window address `at`: right on every CPU, whatever it has cached of the array.
/// Used for threads in mailboxes, and for pages that are not in the array yet.
pub fn in_window(at: u64) -> TcbRef {
    // SAFETY: `at` is `Travel::page` of a thread in transit, which nobody deletes or moves, or the caller's own page made for
    // a control block; pool windows stay mapped.
    unsafe { &*(at as *const Tcb) }
}

/// The slot of `number`, without what this CPU may have cached of its past.
pub fn slot_now(number: u32) -> TcbRef {
    let t = slot(number);
    forget_page(VirtAddr::new(core::ptr::from_ref(t) as u64));
    t
}

/// A TCB outside the array, for a CPU's idle thread, in a zeroed page of the CPU's node that is never freed.
pub fn idle(page: PhysAddr) -> TcbRef {
    // SAFETY: a whole zeroed pool page, which is a valid `Tcb` (see `slot`), kept for ever.
    unsafe { &*(page.window().as_u64() as *const Tcb) }
}
