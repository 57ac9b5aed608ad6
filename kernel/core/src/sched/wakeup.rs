//! Threads that wait for a time: a pairing heap with its links in the threads.
//!
//! Inserting is O(1), the earliest is at the root, taking any thread out is O(log n) amortised. IPC with a
//! timeout inserts, and nearly always takes out again before the time comes: both are short, unlike in a
//! sorted list.

use core::cell::Cell;

/// Heap links of one thread. Invariant: `queued` holds exactly while the thread is in a heap.
#[derive(Debug)]
pub struct WakeLink<H: Copy> {
    at: Cell<u64>,
    queued: Cell<bool>,
    child: Cell<Option<H>>,
    next: Cell<Option<H>>,
    /// Parent if this is a first child, else the previous sibling; none for the root.
    back: Cell<Option<H>>,
}

impl<H: Copy> WakeLink<H> {
    /// Links of a thread that waits for nothing.
    pub const fn new() -> Self {
        Self {
            at: Cell::new(0),
            queued: Cell::new(false),
            child: Cell::new(None),
            next: Cell::new(None),
            back: Cell::new(None),
        }
    }

    /// Forgets all links: the memory is about to become another thread.
    pub fn reset(&self) {
        self.queued.set(false);
        self.child.set(None);
        self.next.set(None);
        self.back.set(None);
    }

    /// Whether the thread is in a heap.
    #[inline(always)]
    pub fn is_queued(&self) -> bool {
        self.queued.get()
    }

    /// The time it was queued for, in the unit of the heap's user.
    pub fn at(&self) -> u64 {
        self.at.get()
    }
}

impl<H: Copy> Default for WakeLink<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// A handle whose element carries heap links.
pub trait WakeNode: Copy + PartialEq {
    /// The links of this element.
    fn wake(&self) -> &WakeLink<Self>;
}

/// The waiting threads of one CPU, earliest first.
#[derive(Debug)]
pub struct WakeQueue<H: Copy> {
    root: Cell<Option<H>>,
}

impl<H: WakeNode> WakeQueue<H> {
    /// An empty heap.
    pub const fn new() -> Self {
        Self { root: Cell::new(None) }
    }

    /// The thread that wakes first, and when.
    #[inline]
    pub fn earliest(&self) -> Option<(H, u64)> {
        self.root.get().map(|h| (h, h.wake().at.get()))
    }

    /// Queues `h` for time `at`; a thread that is queued is moved.
    pub fn insert(&self, h: H, at: u64) {
        self.remove(h);
        let link = h.wake();
        link.at.set(at);
        link.queued.set(true);
        self.root.set(Some(match self.root.get() {
            None => h,
            Some(root) => meld(root, h),
        }));
    }

    /// Takes `h` out; nothing happens if it is not queued.
    pub fn remove(&self, h: H) {
        let link = h.wake();
        if !link.queued.replace(false) {
            return;
        }
        let orphans = merge_pairs(link.child.take());
        if self.root.get() == Some(h) {
            self.root.set(orphans);
            return;
        }
        // Cut the subtree of `h` out of its place: `back` is set for everything but the root.
        let next = link.next.take();
        if let Some(back) = link.back.take() {
            if back.wake().child.get() == Some(h) {
                back.wake().child.set(next);
            } else {
                back.wake().next.set(next);
            }
            if let Some(next) = next {
                next.wake().back.set(Some(back));
            }
        }
        if let (Some(root), Some(orphans)) = (self.root.get(), orphans) {
            self.root.set(Some(meld(root, orphans)));
        }
    }

    /// Takes the earliest thread if its time is not after `now`.
    pub fn pop_due(&self, now: u64) -> Option<H> {
        let (h, at) = self.earliest()?;
        if at > now {
            return None;
        }
        self.remove(h);
        Some(h)
    }
}

impl<H: WakeNode> WakeQueue<H> {
    /// Visits the threads that wait, in no particular order, at most `most`: for a debugger that has stopped the queue's
    /// owner in the middle of whatever it did.
    pub fn visit(&self, most: usize, visit: &mut dyn FnMut(H, u64)) {
        let mut at = self.root.get();
        for _ in 0..most {
            let Some(h) = at else { return };
            visit(h, h.wake().at.get());
            // Down to the children first, then on behind everything that is below.
            at = h.wake().child.get().or_else(|| behind(h, most));
        }
    }
}

/// The next node behind `h` and everything below it: the next sibling of it or of a node above. `back` leads over the
/// earlier siblings to the parent.
fn behind<H: WakeNode>(h: H, most: usize) -> Option<H> {
    let (mut h, mut rising) = (h, true);
    for _ in 0..2 * most {
        if rising && let Some(next) = h.wake().next.get() {
            return Some(next);
        }
        let back = h.wake().back.get()?;
        rising = back.wake().child.get() == Some(h);
        h = back;
    }
    None
}

impl<H: WakeNode> Default for WakeQueue<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// Joins two heaps whose roots have no siblings; earlier root wins, the first at equal times.
fn meld<H: WakeNode>(a: H, b: H) -> H {
    let (top, sub) = if a.wake().at.get() <= b.wake().at.get() { (a, b) } else { (b, a) };
    let first = top.wake().child.get();
    sub.wake().next.set(first);
    if let Some(first) = first {
        first.wake().back.set(Some(sub));
    }
    sub.wake().back.set(Some(top));
    top.wake().child.set(Some(sub));
    top
}

/// The second half of a removal: melds siblings in pairs, then all pairs, without recursion.
fn merge_pairs<H: WakeNode>(first: Option<H>) -> Option<H> {
    // Pass 1: the melded pairs form a list, last pair first, through `next`.
    let mut rest = first;
    let mut pairs: Option<H> = None;
    while let Some(a) = rest {
        let second = a.wake().next.take();
        a.wake().back.set(None);
        let pair = match second {
            None => {
                rest = None;
                a
            }
            Some(b) => {
                rest = b.wake().next.take();
                b.wake().back.set(None);
                meld(a, b)
            }
        };
        pair.wake().next.set(pairs);
        pairs = Some(pair);
    }
    // Pass 2: from the last pair to the first.
    let mut heap = pairs?;
    let mut pairs = heap.wake().next.take();
    while let Some(pair) = pairs {
        pairs = pair.wake().next.take();
        heap = meld(pair, heap);
    }
    Some(heap)
}
