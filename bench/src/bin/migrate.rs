//! Migration of a thread by a third CPU, in every state a thread can be in (experiment B4): `cargo xtask bench migrate`.
//!
//! The controller moves the victim there and back with Schedule, checks the state that the call answers, and lets the
//! thread go on at the end: what it was doing has to come to its right end. States:
//!
//! - `running`: the only thread of its CPU, at user level
//! - `ready`: runnable, while one of higher priority runs on its CPU
//! - `waiting`: waits for a message without timeout
//! - `pending send`: has a message for a thread that does not receive
//! - `sending`: its string is being copied, the receiver's buffer is not there
//! - `receiving`: the receiver of that string
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Member, check};
use bench::lab::measure;
use bench::lab::name::Name;
use bench::lab::place::{Memory, PAGE, View};
use bench::lab::report::Subject;
use core::sync::atomic::Ordering;
use l4abi::ext::CpuCounter;
use l4abi::schedule::ThreadState;
use libl4::arch::StackTop;
use libl4::ipc::{self, Received};
use libl4::sys::{self, Schedule};
use libl4::thread::{self, Stack};
use libl4::{Acceptor, CpuId, ThreadId, Time, Timeouts};
use libl4::{arch, exit, msg, roi, topology};

libl4::entry!(main);

/// Migrations there and back; the first ones are not measured.
const ROUNDS: usize = 16;
const WARM_UP: usize = 2;
/// Longer than an idle CPU looks for work before it sleeps.
const TO_SLEEP_US: u64 = 200;
/// Longer than a thread takes to another CPU.
const TO_ARRIVE_US: u64 = 50;
/// What the string buffers are in members' spaces.
const BUFFER: u64 = 0x4000_0000;
const STRING: u64 = 2048;
/// Where the word lies that keeps threads running.
const FLAG: u64 = 0x5000_0000;

static STACKS: [Stack<8192>; 2] = [const { Stack::new() }; 2];

/// Commands.
mod order {
    /// Run until the flag is not MR1 any more.
    pub const RUN: u64 = 1;
    /// Receive a word from MR1; before that, if MR2 is not 0, a message from the controller.
    pub const WAIT: u64 = 2;
    /// Send a word to MR1.
    pub const SEND: u64 = 3;
    /// Send a string to MR1.
    pub const SEND_STRING: u64 = 4;
    /// Receive a string from MR1.
    pub const TAKE_STRING: u64 = 5;
}

/// What is sent.
const WORD: u64 = 0x5A5A;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    Ready,
    Waiting,
    PendingSend,
    Sending,
    Receiving,
}

impl State {
    const ALL: [Self; 6] = [
        Self::Running,
        Self::Ready,
        Self::Waiting,
        Self::PendingSend,
        Self::Sending,
        Self::Receiving,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::PendingSend => "pending send",
            Self::Sending => "sending",
            Self::Receiving => "receiving",
        }
    }

    /// What Schedule answers about such a thread (reference 4.8).
    const fn answer(self) -> ThreadState {
        match self {
            Self::Running | Self::Ready => ThreadState::Running,
            // A receiver's page fault is a message of its own, whose answer it waits for.
            Self::Waiting | Self::Receiving => ThreadState::Waiting,
            Self::PendingSend => ThreadState::PendingSend,
            Self::Sending => ThreadState::Sending,
        }
    }
}

/// Where a case happens.
struct Place {
    name: &'static str,
    /// The victim's CPU at first, and the one it is moved to.
    from: CpuId,
    to: CpuId,
}

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let [Some(first), Some(second)] = STACKS.each_ref().map(|stack| stack.take()) else { return };
    let home = thread::my_cpu();
    let node = topology::node_of(home);
    let others = || (0..topology::cpu_count() as u16).map(CpuId).filter(move |&cpu| cpu != home);
    let Some(from) = others().next() else {
        return check("a second CPU", false);
    };
    // On two CPUs the controller's own is the other end; its thread of higher priority, the controller, waits.
    let near = others().find(|&c| c != from && topology::node_of(c) == topology::node_of(from));
    let far = others().find(|&c| topology::node_of(c) != topology::node_of(from));
    let fallback = (topology::node_of(from) == node).then_some(home);
    let far_back = (topology::node_of(from) != node).then_some(home);
    let mut next = 1;
    for (name, to) in [("same node", near.or(fallback)), ("other node", far.or(far_back))] {
        let Some(to) = to else { continue };
        for state in State::ALL {
            case(&Place { name, from, to }, state, next, [&first, &second]);
            next += 2;
        }
    }
    exit::exit(exit::Outcome::Success);
}

