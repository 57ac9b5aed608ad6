//! Cache lines: the levels of the memory hierarchy, and the coherence transitions of lines that two CPUs share
//! (l4-smp 3.2, tables 1 and 2, experiment B1).
//!
//! 256 lines are brought into a state by one CPU and read or written by another (by the same one for the hierarchy);
//! the pass is measured. As in the source, the same loop over a register says what the loop costs. Reads depend on each
//! other, in an order that no prefetcher guesses; writes do not, and the pass ends when all are done.
//!
//! Regions and results: `TRANSITION place=WHERE per=256`, where WHERE is `own`, `near` (CPUs of one node) or `far`.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Member, Mover, check};
use bench::lab::measure::{self, PACKED};
use bench::lab::name::Name;
use bench::lab::place::{Memory, PAGE, View};
use bench::lab::report::Subject;
use libl4::arch::timing::{self, Block};
use libl4::thread::{self, Stack};
use libl4::{CpuId, ThreadId};
use libl4::{arch, exit, roi, topology};

libl4::entry!(main);

/// Lines of a pass; as many as in the source.
const LINES: u64 = 256;
const LINE: u64 = 64;
/// Half a page of lines on each page, the other half for warming up; first and second halves take turns, so that every set
/// of a first-level cache has as many.
const BYTES: u64 = 2 * LINES * LINE;
const LINES_OF_PAGE: u64 = PAGE / LINE / 2;
const PAGES: u64 = LINES / LINES_OF_PAGE;
/// Multiplier of the order within a page: odd, so that every line is met once.
const STEP: u64 = 13;
/// More than first-level caches hold, less than second-level caches do.
const CLASH_BYTES: u64 = 128 << 10;
const SAMPLES: usize = 32;
/// Passes that are not counted.
const WARM_UP: usize = 4;

/// Where the blocks lie in the members' spaces.
const DATA: u64 = 0x4000_0000;
const FAR_DATA: u64 = 0x4100_0000;
const OTHER: u64 = 0x4200_0000;
const CLASH: u64 = 0x4300_0000;

static MOVER_STACK: Stack<8192> = Stack::new();
static STACKS: [Stack<16384>; 3] = [const { Stack::new() }; 3];

/// Commands.
mod order {
    /// Touch everything once, so that nothing faults later.
    pub const BEGIN: u64 = 1;
    /// Make the lines at MR2 this CPU's alone, as [`super::Held`] MR1 says.
    pub const PREPARE: u64 = 2;
    /// Pass over the lines at MR2 as [`super::Pass`] MR1 says; MR3: hold them before, as [`super::Held`] says;
    /// MR4: in the region; answers the time.
    pub const PASS: u64 = 3;
    /// What the clock itself costs.
    pub const OVERHEAD: u64 = 4;
}

/// What a CPU does with lines to hold them.
#[derive(Clone, Copy, PartialEq)]
#[repr(u64)]
enum Held {
    /// Nothing.
    AsTheyAre,
    /// No cache holds them.
    Nowhere,
    /// This CPU has read them last.
    Read,
    /// This CPU has written them last.
    Written,
    /// This CPU has read them, and then more than its first-level cache holds.
    ReadLongAgo,
}

/// What a pass does with each line.
#[derive(Clone, Copy, PartialEq)]
#[repr(u64)]
enum Pass {
    Register,
    Read,
    Write,
}

/// A row of the tables: what the first CPU did, what the second did before, and does.
struct Row {
    name: &'static str,
    first: Held,
    second: Held,
    pass: Pass,
    data: u64,
}

const fn row(name: &'static str, first: Held, second: Held, pass: Pass) -> Row {
    Row { name, first, second, pass, data: DATA }
}

/// Table 1: one CPU.
const HIERARCHY: [Row; 5] = [
    row("register", Held::AsTheyAre, Held::AsTheyAre, Pass::Register),
    row("L1 hit", Held::AsTheyAre, Held::Read, Pass::Read),
    row("L1 miss", Held::AsTheyAre, Held::ReadLongAgo, Pass::Read),
    row("L2 miss", Held::AsTheyAre, Held::Nowhere, Pass::Read),
    Row {
        data: FAR_DATA,
        ..row("L2 miss, other node's memory", Held::AsTheyAre, Held::Nowhere, Pass::Read)
    },
];

