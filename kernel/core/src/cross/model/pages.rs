//! Every history of the pages of control blocks: a thread that travels, moves its page, is deleted and made again, another
//! thread that gets its pages, CPUs that keep translations of the array as long as they like, and a seeker that goes after
//! the thread from CPU to CPU by its slot alone, as partners in a transfer do.
//!
//! Whether the seeker believes what a slot shows is decided by the kernel's own [`shows_past`], where it goes by [`place`] and
//! [`step`]. It looks at the id first and then, in a step of its own, at the key: meanwhile its CPU does nothing else, but others
//! do, and the translation that it used may be gone. In every state: nobody reads a page that was given back. When the
//! seeker acts, the thread is on its CPU; when it finds nobody, there was nobody. From every state it ends.

use super::{CPUS, Histories, explore, is_caught};
use crate::cross::{NOWHERE, Step, place, shows_past, step};
use crate::ipc::{Key, State};

/// Numbers of the thread, of another, of the seeker.
const N: u32 = 5;
const M: u32 = 6;
const SEEKER: u32 = 7;
const PAGES: usize = 3;
/// The page of nobody, which slots without a thread show.
const NOBODY: usize = PAGES;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Broken {
    Nothing,
    /// The seeker believes every slot.
    Believes,
    /// Pages are given back while CPUs have translations.
    FreesAtOnce,
    /// A page moves and nobody is told.
    MovesSilently,
    /// The page of nobody is all zero: its key says CPU 0.
    NobodyIsOfCpu0,
}

/// A page as a control block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Page {
    id: u64,
    cpu: u16,
    target: u16,
    /// Given back: it may be anything.
    free: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    broken: Broken,
    pages: [Page; PAGES + 1],
    /// What the slot of the thread shows whoever has no translation.
    slot: usize,
    /// What each CPU has cached of it.
    cached: [Option<usize>; CPUS],
    /// CPUs on which the thread has been.
    known: [bool; CPUS],
    /// Pages that every CPU may still see, kept for new threads or until all forget.
    kept: Vec<usize>,
    /// Pages of the other thread.
    of_other: Option<usize>,
    /// Where the seeker is, and where it is under way to.
    seeker: (u16, u16),
    /// It has seen the right number in the slot and not yet read the key.
    found: bool,
    done: bool,
    /// What the others may still do.
    travels: u8,
    deletions: u8,
}

impl World {
    fn new(start: u16, seeker: u16, cached: [Option<usize>; CPUS], broken: Broken) -> Self {
        let blank = Page { id: 0, cpu: 0, target: 0, free: false };
        let mut pages = [blank; PAGES + 1];
        pages[0] = Page { id: u64::from(N) << 32 | 1, cpu: start, target: start, free: false };
        let mut known = [false; CPUS];
        known[usize::from(start)] = true;
        Self {
            broken,
            pages,
            slot: 0,
            cached,
            known,
            kept: vec![1],
            of_other: None,
            seeker: (seeker, seeker),
            found: false,
            done: false,
            travels: 2,
            deletions: 1,
        }
    }

    fn thread(&self) -> Option<&Page> {
        (self.slot != NOBODY).then(|| &self.pages[self.slot])
    }

    /// CPU `cpu` reads the slot, by what it has cached if it has.
    fn shown(&mut self, cpu: u16) -> usize {
        let page = *self.cached[usize::from(cpu)].get_or_insert(self.slot);
        assert!(!self.pages[page].free, "a page that was given back is read: {self:?}");
        page
    }

    fn forget(&mut self, cpu: u16) {
        self.cached[usize::from(cpu)] = None;
    }

    /// The seeker, on CPU `here`, looks at the id in the slot.
    fn look(&mut self, here: u16) {
        let mut page = self.shown(here);
        if self.broken != Broken::Believes && shows_past(self.pages[page].id, N) {
            self.forget(here);
            page = self.shown(here);
        }
        if self.pages[page].id == 0 {
            // The kernel would find that it has no partner any more, wherever it looks.
            assert!(self.slot == NOBODY, "there is a thread: {self:?}");
            self.done = true;
            return;
        }
        self.found = true;
    }

    /// It reads the key and takes a step towards the thread.
    fn seek(&mut self, here: u16) {
        self.found = false;
        let page = self.shown(here);
        let target = self.pages[page].target;
        match step(place(self.key(page), target, here), SEEKER, N) {
            Step::Act => {
                let there = self.thread().map(|t| t.cpu);
                assert_eq!(there, Some(here), "another CPU's thread: {self:?}");
                self.done = true;
            }
            Step::Follow(to) => self.seeker = (NOWHERE, to),
            Step::Wait => {}
            Step::GiveUp => {
                assert_eq!(self.deletions, 0, "it was there all the time: {self:?}");
                self.done = true;
            }
        }
    }

    /// The key in a page.
    fn key(&self, page: usize) -> Key {
        let Page { id, cpu, .. } = self.pages[page];
        match page {
            NOBODY if self.broken == Broken::NobodyIsOfCpu0 => Key::new(State::Ready, 0),
            NOBODY => Key::ABSENT,
            _ if id == 0 => Key::new(State::Absent, cpu),
            _ => Key::new(State::Ready, cpu),
        }
    }

    fn depart(&mut self, to: u16) {
        let page = &mut self.pages[self.slot];
        (page.cpu, page.target) = (NOWHERE, to);
        self.travels -= 1;
    }

