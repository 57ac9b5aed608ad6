//! The local APIC of each CPU, by way of the `x2apic` crate, which picks x2APIC mode where the processor
//! has it and the memory-mapped registers otherwise.
//!
//! Every handle is a few register numbers without state, so one is made where it is needed; the
//! processor's own APIC answers whichever CPU asks. What the crate leaves undone is done here: the local
//! interrupt pins (it programs both as unmasked vector 0), the task priority, and destinations, which are
//! the APIC id in the top byte in xAPIC mode and the plain id in x2APIC mode.

use core::sync::atomic::{AtomicU8, Ordering};

use kcore::layout;
use kcore::types::ApicId;
use x2apic::lapic::{IpiAllShorthand, LocalApic, LocalApicBuilder, TimerDivide, TimerMode};
use x86_64::registers::model_specific::Msr;

use super::vectors;
use crate::util::sealed;

/// Where the registers of the local APIC are mapped, in xAPIC mode.
pub const XAPIC_VIRT: u64 = layout::DEVICE_AREA.as_u64();
/// Bytes of local interrupt pin registers from the APIC's base (SDM 3A table 11-1).
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
/// Interrupt command register, two halves in xAPIC mode.
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
/// Local vector table: masked.
const LVT_MASKED: u32 = 1 << 16;
/// Local vector table: delivered as an NMI.
const LVT_NMI: u32 = 4 << 8;
/// First x2APIC register; register at offset `o` is MSR `0x800 + o / 16` (SDM 3A 11.12.1.2).
const X2APIC_MSR: u32 = 0x800;

const MODE_OFF: u8 = 0;
const MODE_XAPIC: u8 = 1;
const MODE_X2APIC: u8 = 2;

sealed! {
    /// Mode of all local APICs; off until the boot processor's is on.
    static MODE: AtomicU8 = AtomicU8::new(MODE_OFF);
}

fn x2apic_mode() -> bool {
    MODE.load(Ordering::Relaxed) == MODE_X2APIC
}

/// Physical address of the registers in xAPIC mode, of this CPU (the same on all).
pub fn physical_base() -> u64 {
    // SAFETY: reads a register.
    unsafe { x2apic::lapic::xapic_base() }
}

fn handle() -> LocalApic {
    let built = LocalApicBuilder::new()
        .timer_vector(vectors::TIMER as usize)
        .error_vector(vectors::APIC_ERROR as usize)
        .spurious_vector(vectors::SPURIOUS as usize)
        .timer_mode(TimerMode::OneShot)
        .timer_divide(TimerDivide::Div1)
        .timer_initial(0)
        .set_xapic_base(XAPIC_VIRT)
        .build();
    match built {
        Ok(apic) => apic,
        Err(reason) => panic!("local APIC: {reason}"),
    }
}

fn write(offset: u64, value: u32) {
    if x2apic_mode() {
        // SAFETY: a register of this CPU's local APIC, which the kernel owns.
        unsafe { Msr::new(X2APIC_MSR + (offset >> 4) as u32).write(u64::from(value)) };
    } else {
        write_xapic(offset, value);
    }
}

#[inline(always)]
fn write_xapic(offset: u64, value: u32) {
    // SAFETY: the registers are mapped at `XAPIC_VIRT` since the kernel address space exists; in x2APIC mode a write there
    // reaches no register.
    unsafe { ((XAPIC_VIRT + offset) as *mut u32).write_volatile(value) };
}

fn read(offset: u64) -> u32 {
    if x2apic_mode() {
        // SAFETY: as in `write`.
        unsafe { Msr::new(X2APIC_MSR + (offset >> 4) as u32).read() as u32 }
    } else {
        // SAFETY: as in `write`.
        unsafe { ((XAPIC_VIRT + offset) as *const u32).read_volatile() }
    }
}

/// Turns on this CPU's local APIC: timer stopped, pin 0 masked (the I/O APIC is used instead of the
/// 8259), pin 1 the NMI line of the board.
pub fn init() {
    let x2 = super::regs::Features::detect().x2apic;
    let mut apic = handle();
    let mode = if x2 { MODE_X2APIC } else { MODE_XAPIC };
    if MODE.load(Ordering::Relaxed) != mode {
        // The boot processor, before any other runs.
        MODE.store(mode, Ordering::Relaxed);
    }
    // SAFETY: interrupts are off, the vectors have handlers, the registers are mapped.
    unsafe {
        apic.enable();
        apic.set_timer_mode(TimerMode::OneShot);
    }
    write(LVT_LINT0, LVT_MASKED);
    write(LVT_LINT1, LVT_NMI);
    const TASK_PRIORITY: u64 = 0x80;
    write(TASK_PRIORITY, 0);
}

