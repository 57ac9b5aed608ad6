//! Made-up tables for every odd machine of the plan.

use super::tables::TableError;
use super::test_tables::{GIB, MIB, Table, range};
use super::*;

fn madt(apics: impl IntoIterator<Item = u32>) -> Vec<MadtCpu> {
    apics.into_iter().map(|a| MadtCpu { apic: ApicId::new(a), usable: true }).collect()
}

fn discover(
    srat: Option<&[u8]>,
    slit: Option<&[u8]>,
    usable: &[PhysRange],
    apics: impl IntoIterator<Item = u32>,
    bsp: u32,
) -> Topology {
    let mut t = Topology::EMPTY;
    t.discover(Tables { srat, slit }, usable, madt(apics), ApicId::new(bsp)).unwrap();
    check_invariants(&t);
    t
}

/// What holds for every discovered topology.
pub(super) fn check_invariants(t: &Topology) {
    assert!(t.nr_nodes() >= 1 && t.nr_cpus() >= 1);
    assert!(!t.ranges().is_empty());
    for pair in t.ranges().windows(2) {
        assert!(pair[0].range.end <= pair[1].range.start);
    }
    for r in t.ranges() {
        assert!(!r.range.is_empty() && r.node.index() < t.nr_nodes());
        assert!(r.range.start.is_aligned(4096) && r.range.end.is_aligned(4096));
        assert_eq!(t.node_of(r.range.start), Some(r.node));
    }
    for pair in t.cpus()[1..].windows(2) {
        assert!((pair[0].node, pair[0].apic) < (pair[1].node, pair[1].apic));
    }
    for (i, cpu) in t.cpus().iter().enumerate() {
        assert!(cpu.node.index() < t.nr_nodes());
        assert_eq!(t.cpu_by_apic(cpu.apic), Some(CpuId::new(i as u16)));
    }
    for node in t.nodes().take(if cfg!(miri) { 4 } else { MAX_NODES }) {
        assert_eq!(t.distance(node, node), LOCAL_DISTANCE);
        let order = t.nearest_nodes(node);
        assert_eq!(order.as_slice().len(), t.nr_nodes());
        assert_eq!(order.as_slice()[0], node);
        assert!(order.as_slice().is_sorted_by_key(|n| t.distance(node, *n)));
        assert!(t.memory_of(t.memory_node_for(node)) > 0);
        if t.memory_of(node) > 0 {
            assert_eq!(t.memory_node_for(node), node);
        }
    }
}

fn node(n: u8) -> NodeId {
    NodeId::new(n)
}

#[test]
fn two_nodes_four_cpus_as_the_emulator_describes_them() {
    let srat = Table::srat(1)
        .apic(0, 0, 1)
        .apic(1, 0, 1)
        .apic(2, 1, 1)
        .apic(3, 1, 1)
        .memory(0, 0xA0000, 0, 1)
        .memory(MIB, 255 * MIB, 0, 1)
        .memory(256 * MIB, 256 * MIB, 1, 1)
        .memory(0x1_0000_0000, 0, 1, 1)
        .seal();
    let slit = Table::slit(2, &[10, 20, 20, 10]).seal();
    let usable = [range(0, 0x9FC00), range(MIB, 511 * MIB - 0x20000)];
    let t = discover(Some(&srat), Some(&slit), &usable, 0..4, 0);
    assert_eq!((t.nr_nodes(), t.nr_cpus()), (2, 4));
    let of = |n| t.ranges_of(node(n)).collect::<Vec<_>>();
    assert_eq!(of(0), [range(0, 0x9F000), range(MIB, 255 * MIB)]);
    assert_eq!(of(1), [range(256 * MIB, 256 * MIB - 0x20000)]);
    assert!(t.cpus_of(node(1)).eq([CpuId::new(2), CpuId::new(3)]));
    assert_eq!(t.distance(node(0), node(1)), 20);
    assert_eq!(t.warnings(), []);
}