    /// The thread arrives; on another node its page is moved along.
    fn arrive(&mut self, moves: bool) {
        let here = self.pages[self.slot].target;
        if !self.known[usize::from(here)] {
            self.forget(here);
            self.known[usize::from(here)] = true;
        }
        assert!(self.shown(here) == self.slot, "its own CPU sees another page: {self:?}");
        self.pages[self.slot].cpu = here;
        if let Some(fresh) = moves.then(|| self.fresh()).flatten() {
            let old = std::mem::replace(&mut self.slot, fresh);
            self.pages[fresh] = self.pages[old];
            match self.broken {
                Broken::MovesSilently => self.forget(here),
                _ => self.cached = [None; CPUS],
            }
            // It keeps its id: after the shootdown nobody sees it any more.
            self.retire(old);
        }
    }

    /// A page of the pool, if there is one.
    fn fresh(&mut self) -> Option<usize> {
        let used =
            |p: &usize| self.slot == *p || self.of_other == Some(*p) || self.kept.contains(p);
        let page = (0..PAGES).find(|p| !used(p))?;
        self.pages[page].free = false;
        Some(page)
    }

    fn retire(&mut self, page: usize) {
        self.kept.push(page);
        if self.broken == Broken::FreesAtOnce {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        for page in std::mem::take(&mut self.kept) {
            self.pages[page].free = true;
        }
    }

    fn delete(&mut self) {
        let here = self.pages[self.slot].cpu;
        let page = std::mem::replace(&mut self.slot, NOBODY);
        self.forget(here);
        self.deletions -= 1;
        self.pages[page].id = 0;
        self.retire(page);
    }

    /// The other thread, or the thread again, is made on `cpu` of a page that was kept.
    fn make(&mut self, number: u32, cpu: u16) {
        let Some(page) = self.kept.pop() else { return };
        let id = u64::from(number) << 32 | 3;
        self.pages[page] = Page { id, cpu, target: cpu, free: false };
        if number == M {
            self.of_other = Some(page);
        } else {
            self.slot = page;
            self.forget(cpu);
            self.known = [false; CPUS];
            self.known[usize::from(cpu)] = true;
        }
    }
}

impl Histories for World {
    fn successors(&self) -> Vec<World> {
        let mut next = vec![];
        let mut add = |step: &dyn Fn(&mut World)| {
            let mut w = self.clone();
            step(&mut w);
            next.push(w);
        };
        if self.done {
            return vec![];
        }
        match self.seeker {
            (NOWHERE, to) => add(&|w| w.seeker = (to, to)),
            (here, _) if self.found => {
                add(&|w| w.seek(here));
                add(&|w| {
                    w.forget(here);
                    w.seek(here);
                });
            }
            (here, _) => add(&|w| w.look(here)),
        }
        // The seeker's CPU does nothing else between its two looks, and answers no request to forget.
        let busy = self.found.then_some(self.seeker.0);
        let cpus = (0..CPUS as u16).filter(|&cpu| Some(cpu) != busy);
        match self.thread().copied() {
            Some(t) if t.cpu == NOWHERE => {
                if Some(t.target) != busy {
                    add(&|w| w.arrive(false));
                }
                if busy.is_none() {
                    add(&|w| w.arrive(true));
                }
            }
            Some(t) if Some(t.cpu) != busy => {
                for to in (0..CPUS as u16).filter(|&to| to != t.cpu && self.travels > 0) {
                    add(&|w| w.depart(to));
                }
                if self.deletions > 0 {
                    add(&|w| w.delete());
                }
            }
            Some(_) => {}
            None => cpus.clone().for_each(|cpu| add(&|w| w.make(N, cpu))),
        }
        if self.of_other.is_none() && !self.kept.is_empty() {
            cpus.for_each(|cpu| add(&|w| w.make(M, cpu)));
        }
        // Every CPU forgets everything, and what was kept goes back.
        if !self.kept.is_empty() && self.broken != Broken::FreesAtOnce && busy.is_none() {
            add(&|w| {
                w.cached = [None; CPUS];
                w.give_back();
            });
        }
        next
    }

    fn check(&self) {
        let mut pages: Vec<usize> = self.kept.clone();
        pages.extend(self.of_other);
        pages.extend((self.slot != NOBODY).then_some(self.slot));
        let all = pages.len();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), all, "a page is two things: {self:?}");
    }

    fn check_end(&self) {
        assert!(self.done, "{self:?}");
    }
}

/// Machines in which CPUs have, or have not, seen the thread before.
fn starts(broken: Broken) -> Vec<World> {
    let mut all = vec![];
    for (start, seeker) in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1)] {
        for bits in 0..8u8 {
            let cached = [0, 1, 2].map(|cpu| (bits >> cpu & 1 != 0).then_some(0));
            all.push(World::new(start, seeker, cached, broken));
        }
    }
    all
}

#[test]
fn pages_that_move_die_and_come_back() {
    let starts = starts(Broken::Nothing);
    let worlds = starts.len();
    let states: usize = starts.into_iter().map(explore).sum();
    println!("model pages of control blocks: {worlds} starts, {states} states");
    assert!(states > 10_000, "only {states} states");
}

#[test]
fn what_is_broken_is_caught() {
    let all =
        [Broken::Believes, Broken::FreesAtOnce, Broken::MovesSilently, Broken::NobodyIsOfCpu0];
    for what in all {
        assert!(is_caught(starts(what)), "{what:?} is not caught");
    }
}
