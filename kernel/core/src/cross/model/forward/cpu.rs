//! A CPU in one step: what the kernel does around the rules of `cross::propagate`. Functions have the names of the kernel's.

use super::{Action, Broken, C, D, Errand, F, Fate, Id, Op, Thread, World, X};
use crate::cross::propagate::{At, Cpu, Wait, change_wait};
use crate::cross::{NOWHERE, Step, place, step};
use crate::ipc::{Key, State};

/// A CPU in one step. Between its reads, before number `at`, another one does a step of its own.
pub(super) struct On<'a> {
    pub(super) w: &'a mut World,
    pub(super) here: u16,
    pub(super) reads: u8,
    pub(super) at: u8,
    pub(super) other: Option<(u16, Action)>,
    /// The client and the server of the forwarder, as it has looked them up.
    pub(super) ids: [Id; 2],
}

impl Cpu for On<'_> {
    fn waited_for_me(&mut self) -> bool {
        self.read();
        let c = self.w.t[self.ids[0].0];
        let mine = c.awaited == Some((F, self.w.t[F].version));
        let waits = matches!(c.state, State::Waiting | State::Remote);
        mine && (waits || self.w.broken != Broken::AsksTheState)
    }

    fn approach(&mut self) -> At {
        if self.w.broken == Broken::StaysAway {
            return At::Client;
        }
        self.reach(F, self.ids[0].0, Errand::Call)
    }

    fn wait(&mut self) -> Wait {
        let c = self.w.t[self.ids[0].0];
        let mine = c.awaited == Some((F, self.w.t[F].version)) && c.version == self.ids[0].1;
        if mine && c.state == State::Waiting { Wait::Waits } else { Wait::No }
    }

    fn change(&mut self, _wait: Wait) {
        let client = self.ids[0].0;
        assert_eq!(self.w.t[client].cpu, self.here, "changed by another CPU: {:?}", self.w);
        let server = self.again(self.ids[1]);
        assert_eq!(server, self.ids[1], "it waits for somebody else: {:?}", self.w);
        self.w.t[client].awaited = Some(server);
    }
}