/// Id of this CPU's local APIC.
pub fn id() -> ApicId {
    // SAFETY: reads a register.
    let id = unsafe { handle().id() };
    ApicId::new(if x2apic_mode() { id } else { id >> 24 })
}

/// Uses x2APIC mode (ids above 254 can be reached).
pub fn is_x2apic() -> bool {
    x2apic_mode()
}

fn destination(id: ApicId) -> u32 {
    if x2apic_mode() { id.get() } else { id.get() << 24 }
}

/// Acknowledges the interrupt being served.
#[inline]
pub fn end_of_interrupt() {
    const EOI: u64 = 0xb0;
    write(EOI, 0);
}

/// Starts the one-shot timer: an interrupt [`vectors::TIMER`] after `ticks` of the timer clock
/// (`time::apic_timer_hz`); 0 stops it.
#[inline]
pub fn arm_timer(ticks: u32) {
    const INITIAL_COUNT: u64 = 0x380;
    write(INITIAL_COUNT, ticks);
}

/// What is left of the running timer, in its ticks.
pub fn timer_left() -> u32 {
    const CURRENT_COUNT: u64 = 0x390;
    read(CURRENT_COUNT)
}

/// Sends an interrupt to another CPU. Written without the crate: it is on the path of cross-CPU IPC.
#[inline(always)]
pub fn send(vector: u8, to: ApicId) {
    const LEVEL_ASSERT: u32 = 1 << 14;
    let low = LEVEL_ASSERT | u32::from(vector);
    if x2apic_mode() {
        let command = u64::from(to.get()) << 32 | u64::from(low);
        let msr = X2APIC_MSR + (COMMAND_LOW >> 4) as u32;
        // Earlier stores must be visible before the interrupt is: the MSR is not a serializing write
        // (SDM 3A 11.12.3).
        // SAFETY: every vector has a handler on every CPU that is up.
        unsafe {
            core::arch::x86_64::_mm_mfence();
            Msr::new(msr).write(command);
        }
    } else {
        // The mode was asked once, not for every register.
        write_xapic(COMMAND_HIGH, to.get() << 24);
        write_xapic(COMMAND_LOW, low);
        wait_until_sent();
    }
}

/// Resets a CPU into the wait-for-startup state (SDM 3A 9.4.4).
pub fn send_init(to: ApicId) {
    // SAFETY: sent to CPUs that do not run kernel code.
    unsafe { handle().send_init_ipi(destination(to)) };
    wait_until_sent();
}

/// Starts a waiting CPU in real mode at `page << 12`.
pub fn send_startup(page: u8, to: ApicId) {
    // SAFETY: the page holds the start code; a CPU that is not waiting ignores the message.
    unsafe { handle().send_sipi(page, destination(to)) };
    wait_until_sent();
}

/// Sends an NMI to all other CPUs, which stop there when a panic is in progress.
pub fn stop_others() {
    if MODE.load(Ordering::Relaxed) == MODE_OFF {
        return;
    }
    // SAFETY: a CPU that is up halts in its NMI handler; one that was never started ignores it.
    unsafe { handle().send_nmi_all(IpiAllShorthand::AllExcludingSelf) };
    wait_until_sent();
}

/// Sends an NMI to this CPU, by its id: the self shorthand is for ordinary interrupts only.
pub fn send_nmi_to_self() {
    // SAFETY: the NMI handler is there; used by self-tests, which expect it.
    unsafe { handle().send_nmi(destination(id())) };
    wait_until_sent();
}

/// In xAPIC mode a second command may not be written before the first is accepted.
#[cold]
#[inline(never)]
fn wait_until_sent() {
    const PENDING: u32 = 1 << 12;
    const PATIENCE: u32 = 1_000_000;
    if x2apic_mode() {
        return;
    }
    for _ in 0..PATIENCE {
        if read(COMMAND_LOW) & PENDING == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}
