//! Address spaces (numa-l4 4.1.2): one object on its home node, a root table per CPU that runs it.
//!
//! The user half is one tree of tables below a *top table* that no CPU loads; the root table of each CPU has a
//! copy of its 256 user entries and the upper half of the CPU. Only a new 512 GiB entry must be copied to
//! the other roots (`env`). Everything about what is mapped is the mapping database's.

#![expect(unsafe_code, reason = "space objects and root tables are pool pages, reached by address")]

pub mod attributes;
pub mod env;
pub mod io;
pub mod mapping;
pub mod user;

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::util::ServingLock;
use kcore::cross::life::{Left, Life};
use kcore::ipc::Key;
use kcore::layout::{KERNEL_ROOT_INDEX, MAX_CPUS, PAGE_SIZE, TABLE_ENTRIES};
use kcore::types::{NodeId, PhysAddr, VirtAddr};
use l4abi::error::ErrorCode;
use l4abi::fpage::Region;
use l4abi::utcb::{MR0_OFFSET, location_is_valid};

use crate::cross::{migrate, quarantine};
use crate::memory::{self, home};
use crate::sched::percpu::PerCpu;
use crate::thread::{self, tcb::TcbRef};
use crate::util::Word;

/// Names a space. Valid while a thread is in it.
pub type SpaceRef = &'static Space;

/// An address space.
#[repr(C, align(64))]
pub struct Space {
    /// Node on which its tables, mapping nodes and UTCBs lie: the creator's.
    home: NodeId,
    /// Top table pair: table and shadow.
    top: PhysAddr,
    /// Its threads, and calls that have business with it; the last one takes it away.
    life: Life<AtomicU64>,
    initialised: AtomicBool,
    privileged: AtomicBool,
    sigma0: AtomicBool,
    kip: Cell<Region>,
    utcbs: Cell<Region>,
    redirector: Word,
    /// Pages of UTCBs that were allocated.
    utcb_pages: AtomicU32,
    /// Protects the structure of the page tables.
    pub tables: ServingLock,
    /// Root table of each CPU that has run it, physical; 0 = none.
    roots: [AtomicU64; MAX_CPUS],
    /// The CPUs that have one, a bit each.
    rooted: [AtomicU64; MAX_CPUS / 64],
    /// The last survey that saw it ([`crate::survey`]).
    surveyed: AtomicU64,
    /// Ports it may use.
    pub io: io::Ports,
}

const _: () = assert!(size_of::<Space>() <= PAGE_SIZE as usize);

impl PartialEq for Space {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

const NOWHERE: Region = Region::containing(0, 0);

impl Space {
    /// Whether its areas are fixed: threads can be active in it.
    pub fn is_initialised(&self) -> bool {
        self.initialised.load(Ordering::Acquire)
    }

    /// Fixes the areas; the first call counts.
    pub fn initialise(&self, kip: Region, utcbs: Region) {
        if !self.is_initialised() {
            self.kip.set(kip);
            self.utcbs.set(utcbs);
            self.initialised.store(true, Ordering::Release);
        }
    }

    /// The space of sigma0, sigma1 or the root task.
    pub fn is_privileged(&self) -> bool {
        self.privileged.load(Ordering::Relaxed)
    }

    /// Makes it one of those.
    pub fn make_privileged(&self, sigma0: bool) {
        self.privileged.store(true, Ordering::Relaxed);
        self.sigma0.store(sigma0, Ordering::Relaxed);
    }

    /// The space of sigma0.
    pub fn is_sigma0(&self) -> bool {
        self.sigma0.load(Ordering::Relaxed)
    }

    /// Where the KIP is mapped.
    pub fn kip_address(&self) -> u64 {
        self.kip.get().base()
    }

    /// Where the UTCBs lie.
    pub fn utcb_area(&self) -> Region {
        self.utcbs.get()
    }

    /// Whether `[va, va + len)` touches the KIP or UTCB area.
    pub fn is_reserved(&self, va: u64, len: u64) -> bool {
        let last = va + (len - 1);
        self.is_initialised()
            && [self.kip.get(), self.utcbs.get()].iter().any(|r| va <= r.last() && r.base() <= last)
    }

    /// Whether a UTCB block may start at `location`.
    pub fn is_utcb_location(&self, location: u64) -> bool {
        self.is_initialised() && location_is_valid(location, self.utcbs.get())
    }

