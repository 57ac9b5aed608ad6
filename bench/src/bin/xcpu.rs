//! IPC across CPUs (experiment B3): the one way of a message, interrupts per round trip, and what CPUs that send messages to
//! themselves, all at once, have to do with each other: `cargo xtask bench xcpu`.
//!
//! The partner's CPU is in one of three states when the message comes: it has nothing to do and looks for work by itself
//! (`polling`); it sleeps (`asleep`; the caller's CPU, too, when the answer comes); it runs another thread
//! (`busy`; so does the caller's, when the caller waits).
//!
//! The argument `sizes=N` (behind `--` on the kernel's command line) takes only the first N message sizes.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Member, Mover, check, spin_us};
use bench::lab::measure::{self, PACKED};
use bench::lab::name::Name;
use bench::lab::place::View;
use bench::lab::report::Subject;
use l4abi::ext::CpuCounter;
use libl4::arch::StackTop;
use libl4::ipc;
use libl4::thread::{self, Stack};
use libl4::{CpuId, MsgTag, ThreadId, Timeouts};
use libl4::{arch, boot, exit, roi, time, topology};

libl4::entry!(main);

const SAMPLES: usize = 32;
const WARM_UP: usize = 8;
/// Rounds in regions of interest, and in those whose interrupts are counted.
const ROUNDS: u64 = 32;
const SIZES: [u64; 3] = [0, 3, 7];
/// Long enough for the partner to wait again, short enough for its CPU to look by itself still.
const TO_POLL_US: u64 = 10;
/// Longer than an idle CPU looks for work before it sleeps.
const TO_SLEEP_US: u64 = 100;
/// Longer than all of them take together when all CPUs send to themselves.
const AT_ONCE_US: u64 = 5_000;
/// Most CPUs that send to themselves at once.
const MOST: usize = 16;
/// Below everybody else.
const LOW: u8 = 10;

static MOVER_STACK: Stack<8192> = Stack::new();
static STACKS: [Stack<8192>; 2 * MOST] = [const { Stack::new() }; 2 * MOST];

/// Commands, and labels of messages.
mod order {
    /// To a server: answer the client in MR1 until it sends [`STOP`].
    pub const SERVE: u64 = 1;
    /// To a client: measure calls to MR1 with MR2 words; MR3: let CPUs go to sleep first.
    pub const CALL: u64 = 2;
    /// To a client: call MR1 in the region of all CPUs from time MR2 on.
    pub const AT_ONCE: u64 = 3;
    /// To the spinner.
    pub const SPIN: u64 = 4;
    /// A message to answer; +1: when it has arrived region 1 ends; +2: after the caller's CPU has gone to sleep.
    pub const ECHO: u64 = 16;
    /// The last message.
    pub const STOP: u64 = 32;
}

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let stacks = STACKS.each_ref().map(|stack| stack.take());
    let wanted = boot::number(boot::arguments(), "sizes").unwrap_or(u64::MAX);
    let sizes = SIZES.get(..wanted as usize).unwrap_or(&SIZES);
    let Some(mover_stack) = MOVER_STACK.take() else { return };
    let mover = Mover::new(crew::id(1), &mover_stack);
    let home = thread::my_cpu();
    let beside = topology::cpus_of(topology::node_of(home)).find(|&cpu| cpu != home);
    let away = cpus().find(|&cpu| topology::node_of(cpu) != topology::node_of(home));
    let mut next = 2;
    for (place, cpu) in [("same node", beside), ("other node", away)] {
        let Some(cpu) = cpu else { continue };
        for state in [State::Polling, State::Asleep, State::Busy] {
            pair(place, state, [home, cpu], sizes, next, &stacks);
            next += 4;
        }
    }
    at_once(next, &mover, home, &stacks);
    exit::exit(exit::Outcome::Success);
}

fn cpus() -> impl Iterator<Item = CpuId> {
    (0..topology::cpu_count() as u16).map(CpuId)
}

/// What the CPUs of the two do when a message comes.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Polling,
    Asleep,
    Busy,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::Asleep => "asleep",
            Self::Busy => "busy",
        }
    }
}

type Stacks = [Option<StackTop>; 2 * MOST];

fn stack(stacks: &Stacks, n: usize) -> &StackTop {
    match &stacks[n] {
        Some(stack) => stack,
        None => unreachable!("taken once, at the start"),
    }
}

