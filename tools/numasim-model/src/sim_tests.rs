//! Whole programs on the modelled machine, with exact expectations.

use super::*;
use crate::{
    config::TEST_MACHINE,
    cpu::Fetched,
    region::Slot,
    walk::tests::{FakeGuest, LONG_MODE},
};
use l4abi::marker::Op;

const NODE1: u64 = 64 << 20;
const CODE: u64 = 0x1000;

/// A machine and a guest without paging, driven by hand.
struct Rig {
    sim: Sim,
    guest: FakeGuest,
    yields: u64,
}

impl Rig {
    fn new(edit: &[(&str, &str)]) -> Rig {
        let mut text = TEST_MACHINE.to_string();
        for (from, to) in edit {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let sim = Sim::new(Config::parse(&text).expect("parses"));
        Rig { sim, guest: FakeGuest::default(), yields: 0 }
    }

    /// Executes `n` kernel instructions of one code line; says whether to let others run.
    fn run(&mut self, cpu: usize, n: u64) -> bool {
        let vaddr = CODE + cpu as u64 * 64;
        let block = block(vaddr, 4);
        let out = self.sim.fetch(cpu, &block, &self.guest);
        let [k, u] = self.guest.counts.get();
        self.guest.counts.set([k + n, u]);
        self.yields += u64::from(out);
        out
    }

    fn load(&mut self, cpu: usize, address: u64) {
        self.sim.data(cpu, address, 8, false, &self.guest);
    }

    fn store(&mut self, cpu: usize, address: u64) {
        self.sim.data(cpu, address, 8, true, &self.guest);
    }

    fn mark(&mut self, cpu: usize, op: Op, id: u16) {
        self.sim.marker(cpu, op, id, true, &self.guest);
    }

    fn slot(&self, cpu: usize) -> &Slot {
        self.sim.regions.list[0].slots[cpu].as_ref().expect("the region was open")
    }
}

/// A block of the kernel's that is not paged.
fn block(vaddr: u64, bytes: u64) -> Block {
    Block { vaddr, gpa: Some(vaddr), end: vaddr + bytes, user: false, vector: None }
}

/// Without caches a line of code is fetched once for each visit: again after a jump, even within the line, and after a
/// serialising instruction, but not because a branch that is not taken ended the emulator's block.
#[test]
fn without_caches_code_is_fetched_once_for_each_visit() {
    let mut rig = Rig::new(&[("caches on", "caches off")]);
    rig.run(0, 1);
    rig.mark(0, Op::Begin, 1);
    let at = CODE + 0x400;
    let mut expected = 0;
    for (vaddr, bytes, fetches) in [
        (at, 8, 1),
        (at + 8, 8, 0),     // a branch that is not taken
        (at + 8, 8, 1),     // a loop
        (at + 16, 8, 0),    // its end
        (at, 8, 1),         // a jump back
        (at + 0x40, 60, 1), // a jump to another line
        (at + 0x7C, 8, 0),  // its last instruction reaches into the next
        (at + 0x80, 0, 1),
        (at + 0x84, 4, 1), // goes on there
    ] {
        rig.sim.fetch(0, &block(vaddr, bytes), &rig.guest);
        expected += fetches;
    }
    rig.sim.special(0, Count::Cr3Write, &rig.guest);
    rig.sim.fetch(0, &block(at + 0x88, 4), &rig.guest);
    rig.sim.fetch(0, &block(at + 0x8C, 4), &rig.guest);
    expected += 1;
    // A repeated string instruction, each element of which is a block.
    for n in 0..5 {
        rig.sim.fetch(0, &block(at + 0x200, 3), &rig.guest);
        rig.sim.repeated(0, at + 0x200, &rig.guest);
        expected += u64::from(n == 0);
    }
    rig.mark(0, Op::End, 1);
    assert_eq!(rig.slot(0).sum.traffic(KERNEL, Class::Fetch).local(0), expected);
}

/// A pass over an array in 4-byte steps, as the thesis' benchmark makes it.
fn pass(rig: &mut Rig, cpu: usize, start: u64, bytes: u64) {
    for address in (start..start + bytes).step_by(4) {
        rig.run(cpu, 3);
        rig.sim.data(cpu, address, 4, false, &rig.guest);
    }
}

#[test]
fn an_array_pass_touches_each_line_once() {
    for (cpu, start, local) in [(0, 1 << 20, true), (2, 1 << 20, false), (2, NODE1, true)] {
        let mut rig = Rig::new(&[]);
        rig.run(cpu, 1);
        rig.mark(cpu, Op::Begin, 1);
        pass(&mut rig, cpu, start, 8 << 20);
        rig.mark(cpu, Op::End, 1);
        let slot = rig.slot(cpu);
        let t = slot.sum.traffic(KERNEL, Class::Data);
        let lines = (8 << 20) / 64;
        let node = rig.sim.cpus[cpu].node;
        assert_eq!((t.local(node), t.remote(node)), if local { (lines, 0) } else { (0, lines) });
        assert_eq!(t.total(), (8 << 20) / 4);
        assert_eq!(slot.sum.get(KERNEL, Count::Loads), (8 << 20) / 4);
        assert_eq!(slot.kernel.sum, 3 * (8 << 20) / 4);
        let miss = if local { 200 } else { 280 };
        assert_eq!(slot.cycles.sum, slot.kernel.sum + lines * (miss + 15 * 4));
        assert_eq!(slot.waited, 0);
    }
}

#[test]
fn without_caches_code_counts_too() {
    let mut rig = Rig::new(&[("caches on", "caches off")]);
    rig.run(2, 1);
    rig.mark(2, Op::Begin, 1);
    pass(&mut rig, 2, NODE1, 1 << 16);
    rig.mark(2, Op::End, 1);
    let slot = rig.slot(2);
    let (data, code) =
        (slot.sum.traffic(KERNEL, Class::Data), slot.sum.traffic(KERNEL, Class::Fetch));
    assert_eq!((data.local(1), data.remote(1)), ((1 << 16) / 4, 0));
    assert_eq!((code.local(1), code.remote(1)), (0, (1 << 16) / 4), "its code lies on node 0");
}

/// Two CPUs on two nodes hand a line to and fro; each polls it with PAUSE.
fn ping_pong(rig: &mut Rig, rounds: u64) {
    let line = NODE1 + 0x4000;
    let mut turn = 0;
    for _ in 0..2 * rounds {
        let (writer, reader) = if turn == 0 { (0, 2) } else { (2, 0) };
        rig.run(writer, 1);
        rig.store(writer, line);
        rig.run(writer, 2);
        // The loser polls once in vain, then sees the line.
        rig.run(reader, 2);
        rig.load(reader, line);
        rig.sim.special(reader, Count::Pause, &rig.guest);
        turn = 1 - turn;
    }
}

#[test]
fn ping_pong_costs_two_transfers_and_two_upgrades() {
    let mut rig = Rig::new(&[]);
    ping_pong(&mut rig, 20);
    rig.run(0, 0);
    rig.mark(0, Op::Begin, 1);
    let rounds = 500;
    ping_pong(&mut rig, rounds);
    rig.mark(0, Op::End, 1);
    let per_round = rig.slot(0).cycles.sum / rounds;
    let predicted = 2 * (300 + 40 + 4);
    assert!(per_round.abs_diff(predicted) * 20 <= predicted, "{per_round}, not {predicted}");
}

#[test]
fn clocks_stay_within_a_quantum() {
    let mut rig = Rig::new(&[]);
    let mut cpu = 0;
    for _ in 0..200_000 {
        if rig.run(cpu, 7) {
            cpu = (cpu + 1) % 4;
        }
        let clocks: Vec<u64> =
            rig.sim.cpus.iter().filter(|c| c.runnable).map(|c| c.clock).collect();
        let spread = clocks.iter().max().unwrap() - clocks.iter().min().unwrap();
        assert!(clocks.len() < 4 || spread <= 2 * 1000 + 300, "{clocks:?}");
    }
    assert!(rig.yields > 1000);
    // False waiting: CPU 3 reads what CPU 0 wrote long ago and loses no more than the quantum.
    rig.store(0, 0x8000);
    let before = rig.sim.cpus[3].waited;
    rig.run(3, 1);
    rig.load(3, 0x8000);
    assert!(rig.sim.cpus[3].waited - before <= 3300);
}

#[test]
fn a_cpu_that_is_alone_looks_for_others_now_and_then() {
    let mut rig = Rig::new(&[]);
    rig.run(0, 1);
    let asked = (0..100_000).filter(|_| rig.run(0, 10)).count();
    // A million cycles, in parts of 20 quanta of 1000.
    assert!((45..=50).contains(&asked), "{asked}");
    rig.run(2, 1);
    rig.run(0, 3000);
    assert!(rig.run(0, 1) && rig.run(0, 1), "as long as the other does not run, at every block");
}

/// What is skipped when code alternates between two lines changes nothing: against a machine that is made to forget the line
/// before the last one, under random loops, jumps and loads that displace lines of code.
#[test]
fn alternating_code_lines_count_as_if_looked_at() {
    let edit = [
        ("l1i 32768 8", "l1i 4096 2"),
        ("l1d 32768 8", "l1d 4096 2"),
        ("l2 262144 8", "l2 8192 2"),
        ("itlb 512", "itlb 8"),
    ];
    let (mut fast, mut full) = (Rig::new(&edit), Rig::new(&edit));
    let mut x = 0x9E37_79B9_7F4A_7C15u64;
    let (mut here, mut there, mut skipped) = (CODE, CODE + 64, 0);
    for step in 0..300_000u64 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        match x >> 32 & 15 {
            0 => there = CODE + (x >> 40 & 511) * 64,
            1..=3 => {
                for rig in [&mut fast, &mut full] {
                    rig.load(0, NODE1 + (x >> 40 & 8191) * if x & 7 == 0 { 64 } else { 1 });
                }
            }
            _ => std::mem::swap(&mut here, &mut there),
        }
        let block = Block { vaddr: here, gpa: Some(here), end: here + 4, ..Block::default() };
        skipped += u64::from(fast.sim.cpus[0].fetched_before.line == here >> 6);
        full.sim.cpus[0].fetched_before = Fetched::NOTHING;
        for rig in [&mut fast, &mut full] {
            rig.sim.fetch(0, &block, &rig.guest);
        }
        let [a, b] = [&fast, &full].map(|rig| &rig.sim.cpus[0]);
        assert_eq!((a.clock, &a.counters), (b.clock, &b.counters), "step {step}");
    }
    assert!(skipped > 30_000, "{skipped}");
}