    /// Kernel address of MR0 whose user address is `local`, if that is a slot in a present UTCB page.
    pub fn utcb_kernel_address(&self, local: u64) -> Option<u64> {
        let location = local.wrapping_sub(MR0_OFFSET as u64);
        if !self.is_utcb_location(location) {
            return None;
        }
        let frame = user::walk(self, location)?;
        Some(frame.window().as_u64() + MR0_OFFSET as u64)
    }

    /// Kernel address of MR0 of the block at `location`, with its page allocated if it is the first there.
    pub fn utcb_for(&'static self, location: u64) -> Option<u64> {
        let mr0 = location + MR0_OFFSET as u64;
        if let Some(at) = self.utcb_kernel_address(mr0) {
            return Some(at);
        }
        let page = memory::alloc_page(self.home).ok()?;
        if !mapping::enter_kernel_page(self, location & !(PAGE_SIZE - 1), page, true) {
            memory::free_page(page);
            return None;
        }
        self.utcb_pages.fetch_add(1, Ordering::Relaxed);
        self.utcb_kernel_address(mr0)
    }

    /// Global id of the thread that takes all IPC that leaves the space; 0 = none.
    #[inline]
    pub fn redirector(&self) -> u64 {
        self.redirector.get()
    }

    /// Changes the redirector.
    pub fn set_redirector(&self, id: u64) {
        self.redirector.set(id);
    }

    /// Threads in it.
    #[cfg(feature = "kdb")]
    pub fn thread_count(&self) -> u64 {
        self.life.count()
    }

    /// Home node.
    pub fn home(&self) -> NodeId {
        self.home
    }

    /// Physical address of the top table pair.
    pub fn top(&self) -> PhysAddr {
        self.top
    }

    /// Whether survey `number` has not seen it yet. It has now.
    pub fn is_first_look(&self, number: u64) -> bool {
        self.surveyed.swap(number, Ordering::Relaxed) != number
    }

    /// CR3 value for CPU `cpu`, whose kernel root is `kernel_root` and whose memory is on `node`. Made when the
    /// space first becomes active there; none if the node has no memory.
    #[inline(always)]
    pub fn root_for(&self, cpu: usize, node: NodeId, kernel_root: PhysAddr) -> Option<u64> {
        let known = self.root_on(cpu);
        if known != 0 { Some(known) } else { self.new_root(cpu, node, kernel_root) }
    }

    #[cold]
    #[inline(never)]
    fn new_root(&self, cpu: usize, node: NodeId, kernel_root: PhysAddr) -> Option<u64> {
        let root = memory::alloc_page_raw(node).ok()?;
        let table = |at: PhysAddr| at.window().as_u64() as *mut u64;
        self.tables.acquire();
        // SAFETY: all three are tables in pool pages, the new one known to nobody else. The user half is copied under the
        // space's lock, so no new entry is missed; the kernel half of a root never changes.
        unsafe {
            table(root).copy_from_nonoverlapping(table(self.top), KERNEL_ROOT_INDEX);
            let upper = table(root).add(KERNEL_ROOT_INDEX);
            let kernel = table(kernel_root).add(KERNEL_ROOT_INDEX);
            upper.copy_from_nonoverlapping(kernel, TABLE_ENTRIES - KERNEL_ROOT_INDEX);
        }
        self.roots[cpu].store(root.as_u64(), Ordering::Release);
        self.rooted[cpu / 64].fetch_or(1 << (cpu % 64), Ordering::Release);
        self.tables.release();
        Some(root.as_u64())
    }

    /// CR3 value for CPU `cpu`; 0 if it never ran the space.
    pub fn root_on(&self, cpu: usize) -> u64 {
        self.roots.get(cpu).map_or(0, |r| r.load(Ordering::Acquire))
    }

    /// Copies user entry `index` of the top table to all roots. Called with the space's lock held.
    pub fn propagate(&self, index: usize, entry: u64) {
        self.for_each_root(|root| {
            let at = root.window().as_u64() as *mut u64;
            // SAFETY: a root table of this space; `index` is in the user half.
            unsafe { at.add(index & (KERNEL_ROOT_INDEX - 1)).write_volatile(entry) };
        });
    }

    fn for_each_root(&self, mut act: impl FnMut(PhysAddr)) {
        for (roots, rooted) in self.roots.chunks(64).zip(&self.rooted) {
            let mut left = rooted.load(Ordering::Acquire);
            while left != 0 {
                let root = roots[left.trailing_zeros() as usize].load(Ordering::Acquire);
                left &= left - 1;
                act(PhysAddr::new(root));
            }
        }
    }

