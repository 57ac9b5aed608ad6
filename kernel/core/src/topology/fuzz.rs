//! Random, truncated and corrupted tables: never a panic, always the invariants.

use super::tables::{Slit, Srat, SratEntry};
use super::test_tables::{GIB, MIB, Table, range};
use super::tests::check_invariants;
use super::*;
use crate::testing::{Rng, rounds};

fn random_srat(rng: &mut Rng) -> Vec<u8> {
    let mut table = Table::srat(rng.below(4) as u8);
    for _ in 0..rng.below(40) {
        let domain = if rng.below(8) == 0 { rng.next() as u32 } else { rng.below(6) as u32 };
        let flags = u32::from(rng.below(5) != 0);
        table = match rng.below(4) {
            0 => table.apic(rng.below(20) as u8, domain, flags),
            1 => table.x2apic(rng.below(20) as u32, domain, flags),
            2 => table.memory(
                rng.below(64) * 256 * MIB + rng.below(3),
                rng.below(GIB),
                domain,
                flags,
            ),
            _ if rng.below(4) == 0 => table.memory(rng.next(), rng.next(), domain, flags),
            _ => table.raw(&[3 + rng.below(5) as u8, 4, 1, 2]),
        };
    }
    table.seal()
}

fn random_slit(rng: &mut Rng) -> Vec<u8> {
    let size = rng.below(8);
    let matrix: Vec<u8> = (0..size * size).map(|_| rng.next() as u8).collect();
    Table::slit(size, &matrix).seal()
}

/// Damages a table; half of the time the checksum is made right again.
fn damage(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    match rng.below(4) {
        0 => return bytes,
        1 => {
            bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            return bytes;
        }
        _ => {}
    }
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] = rng.next() as u8;
    }
    if rng.below(2) == 0 {
        let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let len = len.clamp(10, bytes.len());
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[9] = 0;
        let sum = bytes[..len].iter().fold(0u8, |s, b| s.wrapping_add(*b));
        bytes[9] = 0u8.wrapping_sub(sum);
    }
    bytes
}

/// Where the topology says a page is must agree with a direct reading of the tables.
fn check_against_tables(t: &Topology, srat: &[u8], usable: &[PhysRange], rng: &mut Rng) {
    let Ok(table) = Srat::parse(srat) else {
        assert_eq!(t.nr_nodes(), 1);
        return;
    };
    if t.warnings_lost() > 0 {
        return;
    }
    for _ in 0..20 {
        let page = range(rng.below(20 * 256) * MIB, 4096);
        let is_usable = usable.iter().any(|u| u.contains_range(page));
        let claims = |entry: &SratEntry| match *entry {
            SratEntry::Memory { range, domain, .. } => {
                range.contains_range(page).then_some(t.node_of_domain(domain))
            }
            SratEntry::Cpu { .. } => None,
        };
        let claimed: Vec<_> = table.entries().filter_map(|e| claims(&e)).collect();
        match t.node_of(page.start) {
            Some(node) if !claimed.is_empty() => assert!(claimed.contains(&Some(node))),
            Some(_) => assert!(usable.iter().any(|u| u.overlaps(page))),
            None => assert!(!is_usable || claimed.is_empty()),
        }
    }
}

#[test]
fn random_tables_never_panic_and_keep_the_invariants() {
    let mut rng = Rng::new(2024);
    let mut t = Topology::EMPTY;
    for _ in 0..rounds(10_000) {
        let srat = random_srat(&mut rng);
        let srat = damage(&mut rng, srat);
        let slit = random_slit(&mut rng);
        let slit = damage(&mut rng, slit);
        let usable: Vec<_> = (0..1 + rng.below(12))
            .map(|_| range(rng.below(20 * 256) * MIB + rng.below(2), rng.below(GIB) + 8192))
            .collect();
        let cpus: Vec<_> = (0..rng.below(24))
            .map(|_| MadtCpu { apic: ApicId::new(rng.below(24) as u32), usable: rng.below(8) > 0 })
            .collect();
        let tables = Tables { srat: Some(&srat), slit: Some(&slit) };
        t.discover(tables, &usable, cpus, ApicId::new(rng.below(24) as u32)).unwrap();
        check_invariants(&t);
        check_against_tables(&t, &srat, &usable, &mut rng);
    }
}

#[test]
fn noise_is_refused() {
    let mut rng = Rng::new(1);
    for _ in 0..rounds(20_000) {
        let mut bytes: Vec<u8> = (0..rng.below(200)).map(|_| rng.next() as u8).collect();
        if bytes.len() >= 8 {
            let name = if rng.below(2) == 0 { b"SRAT" } else { b"SLIT" };
            bytes[..4].copy_from_slice(name);
            bytes[4..8].copy_from_slice(&(rng.below(220) as u32).to_le_bytes());
        }
        if let Ok(srat) = Srat::parse(&bytes) {
            assert!(srat.entries().count() < 200);
        }
        if let Ok(slit) = Slit::parse(&bytes) {
            let _ = slit.distance(rng.next() as u32, 0);
        }
    }
}
