//! I/O ports (reference 1.3, 6.2): closed until mapped.
//!
//! A space that holds ports has a permission bitmap of two pages (a set bit denies). A CPU shows it to the
//! processor only while a thread of that space that has touched a port runs there: the first port access
//! traps, [`grant_cpu`] puts the bitmap into the CPU's window, and the thread is marked so that leaving it
//! takes the bitmap out again. Spaces without ports, and threads that touch none, pay nothing.
//!
//! What a CPU shows is the bitmap itself, not a copy, and the processor reads it at every access (SDM 1 19.5.2): a
//! port that is revoked is closed at once on every CPU that runs the space. A bitmap's pages go with the space,
//! when no thread of it is left to run. Who gave which port to whom is `kcore::mapdb::ports`'s matter; its lock is
//! taken after those of the mapping database and before the pools'.

#![expect(unsafe_code, reason = "bitmaps are pool pages")]

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::decode::PortAccess;
use kcore::ipc::Key;
use kcore::mapdb::ports::PortDb;
use kcore::mapdb::{Progress, SpaceRef as DbSpace};
use kcore::types::PhysAddr;
use l4abi::fpage::{Fpage, FpageKind, Region};
use spin::{Mutex, MutexGuard};

use crate::arch::x86_64::io_window;
use crate::memory;
use crate::sched::percpu::PerCpu;
use crate::space::env::{self, Kernel, name};
use crate::space::{Space, SpaceRef};

/// Words of a bitmap: 65536 ports.
const WORDS: usize = 1024;
const BITMAP_PAGES: u64 = 2;

/// The ports of a space.
#[derive(Debug)]
pub struct Ports {
    /// Physical address of the bitmap; 0 = no port.
    bitmap: AtomicU64,
}

impl Ports {
    /// No ports.
    pub const fn new() -> Self {
        Self { bitmap: AtomicU64::new(0) }
    }

    fn words(&self) -> Option<&'static [AtomicU64; WORDS]> {
        let at = self.bitmap.load(Ordering::Acquire);
        (at != 0).then(|| words_at(PhysAddr::new(at)))
    }

    fn allows(&self, port: u16) -> bool {
        let (word, bit) = (usize::from(port / 64), port % 64);
        self.words().is_some_and(|w| w[word].load(Ordering::Relaxed) >> bit & 1 == 0)
    }
}

/// The words of a bitmap.
fn words_at(bitmap: PhysAddr) -> &'static [AtomicU64; WORDS] {
    // SAFETY: two contiguous pool pages that are a bitmap from allocation to the end of their space.
    unsafe { &*(bitmap.window().as_u64() as *const _) }
}

/// The bitmap of `space`, made (all denied) if it has none.
fn bitmap_of(space: &Space) -> Option<&'static [AtomicU64; WORDS]> {
    if space.io.words().is_none() {
        let page = memory::alloc_pages(space.home(), BITMAP_PAGES).ok()?;
        for word in words_at(page) {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        let new = page.as_u64();
        if space.io.bitmap.compare_exchange(0, new, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            memory::free_pages(page, BITMAP_PAGES); // Another CPU was first.
        }
    }
    space.io.words()
}

/// Who has which port from whom. Touched only where drivers get or lose ports.
static PORTS: Mutex<PortDb> = Mutex::new(PortDb::new());

/// Ports and spaces looked at between two looks at what other CPUs want.
const STEP: i32 = 256;

fn ports_db() -> MutexGuard<'static, PortDb> {
    loop {
        if let Some(guard) = PORTS.try_lock() {
            return guard;
        }
        crate::cross::serve_shootdowns();
        core::hint::spin_loop();
    }
}

fn holder(space: SpaceRef) -> DbSpace {
    if space.is_sigma0() { DbSpace::PHYSICAL } else { name(space) }
}

/// Keeps the bitmaps as the database says.
fn show(space: DbSpace, port: u16, open: bool) {
    if space == DbSpace::PHYSICAL {
        return;
    }
    let Some(words) = env::space(space).io.words() else { return };
    let (word, bit) = (&words[usize::from(port / 64)], 1 << (port % 64));
    if open {
        word.fetch_and(!bit, Ordering::AcqRel);
    } else {
        word.fetch_or(bit, Ordering::AcqRel);
    }
}

/// First port and the one after the last.
fn bounds(ports: Region) -> (u32, u32) {
    let first = ports.base() as u32 & 0xFFFF;
    (first, (first + (1 << ports.size_log2().min(16))).min(kcore::mapdb::ports::PORTS))
}

/// Maps or grants `ports` that `from` has to `to`, as far as its receive window takes them: a range of ports, or
/// everything. False if there is no window at all. Without memory only a part is mapped: the receiver faults again
/// and its pager sees that nothing helps.
pub fn map(from: SpaceRef, to: SpaceRef, ports: Region, window: Fpage, grant: bool) -> bool {
    let (mut first, mut end) = bounds(ports);
    match window.kind() {
        FpageKind::Nothing => return false,
        FpageKind::Io(open) => {
            let (low, high) = bounds(open);
            (first, end) = (first.max(low), end.min(high));
        }
        FpageKind::Memory(Region::EVERYTHING) => {}
        FpageKind::Memory(_) => return true,
    }
    // sigma0 has every port for ever.
    if first >= end || to.is_sigma0() || bitmap_of(to).is_none() {
        return true;
    }
    let parties = (holder(from), holder(to));
    let _ = ports_db().map(&Kernel, parties, (first, end - first), grant, show);
    true
}

/// Takes `ports` from everybody who has them from `own`, and with `flush` from `own` itself.
pub fn unmap(own: SpaceRef, ports: Region, flush: bool) {
    let (mut next, end) = bounds(ports);
    loop {
        let mut budget = STEP;
        let range = (&mut next, end);
        let progress = ports_db().unmap(&Kernel, holder(own), range, flush, &mut budget, show);
        if progress == Progress::Done {
            return;
        }
        crate::cross::serve_shootdowns();
    }
}

/// sigma0 may use every port.
pub fn open_all(space: &Space) {
    if let Some(words) = bitmap_of(space) {
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Shows the bitmap of the running thread's space to this CPU if that allows `access`. False if it does not.
pub fn grant_cpu(cpu: &PerCpu, space: &Space, access: PortAccess) -> bool {
    let ports = access.port..=access.port.saturating_add((1 << access.size_log2) - 1);
    if !ports.into_iter().all(|p| space.io.allows(p)) {
        return false;
    }
    let bitmap = space.io.bitmap.load(Ordering::Acquire);
    if cpu.io_bitmap.get() == bitmap {
        return false;
    }
    io_window::show(PhysAddr::new(bitmap));
    cpu.io_bitmap.set(bitmap);
    cpu.current.get().set_flag(Key::LOADED);
    cpu.expected_key.set(Key::NEVER.0);
    true
}

/// The running thread of this CPU leaves: no bitmap is shown any more.
pub fn withdraw_cpu(cpu: &PerCpu) {
    if cpu.io_bitmap.replace(0) != 0 {
        io_window::hide();
    }
}

/// The space goes: so does what it handed on.
pub fn release(space: SpaceRef) {
    if space.io.bitmap.load(Ordering::Acquire) == 0 {
        return; // It never had a port.
    }
    unmap(space, Region::containing(0, 16), true);
    ports_db().release(&Kernel, holder(space));
    let bitmap = space.io.bitmap.swap(0, Ordering::AcqRel);
    if bitmap != 0 {
        memory::free_pages(PhysAddr::new(bitmap), BITMAP_PAGES);
    }
}
