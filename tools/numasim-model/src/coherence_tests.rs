//! Exact costs of single transitions, and invariants under random operations.

use super::*;
use crate::config::TEST_MACHINE;

fn machine(edit: &[(&str, &str)]) -> Hierarchy {
    let mut text = TEST_MACHINE.to_string();
    for (from, to) in edit {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let config = Config::parse(&text).expect("parses");
    Hierarchy::new(&config, &Ram::new(&config))
}

const NODE1: u32 = (64 << 20) / 64;

fn load(h: &mut Hierarchy, cpu: usize, line: u32) -> Outcome {
    let home = h.ram.node_of_line(line);
    h.access(cpu, line, home, Port::Data, false)
}

fn store(h: &mut Hierarchy, cpu: usize, line: u32) -> Outcome {
    let home = h.ram.node_of_line(line);
    h.access(cpu, line, home, Port::Data, true)
}

#[test]
fn levels_and_latencies() {
    let mut h = machine(&[]);
    let first = load(&mut h, 0, 5);
    assert_eq!((first.level, first.cycles), (Level::Memory(0), 200));
    let again = load(&mut h, 0, 5);
    assert_eq!((again.level, again.cycles), (Level::L1, 4));
    let near = load(&mut h, 1, 5);
    assert_eq!((near.level, near.cycles), (Level::L3, 40));
    let far = load(&mut h, 2, 5);
    assert_eq!((far.level, far.cycles), (Level::Memory(0), 280));
    let code = h.access(0, 5, 0, Port::Code, false);
    assert_eq!((code.level, code.cycles), (Level::L2, 14), "same CPU, other first level");
    assert_eq!(h.access(0, 5, 0, Port::Code, false).cycles, 0, "fetch hits are pipelined");
}

#[test]
fn a_store_to_an_exclusive_line_is_silent() {
    let mut h = machine(&[]);
    load(&mut h, 0, 7);
    let s = store(&mut h, 0, 7);
    assert_eq!((s.level, s.cycles, s.invalidated), (Level::L1, 4, 0));
}

#[test]
fn ping_pong_costs_a_transfer_and_an_upgrade_each_way() {
    let mut h = machine(&[]);
    store(&mut h, 0, 9);
    load(&mut h, 2, 9);
    for _ in 0..10 {
        for (writer, reader) in [(2, 0), (0, 2)] {
            let w = store(&mut h, writer, 9);
            assert_eq!((w.level, w.cycles), (Level::L1, 4 + 40));
            assert_eq!((w.invalidated, w.invalidated_far), (1, true));
            let r = load(&mut h, reader, 9);
            assert_eq!((r.level, r.cycles), (Level::CacheFar, 300));
        }
    }
    store(&mut h, 0, 9);
    assert_eq!(load(&mut h, 1, 9).level, Level::CacheNear);
    let taken = store(&mut h, 2, 9);
    assert_eq!(taken.level, Level::CacheFar, "the L3 of node 0 holds it dirty");
    assert_eq!((taken.invalidated, taken.invalidated_far), (2, true));
}

#[test]
fn an_array_larger_than_the_caches_misses_once_per_line() {
    for (cpu, home, local) in [(0, 0, true), (2, 0, false), (2, 1, true)] {
        let mut h = machine(&[]);
        let lines = (16 << 20) / 64;
        for pass in 0..2 {
            let mut cycles = 0;
            for i in 0..lines {
                let out = load(&mut h, cpu, home as u32 * NODE1 + i);
                assert_eq!(out.level, Level::Memory(home), "pass {pass}");
                cycles += out.cycles;
            }
            assert_eq!(cycles, u64::from(lines) * if local { 200 } else { 280 });
        }
    }
}

#[test]
fn an_array_that_fits_misses_only_the_first_time() {
    let mut h = machine(&[]);
    let lines = (16 << 10) / 64;
    let count = |h: &mut Hierarchy| {
        (0..lines).filter(|&l| matches!(load(h, 3, NODE1 + l).level, Level::Memory(_))).count()
    };
    assert_eq!(count(&mut h), lines as usize);
    assert_eq!(count(&mut h), 0);
    h.flush();
    assert_eq!(count(&mut h), lines as usize);
}

#[test]
fn dirty_lines_go_back_to_their_home() {
    for l3 in ["l3 2097152 16", "l3 0 0"] {
        let mut h = machine(&[("l3 2097152 16", l3)]);
        let mut local = 0;
        let mut far = 0;
        let lines = (8 << 20) / 64;
        for line in 0..lines {
            let out = store(&mut h, 2, line);
            far += out.writebacks_far;
            local += out.writebacks_local;
        }
        let kept = if l3.ends_with("16") { (2 << 20) / 64 } else { (256 << 10) / 64 };
        assert_eq!((local, far), (0, lines - kept), "{l3}");
    }
}

#[test]
fn without_caches_each_access_goes_to_memory() {
    let mut h = machine(&[("caches on", "caches off")]);
    for _ in 0..3 {
        assert_eq!(load(&mut h, 0, NODE1).cycles, 280);
        assert_eq!(store(&mut h, 2, NODE1).level, Level::Memory(1));
    }
    let mut h = machine(&[("caches on", "caches ideal")]);
    assert_eq!(load(&mut h, 0, NODE1).cycles, 0);
}

fn check(h: &Hierarchy, lines: u32) {
    for line in (0..lines).chain(NODE1..NODE1 + lines) {
        let e = h.directory.get(line);
        for (cpu, p) in h.cpus.iter().enumerate() {
            let held = p.l2.contains(line);
            assert_eq!(held, e.sharers >> cpu & 1 == 1, "line {line} cpu {cpu}");
            assert!(held || !p.l1i.contains(line) && !p.l1d.contains(line));
            let l3 = &h.l3[h.config.cpu_node[cpu]];
            assert!(!held || !l3.exists() || l3.contains(line), "the L3 includes the L2");
        }
        for (node, l3) in h.l3.iter().enumerate() {
            assert_eq!(l3.contains(line), e.l3 >> node & 1 == 1);
        }
        if e.owner != 0 {
            let cpu = usize::from(e.owner) - 1;
            assert_eq!(e.sharers, 1 << cpu, "an owner shares with nobody");
            assert_eq!(e.l3 & !(1 << h.config.cpu_node[cpu]), 0);
        }
        assert!(!e.dirty || e.owner != 0);
        if e.l3_dirty != 0 {
            assert_eq!(e.l3, 1 << (e.l3_dirty - 1), "newer data is in one L3 only");
        }
    }
}

/// Random accesses on tiny caches: the invariants hold, and data always comes from a place that
/// could have it (an oracle remembers who wrote last and whether the write can have left the caches).
#[test]
fn random_accesses_keep_the_invariants() {
    for l3 in ["l3 4096 4", "l3 0 0"] {
        let mut h = machine(&[
            ("l1i 32768 8", "l1i 256 2"),
            ("l1d 32768 8", "l1d 256 2"),
            ("l2 262144 8", "l2 1024 4"),
            ("l3 2097152 16", l3),
        ]);
        let mut last_writer = std::collections::HashMap::new();
        let mut x = 0x2545_F491_4F6C_DD1Du64;
        for step in 0..60_000u32 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let cpu = (x >> 20) as usize % 4;
            let line = (x >> 30) as u32 % 48 + if x & 16 == 0 { 0 } else { NODE1 };
            let write = x.is_multiple_of(5);
            let port = if !write && x.is_multiple_of(7) { Port::Code } else { Port::Data };
            let home = h.ram.node_of_line(line);
            let out = h.access(cpu, line, home, port, write);
            if let Some(&writer) = last_writer.get(&line) {
                let same_node = h.config.cpu_node[writer] == h.config.cpu_node[cpu];
                match out.level {
                    Level::CacheNear => assert!(writer != cpu && same_node),
                    Level::CacheFar => assert!(!same_node),
                    _ => {}
                }
            } else {
                assert!(!matches!(out.level, Level::CacheNear | Level::CacheFar));
            }
            if write {
                last_writer.insert(line, cpu);
                assert_eq!(usize::from(h.directory.get(line).owner), cpu + 1);
            }
            if step % 97 == 0 {
                check(&h, 48);
            }
        }
        check(&h, 48);
    }
}
