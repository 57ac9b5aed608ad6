//! Every history of a small machine: a sender that calls, a receiver that answers with zero timeout, a thread that
//! migrates one of them and one that cancels the sender, on three CPUs, with reads of other CPUs' threads that
//! may be one step old. Where to go is decided by the kernel's own [`place`] and [`step`].
//!
//! In every state: no thread in two mailboxes or in one and at rest, no queue across CPUs, no message twice. At
//! every end: the sender has the answer or the cancel, the receiver has what the sender sent. From every state
//! an end can be reached.

use super::{CPUS, Histories, explore, is_caught};
use crate::cross::{NOWHERE, Step, place, step};
use crate::ipc::{Key, State};

const S: usize = 0;
const R: usize = 1;
const M: usize = 2;
const C: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Errand {
    Home,
    Send,
    Receive,
    Call,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Result {
    None,
    Ok,
    Canceled,
    NotReady,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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
    polls: bool,
    got: u8,
    result: Result,
    steps_left: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    t: Vec<Thread>,
    mail: Vec<Vec<usize>>,
    victim: usize,
    to: u16,
    broken: Broken,
}

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Broken {
    Nothing,
    /// Who is queued at a thread stays when that leaves.
    StaysBehind,
    /// A thread that is ready stays where it became so.
    ForgetsHome,
}

impl World {
    fn new(homes: [u16; 4], victim: usize, to: u16, broken: Broken) -> Self {
        let thread = |home: u16| Thread {
            state: State::Ready,
            cpu: home,
            target: home,
            old: (home, home),
            home,
            errand: Errand::Home,
            waits: false,
            polls: false,
            got: 0,
            result: Result::None,
            steps_left: 1,
        };
        let mut t: Vec<_> = homes.into_iter().map(thread).collect();
        t[R].steps_left = 2;
        Self { t, mail: vec![vec![]; CPUS], victim, to, broken }
    }

    fn depart(&mut self, i: usize, to: u16, errand: Errand) {
        let t = &mut self.t[i];
        assert!(t.cpu != NOWHERE && t.cpu != to, "{i} sent from {} to {to}", t.cpu);
        let from = t.cpu;
        t.old = (t.cpu, t.target);
        (t.cpu, t.target, t.errand, t.waits) = (NOWHERE, to, errand, false);
        self.mail[usize::from(to)].push(i);
        // Those queued at it follow.
        if i == R && self.t[S].polls && self.broken != Broken::StaysBehind {
            self.t[S].polls = false;
            self.t[S].state = State::Remote;
            assert_eq!(self.t[S].cpu, from);
            self.depart(S, to, Errand::Send);
        }
    }

    fn wake(&mut self, i: usize) {
        self.t[i].state = State::Ready;
        if self.t[i].cpu != self.t[i].home && self.broken != Broken::ForgetsHome {
            self.depart(i, self.t[i].home, Errand::Home);
        }
    }

    /// One step of `me` towards `other`. `old`: what it reads of the other is old.
    fn reach(&mut self, me: usize, other: usize, errand: Errand, old: bool) -> bool {
        let here = self.t[me].cpu;
        let o = &self.t[other];
        // Only the owner writes its own number: its test of ownership is never old.
        let (cpu, target) =
            if old && o.cpu != here && o.old.0 != here { o.old } else { (o.cpu, o.target) };
        let at = place(Key::new(State::Ready, cpu), target, here);
        match step(at, me as u32, other as u32) {
            Step::Act => return true,
            Step::GiveUp => unreachable!("nobody is deleted here"),
            Step::Follow(to) => {
                self.t[me].state = State::Remote;
                self.depart(me, to, errand);
            }
            Step::Wait => {
                let t = &mut self.t[me];
                (t.state, t.errand, t.waits) = (State::Remote, errand, true);
            }
        }
        false
    }

    /// The send phase of `me`: the sender's call or the receiver's answer.
    fn send(&mut self, me: usize, old: bool) {
        let other = if me == S { R } else { S };
        if !self.reach(me, other, Errand::Send, old) {
            return;
        }
        let takes = self.t[other].state == State::Waiting;
        match (me, takes) {
            (S, true) => {
                self.deliver(S, R);
                self.receive(S);
            }
            (S, false) => {
                self.t[S].state = State::Polling;
                self.t[S].polls = true;
            }
            (_, true) => {
                self.deliver(R, S);
                self.t[S].result = Result::Ok;
                self.t[R].result = Result::Ok;
                self.wake(R);
            }
            (_, false) => {
                self.t[R].result = Result::NotReady;
                self.wake(R);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize) {
        assert_eq!(self.t[from].cpu, self.t[to].cpu, "a message across CPUs");
        self.t[to].got += 1;
        self.wake(to);
    }

    /// The receive phase of the sender: where its partner lives, or at home.
    fn receive(&mut self, me: usize) {
        let here = self.t[me].cpu;
        let with_partner = self.t[R].cpu == here && self.t[R].home == here;
        if here != self.t[me].home && !with_partner {
            self.t[me].state = State::Remote;
            self.depart(me, self.t[me].home, Errand::Receive);
            return;
        }
        self.t[me].state = State::Waiting;
    }

    fn call(&mut self, me: usize, old: bool) {
        let other = if me == C { S } else { self.victim };
        if !self.reach(me, other, Errand::Call, old) {
            return;
        }
        if me == C {
            self.cancel();
        } else {
            self.migrate(other);
        }
        self.t[me].result = Result::Ok;
        self.wake(me);
    }

    fn cancel(&mut self) {
        let t = &mut self.t[S];
        let sends = t.state == State::Remote && t.errand == Errand::Send;
        if sends || matches!(t.state, State::Polling | State::Waiting) {
            (t.polls, t.waits, t.result) = (false, false, Result::Canceled);
            self.wake(S);
        }
    }

    fn migrate(&mut self, v: usize) {
        let to = self.to;
        let t = &mut self.t[v];
        let visits = t.cpu != t.home;
        t.home = to;
        if visits || t.cpu == to || matches!(t.state, State::Polling | State::Remote) {
            return;
        }
        self.depart(v, to, Errand::Home);
    }

    fn run_errand(&mut self, i: usize, old: bool) {
        self.t[i].waits = false;
        match self.t[i].errand {
            Errand::Home => {
                if self.t[i].state == State::Ready {
                    self.wake(i);
                }
            }
            Errand::Send => self.send(i, old),
            Errand::Receive => self.receive(i),
            Errand::Call => self.call(i, old),
        }
    }

    /// A thread at user level does its next step.
    fn user(&mut self, i: usize, old: bool) {
        self.t[i].steps_left -= 1;
        match (i, self.t[i].steps_left) {
            (R, 1) => {
                // Receive: a queued sender first.
                self.t[R].state = State::Waiting;
                if self.t[S].polls {
                    self.t[S].polls = false;
                    self.deliver(S, R);
                    self.receive(S);
                }
            }
            (S | R, _) => self.send(i, old),
            _ => self.call(i, old),
        }
    }
}

impl Histories for World {
    fn successors(&self) -> Vec<World> {
        let mut next = vec![];
        for old in [false, true] {
            for i in 0..4 {
                let t = &self.t[i];
                let at_home = t.cpu == t.home && t.state == State::Ready && t.steps_left > 0;
                if at_home {
                    let mut w = self.clone();
                    w.user(i, old);
                    next.push(w);
                }
                if t.waits {
                    let mut w = self.clone();
                    w.run_errand(i, old);
                    next.push(w);
                }
            }
            for cpu in 0..CPUS {
                if !self.mail[cpu].is_empty() {
                    let mut w = self.clone();
                    let i = w.mail[cpu].remove(0);
                    assert!(w.t[i].cpu == NOWHERE && usize::from(w.t[i].target) == cpu);
                    w.t[i].old = (NOWHERE, cpu as u16);
                    w.t[i].cpu = cpu as u16;
                    w.run_errand(i, old);
                    next.push(w);
                }
            }
        }
        next
    }

    fn check(&self) {
        for (i, t) in self.t.iter().enumerate() {
            let letters = self.mail.iter().flatten().filter(|&&l| l == i).count();
            assert_eq!(
                letters,
                usize::from(t.cpu == NOWHERE),
                "{i} in {letters} mailboxes: {self:?}"
            );
            assert!(!t.polls || (t.cpu == self.t[R].cpu && t.state == State::Polling), "{self:?}");
            assert!(t.got <= 1, "a message twice: {self:?}");
        }
    }

    fn check_end(&self) {
        assert!(self.t[M].result == Result::Ok && self.t[C].result == Result::Ok, "{self:?}");
        assert_eq!(self.t[self.victim].home, self.to);
        match self.t[S].result {
            Result::Ok => assert!(self.t[R].got == 1 && self.t[S].got == 1, "{self:?}"),
            Result::Canceled => assert_eq!(self.t[S].got, 0, "{self:?}"),
            other => panic!("the sender ends with {other:?}: {self:?}"),
        }
        if self.t[R].result == Result::NotReady {
            assert_eq!(self.t[S].result, Result::Canceled, "the answer found nobody: {self:?}");
        }
        for t in &self.t {
            assert!(t.cpu == t.home || t.state != State::Ready, "not at home: {self:?}");
        }
    }
}

fn starts(broken: Broken) -> Vec<World> {
    let mut all = vec![];
    for homes in [[0, 1, 2, 2], [0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 2], [0, 1, 2, 0]] {
        for victim in [S, R] {
            all.extend((0..CPUS as u16).map(|to| World::new(homes, victim, to, broken)));
        }
    }
    all
}

#[test]
fn sender_receiver_migrator_canceller() {
    let starts = starts(Broken::Nothing);
    let worlds = starts.len();
    let states: usize = starts.into_iter().map(explore).sum();
    println!("model sender, receiver, migrator, canceller: {worlds} starts, {states} states");
    assert!(states > 10_000, "only {states} states");
}

#[test]
fn what_is_broken_is_caught() {
    for what in [Broken::StaysBehind, Broken::ForgetsHome] {
        assert!(is_caught(starts(what)), "{what:?} is not caught");
    }
}
