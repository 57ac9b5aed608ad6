//! Threads: all of them in a line each, and one with everything.

use core::fmt::{self, Write};

use kcore::ipc::Key;
use kcore::kdb::Thread;
use l4abi::id::ThreadId;

use super::memory::read_user;
use crate::arch::x86_64::tcb_area;
use crate::space::SpaceRef;
use crate::thread::program::whereabouts;
use crate::thread::tcb::{TcbRef, reg};
use crate::{cpu, ipc, thread};

/// Flags of a key with a letter each.
const FLAGS: [(u64, char); 10] = [
    (Key::TIMED, 't'),
    (Key::KERNEL_IPC, 'k'),
    (Key::HALTED, 'h'),
    (Key::REDIRECTED, 'r'),
    (Key::LOADED, 'l'),
    (Key::WORK, 'w'),
    (Key::SCHED, 's'),
    (Key::CHANGED, 'c'),
    (Key::INTERRUPT, 'i'),
    (Key::VISITING, 'v'),
];

struct Flags(Key);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, letter) in FLAGS {
            f.write_char(if self.0.has(flag) { letter } else { '-' })?;
        }
        Ok(())
    }
}

/// The thread, if there is one; else says so.
pub fn find(out: &mut impl Write, wanted: Thread) -> Result<Option<TcbRef>, fmt::Error> {
    let number = kcore::types::ThreadNo::new(wanted.number());
    let found = number.is_valid().then(|| thread::present(number)).flatten();
    if found.is_none() {
        writeln!(out, "there is no thread {:#x}", wanted.0)?;
    }
    Ok(found)
}

/// The space of a thread; else says so.
pub fn space_of(out: &mut impl Write, t: Thread) -> Result<Option<SpaceRef>, fmt::Error> {
    let Some(t) = find(out, t)? else { return Ok(None) };
    let space = t.space.get();
    if space.is_none() {
        writeln!(out, "it has no space")?;
    }
    Ok(space)
}

/// A line per thread.
pub fn list(out: &mut impl Write, cpu: Option<u16>) -> fmt::Result {
    let mut count = 0;
    for t in tcb_area::present().filter_map(thread::present) {
        if cpu.is_none_or(|cpu| t.travel.home() == cpu) {
            line(out, t)?;
            count += 1;
        }
    }
    writeln!(
        out,
        "{count} threads; flags: timed kernel-ipc halted redirected loaded work sched changed irq visiting"
    )
}

/// A thread in a line. `xtask` names what is behind `ip=`.
pub fn line(out: &mut impl Write, t: TcbRef) -> fmt::Result {
    let key = t.key();
    let at = whereabouts(t, read_user);
    write!(
        out,
        "{:6} {:#014x} cpu{}/{}",
        t.number().get(),
        t.id.get(),
        cpu_name(key),
        t.travel.home()
    )?;
    write!(out, " {:9} {} prio {:3}", State(key), Flags(key), t.priority.get())?;
    writeln!(out, " space {:#x} ip={:#x} code={}", ipc::space_token(t), at.ip, at.code())
}

/// A state as one word.
struct State(Key);

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use kcore::ipc::State as S;
        f.pad(match self.0.state() {
            S::Absent => "absent",
            S::Inactive => "inactive",
            S::Ready => "ready",
            S::Waiting => "waiting",
            S::Polling => "polling",
            S::Sending => "sending",
            S::Receiving => "receiving",
            S::Remote => "remote",
            S::Stopped => "stopped",
        })
    }
}

/// The CPU that owns a thread; `?` while it lies in a mailbox.
fn cpu_name(key: Key) -> impl fmt::Display {
    struct Name(u16);
    impl fmt::Display for Name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if self.0 == kcore::cross::NOWHERE { f.write_str("?") } else { write!(f, "{}", self.0) }
        }
    }
    Name(key.cpu())
}

/// Names of the saved registers, by slot.
const REGISTERS: [(&str, usize); 18] = [
    ("rax", reg::RAX),
    ("rbx", reg::RBX),
    ("rcx", reg::RCX),
    ("rdx", reg::RDX),
    ("rsi", reg::RSI),
    ("rdi", reg::RDI),
    ("rbp", reg::RBP),
    ("rsp", reg::RSP),
    ("r8", reg::R8),
    ("r9", reg::R9),
    ("r10", reg::R10),
    ("r11", reg::R11),
    ("r12", reg::R12),
    ("r13", reg::R13),
    ("r14", reg::R14),
    ("r15", reg::R15),
    ("rip", reg::RIP),
    ("flags", reg::RFLAGS),
];

/// Everything about a thread.
pub fn one(out: &mut impl Write, wanted: Thread) -> fmt::Result {
    let Some(t) = find(out, wanted)? else { return Ok(()) };
    line(out, t)?;
    let node = cpu::node_page().nodes.get(usize::from(t.travel.home())).copied().unwrap_or(0);
    writeln!(
        out,
        "  home cpu{} node {node}, tcb at {:#x}, page {:#x}",
        t.travel.home(),
        core::ptr::from_ref(t) as u64,
        t.travel.page.get()
    )?;
    writeln!(
        out,
        "  local id {:#x}, utcb {:#x}, root {:#x}, exit {}",
        t.local_id.get(),
        t.utcb.get(),
        t.root.get(),
        t.exit.get() as u64
    )?;
    for row in REGISTERS.chunks(4) {
        out.write_str(" ")?;
        row.iter().try_for_each(|(name, slot)| write!(out, " {name:>5} {:#018x}", t.reg(*slot)))?;
        out.write_char('\n')?;
    }
    writeln!(
        out,
        "  awaits {:#x}, then from {:#x}, timeouts {:#x}, kernel message: {}",
        t.awaited.get(),
        t.then_receive.get(),
        t.timeouts.get(),
        t.kernel_ipc.get()
    )?;
    if let Some(partner) = t.partner.get() {
        writeln!(out, "  partner {:#x}", partner.id.get())?;
    }
    let mut left = 8;
    out.write_str("  queued at it:")?;
    let _ = t.senders.find(|s| {
        let _ = write!(out, " {:#x}", s.id.get());
        left -= 1;
        left == 0
    });
    out.write_char('\n')?;
    writeln!(
        out,
        "  priority {} (sensitive {}), slice {} of {} us, quantum left {:#x} us, scheduler {:#x}",
        t.priority.get(),
        t.sensitive.get(),
        t.slice_left_us.get(),
        t.slice_us.get(),
        t.quantum_left_us.get(),
        t.scheduler.get()
    )?;
    if t.key().has(Key::TIMED) {
        writeln!(out, "  wakes at {} us", t.wake_link.at())?;
    }
    let running = cpu::scheduling_of(kcore::types::CpuId::new(t.key().cpu()));
    if running.is_some_and(|cpu| cpu.current.get() == t) {
        writeln!(
            out,
            "  it is running: its registers are those of its last entry into the kernel"
        )?;
    }
    writeln!(
        out,
        "  number {} version {}",
        ThreadId::from_raw(t.id.get()).number().0,
        ThreadId::from_raw(t.id.get()).version()
    )
}