#[test]
fn gaps_in_domains_and_cpus_out_of_order() {
    let srat = Table::srat(3)
        .apic(0, 7, 1)
        .apic(1, 0x0102_0304, 1)
        .apic(2, 7, 1)
        .apic(3, 3, 1)
        .memory(0, GIB, 7, 1)
        .memory(GIB, GIB, 0x0102_0304, 1)
        .memory(2 * GIB, GIB, 3, 1)
        .seal();
    // Rows of domains that are not nodes are skipped; 0x1020304 is not covered.
    let mut matrix = [99u8; 64];
    matrix[7 * 8 + 7] = 10;
    matrix[3 * 8 + 3] = 10;
    matrix[7 * 8 + 3] = 40;
    matrix[3 * 8 + 7] = 30;
    let slit = Table::slit(8, &matrix).seal();
    let t = discover(Some(&srat), Some(&slit), &[range(0, 3 * GIB)], 0..4, 2);
    let domains: Vec<_> = t.nodes().map(|n| t.proximity_domain(n).unwrap()).collect();
    assert_eq!(domains, [3, 7, 0x0102_0304]);
    let cpus: Vec<_> = t.cpus().iter().map(|c| (c.apic.get(), c.node.get())).collect();
    assert_eq!(cpus, [(2, 1), (3, 0), (0, 1), (1, 2)]);
    assert_eq!(t.distance(node(1), node(0)), 40);
    assert_eq!(t.distance(node(0), node(1)), 30);
    assert_eq!(t.distance(node(0), node(2)), REMOTE_DISTANCE);
    assert!(t.nearest_nodes(node(1)).eq([node(1), node(2), node(0)]));
    assert_eq!(t.warnings(), [Warning::DomainNotInSlit(0x0102_0304)]);
}

#[test]
fn revision_one_has_eight_bit_domains() {
    let table =
        |rev| Table::srat(rev).apic(0, 0xABCD_EF01, 1).memory(0, GIB, 0xABCD_EF01, 1).seal();
    let t = discover(Some(&table(1)), None, &[range(0, GIB)], 0..1, 0);
    assert_eq!(t.proximity_domain(node(0)), Some(1));
    let t = discover(Some(&table(2)), None, &[range(0, GIB)], 0..1, 0);
    assert_eq!(t.proximity_domain(node(0)), Some(0xABCD_EF01));
}

#[test]
fn x2apic_ids_above_255() {
    let srat = Table::srat(3)
        .x2apic(0x1_0000, 0, 1)
        .x2apic(0x400, 1, 1)
        .x2apic(5, 1, 0)
        .memory(0, GIB, 0, 1)
        .memory(GIB, GIB, 1, 1)
        .seal();
    let t = discover(Some(&srat), None, &[range(0, 2 * GIB)], [0x1_0000, 0x400, 5], 0x1_0000);
    assert_eq!(t.cpu(CpuId::new(2)).unwrap(), Cpu { apic: ApicId::new(0x400), node: node(1) });
    assert_eq!(t.warnings(), [Warning::CpuNotInSrat(ApicId::new(5))]);
    assert_eq!(t.cpu(t.cpu_by_apic(ApicId::new(5)).unwrap()).unwrap().node, node(0));
}

#[test]
fn no_srat_is_one_node() {
    let t = discover(None, None, &[range(MIB, GIB)], [4, 0, 2], 4);
    assert_eq!((t.nr_nodes(), t.nr_cpus()), (1, 3));
    assert_eq!(t.cpus()[0].apic, ApicId::new(4));
    assert_eq!(t.warnings(), []);
}

#[test]
fn an_srat_without_enabled_entries_is_no_srat() {
    let srat = Table::srat(3).apic(0, 1, 0).memory(0, GIB, 1, 0).seal();
    let t = discover(Some(&srat), None, &[range(0, GIB)], 0..2, 0);
    assert_eq!(t.nr_nodes(), 1);
    assert_eq!(t.warnings(), []);
}

#[test]
fn node_without_memory_uses_the_nearest() {
    let srat = Table::srat(3)
        .apic(0, 0, 1)
        .apic(1, 1, 1)
        .apic(2, 2, 1)
        .memory(0, GIB, 0, 1)
        .memory(GIB, GIB, 2, 1)
        .seal();
    let slit = Table::slit(3, &[10, 21, 21, 30, 10, 20, 21, 21, 10]).seal();
    let t = discover(Some(&srat), Some(&slit), &[range(0, 2 * GIB)], 0..3, 0);
    assert_eq!(t.nr_nodes(), 3);
    assert_eq!(t.memory_of(node(1)), 0);
    assert_eq!(t.memory_node_for(node(1)), node(2));
    assert_eq!(t.warnings(), []);
}

#[test]
fn node_without_cpus_and_domain_without_anything() {
    let srat = Table::srat(3)
        .apic(0, 0, 1)
        .memory(0, GIB, 0, 1)
        .memory(GIB, 3 * GIB, 1, 1)
        .memory(64 * GIB, GIB, 2, 3)
        .apic(9, 5, 1)
        .seal();
    let t = discover(Some(&srat), None, &[range(0, 4 * GIB)], 0..1, 0);
    assert_eq!(t.nr_nodes(), 2);
    assert_eq!(t.cpus_of(node(1)).count(), 0);
    assert_eq!(t.memory_of(node(1)), 3 * GIB);
    assert_eq!(t.warnings(), [Warning::EmptyDomain(2), Warning::EmptyDomain(5)]);
}

