//! The allocator behind `alloc`: a heap of the program's own, or one of several heaps that lie in
//! memory shared between programs.
//!
//! The instances of an application pager work on each other's data structures (numa-l4 3.2.3:
//! "by shared memory"). So each allocates in the heap of its own node, all heaps are mapped at the
//! same addresses everywhere, and what is freed goes back to the heap it came from, by address.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::classes::Classes;
use crate::sync::Mutex;

/// A heap that several threads use.
type LockedHeap = Mutex<Classes>;

/// Address of the shared heap of node 0.
pub const SHARED_BASE: usize = 0x10_0000_0000;
/// Distance from a node's shared heap to the next node's.
pub const SHARED_STRIDE: usize = 0x1000_0000;
/// Number of places for shared heaps.
const SHARED_COUNT: usize = 64;
/// Start of a shared heap's area that holds the heap itself: one page.
const HEAD_SIZE: usize = 4096;

/// The addresses of a heap, to be asked without its lock: whoever is deleted while it holds a lock leaves it
/// locked, and a check of an address must not be what the others then wait for.
struct Extent {
    bottom: AtomicUsize,
    /// Only grows; 0 = no heap. Written last, so who sees it sees `bottom`.
    top: AtomicUsize,
}

impl Extent {
    const fn none() -> Self {
        Self { bottom: AtomicUsize::new(0), top: AtomicUsize::new(0) }
    }

    fn set(&self, bottom: usize, top: usize) {
        self.bottom.store(bottom, Ordering::Relaxed);
        self.top.store(top, Ordering::Release);
    }

    /// Whether `[from, to)` has a byte in common with it.
    fn overlaps(&self, from: usize, to: usize) -> bool {
        let top = self.top.load(Ordering::Acquire);
        from < top && to > self.bottom.load(Ordering::Relaxed)
    }
}

/// Where the program's own heap lies.
static OWN: Extent = Extent::none();
/// Where the shared heap lies in which the program allocates.
static SHARED: Extent = Extent::none();

struct ProgramHeap {
    own: LockedHeap,
    /// The shared heap that is used instead of the own; 0 = none.
    shared: AtomicUsize,
}

#[global_allocator]
static HEAP: ProgramHeap =
    ProgramHeap { own: Mutex::new(Classes::empty()), shared: AtomicUsize::new(0) };

const fn is_shared(at: usize) -> bool {
    at >= SHARED_BASE && at < SHARED_BASE + SHARED_COUNT * SHARED_STRIDE
}

impl ProgramHeap {
    /// Where new objects go.
    fn current(&self) -> &LockedHeap {
        match self.shared.load(Ordering::Relaxed) {
            0 => &self.own,
            // SAFETY: set by `use_shared` after it made the heap there, for good.
            at => unsafe { &*(at as *const LockedHeap) },
        }
    }

    /// Where the object at `at` came from.
    fn home_of(&self, at: usize) -> &LockedHeap {
        if !is_shared(at) {
            return &self.own;
        }
        let area = at - (at - SHARED_BASE) % SHARED_STRIDE;
        // SAFETY: an object lies there, so the heap of that area was made before.
        unsafe { &*(area as *const LockedHeap) }
    }
}

// SAFETY: both heaps hand out memory by the rules of `Classes`, under its lock, and every object goes back to the
// heap that it came from.
unsafe impl GlobalAlloc for ProgramHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let found = self.current().lock().allocate(layout);
        found.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(object) = NonNull::new(ptr) else { return };
        // SAFETY: the caller gives back what `alloc` handed out with this layout, to the heap it came from.
        unsafe { self.home_of(ptr as usize).lock().deallocate(object, layout) }
    }
}

/// Gives `[base, base + size)` to the allocator: the first region, or one right behind it.
pub(crate) fn give(base: usize, size: usize) -> bool {
    let mut classes = HEAP.own.lock();
    let heap = classes.heap();
    if heap.size() == 0 {
        // SAFETY: `heap::give` hands in memory that is mapped for good and used by nobody else.
        unsafe { heap.init(base as *mut u8, size) };
        OWN.set(base, base + size);
        return true;
    }
    if heap.top() as usize != base {
        return false;
    }
    // SAFETY: as above, and the region continues the one that the heap has.
    unsafe { heap.extend(size) };
    OWN.set(heap.bottom() as usize, base + size);
    true
}

/// Makes a heap in the shared area of `node`, `size` bytes of fresh memory at a place that every
/// program that may see its objects has mapped, and allocates there from now on.
pub(crate) fn use_shared(node: usize, size: usize) -> bool {
    if node >= SHARED_COUNT || size <= 2 * HEAD_SIZE || size > SHARED_STRIDE {
        return false;
    }
    let at = SHARED_BASE + node * SHARED_STRIDE;
    let heap: LockedHeap = Mutex::new(Classes::empty());
    // SAFETY: the area is this program's to set up; the head gets a page, the heap the rest, both
    // mapped for good.
    unsafe {
        heap.lock().heap().init((at + HEAD_SIZE) as *mut u8, size - HEAD_SIZE);
        (at as *mut LockedHeap).write(heap);
    }
    // The rest of the head page is the sharers' to leave words in.
    SHARED.set(at + HEAD_SIZE, at + size);
    HEAP.shared.store(at, Ordering::Release);
    true
}

/// Whether `bytes` bytes at `addr` would touch a heap in which the program allocates or did.
pub(crate) fn contains(addr: u64, bytes: u64) -> bool {
    let (from, to) = (addr as usize, addr.saturating_add(bytes) as usize);
    OWN.overlaps(from, to) || SHARED.overlaps(from, to)
}

/// Bytes free.
pub(crate) fn free() -> usize {
    HEAP.current().lock().free()
}
