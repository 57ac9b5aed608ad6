//! Small helpers without a better home.

use core::sync::atomic::{AtomicU64, Ordering};

/// Statics that the boot processor writes during boot and nobody after it. Every node has a copy at the same address
/// (`arch::x86_64::paging::publish_sealed`), so reading them is a local access everywhere; once boot is over they are
/// mapped read-only. Other CPUs must not store to them even while they start: theirs is a copy.
macro_rules! sealed {
    ($($(#[$doc:meta])* $vis:vis static $name:ident: $kind:ty = $value:expr;)+) => { $(
        $(#[$doc])*
        #[cfg_attr(target_os = "none", expect(unsafe_code, reason = "only names the section of the linker script"))]
        #[cfg_attr(target_os = "none", unsafe(link_section = ".sealed"))]
        $vis static $name: $kind = $value;
    )+ };
}
pub(crate) use sealed;

/// A word that its owner writes and that anybody may read: plain loads and stores, no ordering.
///
/// Where an order between words matters (mailboxes, acknowledgements) the atomics of that protocol are used
/// instead.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word(AtomicU64);

impl Word {
    /// A word.
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Reads it.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Writes it; owner only.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A spin lock whose waiter serves shootdown requests, so that its holder may wait for the waiter's CPU's
/// acknowledgement of an earlier shootdown (docs/design/architecture.md, section 5).
#[derive(Debug)]
#[repr(align(64))]
pub struct ServingLock(AtomicU64);

impl ServingLock {
    /// A free lock.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Takes the lock.
    #[inline(always)]
    pub fn acquire(&self) {
        while self.0.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            crate::cross::serve_shootdowns();
            core::hint::spin_loop();
        }
    }

    /// Gives it back.
    #[inline(always)]
    pub fn release(&self) {
        self.0.store(0, Ordering::Release);
    }
}
