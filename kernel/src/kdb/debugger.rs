//! The debugger: a prompt on the serial line while everything else stands still.
//!
//! It is entered by an Enter call, by the escape key (the serial port interrupts the boot processor) or by a panic. All
//! other CPUs are stopped by a non-maskable interrupt, wherever they are, perhaps in the middle of a change or with a
//! lock held. So the debugger takes no lock that it does not get at once, bounds every walk, and reads memory only through
//! [`memory`], where an address that is none gives nothing instead of a fault. One file per view; the commands are
//! `kcore::kdb`'s.

mod cpus;
mod history;
mod mappings;
mod memory;
mod pools;
mod queues;
mod spaces;
mod tables;
mod threads;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use kcore::kdb::{COMMANDS, Command, Editor, Feed, parse};
use kcore::types::CpuId;

use crate::arch::x86_64::apic;
use crate::arch::x86_64::cpu_ops::{self, ExitCode};
use crate::arch::x86_64::ioapic;
use crate::arch::x86_64::serial::SerialPort;
use crate::sched::percpu::PerCpu;
use crate::{console, cpu, machine};

/// Opens the debugger.
const ESCAPE: u8 = 0x1B;
/// The interrupt line of the first serial port.
const SERIAL_LINE: u32 = 4;
/// What it says when it waits for a command; `xtask` looks for it.
const PROMPT: &str = "kdb> ";
/// How often to look whether the other CPUs have stopped. One that does not is left alone.
const PATIENCE: u32 = 20_000_000;

/// 0, or one more than the CPU that is in the debugger.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// CPUs that stand still.
static HELD: AtomicUsize = AtomicUsize::new(0);
/// The escape key was pressed.
static CALLED: AtomicBool = AtomicBool::new(false);

/// Where a CPU was when it was stopped.
pub struct Held {
    rip: AtomicU64,
    rsp: AtomicU64,
}

impl Held {
    /// Nowhere.
    pub const fn new() -> Self {
        Held { rip: AtomicU64::new(0), rsp: AtomicU64::new(0) }
    }
}

/// Bytes that arrived before a program asked for them.
struct Kept {
    bytes: [AtomicU32; 64],
    first: AtomicUsize,
    last: AtomicUsize,
}

static KEPT: Kept = Kept {
    bytes: [const { AtomicU32::new(0) }; 64],
    first: AtomicUsize::new(0),
    last: AtomicUsize::new(0),
};

/// A byte that came by interrupt and is the program's. The ring is only touched with the console's lock, or by the only
/// CPU that runs.
pub fn kept() -> Option<u8> {
    let first = KEPT.first.load(Ordering::Relaxed);
    if first == KEPT.last.load(Ordering::Acquire) {
        return None;
    }
    let byte = KEPT.bytes[first % KEPT.bytes.len()].load(Ordering::Relaxed);
    KEPT.first.store(first + 1, Ordering::Release);
    Some(byte as u8)
}

/// A byte that arrived: the program's, or the debugger's key, which [`look`] obeys.
pub fn typed(byte: u8) -> Option<u8> {
    if byte != ESCAPE || !machine::get().options.kdb {
        return Some(byte);
    }
    CALLED.store(true, Ordering::Relaxed);
    None
}

/// Enters the debugger if its key was pressed.
pub fn look() {
    if CALLED.swap(false, Ordering::Relaxed) {
        enter(format_args!("escape key"));
    }
}

/// The serial port interrupts the boot processor from now on, which alone calls this.
pub fn start(cpu: &PerCpu) {
    if cpu.number() == 0 && machine::get().options.kdb && ioapic::route(SERIAL_LINE, 0, || true) {
        console::with(|port| port.interrupt_on_input());
        ioapic::settle(SERIAL_LINE, || false);
    }
}

/// An interrupt of `line`; true if it was the serial port's.
pub fn on_line(line: u32) -> bool {
    if line != SERIAL_LINE || !machine::get().options.kdb {
        return false;
    }
    apic::end_of_interrupt();
    console::with(|port| {
        while let Some(byte) = port.receive() {
            let last = KEPT.last.load(Ordering::Relaxed);
            let room = last - KEPT.first.load(Ordering::Acquire) < KEPT.bytes.len();
            if let Some(byte) = typed(byte).filter(|_| room) {
                KEPT.bytes[last % KEPT.bytes.len()].store(u32::from(byte), Ordering::Relaxed);
                KEPT.last.store(last + 1, Ordering::Release);
            }
        }
    });
    look();
    true
}

/// This CPU was stopped there.
pub fn stopped(rip: u64, rsp: u64) {
    if cpu::local_window_live() {
        let held = &cpu::this().shared.held;
        held.rip.store(rip, Ordering::Relaxed);
        held.rsp.store(rsp, Ordering::Relaxed);
    }
}

/// A non-maskable interrupt: if some CPU is in the debugger this one stands still until it leaves. False if none is.
pub fn hold(rip: u64, rsp: u64) -> bool {
    let owner = OWNER.load(Ordering::Acquire);
    if owner == 0 {
        return false;
    }
    if owner == cpu::current_number() + 1 {
        return true;
    }
    stopped(rip, rsp);
    HELD.fetch_add(1, Ordering::AcqRel);
    while OWNER.load(Ordering::Acquire) == owner {
        core::hint::spin_loop();
    }
    HELD.fetch_sub(1, Ordering::AcqRel);
    true
}

