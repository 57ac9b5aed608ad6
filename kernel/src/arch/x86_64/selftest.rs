//! Traps that kernel self-tests provoke on purpose: an access that is expected to fault resumes behind the
//! faulting instruction and tells what happened.

use core::arch::asm;
use core::cell::Cell;

use kcore::paging::Flags;
use kcore::types::{PhysAddr, VirtAddr};

use super::traps::TrapFrame;
use super::{regs, vectors};
use crate::{cpu, memory};

/// What this CPU expects, in its block.
pub struct Probe {
    /// Where to go on after the trap; 0 while none is expected.
    resume: Cell<u64>,
    vector: Cell<u64>,
    error: Cell<u64>,
    address: Cell<u64>,
    /// NMIs expected, which arrive between any two instructions and return there.
    nmis: Cell<u64>,
}

impl Probe {
    /// Nothing is expected.
    pub const fn idle() -> Self {
        Probe {
            resume: Cell::new(0),
            vector: Cell::new(NO_TRAP),
            error: Cell::new(0),
            address: Cell::new(0),
            nmis: Cell::new(0),
        }
    }
}

const NO_TRAP: u64 = u64::MAX;

/// A trap that was provoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provoked {
    /// Its vector.
    pub vector: u8,
    /// Its error code.
    pub error: u64,
    /// CR2 for a page fault, else 0.
    pub address: u64,
}

/// Goes on behind an expected trap; false if none is expected.
pub fn resume(frame: &mut TrapFrame) -> bool {
    if !cpu::local_window_live() {
        return false;
    }
    let probe = &cpu::this().local.probe;
    if frame.vector as u8 == vectors::NMI && probe.nmis.get() > 0 {
        probe.nmis.set(probe.nmis.get() - 1);
        return true;
    }
    let resume = probe.resume.replace(0);
    if resume == 0 {
        return false;
    }
    let page_fault = frame.vector as u8 == vectors::PAGE_FAULT;
    probe.vector.set(frame.vector);
    probe.error.set(frame.error);
    probe.address.set(if page_fault { regs::cr2() } else { 0 });
    frame.rip = resume;
    true
}

fn outcome() -> Option<Provoked> {
    let probe = &cpu::this().local.probe;
    probe.resume.set(0);
    let vector = probe.vector.replace(NO_TRAP);
    (vector != NO_TRAP).then(|| Provoked {
        vector: vector as u8,
        error: probe.error.get(),
        address: probe.address.get(),
    })
}

macro_rules! provoke {
    ($($code:literal),* ; $($operands:tt)*) => {{
        let cell = cpu::this().local.probe.resume.as_ptr();
        // SAFETY: the instruction faults, or does nothing that a test minds; after a fault execution goes
        // on at label 2 with the stack pointer restored.
        unsafe {
            asm!(
                "lea {t}, [rip + 2f]",
                "mov [{cell}], {t}",
                "mov {sp}, rsp",
                $($code,)*
                "2:",
                "mov rsp, {sp}",
                cell = in(reg) cell,
                t = out(reg) _,
                sp = out(reg) _,
                $($operands)*
            );
        }
        outcome()
    }};
}

/// Reads a byte.
pub fn read(at: u64) -> Option<Provoked> {
    provoke!("mov {t:l}, [{at}]"; at = in(reg) at)
}

/// The word at `at`; none if reading it faults.
#[cfg(feature = "kdb")]
pub fn peek(at: u64) -> Option<u64> {
    let cell = cpu::this().local.probe.resume.as_ptr();
    let mut value: u64 = 0;
    // SAFETY: a read that, if it faults, goes on at label 2 with nothing changed.
    unsafe {
        asm!(
            "lea {t}, [rip + 2f]",
            "mov [{cell}], {t}",
            "mov {value}, [{at}]",
            "2:",
            cell = in(reg) cell,
            t = out(reg) _,
            at = in(reg) at,
            value = inout(reg) value,
            options(nostack, preserves_flags)
        );
    }
    outcome().is_none().then_some(value)
}

/// Writes a zero byte; where that must fail, nothing is changed.
pub fn write(at: u64) -> Option<Provoked> {
    provoke!("mov byte ptr [{at}], 0"; at = in(reg) at)
}

/// Calls code; what is there must return at once if it can be executed.
pub fn execute(at: u64) -> Option<Provoked> {
    provoke!("call {at}"; at = in(reg) at)
}

/// `int3`.
pub fn breakpoint() -> Option<Provoked> {
    provoke!("int3";)
}

/// An undefined instruction.
pub fn undefined() -> Option<Provoked> {
    provoke!("ud2";)
}

/// Sends an NMI to this CPU; true if it arrives.
pub fn own_nmi() -> bool {
    const PATIENCE: u32 = 10_000_000;
    let nmis = &cpu::this().local.probe.nmis;
    nmis.set(1);
    super::apic::send_nmi_to_self();
    for _ in 0..PATIENCE {
        // The handler changes the cell behind the compiler's back.
        // SAFETY: a cell of this CPU's block.
        if unsafe { nmis.as_ptr().read_volatile() } == 0 {
            return true;
        }
        core::hint::spin_loop();
    }
    nmis.set(0);
    false
}

/// Overflows the kernel stack: ends in a double fault on its own stack. For `panic=cpuN:stack`.
pub fn overflow_stack(depth: u64) -> u64 {
    let filler = core::hint::black_box([depth; 64]);
    if filler[depth as usize & 63] == u64::MAX {
        return 0;
    }
    overflow_stack(depth + 1) + core::hint::black_box(filler)[0]
}

/// Reads where nothing is mapped. For `panic=cpuN:fault`.
pub fn wild_read() {
    // SAFETY: faults.
    let byte = unsafe { (0xffff_a000_dead_0000 as *const u8).read_volatile() };
    core::hint::black_box(byte);
}

/// Interrupts on, wait for one, interrupts off.
pub fn wait_for_interrupt() {
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
}

/// Bytes of pool memory.
pub fn pool_bytes(phys: PhysAddr, length: u64) -> Option<&'static [u8]> {
    let whole = length > 0 && memory::is_pool(phys) && memory::is_pool(phys.offset(length - 1));
    // SAFETY: pool memory is mapped at its window for ever; tests look at memory nobody writes meanwhile.
    whole.then(|| unsafe {
        core::slice::from_raw_parts(phys.window().as_u64() as *const u8, length as usize)
    })
}

/// An aligned word of pool memory that the test has allocated.
pub fn pool_word(phys: PhysAddr) -> &'static core::sync::atomic::AtomicU64 {
    let at = phys.window().as_u64() & !7;
    // SAFETY: as above; aligned.
    unsafe { &*(at as *const core::sync::atomic::AtomicU64) }
}

/// A word of the TCB array, which is mapped everywhere.
pub fn tcb_word(at: VirtAddr) -> u64 {
    // SAFETY: every slot is always mapped.
    unsafe { (at.as_u64() as *const u64).read_volatile() }
}

/// One leaf entry of the tables in use.
pub struct Leaf {
    /// First address.
    pub virt: VirtAddr,
    /// What is there.
    pub phys: PhysAddr,
    /// Bytes.
    pub size: u64,
    /// What all levels together allow.
    pub flags: Flags,
}
