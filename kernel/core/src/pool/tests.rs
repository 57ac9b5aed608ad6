//! Random operations on pools against a plain map of what is allocated.

use std::collections::BTreeMap;

use super::*;
use crate::testing::{Rng, rounds};
use crate::topology::{MadtCpu, Tables, Topology};
use crate::types::ApicId;

fn range(first_frame: u64, pages: u64) -> PhysRange {
    PhysRange::from_len(first_frame * PAGE_SIZE, pages * PAGE_SIZE)
}

/// What a pool should be: the allocated blocks by first frame.
#[derive(Default)]
struct Oracle {
    blocks: BTreeMap<u64, u8>,
    pages: u64,
}

impl Oracle {
    fn add(&mut self, phys: PhysAddr, order: u8) {
        let (first, end) = (phys.frame(), phys.frame() + (1 << order));
        assert!(phys.is_aligned(PAGE_SIZE << order), "{phys} is not aligned to order {order}");
        if let Some((&below, &o)) = self.blocks.range(..end).next_back() {
            assert!(below + (1 << o) <= first, "{phys} was already allocated");
        }
        self.blocks.insert(first, order);
        self.pages += 1 << order;
    }

    fn remove_random(&mut self, rng: &mut Rng) -> Option<(PhysAddr, u8)> {
        let last = *self.blocks.last_key_value()?.0;
        let from = rng.below(last + 1);
        let (&frame, &order) = self.blocks.range(from..).next()?;
        self.blocks.remove(&frame);
        self.pages -= 1 << order;
        Some((PhysAddr::from_frame(frame), order))
    }
}

fn random_order(rng: &mut Rng) -> u8 {
    (rng.next() | 1 << 9).trailing_zeros() as u8
}

#[test]
fn random_operations_match_the_oracle() {
    let mut rng = Rng::new(99);
    // Odd starts and lengths: blocks must be aligned in physical memory, not in the extent.
    for (extents, steps) in [
        (vec![(0x1000, 4096)], 250_000),
        (vec![(0x1003, 1501), (0x9_0007, 1), (0x200, 777)], 250_000),
        (vec![(0x7FF, 130)], 100_000),
        (vec![(0, 64), (128, 64), (64, 32), (0x300, 300)], 100_000),
    ] {
        let mut memory: Vec<Vec<PageDesc>> =
            extents.iter().map(|e| vec![PageDesc::default(); e.1 as usize]).collect();
        let mut pool = NodePool::new();
        for (e, descs) in extents.iter().zip(&mut memory) {
            pool.add_extent(range(e.0, e.1), descs, u64::from(e.1 > 1000)).unwrap();
        }
        let total = pool.counters().total_pages;
        let mut oracle = Oracle::default();
        for step in 0..rounds(steps) {
            // Drift between empty and full.
            let filling = step / 4000 % 2 == 0;
            if rng.below(100) < if filling { 60 } else { 40 } {
                let order = if rng.below(3) == 0 { random_order(&mut rng) } else { 0 };
                match pool.alloc(order) {
                    Ok(phys) => oracle.add(phys, order),
                    Err(OutOfMemory) => {
                        assert!(order > 0 || oracle.pages == total, "memory is left");
                    }
                }
            } else if let Some((phys, order)) = oracle.remove_random(&mut rng) {
                assert_eq!(pool.free(phys), Ok(order));
                assert_eq!(pool.free(phys), Err(FreeError::NotAllocated));
            }
            assert_eq!(pool.counters().used_pages(), oracle.pages);
            if step % 997 == 0 {
                pool.check();
            }
        }
        while let Some((phys, order)) = oracle.remove_random(&mut rng) {
            assert_eq!(pool.free(phys), Ok(order));
        }
        pool.drain_all();
        pool.check();
        assert_eq!(pool.counters().free_pages, total);
        assert_eq!(pool.counters().allocs, pool.counters().frees);
    }
}

impl NodePool<'_> {
    /// Empties the cache, so that everything joins up again.
    fn drain_all(&mut self) {
        let _ = self.alloc(MAX_ORDER + 1);
    }
}

