//! Pages behind the slots of the TCB array.
//!
//! Every node has its own tables for the array (l4-smp 8.6, numa-l4 4.1.3). At first one leaf table per node
//! serves all of it, and every slot shows the node's page of nobody, whose id is 0 and whose key names no CPU; a group of
//! 512 slots gets a leaf table of its own, on every node, when its first thread is created.
//!
//! A CPU may still have the old translation of a slot after a change. Looking a thread up therefore drops the
//! slot's translation and looks again before it says that there is no such thread (`thread::lookup`), so neither
//! creation nor deletion has to interrupt anybody. A page that leaves the array has id 0 and may become another
//! thread's, but nothing else until no CPU can have its translation (`cross::quarantine`).

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::layout::{MAX_NODES, TABLE_ENTRIES, tcb_slot};
use kcore::paging::{ADDRESS, Entry, Mapper};
use kcore::types::{NodeId, PhysAddr, ThreadNo};
use spin::Mutex;

use super::cpulocal;
use super::paging;
use super::tables::PoolTables;
use crate::memory;
use crate::util::sealed;

const KERNEL_RW: u64 = paging::KERNEL_RW.bits();

/// What a node needs to change its view of the array. Constant once the kernel address space exists.
struct NodeView {
    /// The node.
    node: AtomicU64,
    /// Physical address of the directory whose entries name leaf tables.
    directory: AtomicU64,
    /// The leaf table that all slots shared at first.
    shared_leaf: AtomicU64,
    /// The entry that shows the page of nobody.
    nobody_entry: AtomicU64,
}

sealed! {
    /// The views of the nodes that have one, without gaps; the first without a directory ends them.
    static VIEWS: [NodeView; MAX_NODES] = [const {
        NodeView {
            node: AtomicU64::new(0),
            directory: AtomicU64::new(0),
            shared_leaf: AtomicU64::new(0),
            nobody_entry: AtomicU64::new(0),
        }
    }; MAX_NODES];
}

/// Serialises changes of the array's tables; lookups take no lock.
static CHANGE: Mutex<()> = Mutex::new(());

#[inline(always)]
fn read(table: PhysAddr, index: usize) -> u64 {
    // SAFETY: tables of the array are pool pages, mapped at their window for ever.
    unsafe { paging::window(table).cast::<u64>().add(index & 511).read_volatile() }
}

#[inline(always)]
fn write(table: PhysAddr, index: usize, entry: u64) {
    // SAFETY: as above; changed only under `CHANGE`, one aligned word at a time.
    unsafe { paging::window(table).cast::<u64>().add(index & 511).write_volatile(entry) };
}

/// Learns the tables of `node` from its root table. Called once per node at boot.
pub fn learn(node: NodeId, root: PhysAddr) {
    let at = kcore::layout::TCB_AREA;
    let walk = Mapper::new(root).walk(&PoolTables::existing(), at);
    let (Some(directory), Some(leaf)) = (walk.table_of_level(2), walk.table_of_level(1)) else {
        return;
    };
    let Some(view) = VIEWS.get(views().count()) else { return };
    view.node.store(u64::from(node.get()), Ordering::Relaxed);
    view.directory.store(directory.as_u64(), Ordering::Relaxed);
    view.shared_leaf.store(leaf.as_u64(), Ordering::Relaxed);
    view.nobody_entry.store(read(leaf, 0), Ordering::Relaxed);
}

#[inline(always)]
fn views() -> impl Iterator<Item = &'static NodeView> {
    VIEWS.iter().take_while(|view| view.directory.load(Ordering::Relaxed) != 0)
}

impl NodeView {
    /// The leaf table for the group of `number`.
    #[inline(always)]
    fn leaf(&self, number: ThreadNo) -> PhysAddr {
        let directory = PhysAddr::new(self.directory.load(Ordering::Relaxed));
        PhysAddr::new(read(directory, number.index() / TABLE_ENTRIES) & ADDRESS)
    }

    /// The node's own leaf table for the group of `number`, made if it is still the shared one.
    #[inline(always)]
    fn own_leaf(&self, number: ThreadNo) -> Option<PhysAddr> {
        let leaf = self.leaf(number);
        if leaf.as_u64() != self.shared_leaf.load(Ordering::Relaxed) {
            return Some(leaf);
        }
        self.make_leaf(number)
    }

