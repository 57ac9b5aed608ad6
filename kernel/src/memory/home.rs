//! What the kernel keeps for every node in that node's own memory: the mapping lock, the slab that mapping
//! nodes come from, and page tables of spaces that are gone, which are known to be empty. Every node's copy of the CPU table says where (`cpu::NodePage::homes`), so finding them reads
//! local memory only.
//!
//! In front of the slab every CPU has a *magazine* of free mapping nodes of the node it runs on, so that the usual
//! allocation and release are a few instructions without a lock. An empty magazine takes all free nodes of one page
//! of the slab, a full one gives some back. What lies in one counts as allocated for the slab and keeps its pages from going back to the pool: at most
//! [`MAGAZINE`] nodes per CPU.
//!
//! Lock order: these locks are taken after mapping and space locks, never two at once, and before the pool's.

#![expect(
    unsafe_code,
    reason = "free mapping nodes and the per-node objects are pool memory, reached by address"
)]

use core::cell::Cell;
use core::sync::atomic::AtomicU64;

use kcore::cross::pending::Pending;
use kcore::layout::{MAX_CPUS, MAX_NODES, PAGE_SIZE};
use kcore::pool::{OutOfMemory, Pools};
use kcore::slab::{Slab, SlabCounters, SlabMemory};
use kcore::topology::Topology;
use kcore::types::{NodeId, PhysAddr};
use spin::Mutex;

use crate::cpu;
use crate::memory;
use crate::util::ServingLock;

/// Bytes of a mapping node (`kcore::mapdb`).
const MAPPING_NODE: u64 = 64;
/// From a table to its shadow.
const SHADOW: u64 = PAGE_SIZE;
/// Free mapping nodes that a CPU keeps at most: more than a page has.
const MAGAZINE: u32 = 96;
/// How many it gives back at once.
const BATCH: u32 = 32;
/// Empty table pairs that a node keeps at most.
const TABLES: usize = 24;

/// What a node has for itself.
#[repr(C)]
pub struct NodeHome {
    /// Covers all mapping nodes and page entries of memory on the node.
    pub tree: ServingLock,
    /// Mapping nodes.
    nodes: Mutex<Slab>,
    /// Empty table pairs.
    tables: Mutex<Tables>,
    /// What each CPU has taken out of tables under the lock and not had forgotten everywhere yet
    /// (`cross::shootdown`). Stored by its CPU while it takes the lock, so sharing lines with others costs no more than
    /// the lock does.
    pub pending: [Pending<AtomicU64>; MAX_CPUS],
}

/// Empty table pairs (`kcore::mapdb`): the table all zero, the first word of its shadow the link to the next.
#[derive(Debug)]
struct Tables {
    first: u64,
    len: usize,
}

const _: () = assert!(size_of::<NodeHome>() as u64 <= kcore::layout::PAGE_SIZE);

/// Makes the objects of all nodes, each in memory of the pool that the node draws from. Answers where they lie as the
/// pool windows show them; numbers without a node share the first node's.
///
/// # Errors
/// [`OutOfMemory`].
pub fn build(directory: &Pools, topology: &Topology) -> Result<[u64; MAX_NODES], OutOfMemory> {
    let mut homes = [0; MAX_NODES];
    for node in topology.nodes() {
        let page = memory::alloc_pages_of(directory, node, 1)?;
        let at = page.window().as_u64();
        let fresh = NodeHome {
            tree: ServingLock::new(),
            nodes: Mutex::new(Slab::new(MAPPING_NODE)),
            tables: Mutex::new(Tables { first: 0, len: 0 }),
            pending: [const { Pending::new(AtomicU64::new(0)) }; MAX_CPUS],
        };
        // SAFETY: a fresh page, aligned and large enough, that is never freed.
        unsafe { (at as *mut NodeHome).write(fresh) };
        homes[node.index()] = at;
    }
    let first = homes.iter().copied().find(|&h| h != 0).ok_or(OutOfMemory)?;
    for home in homes.iter_mut().filter(|h| **h == 0) {
        *home = first;
    }
    Ok(homes)
}

/// The objects of `node`.
#[inline(always)]
pub fn of(node: NodeId) -> &'static NodeHome {
    let at = cpu::node_page().homes[node.index() % MAX_NODES];
    // SAFETY: every entry of the table is the address of an initialised object that is never freed (`build`).
    unsafe { &*(at as *const NodeHome) }
}

/// The counters of the slab of a node that has a pool.
pub fn slab_counters(node: NodeId) -> SlabCounters {
    of(node).nodes.lock().counters()
}

/// The same, unless somebody has the lock.
#[cfg(feature = "kdb")]
pub fn try_slab_counters(node: NodeId) -> Option<SlabCounters> {
    Some(of(node).nodes.try_lock()?.counters())
}

/// A CPU's free mapping nodes of its own node, linked through their first words.
#[derive(Debug)]
pub struct Magazine {
    head: Cell<u64>,
    len: Cell<u32>,
}

impl Magazine {
    /// Nothing in it.
    pub const fn new() -> Self {
        Self { head: Cell::new(0), len: Cell::new(0) }
    }

    /// Visits what lies in it; owner only.
    pub fn visit(&self, mut visit: impl FnMut(u64)) {
        let mut node = self.head.get();
        for _ in 0..self.len.get() {
            visit(node);
            node = link(PhysAddr::new(node)).get();
        }
    }

    #[inline(always)]
    fn pop(&self) -> Option<u64> {
        let node = self.head.get();
        if node == 0 {
            return None;
        }
        self.head.set(link(PhysAddr::new(node)).get());
        self.len.set(self.len.get() - 1);
        Some(node)
    }

