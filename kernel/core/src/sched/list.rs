//! Circular doubly linked queue with links inside the elements.

use core::cell::Cell;
use core::marker::PhantomData;

/// The links of one element for one kind of queue `Q`.
///
/// Invariant: `next` and `prev` are both set exactly while the element is on a queue.
#[derive(Debug)]
#[repr(C)]
pub struct Link<H: Copy> {
    next: Cell<Option<H>>,
    prev: Cell<Option<H>>,
}

impl<H: Copy> Link<H> {
    /// Links of an element that is on no queue.
    pub const fn new() -> Self {
        Self { next: Cell::new(None), prev: Cell::new(None) }
    }

    /// Forgets all links: the memory is about to become another element.
    pub fn reset(&self) {
        self.next.set(None);
        self.prev.set(None);
    }

    /// Whether the element is on a queue of this kind.
    #[inline(always)]
    pub fn is_queued(&self) -> bool {
        self.next.get().is_some()
    }
}

impl<H: Copy> Default for Link<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// A handle whose element carries links for queues of kind `Q`.
///
/// `Q` is a marker type: an element may be on one queue of every kind at the same time.
pub trait Linked<Q>: Copy + PartialEq {
    /// The links of this element.
    fn link(&self) -> &Link<Self>;
}

/// A first-in-first-out queue of handles through their links for `Q`, O(1) in everything but iteration.
#[derive(Debug)]
pub struct List<H: Copy, Q> {
    head: Cell<Option<H>>,
    kind: PhantomData<Q>,
}

impl<H: Copy, Q> List<H, Q> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { head: Cell::new(None), kind: PhantomData }
    }

    /// Forgets all elements: the memory is about to become another queue.
    pub fn reset(&self) {
        self.head.set(None);
    }

    /// The first element.
    #[inline(always)]
    pub fn first(&self) -> Option<H> {
        self.head.get()
    }

    /// Whether nothing is queued.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    /// Appends `h`; an element that is already on a queue of this kind stays where it is.
    #[inline]
    pub fn push_back(&self, h: H)
    where
        H: Linked<Q>,
    {
        if h.link().is_queued() {
            return;
        }
        match self.head.get() {
            None => {
                h.link().next.set(Some(h));
                h.link().prev.set(Some(h));
                self.head.set(Some(h));
            }
            Some(head) => {
                let Some(tail) = head.link().prev.get() else { return };
                h.link().next.set(Some(head));
                h.link().prev.set(Some(tail));
                tail.link().next.set(Some(h));
                head.link().prev.set(Some(h));
            }
        }
    }

    /// Puts `h` behind all elements whose `rank` is not above its own; the queue is in that order. An element that
    /// is already on a queue of this kind stays where it is.
    pub fn insert_by(&self, h: H, rank: impl Fn(H) -> u64)
    where
        H: Linked<Q>,
    {
        if h.link().is_queued() {
            return;
        }
        let Some(head) = self.head.get() else { return self.push_back(h) };
        // From the end: nearly always it is the last.
        let mut next = head;
        while let Some(prev) = next.link().prev.get() {
            if rank(prev) <= rank(h) {
                break;
            }
            next = prev;
            if next == head {
                return self.push_front(h);
            }
        }
        let Some(prev) = next.link().prev.get() else { return };
        h.link().next.set(Some(next));
        h.link().prev.set(Some(prev));
        prev.link().next.set(Some(h));
        next.link().prev.set(Some(h));
    }

    /// Puts `h` first; an element that is already on a queue of this kind stays where it is.
    #[inline]
    pub fn push_front(&self, h: H)
    where
        H: Linked<Q>,
    {
        if !h.link().is_queued() {
            self.push_back(h);
            self.head.set(Some(h));
        }
    }

    /// Puts `h`, which is on no queue of this kind, first.
    #[inline(always)]
    pub fn put_first(&self, h: H)
    where
        H: Linked<Q>,
    {
        debug_assert!(!h.link().is_queued());
        let next = self.head.replace(Some(h)).unwrap_or(h);
        // Of a queue of its own the new element is its own neighbour.
        let prev = if next == h { h } else { next.link().prev.get().unwrap_or(h) };
        h.link().next.set(Some(next));
        h.link().prev.set(Some(prev));
        prev.link().next.set(Some(h));
        next.link().prev.set(Some(h));
    }

    /// Takes `h` off this queue. Nothing happens if it is on no queue.
    ///
    /// The caller must name the queue that `h` is on: links do not say which queue they belong to.
    #[inline]
    pub fn remove(&self, h: H)
    where
        H: Linked<Q>,
    {
        let (Some(next), Some(prev)) = (h.link().next.take(), h.link().prev.take()) else { return };
        if next == h {
            self.head.set(None);
            return;
        }
        prev.link().next.set(Some(next));
        next.link().prev.set(Some(prev));
        if self.head.get() == Some(h) {
            self.head.set(Some(next));
        }
    }

    /// Takes the first element.
    #[inline]
    pub fn pop(&self) -> Option<H>
    where
        H: Linked<Q>,
    {
        let h = self.head.get()?;
        self.remove(h);
        Some(h)
    }

    /// Makes the second element first (round robin).
    #[inline]
    pub fn rotate(&self)
    where
        H: Linked<Q>,
    {
        if let Some(head) = self.head.get() {
            self.head.set(head.link().next.get());
        }
    }

    /// The first element that satisfies `wanted`, in queue order.
    pub fn find(&self, mut wanted: impl FnMut(H) -> bool) -> Option<H>
    where
        H: Linked<Q>,
    {
        let head = self.head.get()?;
        let mut at = head;
        loop {
            if wanted(at) {
                return Some(at);
            }
            at = at.link().next.get()?;
            if at == head {
                return None;
            }
        }
    }
}

