//! Where all mappings begin: nodes for memory as it comes from the machine.
//!
//! [`SpaceRef::PHYSICAL`] is a space with identity mappings that no processor loads. sigma0's map
//! items take their pages from it, so sigma0's own tables are not consulted, the same frame can be
//! mapped any number of times, and there is one tree per frame (reference 5.6). Its pages are
//! made on demand, as large as the run of like frames allows: a page never crosses from one node's
//! memory to another's, and device memory carries its cache attribute from here.

use super::env::{Env, FrameInfo, SpaceRef};
use super::node::{self, Fresh};
use super::pte;
use super::session::{OutOfMemory, Session, Slot};
use crate::types::{NodeId, PhysAddr};

impl<E: Env> Session<'_, E> {
    /// Makes the page of physical memory at `at`, where `hole` was found. Returns how many bytes
    /// to pass because there is no usable memory: 0 if the page can be looked up again.
    #[inline(never)]
    pub(super) fn provide(&mut self, at: u64, hole: &Slot) -> Result<u64, OutOfMemory> {
        let env = self.env;
        let info = env.frame_info(PhysAddr::new(at));
        let end = info.range.end.as_u64();
        if !info.usable {
            return Ok(((end.max(at + 1) + 4095) & !4095) - at);
        }
        let limit = hole.level.min(env.max_level());
        let Some(level) = (1..=limit).rev().find(|&level| fits(&info, at, level)) else {
            return Ok(4096); // A range that does not start or end with a page.
        };
        if !self.hold_tree(at) {
            return Ok(0); // The hole may be filled meanwhile.
        }
        self.make_root(at & !(pte::size(level) - 1), level, &info, info.node)?;
        Ok(0)
    }

    fn make_root(
        &mut self,
        start: u64,
        level: u8,
        info: &FrameInfo,
        home: NodeId,
    ) -> Result<(), OutOfMemory> {
        let env = self.env;
        let slot = self.find_target(SpaceRef::PHYSICAL, start, level, home)?;
        if slot.entry != 0 {
            return Ok(());
        }
        let root = env.alloc_node(home).ok_or(OutOfMemory)?;
        let fresh = Fresh { space: SpaceRef::PHYSICAL, va: start, level, entry: slot.at };
        node::init_root(env, root, fresh);
        let cache = info.cache as u64;
        let mut entry = start | pte::P | pte::W | pte::U | (cache & 3) << 3;
        entry |= match (level, cache & 4 != 0) {
            (1, true) => pte::PAT_SMALL,
            (1, false) => 0,
            (_, true) => pte::PS | pte::PAT_LARGE,
            (_, false) => pte::PS,
        };
        self.fill(&slot, entry, root);
        Ok(())
    }
}

/// Whether the page of `level` around `at` lies in the run of frames.
fn fits(info: &FrameInfo, at: u64, level: u8) -> bool {
    let start = at & !(pte::size(level) - 1);
    info.range.start.as_u64() <= start && start + pte::size(level) <= info.range.end.as_u64()
}
