//! A CPU in one step: what the kernel does around the rules of `cross::transfer`. Functions have the names of the kernel's.

use super::{Broken, Errand, Fate, Op, R, S, Thread, World, X};
use crate::cross::transfer::{self, Cpu, Ending, Go, View};
use crate::cross::{NOWHERE, Step, place, step};
use crate::ipc::{Key, State};

/// The partner of a thread that is queued at its pager.
const PAGER: usize = 9;

pub(super) struct On<'a> {
    pub(super) w: &'a mut World,
    pub(super) here: u16,
    /// What it reads of threads that it does not own is one step old.
    pub(super) old: bool,
}

impl Cpu for On<'_> {
    type Thread = usize;
    type End = Fate;

    fn look(&self, i: usize) -> View<usize> {
        let t = &self.w.t[i];
        View {
            state: t.state,
            here: t.cpu == self.here,
            at_home: t.cpu == self.here && t.home == self.here,
            kernel_ipc: t.kernel_ipc,
            outer: t.outer,
            seeks: matches!(t.errand, Errand::Travel(Go::Resume(_) | Go::Fetch)),
            partner: t.partner,
        }
    }

    fn set_state(&mut self, i: usize, state: State) {
        let t = &mut self.w.t[i];
        assert!(
            t.cpu == self.here && !t.other,
            "{i} is changed by another CPU, or is another thread"
        );
        assert!(
            t.state == state || t.state != State::Absent && t.state.may_become(state),
            "{i}: {:?} to {state:?}",
            t.state
        );
        t.state = state;
    }

    fn reach(&mut self, me: usize, other: usize, go: Go<usize, Fate>) -> bool {
        self.reach_for(me, other, Errand::Travel(go))
    }

    fn send_home(&mut self, i: usize, whose: usize, go: Go<usize, Fate>) {
        self.depart(i, self.w.t[whose].home, Errand::Travel(go));
    }

    fn wait(&mut self, i: usize, go: Go<usize, Fate>) {
        self.wait_a_moment(i, Errand::Travel(go));
    }

    fn interrupt(&mut self, i: usize) {
        let state = match self.w.t[i].errand {
            Errand::Send => State::Polling,
            Errand::Travel(Go::Resume(state)) => state,
            Errand::Travel(Go::Fetch) => State::Receiving,
            _ => return,
        };
        self.w.t[i].waits = false;
        self.set_state(i, state);
    }

    fn go_on(&mut self, dest: usize) {
        self.w.t[dest].work = true;
        self.enqueue(dest);
    }

    fn enqueue(&mut self, i: usize) {
        let t = &self.w.t[i];
        let leaves = matches!(t.state, State::Ready | State::Receiving) && t.cpu == self.here;
        if t.home != self.here && leaves {
            self.depart(i, t.home, Errand::Home);
        }
    }

    fn settle(&mut self, _visitor: usize) {}

    fn visit(&mut self, _visitor: usize) {}

    fn finish(&mut self, i: usize, _partner: usize, end: Fate) {
        assert_ne!(self.w.t[i].state, State::Absent, "{i} is deleted");
        if self.w.t[i].state == State::Remote {
            self.interrupt(i);
        }
        if i == R {
            self.w.timed = false;
        }
        let t = &mut self.w.t[i];
        (t.work, t.clock, t.partner) = (false, false, None);
        (t.kernel_ipc, t.outer, t.at_pager) = (false, None, false);
        t.fate = end;
        self.set_state(i, State::Ready);
    }
}