fn case(place: &Place, state: State, number: u32, [first, second]: [&StackTop; 2]) {
    let node = topology::my_node();
    let memory = || Memory::on(node, PAGE);
    let (Some(program), Some(flag), Some(out), Some(back)) =
        (View::of_program(node), memory(), memory(), memory())
    else {
        return check("getting memory", false);
    };
    let show = |at, memory| View { at, memory, bytes: PAGE };
    let victim_views = [program, show(FLAG, flag), show(BUFFER, out)];
    let partner_views = [program, show(FLAG, flag), show(BUFFER, back)];
    let victim = Member { id: crew::id(number), views: &victim_views, cpu: place.from };
    let partner = Member { id: crew::id(number + 1), views: &partner_views, cpu: place.from };
    let me = thread::my_global_id();
    victim.start(first, works, me.raw());
    partner.start(second, works, me.raw());
    // Whatever is received or sent, `moved` is the thread that migrates.
    let (moved, other) =
        if state == State::Receiving { (&partner, &victim) } else { (&victim, &partner) };
    let fault = enter(state, &victim, &partner);
    let mut times = [0; ROUNDS];
    let mut requests = 0;
    let start = Traffic::so_far();
    let region = Name::of(format_args!("migrate {}, {}", state.name(), place.name));
    roi::name::<1>(region.text());
    for round in 0..WARM_UP + ROUNDS {
        let there = round % 2 == 0;
        if state == State::Ready {
            // The one that runs on its CPU goes along, so that it stays ready.
            other.move_to(if there { place.to } else { place.from });
        }
        // Whatever has nothing to do sleeps by now: an interrupt for every CPU that is needed.
        crew::spin_us(TO_SLEEP_US);
        let before = crew::total(CpuCounter::RequestInterrupts);
        let time = migrate(moved.id, if there { place.to } else { place.from }, state, round);
        // A string's sender and receiver follow each other; what runs has to arrive.
        crew::spin_us(TO_ARRIVE_US);
        if let Some(sample) = round.checked_sub(WARM_UP) {
            times[sample] = time;
            requests += crew::total(CpuCounter::RequestInterrupts) - before;
        }
    }
    let all = Traffic::since(&start);
    leave(state, &victim, &partner, flag.base, fault);
    let overhead = measure::overhead::<32>(arch::tsc);
    let subject = Subject {
        bench: "migrate",
        variant: state.name(),
        metric: "migration",
        unit: "TSC ticks",
        parameters: &[
            ("from_node", u64::from(topology::node_of(place.from).0)),
            ("to_node", u64::from(topology::node_of(place.to).0)),
        ],
    };
    subject.series(measure::judge(&mut times, overhead));
    let number = |metric, unit, value| {
        Subject { metric, unit, ..subject }.number(value, ROUNDS as u64);
    };
    number("interrupts per migration", "in 100", requests * 100 / ROUNDS as u64);
    number("flush interrupts", "interrupts", all.flushes);
    number("control blocks moved", "pages", all.blocks);
    victim.delete();
    partner.delete();
}

/// What moving control blocks costs all CPUs together.
struct Traffic {
    /// Interrupts sent so that others forget translations.
    flushes: u64,
    /// Control blocks moved to another node.
    blocks: u64,
}

impl Traffic {
    fn so_far() -> Self {
        Self {
            flushes: crew::total(CpuCounter::ShootdownInterrupts),
            blocks: crew::total(CpuCounter::TcbMoves),
        }
    }

    fn since(start: &Self) -> Self {
        let now = Self::so_far();
        Self { flushes: now.flushes - start.flushes, blocks: now.blocks - start.blocks }
    }
}

/// Moves the thread, which has to be in `state`; answers the time.
fn migrate(id: ThreadId, to: CpuId, state: State, round: usize) -> u64 {
    let schedule = Schedule { processor: Some(to), ..Schedule::default() };
    let counted = round >= WARM_UP;
    let start = arch::tsc();
    if counted {
        roi::begin_all::<1>();
    }
    let answer = sys::schedule(id, schedule);
    if counted {
        roi::end_all::<1>();
    }
    let time = arch::tsc().wrapping_sub(start);
    let found = answer.map(|(found, _)| found);
    if found != Ok(state.answer()) {
        libl4::println!("{}: {found:?} before round {round}", state.name());
    }
    check("the thread's state", found == Ok(state.answer()));
    time
}