/// Stops all other CPUs and talks until somebody says `go`.
pub fn enter(why: fmt::Arguments<'_>) {
    if !machine::get().options.kdb {
        return;
    }
    let me = cpu::current_number() + 1;
    // Another CPU that is faster stops this one here.
    while let Err(owner) = OWNER.compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed) {
        if owner == me {
            return;
        }
        core::hint::spin_loop();
    }
    let others = (0..cpu::count()).filter(|&n| shared(n).is_some()).count() - 1;
    if others > 0 {
        apic::stop_others();
        wait(|| HELD.load(Ordering::Acquire) == others);
    }
    if let Some(mut session) = Session::open() {
        session.say(format_args!(
            "kdb: {why}; cpu{} of {}, {} stopped\n",
            me - 1,
            others + 1,
            HELD.load(Ordering::Acquire)
        ));
        session.talk(ExitCode::Success);
    }
    OWNER.store(0, Ordering::Release);
    wait(|| HELD.load(Ordering::Acquire) == 0);
}

/// The same after a panic, whose CPU is the only one that runs: `go` leaves the machine.
pub fn panicked() {
    let known = cpu::local_window_live() && machine::get().options.kdb;
    let me = cpu::current_number() + 1;
    if !known || OWNER.swap(me, Ordering::AcqRel) == me {
        return;
    }
    if let Some(mut session) = Session::open() {
        session.say(format_args!("kdb: after a panic; go leaves the machine\n"));
        session.talk(ExitCode::Panic);
    }
}

fn wait(done: impl Fn() -> bool) {
    for _ in 0..PATIENCE {
        if done() {
            return;
        }
        core::hint::spin_loop();
    }
}

/// The scheduling state of a CPU, which stands still.
fn scheduling(number: usize) -> Option<&'static PerCpu> {
    cpu::scheduling_of(CpuId::new(number as u16))
}

/// What others may see of a CPU.
fn shared(number: usize) -> Option<&'static cpu::Shared> {
    cpu::shared_of(CpuId::new(number as u16))
}

/// CPUs that are up, or only the one asked for.
fn cpus(only: Option<u16>) -> impl Iterator<Item = usize> {
    (0..cpu::count())
        .filter(move |&n| only.is_none_or(|o| usize::from(o) == n) && shared(n).is_some())
}

/// A stay in the debugger. It has the serial port for itself: whoever else had it stands still.
struct Session {
    port: SerialPort,
    editor: Editor,
}

impl Session {
    fn open() -> Option<Self> {
        Some(Session { port: SerialPort::attach()?, editor: Editor::new() })
    }

    fn say(&mut self, text: fmt::Arguments<'_>) {
        // The port cannot fail.
        let _ = self.port.write_fmt(text);
    }

    /// Commands until one goes on.
    fn talk(&mut self, code: ExitCode) {
        loop {
            self.say(format_args!("{PROMPT}"));
            self.read();
            let Session { port, editor } = self;
            let parsed = parse(editor.take());
            match parsed {
                Ok(Command::Go) => return,
                Ok(Command::Quit) => cpu_ops::exit(code),
                Ok(Command::Reset) => cpu_ops::reset(),
                Ok(command) => {
                    let _ = show(port, command);
                }
                Err(problem) => {
                    let _ = writeln!(port, "{problem}");
                }
            }
        }
    }

    /// Reads a line, with echo.
    fn read(&mut self) {
        loop {
            let Some(byte) = self.port.receive() else {
                core::hint::spin_loop();
                continue;
            };
            match self.editor.feed(byte) {
                Feed::Ignored => {}
                Feed::Echo(byte) => self.port.send(&[byte]),
                Feed::Erased => self.port.send(b"\x08 \x08"),
                Feed::Cleared(count) => (0..count).for_each(|_| self.port.send(b"\x08 \x08")),
                Feed::Complete => {
                    self.port.send(b"\r\n");
                    return;
                }
            }
        }
    }
}

/// Shows what a command asks for.
fn show(out: &mut SerialPort, command: Command) -> fmt::Result {
    match command {
        Command::Nothing | Command::Go | Command::Quit | Command::Reset => Ok(()),
        Command::Help => COMMANDS
            .iter()
            .try_for_each(|(name, takes, does)| writeln!(out, "{name:8} {takes:24} {does}")),
        Command::Threads(cpu) => threads::list(out, cpu),
        Command::Tcb(t) => threads::one(out, t),
        Command::Spaces => spaces::list(out),
        Command::Walk(t, at) => tables::walk(out, t, at),
        Command::Tables(t, at) => tables::list(out, t, at),
        Command::Frame(at) => mappings::tree(out, at),
        Command::Ready(cpu) => queues::ready(out, cpu),
        Command::Wakeups(cpu) => queues::wakeups(out, cpu),
        Command::Memory => pools::list(out),
        Command::Trace(count) => history::last(out, count),
        Command::Cpus => cpus::list(out),
        Command::Dump(t, at, count) => memory::dump_space(out, t, at, count),
        Command::Peek(at, count) => memory::dump_kernel(out, at, count),
    }
}
