//! Every history of a string transfer between two CPUs: a sender and a receiver with page faults on both sides, their pagers,
//! the clocks of the send phase, the receive phase and the transfer, and a third thread that cancels, deletes, replaces and moves them.
//!
//! Who goes where is decided by the kernel's own `cross::transfer`; the rest of the kernel is [`On`], a CPU in one step.
//!
//! In every state: a thread is in one mailbox or on one CPU, in one queue and that on its own CPU, every change of state is one that the
//! table of states allows, nothing happens to a deleted thread or to one that has its number since, strings are copied on the receiver's CPU, and the
//! transfer's clock runs exactly as long as the transfer. At every end: both partners say the same of the message.

mod cpu;

use super::{CPUS, Histories, explore, is_caught};
use crate::cross::NOWHERE;
use crate::cross::transfer::Go;
use crate::ipc::State;
use cpu::On;

const S: usize = 0;
const R: usize = 1;
const X: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Errand {
    Home,
    Send,
    Call,
    Travel(Go<usize, Fate>),
}

/// How an IPC ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fate {
    Open,
    Ok,
    Canceled,
    Timeout,
    Aborted,
    TransferTimeout,
    NoPartner,
    Deleted,
}

/// What the third thread does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Op {
    Nothing,
    Cancel(usize),
    Delete(usize),
    /// It is deleted, and another thread has its number.
    Replace(usize),
    Move(usize, u16),
}

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Broken {
    Nothing,
    /// A receiver that is moved takes its sender along, whatever that does.
    TakesSenderAlong,
    /// The answer to a fault stops the transfer's clock.
    AnswerStopsClock,
    /// The clock runs on when the transfer is over.
    ClockRunsOn,
    /// A thread is deleted although its partner is elsewhere.
    DeletesAtOnce,
    /// The partner is not told that a transfer has ended.
    TellsNobody,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Thread {
    state: State,
    cpu: u16,
    target: u16,
    /// What a CPU that does not own it may still see.
    old: (u16, u16),
    home: u16,
    errand: Errand,
    /// Looks again in a moment.
    waits: bool,
    /// Its clock runs, or it carries the deadline.
    clock: bool,
    /// In the queue of the receiver.
    polls: bool,
    /// In the queue of its pager.
    at_pager: bool,
    partner: Option<usize>,
    kernel_ipc: bool,
    outer: Option<(State, Option<usize>)>,
    /// The transfer goes on when it is picked.
    work: bool,
    halted: bool,
    /// Another thread that has the number now; it does nothing.
    other: bool,
    fate: Fate,
    got: u8,
    steps_left: u8,
}

/// What differs between the machines that are explored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Setting {
    homes: [u16; 3],
    /// Where the pagers of sender and receiver are.
    pagers: [u16; 2],
    /// Pagers are busy: who has a fault is queued at first.
    busy: bool,
    /// The send phase, the receive phase, the transfer have a timeout.
    timeouts: [bool; 3],
    faults: [u8; 2],
    /// How many messages there are.
    messages: u8,
    /// The receiver waits for the reply to a call, on the sender's CPU.
    visits: bool,
    ops: [Op; 2],
    broken: Broken,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    set: Setting,
    t: [Thread; 3],
    mail: [Vec<usize>; CPUS],
    faults: [u8; 2],
    /// The transfer has started its clock.
    timed: bool,
}

impl World {
    fn new(set: Setting) -> Self {
        let thread = |home: u16| Thread {
            state: State::Ready,
            cpu: home,
            target: home,
            old: (home, home),
            home,
            errand: Errand::Home,
            waits: false,
            clock: false,
            polls: false,
            at_pager: false,
            partner: None,
            kernel_ipc: false,
            outer: None,
            work: false,
            halted: false,
            other: false,
            fate: Fate::Open,
            got: 0,
            steps_left: set.messages,
        };
        let mut t = set.homes.map(thread);
        t[X].steps_left = set.ops.iter().filter(|&&op| op != Op::Nothing).count() as u8;
        if set.visits {
            t[R].cpu = set.homes[S];
            t[R].old = (t[R].cpu, t[R].cpu);
            t[R].target = t[R].cpu;
            (t[R].state, t[R].steps_left) = (State::Waiting, 0);
        }
        Self { set, t, mail: [vec![], vec![], vec![]], faults: set.faults, timed: false }
    }

    /// Whether `i` is in the transfer, wherever it is.
    fn in_transfer(&self, i: usize) -> bool {
        let t = &self.t[i];
        let seeks = matches!(t.errand, Errand::Travel(Go::Resume(_) | Go::Fetch));
        matches!(t.state, State::Sending | State::Receiving)
            || t.outer.is_some()
            || (t.state == State::Remote && seeks && t.partner.is_some())
    }
}

