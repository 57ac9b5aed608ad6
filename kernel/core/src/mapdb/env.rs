//! What the mapping database needs from the kernel: memory, frames, spaces and locks.

use crate::types::{NodeId, PhysAddr, PhysRange};

/// Names a space. The kernel chooses the number (the address of its space object, an index);
/// the database only stores and compares it. Zero names no space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct SpaceRef(pub u64);

impl SpaceRef {
    /// No space.
    pub const NONE: Self = Self(0);
    /// Physical memory itself, the parent of all memory: sigma0's mappings come from here
    /// (reference 5.6). It is a space with a top table that no CPU ever loads.
    pub const PHYSICAL: Self = Self(u64::MAX);
}

/// A run of frames that are treated alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameInfo {
    /// The run: the largest range known to share the other fields.
    pub range: PhysRange,
    /// Node of the memory; for device memory the node whose mapping lock guards it.
    pub node: NodeId,
    /// Whether user level may have it (false for kernel memory and for what is not there).
    pub usable: bool,
    /// Page-table attribute of the memory: bit 0 PWT, bit 1 PCD, bit 2 PAT.
    pub cache: u8,
}

/// The surroundings of the mapping database. All calls are short and never block except the
/// locks, which spin.
///
/// Addresses of tables, nodes and index pages are physical addresses of pool memory, so an entry
/// of a page table leads to the table without a translation table.
pub trait Env {
    /// Reads the word at `at`, which lies in a table, node or index page.
    fn read(&self, at: u64) -> u64;
    /// Writes the word at `at`.
    fn write(&self, at: u64, value: u64);
    /// Atomically replaces the word at `at` and returns the old one. Page-table entries are
    /// replaced this way because the processor sets status bits in them (SDM 3A 4.8).
    fn swap(&self, at: u64, value: u64) -> u64;
    /// Atomically ands `mask` to the word at `at` and returns the old one.
    fn fetch_and(&self, at: u64, mask: u64) -> u64;
    /// Atomically ors `mask` to the word at `at` and returns the old one.
    fn fetch_or(&self, at: u64, mask: u64) -> u64;

    /// A mapping node of 64 bytes (contents arbitrary) in the memory of `home`.
    fn alloc_node(&self, home: NodeId) -> Option<u64>;
    /// Returns a mapping node to the pool it came from.
    fn free_node(&self, at: u64);
    /// The same for a node that is known to have come from the pool of `home`.
    #[inline(always)]
    fn free_node_at(&self, at: u64, home: NodeId) {
        let _ = home;
        self.free_node(at);
    }
    /// A page table with its shadow: two pages, aligned to two pages. The first page is zero, the
    /// second arbitrary.
    fn alloc_table(&self, home: NodeId) -> Option<u64>;
    /// Returns a table pair. Its first page is zero again, so it can be kept for reuse as it is.
    fn free_table(&self, at: u64);
    /// A zeroed index page of children (`pair`: two pages, aligned to two pages).
    fn alloc_index(&self, home: NodeId, pair: bool) -> Option<u64>;
    /// Returns an index page, which is zero again.
    fn free_index(&self, at: u64, pair: bool);

    /// What the frame at `frame` is.
    fn frame_info(&self, frame: PhysAddr) -> FrameInfo;
    /// Largest hardware page to use as a level: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.
    fn max_level(&self) -> u8;
    /// Whether the processor honours the no-execute bit.
    fn nx(&self) -> bool;

    /// Top table pair of the space: a root table whose lower 256 entries belong to the database
    /// and, one page on, its shadow page.
    fn top(&self, space: SpaceRef) -> u64;
    /// Home node of the space: its tables and nodes are allocated there (numa-l4 4.1.2).
    fn home(&self, space: SpaceRef) -> NodeId;
    /// Whether `[va, va + len)` touches the space's KIP or UTCB area.
    fn reserved(&self, space: SpaceRef, va: u64, len: u64) -> bool;
    /// A 512 GiB entry of the space's top table was set: copy it to the other root tables.
    /// Called with the space's lock held.
    fn top_changed(&self, space: SpaceRef, index: usize, entry: u64);

    /// Takes the mapping lock of a node.
    fn lock_tree(&self, node: NodeId);
    /// Gives it back.
    fn unlock_tree(&self, node: NodeId);
    /// Takes the lock of a space's page-table structure; no other space's lock is held.
    fn lock_space(&self, space: SpaceRef);
    /// Gives it back.
    fn unlock_space(&self, space: SpaceRef);
}