#[test]
fn a_repeated_instruction_counts_once() {
    let mut rig = Rig::new(&[]);
    rig.run(0, 0);
    for _ in 0..3 {
        rig.run(0, 2);
        for _ in 0..100 {
            rig.sim.repeated(0, CODE + 4, &rig.guest);
        }
    }
    rig.run(0, 0);
    assert_eq!(rig.sim.cpus[0].instructions(), 3 * 3);
}

#[test]
fn an_interrupt_begins_when_it_arrives() {
    let mut rig = Rig::new(&[]);
    rig.run(2, 10);
    rig.sim.special(2, Count::Hlt, &rig.guest);
    rig.run(0, 5000);
    rig.run(0, 0);
    rig.mark(0, Op::BeginAll, 1);
    rig.run(0, 100);
    rig.sim.ipi(0, 0x40, Recipients::One(2), &rig.guest);
    let sent = rig.sim.cpus[0].clock;
    rig.run(0, 30);
    let handler = Block { vector: Some(0x40), ..block(CODE, 4) };
    rig.sim.fetch(2, &handler, &rig.guest);
    let fetch = 280;
    assert_eq!(rig.sim.cpus[2].clock, sent + 1000 + fetch);
    rig.run(2, 25);
    rig.mark(2, Op::EndAll, 1);
    let path = rig.slot(2).path;
    assert_eq!((path.kernel.sum, path.hops.sum, path.broken), (125, 1, 0));
    assert_eq!(rig.slot(2).sum.vector(0x40), 1);
    assert_eq!(rig.slot(0).sum.get(KERNEL, Count::IpiSent), 1);
    assert_eq!(rig.slot(0).kernel.sum, 130);
}

