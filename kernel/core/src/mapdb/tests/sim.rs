//! A machine for the tests: memory that notices wild, stale and leaked accesses, locks that check
//! their order, and frames of two nodes with a hole and a device.

use std::cell::{Cell, RefCell};

use crate::mapdb::env::{Env, FrameInfo, SpaceRef};
use crate::mapdb::pte;
use crate::types::{NodeId, PhysAddr, PhysRange};

pub const NODES: u64 = 2;
/// Pool memory starts here; above all frames, so that a mix-up is noticed.
const POOL: u64 = 1 << 40;

const FREE: u8 = 0;
const NODE: u8 = 1;
const TABLE: u8 = 2;
const INDEX: u8 = 3;

/// How a simulated machine is shaped.
#[derive(Clone, Copy)]
pub struct Shape {
    pub max_level: u8,
    pub nx: bool,
    pub pool_pages: u64,
}

pub struct SimSpace {
    pub top: u64,
    pub home: NodeId,
    pub areas: Vec<(u64, u64)>,
    pub alive: bool,
}

pub struct Sim {
    words: Vec<Cell<u64>>,
    /// State per 64-byte line.
    lines: Vec<Cell<u8>>,
    pool_bytes: u64,
    next: [Cell<u64>; NODES as usize],
    free_nodes: [RefCell<Vec<u64>>; NODES as usize],
    free_tables: [RefCell<Vec<u64>>; NODES as usize],
    free_pages: [RefCell<Vec<u64>>; NODES as usize],
    pub nodes: Cell<u64>,
    pub tables: Cell<u64>,
    pub indexes: Cell<u64>,
    pub spaces: RefCell<Vec<SimSpace>>,
    tree: Cell<Option<NodeId>>,
    space: Cell<SpaceRef>,
    /// The allocation that fails, counted down; 0 never.
    pub fail_in: Cell<u64>,
    pub failed: Cell<bool>,
    shape: Shape,
}

impl Sim {
    /// A machine with the physical space and `spaces` more, homes alternating.
    pub fn new(shape: Shape, spaces: usize) -> Self {
        let bytes = shape.pool_pages * 4096;
        let sim = Self {
            words: vec![Cell::new(0x5A5A); (bytes * NODES / 8) as usize],
            lines: vec![Cell::new(FREE); (bytes * NODES / 64) as usize],
            pool_bytes: bytes,
            next: [Cell::new(POOL), Cell::new(POOL + bytes)],
            free_nodes: Default::default(),
            free_tables: Default::default(),
            free_pages: Default::default(),
            nodes: Cell::new(0),
            tables: Cell::new(0),
            indexes: Cell::new(0),
            spaces: RefCell::new(Vec::new()),
            tree: Cell::new(None),
            space: Cell::new(SpaceRef::NONE),
            fail_in: Cell::new(0),
            failed: Cell::new(false),
            shape,
        };
        for i in 0..=spaces {
            let home = NodeId::new((i % 2) as u8);
            let top = sim.alloc_table(home).expect("top table");
            sim.write(top + pte::SHADOW + 256 * 8, 0);
            let areas =
                if i == 0 { vec![] } else { vec![(0x40_3000, 0x1000), (0x60_0000, 0x4000)] };
            sim.spaces.borrow_mut().push(SimSpace { top, home, areas, alive: true });
        }
        sim
    }

    fn index(&self, at: u64) -> usize {
        assert!(at.is_multiple_of(8), "unaligned {at:#x}");
        let offset = at.wrapping_sub(POOL);
        assert!(offset < self.pool_bytes * NODES, "wild access to {at:#x}");
        assert_ne!(self.lines[(offset / 64) as usize].get(), FREE, "stale access to {at:#x}");
        (offset / 8) as usize
    }

    /// Whether there is something at `at` that may be read.
    pub fn holds(&self, at: u64) -> bool {
        let offset = at.wrapping_sub(POOL);
        offset < self.pool_bytes * NODES && self.lines[(offset / 64) as usize].get() != FREE
    }

