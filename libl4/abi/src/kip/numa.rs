//! Lokal's NUMA description in the KIP.
//!
//! The word at KIP offset 0x160, reserved and zero in X.2, holds the KIP-relative offset of a table
//! (0 = none). Programs that know nothing of it read none of it.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | bits 15..0 version (1), 31..16 nodes n, 47..32 processors p, 63..48 memory ranges r |
//! | 8..16 | offsets from the table: bits 15..0 distances, 31..16 processors, 47..32 ranges |
//! | distances | n * n bytes, row by row: distance from node i to node j, 10 = local (ACPI SLIT) |
//! | processors | p bytes: the node of each processor |
//! | ranges | r * 16 bytes: word 0 first address with the node in bits 9..0; word 1 last address, as in memory descriptors |
//!
//! Each part is padded to 8 bytes. Nodes are numbered densely; a node may have no memory range, or
//! no processor.

use super::{KernelInterfacePage, Kip};
use crate::id::{CpuId, NodeId};
use core::mem::offset_of;

/// Version of the table.
pub const VERSION: u64 = 1;
/// Size of the table's head.
pub const HEAD_SIZE: usize = 16;
/// Size of a range entry.
pub const RANGE_SIZE: usize = 16;

/// A range of physical memory of one node, both ends inclusive, in units of 1 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRange {
    /// The node.
    pub node: NodeId,
    /// First address.
    pub low: u64,
    /// Last address.
    pub last: u64,
}

impl NodeRange {
    /// The words of the table entry.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        [(self.low & !0x3FF) | self.node.0 as u64, self.last & !0x3FF]
    }

    /// Decodes a table entry.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { node: NodeId(words[0] as u8), low: words[0] & !0x3FF, last: words[1] | 0x3FF }
    }
}

/// A reader of the table.
#[derive(Clone, Copy, Debug)]
pub struct NumaTable<'a> {
    kip: Kip<'a>,
    at: usize,
}

impl<'a> NumaTable<'a> {
    pub(super) fn find(kip: Kip<'a>) -> Option<Self> {
        let at = kip.word(offset_of!(KernelInterfacePage, numa_ptr)) as usize;
        let found = at >= super::FIXED_SIZE && kip.word(at) & 0xFFFF == VERSION;
        found.then_some(Self { kip, at })
    }

    fn field(self, word: usize, shift: u32) -> usize {
        ((self.kip.word(self.at + 8 * word) >> shift) & 0xFFFF) as usize
    }

    /// Number of nodes.
    #[must_use]
    pub fn node_count(self) -> usize {
        self.field(0, 16)
    }

    /// Number of processors.
    #[must_use]
    pub fn processor_count(self) -> usize {
        self.field(0, 32)
    }

    /// The distance from one node to another, 10 = local.
    #[must_use]
    pub fn distance(self, from: NodeId, to: NodeId) -> Option<u8> {
        let n = self.node_count();
        let known = from.index() < n && to.index() < n;
        let at = self.at + self.field(1, 0) + from.index() * n + to.index();
        known.then(|| self.kip.byte(at))
    }

    /// The node of a processor.
    #[must_use]
    pub fn node_of(self, cpu: CpuId) -> Option<NodeId> {
        let at = self.at + self.field(1, 16) + cpu.index();
        (cpu.index() < self.processor_count()).then(|| NodeId(self.kip.byte(at)))
    }

    /// The memory ranges.
    pub fn ranges(self) -> impl Iterator<Item = NodeRange> + 'a {
        let base = self.at + self.field(1, 32);
        (0..self.field(0, 48)).map(move |i| {
            let at = base + i * RANGE_SIZE;
            NodeRange::from_words([self.kip.word(at), self.kip.word(at + 8)])
        })
    }

    /// The node that a physical address belongs to.
    #[must_use]
    pub fn node_of_address(self, addr: u64) -> Option<NodeId> {
        self.ranges().find(|r| r.low <= addr && addr <= r.last).map(|r| r.node)
    }
}
