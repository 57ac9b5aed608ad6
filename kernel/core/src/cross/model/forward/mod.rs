//! Every history of a message that is forwarded: a client that calls a forwarder, which sends on in the client's name, a server that
//! answers the client with zero timeout, and a third thread that cancels, moves or replaces any of them, on three CPUs.
//!
//! What becomes of the client's wait is the kernel's own `cross::propagate`; the rest of the kernel is [`On`], a CPU in one step. Between any two things that a CPU reads of a thread of another CPU
//! something happens there, a deletion and a new thread in the slot included. So nothing that was read holds any longer.
//!
//! In every state: a thread is in one mailbox or on one CPU, in one queue and that on its own CPU; nobody speaks for a thread that it has not
//! looked up; what a thread waits for is changed for that one only, and to the thread that was looked up. At every end: the client has
//! an answer or an error, unless who has its message is gone. From every state an end can be reached.

mod cpu;

use super::{CPUS, Histories, explore, is_caught};
use crate::cross::NOWHERE;
use crate::ipc::State;
use cpu::On;

const C: usize = 0;
const F: usize = 1;
const D: usize = 2;
const X: usize = 3;

/// A thread and its version: what a global id says.
type Id = (usize, u8);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Errand {
    Home,
    Send(Id),
    Receive,
    Call,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fate {
    Open,
    Ok,
    Canceled,
    NoPartner,
    NotReady,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Op {
    Cancel(usize),
    Move(usize, u16),
    /// It is deleted, and another thread has its number.
    Replace(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Broken {
    Nothing,
    /// The forwarder believes the state that it reads from afar.
    AsksTheState,
    /// The ids of the client and the server are read once more, from their slots.
    ReadsIdsAgain,
    /// The forwarder changes the wait from afar.
    StaysAway,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Thread {
    version: u8,
    state: State,
    cpu: u16,
    target: u16,
    home: u16,
    errand: Errand,
    /// Looks again in a moment.
    waits: bool,
    /// At whom it is queued.
    polls: Option<usize>,
    /// Whom it has waited for last; none: anybody.
    awaited: Option<Id>,
    /// For whom it speaks.
    speaks_for: Option<Id>,
    fate: Fate,
    step: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    t: [Thread; 4],
    mail: [Vec<usize>; CPUS],
    /// A thread that is about to begin its receive phase, in the midst of what its CPU does.
    midst: [Option<usize>; CPUS],
    ops: [Option<Op>; 2],
    broken: Broken,
}

/// What a CPU does next.
#[derive(Clone, Copy, Debug)]
enum Action {
    User(usize),
    Again(usize),
    Arrival,
    GoOn(usize),
}

impl World {
    fn thread(home: u16) -> Thread {
        Thread {
            version: 0,
            state: State::Ready,
            cpu: home,
            target: home,
            home,
            errand: Errand::Home,
            waits: false,
            polls: None,
            awaited: None,
            speaks_for: None,
            fate: Fate::Open,
            step: 0,
        }
    }

    fn new(homes: [u16; 4], visits: bool, ops: [Option<Op>; 2], broken: Broken) -> Self {
        let mut t = homes.map(Self::thread);
        if visits {
            // The forwarder has called the client, which was moved since: what it gets is the answer.
            let cpu = (homes[F] + 1) % CPUS as u16;
            let (state, awaited) = (State::Waiting, Some((C, 0)));
            t[F] = Thread { cpu, target: cpu, state, awaited, step: 1, ..t[F] };
        }
        Self { t, mail: [vec![], vec![], vec![]], midst: [None; CPUS], ops, broken }
    }

    /// How many steps a thread does at user level.
    fn steps(&self, i: usize) -> u8 {
        match i {
            X => self.ops.iter().flatten().count() as u8,
            C => 1,
            _ if self.t[i].version > 0 => 0,
            F => 3,
            _ => 2,
        }
    }

    fn actions(&self) -> Vec<(u16, Action)> {
        let mut all = vec![];
        for (i, t) in self.t.iter().enumerate().filter(|(_, t)| t.cpu != NOWHERE) {
            if self.midst[usize::from(t.cpu)].is_some() {
                continue;
            }
            let runs = t.cpu == t.home && t.state == State::Ready;
            if runs && t.step < self.steps(i) {
                all.push((t.cpu, Action::User(i)));
            }
            if t.waits {
                all.push((t.cpu, Action::Again(i)));
            }
        }
        for cpu in 0..CPUS {
            match self.midst[cpu] {
                Some(i) => all.push((cpu as u16, Action::GoOn(i))),
                None if !self.mail[cpu].is_empty() => all.push((cpu as u16, Action::Arrival)),
                None => {}
            }
        }
        all
    }

    /// Answers how often something of another CPU's threads was read.
    fn act(&mut self, here: u16, action: Action, at: u8, other: Option<(u16, Action)>) -> u8 {
        let mut on = On { w: self, here, reads: 0, at, other, ids: [(C, 0), (D, 0)] };
        match action {
            Action::User(i) => on.user(i),
            Action::Again(i) => on.run_errand(i),
            Action::GoOn(i) => {
                on.w.midst[usize::from(here)] = None;
                on.set_state(i, State::Waiting);
            }
            Action::Arrival => {
                let i = on.w.mail[usize::from(here)].remove(0);
                on.w.t[i].cpu = here;
                on.run_errand(i);
            }
        }
        on.reads
    }
}

impl Histories for World {
    fn successors(&self) -> Vec<World> {
        let mut next = vec![];
        let actions = self.actions();
        for &(here, action) in &actions {
            let mut w = self.clone();
            let reads = w.act(here, action, 0, None);
            next.push(w);
            for &(cpu, other) in actions.iter().filter(|&&(cpu, _)| cpu != here) {
                for at in 1..reads {
                    let mut w = self.clone();
                    w.act(here, action, at, Some((cpu, other)));
                    if !next.contains(&w) {
                        next.push(w);
                    }
                }
            }
        }
        next
    }

    fn check(&self) {
        for (i, t) in self.t.iter().enumerate() {
            let letters = self.mail.iter().flatten().filter(|&&l| l == i).count();
            assert_eq!(letters, usize::from(t.cpu == NOWHERE), "{i} in mailboxes: {self:?}");
            if let Some(at) = t.polls {
                assert!(t.state == State::Polling && t.cpu == self.t[at].cpu, "{self:?}");
            }
        }
        let c = self.t[C];
        assert!(c.version == 0 || c.awaited.is_none_or(|a| a == (F, 0)), "not its wait: {self:?}");
    }

    fn check_end(&self) {
        let [c, f, d, x] = &self.t;
        assert!(x.step == self.steps(X) && x.state == State::Ready, "{self:?}");
        for t in &self.t {
            assert!(t.state != State::Ready || t.cpu == t.home, "not at home: {self:?}");
            assert!(t.state != State::Remote, "under way for ever: {self:?}");
        }
        let gone = f.version > 0 || d.version > 0;
        let canceled = self.ops.contains(&Some(Op::Cancel(C)));
        // One that was cancelled before it received anything has nothing to forward or to answer.
        let early = [F, D].iter().any(|&i| self.ops.contains(&Some(Op::Cancel(i))));
        if c.version > 0 || gone || early {
            return;
        }
        match c.fate {
            Fate::Ok => assert!(c.state == State::Ready, "{self:?}"),
            fate => assert!(canceled && fate == Fate::Canceled, "no answer: {self:?}"),
        }
        assert!(canceled || d.fate == Fate::Ok, "an answer found nobody: {self:?}");
    }
}

fn starts(broken: Broken) -> Vec<World> {
    let mut ops = vec![];
    for who in [C, F, D] {
        ops.extend([Op::Cancel(who), Op::Replace(who)]);
        ops.extend((0..CPUS as u16).map(|cpu| Op::Move(who, cpu)));
    }
    let mut all = vec![];
    for homes in [[0, 1, 2, 0], [0, 1, 0, 2], [0, 0, 1, 2], [1, 0, 0, 2]] {
        for &first in &ops {
            for visits in [false, true] {
                all.push(World::new(homes, visits, [Some(first), None], broken));
            }
            let moves = |&&op: &&Op| matches!(op, Op::Move(..) | Op::Replace(_));
            for &second in ops.iter().filter(moves) {
                all.push(World::new(homes, false, [Some(first), Some(second)], broken));
            }
        }
    }
    all
}

#[test]
fn a_message_that_is_forwarded() {
    let starts = starts(Broken::Nothing);
    let worlds = starts.len();
    let states: usize = starts.into_iter().map(explore).sum();
    println!("model propagation: {worlds} starts, {states} states");
    assert!(states > 10_000, "only {states} states");
}

#[test]
fn what_is_broken_is_caught() {
    for what in [Broken::AsksTheState, Broken::ReadsIdsAgain, Broken::StaysAway] {
        assert!(is_caught(starts(what)), "{what:?} is not caught");
    }
}