impl On<'_> {
    /// Something of a thread of another CPU is about to be read.
    fn read(&mut self) {
        if self.reads == self.at
            && let Some((cpu, action)) = self.other.take()
        {
            self.w.act(cpu, action, 0, None);
        }
        self.reads += 1;
    }

    /// An id that was looked up; from its slot once more, if that is broken.
    fn again(&mut self, id: Id) -> Id {
        if self.w.broken != Broken::ReadsIdsAgain {
            return id;
        }
        self.read();
        (id.0, self.w.t[id.0].version)
    }

    fn exists(&mut self, id: Id) -> bool {
        self.read();
        self.w.t[id.0].version == id.1
    }

    pub(super) fn set_state(&mut self, i: usize, state: State) {
        let t = &mut self.w.t[i];
        assert!(t.cpu == self.here, "{i} is changed by another CPU");
        assert!(t.state == state || t.state.may_become(state), "{i}: {:?} to {state:?}", t.state);
        t.state = state;
    }

    fn depart(&mut self, i: usize, to: u16, errand: Errand) {
        let t = &mut self.w.t[i];
        assert!(t.cpu == self.here && to != self.here, "{i} sent to {to}: {t:?}");
        assert!(!t.waits && t.polls.is_none(), "{i} leaves a queue: {t:?}");
        (t.cpu, t.target, t.errand) = (NOWHERE, to, errand);
        self.w.mail[usize::from(to)].push(i);
        for s in [C, F, D] {
            if self.w.t[s].polls == Some(i) {
                self.w.t[s].polls = None;
                self.set_state(s, State::Remote);
                let id = (i, self.w.t[i].version);
                self.depart(s, to, Errand::Send(id));
            }
        }
    }

    fn reach(&mut self, me: usize, other: usize, errand: Errand) -> At {
        self.read();
        let cpu = self.w.t[other].cpu;
        self.read();
        let target = self.w.t[other].target;
        match step(place(Key::new(State::Ready, cpu), target, self.here), me as u32, other as u32) {
            Step::Act => return At::Client,
            Step::GiveUp => return At::Nobody,
            Step::Follow(to) => {
                self.set_state(me, State::Remote);
                self.depart(me, to, errand);
            }
            Step::Wait => {
                self.set_state(me, State::Remote);
                let t = &mut self.w.t[me];
                (t.errand, t.waits) = (errand, true);
            }
        }
        At::NotYet
    }

    fn wake(&mut self, i: usize) {
        self.set_state(i, State::Ready);
        let t = self.w.t[i];
        if t.home != self.here {
            self.depart(i, t.home, Errand::Home);
        }
    }

    fn finish(&mut self, i: usize, fate: Fate) {
        let t = &mut self.w.t[i];
        (t.fate, t.polls) = (fate, None);
        self.wake(i);
    }

    pub(super) fn run_errand(&mut self, i: usize) {
        self.w.t[i].waits = false;
        match self.w.t[i].errand {
            Errand::Home if self.w.t[i].state == State::Ready => self.wake(i),
            Errand::Home => {}
            Errand::Send(dest) => self.send(i, dest),
            Errand::Receive => {
                self.set_state(i, State::Ready);
                self.w.midst[usize::from(self.here)] = Some(i);
            }
            Errand::Call => {
                self.set_state(i, State::Ready);
                if i == X { self.intervene() } else { self.forward() }
            }
        }
    }

    fn send(&mut self, me: usize, dest: Id) {
        if !self.exists(dest) {
            return self.finish(me, Fate::NoPartner);
        }
        match self.reach(me, dest.0, Errand::Send(dest)) {
            At::Client => {}
            At::Nobody => return self.finish(me, Fate::NoPartner),
            At::NotYet => return,
        }
        let d = self.w.t[dest.0];
        // Whoever is here was found by its id: nobody else can have come since.
        assert_eq!(d.version, dest.1, "another thread: {:?}", self.w);
        if d.state == State::Waiting && self.takes(dest.0, me) {
            self.deliver(me, dest.0);
        } else if dest.0 == C {
            // An answer does not wait.
            self.finish(me, Fate::NotReady);
        } else {
            self.set_state(me, State::Polling);
            self.w.t[me].polls = Some(dest.0);
        }
    }

    fn takes(&self, receiver: usize, sender: usize) -> bool {
        let s = self.w.t[sender];
        let awaited = self.w.t[receiver].awaited;
        let speaks_for = s.speaks_for.filter(|v| self.w.t[v.0].version == v.1);
        awaited.is_none_or(|id| id == (sender, s.version) || speaks_for == Some(id))
    }

    fn deliver(&mut self, from: usize, to: usize) {
        self.finish(to, Fate::Ok);
        self.w.t[from].polls = None;
        match from {
            C => self.receive_from_forwarder(),
            _ => self.finish(from, Fate::Ok),
        }
    }

    /// The client's receive phase: where the forwarder lives, or at home.
    fn receive_from_forwarder(&mut self) {
        let f = self.w.t[F];
        self.w.t[C].awaited = Some((F, 0));
        if self.here != self.w.t[C].home && (f.cpu != self.here || f.home != self.here) {
            self.set_state(C, State::Remote);
            return self.depart(C, self.w.t[C].home, Errand::Receive);
        }
        self.set_state(C, State::Waiting);
    }

    fn receive(&mut self, i: usize) {
        self.w.t[i].awaited = None;
        self.set_state(i, State::Waiting);
        if let Some(s) = (0..4).find(|&s| self.w.t[s].polls == Some(i)) {
            self.deliver(s, i);
        }
    }

    /// The forwarder sends on to the server, in the client's name.
    fn forward(&mut self) {
        self.ids = [(C, 0), (D, 0)];
        if !self.exists(self.ids[1]) {
            return self.finish(F, Fate::NoPartner);
        }
        self.w.t[F].speaks_for = None;
        if self.exists(self.ids[0]) {
            if !change_wait(self) {
                return;
            }
            let client = self.again(self.ids[0]);
            assert_eq!(client, self.ids[0], "it speaks for somebody else: {:?}", self.w);
            self.w.t[F].speaks_for = Some(client);
        }
        self.send(F, self.ids[1]);
    }

    pub(super) fn user(&mut self, i: usize) {
        let t = &mut self.w.t[i];
        let (at, fate) = (t.step, t.fate);
        t.step += 1;
        t.fate = Fate::Open;
        t.speaks_for = None;
        match (i, at) {
            // A thread that is new in the client's place waits for the forwarder, too.
            (C, _) if self.w.t[C].version > 0 => self.receive_from_forwarder(),
            (C, 0) => self.send(C, (F, 0)),
            (F | D, 0) if self.w.t[i].version == 0 => self.receive(i),
            (F, 1) => self.forward(),
            (F, 2) if fate != Fate::Ok => {
                // It answers itself, in the name of whom the client may wait for.
                self.w.t[F].speaks_for = Some((D, 0));
                self.send(F, (C, 0));
            }
            (D, 1) => self.send(D, (C, 0)),
            (X, _) => self.intervene(),
            _ => self.w.t[i].fate = fate,
        }
    }

    fn intervene(&mut self) {
        let Some(op) = self.w.ops[usize::from(self.w.t[X].step) - 1] else { return };
        let (Op::Cancel(i) | Op::Move(i, _) | Op::Replace(i)) = op;
        match self.reach(X, i, Errand::Call) {
            At::Client => {}
            At::Nobody => return self.wake(X),
            At::NotYet => return,
        }
        match op {
            Op::Cancel(_) => self.cancel(i),
            Op::Move(_, to) => self.migrate(i, to),
            Op::Replace(_) => self.replace(i),
        }
        self.wake(X);
    }

    fn cancel(&mut self, i: usize) {
        let t = self.w.t[i];
        let sends = t.state == State::Remote && matches!(t.errand, Errand::Send(_));
        if sends || matches!(t.state, State::Polling | State::Waiting) {
            self.w.t[i].waits = false;
            self.finish(i, Fate::Canceled);
        }
    }

    fn migrate(&mut self, i: usize, to: u16) {
        let t = &mut self.w.t[i];
        let visits = t.cpu != t.home;
        t.home = to;
        if visits || t.cpu == to || matches!(t.state, State::Polling | State::Remote) {
            return;
        }
        self.depart(i, to, Errand::Home);
    }

    fn replace(&mut self, i: usize) {
        for s in [C, F, D] {
            if self.w.t[s].polls == Some(i) {
                self.finish(s, Fate::NoPartner);
            }
        }
        let fresh = World::thread(self.here);
        self.w.t[i] = Thread { version: 1, ..fresh };
    }
}
