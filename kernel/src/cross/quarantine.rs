//! Pages of thread control blocks that left the array.
//!
//! A CPU may keep the old translation of a slot for as long as it likes: looking a thread up drops it only if the
//! id that it sees is wrong (`thread::lookup`). A page that leaves the array has id 0, so whoever sees it looks
//! again. The same holds if the page meanwhile belongs to another slot, because the id there has another number: so a
//! page that is kept here can become the control block of a new thread at once. Anything else it can be only
//! when no CPU sees it any more: pages that nobody wants are given back in batches, after one request to all CPUs to
//! forget everything. A thread that arrives on a CPU for the first time has its slot's translation dropped there
//! (`cross::welcome`), so neither making nor deleting threads interrupts anybody.
//!
//! A CPU answers such a request only where it has nothing in hand that it found before (at user level, on its way out, while
//! it waits for others), so pages of spaces leave in the same way: another CPU may have found a space through one of
//! its threads, and be about to see that it is gone (`kcore::cross::life`).
//!
//! A thread that migrates to another node takes its page along (l4-smp 8.7, numa-l4 4.1.3): the new CPU copies it,
//! shows the copy in the slot on all nodes, has every CPU forget that one slot, and lets the old page leave as above.

use core::cell::Cell;

use kcore::types::{PhysAddr, VirtAddr};

use crate::arch::x86_64::tcb_area;
use crate::cross::counters::{Counter, count};
use crate::cross::shootdown;
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::TcbRef;
use crate::{cpu, machine, memory};

/// Pages of each kind that a CPU keeps at most.
const SIZE: usize = 16;

/// Pages that left the array on this CPU.
#[derive(Debug)]
pub struct Quarantine {
    /// Pages of this CPU's node, for new threads.
    own: Stack,
    /// Pages that wait for all CPUs to forget them.
    leaving: Stack,
}

impl Quarantine {
    /// Nothing waits.
    pub const fn new() -> Self {
        Self { own: Stack::new(), leaving: Stack::new() }
    }
}

#[derive(Debug)]
struct Stack {
    pages: [Cell<u64>; SIZE],
    len: Cell<usize>,
}

impl Stack {
    const fn new() -> Self {
        Self { pages: [const { Cell::new(0) }; SIZE], len: Cell::new(0) }
    }

    /// False if it is full.
    #[inline(always)]
    fn push(&self, page: PhysAddr) -> bool {
        let len = self.len.get();
        let Some(slot) = self.pages.get(len) else { return false };
        slot.set(page.as_u64());
        self.len.set(len + 1);
        true
    }

    #[inline(always)]
    fn pop(&self) -> Option<PhysAddr> {
        let last = self.len.get().wrapping_sub(1);
        let page = self.pages.get(last)?.get();
        self.len.set(last);
        Some(PhysAddr::new(page))
    }
}

/// A page of this CPU's node that was a control block, its id 0, everything else as the deleted thread left it.
#[inline(always)]
pub fn take() -> Option<PhysAddr> {
    cpu::this().local.quarantine.own.pop()
}

/// Takes a page that is no longer in the array; `own`: it lies on this CPU's node.
#[inline(always)]
pub fn put(page: PhysAddr, own: bool) {
    let kept = &cpu::this().local.quarantine;
    if !(own && kept.own.push(page)) {
        retire(page);
    }
}

/// Takes a page that another CPU may be looking at. It becomes free when every CPU has been in no call since. No lock is
/// held.
#[cold]
#[inline(never)]
pub fn retire(page: PhysAddr) {
    let kept = &cpu::this().local.quarantine;
    if !kept.leaving.push(page) {
        let _ = release();
        let _ = kept.leaving.push(page);
    }
}

/// Gives all pages that this CPU keeps back. No lock is held. False if there were none.
pub fn release() -> bool {
    let kept = &cpu::this().local.quarantine;
    if kept.own.len.get() + kept.leaving.len.get() == 0 {
        return false;
    }
    shootdown::all();
    for stack in [&kept.own, &kept.leaving] {
        while let Some(page) = stack.pop() {
            memory::free_page(page);
        }
    }
    true
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
    t.travel.node.set(cpu.node());
    count(Counter::TcbMoves);
    // It may have been another thread's before, in whose slot somebody still sees it.
    put(old, false);
}
