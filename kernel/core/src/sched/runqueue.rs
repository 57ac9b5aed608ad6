//! Ready threads of one CPU: 256 priorities, round robin within one (reference 4.8).
//!
//! A bitmap of non-empty priorities makes finding the highest one a few instructions, where a walk over all
//! priorities costs hundreds. Dequeueing is *lazy*: a thread that blocks in IPC stays queued until the
//! scheduler meets it, so that the common call/reply never touches the queue. The invariant is therefore
//! one-sided: every ready thread except the running one is queued; not every queued thread is ready.

use core::cell::Cell;

use super::list::{Linked, List};

/// Marker of run-queue links.
#[derive(Debug)]
pub struct Ready;

/// Number of priorities; 255 is the highest.
pub const NR_PRIORITIES: usize = 256;

/// The ready threads of one CPU.
#[derive(Debug)]
pub struct RunQueue<H: Copy> {
    occupied: [Cell<u64>; NR_PRIORITIES / 64],
    queues: [List<H, Ready>; NR_PRIORITIES],
}

impl<H: Linked<Ready>> RunQueue<H> {
    /// An empty run queue.
    pub const fn new() -> Self {
        Self {
            occupied: [const { Cell::new(0) }; NR_PRIORITIES / 64],
            queues: [const { List::new() }; NR_PRIORITIES],
        }
    }

    /// Queues `h` behind the others of its priority; nothing happens if it is queued.
    #[inline]
    pub fn enqueue(&self, h: H, priority: u8) {
        self.queues[usize::from(priority)].push_back(h);
        self.mark(priority);
    }

    /// Queues `h` before the others of its priority: it was preempted and has slice left.
    #[inline]
    pub fn enqueue_first(&self, h: H, priority: u8) {
        self.queues[usize::from(priority)].push_front(h);
        self.mark(priority);
    }

    /// The same for a thread that is known not to be queued: it was running.
    #[inline(always)]
    pub fn put_back(&self, h: H, priority: u8) {
        self.queues[usize::from(priority)].put_first(h);
        self.mark(priority);
    }

    /// Takes `h` off the queue of `priority`, the priority it was queued with.
    #[inline]
    pub fn dequeue(&self, h: H, priority: u8) {
        let queue = &self.queues[usize::from(priority)];
        queue.remove(h);
        if queue.is_empty() {
            let word = &self.occupied[usize::from(priority / 64)];
            word.set(word.get() & !(1 << (priority % 64)));
        }
    }

    /// The highest priority that has a queued thread.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        for (i, word) in self.occupied.iter().enumerate().rev() {
            let bits = word.get();
            if bits != 0 {
                return Some((i * 64 + 63 - bits.leading_zeros() as usize) as u8);
            }
        }
        None
    }

    /// The first thread of the highest priority for which `ready` holds, with its priority. Threads that
    /// are met and are not ready are dequeued (the lazy half of blocking). The thread stays queued.
    #[inline]
    pub fn pick(&self, mut ready: impl FnMut(H) -> bool) -> Option<(H, u8)> {
        loop {
            let priority = self.highest()?;
            let h = self.queues[usize::from(priority)].first()?;
            if ready(h) {
                return Some((h, priority));
            }
            self.dequeue(h, priority);
        }
    }

    /// The first queued thread of `priority`, ready or not.
    pub fn first_of(&self, priority: u8) -> Option<H> {
        self.queues[usize::from(priority)].first()
    }

    /// Visits the threads that are queued, ready or not, highest priority first, at most `most` of one priority: for a
    /// debugger that has stopped the queue's owner in the middle of whatever it did.
    pub fn visit(&self, most: usize, visit: &mut dyn FnMut(H, u8)) {
        for priority in (0..=u8::MAX).rev() {
            let mut left = most;
            let _ = self.queues[usize::from(priority)].find(|h| {
                visit(h, priority);
                left = left.saturating_sub(1);
                left == 0
            });
        }
    }

    #[inline]
    fn mark(&self, priority: u8) {
        let word = &self.occupied[usize::from(priority / 64)];
        word.set(word.get() | 1 << (priority % 64));
    }
}

impl<H: Linked<Ready>> Default for RunQueue<H> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::Link;
    use super::*;
    use std::collections::VecDeque;

    struct Thread(u32, Link<T>);
    type T = &'static Thread;

    impl PartialEq for Thread {
        fn eq(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }

    impl Linked<Ready> for T {
        fn link(&self) -> &Link<Self> {
            &self.1
        }
    }

    /// Both ways of queueing, dequeueing and picking against plain queues.
    #[test]
    fn like_plain_queues() {
        let threads: Vec<T> =
            (0..12).map(|n| -> T { Box::leak(Box::new(Thread(n, Link::new()))) }).collect();
        let queue = RunQueue::<T>::new();
        let mut oracle: Vec<VecDeque<u32>> = vec![VecDeque::new(); NR_PRIORITIES];
        let priority = |n: u32| [3u8, 3, 64, 255][n as usize % 4];
        let mut seed = 1u64;
        for _ in 0..crate::testing::rounds(100_000) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = (seed >> 33) as u32 % 12;
            let t = threads[n as usize];
            let (p, known) = (priority(n), &mut oracle[usize::from(priority(n))]);
            match (seed >> 50 & 3, t.link().is_queued()) {
                (0, false) => {
                    queue.put_back(t, p);
                    known.push_front(n);
                }
                (1, queued) => {
                    queue.enqueue(t, p);
                    if !queued {
                        known.push_back(n);
                    }
                }
                (2, queued) => {
                    queue.enqueue_first(t, p);
                    if !queued {
                        known.push_front(n);
                    }
                }
                (3, true) => {
                    queue.dequeue(t, p);
                    known.retain(|&k| k != n);
                }
                _ => {}
            }
            let first = oracle.iter().rev().find_map(|q| q.front().copied());
            assert_eq!(queue.pick(|_| true).map(|(t, _)| t.0), first);
        }
        let order: Vec<u32> = std::iter::from_fn(|| {
            let (t, p) = queue.pick(|_| true)?;
            queue.dequeue(t, p);
            Some(t.0)
        })
        .collect();
        assert_eq!(order, oracle.into_iter().rev().flatten().collect::<Vec<_>>());
    }
}