impl Histories for World {
    fn successors(&self) -> Vec<World> {
        let mut next = vec![];
        let mut add = |here: u16, old: bool, step: &dyn Fn(&mut On<'_>)| {
            let mut w = self.clone();
            step(&mut On { w: &mut w, here, old });
            if !next.contains(&w) {
                next.push(w);
            }
        };
        for old in [false, true] {
            for i in [S, R, X] {
                let t = self.t[i];
                if t.cpu == NOWHERE || t.state == State::Absent {
                    continue;
                }
                let at_home = t.cpu == t.home;
                if at_home && t.state == State::Ready && t.steps_left > 0 && !t.halted {
                    add(t.cpu, old, &|on| on.user(i));
                }
                if at_home && t.state == State::Receiving && t.work {
                    add(t.cpu, old, &|on| on.work(i));
                }
                if t.waits {
                    add(t.cpu, old, &|on| on.run_errand(i));
                }
                if t.clock && !t.waits {
                    add(t.cpu, old, &|on| on.expired(i));
                }
                if t.at_pager {
                    add(t.cpu, old, &|on| on.taken_by_pager(i));
                }
                if t.kernel_ipc && t.state == State::Waiting {
                    add(t.cpu, old, &|on| on.answered(i));
                }
            }
            for cpu in 0..CPUS {
                if !self.mail[cpu].is_empty() {
                    add(cpu as u16, old, &|on| on.arrival());
                }
            }
        }
        next
    }

    fn check(&self) {
        for (i, t) in self.t.iter().enumerate() {
            let letters = self.mail.iter().flatten().filter(|&&l| l == i).count();
            assert_eq!(letters, usize::from(t.cpu == NOWHERE), "{i} in mailboxes: {self:?}");
            assert!(!(t.polls && t.at_pager), "in two queues: {self:?}");
            assert!(!t.polls || (t.state == State::Polling && t.cpu == self.t[R].cpu), "{self:?}");
            assert!(
                !t.at_pager || (t.state == State::Polling && t.cpu == self.set.pagers[i]),
                "{self:?}"
            );
            assert!(!t.at_pager || t.kernel_ipc, "{self:?}");
            let idle = matches!(t.state, State::Ready | State::Absent);
            assert!(!(idle && t.clock), "a clock of nothing: {self:?}");
        }
        assert!(self.t[R].got <= self.set.messages, "a message twice: {self:?}");
        let runs = self.set.timeouts[2] && self.timed && self.in_transfer(R);
        assert!(!runs || self.t[R].clock, "the transfer's clock stands still: {self:?}");
    }

    fn check_end(&self) {
        let [s, r, x] = &self.t;
        assert!(x.steps_left == 0 && x.state == State::Ready && x.cpu == x.home, "{self:?}");
        assert!(!self.in_transfer(S) && !self.in_transfer(R), "in a transfer for ever: {self:?}");
        for t in [s, r] {
            assert!(t.state != State::Ready || t.cpu == t.home, "not at home: {self:?}");
        }
        let waits = |t: &Thread| t.fate == Fate::Open && t.state != State::Ready;
        if s.fate == Fate::Open {
            assert!(s.state == State::Polling && !waits(r) && !self.set.timeouts[0], "{self:?}");
        }
        if r.fate == Fate::Open {
            assert!(r.state == State::Waiting && !waits(s), "{self:?}");
        }
        if self.set.messages > 1 {
            return;
        }
        // Both say the same of the message, except for who is gone.
        let pair = (s.fate, r.fate);
        let both = |f: Fate| {
            (s.fate == f || s.fate == Fate::Deleted) && (r.fate == f || r.fate == Fate::Deleted)
        };
        let failed = |f| matches!(f, Fate::Aborted | Fate::TransferTimeout);
        match pair {
            (Fate::Ok, _) | (_, Fate::Ok) => {
                assert!(both(Fate::Ok) && r.got == 1 || r.fate == Fate::Deleted, "{self:?}")
            }
            // It may end on both sides at once, for two reasons.
            _ if failed(s.fate) || failed(r.fate) => {
                let agree = |f| failed(f) || f == Fate::Deleted;
                assert!(agree(s.fate) && agree(r.fate) && r.got == 0, "{self:?}");
            }
            (Fate::Deleted, Fate::Deleted) => {}
            (Fate::NoPartner, r) => assert_eq!(r, Fate::Deleted, "{self:?}"),
            _ => assert_eq!(r.got, 0, "{self:?}"),
        }
    }
}

