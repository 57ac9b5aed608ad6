//! What one CPU sees of its own things.

use core::sync::atomic::Ordering;

use kcore::ipc::Key;
use kcore::layout::{CPU_LOCAL, KERNEL_IMAGE, PAGE_SIZE, STUB_PAGE};
use kcore::mapdb::holdings::{Part, holdings};
use kcore::types::{CpuId, NodeId, PhysAddr, VirtAddr};

use super::{Kind, NUMBER, SUMS, judge, memory_node};
use crate::arch::x86_64::{tables, tcb_area};
use crate::boot::placement::{self, Item};
use crate::memory::home;
use crate::sched::percpu::PerCpu;
use crate::space::{SpaceRef, env};
use crate::thread::tcb::TcbRef;
use crate::{cpu, machine, thread};

/// Longest ready queue that is looked at.
const MOST_READY: usize = 100_000;

/// Looks at everything that this CPU owns.
pub fn look(cpu: &PerCpu) {
    let node = memory_node(cpu.number());
    let number = cpu.number();
    own_things(cpu, node);
    for t in tcb_area::present().filter_map(thread::present) {
        // Its key says who owns it; only then may the rest be read.
        if t.key().cpu() == number {
            one_thread(t, node);
        }
    }
    cpu.ready.visit(MOST_READY, &mut |t, _| {
        if t.key().has(Key::VISITING) {
            return; // It is about to go home.
        }
        let what = format_args!("thread {:#x}, ready on cpu {number},", t.id.get());
        judge(Kind::Ready, page_of(t), node, what);
    });
}

/// What a CPU has whoever runs on it.
fn own_things(cpu: &PerCpu, node: NodeId) {
    let number = cpu.number();
    placement::observe();
    let found = &cpu::this().shared.placement;
    for (item, name, phys) in found.items().filter(|(item, ..)| *item != Item::Data) {
        // The root that is loaded now may be a space's.
        let kind = if item == Item::Root { Kind::Root } else { Kind::Cpu };
        judge(kind, phys, node, format_args!("{name} of cpu {number}"));
    }
    for at in [CPU_LOCAL.as_u64(), KERNEL_IMAGE.as_u64(), STUB_PAGE.as_u64()] {
        for &table in tables::walk_live(VirtAddr::new(at)).tables() {
            judge(Kind::Cpu, table, node, format_args!("page table of cpu {number}"));
        }
    }
    let idle = VirtAddr::new(core::ptr::from_ref(cpu.idle.get()) as u64);
    judge(Kind::Idle, idle.window_phys(), node, format_args!("idle thread of cpu {number}"));
    cpu::this().local.magazine.visit(|at| {
        judge(Kind::FreeNode, PhysAddr::new(at), node, format_args!("free node of cpu {number}"));
    });
    let home = VirtAddr::new(core::ptr::from_ref(home::of(cpu.node())) as u64);
    judge(Kind::Home, home.window_phys(), node, format_args!("what cpu {number} has of its node"));
}

/// The page that the array shows for `t`, on the tables of this CPU.
fn page_of(t: TcbRef) -> PhysAddr {
    let slot = VirtAddr::new(core::ptr::from_ref(t) as u64);
    tables::walk_live(slot).phys().unwrap_or(PhysAddr::ZERO)
}

/// A thread of this CPU. One that is not at home here lies on its home's node, as its queues do.
fn one_thread(t: TcbRef, here: NodeId) {
    let (id, home_cpu) = (t.id.get(), t.travel.home());
    let home = memory_node(home_cpu);
    let visits = t.key().has(Key::VISITING);
    SUMS.visitors.fetch_add(u64::from(visits), Ordering::Relaxed);
    let slot = VirtAddr::new(core::ptr::from_ref(t) as u64);
    let walk = tables::walk_live(slot);
    // A visitor that was migrated takes its page along when it gets home.
    if t.travel.is_placed(home_cpu) || !visits {
        let known = VirtAddr::new(t.travel.page.get()).window_phys();
        // What it believes of itself is what the array shows, or the page is nowhere.
        let page = walk.phys().filter(|&shown| shown == known).unwrap_or(PhysAddr::ZERO);
        judge(Kind::Tcb, page, home, format_args!("thread {id:#x} of cpu {home_cpu}"));
    }
    for &table in walk.tables() {
        judge(Kind::TcbTable, table, here, format_args!("a table of the array"));
    }
    let Some(space) = t.space.get() else { return };
    if t.root.get() != 0 {
        let root = PhysAddr::new(t.root.get()).page_base();
        judge(Kind::Root, root, home, format_args!("root of thread {id:#x} of cpu {home_cpu}"));
    }
    if t.utcb.get() != 0 {
        let at = VirtAddr::new(t.utcb.get()).window_phys();
        judge(Kind::Utcb, at, space.home(), format_args!("UTCB of thread {id:#x}"));
    }
    if space.is_first_look(NUMBER.load(Ordering::Relaxed)) {
        one_space(space, id);
    }
}

/// A space of which this CPU owns a thread, so that it stays.
fn one_space(space: SpaceRef, id: u64) {
    let home = space.home();
    let object = VirtAddr::new(core::ptr::from_ref(space) as u64);
    judge(Kind::Space, object.window_phys(), home, format_args!("space of thread {id:#x}"));
    for n in 0..machine::get().topology.nr_cpus() {
        let root = space.root_on(CpuId::new(n as u16).index());
        if root != 0 {
            let what = format_args!("root of the space of thread {id:#x} on cpu {n}");
            judge(Kind::SpaceRoot, PhysAddr::new(root), memory_node(n as u16), what);
        }
    }
    let utcbs = space.utcb_area();
    let mut part = |part| match part {
        Part::Table(at) => {
            for page in [at, at + PAGE_SIZE] {
                let what = format_args!("table of the space of thread {id:#x}");
                judge(Kind::Table, PhysAddr::new(page), home, what);
            }
        }
        Part::Page { va, frame, node: 0, .. } if utcbs.base() <= va && va <= utcbs.last() => {
            let what = format_args!("UTCBs of the space of thread {id:#x} at {va:#x}");
            judge(Kind::Utcb, PhysAddr::new(frame), home, what);
        }
        // The KIP is one page for all.
        Part::Page { node: 0, .. } => {}
        Part::Page { abroad: true, .. } => {
            SUMS.abroad.fetch_add(1, Ordering::Relaxed);
        }
        Part::Page { va, node, .. } => {
            let what = format_args!("mapping node of {va:#x} of the space of thread {id:#x}");
            judge(Kind::MappingNode, PhysAddr::new(node), home, what);
        }
    };
    space.tables.acquire();
    let _ = holdings(space.top().as_u64(), &env::look, &mut part);
    space.tables.release();
}