#[test]
fn memory_above_4_gib_with_the_pci_hole_inside_a_node() {
    let srat = Table::srat(3)
        .apic(0, 0, 1)
        .apic(1, 1, 1)
        .memory(0, 6 * GIB, 0, 1)
        .memory(6 * GIB, 2 * GIB, 1, 1)
        .seal();
    let usable = [range(4 * GIB, 4 * GIB), range(0, 3 * GIB)];
    let t = discover(Some(&srat), None, &usable, 0..2, 0);
    assert!(t.ranges_of(node(0)).eq([range(0, 3 * GIB), range(4 * GIB, 2 * GIB)]));
    assert_eq!(t.node_of(PhysAddr::new(3 * GIB)), None);
    assert_eq!(t.node_of(PhysAddr::new(6 * GIB - 1)), Some(node(0)));
    assert_eq!(t.node_of(PhysAddr::new(6 * GIB)), Some(node(1)));
}

#[test]
fn overlapping_uncovered_and_too_high_memory() {
    let high = PHYS_LIMIT_GIB * GIB;
    let srat = Table::srat(3)
        .apic(0, 0, 1)
        .apic(1, 1, 1)
        .memory(GIB, 2 * GIB, 0, 1)
        .memory(2 * GIB, 2 * GIB, 1, 1)
        .memory(2 * GIB, GIB / 2, 0, 1)
        .memory(high - GIB, u64::MAX, 1, 1)
        .seal();
    let usable = [range(0, 5 * GIB), range(high - 4096, 8192)];
    let t = discover(Some(&srat), None, &usable, 0..2, 0);
    assert!(t.ranges_of(node(0)).eq([range(0, 3 * GIB), range(4 * GIB, GIB)]));
    assert!(t.ranges_of(node(1)).eq([range(3 * GIB, GIB), range(high - 4096, 4096)]));
    let expected = [
        Warning::RangesOverlap { kept: 0, cut: 1, range: range(2 * GIB, GIB) },
        Warning::MemoryTooHigh(range(high, 4096)),
        Warning::MemoryNotInSrat(range(0, GIB)),
        Warning::MemoryNotInSrat(range(4 * GIB, GIB)),
    ];
    assert_eq!(t.warnings()[..1], expected[..1]);
    for warning in &expected {
        assert!(t.warnings().contains(warning), "{warning:?} not in {:?}", t.warnings());
    }
}

const PHYS_LIMIT_GIB: u64 = crate::layout::PHYS_LIMIT.as_u64() / GIB;

#[test]
fn nonsense_distances_are_corrected_and_asymmetric_ones_kept() {
    let srat = Table::srat(3).apic(0, 0, 1).apic(1, 1, 1).apic(2, 2, 1).memory(0, GIB, 0, 1).seal();
    let slit = Table::slit(3, &[10, 5, 25, 31, 11, 255, 0, 10, 10]).seal();
    let t = discover(Some(&srat), Some(&slit), &[range(0, GIB)], 0..3, 0);
    let row = |n| t.nodes().map(|m| t.distance(node(n), m)).collect::<Vec<_>>();
    assert_eq!(row(0), [10, 20, 25]);
    assert_eq!(row(1), [31, 10, 255]);
    assert_eq!(row(2), [20, 20, 10]);
    let odd: Vec<_> = t.warnings().iter().map(|w| matches!(w, Warning::Distance { .. })).collect();
    assert_eq!(odd, [true; 4]);
    assert_eq!(t.distance(node(0), node(3)), 255);
}

#[test]
fn odd_cpu_lists() {
    let usable = [range(0, GIB)];
    let t = discover(None, None, &usable, [], 3);
    assert_eq!(t.warnings(), [Warning::NoCpuListed]);
    let t = discover(None, None, &usable, [1, 1, 2], 3);
    assert_eq!(t.nr_cpus(), 3);
    let twice = Warning::CpuTwice(ApicId::new(1));
    assert_eq!(t.warnings(), [twice, Warning::BspNotListed(ApicId::new(3))]);
    let t = discover(None, None, &usable, (0..300).rev(), 0);
    assert_eq!(t.nr_cpus(), MAX_CPUS);
    assert_eq!(t.cpus()[0].apic, ApicId::new(0));
    assert_eq!(t.warnings().len() as u32 + t.warnings_lost(), 300 - 256);
    let mut t = Topology::EMPTY;
    let off = MadtCpu { apic: ApicId::new(1), usable: false };
    let cpus = madt([0]).into_iter().chain([off]);
    t.discover(Tables::default(), &usable, cpus, ApicId::new(0)).unwrap();
    assert_eq!(t.nr_cpus(), 1);
}

