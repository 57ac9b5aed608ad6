//! The rest of a space's user half: kernel pages (KIP, UTCBs), and looking pages up for the kernel.

use super::env::{Env, SpaceRef};
use super::pte::{self, SHADOW};
use super::session::{OutOfMemory, Session};
use crate::types::PhysAddr;

/// A page found by [`Session::look_up`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The byte of memory that the address leads to.
    pub at: PhysAddr,
    /// Rights of user level (r 4, w 2, x 1).
    pub rights: u8,
    /// 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.
    pub level: u8,
    /// Cache attribute: bit 0 PWT, bit 1 PCD, bit 2 PAT.
    pub cache: u8,
    /// Whether the page is one of the kernel's (KIP, UTCB) and not in the database.
    pub kernel: bool,
}

impl<E: Env> Session<'_, E> {
    /// Enters the kernel's page `page` at `va` of `space`, for user level to read and, if
    /// `writable`, to write. It is not in the database: nobody can map it on or unmap it. It must
    /// lie in an area for which [`Env::reserved`] holds. What is mapped there is left alone (the
    /// areas are fixed before anything is mapped into a space, reference 4.10).
    ///
    /// # Errors
    /// [`OutOfMemory`]: a table is missing.
    pub fn enter_kernel_page(
        &mut self,
        space: SpaceRef,
        va: u64,
        page: PhysAddr,
        writable: bool,
    ) -> Result<(), OutOfMemory> {
        let home = self.env.home(space);
        let slot = self.find_target(space, va, 1, home)?;
        if slot.level == 1 && slot.entry == 0 {
            let write = if writable { pte::W } else { 0 };
            let no_execute = if self.env.nx() { pte::NX } else { 0 };
            let flags = pte::P | pte::U | pte::A | pte::D | write | no_execute;
            self.fill(&slot, page.as_u64() | flags, 0);
        }
        Ok(())
    }

    /// Removes a kernel page at `va`; returns its frame if there was one.
    pub fn unmap_kernel_page(&mut self, space: SpaceRef, va: u64) -> Option<PhysAddr> {
        self.hold_space(space);
        let slot = self.find(space, va, 1);
        if slot.level != 1 || !slot.is_page() || self.env.read(slot.at + SHADOW) != 0 {
            return None;
        }
        let old = self.env.swap(slot.at, 0);
        self.flush.add(space, va & !0xFFF, 4096);
        self.forget_tables();
        Some(PhysAddr::new(pte::frame(old, 1)))
    }

    /// The page at `va`, as user level sees it. The answer holds until the session ends only if
    /// the caller keeps the mapping lock of the frame; else it is a hint to be used before
    /// interrupts are allowed again and the space's processors have been flushed.
    pub fn look_up(&mut self, space: SpaceRef, va: u64) -> Option<Found> {
        self.hold_space(space);
        let slot = self.find(space, va, 1);
        if !slot.is_page() {
            return None;
        }
        let inside = va & (pte::size(slot.level) - 1);
        let small = pte::resize(slot.entry, slot.level, 1);
        Some(Found {
            at: PhysAddr::new(pte::frame(slot.entry, slot.level) + inside),
            rights: pte::rights(slot.entry),
            level: slot.level,
            cache: (small >> 3 & 3) as u8 | (small >> 5 & 4) as u8,
            kernel: self.env.read(slot.at + SHADOW) == 0,
        })
    }

    /// Like [`Session::look_up`], for an access that the kernel makes in the name of user level
    /// (string copies): fails if the rights do not allow it, and sets the status bits that the
    /// processor would have set. The mapping lock of the frame is held afterwards.
    pub fn access(&mut self, space: SpaceRef, va: u64, write: bool) -> Option<Found> {
        loop {
            let found = self.look_up(space, va)?;
            if write && found.rights & pte::WRITE == 0 {
                return None;
            }
            if found.kernel {
                return Some(found);
            }
            if !self.hold_tree(found.at.as_u64()) {
                continue;
            }
            self.hold_space(space);
            let slot = self.find(space, va, 1);
            let set = if write { pte::A | pte::D } else { pte::A };
            if slot.entry & set != set {
                self.env.fetch_or(slot.at, set);
            }
            return Some(found);
        }
    }
}
