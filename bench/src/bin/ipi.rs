//! Interrupts between CPUs: how long until one arrives, and for how long it keeps the other CPU from its work
//! (l4-smp 3.3.1, experiment B2). The kernel runs with `measure=on`.
//!
//! As in the source: a thread on the other CPU reads the clock in a loop, which the interrupt's handler ends by the carry flag. The
//! last reading before, the handler's and the first one after are of one clock; the sender's clock says when it sent the
//! interrupt and when it saw that the other thread went on. No two clocks are compared.
//!
//! Results and regions, for `near` (CPUs of one node) and `far`:
//!
//! - `enter`: from the interrupted loop to the handler; `leave`: from there to the loop; `interrupted`: both;
//! - `acknowledged`: from the command to the interrupt controller until the sender sees what the thread wrote afterwards;
//! - `delivery`: in the instrument from the command to the handler; on hardware `acknowledged` less `interrupted`, which contains
//!   the way of a cache line back (`lines`: M to S);
//! - `send`: what the sender's call takes.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Member, Mover, check};
use bench::lab::measure::{self, PACKED};
use bench::lab::name::Name;
use bench::lab::place::{Memory, PAGE, View};
use bench::lab::report::Subject;
use l4abi::ext::CpuCounter;
use l4abi::marker::interrupt::{self, AtHandler};
use libl4::arch::timing::{self, Block};
use libl4::thread::{self, Stack};
use libl4::{CpuId, ThreadId};
use libl4::{arch, exit, roi, topology};

libl4::entry!(main);

/// Interrupts of a series.
const SAMPLES: usize = 64;
/// Those before it.
const WARM_UP: usize = 8;
/// Where the words lie that both threads see, in both spaces; a line each.
const WORDS: u64 = 0x4000_0000;
/// The number of the interrupt that is awaited.
const READY: u64 = 0;
/// The number of the last interrupt that has come.
const DONE: u64 = 64;
/// Reads of the clock between "ready" and the interrupt, so that the other CPU's loop has begun.
const PATIENCE: u64 = 200;

static MOVER_STACK: Stack<8192> = Stack::new();
static STACKS: [Stack<16384>; 4] = [const { Stack::new() }; 4];

/// Commands to both.
mod order {
    /// Take or send all interrupts of a series, the handlers of CPU MR1 being marked as MR2 says, numbers from MR3 on.
    pub const SERIES: u64 = 1;
}

/// What a series of interrupts marks for the instrument.
struct Marks {
    /// The region's name there.
    name: &'static str,
    /// Region that the sender's command opens; 0 for none.
    sent: u16,
    at_handler: AtHandler,
    /// Region that the interrupted thread closes; 0 for none.
    closed: u16,
}

const MARKS: [Marks; 4] = [
    Marks { name: "", sent: 0, at_handler: AtHandler::Nothing, closed: 0 },
    Marks {
        name: "delivery",
        sent: interrupt::DELIVERY,
        at_handler: AtHandler::Delivered,
        closed: 0,
    },
    Marks {
        name: "delivery and leave",
        sent: interrupt::WHOLE,
        at_handler: AtHandler::Nothing,
        closed: interrupt::WHOLE,
    },
    Marks { name: "leave", sent: 0, at_handler: AtHandler::Returns, closed: interrupt::RETURN },
];

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let Some(mover_stack) = MOVER_STACK.take() else { return };
    let mover = Mover::new(crew::id(1), &mover_stack);
    let home = thread::my_cpu();
    let node = topology::node_of(home);
    let cpus = || (0..topology::cpu_count() as u16).map(CpuId);
    let beside = cpus().find(|&cpu| cpu != home && topology::node_of(cpu) == node);
    let away = cpus().find(|&cpu| topology::node_of(cpu) != node);
    let Some(words) = Memory::on(node, PAGE) else { return check("getting memory", false) };
    let stacks = STACKS.each_ref().map(|stack| stack.take());
    let me = thread::my_global_id().raw();
    let mut next = 2;
    for (n, (place, cpu)) in [("near", beside), ("far", away)].into_iter().enumerate() {
        let Some(cpu) = cpu else { continue };
        let shared = View { at: WORDS, memory: words, bytes: PAGE };
        let (Some(here), Some(there)) =
            (View::of_program(node), View::of_program(topology::node_of(cpu)))
        else {
            return check("getting memory for the program's copies", false);
        };
        let (here, there) = ([here, shared], [there, shared]);
        let sender = Member { id: crew::id(next), views: &here, cpu: home };
        let target = Member { id: crew::id(next + 1), views: &there, cpu };
        let (Some(a), Some(b)) = (&stacks[2 * n], &stacks[2 * n + 1]) else { return };
        sender.start(a, sends, me);
        mover.go_to(cpu);
        target.start(b, is_interrupted, me);
        mover.go_to(home);
        pair(place, &sender, &target);
        sender.delete();
        target.delete();
        next += 2;
    }
    exit::exit(exit::Outcome::Success);
}

