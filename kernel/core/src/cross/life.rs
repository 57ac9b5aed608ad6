//! How long an object lives that threads of several CPUs refer to: a space and the threads in it.
//!
//! The count of references is never 0 while the object lives, and 0 is for ever: who makes it has the first
//! reference, [`Life::enter`] takes one more only where there is one, and whoever leaves as the last one takes the
//! object away. So a thread that is made in a space while another CPU deletes the last thread of it either comes
//! first, and the space stays, or finds it gone.
//!
//! A CPU finds the object through one of its threads, so it may look at the count of an object that is being
//! taken away. The page must therefore not become anything else until every CPU has been at a point where it
//! has nothing in hand that it found before: pages of spaces leave as pages of control blocks do, behind a request to all
//! CPUs to forget everything. Between finding and [`Life::enter`] a CPU answers no request.

use super::mailbox::Word;

/// The references to an object.
#[derive(Debug)]
pub struct Life<W>(W);

/// What [`Life::leave`] found.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Others have references.
    Alive,
    /// That was the last one: the caller takes the object away.
    Last,
}

impl<W: Word> Life<W> {
    /// A new object: one reference, its maker's. Made of a word that is 1.
    pub const fn new(one: W) -> Self {
        Self(one)
    }

    /// References there are; 0 = gone.
    pub fn count(&self) -> u64 {
        self.0.load()
    }

    /// Takes a reference. False if the object is gone.
    #[inline(always)]
    #[must_use]
    pub fn enter(&self) -> bool {
        let mut count = self.0.load();
        while count != 0 {
            match self.0.exchange(count, count + 1) {
                Ok(_) => return true,
                Err(found) => count = found,
            }
        }
        false
    }

    /// Gives one's reference back.
    #[inline(always)]
    pub fn leave(&self) -> Left {
        match self.0.subtract(1) {
            1 => Left::Last,
            count => {
                debug_assert!(count != 0, "nobody had a reference");
                Left::Alive
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn gone_is_for_ever() {
        let life = Life::new(AtomicU64::new(1));
        assert!(life.enter());
        assert_eq!((life.count(), life.leave()), (2, Left::Alive));
        assert_eq!(life.leave(), Left::Last);
        assert!(!life.enter() && !life.enter());
        assert_eq!(life.count(), 0);
    }
}
