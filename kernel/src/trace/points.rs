//! The trace points: one function per event, called where it happens.

use kcore::layout::{NR_THREADS, TCB_AREA};
use kcore::types::ThreadNo;
use l4abi::fpage::Fpage;
use l4abi::syscall::SyscallNo;
use l4abi::trace::{Event, IDLE, send};

use super::ring::{BUILT, put};
use crate::thread::tcb::{TcbRef, reg};

/// Event, detail, thread, arguments.
pub type Entry = (Event, u16, u32, u64, u64);

/// Number of `t`, or [`IDLE`].
pub fn number(t: TcbRef) -> u32 {
    let offset = (core::ptr::from_ref(t) as u64).wrapping_sub(TCB_AREA.as_u64());
    let inside = offset < NR_THREADS * size_of_val(t) as u64;
    if inside { t.number().get() } else { IDLE }
}

/// `me` entered the kernel for `call`.
#[inline(always)]
pub fn enter(me: TcbRef, call: SyscallNo) {
    put(|| (Event::Enter, call as u16, number(me), me.reg(reg::RSI), me.reg(reg::RDX)));
}

/// `me` entered the kernel for Ipc; its arguments may not be in its saved registers.
#[inline(always)]
pub fn enter_ipc(me: TcbRef, to: u64, from: u64) {
    put(|| (Event::Enter, SyscallNo::Ipc as u16, number(me), to, from));
}

/// `t` goes to user level.
#[inline(always)]
pub fn leave(t: TcbRef) -> TcbRef {
    put(|| (Event::Leave, 0, number(t), 0, 0));
    t
}

/// `t` becomes the running thread instead of `before`.
#[inline(always)]
pub fn switch(t: TcbRef, before: TcbRef) {
    put(|| (Event::Switch, 0, number(t), u64::from(number(before)), t.root.get()));
}

/// `me` sends to `dest`; `kernel`: a message that the kernel makes.
#[inline(always)]
pub fn ipc_send(me: TcbRef, dest: TcbRef, kernel: bool) {
    put(|| {
        let cross = me.key().cpu() != dest.key().cpu();
        let flags = if cross { send::CROSS } else { 0 } | if kernel { send::KERNEL } else { 0 };
        let tag = crate::ipc::transfer::tag_of(me).raw();
        (Event::IpcSend, flags, number(me), dest.id.get(), tag)
    });
}

/// `dest` has the message of `sender`.
#[inline(always)]
pub fn ipc_receive(dest: TcbRef, sender: TcbRef, tag: u64) {
    put(|| (Event::IpcReceive, 0, number(dest), sender.id.get(), tag));
}

/// `t` waits for a message of `awaited`.
#[inline(always)]
pub fn ipc_wait(t: TcbRef, awaited: u64) {
    put(|| (Event::IpcWait, 0, number(t), awaited, 0));
}

/// The IPC of `t` ends with error word `word`.
#[inline(always)]
pub fn ipc_error(t: TcbRef, word: u64) {
    put(|| (Event::IpcError, 0, number(t), word, 0));
}

/// Page fault of `me`.
#[inline(always)]
pub fn page_fault(me: TcbRef, address: u64, access: u8) {
    put(|| (Event::PageFault, u16::from(access), number(me), address, me.reg(reg::RIP)));
}

/// Exception of `me`.
#[inline(always)]
pub fn exception(me: TcbRef, vector: u8, error: u64) {
    put(|| (Event::Exception, u16::from(vector), number(me), me.reg(reg::RIP), error));
}

/// Interrupt while `current` runs.
#[inline(always)]
pub fn interrupt(vector: u8, current: TcbRef) {
    put(|| (Event::Interrupt, u16::from(vector), number(current), 0, 0));
}

/// The map and grant items at MR `items` of `from`, two words each, are with `to`.
#[inline(always)]
pub fn map(from: TcbRef, to: TcbRef, items: core::ops::Range<usize>) {
    if BUILT {
        for at in items.step_by(2) {
            let fpage = || crate::ipc::transfer::word(from, at + 1);
            put(|| (Event::Map, 0, number(from), u64::from(number(to)), fpage()));
        }
    }
}

/// `me` unmaps `fpage`.
#[inline(always)]
pub fn unmap(me: TcbRef, fpage: Fpage, flush: bool) {
    put(|| (Event::Unmap, u16::from(flush), number(me), fpage.raw(), 0));
}

/// Other CPUs are asked to forget translations.
#[inline(always)]
pub fn shootdown_request(kind: u64) {
    put(|| (Event::ShootdownRequest, kind as u16, IDLE, 0, 0));
}

/// All of `others`, a bit each, have.
#[inline(always)]
pub fn shootdown_done(others: &[u64]) {
    put(|| {
        let others: u32 = others.iter().map(|bits| bits.count_ones()).sum();
        (Event::ShootdownDone, 0, IDLE, u64::from(others), 0)
    });
}

/// This CPU has, for CPU `from`.
#[inline(always)]
pub fn shootdown_served(from: usize) {
    put(|| (Event::ShootdownServed, 0, IDLE, from as u64, 0));
}

/// Interrupt `vector` goes to CPU `to`.
#[inline(always)]
pub fn ipi_sent(vector: u8, to: u16) {
    put(|| (Event::IpiSent, u16::from(vector), IDLE, u64::from(to), 0));
}

/// Interrupt `vector` of another CPU is here.
#[inline(always)]
pub fn ipi_received(vector: u8) {
    put(|| (Event::IpiReceived, u16::from(vector), IDLE, 0, 0));
}

/// `t` becomes runnable.
#[inline(always)]
pub fn wake(t: TcbRef) {
    put(|| (Event::Wake, 0, number(t), 0, 0));
}

/// The time of `t` has come.
#[inline(always)]
pub fn timeout(t: TcbRef) {
    put(|| (Event::Timeout, 0, number(t), 0, 0));
}

/// `t` gets a new home.
#[inline(always)]
pub fn migrate(t: TcbRef, to: u16) {
    put(|| (Event::Migrate, 0, number(t), u64::from(t.travel.home()), u64::from(to)));
}

/// `t` leaves for CPU `to`.
#[inline(always)]
pub fn depart(t: TcbRef, to: u16) {
    put(|| (Event::Depart, 0, number(t), u64::from(to), 0));
}

/// Thread `number` is here.
#[inline(always)]
pub fn arrive(number: ThreadNo) {
    put(|| (Event::Arrive, 0, number.get(), 0, 0));
}

/// `t` begins at `ip`.
#[inline(always)]
pub fn begin(t: TcbRef, ip: u64) {
    put(|| {
        let mut code = [0; 8];
        if let Some(space) = t.space.get() {
            crate::space::user::read_some(space, ip, &mut code);
        }
        (Event::Start, 0, number(t), ip, u64::from_le_bytes(code))
    });
}
