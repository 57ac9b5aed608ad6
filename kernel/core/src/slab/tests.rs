//! Random allocations against a map of objects with known contents.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::testing::{Rng, rounds};

/// Pages with their words; a page that was given back must not be touched.
struct FakePages {
    pages: Vec<Option<Box<[u64; 512]>>>,
    budget: usize,
}

impl FakePages {
    fn new(budget: usize) -> Self {
        Self { pages: vec![None], budget }
    }

    fn held(&self) -> u64 {
        self.pages.iter().flatten().count() as u64
    }
}

impl SlabMemory for FakePages {
    fn load(&self, at: PhysAddr) -> u64 {
        assert!(at.is_aligned(8));
        match self.pages.get(at.frame() as usize) {
            Some(page) => {
                page.as_ref().expect("load from a page that is gone")[at.page_offset() as usize / 8]
            }
            // Some other kernel page.
            None => 0x1234_5678,
        }
    }

    fn store(&mut self, at: PhysAddr, value: u64) {
        assert!(at.is_aligned(8));
        let page = self.pages[at.frame() as usize].as_mut();
        page.expect("store to a page that is gone")[at.page_offset() as usize / 8] = value;
    }

    fn take_page(&mut self) -> Result<PhysAddr, OutOfMemory> {
        self.budget = self.budget.checked_sub(1).ok_or(OutOfMemory)?;
        // Old contents are garbage.
        self.pages.push(Some(Box::new([0x5151_5151_5151_5151; 512])));
        Ok(PhysAddr::from_frame(self.pages.len() as u64 - 1))
    }

    fn give_page(&mut self, page: PhysAddr) {
        assert!(self.pages[page.frame() as usize].take().is_some(), "page given back twice");
        self.budget += 1;
    }
}

fn fill(memory: &mut FakePages, object: PhysAddr, size: u64, stamp: u64) {
    for offset in (0..size).step_by(8) {
        memory.store(object.offset(offset), stamp ^ offset);
    }
}

fn intact(memory: &FakePages, object: PhysAddr, size: u64, stamp: u64) -> bool {
    (0..size).step_by(8).all(|offset| memory.load(object.offset(offset)) == stamp ^ offset)
}

fn run(size: u64, budget: usize, steps: usize) {
    let mut rng = Rng::new(size + budget as u64);
    let mut memory = FakePages::new(budget);
    let mut slab = Slab::new(size);
    let size = slab.object_size();
    let mut live: BTreeMap<PhysAddr, u64> = BTreeMap::new();
    for step in 0..steps {
        let filling = step / 3000 % 2 == 0;
        if rng.below(400) == 0 {
            if let Ok((first, count)) = slab.alloc_list(&mut memory) {
                let mut object = first;
                for n in 1..=count {
                    let next = PhysAddr::new(memory.load(object));
                    assert_eq!(next == NONE, n == count);
                    let stamp = rng.next();
                    fill(&mut memory, object, size, stamp);
                    assert!(live.insert(object, stamp).is_none());
                    object = next;
                }
            }
        } else if rng.below(100) < if filling { 58 } else { 42 } {
            let Ok(object) = slab.alloc(&mut memory) else {
                // Every page is in use and every object of every page.
                let all = u64::from(slab.objects_per_page()) * memory.held();
                assert_eq!((memory.budget, live.len() as u64), (0, all));
                continue;
            };
            assert!(object.is_aligned(64) && object.page_offset() >= HEADER);
            assert!(object.page_offset() + size <= PAGE_SIZE);
            let before = live.range(..=object).next_back();
            assert!(before.is_none_or(|(o, _)| o.as_u64() + size <= object.as_u64()));
            let stamp = rng.next();
            fill(&mut memory, object, size, stamp);
            live.insert(object, stamp);
        } else if let Some((&last, _)) = live.last_key_value() {
            let from = PhysAddr::new(rng.below(last.as_u64() + 1));
            let (&object, &stamp) = live.range(from..).next().unwrap();
            assert!(intact(&memory, object, size, stamp), "{object} was damaged");
            assert_eq!(slab.free(&mut memory, object), Ok(()));
            live.remove(&object);
        }
        assert_eq!(slab.counters().in_use(), live.len() as u64);
        assert_eq!(slab.counters().pages, memory.held());
        if step % 1000 == 0 {
            let pages: BTreeSet<_> = live.keys().map(|o| o.frame()).collect();
            // Beyond the pages with objects: the current page and one spare.
            assert!(memory.held() <= pages.len() as u64 + 2);
        }
    }
    for (&object, &stamp) in &live {
        assert!(intact(&memory, object, size, stamp));
        assert_eq!(slab.free(&mut memory, object), Ok(()));
    }
    slab.shrink(&mut memory);
    assert_eq!((memory.held(), slab.counters().in_use()), (0, 0));
    assert_eq!(memory.budget, budget);
}

#[test]
fn random_operations_match_the_model() {
    for (size, budget) in [(64, 40), (128, 7), (192, 30), (256, 100), (1024, 60), (700, 1)] {
        run(size, budget, rounds(70_000));
    }
}

#[test]
fn sizes_are_rounded_and_bounded() {
    for (asked, size, per_page) in
        [(0, 64, 63), (1, 64, 63), (65, 128, 31), (256, 256, 15), (1000, 1024, 3), (9999, 1024, 3)]
    {
        let slab = Slab::new(asked);
        assert_eq!((slab.object_size(), slab.objects_per_page()), (size, per_page));
    }
    let mut memory = FakePages::new(1);
    let object = Slab::new(512).alloc(&mut memory).unwrap();
    assert!(object.is_aligned(512));
}

#[test]
fn the_last_freed_object_is_the_next_one() {
    let mut memory = FakePages::new(2);
    let mut slab = Slab::new(64);
    let first = slab.alloc(&mut memory).unwrap();
    let second = slab.alloc(&mut memory).unwrap();
    slab.free(&mut memory, first).unwrap();
    assert_eq!(slab.alloc(&mut memory), Ok(first));
    assert_eq!(second, first.offset(64));
}

#[test]
fn wrong_frees_are_errors() {
    let mut memory = FakePages::new(4);
    let (mut small, mut big) = (Slab::new(64), Slab::new(1024));
    let object = small.alloc(&mut memory).unwrap();
    let other = big.alloc(&mut memory).unwrap();
    assert_eq!(small.free(&mut memory, other), Err(FreeError::Foreign));
    assert_eq!(small.free(&mut memory, PhysAddr::new(0x1000_0000)), Err(FreeError::Foreign));
    assert_eq!(small.free(&mut memory, object.offset(8)), Err(FreeError::NotAllocated));
    assert_eq!(small.free(&mut memory, object.page_base()), Err(FreeError::NotAllocated));
    assert_eq!(small.free(&mut memory, object), Ok(()));
    assert_eq!(small.free(&mut memory, object), Err(FreeError::NotAllocated));
    // The same on a page that is not current.
    let objects: Vec<_> = (0..4).map(|_| big.alloc(&mut memory).unwrap()).collect();
    assert_eq!(big.free(&mut memory, other), Ok(()));
    assert_eq!(big.free(&mut memory, other), Err(FreeError::NotAllocated));
    assert_eq!(big.counters().in_use(), 4);
    assert_ne!(objects[0].page_base(), objects[3].page_base());
}
