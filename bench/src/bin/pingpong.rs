//! IPC between two threads in spaces of their own: on one CPU, on two CPUs of a node, across nodes; of 0 to 63 words;
//! and with both threads on the last node, either created there or created on the first node and migrated
//! (numa-l4 5.2 to 5.7, experiments A2 to A6). The kernel options `tcb_migration` and `text_replication` make the four
//! combinations of A2 to A5; they are given to the kernel, not to this program.
//!
//! For each case and size: cycles of the time-stamp counter per round trip, as a `result` or `unstable` record, and a
//! region of interest for the placement instrument, named after both.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Member, Mover, check};
use bench::lab::measure::{self, PACKED};
use bench::lab::name::Name;
use bench::lab::place::View;
use bench::lab::report::Subject;
use bench::lab::traffic::{self, Counts, Traffic};
use libl4::arch::StackTop;
use libl4::ipc;
use libl4::thread::{self, Stack};
use libl4::{CpuId, MsgTag, NodeId, ThreadId, Timeouts};
use libl4::{arch, exit, roi, topology};

libl4::entry!(main);

/// Samples of the time-stamp counter, after [`WARM_UP`] rounds.
const SAMPLES: usize = 64;
const WARM_UP: usize = 16;
/// Rounds in the region of interest.
const ROUNDS: u64 = 32;
/// Sizes that are measured.
const SIZES: [usize; 10] = [0, 1, 3, 7, 8, 15, 16, 31, 48, 63];

static MOVER_STACK: Stack<8192> = Stack::new();
static STACKS: [Stack<16384>; 2] = [const { Stack::new() }; 2];

/// Commands to the two, and the label of their messages.
mod order {
    /// To the server: answer the client in MR1 for ever.
    pub const SERVE: u64 = 1;
    /// To the client: call the server in MR1 with as many words as MR2 says.
    pub const CALL: u64 = 2;
    /// A message that is to be answered by one of the same size.
    pub const ECHO: u64 = 3;
}

/// A case: where the two are made and where they run.
struct Case {
    name: &'static str,
    /// Where spaces, TCBs and the program's copy are made.
    made_on: CpuId,
    client: CpuId,
    server: CpuId,
    sizes: &'static [usize],
}

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let (Some(mover_stack), [Some(client_stack), Some(server_stack)]) =
        (MOVER_STACK.take(), STACKS.each_ref().map(|stack| stack.take()))
    else {
        return;
    };
    let mover = Mover::new(crew::id(1), &mover_stack);
    let start = thread::my_cpu();
    let stacks = [client_stack, server_stack];
    cases().for_each(|case| traffic::announce("pingpong", case.client));
    let mut next = 2;
    for case in cases() {
        // Two numbers for each case: what the case before left behind is of no interest.
        run(&case, next, &mover, &stacks);
        mover.go_to(start);
        next += 2;
    }
    exit::exit(exit::Outcome::Success);
}

/// The cases that the machine has.
fn cases() -> impl Iterator<Item = Case> {
    let with_cpus = |node: &u8| topology::cpus_of(NodeId(*node)).next().is_some();
    let nodes = 0..topology::node_count() as u8;
    let first = NodeId(nodes.clone().find(with_cpus).unwrap_or(0));
    let last = NodeId(nodes.rev().find(with_cpus).unwrap_or(0));
    let cpu = |node, n| topology::cpus_of(node).nth(n);
    let home = cpu(first, 0).unwrap_or(CpuId(0));
    let beside = cpu(first, 1);
    let away = cpu(last, 0).filter(|_| first != last);
    let few = &SIZES[..1];
    let case = |name, made_on, client, server, sizes| Case { name, made_on, client, server, sizes };
    [
        Some(case("same cpu", home, home, home, &SIZES[..])),
        beside.map(|b| case("same node", home, home, b, &SIZES[..])),
        away.map(|a| case("other node", home, home, a, &SIZES[..])),
        away.map(|a| case("migrated to last node", home, a, a, few)),
        away.map(|a| case("created on last node", a, a, a, few)),
    ]
    .into_iter()
    .flatten()
}

