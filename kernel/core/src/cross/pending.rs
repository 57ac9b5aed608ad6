//! Changes of mappings that are made but not forgotten everywhere yet.
//!
//! An operation empties entries under a lock, releases the lock, and only then has other CPUs flush. Another
//! operation that comes between finds nothing to do; if it returned at once, its caller would believe a page
//! gone that some CPU still reaches. So a CPU announces that it is about to change entries, and withdraws that
//! when everybody has flushed; and who promises that mappings are gone waits for all announcements that stand when it
//! has looked.
//!
//! The announcement is a counter that one CPU writes, odd while it stands: a waiter sees each one end, however
//! soon the next begins. Nobody waits before he has withdrawn his own, so waiting makes no circles.

use super::mailbox::Word;

/// The announcement of one CPU.
#[derive(Debug, Default)]
pub struct Pending<W>(W);

impl<W: Word> Pending<W> {
    /// Nothing announced; made of a word that is 0.
    pub const fn new(word: W) -> Self {
        Self(word)
    }

    /// Whether it stands.
    #[inline(always)]
    pub fn stands(&self) -> bool {
        self.0.load() & 1 != 0
    }

    /// Announces: called by the owner before it changes an entry. Nothing if it stands.
    #[inline(always)]
    pub fn announce(&self) {
        let count = self.0.load();
        if count & 1 == 0 {
            self.0.store(count + 1);
        }
    }

    /// Withdraws: called by the owner after all flushes. Nothing if it does not stand.
    #[inline(always)]
    pub fn withdraw(&self) {
        let count = self.0.load();
        if count & 1 != 0 {
            self.0.store(count + 1);
        }
    }

    /// Waits until the announcement that stands now, if one does, is withdrawn.
    #[inline]
    pub fn wait(&self, mut meanwhile: impl FnMut()) {
        let count = self.0.load();
        if count & 1 != 0 {
            while self.0.load() == count {
                meanwhile();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn a_waiter_waits_for_what_stands_and_for_no_other() {
        let pending = Pending::new(AtomicU64::new(0));
        pending.wait(|| panic!("nothing stands"));
        pending.announce();
        pending.announce();
        assert!(pending.stands());
        let mut rounds = 0;
        pending.wait(|| {
            rounds += 1;
            if rounds == 3 {
                pending.withdraw();
                pending.withdraw();
                pending.announce();
            }
        });
        assert_eq!(rounds, 3, "the next announcement is not its matter");
        assert!(pending.stands());
    }
}
