//! I/O ports (reference 1.3, 6.2): closed until mapped.
//!
//! A space that holds ports has a permission bitmap of two pages (a set bit denies). A CPU shows it to the
//! processor only while a thread of that space that has touched a port runs there: the first port access
//! traps, [`grant_cpu`] puts the bitmap into the CPU's window, and the thread is marked so that leaving it
//! takes the bitmap out again. Spaces without ports, and threads that touch none, pay nothing.

#![expect(unsafe_code, reason = "bitmaps are pool pages")]

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::decode::PortAccess;
use kcore::ipc::Key;
use kcore::types::PhysAddr;
use l4abi::fpage::{Fpage, FpageKind};

use crate::arch::x86_64::io_window;
use crate::memory;
use crate::sched::percpu::PerCpu;
use crate::space::Space;

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
        // SAFETY: two contiguous pool pages that stay the bitmap while the space lives.
        (at != 0).then(|| unsafe { &*(PhysAddr::new(at).window().as_u64() as *const _) })
    }

    fn allows(&self, port: u16) -> bool {
        let (word, bit) = (usize::from(port / 64), port % 64);
        self.words().is_some_and(|w| w[word].load(Ordering::Relaxed) >> bit & 1 == 0)
    }
}

/// The bitmap of `space`, made (all denied) if it has none.
fn bitmap_of(space: &Space) -> Option<&'static [AtomicU64; WORDS]> {
    if space.io.words().is_none() {
        let page = memory::alloc_pages(space.home(), BITMAP_PAGES).ok()?;
        space.io.bitmap.store(page.as_u64(), Ordering::Release);
        for word in space.io.words()? {
            word.store(u64::MAX, Ordering::Relaxed);
        }
    }
    space.io.words()
}

fn range(fpage: Fpage) -> Option<(u32, u32)> {
    match fpage.kind() {
        FpageKind::Io(ports) => Some((ports.base() as u32, 1 << ports.size_log2().min(16))),
        _ => None,
    }
}

/// Maps the ports of `fpage` that `from` has into `to`.
pub fn map(from: &Space, to: &Space, fpage: Fpage, grant: bool) {
    let Some((first, count)) = range(fpage) else { return };
    let Some(target) = bitmap_of(to) else { return };
    let all = from.is_sigma0();
    for port in first..first + count {
        let port = port as u16;
        if all || from.io.allows(port) {
            target[usize::from(port / 64)].fetch_and(!(1 << (port % 64)), Ordering::Relaxed);
        }
    }
    if grant && !all {
        deny(from, first, count);
    }
}

fn deny(space: &Space, first: u32, count: u32) {
    let Some(words) = space.io.words() else { return };
    for port in first..first + count {
        words[(port / 64) as usize].fetch_or(1 << (port % 64), Ordering::Relaxed);
    }
}

/// Unmaps the ports of `fpage`.
pub fn unmap(own: &Space, fpage: Fpage, flush: bool) {
    if let Some((first, count)) = range(fpage)
        && flush
    {
        deny(own, first, count);
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

/// The space goes.
pub fn release(space: &Space) {
    let bitmap = space.io.bitmap.swap(0, Ordering::AcqRel);
    if bitmap != 0 {
        memory::free_pages(PhysAddr::new(bitmap), BITMAP_PAGES);
    }
}
