//! The node pools: where all kernel memory comes from.
//!
//! This is the glue between `kcore::pool` and real memory: pools are placed in the memory they manage,
//! which the kernel sees at one fixed offset, before and after the switch to its own address space. Every
//! allocation names a node; a node without a pool draws from the nearest one, and with `node_pools=flat`
//! all draw from the boot processor's, so that experiments can show what placement is worth.

use kcore::layout::PAGE_SIZE;
pub use kcore::pool::OutOfMemory;
use kcore::pool::{Frames, Metadata, NodePool, PageDesc, PoolPlan, Pools, SharedPool};
use kcore::types::{NodeId, PhysAddr, PhysRange};
use spin::{Mutex, MutexGuard, Once};

use crate::arch::x86_64::bootmem::BootWindow;
use crate::arch::x86_64::paging;

pub mod counters;
pub mod frames;
pub mod home;

static DIRECTORY: Mutex<Pools> = Mutex::new(Pools::new());
static POOLS: Once<&'static Pools> = Once::new();

/// Builds the planned pools, in their own memory, which the plan took from what nobody uses. The boot
/// window shows it now, the pool windows of the kernel address space, at the same addresses, later.
pub fn build(plan: &PoolPlan, _: &BootWindow) {
    let mut directory = DIRECTORY.lock();
    let mut at = 0;
    let extents = plan.extents();
    while let Some(first) = extents.get(at) {
        let count = extents[at..].iter().take_while(|e| e.node == first.node).count();
        let mut pool = NodePool::new();
        let mut home = None;
        for (i, extent) in extents[at..at + count].iter().enumerate() {
            let metadata = Metadata::of(extent.range, i == 0);
            home = home.or(metadata.pool_at);
            // SAFETY: free memory, mapped for ever; all-zero bytes are valid descriptors and the array lies inside the
            // extent, in pages that the pool never gives out.
            let descriptors = unsafe {
                let array = pointer::<PageDesc>(metadata.descs_at);
                array.write_bytes(0, metadata.nr_descs);
                core::slice::from_raw_parts_mut(array, metadata.nr_descs)
            };
            if let Err(error) = pool.add_extent(extent.range, descriptors, metadata.pages) {
                panic!("pool of node {}: {}: {error:?}", extent.node, extent.range);
            }
        }
        if let Some(home) = home {
            let place = pointer::<SharedPool>(home);
            // SAFETY: `Metadata` keeps this place for the pool; extents are 2 MiB-aligned.
            let shared: &'static SharedPool = unsafe {
                place.write(SharedPool::new(first.node, pool));
                &*place
            };
            directory.add(shared);
        }
        at += count;
    }
    directory.set_homes(plan);
    // Constant from here on: the lock is never needed again.
    let directory: &'static Pools = MutexGuard::leak(directory);
    POOLS.call_once(|| directory);
}

fn pointer<T>(phys: PhysAddr) -> *mut T {
    phys.window().as_u64() as *mut T
}

/// The directory of all pools while the boot window exists.
pub fn boot_pools(_: &BootWindow) -> &'static Pools {
    match POOLS.get() {
        Some(pools) => pools,
        None => panic!("no pools yet"),
    }
}

/// The directory of all pools: this node's copy. Not before the kernel address space exists.
#[inline]
pub fn pools() -> &'static Pools {
    debug_assert!(paging::kernel_space_live());
    // SAFETY: mapped read-only, initialized and constant in every kernel address space.
    unsafe { &*(paging::NODE_POOLS as *const Pools) }
}

/// The node whose pool `node` draws from.
pub fn home_of(node: NodeId) -> NodeId {
    pools().home_of(node)
}

/// The address lies in some pool, so the kernel has it mapped at its window.
pub fn is_pool(phys: PhysAddr) -> bool {
    pools().node_of(phys).is_some()
}

/// `count` contiguous zeroed pages from the pool that `node` draws from. The pool rounds up to a power of
/// two. Returned memory goes back with [`Pools::free_at`].
///
/// # Errors
/// [`OutOfMemory`] if that pool has none; no other is tried.
pub fn alloc_pages(node: NodeId, count: u64) -> Result<PhysAddr, OutOfMemory> {
    let frames = alloc_raw(node, count)?;
    zero(frames.range());
    Ok(frames.into_phys())
}

/// Memory with whatever content it has. A pool that is empty gets back what is kept for later use.
fn alloc_raw(node: NodeId, count: u64) -> Result<Frames, OutOfMemory> {
    let directory = pools();
    let (home, order) = (directory.home_of(node), order_of(count));
    directory.alloc_on(home, order).or_else(|_| {
        home::give_tables_back(node);
        directory.alloc_on(home, order)
    })
}

fn order_of(count: u64) -> u8 {
    count.next_power_of_two().trailing_zeros() as u8
}

/// Two pages, aligned to two pages, the first zeroed, the second with whatever content it has.
///
/// # Errors
/// [`OutOfMemory`].
pub fn alloc_table_pair(node: NodeId) -> Result<PhysAddr, OutOfMemory> {
    let pair = alloc_raw(node, 2)?.into_phys();
    zero(PhysRange::from_len(pair.as_u64(), PAGE_SIZE));
    Ok(pair)
}

/// [`alloc_pages`] for the boot stages, which name the directory.
///
/// # Errors
/// As there.
pub fn alloc_pages_of(
    directory: &Pools,
    node: NodeId,
    count: u64,
) -> Result<PhysAddr, OutOfMemory> {
    let frames = directory.alloc_on(directory.home_of(node), order_of(count))?;
    let range = frames.range();
    let phys = frames.into_phys();
    zero(range);
    Ok(phys)
}

/// One zeroed page from the pool that `node` draws from.
///
/// # Errors
/// [`OutOfMemory`].
pub fn alloc_page(node: NodeId) -> Result<PhysAddr, OutOfMemory> {
    alloc_pages(node, 1)
}

/// One page from the pool that `node` draws from, with whatever content it has.
///
/// # Errors
/// [`OutOfMemory`].
#[inline]
pub fn alloc_page_raw(node: NodeId) -> Result<PhysAddr, OutOfMemory> {
    Ok(alloc_raw(node, 1)?.into_phys())
}

/// At least `bytes` of zeroed words from the pool that `node` draws from, a power of two of pages; never given back.
#[cfg(feature = "trace")]
pub fn alloc_words(node: NodeId, bytes: u64) -> Option<&'static [core::sync::atomic::AtomicU64]> {
    let pages = bytes.div_ceil(PAGE_SIZE).checked_next_power_of_two()?;
    let start = alloc_pages(node, pages).ok()?;
    let length = (pages * PAGE_SIZE / 8) as usize;
    // SAFETY: zeroed pool memory of that length, mapped and nobody else's for ever; zero words are valid atomics.
    Some(unsafe { core::slice::from_raw_parts(pointer(start), length) })
}

/// Fills freshly allocated pool memory with zeros.
fn zero(range: PhysRange) {
    debug_assert!(range.start.is_aligned(PAGE_SIZE));
    // SAFETY: just allocated, so nobody else knows it; pool memory is mapped at its window.
    unsafe { pointer::<u8>(range.start).write_bytes(0, range.len() as usize) };
}

/// Gives back one page.
pub fn free_page(page: PhysAddr) {
    free_pages(page, 1);
}

/// Gives back what [`alloc_pages`] gave.
pub fn free_pages(start: PhysAddr, _count: u64) {
    if let Err(error) = pools().free_at(start) {
        panic!("free of {start}: {error:?}");
    }
}
