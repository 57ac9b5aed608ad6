//! Pages of thread control blocks that left the array.
//!
//! A CPU may keep the old translation of a slot for as long as it likes: looking a thread up drops it only if the
//! id that it sees is wrong (`thread::lookup`). A page that leaves the array has id 0, so whoever sees it looks
//! again. It must stay so until no CPU can see it: the pages of deleted threads are kept per CPU and given back
//! in batches, after one request to all CPUs to forget everything. A thread that arrives on a CPU for the first
//! time has its slot's translation dropped there (`cross::welcome`), so making a thread interrupts nobody either.
//!
//! A thread that migrates to another node takes its page along (l4-smp 8.7, numa-l4 4.1.3): the new CPU copies it,
//! shows the copy in the slot on all nodes, has every CPU forget that one page, and frees the old one.

use core::cell::Cell;

use kcore::types::{PhysAddr, VirtAddr};

use crate::arch::x86_64::tcb_area;
use crate::cross::counters::{Counter, count};
use crate::cross::shootdown;
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::TcbRef;
use crate::{cpu, machine, memory};

/// Pages that wait at most, per CPU.
const SIZE: usize = 32;

/// Pages that wait for all CPUs to forget them.
#[derive(Debug)]
pub struct Quarantine {
    pages: [Cell<u64>; SIZE],
    len: Cell<usize>,
}

impl Quarantine {
    /// Nothing waits.
    pub const fn new() -> Self {
        Self { pages: [const { Cell::new(0) }; SIZE], len: Cell::new(0) }
    }
}

/// Takes a page that is no longer in the array.
pub fn put(page: PhysAddr) {
    let own = &cpu::this().local.quarantine;
    let len = own.len.get();
    own.pages[len].set(page.as_u64());
    own.len.set(len + 1);
    if len + 1 == SIZE {
        release();
    }
}

/// Gives all waiting pages of this CPU back. No lock is held.
pub fn release() {
    let own = &cpu::this().local.quarantine;
    let len = own.len.replace(0);
    if len == 0 {
        return;
    }
    shootdown::all();
    for page in &own.pages[..len] {
        memory::free_page(PhysAddr::new(page.get()));
    }
}

/// `t` has come home: its control block moves to this CPU's node, if it is elsewhere and that is wanted. Without
/// memory here it stays where it is.
pub fn move_to_node(cpu: &PerCpu, t: TcbRef) {
    let window = VirtAddr::new(t.travel.page.get());
    let old = window.window_phys();
    let pools = memory::pools();
    let node = memory::home_of(cpu.node());
    if pools.node_of(old) == Some(node) || !machine::get().options.tcb_migration {
        return;
    }
    let Ok(page) = memory::alloc_page(cpu.node()) else { return };
    tcb_area::copy(old, page);
    tcb_area::replace(t.number(), page);
    shootdown::kernel_page(VirtAddr::new(core::ptr::from_ref(t) as u64));
    t.travel.page.set(page.window().as_u64());
    count(Counter::TcbMoves);
    memory::free_page(old);
}