#[test]
fn more_domains_than_nodes() {
    let mut srat = Table::srat(3);
    for i in 0..70u8 {
        srat = srat.apic(i, 200 - u32::from(i), 1).memory(u64::from(i) * GIB, GIB, 200, 1);
    }
    let srat = srat.seal();
    let t = discover(Some(&srat), None, &[range(0, 100 * GIB)], 0..70, 0);
    assert_eq!(t.nr_nodes(), MAX_NODES);
    assert_eq!(t.proximity_domain(node(0)), Some(131));
    assert_eq!(t.cpus()[0].node, node(0));
    assert!(t.warnings().contains(&Warning::DomainDropped(200)));
}

#[test]
fn corrupt_tables_mean_one_node() {
    let good = Table::srat(3).apic(0, 0, 1).apic(1, 1, 1).memory(0, GIB, 0, 1).seal();
    let mut bad_sum = good.clone();
    bad_sum[9] ^= 1;
    let mut bad_name = good.clone();
    bad_name[0] = b'X';
    let mut bad_len = good.clone();
    bad_len[7] = 1;
    let entry = Table::srat(3).apic(0, 0, 1).raw(&[1, 39, 0]).seal();
    let zero_len = Table::srat(3).apic(0, 0, 1).raw(&[77, 0]).seal();
    let cases: [(&[u8], TableError); 8] = [
        (&bad_sum, TableError::Checksum(if good[9] & 1 == 0 { 1 } else { 0xFF })),
        (&bad_name, TableError::Signature(*b"XRAT")),
        (&bad_len, TableError::Truncated { needed: 0x0100_0078, have: 0x78 }),
        (&good[..0x60], TableError::Truncated { needed: 0x78, have: 0x60 }),
        (&good[..3], TableError::Truncated { needed: 36, have: 3 }),
        (&[], TableError::Truncated { needed: 36, have: 0 }),
        (&entry, TableError::Entry { offset: 64 }),
        (&zero_len, TableError::Entry { offset: 64 }),
    ];
    for (bytes, error) in cases {
        let t = discover(Some(bytes), None, &[range(0, GIB)], 0..2, 0);
        assert_eq!(t.nr_nodes(), 1);
        assert_eq!(t.warnings(), [Warning::SratIgnored(error)]);
    }
    let huge = Table::slit(1 << 33, &[10]).seal();
    let t = discover(Some(&good), Some(&huge), &[range(0, GIB)], 0..2, 0);
    let error = TableError::Truncated { needed: u64::MAX, have: 1 };
    assert_eq!(t.warnings(), [Warning::SlitIgnored(error)]);
    assert_eq!(t.distance(node(0), node(1)), REMOTE_DISTANCE);
}

/// The length is 32 bits: the `acpi` crate's 16-bit reading would cut this table off.
#[test]
#[cfg_attr(miri, ignore = "3000 entries take minutes")]
fn tables_longer_than_64_kib() {
    let mut srat = Table::srat(3);
    for i in 0..3000 {
        srat = srat.x2apic(i, i % 4, u32::from(i < 100));
    }
    let srat = srat.memory(0, GIB, 3, 1).seal();
    assert!(srat.len() > 0x1_0000);
    let t = discover(Some(&srat), None, &[range(0, GIB)], 0..100, 99);
    assert_eq!((t.nr_nodes(), t.nr_cpus()), (4, 100));
    assert_eq!(t.memory_of(node(3)), GIB);
}

#[test]
fn no_memory_is_an_error() {
    let mut t = Topology::EMPTY;
    let tiny = [range(4095, 4096)];
    let result = t.discover(Tables::default(), &tiny, madt([0]), ApicId::new(0));
    assert_eq!(result, Err(TopologyError::NoMemory));
}

#[test]
fn more_ranges_than_fit() {
    let usable: Vec<_> = (0..400).map(|i| range(i * MIB, 8192)).collect();
    let t = discover(None, None, &usable, 0..1, 0);
    assert_eq!(t.ranges().len(), MAX_RANGES);
    assert!(
        t.warnings().contains(&Warning::RangeDropped(range(300 * MIB, 8192)))
            || t.warnings_lost() > 0
    );
}

#[test]
fn warnings_read_well() {
    let e = TableError::Truncated { needed: 48, have: 3 };
    let text = Warning::SratIgnored(e).to_string();
    assert_eq!(text, "SRAT ignored, one node assumed: truncated: needs 48 bytes, has 3");
    let w = Warning::Distance { from: node(0), to: node(1), value: 5, used: 20 };
    assert_eq!(w.to_string(), "distance 0 to 1 cannot be 5, 20 used");
}
