//! The lock of a directory: a queue lock after Mellor-Crummey and Scott (numa-l4 4.2.1 names it).
//!
//! Each waiter spins on its own place, which lies in its own node's memory, and is called by the
//! one before it; the lock itself, one word beside the directory, is touched once to come and at
//! most once to go. Places are numbered: pager threads of all nodes share one table of references,
//! so there are no pointers and no unsafe code.
//!
//! The algorithm is written as steps of one memory operation each, over [`Memory`]. The lock runs
//! the steps on atomics; the test explores every interleaving of the same steps.

use core::sync::atomic::{AtomicU32, Ordering};

/// Number of a waiter's place. A thread needs one for each lock that it holds at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Place(pub u32);

/// The words of a lock and of the places, by number: 0 means none, n + 1 means place n.
pub trait Memory {
    /// Writes the tail, gives what was there.
    fn swap_tail(&mut self, new: u32) -> u32;
    /// Writes `new` to the tail if it is `old`; whether it was.
    fn replace_tail(&mut self, old: u32, new: u32) -> bool;
    /// Reads who comes after a place.
    fn next(&mut self, place: Place) -> u32;
    /// Writes who comes after a place.
    fn set_next(&mut self, place: Place, next: u32);
    /// Whether a place still has to wait.
    fn must_wait(&mut self, place: Place) -> bool;
    /// Says whether a place has to wait.
    fn set_wait(&mut self, place: Place, wait: bool);
}

/// Where a thread is on its way into the lock or out of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Clear the own place: nobody comes after.
    ClearNext,
    /// Clear the own place: wait, if somebody is before.
    SetWait,
    /// Get in line.
    Swap,
    /// Tell the one before.
    Link(Place),
    /// Wait to be called. Repeats itself.
    Spin,
    /// In.
    Held,
    /// On the way out: look who is next.
    Next,
    /// Nobody seems to be next: close the line.
    Close,
    /// Somebody came in between: wait for the link. Repeats itself.
    AwaitLink,
    /// Call the next one.
    Call(Place),
    /// Out.
    Out,
}

const fn place_of(word: u32) -> Option<Place> {
    match word {
        0 => None,
        n => Some(Place(n - 1)),
    }
}

impl Step {
    /// Performs the one memory operation of this step for `me`; gives the next step.
    #[must_use]
    pub fn take(self, me: Place, memory: &mut impl Memory) -> Self {
        match self {
            Self::ClearNext => {
                memory.set_next(me, 0);
                Self::SetWait
            }
            Self::SetWait => {
                memory.set_wait(me, true);
                Self::Swap
            }
            Self::Swap => match place_of(memory.swap_tail(me.0 + 1)) {
                Some(before) => Self::Link(before),
                None => Self::Held,
            },
            Self::Link(before) => {
                memory.set_next(before, me.0 + 1);
                Self::Spin
            }
            Self::Spin if memory.must_wait(me) => Self::Spin,
            Self::Spin => Self::Held,
            Self::Next => place_of(memory.next(me)).map_or(Self::Close, Self::Call),
            Self::Close if memory.replace_tail(me.0 + 1, 0) => Self::Out,
            Self::Close => Self::AwaitLink,
            Self::AwaitLink => place_of(memory.next(me)).map_or(Self::AwaitLink, Self::Call),
            Self::Call(next) => {
                memory.set_wait(next, false);
                Self::Out
            }
            Self::Held | Self::Out => self,
        }
    }
}

/// A lock. Lies beside what it protects.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct McsLock {
    tail: AtomicU32,
}

/// A waiter's place. Lies in its thread's node's memory.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct McsPlace {
    next: AtomicU32,
    wait: AtomicU32,
}

impl McsLock {
    /// A free lock.
    #[must_use]
    pub const fn new() -> Self {
        Self { tail: AtomicU32::new(0) }
    }

    /// Takes the lock. `place` finds places by number; `relax` is called while waiting (polite
    /// spinning: a pause, and after a while ThreadSwitch).
    pub fn lock<'a>(&self, me: Place, place: impl Fn(Place) -> &'a McsPlace, relax: impl FnMut()) {
        self.run(Step::ClearNext, Step::Held, me, place, relax);
    }

    /// Releases the lock, which `me` holds.
    pub fn unlock<'a>(
        &self,
        me: Place,
        place: impl Fn(Place) -> &'a McsPlace,
        relax: impl FnMut(),
    ) {
        self.run(Step::Next, Step::Out, me, place, relax);
    }

    fn run<'a>(
        &self,
        from: Step,
        to: Step,
        me: Place,
        place: impl Fn(Place) -> &'a McsPlace,
        mut relax: impl FnMut(),
    ) {
        let mut memory = Shared { lock: self, place };
        let mut step = from;
        while step != to {
            let next = step.take(me, &mut memory);
            if next == step {
                relax();
            }
            step = next;
        }
    }
}

