//! What a test gets: its place, puppets, spare ids, patience.

use super::puppet::{self, Outcome, Puppet};
use super::{IpcCmd, Place, TestResult, ids, pager, settle};
use crate::{check, need};
use l4abi::exregs::Control;
use libl4::sys::{self, Exregs, Schedule, ThreadControl};
use libl4::thread::Stack;
use libl4::{Fpage, Rights, ThreadId, thread, time};

/// Size of a puppet's stack.
const STACK_SIZE: usize = 16 * 1024;

static STACKS: [Stack<STACK_SIZE>; ids::MAX_PUPPETS] = [const { Stack::new() }; ids::MAX_PUPPETS];

/// How to make a puppet.
#[derive(Clone, Copy, Debug)]
pub struct PuppetOptions {
    /// Where.
    pub place: Place,
    /// In the space of this puppet instead of one of its own (places in other spaces only).
    pub space_of: Option<ThreadId>,
    /// Priority.
    pub priority: u8,
}

/// Priority of the pager thread.
pub const PAGER_PRIORITY: u8 = 200;
/// Priority of the runner.
pub const RUNNER_PRIORITY: u8 = 150;
/// Priority of puppets unless a test wants another.
pub const PUPPET_PRIORITY: u8 = 100;

/// The context of one test in one place.
#[derive(Debug)]
pub struct Ctx {
    place: Place,
    puppets: usize,
    spares: u32,
}

impl Ctx {
    pub(super) const fn new(place: Place) -> Self {
        Self { place, puppets: 0, spares: 0 }
    }

    /// The test's place.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// The runner's global id.
    #[must_use]
    pub fn me(&self) -> ThreadId {
        thread::my_global_id()
    }

    /// How a partner at the test's place names the runner when it receives from it: the from-rule
    /// of ref 5.1.
    #[must_use]
    pub fn me_seen_by_partner(&self) -> ThreadId {
        if self.place.is_local() { thread::my_local_id() } else { self.me() }
    }

    /// How the runner sees a partner at the test's place.
    #[must_use]
    pub fn seen(&self, partner: &Puppet) -> ThreadId {
        if self.place.is_local() { partner.local_id() } else { partner.id }
    }