impl<H: Copy, Q> Default for List<H, Q> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, rounds};
    use std::collections::VecDeque;

    struct Element {
        link: Link<Handle>,
        rank: Cell<u64>,
    }

    thread_local! {
        static ELEMENTS: &'static [Element] = Box::leak(
            (0..16).map(|_| Element { link: Link::new(), rank: Cell::new(0) }).collect(),
        );
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Handle(usize);

    impl Handle {
        fn element(self) -> &'static Element {
            &ELEMENTS.with(|e| *e)[self.0]
        }
    }

    impl Linked<()> for Handle {
        fn link(&self) -> &Link<Self> {
            &self.element().link
        }
    }

    fn content(list: &List<Handle, ()>) -> Vec<Handle> {
        let mut seen = vec![];
        list.find(|h| {
            seen.push(h);
            false
        });
        seen
    }

    #[test]
    fn behaves_like_a_deque() {
        let (list, mut oracle) = (List::<Handle, ()>::new(), VecDeque::new());
        let mut rng = Rng::new(11);
        for _ in 0..rounds(100_000) {
            let h = Handle(rng.below(16) as usize);
            let queued = oracle.contains(&h);
            match rng.below(6) {
                0 => {
                    list.push_back(h);
                    (!queued).then(|| oracle.push_back(h));
                }
                1 => {
                    list.push_front(h);
                    (!queued).then(|| oracle.push_front(h));
                }
                2 if queued => {
                    list.remove(h);
                    oracle.retain(|&o| o != h);
                }
                3 => assert_eq!(list.pop(), oracle.pop_front()),
                4 => {
                    list.rotate();
                    (!oracle.is_empty()).then(|| oracle.rotate_left(1));
                }
                _ => assert_eq!(list.first(), oracle.front().copied()),
            }
            assert!(content(&list).iter().eq(oracle.iter()));
        }
    }

    #[test]
    fn ranks_keep_their_turn_and_equals_the_order_of_arrival() {
        let list = List::<Handle, ()>::new();
        let mut oracle: Vec<Handle> = vec![];
        let mut rng = Rng::new(12);
        let rank = |h: Handle| h.element().rank.get();
        for _ in 0..rounds(50_000) {
            let h = Handle(rng.below(16) as usize);
            if oracle.contains(&h) {
                list.remove(h);
                oracle.retain(|&o| o != h);
            } else {
                h.element().rank.set(rng.below(8));
                list.insert_by(h, rank);
                oracle.push(h);
                oracle.sort_by_key(|&h| rank(h));
            }
            assert_eq!(content(&list), oracle);
        }
    }
}
