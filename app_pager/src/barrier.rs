//! Confirmations without messages: how several workers answer one pager thread.
//!
//! A worker that sends its confirmation blocks until the receiver receives, and the receiver may
//! still be sending to a worker that waits likewise: with three pagers that is a deadlock (the
//! model checker finds it, `docs/design/pagers.md`). So workers leave their confirmations in this
//! word, which lies in the memory of the thread that waits. Only the last one sends anything, a
//! wake-up, and only when the waiting thread has sent all its requests and is about to receive.

use crate::ids::Status;
use core::sync::atomic::{AtomicU64, Ordering};

const STATUS_SHIFT: u32 = 32;

/// The word: how many have not yet confirmed, and the joined status bits.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Barrier {
    word: AtomicU64,
}

impl Barrier {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// The waiting thread is going to send `requests` requests. Before it sends the first one.
    pub fn open(&self, requests: u32) {
        self.word.store(u64::from(requests) + 1, Ordering::Relaxed);
    }

    /// A worker confirms. `true`: it is the last one and the thread waits, so wake it.
    ///
    /// The status comes first: the one word makes both visible together.
    #[must_use]
    pub fn confirm(&self, status: Status) -> bool {
        self.word.fetch_or(u64::from(status.bits()) << STATUS_SHIFT, Ordering::Relaxed);
        self.leave().is_some()
    }

    /// The waiting thread has sent its last request. The joined status if all have confirmed;
    /// `None`: it has to receive the wake-up, then call [`Self::status`].
    #[must_use]
    pub fn close(&self) -> Option<Status> {
        self.leave()
    }

    /// What the workers reported; all have confirmed.
    #[must_use]
    pub fn status(&self) -> Status {
        status_of(self.word.load(Ordering::Acquire))
    }

    /// Takes one off the counter; the status if it was the last.
    fn leave(&self) -> Option<Status> {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        (before as u32 == 1).then(|| status_of(before))
    }
}

const fn status_of(word: u64) -> Status {
    Status::from_bits_truncate((word >> STATUS_SHIFT) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use l4abi::Rights;

    #[test]
    fn the_last_one_wakes() {
        let barrier = Barrier::new();
        barrier.open(2);
        assert!(!barrier.confirm(Rights::R));
        assert_eq!(barrier.close(), None);
        assert!(barrier.confirm(Rights::W));
        assert_eq!(barrier.status(), Rights::RW);
    }

    #[test]
    fn nobody_wakes_a_thread_that_does_not_wait() {
        let barrier = Barrier::new();
        barrier.open(2);
        assert!(!barrier.confirm(Rights::empty()));
        assert!(!barrier.confirm(Rights::W));
        assert_eq!(barrier.close(), Some(Rights::W));
        barrier.open(0);
        assert_eq!(barrier.close(), Some(Rights::empty()));
    }

    #[test]
    fn threads_confirm_in_any_order() {
        let barrier = Barrier::new();
        for round in 0..500 {
            barrier.open(3);
            let wakes = std::sync::atomic::AtomicU32::new(0);
            let closed = std::thread::scope(|scope| {
                for bits in [Rights::R, Rights::W, Rights::X] {
                    let (barrier, wakes) = (&barrier, &wakes);
                    scope.spawn(move || {
                        let wake = barrier.confirm(bits);
                        wakes.fetch_add(u32::from(wake), Ordering::Relaxed);
                    });
                }
                barrier.close()
            });
            // Either the thread saw the end itself, or exactly one worker woke it.
            let expected = u32::from(closed.is_none());
            assert_eq!(wakes.into_inner(), expected, "round {round}");
            assert_eq!(barrier.status(), Rights::RWX);
        }
    }
}
