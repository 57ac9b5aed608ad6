//! The rules by which CPUs work on each other's threads (l4-smp 8.3 to 8.7, numa-l4 3.3).
//!
//! There is one primitive: a thread *travels*. Whatever one CPU wants done to a thread of another is done by
//! the thread that wants it, on the CPU that owns the other: the proxy of the thesis is the requester's own TCB,
//! handed from mailbox to mailbox. At every moment exactly one CPU owns a thread, or it is in one mailbox; so no
//! lock protects a thread, and every function of the kernel sees only threads of its own CPU.
//!
//! | | owner says | who may change the thread |
//! |---|---|---|
//! | at rest | its key names CPU n | CPU n |
//! | in transit | its key names [`NOWHERE`], `target` names n | nobody |
//!
//! Only CPU n ever writes n into a key, and it writes [`NOWHERE`] before it gives the thread away. Therefore n's
//! test of its own ownership is exact; what others read may be old, and they only decide by it where to look.
//! Two threads that go from one CPU to another arrive in the order in which they left (the mailbox is first in,
//! first out), which is what orders a thread before those that follow it.

pub mod life;
pub mod line;
// Interpreting all interleavings takes too long; loom itself switches stacks, which miri cannot follow.
#[cfg(all(test, not(miri)))]
mod loom_tests;
pub mod mailbox;
#[cfg(all(test, not(miri)))]
mod model;
pub mod pending;
pub mod post;
pub mod propagate;
pub mod transfer;

use crate::ipc::{Key, State};
use l4abi::id::ThreadId;

/// The CPU number in the key of a thread in transit.
pub const NOWHERE: u16 = u16::MAX;

/// Where a thread is, seen from one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// This CPU owns it.
    Here,
    /// It rests on another CPU, or did a moment ago.
    At(u16),
    /// It is under way to this CPU.
    Coming,
    /// It is under way to another CPU, or was a moment ago.
    Passing(u16),
    /// There is no such thread any more. It may go at any moment, so this may be seen although a look-up has just found
    /// the thread.
    Nobody,
}

/// Where the thread with this key and target is, seen from CPU `here`.
#[inline]
pub fn place(key: Key, target: u16, here: u16) -> Place {
    match key.cpu() {
        _ if key.state() == State::Absent => Place::Nobody,
        cpu if cpu == here => Place::Here,
        NOWHERE if target == here => Place::Coming,
        NOWHERE => Place::Passing(target),
        cpu => Place::At(cpu),
    }
}

/// Whether slot `number` of the array shows this CPU something of its past, or no thread: the page there, whose id this
/// is, is another thread's by now, or nobody's. Only without the translation that the CPU has can it say which.
///
/// Who looks a thread up compares ids anyway. Who has its slot from another CPU, as partner or on an errand, must ask
/// this before it believes what is there: a page that was a control block may become another thread's at once.
#[inline(always)]
pub fn shows_past(id: u64, number: u32) -> bool {
    id == 0 || ThreadId::from_raw(id).number().0 != number
}

/// What a thread does that has business with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Its business.
    Act,
    /// Goes on to this CPU.
    Follow(u16),
    /// Stays here and looks again in a moment.
    Wait,
    /// What finding nobody means for its business.
    GiveUp,
}

/// The next step of thread number `me` towards thread number `other`, which is at `place`.
///
/// Two threads that have business with each other would swap CPUs for ever if both followed: of two travellers
/// the one with the smaller number waits for the other to rest.
#[inline]
pub fn step(place: Place, me: u32, other: u32) -> Step {
    match place {
        Place::Here => Step::Act,
        Place::Nobody => Step::GiveUp,
        Place::At(cpu) => Step::Follow(cpu),
        Place::Coming => Step::Wait,
        Place::Passing(_) if me < other => Step::Wait,
        Place::Passing(cpu) => Step::Follow(cpu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let at = |cpu| Key::new(State::Waiting, cpu);
        assert_eq!(place(at(3), 9, 3), Place::Here);
        assert_eq!(place(at(4), 3, 3), Place::At(4), "an old target does not count at rest");
        assert_eq!(place(at(NOWHERE), 3, 3), Place::Coming);
        assert_eq!(place(at(NOWHERE), 4, 3), Place::Passing(4));
        for (gone, here) in [(Key::ABSENT, 0), (Key::new(State::Absent, 3), 3)] {
            assert_eq!(place(gone, 0, here), Place::Nobody, "nobody is of no CPU");
            assert_eq!(step(Place::Nobody, 1, 2), Step::GiveUp);
        }
        assert!((0..NOWHERE).all(|cpu| Key::ABSENT.cpu() != cpu && !Key::ABSENT.lives_on(cpu)));
    }

    #[test]
    fn of_two_that_chase_each_other_one_waits() {
        for (a, b) in [(1, 2), (2, 1), (7, 300)] {
            let first = step(Place::Passing(1), a, b);
            let second = step(Place::Passing(0), b, a);
            assert!((first == Step::Wait) != (second == Step::Wait));
        }
    }
}
