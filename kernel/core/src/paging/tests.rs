//! Examples: entries, shared tables, replicas, ranges.

use super::fake::FakeMemory;
use super::*;
use crate::layout::{PAGE_SIZE_1G, PAGE_SIZE_2M, TCB_AREA, TCB_SIZE};
use crate::types::{PhysRange, VirtAddr};

const RW: Flags = Flags::PRESENT.union(Flags::WRITABLE).union(Flags::NO_EXECUTE);
const RX: Flags = Flags::PRESENT;

fn setup() -> (FakeMemory, Mapper) {
    let mut memory = FakeMemory::new();
    let mapper = Mapper::new(memory.root());
    (memory, mapper)
}

fn virt(v: u64) -> VirtAddr {
    VirtAddr::new(v)
}

fn phys(p: u64) -> PhysAddr {
    PhysAddr::new(p)
}

/// Bits as in SDM 3A table 4-15 to 4-20.
#[test]
fn entries_have_the_bits_of_the_manual() {
    let small = Entry::leaf(phys(0x1234_5000), PageSize::Small, RW);
    assert_eq!(small.bits(), 0x8000_0000_1234_5003);
    let large = Entry::leaf(phys(0x20_0000), PageSize::Large, RX | Flags::GLOBAL);
    assert_eq!(large.bits(), 0x20_0181);
    assert_eq!(Entry::table(phys(0x7000)).bits(), 0x7027);
    assert_eq!(large.as_leaf(2).unwrap().entry(), large);
    assert_eq!((large.as_table(2), large.as_leaf(4)), (None, None));
    // In a lowest table bit 7 is the PAT bit, and the entry is a page all the same.
    let pat = Entry::from_bits(0x9081);
    assert_eq!(pat.as_leaf(1).unwrap().entry(), pat);
    assert_eq!(pat.as_table(1), None);
    assert_eq!(Entry::EMPTY.as_leaf(1), None);
    // Bits 62..52 are no address bits.
    assert_eq!(Entry::from_bits(0x7FF0_0000_0000_1001).as_leaf(1).unwrap().phys, phys(0x1000));
}

#[test]
fn misaligned_and_wild_addresses_are_refused() {
    let (mut m, mapper) = setup();
    for (v, p, size) in [
        (0x1001, 0, PageSize::Small),
        (0x1000, 0x1001, PageSize::Small),
        (PAGE_SIZE_2M, PAGE_SIZE_1G + 4096, PageSize::Large),
        (0x0000_8000_0000_0000, 0, PageSize::Small),
    ] {
        let result = mapper.map(&mut m, virt(v), phys(p), size, RW);
        assert_eq!(result, Err(MapError::Misaligned));
    }
    assert_eq!(m.nr_tables(), 1);
}

#[test]
fn ranges_use_the_largest_pages() {
    let (mut m, mapper) = setup();
    let (v, p) =
        (virt(PAGE_SIZE_1G - PAGE_SIZE_2M - 4096), phys(3 * PAGE_SIZE_1G - PAGE_SIZE_2M - 4096));
    let bytes = 4096 + PAGE_SIZE_2M + PAGE_SIZE_1G + PAGE_SIZE_2M + 8192;
    let range = PhysRange::from_len(p.as_u64(), bytes);
    mapper.map_range(&mut m, v, range, PageSize::Huge, RW).unwrap();
    let sizes: Vec<_> = m.leaves(mapper.root(), 4, 0).iter().map(|l| l.1.size as u8).collect();
    assert_eq!(sizes, [1, 2, 3, 2, 1, 1]);
    for offset in [0, 4095, 4096, PAGE_SIZE_1G + 77, bytes - 1] {
        assert_eq!(mapper.walk(&m, v.offset(offset)).phys(), Some(p.offset(offset)));
    }
    assert_eq!(mapper.walk(&m, v.offset(bytes)).phys(), None);

    let (mut m, mapper) = setup();
    mapper.map(&mut m, virt(0x40_0000), phys(0x9000), PageSize::Small, RX).unwrap();
    let range = PhysRange::from_len(0x1000, 0x30_0000);
    let result = mapper.map_range(&mut m, virt(0x1F_F000), range, PageSize::Huge, RW);
    assert_eq!(result, Err(MapError::Occupied(PageSize::Small)));
    let range = PhysRange::from_len(0, 100);
    let result = mapper.map_range(&mut m, virt(0), range, PageSize::Huge, RW);
    assert_eq!(result, Err(MapError::Misaligned));
}

/// The TCB array: all leaf tables are one shared table full of one zero page; the first TCB of a
/// leaf table gives it a copy of its own.
#[test]
fn the_tcb_array_shares_its_absent_slots() {
    let (mut m, mapper) = setup();
    let (zero, tcb) = (phys(0xAAAA_0000), phys(0xBBBB_0000));
    let shared = m.alloc().unwrap();
    for index in 0..512 {
        m.write(shared, index, Entry::leaf(zero, PageSize::Small, RX));
    }
    for block in 0..512 {
        mapper.link(&mut m, TCB_AREA.offset(block * PAGE_SIZE_2M), 1, shared).unwrap();
    }
    // Root, one table of level 3, one of level 2, the shared leaf table.
    assert_eq!(m.nr_tables(), 4);
    let slot = |n: u64| TCB_AREA.offset(n * TCB_SIZE);
    m.begin_watch(mapper.root(), vec![slot(0), slot(5), slot(512 * 7 + 5), slot(0x3FFFF)]);
    for number in [5, 512 * 7 + 5] {
        let own = mapper.unshare(&mut m, slot(number), 1).unwrap();
        assert_ne!(own, shared);
        let old = Entry::leaf(zero, PageSize::Small, RX);
        m.compare_exchange(own, 5, old, Entry::leaf(tcb, PageSize::Small, RW)).unwrap();
    }
    m.end_watch();
    assert_eq!(m.nr_tables(), 6);
    assert_eq!(mapper.walk(&m, slot(5)).phys(), Some(tcb));
    for number in [4, 7, 512 * 8 + 5, 0x3FFFF] {
        assert_eq!(mapper.walk(&m, slot(number)).phys(), Some(zero));
    }
    let again = mapper.link(&mut m, slot(0), 1, shared);
    assert_eq!(again, Err(MapError::TableInTheWay));
    mapper.map(&mut m, virt(PAGE_SIZE_1G), phys(0), PageSize::Huge, RW).unwrap();
    let below = mapper.link(&mut m, virt(PAGE_SIZE_1G), 1, shared);
    assert_eq!(below, Err(MapError::Occupied(PageSize::Huge)));
}

