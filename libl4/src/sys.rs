//! Typed forms of the system calls other than IPC (ref 4). Each returns the kernel's error code.

use crate::arch::{self, ExregsFrame, utcb};
use core::sync::atomic::Ordering;
use l4abi::control::{UTCB_UNSPECIFIED, UnmapControl};
use l4abi::exregs::Control;
use l4abi::schedule::{PreemptionControl, ThreadState, TimeControl, UNCHANGED};
use l4abi::{CpuId, ErrorCode, Fpage, ThreadId};

/// The result of a system call that can fail. Codes that the ABI does not know are kept as numbers.
pub type SysResult<T> = Result<T, SysError>;

/// A system call's error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SysError {
    /// One of the codes of ref 4.1.
    Code(ErrorCode),
    /// Anything else.
    Unknown(u64),
}

impl SysError {
    /// The code, if it is a known one.
    #[must_use]
    pub fn code(self) -> Option<ErrorCode> {
        match self {
            Self::Code(code) => Some(code),
            Self::Unknown(_) => None,
        }
    }
}

impl core::fmt::Display for SysError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Unknown(raw) => write!(f, "error {raw:#x}"),
        }
    }
}

/// The calling thread's ErrorCode TCR as an error.
#[must_use]
pub fn last_error() -> SysError {
    let raw = utcb().error_code.load(Ordering::Relaxed);
    ErrorCode::from_raw(raw).map_or(SysError::Unknown(raw), SysError::Code)
}

fn check(result: u64) -> SysResult<()> {
    if result == 0 { Err(last_error()) } else { Ok(()) }
}

/// What to change with [`exchange_registers`]; `None` leaves a register as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exregs {
    /// Abort, halt and resume bits; the bits of the registers below are added.
    pub control: Control,
    /// Stack pointer.
    pub sp: Option<u64>,
    /// Instruction pointer.
    pub ip: Option<u64>,
    /// Flags; only the user-changeable bits count.
    pub flags: Option<u64>,
    /// UserDefinedHandle.
    pub handle: Option<u64>,
    /// Pager (global id).
    pub pager: Option<ThreadId>,
}

/// The values before the call.
#[derive(Clone, Copy, Debug)]
pub struct ExregsOld {
    /// The other form of the destination's id.
    pub id: ThreadId,
    /// State: HALT, RECEIVE, SEND.
    pub state: Control,
    /// Stack pointer.
    pub sp: u64,
    /// Instruction pointer.
    pub ip: u64,
    /// Flags.
    pub flags: u64,
    /// UserDefinedHandle.
    pub handle: u64,
    /// Pager.
    pub pager: ThreadId,
}

/// ExchangeRegisters (ref 4.4).
///
/// # Errors
/// `InvalidThread` if the destination is unknown, inactive or not permitted.
pub fn exchange_registers(dest: ThreadId, change: Exregs) -> SysResult<ExregsOld> {
    let mut control = change.control;
    control.set(Control::SET_SP, change.sp.is_some());
    control.set(Control::SET_IP, change.ip.is_some());
    control.set(Control::SET_FLAGS, change.flags.is_some());
    control.set(Control::SET_HANDLE, change.handle.is_some());
    control.set(Control::SET_PAGER, change.pager.is_some());
    let mut frame = ExregsFrame {
        rax_dest: dest.raw(),
        rsi_control: control.bits(),
        rdx_sp: change.sp.unwrap_or(0),
        r8_ip: change.ip.unwrap_or(0),
        r9_flags: change.flags.unwrap_or(0),
        r10_handle: change.handle.unwrap_or(0),
        rdi_pager: change.pager.unwrap_or(ThreadId::NIL).raw(),
    };
    arch::exchange_registers(&mut frame);
    check(frame.rax_dest)?;
    Ok(ExregsOld {
        id: ThreadId::from_raw(frame.rax_dest),
        state: Control::from_bits_retain(frame.rsi_control),
        sp: frame.rdx_sp,
        ip: frame.r8_ip,
        flags: frame.r9_flags,
        handle: frame.r10_handle,
        pager: ThreadId::from_raw(frame.rdi_pager),
    })
}

/// Arguments of ThreadControl (ref 4.5).
#[derive(Clone, Copy, Debug)]
pub struct ThreadControl {
    /// The thread to create, change or delete (global id).
    pub dest: ThreadId,
    /// A thread of the space it shall be in; nil deletes.
    pub space: ThreadId,
    /// Scheduler; nil = unchanged.
    pub scheduler: ThreadId,
    /// Pager; nil = unchanged, or not yet active.
    pub pager: ThreadId,
    /// UTCB location; `None` = not given.
    pub utcb: Option<u64>,
}