const PLAIN: Setting = Setting {
    homes: [0, 1, 2],
    pagers: [2, 2],
    busy: false,
    timeouts: [false; 3],
    faults: [1, 1],
    messages: 1,
    visits: false,
    ops: [Op::Nothing; 2],
    broken: Broken::Nothing,
};

fn ops() -> Vec<Op> {
    let mut ops = vec![];
    for who in [S, R] {
        ops.extend([Op::Cancel(who), Op::Delete(who), Op::Replace(who)]);
        ops.extend((0..CPUS as u16).map(|cpu| Op::Move(who, cpu)));
    }
    ops
}

/// Where everybody is, with faults on both sides.
fn places() -> Vec<Setting> {
    let mut all = vec![];
    for homes in [[0, 1, 2], [0, 0, 1], [0, 1, 0], [1, 0, 1]] {
        for pagers in [[2, 2], [0, 1], [1, 0]] {
            all.push(Setting { homes, pagers, ..PLAIN });
        }
    }
    all
}

#[test]
fn messages_without_faults_or_with_one() {
    let starts = places().into_iter().flat_map(|set| {
        ops().into_iter().flat_map(move |op| {
            [[0, 0], [0, 1], [1, 0]].into_iter().flat_map(move |faults| {
                [[false; 3], [true, true, false], [true; 3]].map(|timeouts| Setting {
                    faults,
                    timeouts,
                    ops: [op, Op::Nothing],
                    ..set
                })
            })
        })
    });
    run("fewer faults", starts, 50_000);
}

fn run(name: &str, starts: impl IntoIterator<Item = Setting>, at_least: usize) {
    let (mut worlds, mut states) = (0, 0);
    for set in starts {
        states += explore(World::new(set));
        worlds += 1;
    }
    println!("model string transfer, {name}: {worlds} starts, {states} states");
    assert!(states > at_least, "only {states} states");
}

#[test]
fn one_intervention_anywhere() {
    let starts = places().into_iter().flat_map(|set| {
        ops().into_iter().flat_map(move |op| {
            [false, true].map(|busy| Setting { busy, ops: [op, Op::Nothing], ..set })
        })
    });
    run("one intervention", starts, 10_000);
}

#[test]
fn two_interventions() {
    let starts = places().into_iter().flat_map(|set| {
        ops().into_iter().flat_map(move |first| {
            ops().into_iter().map(move |second| Setting { busy: true, ops: [first, second], ..set })
        })
    });
    run("two interventions", starts, 100_000);
}

#[test]
fn two_messages_with_faults_in_both() {
    let starts = places().into_iter().flat_map(|set| {
        ops().into_iter().flat_map(move |op| {
            [[2, 1], [1, 2]].map(|faults| Setting {
                messages: 2,
                faults,
                timeouts: [false, false, true],
                ops: [op, Op::Nothing],
                ..set
            })
        })
    });
    run("two messages", starts, 50_000);
}

#[test]
fn clocks_run_out_at_any_moment() {
    let clocks = [[true, true, false], [false, false, true], [true, true, true]];
    let starts = places().into_iter().flat_map(|set| {
        clocks.into_iter().flat_map(move |timeouts| {
            [Op::Nothing, Op::Cancel(S), Op::Delete(R), Op::Move(S, 2), Op::Move(R, 2)]
                .map(move |op| Setting { timeouts, busy: true, ops: [op, Op::Nothing], ..set })
        })
    });
    run("clocks", starts, 10_000);
}

#[test]
fn a_caller_gets_a_string_as_reply() {
    let starts = places().into_iter().filter(|set| set.homes[S] != set.homes[R]).flat_map(|set| {
        ops().into_iter().map(move |op| Setting { visits: true, ops: [op, Op::Nothing], ..set })
    });
    run("reply to a caller", starts, 5_000);
}

/// Machines in which what is broken shows.
fn broken(broken: Broken) -> Vec<World> {
    let moves = [Op::Move(R, 2), Op::Move(R, 0)];
    let starts = places().into_iter().flat_map(|set| {
        let timeouts = [false, false, true];
        [
            moves,
            [Op::Delete(S), Op::Nothing],
            [Op::Delete(R), Op::Nothing],
            [Op::Cancel(S), Op::Nothing],
        ]
        .map(|ops| Setting { busy: true, timeouts, ops, broken, ..set })
    });
    starts.map(World::new).collect()
}

#[test]
fn what_is_broken_is_caught() {
    assert!(!is_caught(broken(Broken::Nothing)), "the kernel's own rules");
    for what in [
        Broken::TakesSenderAlong,
        Broken::AnswerStopsClock,
        Broken::ClockRunsOn,
        Broken::DeletesAtOnce,
        Broken::TellsNobody,
    ] {
        assert!(is_caught(broken(what)), "{what:?} is not caught");
    }
}
