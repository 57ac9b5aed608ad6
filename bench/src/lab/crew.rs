//! Threads of a benchmark: each in a space of its own, with the program's copy of a chosen node, doing what the
//! controller tells it.
//!
//! The controller is the pager of all until they page each other; it serves faults whenever it waits for one of
//! them. A member calls the controller when it has nothing to do; the controller's answer is the next command.

use super::place::{PAGE, View};
use l4abi::ext::CpuCounter;
use libl4::arch::StackTop;
use libl4::ipc::{self, Received};
use libl4::pager::{self, Fault};
use libl4::sys::{self, Schedule, ThreadControl};
use libl4::thread;
use libl4::{CpuId, Fpage, MsgTag, Rights, ThreadId, ThreadNo, Time, Timeouts};
use libl4::{arch, exit, kip, msg, println, time, topology};

/// Where the UTCBs of every member's space lie.
pub const UTCB_AREA: u64 = 0x8000_0000;

/// Room for the UTCBs of 32 threads.
const UTCB_AREA_LOG2: u8 = 15;

/// Label of a member's report that it has nothing to do.
pub const IDLE: u64 = 0x1D1E;

/// A measurement that does not work must not be reported: says what failed and leaves with the code for failure.
pub fn check(what: &str, ok: bool) {
    if !ok {
        println!("benchmark: {what} failed");
        exit::exit(exit::Outcome::Failed);
    }
}

/// The id of the `n`th thread after the calling one.
#[must_use]
pub fn id(n: u32) -> ThreadId {
    ThreadId::global(ThreadNo(thread::my_global_id().number().0 + n), 1)
}

/// A member's first function.
pub type Entry = extern "C" fn(u64) -> !;

/// What a member starts with and where.
pub struct Member<'a> {
    /// Its id; the caller's scheduler and pager.
    pub id: ThreadId,
    /// What its space shows.
    pub views: &'a [View],
    /// Its processor.
    pub cpu: CpuId,
}

impl Member<'_> {
    /// Creates the member in a new space, which is at home on the caller's node, lets it run `entry` with `arg` on
    /// its processor, and serves it until it asks for work. `entry` has to call [`begin`] first.
    pub fn start(&self, stack: &StackTop, entry: Entry, arg: u64) {
        check("making a space", make_space(self.id).is_ok());
        self.launch(stack, entry, arg);
    }

    /// The same in the space of `other`, with the `nth` UTCB block there; `other` has block 0.
    pub fn join(&self, other: &Member<'_>, nth: u64, stack: &StackTop, entry: Entry, arg: u64) {
        let me = thread::my_global_id();
        let utcb = Some(UTCB_AREA + nth * l4abi::utcb::UTCB_SIZE as u64);
        let create =
            ThreadControl { dest: self.id, space: other.id, scheduler: me, pager: me, utcb };
        check("joining a space", sys::thread_control(create).is_ok());
        self.launch(stack, entry, arg);
    }

    fn launch(&self, stack: &StackTop, entry: Entry, arg: u64) {
        let sp = stack.prepare(entry, arg);
        for view in self.views {
            view.refresh(sp, 16);
        }
        self.move_to(self.cpu);
        check("starting", pager::start_message(self.id, arch::trampoline_ip(), sp).is_ok());
        self.done();
    }

    /// Gives it a priority; members have that of new threads otherwise.
    pub fn set_priority(&self, priority: u8) {
        let schedule = Schedule { priority: Some(priority), ..Schedule::default() };
        check("setting a priority", sys::schedule(self.id, schedule).is_ok());
    }

    /// Moves it; that it has arrived is only sure after its next report.
    pub fn move_to(&self, cpu: CpuId) {
        let schedule = Schedule { processor: Some(cpu), ..Schedule::default() };
        check("moving", sys::schedule(self.id, schedule).is_ok());
    }

    /// Tells the member, which waits for work, what to do.
    pub fn command(&self, label: u64, words: &[u64]) {
        let mut message = msg::Writer::here();
        message.words(words);
        let tag = message.tag(label);
        check("command", ipc::send(self.id, Time::NEVER, tag).is_ok());
    }

    /// Serves the member's faults until it asks for work again; answers what it reports.
    pub fn done(&self) -> Received {
        self.settle(ipc::receive(self.id, Timeouts::NEVER))
    }

    /// The same, where a fault of the member was received before.
    pub fn done_after(&self, fault: &Received) -> Received {
        let tag = self.resolve(fault);
        check("a fault", tag.is_some());
        self.settle(ipc::call(self.id, Timeouts::NEVER, tag.unwrap_or(MsgTag::NIL)))
    }

    fn settle(&self, mut got: ipc::IpcResult) -> Received {
        loop {
            let Ok(message) = got else {
                check("waiting for a member", false);
                continue;
            };
            let Some(tag) = self.resolve(&message) else {
                check("report", message.tag.label() == IDLE);
                return message;
            };
            got = ipc::call(self.id, Timeouts::NEVER, tag);
        }
    }

    /// Receives the member's next fault.
    pub fn fault(&self) -> Received {
        let got = ipc::receive(self.id, Timeouts::NEVER);
        check("a fault", got.as_ref().is_ok_and(|message| Fault::of(message).is_some()));
        got.unwrap_or_else(|_| thread::sleep_forever())
    }

    /// Lets the member go on after a fault.
    pub fn answer(&self, fault: &Received) {
        let tag = self.resolve(fault).unwrap_or(MsgTag::NIL);
        check("answering a fault", ipc::send(self.id, Time::NEVER, tag).is_ok());
    }

    /// The answer to a fault of the member; none for another message.
    fn resolve(&self, message: &Received) -> Option<MsgTag> {
        match Fault::of(message)? {
            Fault::Page(fault) => {
                let from = self.views.iter().find_map(|view| view.find(fault.addr));
                if from.is_none() {
                    println!("{} faults at {:#x}, ip {:#x}", self.id, fault.addr, fault.ip);
                }
                check("fault", from.is_some());
                let page = from.unwrap_or(0) & !(PAGE - 1);
                Some(pager::map_reply(&fault, page, 12, Rights::RWX))
            }
            Fault::Io(_) => {
                check("I/O fault", false);
                None
            }
        }
    }

    /// Command and report.
    pub fn perform(&self, label: u64, words: &[u64]) -> Received {
        self.command(label, words);
        self.done()
    }

    /// Takes the member away, and its space with it.
    pub fn delete(&self) {
        check("deleting", thread::delete(self.id).is_ok());
    }
}

