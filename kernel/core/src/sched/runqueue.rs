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
