//! Telling CPUs to forget translations (numa-l4 3.3): once per operation, only where they can be.
//!
//! A CPU can have translations of a space only while it has the space's root loaded: without process context
//! identifiers a change of root forgets all others. Every CPU notes its root before it loads it
//! (`PerCpu::root`), so the exact set is: the CPUs whose noted root is the space's root for them. A CPU enters a root
//! into the space before it notes it, so only the notes of CPUs that the space has a root for are read. The initiator
//! changes the tables, then (after a fence) reads the notes; a CPU notes, then loads, then walks. So
//! either the initiator sees the root, or the walk sees the change. Switching writes nothing that others read
//! unless there is a shootdown.
//!
//! An idle CPU keeps the root of the last space loaded. When that space is shot down it goes to the kernel's own
//! root: one interrupt, then none. So no root of a space that is deleted stays loaded.
//!
//! The request lies in the initiator's block; the target clears its bit after the flush (`kcore::cross::post`).
//! The initiator holds no lock and serves requests of others while it waits.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use kcore::layout::PAGE_SIZE;
use kcore::mapdb::{FlushRange, FlushSet, RANGES, SpaceRef as DbSpace};
use kcore::types::{CpuId, NodeId, VirtAddr};

use crate::arch::x86_64::{apic, cpulocal, regs, tlb, vectors};
use crate::cpu;
use crate::cross::counters::{Counter, count};
use crate::memory::home;
use crate::sched::percpu::PerCpu;
use crate::sched::this_cpu;
use crate::space::env::{self, Kernel};
use crate::trace;

/// More pages than this: all user translations at once.
const SINGLY: u64 = 32;

/// Kinds of requests.
mod kind {
    /// The ranges.
    pub const RANGES: u64 = 0;
    /// All user translations.
    pub const USER: u64 = 1;
    /// Everything, the kernel's own included.
    pub const ALL: u64 = 2;
    /// One page of the kernel, its address in the first range's start.
    pub const KERNEL_PAGE: u64 = 3;
    /// Not translations: the caches go back to memory.
    pub const CACHES: u64 = 4;
}

/// What a CPU wants others to flush. It writes it before it sets its bit in their posts.
#[derive(Debug)]
#[repr(align(64))]
pub struct Request {
    kind: AtomicU64,
    len: AtomicU64,
    ranges: [[AtomicU64; 3]; RANGES],
}

impl Request {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            kind: AtomicU64::new(0),
            len: AtomicU64::new(0),
            ranges: [const { [const { AtomicU64::new(0) }; 3] }; RANGES],
        }
    }

    fn write(&self, kind: u64, ranges: &[FlushRange]) {
        self.kind.store(kind, Ordering::Relaxed);
        self.len.store(ranges.len() as u64, Ordering::Relaxed);
        for (slot, range) in self.ranges.iter().zip(ranges) {
            slot[0].store(range.space.0, Ordering::Relaxed);
            slot[1].store(range.start, Ordering::Relaxed);
            slot[2].store(range.end, Ordering::Relaxed);
        }
    }

    fn range(&self, i: usize) -> FlushRange {
        let [space, start, end] = &self.ranges[i];
        FlushRange {
            space: DbSpace(space.load(Ordering::Relaxed)),
            start: start.load(Ordering::Relaxed),
            end: end.load(Ordering::Relaxed),
        }
    }
}

/// Does what `set` asks for and empties it. No lock is held. Follows every stay in the mapping database.
#[inline]
pub fn flush(set: &mut FlushSet) {
    if !set.is_empty() {
        flush_some(set);
    }
    let own = cpu::this();
    let mut nodes = own.local.announced.replace(0);
    while nodes != 0 {
        let node = NodeId::new(nodes.trailing_zeros() as u8);
        nodes &= nodes - 1;
        home::of(node).pending[own.identity.id.index()].withdraw();
    }
}

/// This CPU is about to take the mapping lock of `node`: it announces that entries for frames of the node may change.
/// [`flush`] withdraws that.
#[inline(always)]
pub fn announce(node: NodeId) {
    let own = cpu::this();
    let (nodes, bit) = (own.local.announced.get(), 1 << node.get());
    if nodes & bit == 0 {
        own.local.announced.set(nodes | bit);
        home::of(node).pending[own.identity.id.index()].announce();
    }
}

/// The nodes in whose mappings this CPU has announced changes, a bit each.
pub fn announced() -> u64 {
    cpu::this().local.announced.get()
}

/// Waits until everybody has forgotten what other CPUs had taken out of tables until now: who found nothing to do
/// there must not say that it is gone before it is (`kcore::cross::pending`). `nodes` are those whose frames it is
/// about, a bit each; the announcements lie in their memory.
pub fn wait_for_others(nodes: u64) {
    fence(Ordering::SeqCst);
    let me = usize::from(this_cpu().number());
    let known = crate::machine::get().topology.nr_nodes() as u8;
    for node in (0..known).filter(|node| nodes >> node & 1 != 0) {
        let all = &home::of(NodeId::new(node)).pending[..cpu::count()];
        for (_, pending) in all.iter().enumerate().filter(|(number, _)| *number != me) {
            pending.wait(|| {
                serve();
                core::hint::spin_loop();
            });
        }
    }
}

fn flush_some(set: &mut FlushSet) {
    let cpu = this_cpu();
    let kind = if set.everything() { kind::USER } else { kind::RANGES };
    let ranges = set.ranges();
    if kind == kind::USER {
        forget_user(cpu);
    } else {
        ranges.iter().for_each(|r| forget_range(cpu, r));
    }
    tell(cpu, kind, ranges, |id| match kind {
        kind::USER => true,
        _ => ranges.iter().any(|r| may_have(r.space, id) && runs(r.space, id)),
    });
    set.take_retired(&Kernel);
}