/// All processors together: a counter of their traffic. Differences count what happened meanwhile.
#[must_use]
pub fn total(counter: CpuCounter) -> u64 {
    let cpus = (0..topology::cpu_count() as u16).map(CpuId);
    cpus.filter_map(|cpu| arch::cpu_counter(cpu, counter)).sum()
}

/// Works at user level for `us` microseconds.
pub fn spin_us(us: u64) {
    let end = time::now_us() + us;
    while time::now_us() < end {
        core::hint::spin_loop();
    }
}

fn make_space(id: ThreadId) -> sys::SysResult<()> {
    let me = thread::my_global_id();
    let pager = ThreadId::NIL;
    let create = ThreadControl { dest: id, space: id, scheduler: me, pager, utcb: Some(UTCB_AREA) };
    sys::thread_control(create)?;
    let kip_area = kip().area_at(libl4::start::kip_base());
    let log2 = kip().utcb_area_log2().max(UTCB_AREA_LOG2);
    let utcb_area = Fpage::memory(UTCB_AREA, log2, Rights::empty());
    sys::space_control(id, 0, kip_area, utcb_area, ThreadId::NIL)?;
    sys::thread_control(ThreadControl { pager: me, utcb: None, ..create })
}

/// A member's first act: its whole image is faulted in, so that nothing of it faults later.
pub fn begin() {
    touch_image();
    ipc::accept(libl4::Acceptor::COMPLETE);
}

/// Touches every page of the program.
pub fn touch_image() {
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(PAGE as usize) {
        let _ = arch::touch_read(page);
    }
}

/// A member has nothing to do: reports `words` to the controller and waits for the next command.
pub fn next_command(controller: ThreadId, words: &[u64]) -> Received {
    let mut message = msg::Writer::here();
    message.words(words);
    let tag = message.tag(IDLE);
    match ipc::call(controller, Timeouts::NEVER, tag) {
        Ok(command) => command,
        Err(_) => thread::sleep_forever(),
    }
}

/// The thread that moves the controller: a thread cannot migrate itself.
pub struct Mover(ThreadId);

impl Mover {
    /// Makes it, as the thread `id` of the controller's space, with the UTCB block after the controller's.
    #[must_use]
    pub fn new(id: ThreadId, stack: &StackTop) -> Self {
        let utcb = thread::my_utcb_location() + 1024;
        let made = thread::create_local(id, utcb, libl4::sigma0::id());
        check("making the mover", made.is_ok());
        check("starting the mover", thread::start_on(id, stack, serve_moves, 0).is_ok());
        Self(id)
    }

    /// Moves the calling thread to a processor.
    pub fn go_to(&self, cpu: CpuId) {
        check("moving oneself", thread::migrate_by(self.0, cpu).is_ok() && thread::my_cpu() == cpu);
    }
}

extern "C" fn serve_moves(_: u64) -> ! {
    thread::serve_migration()
}

/// An empty message with a label.
#[must_use]
pub fn plain(label: u64) -> MsgTag {
    MsgTag::new(label, 0, 0)
}
