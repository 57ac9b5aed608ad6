//! Where everything lies, looked up at any time: DESIGN principle 1, checked after a stress run as at boot.
//!
//! The thread that asks travels to every CPU, one after the other, and looks there at what that CPU owns ([`here`]), so
//! nothing that is looked at changes meanwhile and nothing is asked of memory that only its owner may read. On the last CPU it prints
//! a `placement` record and goes home with the number of things that are *away*: on another node than the principle
//! says, whatever options take them off it. What is in a mailbox meanwhile is not seen.
//!
//! The option `placement_check` lets programs ask by a debugger call, and the kernel look when one says that it leaves
//! the machine. `placement_check=wrong` expects everything on the next node: all that is seen must then be away,
//! or the check is blind.

mod here;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use kcore::ipc::State;
use kcore::options::PlacementCheck;
use kcore::types::{CpuId, NodeId, PhysAddr};
use l4abi::ext::NO_COUNTER;
use l4abi::record::Line;

use crate::cross::depart;
use crate::cross::errand::Errand;
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::{TcbRef, reg};
use crate::{console, cpu, machine, memory, println, thread};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// What is looked at, and where it belongs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Kind { $($(#[$doc])* $name,)+ }

        impl Kind {
            const ALL: &'static [(Kind, &'static str)] = &[$((Kind::$name, $text),)+];
        }
    };
}

kinds! {
    /// Stacks, descriptor tables, blocks, kernel text and their page tables as the CPU finds them: on the CPU's node.
    Cpu => "cpu",
    /// The control block of the idle thread: on the CPU's node.
    Idle => "idle",
    /// Control blocks of threads, as the array shows them: on the node of the CPU where the thread is at home.
    Tcb => "tcb",
    /// Tables of the array on the way to them: on the node of the CPU that looks.
    TcbTable => "tcb_table",
    /// Control blocks in the ready queue of a CPU: on its node.
    Ready => "ready",
    /// Root tables of threads: on the node of their CPU.
    Root => "root",
    /// Root tables of spaces, one for each CPU that ran the space: on the node of that CPU.
    SpaceRoot => "space_root",
    /// Objects of spaces: on the space's home node, and so on.
    Space => "space",
    /// Page tables with their shadows.
    Table => "table",
    /// Mapping nodes.
    MappingNode => "mapping_node",
    /// Pages of UTCBs.
    Utcb => "utcb",
    /// Free mapping nodes that a CPU keeps: on its node.
    FreeNode => "free_node",
    /// What each node has for itself: its locks, its slab.
    Home => "home",
}

const KINDS: usize = Kind::ALL.len();
/// Things away that are named on the console, at most.
const NAMED: u64 = 8;

/// The sums of the survey under way.
struct Sums {
    seen: [AtomicU64; KINDS],
    away: [AtomicU64; KINDS],
    /// Threads that are on a CPU where they are not at home.
    visitors: AtomicU64,
    /// Mapping nodes that were granted with their children and stay where they are.
    abroad: AtomicU64,
}

static SUMS: Sums = Sums {
    seen: [const { AtomicU64::new(0) }; KINDS],
    away: [const { AtomicU64::new(0) }; KINDS],
    visitors: AtomicU64::new(0),
    abroad: AtomicU64::new(0),
};
/// Global id of the thread that is surveying; 0 = none.
static SURVEYOR: AtomicU64 = AtomicU64::new(0);
/// Surveys begun; spaces remember the last one that saw them.
static NUMBER: AtomicU64 = AtomicU64::new(0);

fn mode() -> PlacementCheck {
    machine::get().options.placement_check
}

/// `me`, the running thread, asks for a survey; `answer`: it wants the number of things away in RAX,
/// [`NO_COUNTER`] if surveys are off or another one is under way.
pub fn begin(cpu: &PerCpu, me: TcbRef, answer: bool) -> Next {
    if mode() == PlacementCheck::Off || !claim(me) {
        if answer {
            me.set_reg(reg::RAX, NO_COUNTER);
        }
        return Next::Thread(me);
    }
    let counts = SUMS.seen.iter().chain(&SUMS.away).chain([&SUMS.visitors, &SUMS.abroad]);
    counts.for_each(|count| count.store(0, Ordering::Relaxed));
    NUMBER.fetch_add(1, Ordering::Relaxed);
    go_on(cpu, me, 0, answer)
}

