//! The running thread, and making others.
//!
//! ThreadControl is privileged: [`create_local`] works in the root task; other programs ask a
//! system call server for the thread and then [`start`] it themselves.

use crate::arch::{self, StackTop, utcb};
use crate::ipc;
use crate::sys::{self, Exregs, SysResult, ThreadControl};
use core::sync::atomic::Ordering;
use l4abi::exregs::Control;
use l4abi::{CpuId, ThreadId, Time, Timeouts};

pub use crate::arch::Stack;

/// The running thread's global id.
#[must_use]
pub fn my_global_id() -> ThreadId {
    ThreadId::from_raw(utcb().my_global_id.load(Ordering::Relaxed))
}

/// The running thread's local id.
#[must_use]
pub fn my_local_id() -> ThreadId {
    ThreadId::local(utcb().mr.as_ptr() as u64)
}

/// The processor that the thread is on. It may migrate at any time.
#[must_use]
pub fn my_cpu() -> CpuId {
    CpuId(utcb().processor_no.load(Ordering::Relaxed) as u16)
}

/// The start of the running thread's UTCB block: what ThreadControl calls its location.
#[must_use]
pub fn my_utcb_location() -> u64 {
    core::ptr::from_ref(utcb()) as u64
}

/// Sleeps until the thread is deleted; a cancelled sleep starts again.
pub fn sleep_forever() -> ! {
    loop {
        // A receive from oneself never gets a message.
        let _ = ipc::receive(my_local_id(), Timeouts::new(Time::NEVER, Time::NEVER));
    }
}

/// Starts an activated thread of this space at `ip` with `sp`, without a start-up message.
///
/// # Errors
/// As ExchangeRegisters.
pub fn start(thread: ThreadId, ip: u64, sp: u64) -> SysResult<()> {
    let control = Control::ABORT_IPC | Control::RESUME;
    let change = Exregs { control, sp: Some(sp), ip: Some(ip), ..Exregs::default() };
    sys::exchange_registers(thread, change).map(|_| ())
}

/// Starts an activated thread of this space in `entry(arg)` on `stack`.
///
/// # Errors
/// As ExchangeRegisters.
pub fn start_on(
    thread: ThreadId,
    stack: &StackTop,
    entry: extern "C" fn(u64) -> !,
    arg: u64,
) -> SysResult<()> {
    let sp = stack.prepare(entry, arg);
    start(thread, arch::trampoline_ip(), sp)
}

/// Creates and activates a thread in the caller's space: scheduled by the caller, paged by `pager`.
/// It waits to be started. Privileged.
///
/// # Errors
/// As ThreadControl.
pub fn create_local(thread: ThreadId, utcb_location: u64, pager: ThreadId) -> SysResult<()> {
    let me = my_global_id();
    sys::thread_control(ThreadControl {
        dest: thread,
        space: me,
        scheduler: me,
        pager,
        utcb: Some(utcb_location),
    })
}

/// Deletes a thread. Privileged. Nothing happens if it does not exist.
///
/// # Errors
/// As ThreadControl.
pub fn delete(thread: ThreadId) -> SysResult<()> {
    sys::thread_control(ThreadControl {
        dest: thread,
        space: ThreadId::NIL,
        scheduler: ThreadId::NIL,
        pager: ThreadId::NIL,
        utcb: None,
    })
}

/// The global id of a thread of this space (ids of others come back as they are).
///
/// # Errors
/// As ExchangeRegisters.
pub fn global_id(thread: ThreadId) -> SysResult<ThreadId> {
    if !thread.is_local() {
        return Ok(thread);
    }
    sys::exchange_registers(thread, Exregs::default()).map(|old| old.id)
}

/// Asks for moving the calling thread to another CPU: a thread cannot migrate itself (as in the L4-SMP
/// thesis), so a helper thread that runs [`serve_migration`] does it. The helper's space must be allowed
/// to schedule the caller.
///
/// # Errors
/// The error of the call; a refusal by Schedule shows as a CPU that did not change.
pub fn migrate_by(helper: ThreadId, to: CpuId) -> Result<(), l4abi::IpcError> {
    let mut message = crate::msg::Writer::here();
    message.word(u64::from(to.0));
    let tag = message.tag(MIGRATE_LABEL);
    ipc::call(helper, Timeouts::NEVER, tag).map(|_| ())
}

/// Label of the request to a migration helper: MR1 is the CPU.
pub const MIGRATE_LABEL: u64 = 0x4D16;

/// The helper's side of [`migrate_by`]: moves each caller and answers it.
pub fn serve_migration() -> ! {
    struct Mover;

    impl crate::server::Service for Mover {
        fn handle(&mut self, request: &ipc::Received) -> crate::server::Answer {
            if request.tag.label() == MIGRATE_LABEL {
                let processor = Some(CpuId(request.mr(1) as u16));
                let args = sys::Schedule { processor, ..sys::Schedule::default() };
                // A refusal changes nothing, which the caller sees.
                let _ = sys::schedule(request.from, args);
            }
            crate::server::Answer::Reply(l4abi::MsgTag::NIL)
        }
    }

    crate::server::serve(&mut Mover)
}