/// A CPU's root: what it maps in its own 2 MiB nobody else sees; all tables beside that way are the node's.
#[test]
fn a_copy_has_its_own_tables_on_one_way_only() {
    let (mut m, node) = setup();
    let (text, window) = (virt(0xFFFF_FFFF_8020_0000), virt(0xFFFF_FFFF_A000_0000));
    let far = virt(0xFFFF_8000_0000_0000);
    for at in [text, far] {
        node.map(&mut m, at, phys(0x1000), PageSize::Small, RX).unwrap();
    }
    let before = m.nr_tables();
    let cpu = Mapper::copy_of(&mut m, node, window).unwrap();
    // The root, the table of level 3 and that of level 2.
    assert_eq!(m.nr_tables(), before + 3);
    cpu.map(&mut m, window, phys(0x2000), PageSize::Small, RW).unwrap();
    assert_eq!(cpu.walk(&m, window).phys(), Some(phys(0x2000)));
    assert_eq!(node.walk(&m, window).phys(), None);
    let leaf = |mapper: Mapper, at| mapper.walk(&m, at).table_of_level(1);
    assert_eq!((leaf(cpu, text), leaf(cpu, far)), (leaf(node, text), leaf(node, far)));
    assert_ne!(cpu.walk(&m, text).tables()[1], node.walk(&m, text).tables()[1]);
    assert_eq!(cpu.walk(&m, far).tables()[1..], node.walk(&m, far).tables()[1..]);
    // Nothing but a root where the template has no tables on the way.
    let before = m.nr_tables();
    Mapper::copy_of(&mut m, node, virt(0x1000)).unwrap();
    assert_eq!(m.nr_tables(), before + 1);
    for budget in 0..3 {
        m.budget = budget;
        let result = Mapper::copy_of(&mut m, node, window).map(|_| ());
        assert_eq!(result, Err(MapError::OutOfMemory));
    }
}

/// One building function run per node: same addresses, other frames, other tables.
#[test]
fn replicas_differ_only_in_placement() {
    let mut m = FakeMemory::new();
    let text = virt(0xFFFF_FFFF_8020_0000);
    let roots = [1, 2].map(|node| {
        let mapper = Mapper::new(m.root());
        let replica = PhysRange::from_len(node << 32, 5 * 4096);
        mapper.map_range(&mut m, text, replica, PageSize::Large, RX).unwrap();
        mapper
    });
    let walks = roots.map(|mapper| mapper.walk(&m, text.offset(0x1234)));
    assert_eq!(walks[0].phys(), Some(phys(0x1_0000_1234)));
    assert_eq!(walks[1].phys(), Some(phys(0x2_0000_1234)));
    assert!(walks[0].tables().iter().all(|t| !walks[1].tables().contains(t)));
    assert_eq!(walks[0].level(), 1);
    assert_eq!(walks[0].rights, Rights { write: false, execute: true, user: false });
}

#[test]
fn walks_stop_where_the_tables_do() {
    let (mut m, mapper) = setup();
    assert_eq!(mapper.walk(&m, virt(0)).tables(), [mapper.root()]);
    mapper.map(&mut m, virt(0x20_0000), phys(0x1000), PageSize::Small, RW).unwrap();
    let table = mapper.walk(&m, virt(0x20_0000)).table_of_level(1).unwrap();
    let way = mapper.walk(&m, virt(0x3F_F000));
    assert_eq!((way.level(), way.leaf, way.table_of_level(1)), (1, None, Some(table)));
    assert_eq!(mapper.walk(&m, virt(0)).level(), 2);
    assert_eq!(mapper.walk(&m, virt(0)).table_of_level(1), None);
    assert_eq!(mapper.walk(&m, virt(0)).table_of_level(5), None);
    // A reader that refuses a table ends the walk.
    let blind = walk(mapper.root(), virt(0x20_0000), |t, i| (t != table).then(|| m.read(t, i)));
    assert_eq!((blind.level(), blind.leaf), (1, None));
}

#[test]
fn running_out_in_the_middle_of_a_map_changes_nothing() {
    for budget in 0..3 {
        let (mut m, mapper) = setup();
        m.budget = budget;
        let result = mapper.map(&mut m, virt(0x1000), phys(0x1000), PageSize::Small, RW);
        assert_eq!(result, Err(MapError::OutOfMemory));
        assert_eq!((m.nr_tables(), m.budget), (1, budget));
        assert_eq!(m.read(mapper.root(), 0), Entry::EMPTY);
    }
}
