//! The kernel's side of the mapping database: map items, faults of sigma0, kernel pages in user spaces, the end of
//! a space. Every operation runs in bounded steps and flushes once, when it is over or lets others in.

use kcore::layout::PAGE_SIZE;
use kcore::mapdb::{DeleteOp, FlushSet, MapOp, Progress, Session, SpaceRef as DbSpace, map_single};
use kcore::types::PhysAddr;
use l4abi::acceptor::Acceptor;
use l4abi::error::IpcCode;
use l4abi::fpage::{Fpage, FpageKind, Region, plan_map};
use l4abi::item::{ItemHead, MAP_TYPE};

use crate::cross::shootdown;
use crate::ipc::kernel_msg;
use crate::ipc::transfer::{self, Item};
use crate::sched::percpu::PerCpu;
use crate::space::env::{Kernel, name};
use crate::space::{self, Space, SpaceRef, io};
use crate::thread::tcb::TcbRef;

/// Page-table entries and nodes per step: what one stretch without preemption may cost.
const STEP: i32 = 256;

/// log2 of the small page.
const SMALL: u8 = 12;

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

/// The run of map and grant items that begins at MR `first` of `sender`, for `dest`; the typed part ends with MR
/// `end`. Answers how it went and how many words the run has.
///
/// All items of a run are one stay in the database, flushed once: the tables and locks at hand serve the next page.
pub fn items(
    cpu: &PerCpu,
    sender: TcbRef,
    dest: TcbRef,
    first: usize,
    end: usize,
) -> (Item, usize) {
    let (Some(from), Some(to)) = (sender.space.get(), dest.space.get()) else {
        return (Item::Done, end + 1 - first);
    };
    let acceptor = kernel_msg::acceptor(dest);
    let parties = Parties { sender, from, to, acceptor, window: acceptor.window_region() };
    let mut flush = FlushSet::new();
    let mut session = Session::new(&Kernel, &mut flush);
    session.guess(cpu.map_hint.get());
    let mut at = first;
    let mut budget = STEP;
    let outcome = loop {
        while at < end && parties.small_page(&mut session, at).is_some() {
            at += ITEM_WORDS;
        }
        let mut op = match parties.item(at, end) {
            Next::None => break Item::Done,
            Next::Skip => {
                at += ITEM_WORDS;
                continue;
            }
            Next::Overflow => break Item::Failed(IpcCode::Overflow, IpcCode::Overflow),
            Next::Map(op) => op,
        };
        // Out of memory ends the item where it stands, as if the rest had not been mapped in the sender: the
        // receiver faults again and its pager sees that nothing helps.
        while op.step(&mut session, &mut budget) == Ok(Progress::More) {
            drop(session);
            shootdown::flush(&mut flush);
            session = Session::new(&Kernel, &mut flush);
            budget = STEP;
        }
        at += ITEM_WORDS;
    };
    cpu.map_hint.set(session.hint());
    drop(session);
    shootdown::flush(&mut flush);
    crate::trace::map(sender, dest, first..at);
    (outcome, at - first)
}

/// Maps one small page from the space of the running thread into any place of space `to`, as the map item of words
/// `head` and `fpage` says, if the database has a short path for it. False says that nothing has changed.
#[inline(always)]
pub fn one_page(cpu: &PerCpu, from: SpaceRef, to: SpaceRef, head: u64, fpage: u64) -> bool {
    const TYPE: u64 = 0xE;
    let ours = head & TYPE == MAP_TYPE && Fpage::from_raw(fpage).size_field() == SMALL;
    if !ours || from.is_sigma0() {
        return false;
    }
    let source = (name(from), fpage & !(PAGE_SIZE - 1));
    let target = (name(to), head & !(PAGE_SIZE - 1));
    map_single(&Kernel, cpu.map_hint.get(), source, target, fpage as u8 & 7)
}

/// Words of a map or grant item.
const ITEM_WORDS: usize = 2;

/// Who maps to whom, and the receiver's window.
struct Parties {
    sender: TcbRef,
    from: SpaceRef,
    to: SpaceRef,
    acceptor: Acceptor,
    window: Option<Region>,
}

/// What comes next in a run of map items.
enum Next {
    /// Something else, or nothing.
    None,
    /// An item that is done.
    Skip,
    /// The receiver takes no mappings.
    Overflow,
    /// A mapping.
    Map(MapOp),
}

impl Parties {
    /// Maps the item at MR `at` by the database's short path, if it is a small page and that applies.
    #[inline(always)]
    fn small_page(&self, session: &mut Session<'_, Kernel>, at: usize) -> Option<()> {
        let window = self.window.filter(|w| w.size_log2() >= SMALL)?;
        let (head, fpage) = (transfer::word(self.sender, at), transfer::word(self.sender, at + 1));
        let ours = Fpage::from_raw(fpage).size_field() == SMALL && !self.from.is_sigma0();
        if !ours || !matches!(ItemHead::parse(head), Ok(ItemHead::Map { .. })) {
            return None;
        }
        let inside = (window.last() - window.base()) & !(PAGE_SIZE - 1);
        let source = (name(self.from), fpage & !(PAGE_SIZE - 1));
        let target = (name(self.to), window.base() | (head & inside));
        session.map_page(source, target, fpage as u8 & 7)
    }

    /// The item at MR `at`.
    #[inline(always)]
    fn item(&self, at: usize, end: usize) -> Next {
        if at >= end {
            return Next::None;
        }
        let head = transfer::word(self.sender, at);
        let grant = match ItemHead::parse(head) {
            Ok(ItemHead::Map { .. }) => false,
            Ok(ItemHead::Grant { .. }) => true,
            _ => return Next::None,
        };
        let fpage = Fpage::from_raw(transfer::word(self.sender, at + 1));
        if let FpageKind::Io(ports) = fpage.kind() {
            return match io::map(self.from, self.to, ports, self.acceptor.window_fpage(), grant) {
                true => Next::Skip,
                false => Next::Overflow,
            };
        }
        let Some(window) = self.window else { return Next::Overflow };
        let Some(send) = fpage.memory_region() else { return Next::Skip };
        let plan = plan_map(send, window, head & !0x3FF);
        let source = if self.from.is_sigma0() { DbSpace::PHYSICAL } else { name(self.from) };
        let len = 1u64.checked_shl(u32::from(plan.source.size_log2())).unwrap_or(0);
        Next::Map(MapOp::new(
            &Kernel,
            (source, plan.source.base()),
            (name(self.to), plan.target.base()),
            len,
            fpage.rights().bits(),
            grant,
        ))
    }
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
    shootdown::evict(name(space));
    space.free();
}