    /// Gives back the pages of UTCBs; nobody uses them any more.
    pub fn release_utcb_pages(&self) {
        let area = self.utcbs.get();
        if !self.is_initialised() {
            return;
        }
        let pages = (1u64 << area.size_log2()) / PAGE_SIZE;
        let mut left = self.utcb_pages.load(Ordering::Relaxed);
        for page in (0..pages).map(|n| area.base() + n * PAGE_SIZE) {
            if left == 0 {
                break;
            }
            if let Some(frame) = user::walk(self, page) {
                memory::free_page(frame);
                left -= 1;
            }
        }
    }

    /// Gives back the object, its root tables and its top table. The space is empty and nobody names it.
    pub fn free(&self) {
        self.for_each_root(memory::free_page);
        // Empty again: the database has removed every entry.
        home::free_table(self.top.as_u64());
        // Another CPU may have found it through a thread a moment ago, and look whether it is alive.
        let at = VirtAddr::new(core::ptr::from_ref(self) as u64);
        quarantine::retire(at.window_phys());
    }
}

/// A new, empty, uninitialised space with `node` as home. The caller has a reference to it.
pub fn create(node: NodeId) -> Result<SpaceRef, ErrorCode> {
    let object = memory::alloc_page_raw(node).map_err(|_| ErrorCode::OutOfMemory)?;
    let Some(top) = home::alloc_table(node).map(PhysAddr::new) else {
        memory::free_page(object);
        return Err(ErrorCode::OutOfMemory);
    };
    // The database keeps the used groups of a top table there.
    env::forget_used(top);
    let space = Space {
        home: node,
        top,
        life: Life::new(AtomicU64::new(1)),
        initialised: AtomicBool::new(false),
        privileged: AtomicBool::new(false),
        sigma0: AtomicBool::new(false),
        kip: Cell::new(NOWHERE),
        utcbs: Cell::new(NOWHERE),
        redirector: Word::new(0),
        utcb_pages: AtomicU32::new(0),
        tables: ServingLock::new(),
        roots: [const { AtomicU64::new(0) }; MAX_CPUS],
        rooted: [const { AtomicU64::new(0) }; MAX_CPUS / 64],
        surveyed: AtomicU64::new(0),
        io: io::Ports::new(),
    };
    let at = object.window().as_u64() as *mut Space;
    // SAFETY: a fresh page of the pool, aligned and large enough; it stays a space until the last reference is given
    // back and every CPU has been in no call since. `SpaceRef`s are kept only in its threads and used in one call.
    unsafe {
        at.write(space);
        Ok(&*at)
    }
}

/// The space of the thread that `me` names as its specifier, with a reference to it, which the caller gives to a thread or
/// back. None if there is no such thread, or if its last thread is being deleted on another CPU.
#[inline(always)]
pub fn hold(me: TcbRef, specifier: u64) -> Option<SpaceRef> {
    // No request of other CPUs is served between these two, so the page is a space still.
    let space = thread::resolve(me, specifier)?.space.get()?;
    space.life.enter().then_some(space)
}

/// `t` becomes a thread of `space` (leaving its old one is the caller's matter). The caller's reference is the thread's
/// then; without memory it stays the caller's.
pub fn join(cpu: &PerCpu, space: SpaceRef, t: TcbRef) -> Result<(), ErrorCode> {
    let home = t.travel.home();
    let root = match home == cpu.number() {
        true => space.root_for(usize::from(home), cpu.node(), cpu.kernel_root()),
        false => migrate::root_on(space, home),
    };
    enter(space, t, root.ok_or(ErrorCode::OutOfMemory)?);
    Ok(())
}

/// The part of [`join`] that cannot fail; `root` is the root table of the space for the thread's CPU.
#[inline(always)]
pub fn enter(space: SpaceRef, t: TcbRef, root: u64) {
    t.space.set(Some(space));
    t.root.set(root);
    settle_redirection(space, t);
}

/// Marks `t`, a thread of `space` and of this CPU, if the space has a redirector: the fast path knows none.
pub fn settle_redirection(space: SpaceRef, t: TcbRef) {
    let redirected = space.redirector() != 0;
    if redirected != t.key().has(Key::REDIRECTED) {
        t.key.set(t.key.get() ^ Key::REDIRECTED);
    }
}

/// A thread left `space`, or a caller gives its reference back; if it was the last, the space goes.
#[inline(always)]
pub fn left(cpu: &PerCpu, space: SpaceRef) {
    if space.life.leave() == Left::Last {
        mapping::delete(cpu, space);
    }
}

/// Whether `t` is sigma0 (or a thread of its space), whose faults the kernel resolves itself.
pub fn is_sigma0(t: TcbRef) -> bool {
    t.space.get().is_some_and(|s| s.is_sigma0())
}
