//! The pager thread: serves the faults of runner and puppets.
//!
//! Faults in the program's image map the whole image one to one, so that a space faults on it once.
//! Faults in the arena map the arena page. Faults in a *window* are served as its policy says, and
//! counted; the policy is how a test provokes faults where it wants them. Other faults are noted and
//! get no answer: the faulter stays blocked until it is deleted or aborted.

use super::{arena, ids};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::ipc::{self, Received};
use libl4::msg::Writer;
use libl4::pager::Fault;
use libl4::{Acceptor, Fpage, MsgTag, Region, Rights, ThreadId, Time, Timeouts, arch};

/// Label of the request to send a start-up message: MR1 thread, MR2 IP, MR3 SP.
const START: u64 = 0x57;
/// Number of windows.
pub const WINDOWS: usize = 4;

/// What the pager does with a fault in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Map the page of the backing memory.
    Map,
    /// Give no answer.
    Hold,
    /// Answer without a map item this many times, then map.
    EmptyFirst(u64),
    /// Map this many pages, then give no answer.
    MapFirst(u64),
}

/// Mode word of a window that maps some pages.
const MAPPING: u64 = 1 << 63;

/// A window's policy and what happened in it. Words, because pager and tests share it.
struct Window {
    backing: AtomicU64,
    size: AtomicU64,
    rights: AtomicU64,
    /// 0 map, 1 hold, 2 + n: empty answers left, `MAPPING` + n: pages left.
    mode: AtomicU64,
    page_log2: AtomicU64,
    faults: AtomicU64,
    last_addr: AtomicU64,
    last_ip: AtomicU64,
    last_access: AtomicU64,
    last_from: AtomicU64,
}

const fn closed() -> Window {
    Window {
        backing: AtomicU64::new(0),
        size: AtomicU64::new(0),
        rights: AtomicU64::new(0),
        mode: AtomicU64::new(1),
        page_log2: AtomicU64::new(12),
        faults: AtomicU64::new(0),
        last_addr: AtomicU64::new(0),
        last_ip: AtomicU64::new(0),
        last_access: AtomicU64::new(0),
        last_from: AtomicU64::new(0),
    }
}

static TABLE: [Window; WINDOWS] = [closed(), closed(), closed(), closed()];
static STRAY: AtomicU64 = AtomicU64::new(0);

/// What the pager saw last in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Faults so far.
    pub faults: u64,
    /// Address of the last one.
    pub addr: u64,
    /// Its instruction pointer.
    pub ip: u64,
    /// Its access.
    pub access: Rights,
    /// Who faulted.
    pub from: ThreadId,
}

/// Opens window `n`: `size` bytes of `backing` appear there as they are touched.
///
/// # Panics
/// If there is no window `n`.
pub fn open(n: usize, backing: u64, size: u64, rights: Rights, mode: Mode) {
    let window = &TABLE[n];
    window.backing.store(backing, Ordering::Relaxed);
    window.size.store(size, Ordering::Relaxed);
    window.rights.store(u64::from(rights.bits()), Ordering::Relaxed);
    window.page_log2.store(12, Ordering::Relaxed);
    window.faults.store(0, Ordering::Relaxed);
    set_mode(n, mode);
}

/// Changes what happens in window `n` from the next fault on.
///
/// # Panics
/// If there is no window `n`.
pub fn set_mode(n: usize, mode: Mode) {
    let raw = match mode {
        Mode::Map => 0,
        Mode::Hold => 1,
        Mode::EmptyFirst(n) => 2 + n,
        Mode::MapFirst(n) => MAPPING + n,
    };
    TABLE[n].mode.store(raw, Ordering::Release);
}

/// Makes window `n` map pieces of `2^log2` bytes.
///
/// # Panics
/// If there is no window `n`.
pub fn set_page_log2(n: usize, log2: u8) {
    TABLE[n].page_log2.store(u64::from(log2), Ordering::Relaxed);
}

/// What happened in window `n`.
///
/// # Panics
/// If there is no window `n`.
#[must_use]
pub fn seen(n: usize) -> Seen {
    let window = &TABLE[n];
    Seen {
        faults: window.faults.load(Ordering::Acquire),
        addr: window.last_addr.load(Ordering::Relaxed),
        ip: window.last_ip.load(Ordering::Relaxed),
        access: Rights::from_bits_truncate(window.last_access.load(Ordering::Relaxed) as u8),
        from: ThreadId::from_raw(window.last_from.load(Ordering::Relaxed)),
    }
}

/// Number of faults that belong to nothing; address of the last in the second value.
#[must_use]
pub fn strays() -> u64 {
    STRAY.load(Ordering::Relaxed)
}

