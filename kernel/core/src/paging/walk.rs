//! Walking page tables as the processor does (SDM 3A 4.5.4, 4.6.1).
//!
//! The `boot` record computes where everything lies with this, by reading the live tables rather
//! than by repeating what was asked for.

use super::{Entry, Flags, Leaf};
use crate::types::{PhysAddr, VirtAddr};

/// What all levels of a walk together allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Every level has the writable bit.
    pub write: bool,
    /// No level has the execute-disable bit.
    pub execute: bool,
    /// Every level has the user bit.
    pub user: bool,
}

/// The result of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    virt: VirtAddr,
    tables: [PhysAddr; 4],
    depth: u8,
    /// The page at the end; `None` if an entry on the way is not present.
    pub leaf: Option<Leaf>,
    /// What the levels that were read allow together.
    pub rights: Rights,
}

impl Walk {
    /// Physical address of the byte that was asked for.
    pub fn phys(&self) -> Option<PhysAddr> {
        let leaf = self.leaf?;
        Some(leaf.phys.offset(self.virt.as_u64() & (leaf.size.bytes() - 1)))
    }

    /// The tables that were read, root first.
    pub fn tables(&self) -> &[PhysAddr] {
        &self.tables[..usize::from(self.depth)]
    }

    /// Level of the last table that was read: 4 is the root, 1 the lowest.
    pub fn level(&self) -> u8 {
        5 - self.depth
    }

    /// The table of `level` on the way, if the walk came that far down.
    pub fn table_of_level(&self, level: u8) -> Option<PhysAddr> {
        self.tables().get(usize::from(4u8.checked_sub(level)?)).copied()
    }
}

/// Walks from `root` to `virt`. `read` returns the entry of a table, or `None` for a table that
/// the caller cannot or will not read, which ends the walk as if the entry were not present.
pub fn walk(
    root: PhysAddr,
    virt: VirtAddr,
    mut read: impl FnMut(PhysAddr, usize) -> Option<Entry>,
) -> Walk {
    let rights = Rights { write: true, execute: true, user: true };
    let mut walk = Walk { virt, tables: [PhysAddr::ZERO; 4], depth: 0, leaf: None, rights };
    let mut table = root;
    for level in (1..=4u8).rev() {
        walk.tables[usize::from(walk.depth)] = table;
        walk.depth += 1;
        let Some(entry) = read(table, virt.table_index(level)) else { break };
        if !entry.is_present() {
            break;
        }
        let flags = Flags::from_bits_truncate(entry.bits());
        walk.rights.write &= flags.contains(Flags::WRITABLE);
        walk.rights.user &= flags.contains(Flags::USER_ACCESSIBLE);
        walk.rights.execute &= !flags.contains(Flags::NO_EXECUTE);
        walk.leaf = entry.as_leaf(level);
        match entry.as_table(level) {
            Some(next) => table = next,
            None => break,
        }
    }
    walk
}
