//! Random operations on page tables against a plain map of pages.

use std::collections::BTreeMap;

use super::fake::FakeMemory;
use super::*;
use crate::testing::Rng;
use crate::types::VirtAddr;

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

    /// The error of an operation on an existing page, if it is one.
    fn refusal(&self, virt: u64, size: PageSize, error: MapError) -> bool {
        match self.spot(virt, size) {
            Spot::Exact(_) => false,
            Spot::Inside(leaf) => error == MapError::Larger(leaf.size),
            Spot::Around => error == MapError::TableInTheWay,
            // An empty table may be there.
            Spot::Free => matches!(error, MapError::NotMapped | MapError::TableInTheWay),
        }
    }
}

struct World {
    rng: Rng,
    memory: FakeMemory,
    mapper: Mapper,
    model: Model,
    full: u32,
}

impl World {
    fn new(seed: u64, budget: usize) -> Self {
        let mut memory = FakeMemory::new();
        let mapper = Mapper::new(memory.root(), NodeId::new(0));
        memory.budget = budget;
        Self { rng: Rng::new(seed), memory, mapper, model: Model::default(), full: 0 }
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
            0..=5 => self.map(virt, size),
            6..=8 => self.unmap(virt, size, noise),
            9..=10 => self.protect(virt, size, noise),
            11 => self.remap(virt, size, noise),
            12 => self.take_status(virt, size, noise),
            13 => self.split(virt, noise),
            _ => self.prune(virt),
        }
        self.memory.noise = Flags::empty();
        self.memory.end_watch();
        let seen = self.mapper.translate(&self.memory, VirtAddr::new(virt + inside));
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
            Ok(root) => {
                assert!(matches!(self.model.spot(virt, size), Spot::Free));
                self.model.pages.insert(virt, Leaf { phys, size, flags });
                if let Some(root) = root {
                    let entry = self.memory.read(self.mapper.root(), root.index);
                    assert_eq!((root.index, root.entry), (index(virt), entry));
                }
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

    fn exact(&self, virt: u64, size: PageSize) -> Leaf {
        match self.model.spot(virt, size) {
            Spot::Exact(leaf) => leaf,
            _ => panic!("no page of {size:?} at {virt:#x}"),
        }
    }

    fn unmap(&mut self, virt: u64, size: PageSize, noise: Flags) {
        self.memory.noise = noise;
        match self.mapper.unmap(&mut self.memory, VirtAddr::new(virt), size) {
            Ok(leaf) => {
                let was = self.exact(virt, size);
                assert_eq!(leaf, Leaf { flags: was.flags | noise, ..was });
                self.model.pages.remove(&virt);
            }
            Err(error) => assert!(self.model.refusal(virt, size, error), "{error:?}"),
        }
    }

    fn protect(&mut self, virt: u64, size: PageSize, noise: Flags) {
        self.memory.noise = noise;
        let flags = self.rights();
        match self.mapper.protect(&mut self.memory, VirtAddr::new(virt), size, flags) {
            Ok(old) => {
                let was = self.exact(virt, size);
                assert_eq!(old, Leaf { flags: was.flags | noise, ..was });
                let flags = flags | old.status();
                self.model.pages.insert(virt, Leaf { flags, ..was });
            }
            Err(error) => assert!(self.model.refusal(virt, size, error), "{error:?}"),
        }
    }

    fn remap(&mut self, virt: u64, size: PageSize, noise: Flags) {
        self.memory.noise = noise;
        let phys = PhysAddr::new(self.rng.below(1 << 15) * size.bytes());
        let flags = self.rights();
        match self.mapper.remap(&mut self.memory, VirtAddr::new(virt), phys, size, flags) {
            Ok(old) => {
                let was = self.exact(virt, size);
                assert_eq!(old, Leaf { flags: was.flags | noise, ..was });
                self.model.pages.insert(virt, Leaf { phys, size, flags });
            }
            Err(error) => assert!(self.model.refusal(virt, size, error), "{error:?}"),
        }
    }

    fn take_status(&mut self, virt: u64, size: PageSize, noise: Flags) {
        self.memory.noise = noise;
        match self.mapper.take_status(&mut self.memory, VirtAddr::new(virt), size) {
            Ok(old) => {
                let was = self.exact(virt, size);
                assert_eq!(old, Leaf { flags: was.flags | noise, ..was });
                let flags = was.flags.difference(STATUS);
                self.model.pages.insert(virt, Leaf { flags, ..was });
            }
            Err(error) => assert!(self.model.refusal(virt, size, error), "{error:?}"),
        }
    }

    fn split(&mut self, virt: u64, noise: Flags) {
        self.memory.noise = noise;
        match self.mapper.split(&mut self.memory, VirtAddr::new(virt)) {
            Ok(size) => {
                let (&base, &was) = self.model.pages.range(..=virt).next_back().unwrap();
                assert_eq!(was.size.smaller(), Some(size));
                self.model.pages.remove(&base);
                for offset in (0..was.size.bytes()).step_by(size.bytes() as usize) {
                    let (phys, flags) = (was.phys.offset(offset), was.flags | noise);
                    self.model.pages.insert(base + offset, Leaf { phys, size, flags });
                }
            }
            Err(MapError::Smallest) => {
                assert!(matches!(self.model.spot(virt, PageSize::Small), Spot::Exact(_)));
            }
            Err(MapError::OutOfMemory) => self.full += 1,
            Err(error) => {
                assert_eq!(error, MapError::NotMapped);
                assert!(matches!(self.model.spot(virt, PageSize::Small), Spot::Free));
            }
        }
    }

    fn prune(&mut self, virt: u64) {
        let (tables, root) = self.mapper.prune(&mut self.memory, VirtAddr::new(virt));
        assert_eq!(root.is_some(), tables[2].is_some());
        for table in tables.into_iter().flatten() {
            self.memory.free(table);
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

fn index(virt: u64) -> usize {
    VirtAddr::new(virt).table_index(4)
}

#[test]
fn random_operations_match_the_model() {
    let (mut out_of_memory, mut splits) = (0, 0);
    let worlds = [(2, 40), (1, 1000), (3, 12), (4, 1000)];
    for &(seed, budget) in &worlds[..if cfg!(miri) { 1 } else { 4 }] {
        let mut world = World::new(seed, budget);
        for step in 0..if cfg!(miri) { 30 } else { 75_000 } {
            world.step();
            splits += usize::from(world.model.pages.len() > 511);
            if step % 2000 == 0 {
                world.check_all();
                if world.model.pages.len() > 2000 {
                    world.empty();
                }
            }
        }
        world.check_all();
        world.empty();
        out_of_memory += world.full;
    }
    assert!(cfg!(miri) || (out_of_memory > 100 && splits > 100));
}

impl World {
    /// Takes the whole space apart in bounded steps.
    fn empty(&mut self) {
        while let Some(table) = self.mapper.pop_table(&mut self.memory, 0, 512) {
            self.memory.free(table);
        }
        self.model.pages.clear();
        assert_eq!(self.memory.nr_tables(), 1);
        self.check_all();
    }
}