fn run(case: &Case, number: u32, mover: &Mover, [client_stack, server_stack]: &[StackTop; 2]) {
    let node = topology::node_of(case.made_on);
    let Some(program) = View::of_program(node) else {
        return check("getting memory for the program's copy", false);
    };
    mover.go_to(case.made_on);
    let me = thread::my_global_id().raw();
    let views = &[program];
    let client = Member { id: crew::id(number), views, cpu: case.made_on };
    let server = Member { id: crew::id(number + 1), views, cpu: case.made_on };
    client.start(client_stack, calls, me);
    server.start(server_stack, answers, me);
    client.move_to(case.client);
    server.move_to(case.server);
    server.command(order::SERVE, &[client.id.raw()]);
    // Each case has a copy of the program of its own: the loop that is measured fetches each line once from
    // where it was copied, and that is no part of a message.
    roi::name::<1>("warm-up");
    let warm = client.perform(order::CALL, &[server.id.raw(), 0]);
    check("warm-up", warm.mr(PACKED + 1) == 1);
    for &words in case.sizes {
        let name = Name::of(format_args!("{}, {words} words", case.name));
        roi::name::<1>(name.text());
        roi::value::<1>(words as u64);
        let report = client.perform(order::CALL, &[server.id.raw(), words as u64]);
        check("round trips", report.mr(PACKED + 1) == 1);
        let series = measure::unpack(core::array::from_fn(|i| report.mr(1 + i)));
        let counts = Counts::unpack(core::array::from_fn(|i| report.mr(PACKED + 2 + i)));
        let subject = Subject {
            bench: "pingpong",
            variant: case.name,
            metric: "round trip",
            unit: "TSC ticks",
            parameters: &[
                ("words", words as u64),
                ("client_node", u64::from(topology::node_of(case.client).0)),
                ("server_node", u64::from(topology::node_of(case.server).0)),
                ("made_on_node", u64::from(node.0)),
            ],
        };
        subject.series(series);
        // The client's CPU counts; where the server has another one, its accesses are not in it.
        counts.report(
            Subject { parameters: &[("words", words as u64), ("per", ROUNDS)], ..subject },
            ROUNDS,
        );
    }
    client.delete();
    server.delete();
}

/// The server.
extern "C" fn answers(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    loop {
        let command = crew::next_command(controller, &[]);
        let client = ThreadId::from_raw(command.mr(1));
        let mut got = ipc::receive(client, Timeouts::NEVER);
        while let Ok(message) = &got
            && message.tag.label() == order::ECHO
        {
            got = ipc::call(client, Timeouts::NEVER, MsgTag::new(0, message.tag.untyped(), 0));
        }
    }
}

/// The client.
extern "C" fn calls(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    let mut report = [0; REPORT];
    loop {
        let command = crew::next_command(controller, &report);
        if command.tag.label() == order::CALL {
            report = round_trips(ThreadId::from_raw(command.mr(1)), command.mr(2) as usize);
        }
    }
}

/// Words of the client's report: the series, 1 if every answer was right, and what the hardware counted.
const REPORT: usize = PACKED + 1 + traffic::PACKED;

/// Measures.
fn round_trips(server: ThreadId, words: usize) -> [u64; REPORT] {
    let tag = MsgTag::new(order::ECHO, words, 0);
    let mut right = true;
    let mut call = || {
        let got = ipc::call(server, Timeouts::NEVER, tag);
        right &= got.is_ok_and(|got| got.tag.untyped() == words);
    };
    let overhead = measure::overhead::<32>(arch::tsc);
    let mut series = Err(measure::Unstable::TooFew);
    // A host that does something else meanwhile disturbs a series; three may be tried.
    for _ in 0..3 {
        (0..WARM_UP).for_each(|_| call());
        let mut samples = [0; SAMPLES];
        for sample in &mut samples {
            let start = arch::tsc();
            call();
            *sample = arch::tsc().wrapping_sub(start);
        }
        series = measure::judge(&mut samples, overhead);
        if series.is_ok() {
            break;
        }
    }
    let traffic = Traffic::start(thread::my_cpu());
    for _ in 0..ROUNDS {
        roi::begin_all::<1>();
        call();
        roi::end_all::<1>();
    }
    let counts = traffic.counts();
    let mut report = [0; REPORT];
    report[..PACKED].copy_from_slice(&measure::pack(series));
    report[PACKED] = u64::from(right);
    report[PACKED + 1..].copy_from_slice(&counts.pack());
    report
}