    fn mark(&self, at: u64, bytes: u64, from: u8, to: u8) {
        let first = ((at - POOL) / 64) as usize;
        for line in &self.lines[first..first + (bytes / 64) as usize] {
            assert_eq!(line.get(), from, "double allocation or free at {at:#x}");
            line.set(to);
        }
    }

    fn node_of(&self, at: u64) -> usize {
        ((at - POOL) / self.pool_bytes) as usize
    }

    fn denied(&self) -> bool {
        let n = self.fail_in.get();
        if n == 0 {
            return false;
        }
        self.fail_in.set(n - 1);
        if n == 1 {
            self.failed.set(true);
        }
        n == 1
    }

    fn bump(&self, node: usize, bytes: u64) -> Option<u64> {
        let at = self.next[node].get().next_multiple_of(bytes);
        let end = POOL + self.pool_bytes * (node as u64 + 1);
        if at + bytes > end {
            return None;
        }
        self.next[node].set(at + bytes);
        Some(at)
    }

    fn fill_words(&self, at: u64, bytes: u64, value: u64) {
        for i in 0..bytes / 8 {
            self.words[self.index(at + i * 8)].set(value);
        }
    }

    fn assert_zero(&self, at: u64, bytes: u64) {
        for i in 0..bytes / 8 {
            assert_eq!(self.read(at + i * 8), 0, "page {at:#x} is not empty at {i}");
        }
    }

    pub fn space_index(space: SpaceRef) -> usize {
        if space == SpaceRef::PHYSICAL { 0 } else { space.0 as usize }
    }

    pub fn line_state_is_node(&self, at: u64) -> bool {
        at >= POOL && self.lines[((at - POOL) / 64) as usize].get() == NODE
    }

    pub fn locks_free(&self) -> bool {
        self.tree.get().is_none() && self.space.get() == SpaceRef::NONE
    }
}

impl Env for Sim {
    fn read(&self, at: u64) -> u64 {
        self.words[self.index(at)].get()
    }

    fn write(&self, at: u64, value: u64) {
        self.words[self.index(at)].set(value);
    }

    fn swap(&self, at: u64, value: u64) -> u64 {
        self.words[self.index(at)].replace(value)
    }

    fn fetch_and(&self, at: u64, mask: u64) -> u64 {
        let old = self.read(at);
        self.write(at, old & mask);
        old
    }

    fn fetch_or(&self, at: u64, mask: u64) -> u64 {
        let old = self.read(at);
        self.write(at, old | mask);
        old
    }

    fn alloc_node(&self, home: NodeId) -> Option<u64> {
        if self.denied() {
            return None;
        }
        let node = home.index();
        let at = match self.free_nodes[node].borrow_mut().pop() {
            Some(at) => at,
            None => self.bump(node, 64)?,
        };
        self.mark(at, 64, FREE, NODE);
        self.nodes.set(self.nodes.get() + 1);
        Some(at)
    }

    fn free_node(&self, at: u64) {
        self.fill_words(at, 64, 0xDEAD_DEAD_DEAD_DEAD);
        self.mark(at, 64, NODE, FREE);
        self.nodes.set(self.nodes.get() - 1);
        self.free_nodes[self.node_of(at)].borrow_mut().push(at);
    }

    fn alloc_table(&self, home: NodeId) -> Option<u64> {
        if self.denied() {
            return None;
        }
        let node = home.index();
        let recycled = self.free_tables[node].borrow_mut().pop();
        let fresh = recycled.is_none();
        let at = match recycled {
            Some(at) => at,
            None => self.bump(node, 8192)?,
        };
        self.mark(at, 8192, FREE, TABLE);
        if fresh {
            self.fill_words(at, 4096, 0);
        }
        self.tables.set(self.tables.get() + 1);
        Some(at)
    }

