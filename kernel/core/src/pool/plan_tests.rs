//! Carving on made-up machines.

use super::*;
use crate::layout::{LOW_IMAGE_AREA, PAGE_SIZE_2M};
use crate::testing::{Rng, rounds};
use crate::topology::{MadtCpu, NodeRange, Tables, Topology};
use crate::types::ApicId;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn mib(start: u64, len: u64) -> PhysRange {
    PhysRange::from_len(start * MIB, len * MIB)
}

/// A machine whose nodes have the given memory, one CPU each.
fn machine(nodes: &[&[PhysRange]]) -> Topology {
    use crate::topology::test_tables::Table;
    let mut srat = Table::srat(3);
    let mut usable = Vec::new();
    for (i, ranges) in nodes.iter().enumerate() {
        srat = srat.apic(i as u8, i as u32, 1);
        for r in *ranges {
            srat = srat.memory(r.start.as_u64(), r.len(), i as u32, 1);
            usable.push(*r);
        }
    }
    let srat = srat.seal();
    let cpus = (0..nodes.len() as u32).map(|a| MadtCpu { apic: ApicId::new(a), usable: true });
    let mut t = Topology::EMPTY;
    let tables = Tables { srat: Some(&srat), slit: None };
    t.discover(tables, &usable, cpus, ApicId::new(0)).unwrap();
    t
}

fn plan(t: &Topology, reserved: &[PhysRange], options: PoolOptions) -> PoolPlan {
    let plan = PoolPlan::new(t, reserved, options).unwrap();
    check(t, &plan, reserved);
    plan
}

/// What holds for every plan.
fn check(t: &Topology, plan: &PoolPlan, reserved: &[PhysRange]) {
    for &NodeRange { node, range } in plan.extents() {
        assert!(!range.is_empty());
        assert!(range.start.is_aligned(PAGE_SIZE_2M) && range.end.is_aligned(PAGE_SIZE_2M));
        assert!(t.ranges_of(node).any(|r| r.contains_range(range)), "{range} not on {node}");
        assert!(!reserved.iter().any(|r| r.overlaps(range)));
        let twice = plan.extents().iter().filter(|e| e.range.overlaps(range)).count();
        assert_eq!(twice, 1);
    }
    for node in t.nodes() {
        assert!(plan.extents_of(plan.home_of(node)).next().is_some());
        assert!(plan.extents_of(node).count() <= MAX_EXTENTS);
        let pool: u64 = plan.extents_of(node).map(PhysRange::len).sum();
        assert!(pool <= t.memory_of(node) / 2);
        for user in plan.user_memory(t, node, reserved).iter() {
            assert!(t.ranges_of(node).any(|r| r.contains_range(*user)));
            assert!(!plan.extents().iter().any(|e| e.range.overlaps(*user)));
            assert!(!reserved.iter().any(|r| r.overlaps(*user)));
        }
    }
}

fn extents(plan: &PoolPlan, node: u8) -> Vec<PhysRange> {
    plan.extents_of(NodeId::new(node)).collect()
}

#[test]
fn default_sizes_lie_high_in_the_node() {
    let t = machine(&[&[mib(0, 64)], &[mib(64, 192)], &[mib(256, 768)], &[mib(1024, 2048)]]);
    let p = plan(&t, &[], PoolOptions::default());
    assert_eq!(extents(&p, 0), [mib(56, 8)]);
    assert_eq!(extents(&p, 1), [mib(244, 12)]);
    assert_eq!(extents(&p, 2), [mib(976, 48)]);
    assert_eq!(extents(&p, 3), [mib(3008, 64)]);
    let user = p.user_memory(&t, NodeId::new(1), &[mib(100, 1)]);
    assert_eq!(&user[..], &[mib(64, 36), mib(101, 143)]);
}

