//! A lock between threads of one or several programs.
//!
//! A lock that only spins stops a CPU for good when the thread that spins has a higher priority than the one that
//! was preempted while it held the lock: on that CPU nobody else ever runs. So who does not get a lock
//! soon sleeps a little between attempts, which lets every other thread run.

use core::ops::{Deref, DerefMut};

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
                if let Some(guard) = self.0.try_lock() {
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

/// Lets any other thread run, of lower priority too.
#[cfg(target_os = "none")]
fn give_way() {
    use core::sync::atomic::Ordering;
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
    use super::Mutex;

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
}