impl On<'_> {
    fn t(&mut self, i: usize) -> &mut Thread {
        &mut self.w.t[i]
    }

    fn is(&self, what: Broken) -> bool {
        self.w.set.broken == what
    }

    fn depart(&mut self, i: usize, to: u16, errand: Errand) {
        let here = self.here;
        let t = self.t(i);
        assert!(
            t.cpu == here && to != here && !t.other,
            "{i} sent from {} by {here} to {to}",
            t.cpu
        );
        let tied = t.waits || t.at_pager;
        assert!(!tied, "{i} leaves while it looks or is queued: {:?}", self.w);
        let t = self.t(i);
        t.old = (t.cpu, t.target);
        (t.cpu, t.target, t.errand) = (NOWHERE, to, errand);
        self.w.mail[usize::from(to)].push(i);
        if i == R && self.t(S).polls {
            self.t(S).polls = false;
            self.t(S).partner = None;
            self.set_state(S, State::Remote);
            self.depart(S, to, Errand::Send);
        }
    }

    fn reach_for(&mut self, me: usize, other: usize, errand: Errand) -> bool {
        let (here, o) = (self.here, &self.w.t[other]);
        let now = match o.state {
            State::Absent => (Key::ABSENT, 0),
            _ => (Key::new(State::Ready, o.cpu), o.target),
        };
        let old = (Key::new(State::Ready, o.old.0), o.old.1);
        let (key, target) =
            if self.old && now.0.cpu() != here && o.old.0 != here { old } else { now };
        match step(place(key, target, here), me as u32, other as u32) {
            Step::Act | Step::GiveUp => return true,
            Step::Follow(to) => {
                self.set_state(me, State::Remote);
                self.depart(me, to, errand);
            }
            Step::Wait => self.wait_a_moment(me, errand),
        }
        false
    }

    fn wait_a_moment(&mut self, me: usize, errand: Errand) {
        self.set_state(me, State::Remote);
        let t = self.t(me);
        (t.errand, t.waits) = (errand, true);
    }

    fn fail(&mut self, i: usize, fate: Fate) {
        let t = self.t(i);
        (t.fate, t.clock, t.partner, t.polls) = (fate, false, None, false);
        self.set_state(i, State::Ready);
        self.enqueue(i);
    }

    /// The first thread in the mailbox comes in.
    pub(super) fn arrival(&mut self) {
        let i = self.w.mail[usize::from(self.here)].remove(0);
        let here = self.here;
        let t = self.t(i);
        assert!(t.cpu == NOWHERE && t.target == here);
        t.old = (NOWHERE, here);
        t.cpu = here;
        self.run_errand(i);
    }

    pub(super) fn run_errand(&mut self, i: usize) {
        self.t(i).waits = false;
        match self.w.t[i].errand {
            Errand::Home | Errand::Travel(Go::Home) => {
                let t = self.w.t[i];
                if t.state == State::Ready && !t.halted || t.state == State::Receiving && t.work {
                    self.enqueue(i);
                }
            }
            Errand::Send if self.w.t[i].kernel_ipc => self.at_pager(i),
            Errand::Send => self.send(),
            Errand::Call => {
                self.set_state(X, State::Ready);
                self.call();
            }
            Errand::Travel(Go::Resume(state)) => {
                self.set_state(i, state);
                transfer::resume(self, i);
            }
            Errand::Travel(Go::Fetch) => {
                self.set_state(i, State::Receiving);
                transfer::fetch(self, i);
            }
            Errand::Travel(Go::End(partner, end)) => transfer::end_partner(self, i, partner, end),
        }
    }

    pub(super) fn user(&mut self, i: usize) {
        self.t(i).steps_left -= 1;
        self.t(i).fate = Fate::Open;
        match i {
            S => self.send(),
            R => self.receive(),
            _ => self.call(),
        }
    }

    fn send(&mut self) {
        if self.w.t[R].state == State::Absent || self.w.t[R].other {
            return self.fail(S, Fate::NoPartner);
        }
        if !self.reach_for(S, R, Errand::Send) {
            return;
        }
        self.t(S).clock = false;
        let dest = self.w.t[R];
        if dest.state != State::Waiting || dest.kernel_ipc {
            self.set_state(S, State::Polling);
            let timed = self.w.set.timeouts[0];
            let t = self.t(S);
            (t.polls, t.partner, t.clock) = (true, Some(R), timed);
        } else if dest.home != self.here {
            // Strings are copied where the receiver lives.
            self.depart(R, dest.home, Errand::Home);
            self.set_state(S, State::Remote);
            self.depart(S, dest.home, Errand::Send);
        } else {
            self.begin();
        }
    }

    fn receive(&mut self) {
        self.set_state(R, State::Waiting);
        if self.w.t[S].polls {
            let t = self.t(S);
            (t.polls, t.partner, t.clock) = (false, None, false);
            self.begin();
        } else {
            self.t(R).clock = self.w.set.timeouts[1];
        }
    }

    fn begin(&mut self) {
        self.t(R).clock = false;
        self.w.timed = false;
        self.items();
    }

    /// The transfer goes on in the receiver's name.
    pub(super) fn work(&mut self, i: usize) {
        self.t(i).work = false;
        assert_eq!(self.w.t[i].partner, Some(S), "{:?}", self.w);
        self.items();
    }

    fn items(&mut self) {
        let [s, r, _] = self.w.t;
        let here = self.here;
        assert!(s.cpu == here && r.cpu == here && r.home == here, "copied elsewhere: {:?}", self.w);
        if let Some(side) = [S, R].into_iter().find(|&i| self.w.faults[i] > 0) {
            self.w.faults[side] -= 1;
            return self.fault(side);
        }
        let keeps = self.is(Broken::ClockRunsOn);
        self.t(R).got += 1;
        for i in [R, S] {
            self.set_state(i, State::Ready);
            let t = self.t(i);
            (t.fate, t.partner, t.clock) = (Fate::Ok, None, t.clock && keeps);
        }
        self.enqueue(S);
        self.enqueue(R);
    }

    fn fault(&mut self, side: usize) {
        if !std::mem::replace(&mut self.w.timed, true) {
            self.t(R).clock = self.w.set.timeouts[2];
        }
        self.set_state(S, State::Sending);
        self.set_state(R, State::Receiving);
        self.t(S).partner = Some(R);
        self.t(R).partner = Some(S);
        let pager = self.w.set.pagers[side];
        let t = self.t(side);
        t.outer = Some((t.state, t.partner));
        t.kernel_ipc = true;
        t.partner = None;
        if pager == self.here {
            self.at_pager(side);
        } else {
            self.set_state(side, State::Remote);
            self.depart(side, pager, Errand::Send);
        }
    }

    /// The fault message of `i` has come to its pager.
    fn at_pager(&mut self, i: usize) {
        assert_eq!(self.here, self.w.set.pagers[i]);
        let busy = self.w.set.busy;
        self.set_state(i, if busy { State::Polling } else { State::Waiting });
        let t = self.t(i);
        (t.at_pager, t.partner) = (busy, busy.then_some(PAGER));
    }

    pub(super) fn taken_by_pager(&mut self, i: usize) {
        self.set_state(i, State::Waiting);
        let t = self.t(i);
        (t.at_pager, t.partner) = (false, None);
    }

    /// The page is there.
    pub(super) fn answered(&mut self, i: usize) {
        if self.is(Broken::AnswerStopsClock) {
            self.t(i).clock = false;
        }
        self.set_state(i, State::Ready);
        let t = self.t(i);
        t.kernel_ipc = false;
        let Some((state, partner)) = t.outer.take() else { panic!("{i} had no fault") };
        t.partner = partner;
        self.set_state(i, state);
        transfer::resume(self, i);
    }

    pub(super) fn expired(&mut self, i: usize) {
        self.t(i).clock = false;
        let t = self.w.t[i];
        assert_ne!(t.state, State::Remote, "{:?}", self.w);
        let receives = t.outer.is_some_and(|(state, _)| state == State::Receiving);
        if matches!(t.state, State::Sending | State::Receiving) || receives {
            assert_eq!(i, R, "the clock is the receiver's");
            return self.end(Fate::TransferTimeout);
        }
        assert!(!t.kernel_ipc && matches!(t.state, State::Polling | State::Waiting));
        self.fail(i, Fate::Timeout);
    }

    fn end(&mut self, fate: Fate) {
        if self.is(Broken::TellsNobody) {
            for i in [S, R] {
                if self.w.t[i].cpu == self.here {
                    self.finish(i, S + R - i, fate);
                    self.enqueue(i);
                }
            }
            return;
        }
        transfer::end(self, S, R, (fate, fate));
    }

    fn call(&mut self) {
        let op = self.w.set.ops[self.done_ops()];
        let victim = match op {
            Op::Cancel(i) | Op::Delete(i) | Op::Replace(i) | Op::Move(i, _) => i,
            Op::Nothing => return,
        };
        // Its own calls name a thread by id: one that is deleted is not found.
        if self.w.t[victim].state != State::Absent && !self.w.t[victim].other {
            if !self.reach_for(X, victim, Errand::Call) {
                return;
            }
            match op {
                Op::Cancel(_) => self.abort(victim),
                Op::Move(_, to) => self.migrate(victim, to),
                _ if !self.delete(victim) => return,
                Op::Replace(_) => self.make(victim),
                _ => {}
            }
        }
        self.enqueue(X);
    }

    /// Calls that are behind the third thread, without the present one.
    fn done_ops(&self) -> usize {
        let all = self.w.set.ops.iter().filter(|&&op| op != Op::Nothing).count();
        all - usize::from(self.w.t[X].steps_left) - 1
    }

    fn abort(&mut self, i: usize) {
        match transfer::abort(self, i, true, true) {
            Ending::Nothing => {}
            Ending::Send | Ending::Receive => self.fail(i, Fate::Canceled),
            Ending::Transfer(sender, dest) => {
                assert_eq!((sender, dest), (S, R));
                self.end(Fate::Aborted);
            }
            Ending::Message => unreachable!("all faults are in the transfer"),
        }
    }

    /// False if the third thread must come back for it.
    fn delete(&mut self, i: usize) -> bool {
        if !self.is(Broken::DeletesAtOnce) {
            if transfer::partner_elsewhere(self, i).is_some() {
                self.t(i).halted = true;
                self.abort(i);
            }
            let t = self.w.t[i];
            let tells = t.state == State::Remote && matches!(t.errand, Errand::Travel(Go::End(..)));
            if t.cpu != self.here && !self.reach_for(X, i, Errand::Call) {
                return false;
            }
            if tells {
                self.wait_a_moment(X, Errand::Call);
                return false;
            }
        }
        let here = self.here;
        self.t(i).home = here;
        self.abort(i);
        assert_eq!(self.w.t[i].cpu, here, "it left while it was deleted: {:?}", self.w);
        if i == R && self.w.t[S].polls {
            self.fail(S, Fate::NoPartner);
        }
        let t = self.t(i);
        (t.state, t.clock, t.waits, t.work, t.polls) = (State::Absent, false, false, false, false);
        (t.partner, t.at_pager) = (None, false);
        t.fate = Fate::Deleted;
        true
    }

    /// Another thread gets the number of deleted `i`.
    fn make(&mut self, i: usize) {
        let here = self.here;
        let t = self.t(i);
        (t.state, t.other, t.steps_left) = (State::Ready, true, 0);
        (t.cpu, t.target, t.home, t.old) = (here, here, here, (here, here));
        (t.kernel_ipc, t.outer, t.halted) = (false, None, false);
        t.errand = Errand::Home;
    }

    fn migrate(&mut self, i: usize, to: u16) {
        let t = self.w.t[i];
        if t.home == to {
            return;
        }
        self.t(i).home = to;
        let alone = t.state == State::Receiving && self.is(Broken::TakesSenderAlong);
        if alone && t.cpu == t.home && self.w.t[S].cpu == self.here {
            self.depart(S, to, Errand::Home);
        }
        transfer::moved(self, i, t.cpu != t.home);
    }
}
