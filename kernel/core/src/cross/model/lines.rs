//! Every history of an interrupt line: a device, two handlers on two of three CPUs, and whatever two of these do at any moment:
//! attach either handler, detach, delete or move a handler. The line is the kernel's own [`Line`].
//!
//! A CPU does its steps one after the other, all CPUs between each other's. An interrupt that the device has sent stays with its CPU
//! until that looks, however the line was masked or routed since.
//!
//! In every state: an interrupt is received by the line's present handler only, and one that was delivered is in that one's hands. At every end: what the device wanted after the
//! last attachment was received, its line is open for the next one, and the device is masked if nobody handles it.

use std::cell::Cell;
use std::hash::{Hash, Hasher};

use super::{CPUS, Histories, explore, is_caught};
use crate::cross::NOWHERE;
use crate::cross::line::Line;
use crate::cross::mailbox::Word;

/// A word of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bits(Cell<u64>);

impl Hash for Bits {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

impl Word for Bits {
    fn load(&self) -> u64 {
        self.0.get()
    }
    fn store(&self, value: u64) {
        self.0.set(value);
    }
    fn swap(&self, value: u64) -> u64 {
        self.0.replace(value)
    }
    fn exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        if self.load() != old {
            return Err(self.load());
        }
        Ok(self.swap(new))
    }
    fn set_bits(&self, bits: u64) -> u64 {
        self.swap(self.load() | bits)
    }
    fn clear_bits(&self, bits: u64) -> u64 {
        self.swap(self.load() & !bits)
    }
    fn subtract(&self, value: u64) -> u64 {
        self.swap(self.load() - value)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Broken {
    Nothing,
    /// The device is settled by what the line said before its lock was had.
    SettlesByThePast,
    /// Whoever comes with an interrupt notes it, and the line does not know.
    NotesUntaken,
    /// A note stands whatever became of the line.
    NotesStand,
    /// An acknowledgement counts for what was not received yet.
    AcknowledgesNotes,
    /// A handler that moved routes a line that is not its own any more.
    RoutesAnyLine,
}

/// What a third thread does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Op {
    Attach(usize),
    /// On this CPU.
    Detach(u16),
    Delete(usize),
    Move(usize, u16),
}

/// A step that a CPU is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Todo {
    Store(usize),
    Clear,
    Gone(usize),
    Dies(usize),
    /// By the line's word of the moment, or by one of the past.
    Settle(Option<bool>),
    Route(usize),
    /// The attachment is complete.
    Attached,
    Fire,
    Handle,
    Depart(usize, u16),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Handler {
    alive: bool,
    cpu: u16,
    target: u16,
    home: u16,
    noted: bool,
    /// It has received an interrupt.
    serves: bool,
    /// An acknowledgement out of turn that it may still send.
    spare: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    broken: Broken,
    level: bool,
    line: Line<Bits>,
    masked: bool,
    route: u16,
    /// The device asserts the line (level), or will send so many edges.
    asserted: bool,
    raises: u8,
    /// Interrupts at CPUs; lines passed on to them.
    arrived: [bool; CPUS],
    passed: [bool; CPUS],
    todo: [Vec<Todo>; CPUS],
    h: [Handler; 2],
    ops: Vec<Op>,
    /// The handler, since its attachment was complete.
    attached: Option<usize>,
    complete: bool,
    /// The device wanted something since, which nobody has received.
    owed: bool,
}

fn id(h: usize) -> u64 {
    (h as u64 + 5) << 32 | 1
}

impl World {
    fn new(level: bool, cpus: [u16; 2], ops: &[Op], raises: u8, broken: Broken) -> Self {
        let handler = |cpu| Handler {
            alive: true,
            cpu,
            target: cpu,
            home: cpu,
            noted: false,
            serves: false,
            spare: true,
        };
        let line = Line::new(Bits(Cell::new(0)));
        line.attach(id(0), level);
        Self {
            broken,
            level,
            line,
            masked: false,
            route: cpus[0],
            asserted: false,
            raises,
            arrived: [false; CPUS],
            passed: [false; CPUS],
            todo: [vec![], vec![], vec![]],
            h: cpus.map(handler),
            ops: ops.to_vec(),
            attached: Some(0),
            complete: true,
            owed: false,
        }
    }

    fn is(&self, what: Broken) -> bool {
        self.broken == what
    }

