//! A million random steps of threads that send, receive, time out, are cancelled, deleted and made again: every
//! step is one that the table allows, and who meets whom is what an oracle of plain sets says.

use super::meet::{Awaited, Identity, accepts};
use super::state::{Key, State};
use crate::testing::{Rng, rounds};
use std::collections::BTreeSet;

const THREADS: usize = 12;

/// What the rules under test know of a thread.
struct Thread {
    key: Key,
    identity: Identity,
    awaited: Awaited,
    /// Queue of those who poll for it, oldest first.
    queue: Vec<usize>,
    partner: usize,
}

/// What the oracle knows: whose messages the thread would take, as a set of numbers.
#[derive(Default)]
struct Wish(BTreeSet<usize>);

struct World {
    threads: Vec<Thread>,
    wishes: Vec<Wish>,
    versions: u64,
    meetings: usize,
}

impl World {
    fn new() -> Self {
        let thread = |n: usize| Thread {
            key: Key(Key::new(State::Absent, n as u16 % 3).0 | Key::LOADED),
            identity: Identity { global: 0, space: 1 + n as u64 % 3 },
            awaited: Awaited::NOBODY,
            queue: Vec::new(),
            partner: n,
        };
        let threads = (0..THREADS).map(thread).collect();
        let wishes = (0..THREADS).map(|_| Wish::default()).collect();
        Self { threads, wishes, versions: 0, meetings: 0 }
    }

    fn state(&self, n: usize) -> State {
        self.threads[n].key.state()
    }

    /// The only way to another state: the table must allow it, and nothing else of the key changes.
    fn become_(&mut self, n: usize, next: State) {
        let old = self.threads[n].key;
        assert!(old.state().may_become(next), "{:?} to {next:?}", old.state());
        let new = old.with_state(next);
        assert_eq!((new.cpu(), new.0 >> 32, new.state()), (old.cpu(), old.0 >> 32, next));
        self.threads[n].key = new;
    }

    fn send(&mut self, from: usize, to: usize) {
        let takes = self.takes(to, from);
        assert_eq!(takes, self.state(to) == State::Waiting && self.wishes[to].0.contains(&from));
        if takes {
            self.become_(to, State::Ready);
            self.wishes[to].0.clear();
            self.meetings += 1;
        } else {
            self.become_(from, State::Polling);
            self.threads[from].partner = to;
            self.threads[to].queue.push(from);
        }
    }

    fn takes(&self, receiver: usize, sender: usize) -> bool {
        let (r, s) = (&self.threads[receiver], &self.threads[sender]);
        r.key.state() == State::Waiting && accepts(r.awaited, r.identity.space, s.identity, None)
    }

    fn receive(&mut self, n: usize, rng: &mut Rng) {
        let other = rng.below(THREADS as u64) as usize;
        let space = self.threads[n].identity.space;
        let alive = |w: &Self, m: usize| m != n && w.state(m) != State::Absent;
        let (awaited, wish): (_, BTreeSet<usize>) = match rng.below(3) {
            0 => (Awaited::ANY, (0..THREADS).collect()),
            1 => {
                let local = |&m: &usize| self.threads[m].identity.space == space;
                (Awaited::ANY_LOCAL, (0..THREADS).filter(local).collect())
            }
            _ if alive(self, other) => {
                (Awaited(self.threads[other].identity.global), BTreeSet::from([other]))
            }
            _ => return,
        };
        self.become_(n, State::Waiting);
        self.threads[n].awaited = awaited;
        let first = self.threads[n].queue.iter().position(|&s| wish.contains(&s));
        self.wishes[n].0 = wish;
        let found = self.threads[n].queue.clone().into_iter().position(|s| self.takes(n, s));
        assert_eq!(found, first, "the oldest that is wanted");
        if let Some(at) = found {
            let sender = self.threads[n].queue.remove(at);
            self.become_(sender, State::Ready);
            self.become_(n, State::Ready);
            self.wishes[n].0.clear();
            self.meetings += 1;
        }
    }

    /// A timeout or a cancel.
    fn give_up(&mut self, n: usize) {
        if self.state(n) == State::Polling {
            let partner = self.threads[n].partner;
            self.threads[partner].queue.retain(|&s| s != n);
        }
        self.become_(n, State::Ready);
        self.wishes[n].0.clear();
    }

    fn delete(&mut self, n: usize) {
        if self.state(n) == State::Polling {
            self.give_up(n);
        }
        for sender in std::mem::take(&mut self.threads[n].queue) {
            self.become_(sender, State::Ready);
        }
        self.become_(n, State::Absent);
        self.threads[n].awaited = Awaited::NOBODY;
        self.wishes[n].0.clear();
        // Who waits for this thread alone waits for nobody now: its id does not come back.
        for wish in &mut self.wishes {
            if wish.0.len() == 1 {
                wish.0.remove(&n);
            }
        }
    }

    fn create(&mut self, n: usize) {
        self.versions += 1;
        self.threads[n].identity.global = (n as u64 + 1) << 32 | self.versions << 1 | 1;
        self.become_(n, State::Inactive);
        self.become_(n, State::Waiting);
        self.threads[n].awaited = Awaited::NOBODY;
    }

    fn step(&mut self, rng: &mut Rng) {
        let n = rng.below(THREADS as u64) as usize;
        let to = rng.below(THREADS as u64) as usize;
        match self.state(n) {
            State::Absent => self.create(n),
            _ if rng.below(64) == 0 => self.delete(n),
            State::Ready if rng.below(2) == 0 => self.receive(n, rng),
            State::Ready if to != n && self.state(to) != State::Absent => self.send(n, to),
            State::Waiting | State::Polling if rng.below(4) == 0 => self.give_up(n),
            _ => {}
        }
    }

    /// Nobody polls for somebody who would take it, and who polls is in exactly the one queue.
    fn verify(&self) {
        for n in 0..THREADS {
            for &sender in &self.threads[n].queue {
                assert_eq!((self.state(sender), self.threads[sender].partner), (State::Polling, n));
                assert!(!self.takes(n, sender), "a meeting was missed");
            }
            let queued: usize =
                self.threads.iter().map(|t| t.queue.iter().filter(|&&s| s == n).count()).sum();
            assert_eq!(queued, usize::from(self.state(n) == State::Polling));
        }
    }
}

#[test]
fn a_million_steps_against_plain_sets() {
    let (mut world, mut rng) = (World::new(), Rng::new(0x1DC5));
    let steps = rounds(1_000_000);
    for step in 0..steps {
        world.step(&mut rng);
        if step % 4 == 0 {
            world.verify();
        }
    }
    assert!(cfg!(miri) || world.meetings > steps / 50, "only {} meetings", world.meetings);
}