/// A polling CPU continues the chain of the CPU whose store it was waiting for, even if its own
/// clock has run ahead.
#[test]
fn polling_continues_the_writers_chain() {
    let mut rig = Rig::new(&[("quantum 1000", "quantum 100")]);
    let flag = 0x2_0000;
    for _ in 0..50 {
        rig.run(2, 3);
        rig.load(2, flag);
        rig.sim.special(2, Count::Pause, &rig.guest);
    }
    rig.run(0, 1);
    rig.mark(0, Op::BeginAll, 1);
    rig.run(0, 60);
    rig.store(0, flag);
    rig.run(2, 3);
    rig.load(2, flag);
    rig.run(2, 40);
    rig.run(2, 0);
    rig.mark(2, Op::EndAll, 1);
    let path = rig.slot(2).path;
    assert_eq!((path.kernel.sum, path.hops.sum, path.broken), (100, 1, 0));
}

/// Page tables on node 0, page on node 1: the walk's reads are remote for CPU 2.
#[test]
fn walks_read_the_guests_tables() {
    let mut rig = Rig::new(&[("caches on", "caches off")]);
    let g = &mut rig.guest;
    for (gpa, value) in [
        (0x1000, 0x2003),
        (0x2000, 0x3003),
        (0x3000, 0x4003),
        (0x4000 + 7 * 8, NODE1 | 3),
        (0x4000 + 8 * 8, NODE1 | 0x1003),
        (0x4000 + 8, CODE | 3),
    ] {
        g.words.insert(gpa, value);
    }
    g.control = LONG_MODE;
    rig.run(2, 1);
    rig.mark(2, Op::Begin, 1);
    rig.load(2, 0x7000);
    rig.load(2, 0x7040);
    rig.load(2, 0x8000);
    rig.sim.special(2, Count::Cr3Write, &rig.guest);
    rig.load(2, 0x7000);
    rig.guest.registers[3] = 0x7008;
    let rbx = Operand { base: Some(3), index: None, displacement: 0 };
    rig.sim.invlpg(2, rbx, &rig.guest);
    rig.load(2, 0x8000);
    rig.load(2, 0x7000);
    rig.mark(2, Op::End, 1);
    let sum = &rig.slot(2).sum;
    let walk = sum.traffic(KERNEL, Class::Walk);
    // The fetch before the region left the last-level table in the paging-structure cache: one
    // entry for each of two pages; all four after CR3; after INVLPG, one page for all four (it
    // empties that cache), but 0x8000 first: it was flushed with CR3, so it walks in full.
    assert_eq!(walk.remote(1), 1 + 1 + 4 + 4 + 1);
    assert_eq!(sum.get(KERNEL, Count::Walks), 5);
    assert_eq!(sum.traffic(KERNEL, Class::Data).local(1), 6);
}