/// Table 2: two CPUs.
const TRANSITIONS: [Row; 5] = [
    row("E to S", Held::Read, Held::AsTheyAre, Pass::Read),
    row("E to M", Held::Read, Held::AsTheyAre, Pass::Write),
    row("M to S", Held::Written, Held::AsTheyAre, Pass::Read),
    row("M to M", Held::Written, Held::AsTheyAre, Pass::Write),
    row("S to M", Held::Read, Held::Read, Pass::Write),
];

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let (Some(mover_stack), [Some(own), Some(near), Some(far)]) =
        (MOVER_STACK.take(), STACKS.each_ref().map(|stack| stack.take()))
    else {
        return;
    };
    let mover = Mover::new(crew::id(1), &mover_stack);
    let home = thread::my_cpu();
    let node = topology::node_of(home);
    let cpus = || (0..topology::cpu_count() as u16).map(CpuId);
    let beside = cpus().find(|&cpu| cpu != home && topology::node_of(cpu) == node);
    let away = cpus().find(|&cpu| topology::node_of(cpu) != node);
    let far_node = away.map_or(node, topology::node_of);
    let (Some(data), Some(far_data), Some(other), Some(clash)) = (
        Memory::on(node, BYTES),
        Memory::on(far_node, BYTES),
        Memory::on(node, BYTES),
        Memory::on(node, CLASH_BYTES),
    ) else {
        return check("getting memory", false);
    };
    let view = |at, memory: Memory| View { at, memory, bytes: memory.bytes };
    let blocks =
        [view(DATA, data), view(FAR_DATA, far_data), view(OTHER, other), view(CLASH, clash)];
    let me = thread::my_global_id().raw();
    let begin = |cpu: CpuId, n: u32, stack, views: &[View]| {
        mover.go_to(cpu);
        let member = Member { id: crew::id(n), views, cpu };
        member.start(stack, works, me);
        member.perform(order::BEGIN, &[]);
        mover.go_to(home);
    };
    let views = |cpu: CpuId| {
        let program = View::of_program(topology::node_of(cpu));
        check("getting memory for the program's copy", program.is_some());
        let [a, b, c, d] = blocks;
        program.map(|program| [program, a, b, c, d])
    };
    let Some(own_views) = views(home) else { return };
    begin(home, 2, &own, &own_views);
    let first = Member { id: crew::id(2), views: &own_views, cpu: home };
    let rows = HIERARCHY.iter().filter(|row| row.data == DATA || away.is_some());
    rows.for_each(|row| measure(row, "own", &first, &first));
    for (place, n, cpu, stack) in [("near", 3, beside, &near), ("far", 4, away, &far)] {
        let Some(cpu) = cpu else { continue };
        let Some(views) = views(cpu) else { return };
        begin(cpu, n, stack, &views);
        let second = Member { id: crew::id(n), views: &views, cpu };
        TRANSITIONS.iter().for_each(|row| measure(row, place, &first, &second));
    }
    exit::exit(exit::Outcome::Success);
}

/// All passes of a row.
fn measure(row: &Row, place: &str, first: &Member<'_>, second: &Member<'_>) {
    let name = Name::of(format_args!("{} place={place} per={LINES}", row.name));
    roi::name::<1>(name.text());
    let overhead = second.perform(order::OVERHEAD, &[]).mr(1);
    let mut samples = [0; SAMPLES];
    for n in 0..WARM_UP + SAMPLES {
        if row.first != Held::AsTheyAre {
            first.perform(order::PREPARE, &[row.first as u64, row.data]);
        }
        let counted = n >= WARM_UP;
        let words = [row.pass as u64, row.data, row.second as u64, u64::from(counted)];
        let time = second.perform(order::PASS, &words).mr(1);
        if counted {
            samples[n - WARM_UP] = time;
        }
    }
    Subject {
        bench: "lines",
        variant: name.text(),
        metric: "256 lines",
        unit: "TSC ticks",
        parameters: &[],
    }
    .series(measure::judge(&mut samples, overhead));
}