#[test]
fn every_page_can_be_allocated_and_joins_again() {
    let mut descs = vec![PageDesc::default(); 1 << 9];
    let mut pool = NodePool::new();
    pool.add_extent(range(1 << 9, 1 << 9), &mut descs, 0).unwrap();
    assert_eq!(pool.alloc(9), Ok(PhysAddr::from_frame(1 << 9)));
    assert_eq!(pool.alloc_page(), Err(OutOfMemory));
    pool.free(PhysAddr::from_frame(1 << 9)).unwrap();
    let pages: Vec<_> = (0..1 << 9).map(|_| pool.alloc_page().unwrap()).collect();
    assert_eq!(pool.alloc_page(), Err(OutOfMemory));
    assert_eq!(pool.counters().failures, 2);
    assert_eq!(pool.counters().peak_pages, 512);
    for page in pages {
        pool.free(page).unwrap();
    }
    // 64 pages are in the cache: the large block needs them back.
    assert_eq!(pool.alloc(9), Ok(PhysAddr::from_frame(1 << 9)));
}

#[test]
fn a_freed_page_is_the_next_one_allocated() {
    let mut descs = vec![PageDesc::default(); 256];
    let mut pool = NodePool::new();
    pool.add_extent(range(256, 256), &mut descs, 3).unwrap();
    let first = pool.alloc_page().unwrap();
    let second = pool.alloc_page().unwrap();
    assert!(first.frame() >= 256 + 3 && first < second);
    pool.free(first).unwrap();
    assert_eq!(pool.alloc_page(), Ok(first));
}

#[test]
fn wrong_frees_are_errors_and_change_nothing() {
    let mut descs = vec![PageDesc::default(); 64];
    let mut pool = NodePool::new();
    pool.add_extent(range(64, 64), &mut descs, 2).unwrap();
    let block = pool.alloc(3).unwrap();
    let page = pool.alloc_page().unwrap();
    let before = pool.counters();
    assert_eq!(pool.free(block.offset(PAGE_SIZE)), Err(FreeError::NotAllocated));
    assert_eq!(pool.free(page.offset(8)), Err(FreeError::NotAllocated));
    assert_eq!(pool.free(PhysAddr::from_frame(64)), Err(FreeError::NotAllocated));
    assert_eq!(pool.free(PhysAddr::from_frame(63)), Err(FreeError::Foreign));
    assert_eq!(pool.free(PhysAddr::from_frame(128)), Err(FreeError::Foreign));
    assert_eq!(pool.counters(), before);
    pool.free(page).unwrap();
    assert_eq!(pool.free(page), Err(FreeError::NotAllocated));
    pool.free(block).unwrap();
    assert_eq!(pool.free(block), Err(FreeError::NotAllocated));
    pool.check();
}

#[test]
fn bad_extents_are_refused() {
    let mut pool = NodePool::new();
    let mut descs = [[PageDesc::default(); 4]; 6];
    let [a, b, c, d, e, f] = &mut descs;
    assert_eq!(pool.add_extent(range(8, 5), a, 0), Err(ExtentError::BadRange));
    assert_eq!(pool.add_extent(PhysRange::from_len(100, 16384), b, 0), Err(ExtentError::BadRange));
    assert_eq!(pool.add_extent(range(8, 4), c, 9), Ok(()));
    assert_eq!(pool.counters().total_pages, 0);
    for (i, descs) in [d, e, f].into_iter().enumerate() {
        pool.add_extent(range(16 + 8 * i as u64, 4), descs, 0).unwrap();
    }
    let mut more = [PageDesc::default(); 4];
    assert_eq!(pool.add_extent(range(99, 4), &mut more, 0), Err(ExtentError::TooMany));
    assert_eq!(pool.extents().count(), 4);
}

/// Pools live for ever; miri counts as a leak what no static leads to.
static KEPT: Mutex<Vec<&'static SharedPool>> = Mutex::new(Vec::new());

fn shared(node: u8, parts: &[(u64, u64)]) -> &'static SharedPool {
    let mut pool = NodePool::new();
    for &(first, pages) in parts {
        let descs = vec![PageDesc::default(); pages as usize].leak();
        pool.add_extent(range(first, pages), descs, 0).unwrap();
    }
    let pool: &'static SharedPool = Box::leak(Box::new(SharedPool::new(NodeId::new(node), pool)));
    KEPT.lock().push(pool);
    pool
}

