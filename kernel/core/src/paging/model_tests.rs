//! Random operations on page tables against a plain map of pages.
//!
//! Nothing is ever unmapped (the kernel half only grows), so a world that is full gives way to a new one.

use std::collections::BTreeMap;

use super::fake::FakeMemory;
use super::*;
use crate::testing::Rng;
use crate::types::{PhysRange, VirtAddr};

const RIGHTS: [Flags; 4] = [
    Flags::PRESENT,
    Flags::PRESENT.union(Flags::WRITABLE),
    Flags::PRESENT.union(Flags::USER_ACCESSIBLE).union(Flags::NO_EXECUTE),
    Flags::PRESENT.union(Flags::WRITABLE).union(Flags::USER_ACCESSIBLE).union(Flags::NO_CACHE),
];

/// The pages that should be mapped, by first address.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Leaf>,
}

/// What the model knows about the place for a page.
enum Spot {
    Exact(Leaf),
    Inside(Leaf),
    Around,
    Free,
}

impl Model {
    fn spot(&self, virt: u64, size: PageSize) -> Spot {
        if let Some((&base, &leaf)) = self.pages.range(..=virt).next_back()
            && virt - base < leaf.size.bytes()
        {
            return match leaf.size.cmp(&size) {
                core::cmp::Ordering::Equal => Spot::Exact(leaf),
                core::cmp::Ordering::Greater => Spot::Inside(leaf),
                core::cmp::Ordering::Less => Spot::Around,
            };
        }
        match self.pages.range(virt..virt.saturating_add(size.bytes())).next() {
            Some(_) => Spot::Around,
            None => Spot::Free,
        }
    }
}

struct World {
    rng: Rng,
    memory: FakeMemory,
    mapper: Mapper,
    model: Model,
    budget: usize,
    full: u32,
    protected: u32,
    copies: u32,
}

impl World {
    fn new(seed: u64, budget: usize) -> Self {
        let mut memory = FakeMemory::new();
        let mapper = Mapper::new(memory.root());
        memory.budget = budget;
        Self {
            rng: Rng::new(seed),
            memory,
            mapper,
            model: Model::default(),
            budget,
            full: 0,
            protected: 0,
            copies: 0,
        }
    }

    /// Starts again with an empty root.
    fn renew(&mut self) {
        self.memory = FakeMemory::new();
        self.mapper = Mapper::new(self.memory.root());
        self.memory.budget = self.budget;
        self.model = Model::default();
    }

    /// Few enough addresses that pages of all sizes meet.
    fn address(&mut self, size: PageSize) -> u64 {
        let root = [0, 1, 255, 256, 511][self.rng.below(5) as usize];
        let mut virt = root << 39;
        if root >= 256 {
            virt |= 0xFFFF << 48;
        }
        for level in (size.level()..4).rev() {
            let index = [0, 1, 2, 511][self.rng.below(4) as usize];
            virt |= index << (12 + 9 * (u32::from(level) - 1));
        }
        virt
    }

    fn size(&mut self) -> PageSize {
        PageSize::ALL[[0, 0, 0, 0, 1, 1, 2][self.rng.below(7) as usize]]
    }

    fn rights(&mut self) -> Flags {
        RIGHTS[self.rng.below(4) as usize]
    }

    fn step(&mut self) {
        let size = self.size();
        let virt = self.address(size);
        let inside = self.rng.below(size.bytes());
        let near = [0; 3].map(|_| self.address(PageSize::Small));
        let probes = near.into_iter().chain([virt, virt + inside]).map(VirtAddr::new).collect();
        self.memory.begin_watch(self.mapper.root(), probes);
        let noise = if self.rng.below(3) == 0 { STATUS } else { Flags::empty() };
        match self.rng.below(16) {
            0..=7 => self.map(virt, size),
            8..=9 => self.map_range(virt, size),
            10..=13 => self.forbid_writing(virt, noise),
            _ => self.unshare(virt, noise),
        }
        self.memory.noise = Flags::empty();
        self.memory.end_watch();
        let seen = self.mapper.walk(&self.memory, VirtAddr::new(virt + inside)).phys();
        let expected = match self.model.spot(virt + inside, PageSize::Small) {
            Spot::Exact(leaf) => Some(leaf.phys.offset(inside % 4096)),
            Spot::Inside(leaf) => Some(leaf.phys.offset((virt + inside) & (leaf.size.bytes() - 1))),
            Spot::Around | Spot::Free => None,
        };
        assert_eq!(seen.map(PhysAddr::page_base), expected.map(PhysAddr::page_base));
    }

