//! The common paths alone, on memory without checks, to count their instructions:
//!
//! ```text
//! cargo test --release -p kcore --lib --no-run    (prints the name of the test program)
//! valgrind --tool=callgrind --toggle-collect='*batch_of_maps*' PROGRAM common_paths
//! valgrind --tool=callgrind --toggle-collect='*batch_of_unmaps*' PROGRAM common_paths
//! ```
//!
//! The total divided by [`ROUNDS`] times [`BATCH`] is the count per page. Locks are a flag here; in the
//! kernel add what its locks and slabs cost.

use std::cell::Cell;
use std::hint::black_box;

use crate::mapdb::env::{Env, FrameInfo, SpaceRef};
use crate::mapdb::flush::FlushSet;
use crate::mapdb::pte;
use crate::mapdb::session::{Hint, Session};
use crate::mapdb::{MapOp, Progress, UnmapOp};
use crate::types::{NodeId, PhysAddr, PhysRange};

const ROUNDS: u64 = 1000;
const BATCH: u64 = 31;
const WORDS: usize = 1 << 16;

struct Bare {
    words: Box<[Cell<u64>; WORDS]>,
    /// Free nodes, linked through their first word; index of the next fresh page.
    free: Cell<u64>,
    next: Cell<u64>,
    tables: Cell<u64>,
    locks: [Cell<bool>; 4],
    hint: Cell<Hint>,
}

impl Bare {
    fn new() -> Self {
        let words: Vec<Cell<u64>> = vec![Cell::new(0); WORDS];
        let words = words.try_into().expect("size");
        let locks = Default::default();
        // Tables of the three spaces take the first six pages.
        Self {
            hint: Cell::new(Hint::NONE),
            words,
            free: Cell::new(0),
            next: Cell::new(256 << 10),
            tables: Cell::new(8192 * 4),
            locks,
        }
    }

    #[inline(always)]
    fn word(&self, at: u64) -> &Cell<u64> {
        &self.words[(at as usize / 8) % WORDS]
    }
}

impl Env for Bare {
    #[inline(always)]
    fn read(&self, at: u64) -> u64 {
        self.word(at).get()
    }
    #[inline(always)]
    fn write(&self, at: u64, value: u64) {
        self.word(at).set(value);
    }
    #[inline(always)]
    fn swap(&self, at: u64, value: u64) -> u64 {
        self.word(at).replace(value)
    }
    #[inline(always)]
    fn fetch_and(&self, at: u64, mask: u64) -> u64 {
        self.word(at).replace(self.word(at).get() & mask)
    }
    #[inline(always)]
    fn fetch_or(&self, at: u64, mask: u64) -> u64 {
        self.word(at).replace(self.word(at).get() | mask)
    }
    #[inline(always)]
    fn alloc_node(&self, _home: NodeId) -> Option<u64> {
        let node = self.free.get();
        if node != 0 {
            self.free.set(self.read(node));
            return Some(node);
        }
        let fresh = self.next.get();
        self.next.set(fresh + 64);
        Some(fresh)
    }
    #[inline(always)]
    fn free_node(&self, at: u64) {
        self.write(at, self.free.get());
        self.free.set(at);
    }
    fn alloc_table(&self, _home: NodeId) -> Option<u64> {
        let table = self.tables.get();
        self.tables.set(table + 8192);
        assert!(table < 256 << 10);
        Some(table)
    }
    fn free_table(&self, _at: u64) {}
    fn alloc_index(&self, home: NodeId, _pair: bool) -> Option<u64> {
        self.alloc_table(home)
    }
    fn free_index(&self, _at: u64, _pair: bool) {}
    fn frame_info(&self, _frame: PhysAddr) -> FrameInfo {
        let range = PhysRange::from_len(0, 1 << 40);
        FrameInfo { range, node: NodeId::new(0), usable: true, cache: 0 }
    }
    fn max_level(&self) -> u8 {
        1
    }
    #[inline(always)]
    fn nx(&self) -> bool {
        true
    }
    #[inline(always)]
    fn top(&self, space: SpaceRef) -> u64 {
        if space == SpaceRef::PHYSICAL { 8192 * 3 } else { space.0 * 8192 }
    }
    #[inline(always)]
    fn home(&self, _space: SpaceRef) -> NodeId {
        NodeId::new(0)
    }
    #[inline(always)]
    fn reserved(&self, space: SpaceRef, va: u64, len: u64) -> bool {
        let area = 0x4000_0000 + (space.0 << 20);
        va < area + 0x1000 && area < va.saturating_add(len)
    }
    fn top_changed(&self, _space: SpaceRef, _index: usize, _entry: u64) {}
    #[inline(always)]
    fn lock_tree(&self, _node: NodeId) {
        assert!(!self.locks[0].replace(true));
    }
    #[inline(always)]
    fn unlock_tree(&self, _node: NodeId) {
        self.locks[0].set(false);
    }
    #[inline(always)]
    fn lock_space(&self, space: SpaceRef) {
        assert!(!self.locks[space.0 as usize & 3].replace(true));
    }
    #[inline(always)]
    fn unlock_space(&self, space: SpaceRef) {
        self.locks[space.0 as usize & 3].set(false);
    }
}