struct Shared<'l, F> {
    lock: &'l McsLock,
    place: F,
}

impl<'a, F: Fn(Place) -> &'a McsPlace> Memory for Shared<'_, F> {
    // Release publishes the own place's words and, through `set_wait(next, false)` and
    // `replace_tail`, what was written under the lock; acquire on the other side.
    fn swap_tail(&mut self, new: u32) -> u32 {
        self.lock.tail.swap(new, Ordering::AcqRel)
    }

    fn replace_tail(&mut self, old: u32, new: u32) -> bool {
        self.lock.tail.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    fn next(&mut self, place: Place) -> u32 {
        (self.place)(place).next.load(Ordering::Acquire)
    }

    fn set_next(&mut self, place: Place, next: u32) {
        (self.place)(place).next.store(next, Ordering::Release);
    }

    fn must_wait(&mut self, place: Place) -> bool {
        (self.place)(place).wait.load(Ordering::Acquire) != 0
    }

    fn set_wait(&mut self, place: Place, wait: bool) {
        (self.place)(place).wait.store(u32::from(wait), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    /// The words as plain values: one interleaving at a time.
    #[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
    struct Words {
        tail: u32,
        next: [u32; 3],
        wait: [bool; 3],
    }

    impl Memory for Words {
        fn swap_tail(&mut self, new: u32) -> u32 {
            std::mem::replace(&mut self.tail, new)
        }
        fn replace_tail(&mut self, old: u32, new: u32) -> bool {
            let equal = self.tail == old;
            if equal {
                self.tail = new;
            }
            equal
        }
        fn next(&mut self, place: Place) -> u32 {
            self.next[place.0 as usize]
        }
        fn set_next(&mut self, place: Place, next: u32) {
            self.next[place.0 as usize] = next;
        }
        fn must_wait(&mut self, place: Place) -> bool {
            self.wait[place.0 as usize]
        }
        fn set_wait(&mut self, place: Place, wait: bool) {
            self.wait[place.0 as usize] = wait;
        }
    }

    /// Three threads that take the lock twice each: their steps, and rounds left.
    type State = (Words, [(Step, u8); 3]);

    fn moves(state: &State) -> Vec<State> {
        let mut all = Vec::new();
        for i in 0..3 {
            let (mut words, mut threads) = state.clone();
            let (step, rounds) = threads[i];
            threads[i] = match step {
                Step::Out if rounds == 0 => continue,
                Step::Out => (Step::ClearNext, rounds - 1),
                Step::Held => (Step::Next, rounds),
                step => (step.take(Place(i as u32), &mut words), rounds),
            };
            all.push((words, threads));
        }
        all
    }

    #[test]
    fn every_interleaving_excludes_and_ends() {
        let start: State = (Words::default(), [(Step::Out, 2); 3]);
        let mut index = HashMap::from([(start.clone(), 0)]);
        let mut parents: Vec<Vec<usize>> = vec![Vec::new()];
        let (mut open, mut ends) = (vec![start], Vec::new());
        while let Some(state) = open.pop() {
            let i = index[&state];
            let inside = |(s, _): &&(Step, u8)| {
                matches!(s, Step::Held | Step::Next | Step::Close | Step::AwaitLink | Step::Call(_))
            };
            assert!(state.1.iter().filter(inside).count() <= 1, "two inside: {state:?}");
            if state.1.iter().all(|&t| t == (Step::Out, 0)) {
                assert_eq!(state.0.tail, 0);
                ends.push(i);
            }
            for next in moves(&state) {
                let fresh = parents.len();
                let j = *index.entry(next.clone()).or_insert(fresh);
                if j == fresh {
                    parents.push(Vec::new());
                    open.push(next);
                }
                parents[j].push(i);
            }
        }
        // From every state the end can be reached.
        let mut good = vec![false; parents.len()];
        while let Some(i) = ends.pop() {
            if !std::mem::replace(&mut good[i], true) {
                ends.extend(&parents[i]);
            }
        }
        println!("model MCS lock: {} states", good.len());
        assert!(good.iter().all(|&g| g));
    }

    #[test]
    fn threads_count_together() {
        let lock = McsLock::new();
        let places: [McsPlace; 4] = Default::default();
        // Not atomic as a whole: lost updates would show.
        let sum = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for i in 0..4 {
                let (lock, places, sum) = (&lock, &places, &sum);
                scope.spawn(move || {
                    let place = |p: Place| &places[p.0 as usize];
                    for _ in 0..2000 {
                        lock.lock(Place(i), place, std::thread::yield_now);
                        let seen = sum.load(Ordering::Relaxed);
                        std::hint::black_box(seen);
                        sum.store(seen + 1, Ordering::Relaxed);
                        lock.unlock(Place(i), place, std::thread::yield_now);
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 8000);
    }
}
