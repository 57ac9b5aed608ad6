//! Control registers and model-specific registers: set the same on every CPU, whatever the boot path
//! left in them (BIOS leaves CR4 = PAE only, UEFI sets more; OSXSAVE never).

use kcore::types::PhysAddr;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2, Cr3, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;

/// IA32_PAT (SDM 3A 12.12), the same on every CPU; entry 0 write-back, 1 write-combining, 2 uncached-minus, 3
/// uncached, 4 to 7 the same but write-through in 5. The entry at the union of two indices is never more cached than those
/// at both, so that an attribute can be changed bit by bit (`kcore::mapdb`).
const PAT: u32 = 0x277;
const PAT_VALUE: u64 = 0x0007_0406_0007_0106;
/// Cache attributes of page entries (bit 0 PWT, bit 1 PCD, bit 2 PAT): indices into the table.
pub const WRITE_BACK: u8 = 0;
/// See [`WRITE_BACK`].
pub const WRITE_COMBINING: u8 = 1;
/// See [`WRITE_BACK`].
pub const UNCACHED: u8 = 3;
/// See [`WRITE_BACK`].
pub const WRITE_THROUGH: u8 = 5;

/// What the processor can do, of the things the kernel decides by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub fsgsbase: bool,
    pub pcid: bool,
    pub invpcid: bool,
    pub gib_pages: bool,
    pub xsave: bool,
    pub rdtscp: bool,
    pub x2apic: bool,
    pub tsc_deadline: bool,
    pub invariant_tsc: bool,
    pub tsc_adjust: bool,
    pub hypervisor: bool,
}

impl Features {
    /// Asks the processor this runs on (SDM 2A, CPUID).
    pub fn detect() -> Self {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        let max = __cpuid(0).eax;
        let max_extended = __cpuid(0x8000_0000).eax;
        let one = __cpuid(1);
        let seven = if max >= 7 { __cpuid_count(7, 0) } else { __cpuid(0x8000_0000) };
        let (seven_b, seven_c) = if max >= 7 { (seven.ebx, seven.ecx) } else { (0, 0) };
        let extended = if max_extended >= 0x8000_0001 { __cpuid(0x8000_0001).edx } else { 0 };
        let power = if max_extended >= 0x8000_0007 { __cpuid(0x8000_0007).edx } else { 0 };
        let bit = |word: u32, n: u32| word >> n & 1 == 1;
        Features {
            smep: bit(seven_b, 7),
            smap: bit(seven_b, 20),
            umip: bit(seven_c, 2),
            fsgsbase: bit(seven_b, 0),
            pcid: bit(one.ecx, 17),
            invpcid: bit(seven_b, 10),
            gib_pages: bit(extended, 26),
            xsave: bit(one.ecx, 26),
            rdtscp: bit(extended, 27),
            x2apic: bit(one.ecx, 21),
            tsc_deadline: bit(one.ecx, 24),
            invariant_tsc: bit(power, 8),
            tsc_adjust: bit(seven_b, 1),
            hypervisor: bit(one.ecx, 31),
        }
    }
}

/// Sets CR0, CR4, EFER and the PAT of this CPU. The kernel must be running in long mode on page tables
/// that use NX and write protection. Without `cache`, no line is cached from here on.
pub fn init(cache: bool) -> Features {
    let features = Features::detect();
    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE
        | Cr4Flags::MACHINE_CHECK_EXCEPTION
        | Cr4Flags::PAGE_GLOBAL;
    for (present, flag) in [
        (features.smep, Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        (features.smap, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        (features.umip, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        (features.xsave, Cr4Flags::OSXSAVE),
    ] {
        if present {
            cr4 |= flag;
        }
    }
    let mut cr0 = Cr0Flags::PROTECTED_MODE_ENABLE
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::ALIGNMENT_MASK
        | Cr0Flags::PAGING;
    if !cache {
        // CD without NW: reads that hit are served, nothing is filled; empty after WBINVD (SDM 3A 12.5.3).
        cr0 |= Cr0Flags::CACHE_DISABLE;
    }
    // SAFETY: long mode stays on (PE, PG, PAE, LME), nothing the kernel's code relies on is turned off,
    // and the pages it uses are mapped consistently with NX, WP, SMEP and SMAP on every boot path.
    unsafe {
        Efer::update(|efer| {
            *efer |= EferFlags::NO_EXECUTE_ENABLE | EferFlags::SYSTEM_CALL_EXTENSIONS;
        });
        Cr0::write(cr0);
        if !cache {
            core::arch::asm!("wbinvd", options(nostack, preserves_flags));
        }
        Cr4::write(cr4);
        Msr::new(PAT).write(PAT_VALUE);
    }
    features
}

/// Whether this CPU has the page attribute table that all have.
pub fn pat_is_right() -> bool {
    // SAFETY: every 64-bit processor has this register; reading it changes nothing.
    unsafe { Msr::new(PAT).read() == PAT_VALUE }
}

/// Writes the caches of this CPU back to memory and empties them.
pub fn write_back_caches() {
    // SAFETY: no memory changes.
    unsafe { core::arch::asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// Physical address of the root table in use.
pub fn cr3() -> PhysAddr {
    PhysAddr::new(Cr3::read().0.start_address().as_u64())
}

/// Forgets why the last debug exception came (DR6 is never cleared by the processor).
pub fn clear_debug_status() {
    const NO_REASON: u64 = 0xFFFF_0FF0;
    // SAFETY: only says why a past exception came.
    unsafe { core::arch::asm!("mov dr6, {}", in(reg) NO_REASON, options(nomem, nostack)) };
}

/// Address of the last page fault.
pub fn cr2() -> u64 {
    Cr2::read_raw()
}