/// Closes all windows, and takes away what the root task's space sees in them.
pub(crate) fn reset() {
    let all = Fpage::memory(arena::WINDOW_BASE, arena::WINDOWS_LOG2, Rights::RWX);
    libl4::sys::unmap_one(all, true);
    for n in 0..WINDOWS {
        open(n, 0, 0, Rights::empty(), Mode::Hold);
    }
    STRAY.store(0, Ordering::Relaxed);
}

/// Asks the pager to start an activated thread with a start-up message.
///
/// # Errors
/// The error of the request.
pub fn start(thread: ThreadId, ip: u64, sp: u64) -> Result<(), libl4::IpcError> {
    let mut message = Writer::here();
    message.words(&[thread.raw(), ip, sp]);
    let tag = message.tag(START);
    let timeouts = Timeouts::new(super::PATIENCE, super::PATIENCE);
    ipc::call(ids::pager(), timeouts, tag).map(|_| ())
}

/// The pager thread's code.
pub(crate) extern "C" fn main(_: u64) -> ! {
    let mut reply: Option<(ThreadId, MsgTag)> = None;
    ipc::accept(Acceptor::NONE);
    loop {
        let result = match reply.take() {
            None => ipc::wait(),
            Some((to, tag)) => ipc::reply_wait(to, tag),
        };
        let Ok(message) = result else { continue };
        reply = handle(&message).map(|tag| (message.from, tag));
    }
}

fn handle(message: &Received) -> Option<MsgTag> {
    if message.tag.label() == START {
        let (thread, ip, sp) = (message.mr(1), message.mr(2), message.mr(3));
        let mut start = Writer::here();
        start.words(&[ip, sp]);
        let tag = start.tag(0);
        let _ = ipc::send(ThreadId::from_raw(thread), Time::period_us(500_000), tag);
        return Some(MsgTag::NIL);
    }
    match Fault::of(message)? {
        Fault::Page(fault) => {
            let (first, last) = arch::image_range();
            if (first..=last).contains(&fault.addr) {
                return Some(map_image(first, last));
            }
            if arena::contains(fault.addr) {
                let mut reply = Writer::here();
                reply.map(fault.addr, Fpage::memory(fault.addr, 12, Rights::RWX));
                return Some(reply.tag(0));
            }
            serve_window(message.from, fault.addr, fault.ip, fault.access)
        }
        Fault::Io(_) => {
            STRAY.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Maps the whole image one to one, in as few aligned pieces as it takes.
fn map_image(first: u64, last: u64) -> MsgTag {
    let mut reply = Writer::here();
    let mut at = first & !(arena::PAGE - 1);
    let mut pieces = 0;
    while at <= last && pieces < 31 {
        let mut log2 = 12;
        // Grow while the next size is still aligned and inside.
        while log2 < 21
            && Region::containing(at, log2 + 1).base() == at
            && Region::containing(at, log2 + 1).last() <= last
        {
            log2 += 1;
        }
        reply.map(at, Fpage::memory(at, log2, Rights::RWX));
        at += 1 << log2;
        pieces += 1;
    }
    reply.tag(0)
}

fn serve_window(from: ThreadId, addr: u64, ip: u64, access: Rights) -> Option<MsgTag> {
    let hit = TABLE.iter().enumerate().find_map(|(n, window)| {
        let offset = addr.checked_sub(arena::window(n as u64))?;
        (offset < window.size.load(Ordering::Relaxed)).then_some((window, offset))
    });
    let Some((window, offset)) = hit else {
        STRAY.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    window.last_addr.store(addr, Ordering::Relaxed);
    window.last_ip.store(ip, Ordering::Relaxed);
    window.last_access.store(u64::from(access.bits()), Ordering::Relaxed);
    window.last_from.store(from.raw(), Ordering::Relaxed);
    window.faults.fetch_add(1, Ordering::Release);
    match window.mode.load(Ordering::Acquire) {
        1 | MAPPING => return None,
        n if n > MAPPING => window.mode.store(n - 1, Ordering::Relaxed),
        n if n > 2 => {
            window.mode.store(n - 1, Ordering::Relaxed);
            return Some(MsgTag::NIL);
        }
        _ => {}
    }
    let log2 = window.page_log2.load(Ordering::Relaxed) as u8;
    let rights = Rights::from_bits_truncate(window.rights.load(Ordering::Relaxed) as u8);
    let backing = window.backing.load(Ordering::Relaxed) + offset;
    let mut reply = Writer::here();
    reply.map(addr, Fpage::memory(backing, log2, rights));
    Some(reply.tag(0))
}
