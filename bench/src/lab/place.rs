//! Copies of the running program in memory of a chosen node.
//!
//! A program's own pages lie where the boot archive was unpacked, on one node. A thread in a space that shows
//! a copy at the same addresses uses code, data and stacks of the copy's node, and nothing of the program's: what an
//! experiment about placement needs. Spaces are at home where their creator is (`docs/design/memory.md`), so
//! whoever creates them goes there first ([`super::crew::Mover`]).

use libl4::{NodeId, arch, sigma0};

/// Size of a page.
pub const PAGE: u64 = 4096;

/// Memory that belongs to no Rust object, of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// First address; physical, and mapped there.
    pub base: u64,
    /// Size in bytes, a power of two.
    pub bytes: u64,
}

impl Memory {
    /// `bytes`, rounded up to a power of two, of a node; `None` if sigma0 has no such block.
    #[must_use]
    pub fn on(node: NodeId, bytes: u64) -> Option<Self> {
        let bytes = bytes.max(PAGE).next_power_of_two();
        let base = sigma0::any_page_on(node, bytes.trailing_zeros() as u8).ok()?;
        Some(Self { base, bytes })
    }

    /// The address `offset` bytes in, if it is inside.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<u64> {
        (offset < self.bytes).then(|| self.base + offset)
    }
}

/// A part of an address space and the memory that is to be seen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// First address in the space.
    pub at: u64,
    /// What lies there.
    pub memory: Memory,
    /// Bytes that are shown.
    pub bytes: u64,
}

impl View {
    /// The address here of what a thread there sees at `addr`.
    #[must_use]
    pub fn find(&self, addr: u64) -> Option<u64> {
        let offset = addr.checked_sub(self.at)?;
        if offset < self.bytes { self.memory.at(offset) } else { None }
    }

    /// A copy of the whole program, as it is now, on `node`: to be shown at the program's own addresses.
    #[must_use]
    pub fn of_program(node: NodeId) -> Option<Self> {
        let (first, last) = arch::image_range();
        let at = first & !(PAGE - 1);
        let bytes = (last + 1).next_multiple_of(PAGE) - at;
        let memory = Memory::on(node, bytes)?;
        arch::copy_memory(memory.base, at, bytes);
        Some(Self { at, memory, bytes })
    }

    /// Copies what the program has at `addr` now into the copy; `bytes` is a multiple of 8.
    pub fn refresh(&self, addr: u64, bytes: u64) {
        if let Some(to) = self.find(addr) {
            arch::copy_memory(to, addr, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_translate_what_they_show() {
        let memory = Memory { base: 0x10_0000, bytes: 0x4000 };
        let view = View { at: 0x240_0000, memory, bytes: 0x3000 };
        assert_eq!(view.find(0x240_0000), Some(0x10_0000));
        assert_eq!(view.find(0x240_2FFF), Some(0x10_2FFF));
        assert_eq!(view.find(0x240_3000), None, "the rest of the block is not shown");
        assert_eq!(view.find(0x23F_FFFF), None);
        assert_eq!(
            View { bytes: 0x9000, ..view }.find(0x240_4000),
            None,
            "nothing beyond the block"
        );
    }
}
