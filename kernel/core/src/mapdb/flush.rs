//! What an operation leaves for the processors' translation caches to forget, as a value.
//!
//! The operation fills a [`FlushSet`] while it holds locks; the kernel acts on it once, after the
//! locks are released: first the shootdowns, then [`FlushSet::take_retired`] returns the page
//! tables to their pools. The processor never caches a translation whose accessed bit is clear
//! (SDM 3A 4.10.2.3), so entries that were never used need no flush and are not in the set.

use super::env::{Env, SpaceRef};
use super::pte;

/// Ranges a [`FlushSet`] can tell apart before it becomes coarser.
pub const RANGES: usize = 6;

/// Pages of one space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlushRange {
    /// The space.
    pub space: SpaceRef,
    /// First address.
    pub start: u64,
    /// First address after the range; `u64::MAX` with `start` 0 is the whole space.
    pub end: u64,
}

impl FlushRange {
    /// Whether the whole space is meant.
    pub const fn is_all(&self) -> bool {
        self.start == 0 && self.end == u64::MAX
    }
}

/// What must be flushed, and the page tables that may be reused after that.
#[derive(Debug)]
pub struct FlushSet {
    ranges: [FlushRange; RANGES],
    len: usize,
    everything: bool,
    retired: u64,
}

impl Default for FlushSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FlushSet {
    /// Nothing to flush.
    pub const fn new() -> Self {
        let none = FlushRange { space: SpaceRef::NONE, start: 0, end: 0 };
        Self { ranges: [none; RANGES], len: 0, everything: false, retired: 0 }
    }

    /// Whether no processor has anything to forget and no table waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0 && !self.everything && self.retired == 0
    }

    /// The ranges to flush; meaningless if [`FlushSet::everything`].
    pub fn ranges(&self) -> &[FlushRange] {
        &self.ranges[..self.len]
    }

    /// Whether every processor must forget every user translation (more spaces than fit).
    pub const fn everything(&self) -> bool {
        self.everything
    }

    /// Whether the set covers the page at `va` of `space`.
    pub fn covers(&self, space: SpaceRef, va: u64) -> bool {
        self.everything
            || self.ranges().iter().any(|r| r.space == space && r.start <= va && va < r.end)
    }

    /// Adds `[va, va + len)` of `space`.
    #[inline]
    pub fn add(&mut self, space: SpaceRef, va: u64, len: u64) {
        if self.len > 0 {
            let last = &mut self.ranges[self.len - 1];
            if last.space == space && last.end == va {
                last.end = va + len;
                return;
            }
        }
        self.add_range(FlushRange { space, start: va, end: va + len });
    }

    /// Adds a whole space.
    pub fn add_space(&mut self, space: SpaceRef) {
        self.add_range(FlushRange { space, start: 0, end: u64::MAX });
    }

    #[inline(never)]
    fn add_range(&mut self, range: FlushRange) {
        if self.everything || self.ranges().iter().any(|r| covers(r, &range)) {
            return;
        }
        if self.len == RANGES {
            self.coarsen();
        }
        if self.ranges().iter().any(|r| covers(r, &range)) {
            return;
        }
        if self.len == RANGES {
            self.everything = true;
            return;
        }
        self.ranges[self.len] = range;
        self.len += 1;
    }

    /// Makes room: every space that has two ranges or more is flushed whole.
    fn coarsen(&mut self) {
        let mut kept = 0;
        for i in 0..self.len {
            let range = self.ranges[i];
            match self.ranges[..kept].iter().position(|r| r.space == range.space) {
                Some(j) => {
                    self.ranges[j].start = 0;
                    self.ranges[j].end = u64::MAX;
                }
                None => {
                    self.ranges[kept] = range;
                    kept += 1;
                }
            }
        }
        self.len = kept;
    }

    /// Keeps an empty page table of `space` at `va` until the flush is done. The shadow page
    /// carries the link, because a processor may still walk the table itself.
    pub(super) fn retire<E: Env>(&mut self, env: &E, space: SpaceRef, va: u64, table: u64) {
        env.write(table + pte::SHADOW, self.retired);
        self.retired = table;
        // One INVLPG forgets all cached upper-level entries of the context (SDM 3A 4.10.4.1).
        self.add_range(FlushRange { space, start: va, end: va + 4096 });
    }

    /// Call after the flush: returns the retired tables to their pools and empties the set.
    pub fn take_retired<E: Env>(&mut self, env: &E) {
        let mut table = core::mem::take(&mut self.retired);
        while table != 0 {
            let next = env.read(table + pte::SHADOW);
            env.free_table(table);
            table = next;
        }
        self.len = 0;
        self.everything = false;
    }
}

fn covers(outer: &FlushRange, inner: &FlushRange) -> bool {
    outer.space == inner.space && outer.start <= inner.start && inner.end <= outer.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge_and_overflow_only_gets_coarser() {
        let mut f = FlushSet::new();
        for i in 0..31 {
            f.add(SpaceRef(1), 0x1000 * i, 0x1000);
        }
        assert_eq!(f.ranges().len(), 1);
        for i in 0..40 {
            f.add(SpaceRef(2), 0x10_0000 * i, 0x1000);
        }
        assert!(f.covers(SpaceRef(2), 0x10_0000 * 39) && f.covers(SpaceRef(1), 0x1e000));
        assert!(!f.everything());
        for s in 3..30 {
            f.add(SpaceRef(s), 0, 0x1000);
        }
        assert!(f.everything() && f.covers(SpaceRef(29), 0));
    }
}