    fn map(&mut self, virt: u64, size: PageSize) {
        let phys = PhysAddr::new(self.rng.below(1 << 15) * size.bytes());
        let flags = self.rights();
        let tables = self.memory.nr_tables();
        let result = self.mapper.map(&mut self.memory, VirtAddr::new(virt), phys, size, flags);
        match result {
            Ok(()) => {
                assert!(matches!(self.model.spot(virt, size), Spot::Free));
                self.model.pages.insert(virt, Leaf { phys, size, flags });
            }
            Err(MapError::OutOfMemory) => {
                assert!(matches!(self.model.spot(virt, size), Spot::Free));
                assert_eq!(self.memory.nr_tables(), tables, "tables are lost");
                self.full += 1;
            }
            Err(error) => match self.model.spot(virt, size) {
                Spot::Exact(l) | Spot::Inside(l) => assert_eq!(error, MapError::Occupied(l.size)),
                Spot::Around | Spot::Free => assert_eq!(error, MapError::TableInTheWay),
            },
        }
    }

    /// Two pages of a size; only the first may be mapped if the second cannot.
    fn map_range(&mut self, virt: u64, size: PageSize) {
        let phys = PhysAddr::new(self.rng.below(1 << 15) * size.bytes());
        let flags = self.rights();
        let range = PhysRange::from_len(phys.as_u64(), 2 * size.bytes());
        let largest = size;
        let result =
            self.mapper.map_range(&mut self.memory, VirtAddr::new(virt), range, largest, flags);
        for offset in [0, size.bytes()] {
            let at = virt.wrapping_add(offset);
            let phys = phys.offset(offset);
            let there = self.mapper.walk(&self.memory, VirtAddr::new(at)).leaf;
            let mapped = there == Some(Leaf { phys, size, flags });
            match self.model.spot(at, size) {
                Spot::Free if mapped => {
                    self.model.pages.insert(at, Leaf { phys, size, flags });
                }
                // Whatever is there already stays, and is the reason for the error.
                _ => assert!(result.is_err()),
            }
        }
    }

    fn forbid_writing(&mut self, virt: u64, noise: Flags) {
        self.memory.noise = noise;
        match self.mapper.forbid_writing(&mut self.memory, VirtAddr::new(virt)) {
            Ok(()) => {
                let (_, was) = self.model.pages.range_mut(..=virt).next_back().unwrap();
                self.protected += u32::from(was.flags.contains(Flags::WRITABLE));
                was.flags = was.flags.difference(Flags::WRITABLE).union(noise);
            }
            Err(error) => {
                assert_eq!(error, MapError::NotMapped);
                assert!(matches!(self.model.spot(virt, PageSize::Small), Spot::Free));
            }
        }
    }

    /// Whatever the table, and whatever its copy: they lead to the same.
    fn unshare(&mut self, virt: u64, noise: Flags) {
        let level = 1 + self.rng.below(3) as u8;
        let was = self.mapper.walk(&self.memory, VirtAddr::new(virt)).table_of_level(level);
        self.memory.noise = noise & Flags::ACCESSED;
        match self.mapper.unshare(&mut self.memory, VirtAddr::new(virt), level) {
            Ok(copy) => {
                assert_ne!(Some(copy), was);
                self.memory.free(was.unwrap());
                self.copies += 1;
            }
            Err(MapError::OutOfMemory) => self.full += 1,
            Err(error) => assert_eq!((error, was), (MapError::NotMapped, None)),
        }
    }

    fn check_all(&self) {
        let root = self.mapper.root();
        let leaves = self.memory.leaves(root, 4, 0);
        let expected: Vec<_> = self.model.pages.iter().map(|(v, l)| (*v, *l)).collect();
        assert!(leaves == expected, "tables and model differ");
        assert_eq!(self.memory.reachable(root, 4).len(), self.memory.nr_tables());
    }
}

#[test]
fn random_operations_match_the_model() {
    let (mut out_of_memory, mut protected, mut copies) = (0, 0, 0);
    let worlds = [(2, 40), (1, 1000), (3, 12), (4, 1000)];
    for &(seed, budget) in &worlds[..if cfg!(miri) { 1 } else { 4 }] {
        let mut world = World::new(seed, budget);
        for step in 0..if cfg!(miri) { 30 } else { 75_000 } {
            world.step();
            if step % 300 == 299 {
                world.check_all();
                world.renew();
            }
        }
        world.check_all();
        out_of_memory += world.full;
        protected += world.protected;
        copies += world.copies;
    }
    let enough = out_of_memory > 100 && protected > 100 && copies > 100;
    assert!(cfg!(miri) || enough, "{out_of_memory}, {protected}, {copies}");
}