    fn settle(&self) -> Todo {
        Todo::Settle(self.is(Broken::SettlesByThePast).then(|| self.line.is_masked()))
    }

    /// The device raises its line.
    fn raise(&mut self) {
        self.raises -= 1;
        self.asserted = self.level;
        self.owed |= self.complete && self.attached.is_some();
        if !self.level && !self.masked {
            self.arrived[usize::from(self.route)] = true;
        }
    }

    /// An operation begins on the CPU where it is done, if that can be now.
    fn begin(&mut self, op: Op) -> bool {
        let (cpu, steps) = match op {
            Op::Attach(h) if !self.h[h].alive => return true,
            Op::Attach(h) => (self.h[h].cpu, vec![Todo::Store(h)]),
            Op::Detach(cpu) => (cpu, vec![Todo::Clear]),
            Op::Delete(h) if !self.h[h].alive => return true,
            Op::Delete(h) => (self.h[h].cpu, vec![Todo::Gone(h), Todo::Dies(h)]),
            Op::Move(h, to) => {
                if !self.h[h].alive || self.h[h].cpu == to {
                    return true;
                }
                (self.h[h].cpu, vec![Todo::Route(h), Todo::Depart(h, to)])
            }
        };
        if cpu == NOWHERE || !self.todo[usize::from(cpu)].is_empty() {
            return false;
        }
        if let Op::Move(h, to) = op {
            self.h[h].home = to;
        }
        self.todo[usize::from(cpu)] = steps;
        true
    }

    fn step(&mut self, cpu: usize) {
        let todo = self.todo[cpu].remove(0);
        let mut then = vec![];
        match todo {
            Todo::Store(h) => {
                self.line.attach(id(h), self.level);
                (self.attached, self.complete, self.owed) = (Some(h), false, false);
                then = vec![Todo::Route(h), self.settle(), Todo::Attached];
            }
            Todo::Clear => {
                self.line.detach();
                (self.attached, self.owed) = (None, false);
                then = vec![self.settle()];
            }
            Todo::Gone(h) => {
                if self.line.handler_gone(id(h)) {
                    (self.attached, self.owed) = (None, false);
                    then = vec![self.settle()];
                }
            }
            Todo::Dies(h) => self.h[h].alive = false,
            Todo::Settle(past) => self.masked = past.unwrap_or_else(|| self.line.is_masked()),
            Todo::Route(h) => {
                if self.line.handler() == id(h) || self.is(Broken::RoutesAnyLine) {
                    self.route = self.h[h].home;
                }
            }
            Todo::Attached => self.complete = true,
            Todo::Fire => {
                let fired = self.line.fire();
                then.extend(fired.settle.then(|| self.settle()));
                then.extend(fired.deliver.then_some(Todo::Handle));
            }
            Todo::Handle => self.handle(cpu),
            Todo::Depart(h, to) => (self.h[h].cpu, self.h[h].target) = (NOWHERE, to),
        }
        then.append(&mut self.todo[cpu]);
        self.todo[cpu] = then;
    }

    /// An interrupt that is under way has come to this CPU.
    fn handle(&mut self, cpu: usize) {
        let Some(h) = (0..2).find(|&h| self.h[h].alive && self.line.handler() == id(h)) else {
            return;
        };
        match self.h[h].cpu {
            NOWHERE => self.passed[usize::from(self.h[h].target)] = true,
            at if usize::from(at) != cpu => self.passed[usize::from(at)] = true,
            _ => self.h[h].noted |= self.is(Broken::NotesUntaken) || self.line.take(id(h)),
        }
    }

    fn receive(&mut self, h: usize) {
        self.h[h].noted = false;
        if self.line.stands(id(h)) || self.is(Broken::NotesStand) {
            assert!(self.attached == Some(h), "an interrupt of a line that it lost: {self:?}");
            self.h[h].serves = true;
        }
    }

    /// The handler does what the device wants, then acknowledges.
    fn serve(&mut self, h: usize) {
        // A former handler has what a level wanted, too: the device has let go.
        if self.attached == Some(h) || self.level {
            self.owed = false;
        }
        self.asserted = false;
        self.h[h].serves = false;
        self.acknowledge(h);
    }