#[test]
fn lines_are_distinct_and_by_node() {
    let mut rig = Rig::new(&[]);
    rig.run(0, 1);
    rig.mark(0, Op::Begin, 1);
    for _ in 0..5 {
        rig.run(0, 1);
        rig.load(0, 0x8000);
        rig.load(0, 0x8010);
        rig.store(0, NODE1);
        rig.sim.data(0, 0x903C, 8, false, &rig.guest);
    }
    rig.mark(0, Op::End, 1);
    let report = rig.sim.report();
    assert!(report.contains("\"code\":[1,0],\"read\":[3,0],\"written\":[0,1]"), "{report}");
}

#[test]
fn self_checks_notice_what_is_wrong() {
    let mut rig = Rig::new(&[]);
    for (cpu, number) in [(0, 0), (1, 1), (0, 0), (1, 0), (0, 3)] {
        rig.run(cpu, 1);
        rig.guest.registers[7] = number;
        rig.mark(cpu, Op::Hello, 0);
    }
    assert_eq!((rig.sim.checks.hellos, rig.sim.checks.hellos_wrong), (5, 2));
    for (node, address) in [(0, 0x5000), (1, NODE1), (1, 0x5000)] {
        rig.guest.registers[7] = node;
        rig.mark(0, Op::Place, 0);
        rig.load(0, 0x5000);
        rig.store(0, address);
    }
    assert_eq!((rig.sim.checks.places, rig.sim.checks.places_wrong), (3, 1));
    rig.sim.marker(0, Op::Name, 1, false, &rig.guest);
    assert_eq!(rig.sim.regions.mistakes.len(), 1);
    rig.mark(0, Op::SimEnd, 0);
    assert!(rig.sim.finished());
}

#[test]
fn names_and_values_come_from_registers() {
    let mut rig = Rig::new(&[]);
    rig.guest.words.insert(0x3000, u64::from_le_bytes(*b"xping-po"));
    rig.guest.words.insert(0x3008, u64::from_le_bytes(*b"ng......"));
    rig.guest.registers[7] = 0x3001;
    rig.guest.registers[6] = 9;
    rig.run(0, 1);
    rig.mark(0, Op::Name, 5);
    rig.mark(0, Op::Value, 5);
    let region = &rig.sim.regions.list[0];
    assert_eq!((region.name.as_str(), region.values.as_slice()), ("ping-pong", &[0x3001][..]));
}