/// One at a time. A surveyor that was deleted on the way leaves the place to the next.
fn claim(me: TcbRef) -> bool {
    let taken =
        |by| SURVEYOR.compare_exchange(by, me.id.get(), Ordering::AcqRel, Ordering::Acquire);
    match taken(0) {
        Ok(_) => true,
        Err(other) => thread::lookup(other).is_none() && taken(other).is_ok(),
    }
}

/// `me` has come to the CPU that it surveys next.
pub fn arrive(cpu: &PerCpu, me: TcbRef, answer: bool) -> Next {
    me.set_state(State::Ready);
    here::look(cpu);
    go_on(cpu, me, cpu.number() + 1, answer)
}

/// On to the first CPU from number `from` on that is up; after the last one the record.
fn go_on(cpu: &PerCpu, me: TcbRef, from: u16, answer: bool) -> Next {
    let up = |n: &u16| cpu::shared_of(CpuId::new(*n)).is_some();
    match (from..cpu::count() as u16).find(up) {
        Some(next) if next == cpu.number() => arrive(cpu, me, answer),
        Some(next) => {
            me.set_state(State::Remote);
            depart(cpu, me, next, Errand::Survey { answer });
            Next::Schedule
        }
        None => {
            let away = record();
            SURVEYOR.store(0, Ordering::Release);
            if answer {
                me.set_reg(reg::RAX, away);
            }
            Next::Thread(me)
        }
    }
}

/// The memory node that a CPU's things belong on, whatever the options are: its own, or the nearest with memory.
fn memory_node(cpu: u16) -> NodeId {
    let topology = machine::get().topology;
    let own = topology.cpu(CpuId::new(cpu)).map_or(NodeId::new(0), |cpu| cpu.node);
    if topology.memory_of(own) > 0 { own } else { memory::home_of(own) }
}

/// Counts a thing at `phys` that belongs on `node`.
fn judge(kind: Kind, phys: PhysAddr, node: NodeId, what: fmt::Arguments<'_>) {
    let topology = machine::get().topology;
    let node = match mode() {
        PlacementCheck::Wrong => {
            let behind = topology.nodes().filter(|n| n.get() > node.get());
            let next = behind.chain(topology.nodes()).find(|&n| topology.memory_of(n) > 0);
            next.unwrap_or(node)
        }
        _ => node,
    };
    SUMS.seen[kind as usize].fetch_add(1, Ordering::Relaxed);
    let found = topology.node_of(phys);
    if found != Some(node) {
        let all = || SUMS.away.iter().map(|n| n.load(Ordering::Relaxed)).sum::<u64>();
        SUMS.away[kind as usize].fetch_add(1, Ordering::Relaxed);
        if all() <= NAMED && mode() == PlacementCheck::Exit {
            let found = found.map_or(-1, |n| i32::from(n.get()));
            println!("placement: {what} at {phys} is on node {found}, not {node}");
        }
    }
}

/// Prints the record. Answers how many things are away.
fn record() -> u64 {
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let away = SUMS.away.iter().map(count).sum();
    console::with(|out| {
        let mut line = Line::begin(out, "placement");
        line.num("survey", NUMBER.load(Ordering::Relaxed)).num("away", away);
        line.num("visitors", count(&SUMS.visitors)).num("abroad", count(&SUMS.abroad));
        for (table, counts) in [("seen", &SUMS.seen), ("misplaced", &SUMS.away)] {
            line.object_field(table, |line| {
                for &(kind, name) in Kind::ALL {
                    line.num(name, count(&counts[kind as usize]));
                }
            });
        }
        // The port cannot fail.
        let _ = line.end();
    });
    away
}