/// Makes sure that no CPU has a root of the space loaded: it is about to be freed.
pub fn evict(space: DbSpace) {
    let mut set = FlushSet::new();
    set.add_space(space);
    flush(&mut set);
}

/// Lets every CPU forget one page of the kernel.
pub fn kernel_page(at: VirtAddr) {
    cpulocal::forget_page(at);
    let range = FlushRange { space: DbSpace::NONE, start: at.as_u64(), end: at.as_u64() };
    tell(this_cpu(), kind::KERNEL_PAGE, &[range], |_| true);
}

/// Lets every CPU write its caches back to memory: pages have a new cache attribute, and nobody has the old one any more.
pub fn write_back_caches() {
    regs::write_back_caches();
    tell(this_cpu(), kind::CACHES, &[], |_| true);
}

/// Lets every CPU forget everything.
pub fn all() {
    tlb::forget_all();
    tell(this_cpu(), kind::ALL, &[], |_| true);
}

/// Whether `root` is the root table of `space` on CPU `number`.
fn has_root(space: DbSpace, number: usize, root: u64) -> bool {
    space != DbSpace::PHYSICAL
        && space != DbSpace::NONE
        && env::space(space).root_on(number) == root
}

/// Whether CPU `id` has ever had a root of `space`. The space knows, so asking touches only its home's memory; the CPU's
/// own note is read only where the answer is yes.
fn may_have(space: DbSpace, id: CpuId) -> bool {
    space != DbSpace::PHYSICAL
        && space != DbSpace::NONE
        && env::space(space).root_on(id.index()) != 0
}

/// Whether CPU `id` has the root of `space` loaded, or is about to load it.
fn runs(space: DbSpace, id: CpuId) -> bool {
    cpu::root_of(id).is_some_and(|root| has_root(space, id.index(), root))
}

/// Sends a request to the CPUs for which `wanted` holds, and waits until all have done it.
fn tell(cpu: &PerCpu, kind: u64, ranges: &[FlushRange], wanted: impl Fn(CpuId) -> bool) {
    // The tables are changed before the roots are read: see the head of the file.
    fence(Ordering::SeqCst);
    let me = usize::from(cpu.number());
    let mut targets = [0u64; kcore::layout::MAX_CPUS / 64];
    let mut asked = false;
    for number in (0..cpu::count()).filter(|&n| n != me) {
        let id = CpuId::new(number as u16);
        let Some(shared) = cpu::shared_of(id).filter(|_| wanted(id)) else { continue };
        if !asked {
            cpu::this().shared.request.write(kind, ranges);
            count(Counter::Shootdowns);
            trace::shootdown_request(kind);
            asked = true;
        }
        targets[number / 64] |= 1 << (number % 64);
        shared.shootdowns.ask(me);
        if let Some(apic_id) = cpu::apic_id_of(id) {
            trace::ipi_sent(vectors::SHOOTDOWN, number as u16);
            apic::send(vectors::SHOOTDOWN, apic_id);
            count(Counter::ShootdownInterrupts);
        }
    }
    for (i, mut bits) in targets.into_iter().enumerate() {
        while bits != 0 {
            let number = i * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let Some(shared) = cpu::shared_of(CpuId::new(number as u16)) else { continue };
            while shared.shootdowns.is_open(me) {
                serve();
                core::hint::spin_loop();
            }
        }
    }
    if asked {
        trace::shootdown_done(&targets);
    }
}

/// Does what other CPUs ask for.
pub fn serve() {
    let own = &cpu::this().shared;
    if own.shootdowns.is_empty() {
        return;
    }
    let cpu = this_cpu();
    own.shootdowns.answer(|from| {
        count(Counter::ShootdownsServed);
        let Some(shared) = cpu::shared_of(CpuId::new(from as u16)) else { return };
        let request = &shared.request;
        match request.kind.load(Ordering::Relaxed) {
            kind::USER => forget_user(cpu),
            kind::ALL => tlb::forget_all(),
            kind::CACHES => regs::write_back_caches(),
            kind::KERNEL_PAGE => cpulocal::forget_page(VirtAddr::new(request.range(0).start)),
            _ => {
                let len = (request.len.load(Ordering::Relaxed) as usize).min(RANGES);
                (0..len).for_each(|i| forget_range(cpu, &request.range(i)));
            }
        }
        trace::shootdown_served(from);
    });
}

/// The root that is loaded belongs to no thread that runs: the kernel's own instead. True if that was so.
fn leave_root(cpu: &PerCpu) -> bool {
    let kernel = cpu.kernel_root().as_u64();
    let idle = cpu.current.get().root.get() != cpu.root.get();
    if idle && cpu.root.get() != kernel {
        cpu.root.set(kernel);
        cpulocal::load_root(kernel);
    }
    idle
}

fn forget_user(cpu: &PerCpu) {
    if !leave_root(cpu) {
        cpulocal::load_root(cpu.root.get());
    }
}

fn forget_range(cpu: &PerCpu, range: &FlushRange) {
    if !has_root(range.space, usize::from(cpu.number()), cpu.root.get()) || leave_root(cpu) {
        return;
    }
    if range.is_all() || (range.end - range.start) / PAGE_SIZE > SINGLY {
        cpulocal::load_root(cpu.root.get());
        return;
    }
    let mut at = range.start;
    while at < range.end {
        cpulocal::forget_page(VirtAddr::new(at));
        at += PAGE_SIZE;
    }
}