#[test]
fn the_directory_finds_pools_by_node_and_by_address() {
    let mut pools = Pools::new();
    pools.add(shared(0, &[(0x100, 16), (0x900, 16)]));
    pools.add(shared(2, &[(0x500, 4)]));
    pools.add(shared(3, &[(0x110, 16)]));
    let node_of = |frame| pools.node_of(PhysAddr::from_frame(frame)).map(NodeId::get);
    let found = [0xFF, 0x100, 0x10F, 0x110, 0x11F, 0x120, 0x503, 0x504, 0x900, 0x910].map(node_of);
    let expected = [None, Some(0), Some(0), Some(3), Some(3), None, Some(2), None, Some(0), None];
    assert_eq!(found, expected);

    let (one, two) = (NodeId::new(1), NodeId::new(2));
    assert_eq!(pools.alloc_page_on(one), Err(OutOfMemory));
    let block = pools.alloc_on(two, 2).unwrap();
    assert_eq!((block.phys(), block.len()), (PhysAddr::from_frame(0x500), 4 * PAGE_SIZE));
    assert_eq!(pools.alloc_page_on(two), Err(OutOfMemory));
    let near = pools.alloc_near([two, one, NodeId::new(3), NodeId::new(0)], 0).unwrap();
    assert_eq!(pools.node_of(near.phys()), Some(NodeId::new(3)));
    assert_eq!(pools.alloc_near([two, one], 0), Err(OutOfMemory));
    assert_eq!(pools.free(near), Ok(()));
    assert_eq!(pools.free_at(block.into_phys()), Ok(2));
    assert_eq!(pools.free_at(PhysAddr::from_frame(0x500)), Err(FreeError::NotAllocated));
    assert_eq!(pools.free_at(PhysAddr::ZERO), Err(FreeError::Foreign));
    assert_eq!(pools.counters(two).unwrap().failures, 3);
}

/// Two threads on two pools, freeing what the other allocated.
#[test]
fn pools_are_shared_between_threads() {
    let mut pools = Pools::new();
    pools.add(shared(0, &[(0x1000, 512)]));
    pools.add(shared(1, &[(0x8000, 512)]));
    let (to_b, from_a) = std::sync::mpsc::channel();
    let (to_a, from_b) = std::sync::mpsc::channel();
    let count = rounds(20_000);
    std::thread::scope(|scope| {
        for (node, out, input) in [(0, to_b, from_b), (1, to_a, from_a)] {
            let pools = &pools;
            scope.spawn(move || {
                for _ in 0..count {
                    if let Ok(frames) = pools.alloc_page_on(NodeId::new(node)) {
                        let _ = out.send(frames);
                    }
                    while let Ok(frames) = input.try_recv() {
                        pools.free(frames).unwrap();
                    }
                }
                drop(out);
                while let Ok(frames) = input.recv() {
                    pools.free(frames).unwrap();
                }
            });
        }
    });
    for node in [0, 1] {
        let pool = pools.pool(NodeId::new(node)).unwrap().pool.lock();
        pool.check();
        assert_eq!(pool.counters().used_pages(), 0);
    }
}

/// The bytes that the plan sets aside for metadata are enough, and the pool works on them.
#[test]
fn planned_metadata_holds_the_descriptors() {
    let mut t = Topology::EMPTY;
    let cpu = MadtCpu { apic: ApicId::new(0), usable: true };
    let usable = [range(0, 1 << 16)];
    t.discover(Tables::default(), &usable, [cpu], ApicId::new(0)).unwrap();
    let plan = PoolPlan::new(&t, &[], PoolOptions::default()).unwrap();
    let extent = plan.extents()[0].range;
    let meta = Metadata::of(extent, true);
    let descs_end = meta.descs_at.as_u64() + (meta.nr_descs * size_of::<PageDesc>()) as u64;
    assert!(descs_end <= extent.start.as_u64() + meta.pages * PAGE_SIZE);
    assert!(meta.descs_at.as_u64() >= extent.start.as_u64() + size_of::<SharedPool>() as u64);
    assert_eq!(meta.nr_descs as u64, extent.len() / PAGE_SIZE);
    let mut descs = vec![PageDesc::default(); meta.nr_descs];
    let mut pool = NodePool::new();
    pool.add_extent(extent, &mut descs, meta.pages).unwrap();
    assert_eq!(pool.counters().total_pages, extent.len() / PAGE_SIZE - meta.pages);
    assert!(pool.alloc_page().unwrap().as_u64() >= descs_end);
}
