//! User thread control blocks, seen from the kernel: plain words that user level may change at any time, so
//! nothing read here is trusted and nothing needed later is kept here (reference 2.1).

#![expect(unsafe_code, reason = "UTCBs are reached through the pool window by address")]

use core::sync::atomic::{AtomicU64, Ordering};

use l4abi::utcb::word as layout;

use crate::arch::x86_64::cpu_ops;
use crate::space::SpaceRef;
use crate::thread::tcb::TcbRef;

/// A word of the UTCB of `t`, `index` counted from MR0 (negative: BRs and TCRs); none before activation.
#[inline(always)]
fn at(t: TcbRef, index: isize) -> Option<&'static AtomicU64> {
    debug_assert!((-64..64).contains(&index));
    let mr0 = t.utcb.get() as *const AtomicU64;
    if mr0.is_null() {
        return None;
    }
    // SAFETY: a non-null `utcb` is the address of MR0 inside a 1024-byte block in a kernel page that stays
    // allocated while the thread lives; `index` stays inside the block. User level writes it concurrently,
    // hence atomics.
    Some(unsafe { &*mr0.offset(index) })
}

fn get(t: TcbRef, index: isize) -> u64 {
    at(t, index).map_or(0, |w| w.load(Ordering::Relaxed))
}

fn set(t: TcbRef, index: isize, value: u64) {
    if let Some(word) = at(t, index) {
        word.store(value, Ordering::Relaxed);
    }
}

/// MR `i`, i from 8 (the first eight travel in registers).
#[inline]
pub fn mr(t: TcbRef, i: usize) -> u64 {
    get(t, (i & 63) as isize)
}

/// Writes MR `i`.
#[inline]
pub fn set_mr(t: TcbRef, i: usize, value: u64) {
    set(t, (i & 63) as isize, value);
}

/// All message registers of `t`; those in registers are stale.
pub fn mrs(t: TcbRef) -> Option<&'static [AtomicU64; 64]> {
    let mr0 = core::ptr::from_ref(at(t, 0)?);
    // SAFETY: the second half of a UTCB block is its 64 message registers (see `at`).
    Some(unsafe { &*mr0.cast() })
}

/// Copies MR `from`..=`to` of one thread to another.
#[inline]
pub fn copy_mrs(sender: TcbRef, dest: TcbRef, from: usize, to: usize) {
    let (Some(src), Some(dst)) = (at(sender, 0), at(dest, 0)) else { return };
    let (src, dst) = (core::ptr::from_ref(src), core::ptr::from_ref(dst));
    let count = (to.min(63) + 1).saturating_sub(from);
    // SAFETY: up to MR63, inside both blocks (see `at`), which are atomic words.
    unsafe { cpu_ops::copy_words(src.add(from & 63), dst.add(from & 63), count) };
}

/// Buffer register `i` of `t` (0 to 32).
#[inline]
pub fn buffer(t: TcbRef, i: usize) -> u64 {
    get(t, -16 - i.min(32) as isize)
}

/// The ErrorCode TCR.
pub fn set_error(t: TcbRef, code: u64) {
    set(t, layout::ERROR_CODE, code);
}

/// Who a propagating `t` wants to speak for.
pub fn virtual_sender(t: TcbRef) -> u64 {
    get(t, layout::SENDER)
}

/// Who really sent a propagated message.
pub fn set_actual_sender(t: TcbRef, id: u64) {
    set(t, layout::SENDER, id);
}

/// Whom a redirected message was for.
pub fn set_intended_receiver(t: TcbRef, id: u64) {
    set(t, layout::INTENDED_RECEIVER, id);
}

/// The Pager TCR: untrusted, read at the fault.
pub fn pager(t: TcbRef) -> u64 {
    get(t, layout::PAGER)
}

/// Sets the Pager TCR.
pub fn set_pager(t: TcbRef, id: u64) {
    set(t, layout::PAGER, id);
}

/// The ExceptionHandler TCR.
pub fn exception_handler(t: TcbRef) -> u64 {
    get(t, layout::EXCEPTION_HANDLER)
}

/// The UserDefinedHandle TCR.
pub fn handle(t: TcbRef) -> u64 {
    get(t, layout::USER_DEFINED_HANDLE)
}

/// Sets the UserDefinedHandle TCR.
pub fn set_handle(t: TcbRef, value: u64) {
    set(t, layout::USER_DEFINED_HANDLE, value);
}

/// The XferTimeouts TCR.
pub fn xfer_timeouts(t: TcbRef) -> u64 {
    get(t, layout::XFER_TIMEOUTS)
}

/// Preemption flags (byte 0) and coprocessor flags (byte 1).
pub fn flags(t: TcbRef) -> u64 {
    get(t, layout::FLAGS)
}

/// Sets preemption and coprocessor flags.
pub fn set_flags(t: TcbRef, value: u64) {
    set(t, layout::FLAGS, value);
}

/// The processor number that user level sees.
pub fn set_processor(t: TcbRef, cpu: u16) {
    set(t, layout::PROCESSOR_NO, u64::from(cpu));
}

/// The global id that user level sees.
pub fn set_global_id(t: TcbRef, id: u64) {
    set(t, layout::MY_GLOBAL_ID, id);
}

/// Values on activation (reference 2.1): all zero but these.
pub fn initialise(t: TcbRef, pager: u64) {
    let Some(first) = at(t, -64) else { return };
    // SAFETY: a UTCB block is 128 words from word -64 on (see `at`).
    let block: &[AtomicU64; 128] = unsafe { &*core::ptr::from_ref(first).cast() };
    for word in block {
        word.store(0, Ordering::Relaxed);
    }
    set_global_id(t, t.id.get());
    set_processor(t, t.travel.home());
    set_pager(t, pager);
    set(t, layout::WORD_SIZE_MASK, u64::MAX);
}

/// The global id that the UTCB at `local` in `space` claims, if `local` is the address of MR0 of a slot in a
/// present UTCB page.
pub fn global_id_hint(space: SpaceRef, local: u64) -> Option<u64> {
    let kernel_address = space.utcb_kernel_address(local)?;
    let word = (kernel_address as *const AtomicU64).wrapping_offset(layout::MY_GLOBAL_ID);
    // SAFETY: `utcb_kernel_address` answers only for MR0 addresses of slots inside UTCB pages of the space,
    // which are kernel pages that live as long as the space; MyGlobalId lies in the same slot.
    Some(unsafe { (*word).load(Ordering::Relaxed) })
}

/// Copies the whole block to MR0 address `mr0` and makes that the UTCB of `t`.
pub fn move_block(t: TcbRef, mr0: u64) {
    let old: [u64; 128] = core::array::from_fn(|i| get(t, i as isize - 64));
    t.utcb.set(mr0);
    for (i, word) in old.into_iter().enumerate() {
        set(t, i as isize - 64, word);
    }
}
