//! Memory latency (numa-l4 5.2, experiment A1): a list of pointers through memory of each node, walked from each node.
//!
//! Each load takes the address of the next one from memory, so loads cannot overlap; the way through the block
//! jumps over more than a page, so no prefetcher guesses it. The block is one mapping, so no page fault and next to
//! no translation is in the measured part. Regions: `read from=N of=M per=LOADS`, counted on the reading CPU.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Mover, check};
use bench::lab::measure;
use bench::lab::name::Name;
use bench::lab::place::Memory;
use bench::lab::report::Subject;
use bench::lab::traffic::{self, Traffic};
use libl4::thread::Stack;
use libl4::{CpuId, NodeId, arch, exit, roi, topology};

libl4::entry!(main);

/// Bytes of a block: more than caches hold.
const BYTES: u64 = 32 << 20;
const LINE: u64 = 64;
/// Lines from one element of the list to the next; odd, so that every line is met once.
const STRIDE: u64 = 4097;
/// Loads of a series.
const LOADS: u64 = 16384;
/// Series; the first one warms the way, not the data.
const SERIES: usize = 9;

static MOVER_STACK: Stack<8192> = Stack::new();

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let Some(stack) = MOVER_STACK.take() else { return };
    let mover = Mover::new(crew::id(1), &stack);
    let nodes = || (0..topology::node_count() as u8).map(NodeId);
    nodes()
        .filter_map(|node| topology::cpus_of(node).next())
        .for_each(|cpu| traffic::announce("memlat", cpu));
    for of in nodes() {
        let Some(block) = Memory::on(of, BYTES) else { continue };
        link(block.base);
        for from in nodes() {
            if let Some(cpu) = topology::cpus_of(from).next() {
                measure(&mover, block.base, (from, cpu), of);
            }
        }
    }
    exit::exit(exit::Outcome::Success);
}

/// Makes the list: each element holds the address of the next.
fn link(base: u64) {
    let lines = BYTES / LINE;
    for line in 0..lines {
        let next = (line + STRIDE) % lines;
        arch::poke(base + line * LINE, base + next * LINE);
    }
}

/// Walks on from `at`; the address after the last load.
fn walk(mut at: u64) -> u64 {
    for _ in 0..LOADS {
        at = arch::peek(at);
    }
    at
}

fn measure(mover: &Mover, base: u64, (from, cpu): (NodeId, CpuId), of: NodeId) {
    mover.go_to(cpu);
    let name = Name::of(format_args!("read from={} of={} per={LOADS}", from.0, of.0));
    roi::name::<1>(name.text());
    let overhead = measure::overhead::<32>(arch::tsc);
    let mut samples = [0; SERIES - 1];
    let mut at = base;
    let mut counted = Traffic::start(cpu);
    roi::flush_model();
    for n in 0..SERIES {
        // What the last series left in the caches is 1 MiB of lines that this one does not meet.
        if n == 1 {
            counted = Traffic::start(cpu);
        }
        if n > 0 {
            roi::begin::<1>();
        }
        let start = arch::tsc();
        at = walk(at);
        let took = arch::tsc().wrapping_sub(start);
        if n > 0 {
            roi::end::<1>();
            samples[n - 1] = took;
        }
    }
    let accesses = counted.counts();
    let lines = SERIES as u64 * LOADS * STRIDE % (BYTES / LINE);
    check("the way through the list", at == base + lines * LINE);
    let subject = Subject {
        bench: "memlat",
        variant: "read",
        metric: "16384 loads",
        unit: "TSC ticks",
        parameters: &[
            ("from", u64::from(from.0)),
            ("of", u64::from(of.0)),
            ("per", LOADS),
            ("bytes", BYTES),
        ],
    };
    subject.series(measure::judge(&mut samples, overhead));
    // Of all series together: `per` has to say so.
    let all = [
        ("from", u64::from(from.0)),
        ("of", u64::from(of.0)),
        ("per", LOADS * (SERIES as u64 - 1)),
        ("bytes", BYTES),
    ];
    accesses.report(Subject { parameters: &all, ..subject }, SERIES as u64 - 1);
}