    fn acknowledge(&mut self, h: usize) {
        let noted = self.h[h].noted && !self.is(Broken::AcknowledgesNotes);
        let Some(done) = self.line.acknowledge(id(h), noted) else { return };
        self.h[h].noted |= done.again;
        if done.settle {
            let settle = self.settle();
            self.todo[usize::from(self.h[h].cpu)].push(settle);
        }
    }
}

impl Histories for World {
    fn successors(&self) -> Vec<World> {
        let mut next = vec![];
        let mut add = |step: &dyn Fn(&mut World) -> bool| {
            let mut w = self.clone();
            if step(&mut w) {
                next.push(w);
            }
        };
        let mut always = |step: &dyn Fn(&mut World)| {
            add(&|w| {
                step(w);
                true
            });
        };
        if self.raises > 0 {
            always(&World::raise);
        }
        // A level interrupts while it is asserted and nothing is on its way to the CPU.
        let arrived = &self.arrived;
        if self.asserted && !self.masked && !arrived.contains(&true) {
            always(&|w| w.arrived[usize::from(w.route)] = true);
        }
        for (cpu, &has_arrived) in arrived.iter().enumerate() {
            if !self.todo[cpu].is_empty() {
                always(&|w| w.step(cpu));
                continue;
            }
            if has_arrived {
                always(&|w| {
                    w.arrived[cpu] = false;
                    w.todo[cpu].push(Todo::Fire);
                });
            }
            if self.passed[cpu] {
                always(&|w| {
                    w.passed[cpu] = false;
                    w.todo[cpu].push(Todo::Handle);
                });
            }
        }
        for (i, h) in self.h.iter().enumerate().filter(|(_, h)| h.alive) {
            if h.cpu == NOWHERE {
                if self.todo[usize::from(h.target)].is_empty() {
                    always(&|w| w.h[i].cpu = w.h[i].target);
                }
            } else if self.todo[usize::from(h.cpu)].is_empty() && h.cpu == h.home {
                match (h.serves, h.noted) {
                    (true, _) => always(&|w| w.serve(i)),
                    (false, true) => always(&|w| w.receive(i)),
                    _ => {}
                }
                if h.spare && !h.serves {
                    always(&|w| {
                        w.h[i].spare = false;
                        w.acknowledge(i);
                    });
                }
            }
        }
        if let Some(&op) = self.ops.first() {
            add(&|w| {
                w.ops.remove(0);
                w.begin(op)
            });
        }
        next
    }

    fn check(&self) {
        for (i, h) in self.h.iter().enumerate() {
            let known = h.noted || h.serves || !h.alive;
            assert!(known || !self.line.stands(id(i)), "delivered to nobody: {self:?}");
        }
    }

    fn check_end(&self) {
        assert!(self.ops.is_empty() && self.raises == 0, "{self:?}");
        let Some(h) = self.attached else {
            assert!(self.masked && self.line.handler() == 0, "nobody's and open: {self:?}");
            return;
        };
        assert!(!self.owed && !self.asserted, "a lost interrupt: {self:?}");
        assert!(!self.masked, "masked for ever: {self:?}");
        assert_eq!(self.route, self.h[h].home, "not routed to its handler: {self:?}");
        let closed = id(h) | if self.level { self.line.look() & !id(h) } else { 0 };
        assert_eq!(self.line.look(), closed, "{self:?}");
    }
}

fn starts(broken: Broken) -> Vec<World> {
    let one = [
        Op::Attach(0),
        Op::Attach(1),
        Op::Detach(2),
        Op::Delete(0),
        Op::Delete(1),
        Op::Move(0, 1),
        Op::Move(1, 2),
    ];
    let mut all = vec![];
    for level in [false, true] {
        for cpus in [[0, 1], [0, 0]] {
            for first in one {
                for second in one {
                    all.push(World::new(level, cpus, &[first, second], 2, broken));
                }
            }
        }
    }
    all
}

#[test]
fn a_line_that_is_attached_and_detached_while_it_fires() {
    let starts = starts(Broken::Nothing);
    let worlds = starts.len();
    let states: usize = starts.into_iter().map(explore).sum();
    println!("model interrupt line: {worlds} starts, {states} states");
    assert!(states > 10_000, "only {states} states");
}

#[test]
fn what_is_broken_is_caught() {
    for what in [
        Broken::SettlesByThePast,
        Broken::NotesUntaken,
        Broken::NotesStand,
        Broken::AcknowledgesNotes,
        Broken::RoutesAnyLine,
    ] {
        assert!(is_caught(starts(what)), "{what:?} is not caught");
    }
}
