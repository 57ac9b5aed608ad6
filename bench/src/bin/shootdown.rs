//! Unmap in a space that is active on k of n CPUs (experiment B5): interrupts, cycles and instructions, for one page and for
//! 512: `cargo xtask bench shootdown`.
//!
//! One thread of the space unmaps, on the first CPU; k - 1 others run in the space meanwhile, each on a CPU of its own.
//! All other CPUs have run threads of the space before, so a kernel that only remembered where a space has been
//! would interrupt them.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Member, check};
use bench::lab::measure;
use bench::lab::name::Name;
use bench::lab::place::{Memory, PAGE, View};
use bench::lab::report::Subject;
use l4abi::ext::CpuCounter;
use libl4::thread::{self, Stack};
use libl4::{CpuId, Fpage, Rights, ThreadId};
use libl4::{arch, exit, roi, sys, topology};

libl4::entry!(main);

/// Most CPUs that take part.
const MOST: usize = 16;
/// Repetitions of each point.
const ROUNDS: u64 = 8;
/// Where the pages lie that are unmapped: one large page's worth.
const SCRATCH: u64 = 0x4000_0000;
const SCRATCH_LOG2: u8 = 21;
/// Where the word lies that keeps the others running.
const FLAG: u64 = 0x5000_0000;

static STACKS: [Stack<8192>; MOST] = [const { Stack::new() }; MOST];

/// Commands.
mod order {
    /// To the one that unmaps: touch MR1 pages.
    pub const TOUCH: u64 = 1;
    /// To the same: unmap 2^MR1 pages, from its own space, too; MR2: whether that is counted.
    pub const UNMAP: u64 = 2;
    /// To the others: touch MR1 pages, then run until the flag is not MR2 any more.
    pub const RUN: u64 = 3;
}

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let stacks = STACKS.each_ref().map(|stack| stack.take());
    let count = topology::cpu_count().min(MOST);
    let home = topology::my_node();
    let program = View::of_program(home);
    let (scratch, flag) = (Memory::on(home, 1 << SCRATCH_LOG2), Memory::on(home, PAGE));
    let (Some(program), Some(scratch), Some(flag)) = (program, scratch, flag) else {
        return check("getting memory", false);
    };
    let views = [
        program,
        View { at: SCRATCH, memory: scratch, bytes: scratch.bytes },
        View { at: FLAG, memory: flag, bytes: PAGE },
    ];
    let member =
        |n: usize| Member { id: crew::id(1 + n as u32), views: &views, cpu: CpuId(n as u16) };
    let me = thread::my_global_id().raw();
    for (n, stack) in stacks.iter().flatten().enumerate().take(count) {
        match n {
            0 => member(0).start(stack, works, me),
            _ => member(n).join(&member(0), n as u64, stack, works, me),
        }
    }
    let mut phase = 0;
    for active in 1..=count {
        for pages_log2 in [0, SCRATCH_LOG2 - 12] {
            point(active, count, pages_log2, &member, flag.base, &mut phase);
        }
    }
    exit::exit(exit::Outcome::Success);
}

/// All repetitions with the space active on `active` CPUs.
fn point<'a>(
    active: usize,
    count: usize,
    pages_log2: u8,
    member: &impl Fn(usize) -> Member<'a>,
    flag: u64,
    phase: &mut u64,
) {
    let pages = 1u64 << pages_log2;
    let name = Name::of(format_args!("unmap {pages} pages, active on {active} of {count} CPUs"));
    roi::name::<1>(name.text());
    roi::value::<1>(active as u64);
    let mut interrupts = 0;
    let mut most = 0;
    let mut times = [0; ROUNDS as usize];
    // An idle CPU that ran the space last still has its root loaded, is interrupted once, and leaves it: the first
    // round is for those, and not counted.
    for round in 0..=ROUNDS {
        let counted = round > 0;
        member(0).perform(order::TOUCH, &[pages]);
        // The others run in the space now; their CPUs have no other thread.
        for n in 1..active {
            member(n).command(order::RUN, &[1, *phase]);
            // Its first touch of a page may fault.
            crew::spin_us(5);
        }
        crew::spin_us(20 * active as u64);
        let report = member(0).perform(order::UNMAP, &[u64::from(pages_log2), u64::from(counted)]);
        if counted {
            interrupts += report.mr(1);
            most = most.max(report.mr(1));
            times[round as usize - 1] = report.mr(2);
        }
        *phase += 1;
        arch::poke(flag, *phase);
        for n in 1..active {
            let _ = member(n).done();
        }
    }
    check("as many interrupts every time", interrupts == most * ROUNDS);
    let subject = Subject {
        bench: "shootdown",
        variant: if pages == 1 { "1 page" } else { "512 pages" },
        metric: "interrupts per unmap",
        unit: "interrupts",
        parameters: &[("active", active as u64), ("cpus", count as u64), ("pages", pages)],
    };
    subject.number(most, ROUNDS);
    let overhead = measure::overhead::<32>(arch::tsc);
    let series = measure::judge(&mut times, overhead);
    Subject { metric: "unmap", unit: "TSC ticks", ..subject }.series(series);
}

/// A thread of the space.
extern "C" fn works(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    let _ = arch::touch_read(FLAG);
    let mut report = [0; 2];
    loop {
        let command = crew::next_command(controller, &report);
        match command.tag.label() {
            order::TOUCH => touch(command.mr(1)),
            order::UNMAP => report = unmap(command.mr(1) as u8, command.mr(2) != 0),
            order::RUN => {
                touch(command.mr(1));
                while arch::peek(FLAG) == command.mr(2) {
                    core::hint::spin_loop();
                }
            }
            _ => {}
        }
    }
}

fn touch(pages: u64) {
    for page in 0..pages {
        let _ = arch::touch_read(SCRATCH + page * PAGE);
    }
}

/// Unmaps `2^log2` pages from this space; answers the interrupts that it took and its time.
fn unmap(log2: u8, counted: bool) -> [u64; 2] {
    let before = crew::total(CpuCounter::ShootdownInterrupts);
    let start = arch::tsc();
    if counted {
        roi::begin_all::<1>();
    }
    sys::unmap_one(Fpage::memory(SCRATCH, 12 + log2, Rights::RWX), true);
    if counted {
        roi::end_all::<1>();
    }
    let time = arch::tsc().wrapping_sub(start);
    [crew::total(CpuCounter::ShootdownInterrupts) - before, time]
}
