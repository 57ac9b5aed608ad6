//! The kernel's side of the mapping database: map items, faults of sigma0, kernel pages in user spaces, the end of
//! a space. Every operation runs in bounded steps and flushes once, when it is over or lets others in.

use kcore::layout::PAGE_SIZE;
use kcore::mapdb::{DeleteOp, FlushSet, MapOp, Progress, Session, SpaceRef as DbSpace};
use kcore::types::PhysAddr;
use l4abi::error::IpcCode;
use l4abi::fpage::{Fpage, FpageKind, plan_map};

use crate::cross::shootdown;
use crate::ipc::kernel_msg;
use crate::ipc::transfer::{self, Item};
use crate::sched::percpu::PerCpu;
use crate::space::env::{Kernel, name};
use crate::space::{self, Space, SpaceRef, io};
use crate::thread::tcb::TcbRef;

/// Page-table entries and nodes per step: what one stretch without preemption may cost.
const STEP: i32 = 256;

/// Runs `step` until it is done, with the locks released and the flushes sent between steps.
fn in_steps(mut step: impl FnMut(&mut Session<'_, Kernel>, &mut i32) -> Progress) {
    loop {
        let mut flush = FlushSet::new();
        let mut budget = STEP;
        let progress = step(&mut Session::new(&Kernel, &mut flush), &mut budget);
        shootdown::flush(&mut flush);
        if progress == Progress::Done {
            return;
        }
    }
}

/// The map or grant item at MR `at` of `sender`, for `dest`.
pub fn item(_cpu: &PerCpu, sender: TcbRef, dest: TcbRef, at: usize, grant: bool) -> Item {
    let acceptor = kernel_msg::acceptor(dest);
    let base = transfer::word(sender, at) & !0x3FF;
    let fpage = Fpage::from_raw(transfer::word(sender, at + 1));
    let (Some(from), Some(to)) = (sender.space.get(), dest.space.get()) else { return Item::Done };
    let send = match fpage.kind() {
        FpageKind::Io(_) => {
            io::map(from, to, fpage, grant);
            return Item::Done;
        }
        _ => fpage.memory_region(),
    };
    let Some(window) = acceptor.window_region() else {
        return Item::Failed(IpcCode::Overflow, IpcCode::Overflow);
    };
    let Some(send) = send else { return Item::Done };
    let plan = plan_map(send, window, base);
    let source = if space::is_sigma0(sender) { DbSpace::PHYSICAL } else { name(from) };
    let len = 1u64.checked_shl(u32::from(plan.source.size_log2())).unwrap_or(0);
    let mut op = MapOp::new(
        &Kernel,
        (source, plan.source.base()),
        (name(to), plan.target.base()),
        len,
        fpage.rights().bits(),
        grant,
    );
    // Out of memory ends the item where it stands, as if the rest had not been mapped in the sender: the
    // receiver faults again and its pager sees that nothing helps.
    in_steps(|s, budget| op.step(s, budget).unwrap_or(Progress::Done));
    Item::Done
}

/// A page fault of sigma0: maps the page of physical memory at the same address. False if there is no such
/// memory or no memory for the tables.
pub fn resolve_identity(space: SpaceRef, address: u64) -> bool {
    let page = address & !(PAGE_SIZE - 1);
    let before = space::user::walk(space, page).is_some();
    let mut op =
        MapOp::new(&Kernel, (DbSpace::PHYSICAL, page), (name(space), page), PAGE_SIZE, 7, false);
    in_steps(|s, budget| op.step(s, budget).unwrap_or(Progress::Done));
    !before && space::user::walk(space, page).is_some()
}

/// Enters a page of the kernel (UTCB, KIP) at `va`; user level can read it, and write it if `writable`. False if
/// there is no memory for the tables.
pub fn enter_kernel_page(space: &'static Space, va: u64, page: PhysAddr, writable: bool) -> bool {
    let mut flush = FlushSet::new();
    let entered = Session::new(&Kernel, &mut flush)
        .enter_kernel_page(name(space), va, page, writable)
        .is_ok();
    shootdown::flush(&mut flush);
    entered
}

/// The end of a space: everything it holds is revoked, its tables and pages return to their pools.
pub fn delete(_cpu: &PerCpu, space: SpaceRef) {
    space.release_utcb_pages();
    io::release(space);
    let mut op = DeleteOp::new(name(space));
    in_steps(|s, budget| op.step(s, budget));
    space.free();
}