const A: SpaceRef = SpaceRef(1);
const B: SpaceRef = SpaceRef(2);

#[inline(never)]
fn batch_of_maps(env: &Bare, n: u64) {
    let mut flush = FlushSet::new();
    let mut s = Session::new(env, &mut flush);
    s.guess(env.hint.get());
    for i in 0..n {
        let (from, to) = (0x10_0000 + i * 4096, 0x70_0000 + i * 4096);
        assert_eq!(s.map_page((A, from), (B, to), 7), Some(()));
    }
}

#[inline(never)]
fn complete_batch_of_maps(env: &Bare, n: u64) {
    let mut flush = FlushSet::new();
    let mut s = Session::new(env, &mut flush);
    s.guess(env.hint.get());
    for i in 0..n {
        let (from, to) = (0x10_0000 + i * 4096, 0x70_0000 + i * 4096);
        let mut op = MapOp::new(env, (A, from), (B, to), 4096, 7, false);
        assert_eq!(op.step(&mut s, &mut 100), Ok(Progress::Done));
    }
}

#[inline(never)]
fn complete_batch_of_unmaps(env: &Bare, n: u64) -> u8 {
    let mut flush = FlushSet::new();
    let mut s = Session::new(env, &mut flush);
    s.guess(env.hint.get());
    let mut status = 0;
    for i in 0..n {
        let mut op = UnmapOp::new(A, 0x10_0000 + i * 4096, 4096, 7, false);
        assert_eq!(op.step(&mut s, &mut 100), Progress::Done);
        status |= op.status();
    }
    status
}

#[inline(never)]
fn batch_of_unmaps(env: &Bare, n: u64) -> u8 {
    let mut flush = FlushSet::new();
    let mut s = Session::new(env, &mut flush);
    s.guess(env.hint.get());
    let mut status = 0;
    for i in 0..n {
        status |= s.unmap_page(A, 0x10_0000 + i * 4096, false).expect("short path");
    }
    status
}

fn run(batch: u64, touched: bool) {
    let env = Bare::new();
    let mut flush = FlushSet::new();
    let mut s = Session::new(&env, &mut flush);
    let mut op =
        MapOp::new(&env, (SpaceRef::PHYSICAL, 0x10_0000), (A, 0x10_0000), 1 << 18, 7, false);
    assert_eq!(op.step(&mut s, &mut 10_000), Ok(Progress::Done));
    drop(s);
    for _ in 0..ROUNDS {
        let mut session = Session::new(&env, &mut flush);
        session.access(A, 0x10_0000, false);
        env.hint.set(session.hint());
        drop(session);
        batch_of_maps(black_box(&env), batch);
        let mut session = Session::new(&env, &mut flush);
        for i in 0..batch {
            let found = session.look_up(B, 0x70_0000 + i * 4096).expect("page");
            assert_eq!(found.at, PhysAddr::new(0x10_0000 + i * 4096));
            if touched {
                session.access(B, 0x70_0000 + i * 4096, true);
            }
        }
        drop(session);
        let status = batch_of_unmaps(black_box(&env), batch);
        assert_eq!(status, if touched { pte::ALL } else { 0 });
        complete_batch_of_maps(black_box(&env), batch);
        assert_eq!(complete_batch_of_unmaps(black_box(&env), batch), 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "counts instructions")]
fn common_paths() {
    run(BATCH, true);
}

#[test]
#[cfg_attr(miri, ignore = "counts instructions")]
fn common_paths_one_page() {
    run(1, true);
}