/// ThreadControl (ref 4.5). Privileged.
///
/// # Errors
/// The codes of ref 4.5.
pub fn thread_control(args: ThreadControl) -> SysResult<()> {
    let location = args.utcb.unwrap_or(UTCB_UNSPECIFIED);
    check(
        arch::thread_control(
            args.dest.raw(),
            args.pager.raw(),
            args.scheduler.raw(),
            args.space.raw(),
            location,
        )
        .rax,
    )
}

/// SpaceControl (ref 4.10). Privileged. Returns the old control word.
///
/// # Errors
/// The codes of ref 4.10.
pub fn space_control(
    space: ThreadId,
    control: u64,
    kip_area: Fpage,
    utcb_area: Fpage,
    redirector: ThreadId,
) -> SysResult<u64> {
    let pair = arch::space_control(
        space.raw(),
        control,
        kip_area.raw(),
        utcb_area.raw(),
        redirector.raw(),
    );
    check(pair.rax).map(|()| pair.rdx)
}

/// Arguments of Schedule; `None` leaves a subject unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    /// Priority.
    pub priority: Option<u8>,
    /// Time slice and total quantum.
    pub time: Option<TimeControl>,
    /// Processor to migrate to.
    pub processor: Option<CpuId>,
    /// Sensitive priority and maximum delay.
    pub preemption: Option<PreemptionControl>,
}

/// Schedule (ref 4.8). Returns the state before the call and the old time control word.
///
/// # Errors
/// The codes of ref 4.8.
pub fn schedule(dest: ThreadId, args: Schedule) -> SysResult<(ThreadState, u64)> {
    schedule_raw(
        dest,
        args.priority.map_or(UNCHANGED, u64::from),
        args.time.map_or(UNCHANGED, TimeControl::raw),
        args.processor.map_or(UNCHANGED, |cpu| u64::from(cpu.0)),
        args.preemption.map_or(UNCHANGED, PreemptionControl::raw),
    )
}

/// [`schedule`] with raw parameter words.
///
/// # Errors
/// As [`schedule`].
pub fn schedule_raw(
    dest: ThreadId,
    priority: u64,
    time: u64,
    processor: u64,
    preemption: u64,
) -> SysResult<(ThreadState, u64)> {
    let pair = arch::schedule(dest.raw(), priority, time, processor, preemption);
    match ThreadState::from_raw(pair.rax) {
        Some(ThreadState::Error) | None => Err(last_error()),
        Some(state) => Ok((state, pair.rdx)),
    }
}

/// ThreadSwitch: donates the rest of the time slice; nil just gives it up (ref 4.7).
pub fn thread_switch(dest: ThreadId) {
    arch::thread_switch(dest.raw());
}

/// Unmaps (or with `flush` also from the own space) and returns the fpages with status bits in
/// place, at most 64 of them (ref 4.9). Uses the message registers.
pub fn unmap(fpages: &mut [Fpage], flush: bool) {
    let me = utcb();
    for batch in fpages.chunks_mut(l4abi::tag::NUM_MRS) {
        for (i, fpage) in batch.iter().enumerate() {
            me.store_mr(i, fpage.raw());
        }
        arch::unmap(UnmapControl { count: batch.len(), flush }.raw());
        for (i, fpage) in batch.iter_mut().enumerate() {
            *fpage = Fpage::from_raw(me.load_mr(i));
        }
    }
}

/// Unmaps one fpage; returns it with its status bits.
pub fn unmap_one(fpage: Fpage, flush: bool) -> Fpage {
    let mut fpages = [fpage];
    unmap(&mut fpages, flush);
    fpages[0]
}

/// MemoryControl: sets cache attributes of at most 64 fpages, whose low two bits select one of the
/// four attributes (ref 4.12). Privileged. Uses the message registers.
///
/// # Errors
/// The codes of ref 4.12. A kernel without the call leaves ErrorCode as it is.
pub fn memory_control(fpages: &[Fpage], attributes: [u64; 4]) -> SysResult<()> {
    let me = utcb();
    for batch in fpages.chunks(l4abi::tag::NUM_MRS) {
        for (i, fpage) in batch.iter().enumerate() {
            me.store_mr(i, fpage.raw());
        }
        check(arch::memory_control(batch.len() as u64 - 1, &attributes))?;
    }
    Ok(())
}

/// ProcessorControl (ref 4.11). Privileged.
///
/// # Errors
/// The codes of ref 4.11. A kernel without the call leaves ErrorCode as it is.
pub fn processor_control(
    cpu: CpuId,
    internal_khz: u64,
    external_khz: u64,
    millivolt: u64,
) -> SysResult<()> {
    let cpu = u64::from(cpu.0);
    check(arch::processor_control(cpu, internal_khz, external_khz, millivolt, 0).rax)
}