    /// A puppet at the test's place.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn puppet(&mut self) -> TestResult<Puppet> {
        self.puppet_at(self.place)
    }

    /// A puppet on a third CPU, in a third space.
    ///
    /// # Errors
    /// If it cannot be made, or if the test's place does not promise that there is one.
    pub fn puppet_on_third(&mut self) -> TestResult<Puppet> {
        let Some(place) = self.place.third() else {
            return Err(super::fail(line!(), format_args!("no third CPU")));
        };
        self.puppet_at(place)
    }

    /// A puppet at another place.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn puppet_at(&mut self, place: Place) -> TestResult<Puppet> {
        self.puppet_with(PuppetOptions { place, space_of: None, priority: PUPPET_PRIORITY })
    }

    /// A puppet in the space of `other`, on its place's CPU.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn puppet_beside(&mut self, other: &Puppet) -> TestResult<Puppet> {
        let (place, space_of) = (self.place, Some(other.id));
        self.puppet_with(PuppetOptions { place, space_of, priority: PUPPET_PRIORITY })
    }

    /// A puppet.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn puppet_with(&mut self, options: PuppetOptions) -> TestResult<Puppet> {
        let index = self.puppets;
        check!(index < ids::MAX_PUPPETS, "too many puppets");
        self.puppets += 1;
        let slot = ids::FIRST_PUPPET + index as u32;
        let id = ids::of_slot(slot);
        let local = options.place.is_local();
        let utcb = if local { ids::root_utcb(slot) } else { ids::puppet_utcb(slot) };
        let stack = STACKS[index].take();
        let Some(stack) = stack else {
            return Err(super::fail(line!(), format_args!("stack {index} is in use")));
        };
        if local {
            need!(thread::create_local(id, utcb, ids::pager()));
        } else if let Some(other) = options.space_of {
            need!(sys::thread_control(ThreadControl {
                dest: id,
                space: other,
                scheduler: self.me(),
                pager: ids::pager(),
                utcb: Some(utcb),
            }));
        } else {
            need!(make_space(id, utcb));
        }
        let processor = options.place.cpu().filter(|_| !options.place.same_cpu());
        let schedule =
            Schedule { priority: Some(options.priority), processor, ..Schedule::default() };
        need!(sys::schedule(id, schedule));
        let sp = stack.prepare(puppet::main, index as u64);
        let puppet = Puppet::new(index, id, utcb);
        need!(pager::start(id, libl4::arch::trampoline_ip(), sp));
        Ok(puppet)
    }

    /// A thread id that nobody uses yet.
    ///
    /// # Errors
    /// If the test has used up its share.
    pub fn spare_id(&mut self) -> TestResult<ThreadId> {
        check!(self.spares < ids::SPARE, "too many spare ids");
        self.spares += 1;
        Ok(ids::of_slot(ids::FIRST_SPARE + self.spares - 1))
    }

    /// Gives the last spare id back, after its thread was deleted.
    pub fn return_spare(&mut self) {
        self.spares = self.spares.saturating_sub(1);
    }

    /// UTCB location in the root task's space for a spare id.
    #[must_use]
    pub fn spare_utcb(&self, id: ThreadId) -> u64 {
        ids::root_utcb(id.number().0 - ids::number(0).0)
    }

    /// Gives everybody time to block: puppets have a lower priority than the runner, and other CPUs
    /// need a moment. Where somebody does not block, he runs for a while.
    pub fn settle(&self) {
        let far = !self.place.same_cpu();
        let blocked = self.place.cpu().is_some_and(settle::wait_for);
        time::sleep_us(match (blocked, far) {
            (true, false) => 500,
            (true, true) => 3_000,
            (false, false) => 4_000,
            (false, true) => 15_000,
        });
    }

    /// [`Ctx::settle`] for the third CPU, too. Somebody may travel between the two: so both twice.
    pub fn settle_all(&self) {
        for _ in 0..2 {
            self.settle();
            if let Some(cpu) = self.place.third().and_then(Place::cpu) {
                let _ = settle::wait_for(cpu);
            }
        }
    }

    /// Waits until `partner` is in this phase of an IPC.
    ///
    /// # Errors
    /// If that takes more than a second.
    pub fn wait_in(&self, partner: &Puppet, phase: Control) -> TestResult {
        let limit = time::now_us() + 1_000_000;
        loop {
            if need!(sys::exchange_registers(partner.id, Exregs::default())).state == phase {
                return Ok(());
            }
            check!(time::now_us() < limit, "never in {phase:?}");
            time::sleep_us(300);
        }
    }

    /// Does an IPC in the runner itself.
    #[must_use]
    pub fn ipc(&self, cmd: &IpcCmd<'_>) -> Outcome {
        puppet::execute_ipc(cmd)
    }
}

/// Makes a space with an active thread in it, in the usual three steps (ref 4.5).
pub(super) fn make_space(id: ThreadId, utcb: u64) -> sys::SysResult<()> {
    let create = ThreadControl {
        dest: id,
        space: id,
        scheduler: thread::my_global_id(),
        pager: ThreadId::NIL,
        utcb: Some(utcb),
    };
    sys::thread_control(create)?;
    sys::space_control(id, 0, kip_area(), utcb_area(), ThreadId::NIL)?;
    sys::thread_control(ThreadControl { pager: ids::pager(), utcb: None, ..create })
}

/// KIP area of puppets' spaces.
#[must_use]
pub fn kip_area() -> Fpage {
    libl4::kip().area_at(ids::PUPPET_KIP)
}

/// UTCB area of puppets' spaces.
#[must_use]
pub fn utcb_area() -> Fpage {
    Fpage::memory(ids::PUPPET_UTCB_AREA.0, ids::PUPPET_UTCB_AREA.1, Rights::empty())
}

/// Gives all stacks back, after their threads were deleted.
pub(super) fn release_stacks() {
    for stack in &STACKS {
        stack.release();
    }
}

/// A stack in the arena with `entry` and `arg` where the trampoline looks for them: for threads that
/// are no puppets. `n` below 16. Returns the SP to start with.
#[must_use]
pub fn arena_stack(n: u64, entry: extern "C" fn(u64) -> !, arg: u64) -> u64 {
    let sp = super::arena::page(900 + 4 * (n + 1)) - 16;
    libl4::arch::poke(sp, entry as *const () as u64);
    libl4::arch::poke(sp + 8, arg);
    sp
}