/// A caller on the first CPU and its partner on the second.
fn pair(
    place: &str,
    state: State,
    [home, cpu]: [CpuId; 2],
    sizes: &[u64],
    number: u32,
    stacks: &Stacks,
) {
    let Some(program) = View::of_program(topology::node_of(home)) else {
        return check("getting memory", false);
    };
    let views = &[program];
    let me = thread::my_global_id().raw();
    let member = |n: u32, cpu| Member { id: crew::id(number + n), views, cpu };
    let all = [member(0, home), member(1, cpu), member(2, home), member(3, cpu)];
    let [client, server, spinners @ ..] = &all;
    client.start(stack(stacks, 0), calls, me);
    server.start(stack(stacks, 1), answers, me);
    if state == State::Busy {
        for (n, spinner) in spinners.iter().enumerate() {
            spinner.start(stack(stacks, 2 + n), spins, me);
            spinner.set_priority(LOW);
            spinner.command(order::SPIN, &[]);
        }
    }
    let variant = Name::of(format_args!("{place}, {}", state.name()));
    for &words in sizes {
        let name = Name::of(format_args!("one way {}, {words} words", variant.text()));
        roi::name::<1>(name.text());
        let name = Name::of(format_args!("round trip {}, {words} words", variant.text()));
        roi::name::<2>(name.text());
        server.command(order::SERVE, &[client.id.raw()]);
        let sleep = u64::from(state == State::Asleep);
        let report = client.perform(order::CALL, &[server.id.raw(), words, sleep]);
        server.done();
        check("round trips", report.mr(PACKED + 1) == 1);
        let subject = Subject {
            bench: "xcpu",
            variant: variant.text(),
            metric: "interrupts per round trip",
            unit: "in 100",
            parameters: &[("words", words)],
        };
        subject.number(report.mr(PACKED + 2) * 100 / ROUNDS, ROUNDS);
        // Without the waiting, which is not the round trip's.
        if state != State::Asleep {
            let series = measure::unpack(core::array::from_fn(|i| report.mr(1 + i)));
            Subject { metric: "round trip", unit: "TSC ticks", ..subject }.series(series);
        }
    }
    let started = if state == State::Busy { 4 } else { 2 };
    all.iter().take(started).for_each(Member::delete);
}

/// A pair of threads on every CPU, each pair on one, all at the same time.
fn at_once(number: u32, mover: &Mover, home: CpuId, stacks: &Stacks) {
    let count = topology::cpu_count().min(MOST);
    // Each pair has copies of its own: what is shared then is the kernel's doing.
    let mut views = [None; MOST];
    for (view, cpu) in views.iter_mut().zip(cpus().take(count)) {
        *view = View::of_program(topology::node_of(cpu)).map(|view| [view]);
        check("getting memory", view.is_some());
    }
    let member = |n: usize| {
        let (views, cpu) = (views[n / 2].as_ref().map_or(&[][..], |v| &v[..]), CpuId(n as u16 / 2));
        Member { id: crew::id(number + n as u32), views, cpu }
    };
    let me = thread::my_global_id().raw();
    for n in 0..2 * count {
        mover.go_to(CpuId(n as u16 / 2));
        member(n).start(stack(stacks, n), if n % 2 == 0 { calls } else { answers }, me);
    }
    mover.go_to(home);
    let name = Name::of(format_args!("{count} CPUs at once"));
    roi::name::<3>(name.text());
    for n in 0..count {
        member(2 * n + 1).command(order::SERVE, &[member(2 * n).id.raw()]);
    }
    // Late enough for all to have heard of it.
    let start = time::now_us() + 2_000;
    for n in 0..count {
        member(2 * n).command(order::AT_ONCE, &[member(2 * n + 1).id.raw(), start]);
    }
    for n in 0..count {
        let report = member(2 * n).done();
        check("round trips", report.mr(PACKED + 1) == 1);
        member(2 * n + 1).done();
    }
    (0..2 * count).for_each(|n| member(n).delete());
}

/// A thread that keeps a CPU busy.
extern "C" fn spins(controller: u64) -> ! {
    crew::begin();
    crew::next_command(ThreadId::from_raw(controller), &[]);
    loop {
        core::hint::spin_loop();
    }
}