/// What `access` answers for all offsets of a pass, added up; each access gets the sum so far.
///
/// A page after the other has a turn, so neighbouring accesses are more than a page apart and no prefetcher guesses
/// them; within the pages the order jumps, too.
#[inline(always)]
fn pass(mut access: impl FnMut(u64, u64) -> u64) -> u64 {
    let mut sum = 0;
    for n in 0..LINES_OF_PAGE {
        let line = n * STEP % LINES_OF_PAGE * LINE;
        for page in 0..PAGES {
            sum += access(page * PAGE + (page & 1) * (PAGE / 2) + line, sum);
        }
    }
    sum
}

/// Offset of the first line of a page that is not in a pass.
const fn unused(page: u64) -> u64 {
    page * PAGE + (1 - (page & 1)) * (PAGE / 2)
}

/// A thread that holds lines and passes over them.
extern "C" fn works(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    let other = Block::new(OTHER, BYTES);
    let mut report = [0; PACKED];
    loop {
        let command = crew::next_command(controller, &report);
        let data = Block::new(if command.mr(2) == FAR_DATA { FAR_DATA } else { DATA }, BYTES);
        match command.tag.label() {
            order::BEGIN => touch_all(),
            order::OVERHEAD => report[0] = measure::overhead::<32>(clock),
            order::PREPARE => {
                // Whoever holds a line exclusively has it from nobody.
                hold(&data, Held::Nowhere);
                hold(&data, held(command.mr(1)));
            }
            order::PASS => {
                hold(&data, held(command.mr(3)));
                let (pass, counted) = (command.mr(1), command.mr(4) != 0);
                report[0] = timed(&data, &other, pass, counted);
            }
            _ => {}
        }
    }
}

fn held(number: u64) -> Held {
    let all = [Held::AsTheyAre, Held::Nowhere, Held::Read, Held::Written, Held::ReadLongAgo];
    all.into_iter().find(|held| *held as u64 == number).unwrap_or(Held::AsTheyAre)
}

/// Every page of every block is mapped, and all words are 0.
fn touch_all() {
    for (base, bytes) in [(DATA, BYTES), (FAR_DATA, BYTES), (OTHER, BYTES), (CLASH, CLASH_BYTES)] {
        let block = Block::new(base, bytes);
        (0..bytes / LINE).for_each(|line| block.store(line * LINE, 0));
    }
}

fn hold(data: &Block, how: Held) {
    match how {
        Held::AsTheyAre => {}
        Held::Nowhere => {
            (0..BYTES / LINE).for_each(|line| data.flush(line * LINE));
            timing::settle_memory();
            // The instrument's caches do not see the instruction.
            roi::flush_model();
        }
        Held::Read => drop(read(data)),
        Held::Written => write(data),
        Held::ReadLongAgo => {
            read(data);
            let clash = Block::new(CLASH, CLASH_BYTES);
            for line in 0..CLASH_BYTES / LINE {
                let _ = clash.load(line * LINE);
            }
        }
    }
    timing::settle_memory();
}

/// The clock, when everything before is done.
#[inline(always)]
fn clock() -> u64 {
    timing::settle_memory();
    arch::tsc()
}

/// A pass and its time.
fn timed(data: &Block, other: &Block, pass: u64, counted: bool) -> u64 {
    // The code and the translations are warm, the lines are not touched.
    run(other, pass);
    for page in 0..PAGES {
        let _ = data.load(unused(page));
    }
    timing::settle_memory();
    if counted {
        roi::begin::<1>();
    }
    let start = clock();
    run(data, pass);
    let time = clock().wrapping_sub(start);
    if counted {
        roi::end::<1>();
    }
    time
}

#[inline(never)]
fn run(data: &Block, pass: u64) {
    if pass == Pass::Register as u64 {
        register();
    } else if pass == Pass::Read as u64 {
        read(data);
    } else {
        write(data);
    }
}

/// The loop without an access.
#[inline(never)]
fn register() -> u64 {
    pass(|offset, last| timing::through_register(offset + last) & 1)
}

/// All words are 0: each address depends on the word before.
#[inline(never)]
fn read(data: &Block) -> u64 {
    pass(|offset, last| data.load(offset + last))
}

#[inline(never)]
fn write(data: &Block) {
    pass(|offset, _| {
        data.store(offset, 0);
        0
    });
}