    fn free_table(&self, at: u64) {
        self.assert_zero(at, 4096);
        self.mark(at, 8192, TABLE, FREE);
        self.tables.set(self.tables.get() - 1);
        self.free_tables[self.node_of(at)].borrow_mut().push(at);
    }

    fn alloc_index(&self, home: NodeId, pair: bool) -> Option<u64> {
        if self.denied() {
            return None;
        }
        let node = home.index();
        let bytes = if pair { 8192 } else { 4096 };
        let recycled = if pair { None } else { self.free_pages[node].borrow_mut().pop() };
        let at = match recycled {
            Some(at) => at,
            None => self.bump(node, bytes)?,
        };
        self.mark(at, bytes, FREE, INDEX);
        self.fill_words(at, bytes, 0);
        self.indexes.set(self.indexes.get() + 1);
        Some(at)
    }

    fn free_index(&self, at: u64, pair: bool) {
        let bytes = if pair { 8192 } else { 4096 };
        self.assert_zero(at, bytes);
        self.mark(at, bytes, INDEX, FREE);
        self.indexes.set(self.indexes.get() - 1);
        let pages = &mut self.free_pages[self.node_of(at)].borrow_mut();
        pages.push(at);
        if pair {
            pages.push(at + 4096);
        }
    }

    fn frame_info(&self, frame: PhysAddr) -> FrameInfo {
        const M: u64 = 1 << 20;
        // node 0: 0..1 GiB + 3 MiB + 8 KiB with a hole; node 1 up to 3 GiB; then a device.
        let edges = [
            (0, false, 0, 0),
            (M, true, 0, 0),
            (1024 * M + 3 * M + 8192, true, 1, 0),
            (3072 * M, true, 0, 2),
            (3072 * M + 64 * M, false, 0, 0),
            (1 << 46, false, 0, 0),
        ];
        let at = frame.as_u64();
        let i = edges.iter().rposition(|e| e.0 <= at).expect("an edge at 0");
        let end = edges.get(i + 1).map_or(u64::MAX, |e| e.0);
        FrameInfo {
            range: PhysRange::new(PhysAddr::new(edges[i].0), PhysAddr::new(end)),
            node: NodeId::new(edges[i].2),
            usable: edges[i].1,
            cache: edges[i].3,
        }
    }

    fn max_level(&self) -> u8 {
        self.shape.max_level
    }

    fn nx(&self) -> bool {
        self.shape.nx
    }

    fn top(&self, space: SpaceRef) -> u64 {
        self.spaces.borrow()[Self::space_index(space)].top
    }

    fn home(&self, space: SpaceRef) -> NodeId {
        self.spaces.borrow()[Self::space_index(space)].home
    }

    fn reserved(&self, space: SpaceRef, va: u64, len: u64) -> bool {
        let spaces = self.spaces.borrow();
        let areas = &spaces[Self::space_index(space)].areas;
        areas.iter().any(|&(start, size)| va < start + size && start < va.saturating_add(len))
    }

    fn top_changed(&self, space: SpaceRef, index: usize, entry: u64) {
        assert!(index < 256);
        assert_eq!(self.space.get(), space, "top entry changed without the lock");
        assert!(entry == 0 || entry & 0xFFF == pte::TABLE);
    }

    fn lock_tree(&self, node: NodeId) {
        assert_eq!(self.tree.get(), None, "two mapping locks");
        assert_eq!(self.space.get(), SpaceRef::NONE, "mapping lock after a space lock");
        self.tree.set(Some(node));
    }

    fn unlock_tree(&self, node: NodeId) {
        assert_eq!(self.tree.replace(None), Some(node));
    }

    fn lock_space(&self, space: SpaceRef) {
        assert_eq!(self.space.replace(space), SpaceRef::NONE, "two space locks");
    }

    fn unlock_space(&self, space: SpaceRef) {
        assert_eq!(self.space.replace(SpaceRef::NONE), space);
    }
}