/// The server.
extern "C" fn answers(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    loop {
        let command = crew::next_command(controller, &[]);
        let client = ThreadId::from_raw(command.mr(1));
        let mut got = ipc::receive(client, Timeouts::NEVER);
        while let Ok(message) = &got {
            let label = message.tag.label();
            if label & 1 != 0 {
                roi::end_all::<1>();
            }
            if label & 2 != 0 {
                spin_us(TO_SLEEP_US);
            }
            let tag = MsgTag::new(0, message.tag.untyped(), 0);
            if label & order::STOP != 0 {
                let _ = ipc::send(client, libl4::Time::NEVER, tag);
                break;
            }
            got = ipc::call(client, Timeouts::NEVER, tag);
        }
    }
}

/// The client.
extern "C" fn calls(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    let mut report = [0; PACKED + 2];
    loop {
        let command = crew::next_command(controller, &report);
        let server = ThreadId::from_raw(command.mr(1));
        let mut caller = Caller { server, words: 0, right: true };
        match command.tag.label() {
            order::CALL => {
                caller.words = command.mr(2) as usize;
                let sleep = command.mr(3) != 0;
                let series = caller.series(sleep);
                caller.one_way(sleep);
                caller.round_trip(sleep);
                report[PACKED + 1] = caller.interrupts(sleep);
                report[..PACKED].copy_from_slice(&measure::pack(series));
            }
            order::AT_ONCE => caller.at_once(command.mr(2)),
            _ => caller.right = false,
        }
        caller.call(order::STOP);
        report[PACKED] = u64::from(caller.right);
    }
}

/// Calls to one server, and whether all went well.
struct Caller {
    server: ThreadId,
    words: usize,
    right: bool,
}

impl Caller {
    fn call(&mut self, label: u64) {
        let tag = MsgTag::new(label, self.words, 0);
        let got = ipc::call(self.server, Timeouts::NEVER, tag);
        self.right &= got.is_ok_and(|got| got.tag.untyped() == self.words);
    }

    /// Lets the partner's CPU do all it has to do, and go to sleep if it shall.
    fn settle(&self, sleep: bool) {
        spin_us(if sleep { TO_SLEEP_US } else { TO_POLL_US });
    }

    /// Time of round trips.
    fn series(&mut self, sleep: bool) -> Result<measure::Summary, measure::Unstable> {
        let overhead = measure::overhead::<32>(arch::tsc);
        (0..WARM_UP).for_each(|_| self.call(order::ECHO));
        if sleep {
            return Err(measure::Unstable::TooFew);
        }
        let mut samples = [0; SAMPLES];
        for sample in &mut samples {
            let start = arch::tsc();
            self.call(order::ECHO);
            *sample = arch::tsc().wrapping_sub(start);
        }
        measure::judge(&mut samples, overhead)
    }

    /// Region 1: from the system call to the partner's return from its receive.
    fn one_way(&mut self, sleep: bool) {
        for _ in 0..ROUNDS {
            self.settle(sleep);
            roi::begin_all::<1>();
            self.call(order::ECHO | 1);
        }
    }

    /// Region 2: a call and its answer.
    fn round_trip(&mut self, sleep: bool) {
        for _ in 0..ROUNDS {
            self.settle(sleep);
            roi::begin_all::<2>();
            self.call(order::ECHO);
            roi::end_all::<2>();
        }
    }

    /// Interrupts between CPUs in [`ROUNDS`] round trips.
    fn interrupts(&mut self, sleep: bool) -> u64 {
        let mut before = 0;
        // The first rounds are not counted: other CPUs are still on their way to sleep.
        for round in 0..WARM_UP as u64 + ROUNDS {
            if round == WARM_UP as u64 {
                before = crew::total(CpuCounter::InterruptsReceived);
            }
            self.settle(sleep);
            self.call(order::ECHO | if sleep { 2 } else { 0 });
        }
        crew::total(CpuCounter::InterruptsReceived) - before
    }

    /// Region 3, on this CPU, from time `start` on.
    fn at_once(&mut self, start: u64) {
        (0..WARM_UP).for_each(|_| self.call(order::ECHO));
        while time::now_us() < start {
            core::hint::spin_loop();
        }
        for _ in 0..ROUNDS {
            roi::begin::<3>();
            self.call(order::ECHO);
            roi::end::<3>();
        }
        // The reports go to the controller's CPU, and must not meet what is measured there.
        let end = start + AT_ONCE_US;
        self.right &= time::now_us() < end;
        while time::now_us() < end {
            core::hint::spin_loop();
        }
    }
}
