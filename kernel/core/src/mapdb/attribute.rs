//! Cache attributes (reference 4.12): of the pages a space holds and of everything derived from them.
//!
//! The walk is [`Revoke`]'s, with another change to each entry: the same steps, pins and locks. What is mapped on later
//! inherits the attribute, because a mapping copies the entry it comes from. Status bits are left alone.

use super::Progress;
use super::env::{Env, SpaceRef};
use super::pte::{self, SHADOW};
use super::revoke::{Change, Revoke};
use super::session::{OutOfMemory, Session, Slot};
use super::unmap::USER_END;
use crate::types::PhysAddr;

/// A change of the cache attribute of a range; keep it between steps.
#[derive(Clone, Copy, Debug)]
pub struct AttributeOp {
    space: SpaceRef,
    cursor: u64,
    end: u64,
    cache: Option<u8>,
    revoke: Revoke,
    /// The attribute of the page at work.
    change: Change,
}

impl AttributeOp {
    /// Gives the pages of `space` in `[va, va + len)`, and everything derived from them, attribute `cache` (bit 0 PWT,
    /// bit 1 PCD, bit 2 PAT); none: the one that the memory has by itself ([`super::FrameInfo::cache`]). `len` 0 means up
    /// to the end of the address space. Kernel pages and holes are passed over, but holes of
    /// [`SpaceRef::PHYSICAL`] are filled.
    pub fn new(space: SpaceRef, va: u64, len: u64, cache: Option<u8>) -> Self {
        let end = if len == 0 { USER_END } else { va.saturating_add(len).min(USER_END) };
        let change = Change::attribute(0);
        Self { space, cursor: va, end, cache, revoke: Revoke::IDLE, change }
    }

    /// Goes on for about `budget` page-table entries and nodes. Between two steps the session may be ended and its
    /// flush done.
    ///
    /// # Errors
    /// [`OutOfMemory`]: a page could not be split, or a page of physical memory not be made. What came before has the new
    /// attribute; the operation may go on, and passes that page over.
    pub fn step<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        budget: &mut i32,
    ) -> Result<Progress, OutOfMemory> {
        loop {
            if self.revoke.is_active() && !self.run(s, budget)? {
                return Ok(Progress::More);
            }
            if self.cursor >= self.end {
                return Ok(Progress::Done);
            }
            if *budget <= 0 {
                return Ok(Progress::More);
            }
            *budget -= 1;
            let slot = s.find_own(self.space, self.cursor);
            if !slot.is_page() {
                self.pass_hole(s, &slot)?;
                continue;
            }
            let size = pte::size(slot.level);
            let page = s.env.read(slot.at + SHADOW);
            let base = self.cursor & !(size - 1);
            if page == 0 {
                self.cursor = base + size; // A kernel page: KIP or UTCB.
                continue;
            }
            let frame = pte::frame(slot.entry, slot.level);
            if !s.hold_tree(frame) {
                continue;
            }
            let natural = || s.env.frame_info(PhysAddr::new(frame)).cache;
            self.change = Change::attribute(self.cache.unwrap_or_else(natural));
            let lo = frame + (self.cursor - base);
            let hi = frame + (self.end - base).min(size);
            self.revoke = Revoke::start(page, lo, hi, true);
        }
    }

    /// True when the page at work is done.
    fn run<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        budget: &mut i32,
    ) -> Result<bool, OutOfMemory> {
        let (lo, length) = (self.revoke.frame(), self.revoke.len());
        s.hold_tree(lo);
        let (done, _) = self.revoke.run(s, self.change, budget);
        if done {
            self.cursor += length;
        }
        if self.revoke.take_short() { Err(OutOfMemory) } else { Ok(done) }
    }

    /// Passes a hole: on to the next used entry of the same table, or past the table.
    fn pass_hole<E: Env>(
        &mut self,
        s: &mut Session<'_, E>,
        slot: &Slot,
    ) -> Result<(), OutOfMemory> {
        if self.space == SpaceRef::PHYSICAL {
            let passed = s.provide(self.cursor, slot);
            if passed.is_err() {
                self.cursor = (self.cursor | 0xFFF) + 1;
            }
            self.cursor += passed?;
            return Ok(());
        }
        let index = slot.at >> 3 & 511;
        let size = pte::size(slot.level);
        let base = self.cursor & !(size - 1);
        self.cursor = match s.first_used(slot.at & !0xFFF, slot.used, index + 1) {
            Some(used) if slot.level < 4 || used < 256 => base + (used - index) * size,
            _ if slot.level == 4 => USER_END,
            _ => (self.cursor | (pte::size(slot.level + 1) - 1)) + 1,
        };
        Ok(())
    }
}