    #[inline(always)]
    fn push(&self, node: u64) {
        link(PhysAddr::new(node)).set(self.head.replace(node));
        self.len.set(self.len.get() + 1);
    }
}

/// The first word of a free mapping node, or a word of a slab's page.
#[inline(always)]
fn link(at: PhysAddr) -> &'static Cell<u64> {
    // SAFETY: an aligned word of pool memory that belongs to this CPU's magazine or to the slab whose lock is held.
    unsafe { &*(at.window().as_u64() as *const Cell<u64>) }
}

/// The slab's way to the pool of its node.
struct Pages(NodeId);

impl SlabMemory for Pages {
    fn load(&self, at: PhysAddr) -> u64 {
        link(at).get()
    }

    fn store(&mut self, at: PhysAddr, value: u64) {
        link(at).set(value);
    }

    fn take_page(&mut self) -> Result<PhysAddr, OutOfMemory> {
        memory::alloc_page_raw(self.0)
    }

    fn give_page(&mut self, page: PhysAddr) {
        memory::free_page(page);
    }
}

/// A mapping node in the memory of `home`; its content is arbitrary.
#[inline(always)]
pub fn alloc_mapping_node(home: NodeId) -> Option<u64> {
    let own = cpu::this();
    if home == own.scheduling.node()
        && let Some(node) = own.local.magazine.pop()
    {
        return Some(node);
    }
    alloc_from_slab(home)
}

/// Fills the magazine, if `home` is this CPU's node.
#[cold]
#[inline(never)]
fn alloc_from_slab(home: NodeId) -> Option<u64> {
    let own = cpu::this();
    let home = memory::home_of(home);
    let mut slab = of(home).nodes.lock();
    let mut pages = Pages(home);
    if home != own.scheduling.node() {
        return Some(slab.alloc(&mut pages).ok()?.as_u64());
    }
    let (node, count) = slab.alloc_list(&mut pages).ok()?;
    // It was empty, or nobody would be here.
    own.local.magazine.head.set(link(node).get());
    own.local.magazine.len.set(count - 1);
    Some(node.as_u64())
}

/// Gives back a mapping node.
pub fn free_mapping_node(node: u64) {
    if let Some(home) = memory::pools().node_of(PhysAddr::new(node)) {
        free_mapping_node_at(node, home);
    }
}

/// The same for a node that is known to lie in the memory of `home`.
#[inline(always)]
pub fn free_mapping_node_at(node: u64, home: NodeId) {
    let own = cpu::this();
    let magazine = &own.local.magazine;
    if home == own.scheduling.node() && magazine.len.get() < MAGAZINE {
        magazine.push(node);
    } else {
        free_to_slab(node, home);
    }
}

/// Gives back a part of the magazine, if its being full is the reason to be here.
#[cold]
#[inline(never)]
fn free_to_slab(node: u64, home: NodeId) {
    let own = cpu::this();
    let home = memory::home_of(home);
    let mut slab = of(home).nodes.lock();
    give(&mut slab, home, node);
    if home == own.scheduling.node() {
        for _ in 0..BATCH {
            let Some(node) = own.local.magazine.pop() else { break };
            give(&mut slab, home, node);
        }
    }
}

fn give(slab: &mut Slab, home: NodeId, node: u64) {
    if let Err(error) = slab.free(&mut Pages(home), PhysAddr::new(node)) {
        panic!("mapping node {node:#x} of node {home}: {error:?}");
    }
}

/// A page table with its shadow on the node that `home` draws from: two pages, aligned to two pages, the first all zero.
pub fn alloc_table(home: NodeId) -> Option<u64> {
    let mut kept = of(memory::home_of(home)).tables.lock();
    let table = kept.first;
    if table == 0 {
        drop(kept);
        return memory::alloc_table_pair(home).ok().map(PhysAddr::as_u64);
    }
    kept.first = link(PhysAddr::new(table + SHADOW)).get();
    kept.len -= 1;
    Some(table)
}

/// Gives back a table pair, whose table is all zero again.
pub fn free_table(table: u64) {
    let at = PhysAddr::new(table);
    if let Some(home) = memory::pools().node_of(at) {
        let mut kept = of(home).tables.lock();
        if kept.len < TABLES {
            link(at.offset(SHADOW)).set(kept.first);
            kept.first = table;
            kept.len += 1;
            return;
        }
    }
    memory::free_pages(at, 2);
}

/// Gives the empty tables that the node of `home` keeps back to the pool.
#[cold]
pub fn give_tables_back(home: NodeId) {
    let mut kept = of(memory::home_of(home)).tables.lock();
    while kept.first != 0 {
        let table = PhysAddr::new(kept.first);
        kept.first = link(table.offset(SHADOW)).get();
        memory::free_pages(table, 2);
    }
    kept.len = 0;
}

/// Gives what this CPU and its node keep without using it back to the pool: the magazine, tables and pages without objects.
pub fn trim() {
    let home = cpu::this().scheduling.node();
    let mut slab = of(home).nodes.lock();
    while let Some(node) = cpu::this().local.magazine.pop() {
        give(&mut slab, home, node);
    }
    slab.shrink(&mut Pages(home));
    drop(slab);
    give_tables_back(home);
}

/// Gives the pages without objects that the slab of `node` keeps back to the pool.
pub fn shrink(node: NodeId) {
    let home = memory::home_of(node);
    of(home).nodes.lock().shrink(&mut Pages(home));
}
