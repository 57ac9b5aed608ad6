//! A lock between threads of one or several programs.
//!
//! A lock that only spins stops a CPU for good when the thread that spins has a higher priority than the one that
//! was preempted while it held the lock: on that CPU nobody else ever runs. So who does not get a lock
//! soon sleeps a little between attempts, which lets every other thread run.
//!
//! A thread that is deleted while it holds a lock leaves it locked for good. Who deletes threads at any moment gives
//! them nothing to do that locks; checks of addresses (`arch::poke`) therefore take no lock.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};

/// Attempts before the first sleep: longer than any lock is held by a thread that runs.
const ATTEMPTS: u32 = 10_000;
/// Length of a sleep, µs.
#[cfg(target_os = "none")]
const SLEEP_US: u64 = 50;

/// A value that one thread at a time may use.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(spin::Mutex<T>);

/// The use of a locked value; gives it back when dropped.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized>(spin::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    /// An unlocked value.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until nobody else uses the value. The message registers and the error code of the caller stay
    /// what they are, so a message may be under way.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            for _ in 0..ATTEMPTS {
                // An attempt takes the line from the holder; a look at it does not.
                if !self.0.is_locked()
                    && let Some(guard) = self.0.try_lock()
                {
                    return MutexGuard(guard);
                }
                core::hint::spin_loop();
            }
            give_way();
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A meeting point of a fixed number of threads, as often as they like.
#[derive(Debug)]
pub struct Barrier {
    threads: u32,
    /// How many have come, and how often all had: the low and the high half of one word, so that the
    /// last one resets the count and opens the barrier in one step.
    state: AtomicU64,
}

impl Barrier {
    /// For `threads` threads.
    #[must_use]
    pub const fn new(threads: u32) -> Self {
        Self { threads, state: AtomicU64::new(0) }
    }

    /// Waits until all have come. True for exactly one of them, the last. Spins a little, then sleeps
    /// between looks, so threads of one CPU may meet.
    pub fn wait(&self) -> bool {
        let before = self.state.fetch_add(1, Ordering::AcqRel);
        let round = before >> 32;
        if before as u32 + 1 >= self.threads {
            self.state.store((round + 1) << 32, Ordering::Release);
            return true;
        }
        let mut looks = 0u32;
        while self.state.load(Ordering::Acquire) >> 32 == round {
            looks += 1;
            if looks.is_multiple_of(ATTEMPTS) {
                give_way();
            } else {
                core::hint::spin_loop();
            }
        }
        false
    }
}

/// Lets any other thread run, of lower priority too.
#[cfg(target_os = "none")]
fn give_way() {
    let me = crate::arch::utcb();
    let (tag, error) = (me.load_mr(0), me.error_code.load(Ordering::Relaxed));
    crate::time::sleep_us(SLEEP_US);
    me.store_mr(0, tag);
    me.error_code.store(error, Ordering::Relaxed);
}

#[cfg(not(target_os = "none"))]
fn give_way() {
    core::hint::spin_loop();
}

#[cfg(test)]
mod tests {
    use super::{Barrier, Mutex};
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn one_at_a_time() {
        let sum = Mutex::new(0u64);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..1000).for_each(|_| *sum.lock() += 1));
            }
        });
        assert_eq!(*sum.lock(), 4000);
    }

    #[test]
    fn nobody_is_a_round_ahead() {
        let barrier = Barrier::new(3);
        let (arrived, last) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for round in 1..=200 {
                        arrived.fetch_add(1, Ordering::Relaxed);
                        last.fetch_add(u64::from(barrier.wait()), Ordering::Relaxed);
                        let seen = arrived.load(Ordering::Relaxed);
                        assert!((3 * round..3 * (round + 1)).contains(&seen), "{seen} in {round}");
                        barrier.wait();
                    }
                });
            }
        });
        assert_eq!(last.into_inner(), 200);
    }
}