    #[cold]
    #[inline(never)]
    fn make_leaf(&self, number: ThreadNo) -> Option<PhysAddr> {
        let node = NodeId::new(self.node.load(Ordering::Relaxed) as u8);
        let fresh = memory::alloc_page_raw(node).ok()?;
        for slot in 0..TABLE_ENTRIES {
            write(fresh, slot, self.nobody_entry.load(Ordering::Relaxed));
        }
        // The content is the same as before, so no translation that anybody has becomes wrong.
        let directory = PhysAddr::new(self.directory.load(Ordering::Relaxed));
        write(directory, number.index() / TABLE_ENTRIES, Entry::table(fresh).bits());
        Some(fresh)
    }

    #[inline(always)]
    fn is_free(&self, leaf: PhysAddr, number: ThreadNo) -> bool {
        read(leaf, number.index() % TABLE_ENTRIES) == self.nobody_entry.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn show(&self, leaf: PhysAddr, number: ThreadNo, entry: u64) {
        write(leaf, number.index() % TABLE_ENTRIES, entry);
    }
}

/// Shows `page` in the slot of `number` on every node: from here on the thread can be found. False if a node has no
/// memory for the table, or if another CPU has just filled the slot.
#[inline(always)]
pub fn map(number: ThreadNo, page: PhysAddr) -> bool {
    let guard = CHANGE.lock();
    for view in views() {
        match view.own_leaf(number) {
            Some(leaf) if view.is_free(leaf, number) => {
                view.show(leaf, number, page.as_u64() | KERNEL_RW);
            }
            _ => {
                drop(guard);
                give_up(number, page);
                return false;
            }
        }
    }
    forget(number);
    true
}

/// Takes back what an unfinished [`map`] has done.
#[cold]
fn give_up(number: ThreadNo, page: PhysAddr) {
    let _guard = CHANGE.lock();
    for view in views() {
        let leaf = view.leaf(number);
        if read(leaf, number.index() % TABLE_ENTRIES) & ADDRESS == page.as_u64() {
            view.show(leaf, number, view.nobody_entry.load(Ordering::Relaxed));
        }
    }
    forget(number);
}

/// Shows the page of nobody in the slot of `number`, which has a page of its own, again.
#[inline(always)]
pub fn unmap(number: ThreadNo) {
    let _guard = CHANGE.lock();
    for view in views() {
        view.show(view.leaf(number), number, view.nobody_entry.load(Ordering::Relaxed));
    }
    forget(number);
}

#[inline(always)]
fn forget(number: ThreadNo) {
    cpulocal::forget_page(tcb_slot(number));
}

/// Shows `page` in the slot of `number` on every node instead of the page there.
pub fn replace(number: ThreadNo, page: PhysAddr) {
    let _guard = CHANGE.lock();
    for view in views() {
        view.show(view.leaf(number), number, page.as_u64() | KERNEL_RW);
    }
    forget(number);
}

/// Copies the page of a thread that is of this CPU to a fresh page.
pub fn copy(from: PhysAddr, to: PhysAddr) {
    let (from, to) = (paging::window(from), paging::window(to));
    // SAFETY: two pool pages; the thread's owner, this CPU, is the only one that writes the first, and nobody else
    // knows the second.
    unsafe { to.copy_from_nonoverlapping(from, kcore::layout::PAGE_SIZE as usize) };
}

/// Numbers whose slot shows a page of its own, now or a moment ago.
pub fn present() -> impl Iterator<Item = ThreadNo> {
    views().next().into_iter().flat_map(|view| {
        let directory = PhysAddr::new(view.directory.load(Ordering::Relaxed));
        let shared = view.shared_leaf.load(Ordering::Relaxed);
        let nobody = view.nobody_entry.load(Ordering::Relaxed) & ADDRESS;
        (0..TABLE_ENTRIES).flat_map(move |group| {
            let leaf = read(directory, group) & ADDRESS;
            let slots = if leaf == shared { 0 } else { TABLE_ENTRIES };
            (0..slots)
                .filter(move |&n| read(PhysAddr::new(leaf), n) & ADDRESS != nobody)
                .map(move |n| ThreadNo::new((group * TABLE_ENTRIES + n) as u32))
        })
    })
}