/// Brings the thread that is to migrate into the state; answers the receiver's fault if that holds it there.
fn enter(state: State, victim: &Member<'_>, partner: &Member<'_>) -> Option<Received> {
    let mut open = None;
    match state {
        State::Running => victim.command(order::RUN, &[0]),
        State::Ready => {
            victim.set_priority(50);
            victim.command(order::RUN, &[0]);
            partner.command(order::RUN, &[0]);
        }
        State::Waiting => victim.command(order::WAIT, &[partner.id.raw(), 0]),
        State::PendingSend => {
            // A thread waits for its controller's answer on the controller's CPU, and so would those that send to
            // it: it receives instead.
            partner.command(order::WAIT, &[victim.id.raw(), 1]);
            victim.command(order::SEND, &[partner.id.raw()]);
        }
        State::Sending | State::Receiving => {
            partner.command(order::TAKE_STRING, &[victim.id.raw()]);
            victim.command(order::SEND_STRING, &[partner.id.raw()]);
            // The sender's own page first; then the receiver's fault stays open: see `leave`.
            victim.answer(&victim.fault());
            open = Some(partner.fault());
        }
    }
    // It takes a moment to get there.
    crew::spin_us(200);
    open
}

/// Lets it go on, and sees that all was well.
fn leave(
    state: State,
    victim: &Member<'_>,
    partner: &Member<'_>,
    flag: u64,
    fault: Option<Received>,
) {
    match state {
        State::Running | State::Ready => {
            arch::poke(flag, 1);
            check("running on", victim.done().mr(1) == 1);
            if state == State::Ready {
                check("running on", partner.done().mr(1) == 1);
            }
        }
        State::Waiting => {
            partner.perform(order::SEND, &[victim.id.raw()]);
            check("the message", victim.done().mr(1) == WORD);
        }
        State::PendingSend => {
            check("holding", ipc::send(partner.id, Time::NEVER, crew::plain(0)).is_ok());
            check("the message", partner.done().mr(1) == WORD);
            victim.done();
        }
        State::Sending | State::Receiving => {
            let taken = fault.map(|fault| partner.done_after(&fault));
            check("the string", taken.is_some_and(|report| report.mr(1) == WORD));
            victim.done();
        }
    }
}

/// Both threads.
extern "C" fn works(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    let _ = arch::touch_read(FLAG);
    let mut report = 0;
    loop {
        let command = crew::next_command(controller, &[report]);
        let partner = ThreadId::from_raw(command.mr(1));
        report = match command.tag.label() {
            order::RUN => {
                while arch::peek(FLAG) == command.mr(1) {
                    core::hint::spin_loop();
                }
                arch::peek(FLAG)
            }
            order::WAIT => {
                if command.mr(2) != 0 {
                    let _ = ipc::receive(controller, Timeouts::NEVER);
                }
                ipc::receive(partner, Timeouts::NEVER).map_or(0, |got| got.mr(1))
            }
            order::SEND => {
                let mut message = msg::Writer::here();
                message.word(WORD);
                let tag = message.tag(0);
                u64::from(ipc::send(partner, Time::NEVER, tag).is_ok())
            }
            order::SEND_STRING => send_string(partner),
            order::TAKE_STRING => take_string(partner),
            _ => 0,
        };
    }
}

fn send_string(to: ThreadId) -> u64 {
    arch::poke(BUFFER, WORD);
    let mut message = msg::Writer::here();
    message.string(BUFFER, STRING);
    let tag = message.tag(0);
    u64::from(ipc::send(to, Time::NEVER, tag).is_ok())
}

fn take_string(from: ThreadId) -> u64 {
    // Faults during the transfer may take as long as they take.
    arch::utcb().xfer_timeouts.store(0, Ordering::Relaxed);
    ipc::accept_string(Acceptor::NONE, BUFFER, STRING);
    let got = ipc::receive(from, Timeouts::NEVER);
    ipc::accept(Acceptor::COMPLETE);
    if got.is_ok() { arch::peek(BUFFER) } else { 0 }
}