/// All series between two CPUs.
fn pair(place: &str, sender: &Member<'_>, target: &Member<'_>) {
    let mut first = 1;
    for (number, marks) in MARKS.iter().enumerate() {
        let name = Name::of(format_args!("{} place={place}", marks.name));
        match marks.sent.max(marks.closed) {
            interrupt::DELIVERY => roi::name::<{ interrupt::DELIVERY }>(name.text()),
            interrupt::WHOLE => roi::name::<{ interrupt::WHOLE }>(name.text()),
            interrupt::RETURN => roi::name::<{ interrupt::RETURN }>(name.text()),
            _ => {}
        }
        let words = [u64::from(target.cpu.0), number as u64, first];
        target.command(order::SERIES, &words);
        sender.command(order::SERIES, &words);
        // A report is read before the next one takes its place; without interrupts the target has none.
        let sent = Report::of(&sender.done());
        if !sent.allowed {
            libl4::println!(
                "ipi: the kernel sends no interrupts for programs; it needs measure=on"
            );
        }
        check("sending interrupts", sent.allowed);
        let taken = Report::of(&target.done());
        first += (WARM_UP + SAMPLES) as u64;
        if number > 0 {
            continue;
        }
        for (metric, series) in [
            ("enter", taken.series[0]),
            ("leave", taken.series[1]),
            ("interrupted", taken.series[2]),
            ("acknowledged", sent.series[0]),
            ("send", sent.series[1]),
        ] {
            let variant = Name::of(format_args!("{metric} place={place}"));
            let unit = "TSC ticks";
            Subject { bench: "ipi", variant: variant.text(), metric, unit, parameters: &[] }
                .series(series);
        }
        if let (Ok(whole), Ok(kept)) = (sent.series[0], taken.series[2]) {
            let variant = Name::of(format_args!("delivery place={place}"));
            Subject {
                bench: "ipi",
                variant: variant.text(),
                metric: "delivery",
                unit: "TSC ticks",
                parameters: &[],
            }
            .number(whole.median.saturating_sub(kept.median), whole.n);
        }
    }
}

/// What a series of a thread is told.
struct Order {
    target: CpuId,
    marks: &'static Marks,
    numbers: core::ops::Range<u64>,
}

impl Order {
    fn of(command: &libl4::ipc::Received) -> Self {
        let first = command.mr(3);
        Self {
            target: CpuId(command.mr(1) as u16),
            marks: &MARKS[command.mr(2) as usize % MARKS.len()],
            numbers: first..first + (WARM_UP + SAMPLES) as u64,
        }
    }

    /// The place of a number in the series, after the warm-up.
    fn sample(&self, number: u64) -> Option<usize> {
        (number - self.numbers.start).checked_sub(WARM_UP as u64).map(|n| n as usize)
    }
}

