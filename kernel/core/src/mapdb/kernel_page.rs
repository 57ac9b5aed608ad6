//! Pages of the kernel in user spaces: UTCBs and the KIP. They have no mapping node (their shadow is 0), so no
//! operation maps, grants or unmaps them.

use super::env::{Env, SpaceRef};
use super::pte;
use super::session::{OutOfMemory, Session};
use crate::types::PhysAddr;

impl<E: Env> Session<'_, E> {
    /// Enters `page` at `va`, readable by user level and writable if `writable`. What is mapped there is left
    /// alone: areas are fixed before anything can be mapped into a space.
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
            self.fill(&slot, page.as_u64() | pte::P | pte::U | pte::A | pte::D | write, 0);
        }
        Ok(())
    }
}