#[test]
fn low_memory_is_left_to_images() {
    let t = machine(&[&[mib(1, 255)]]);
    let p = plan(&t, &[mib(65, 190)], PoolOptions::default());
    // Nothing of 8 MiB is free above 64 MiB.
    assert_eq!(extents(&p, 0), [mib(48, 16)]);
    let p = plan(&t, &[mib(100, 156)], PoolOptions::default());
    assert_eq!(extents(&p, 0), [mib(84, 16)]);
    assert!(extents(&p, 0)[0].start >= LOW_IMAGE_AREA);
}

#[test]
fn memory_below_4_gib_is_preferred() {
    let t = machine(&[&[mib(0, 3072), mib(4096, 4096)], &[mib(8192, 1024)]]);
    let p = plan(&t, &[], PoolOptions::default());
    assert_eq!(extents(&p, 0), [mib(3008, 64)]);
    assert_eq!(extents(&p, 1), [mib(9152, 64)]);
}

#[test]
fn fragmented_nodes_use_their_largest_parts() {
    let holes: Vec<_> = (0..40).map(|i| mib(64 + 10 * i + 6, 4)).collect();
    let t = machine(&[&[mib(0, 464)]]);
    let big = PoolOptions { size: Some(100 * MIB), flat: false };
    let reserved: Vec<_> = holes.iter().copied().chain([mib(0, 64)]).collect();
    let p = plan(&t, &reserved, big);
    assert_eq!(extents(&p, 0), [0, 1, 2, 3].map(|i| mib(64 + 10 * i, 6)));
}

#[test]
fn options_set_size_and_flatness() {
    let t = machine(&[&[mib(0, 512)], &[mib(512, 512)], &[]]);
    let p = plan(&t, &[], PoolOptions { size: Some(3 * MIB), flat: false });
    assert_eq!(extents(&p, 0), [mib(508, 4)]);
    assert_eq!(p.home_of(NodeId::new(2)), NodeId::new(0));
    let p = plan(&t, &[], PoolOptions { size: None, flat: true });
    assert_eq!(extents(&p, 0), [mib(448, 64)]);
    assert_eq!(extents(&p, 1), []);
    assert_eq!(p.home_of(NodeId::new(1)), NodeId::new(0));
    let p = plan(&t, &[], PoolOptions { size: Some(u64::MAX), flat: false });
    assert_eq!(extents(&p, 1), [mib(768, 256)]);
}

#[test]
fn no_memory_for_a_pool_is_an_error() {
    let t = machine(&[&[mib(0, 3)]]);
    let result = PoolPlan::new(&t, &[], PoolOptions::default());
    assert!(matches!(result, Err(PlanError::NoPool)));
    let t = machine(&[&[mib(0, 64)]]);
    let result = PoolPlan::new(&t, &[mib(0, 64)], PoolOptions::default());
    assert!(matches!(result, Err(PlanError::NoPool)));
}

#[test]
fn random_machines_give_sound_plans() {
    let mut rng = Rng::new(5);
    for _ in 0..rounds(3_000) {
        let mut at = 0;
        let mut nodes = Vec::new();
        for _ in 0..1 + rng.below(6) {
            let mut ranges = Vec::new();
            for _ in 0..rng.below(4) {
                at += rng.below(3) * MIB + rng.below(3) * 4096;
                let len = rng.below(GIB / 4096) * 4096;
                ranges.push(PhysRange::from_len(at, len));
                at += len;
            }
            nodes.push(ranges);
        }
        if nodes.iter().flatten().all(|r| r.is_empty()) {
            continue;
        }
        let slices: Vec<_> = nodes.iter().map(|n| &n[..]).collect();
        let t = machine(&slices);
        let reserved: Vec<_> = (0..rng.below(10))
            .map(|_| PhysRange::from_len(rng.below(at), rng.below(32 * MIB)))
            .collect();
        let options = PoolOptions {
            size: (rng.below(2) == 0).then(|| rng.below(GIB)),
            flat: rng.below(4) == 0,
        };
        if let Ok(plan) = PoolPlan::new(&t, &reserved, options) {
            check(&t, &plan, &reserved);
        }
    }
}