/// What a thread says at the end of a series.
struct Report {
    /// The kernel sends interrupts for programs.
    allowed: bool,
    series: [Result<measure::Summary, measure::Unstable>; 3],
}

impl Report {
    fn of(message: &libl4::ipc::Received) -> Self {
        let words = |nth: usize| core::array::from_fn(|i| message.mr(2 + nth * PACKED + i));
        let series = core::array::from_fn(|nth| measure::unpack(words(nth)));
        Self { allowed: message.mr(1) == 1, series }
    }
}

/// The words of that: whether interrupts are sent, and some series.
fn packed<const N: usize>(
    series: [Result<measure::Summary, measure::Unstable>; N],
) -> [u64; 1 + 3 * PACKED] {
    let mut report = [0; 1 + 3 * PACKED];
    report[0] = 1;
    for (n, series) in series.into_iter().enumerate() {
        report[1 + n * PACKED..1 + (n + 1) * PACKED].copy_from_slice(&measure::pack(series));
    }
    report
}

/// What both threads begin with: the words they share, so that neither faults on them later.
fn begin() -> Block {
    crew::begin();
    let words = Block::new(WORDS, PAGE);
    let _ = (words.load(READY), words.load(DONE));
    words
}

/// The thread that is interrupted.
extern "C" fn is_interrupted(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    let words = begin();
    let mut report = [0; 1 + 3 * PACKED];
    loop {
        let command = crew::next_command(controller, &report);
        let order = Order::of(&command);
        let cpu = order.target;
        let mut samples = [[0; SAMPLES]; 3];
        // What one turn of the loop takes is in every interruption once.
        let overhead = measure::overhead::<32>(arch::tsc);
        for number in order.numbers.clone() {
            let times = timing::await_interrupt(order.marks.at_handler, &words, READY, number);
            match order.marks.closed {
                interrupt::WHOLE => roi::end_all::<{ interrupt::WHOLE }>(),
                interrupt::RETURN => roi::end::<{ interrupt::RETURN }>(),
                _ => {}
            }
            words.store(DONE, number);
            let handler = arch::cpu_counter(cpu, CpuCounter::ProbeTime).unwrap_or(times.before);
            if let Some(n) = order.sample(number) {
                samples[0][n] = handler.wrapping_sub(times.before);
                samples[1][n] = times.after.wrapping_sub(handler);
                samples[2][n] = times.after.wrapping_sub(times.before);
            }
        }
        let [enter, leave, both] = &mut samples;
        report = packed([
            measure::judge(enter, overhead / 2),
            measure::judge(leave, overhead / 2),
            measure::judge(both, overhead),
        ]);
    }
}

/// The thread that sends.
extern "C" fn sends(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    let words = begin();
    let mut report = [0; 1 + 3 * PACKED];
    loop {
        let command = crew::next_command(controller, &report);
        let order = Order::of(&command);
        let mut samples = [[0; SAMPLES]; 2];
        let overhead = measure::overhead::<32>(arch::tsc);
        let mut refused = false;
        for number in order.numbers.clone() {
            while words.load(READY) != number {
                core::hint::spin_loop();
            }
            (0..PATIENCE).for_each(|_| core::hint::spin_loop());
            let start = arch::tsc();
            let Some(sent) = timing::send_interrupt(order.target, order.marks.sent) else {
                refused = true;
                break;
            };
            let returned = arch::tsc();
            while words.load(DONE) != number {
                core::hint::spin_loop();
            }
            let seen = arch::tsc();
            if let Some(n) = order.sample(number) {
                samples[0][n] = seen.wrapping_sub(sent);
                samples[1][n] = returned.wrapping_sub(start);
            }
        }
        let [acknowledged, send] = &mut samples;
        report = packed([measure::judge(acknowledged, overhead), measure::judge(send, overhead)]);
        report[0] = u64::from(!refused);
    }
}
