//! Segments and the task state of one CPU.
//!
//! Selectors are laid out for SYSCALL and SYSRET: kernel code, kernel data, user data, user code (SDM 3A
//! 5.8.8); the user's are the ones existing programs know (reference 7.1). The task state ends its page, so the two pages of the I/O bitmap window follow it directly and
//! the terminator byte follows those (SDM 1 19.5.2); what is mapped in the window is the running space's
//! bitmap, or a page of ones per node that denies every port.

use core::arch::asm;

use kcore::layout::{CPU_LOCAL, cpu_local};
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, load_tss};
use x86_64::registers::model_specific::GsBase;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, DescriptorFlags, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Kernel code segment.
pub const KERNEL_CODE: u16 = 0x08;
/// Kernel data segment.
pub const KERNEL_DATA: u16 = 0x10;
/// User data segment, with the privilege bits.
pub const USER_DATA: u16 = 0x20 | 3;
/// User code segment, with the privilege bits.
pub const USER_CODE: u16 = 0x28 | 3;
/// Task state segment (two entries).
pub const TASK_STATE: u16 = 0x30;
/// What the top half of the STAR register holds for SYSRET: code is 16 above, data 8 above.
pub const SYSRET_BASE: u16 = 0x18 | 3;

/// Entries of the table.
const ENTRIES: usize = 8;
/// What ends an I/O bitmap.
const TERMINATOR: u8 = 0xff;

/// Interrupt stack table slots, counted from 0 as the `x86_64` crate does.
pub mod ist {
    /// Non-maskable interrupt.
    pub const NMI: u16 = 0;
    /// Double fault.
    pub const DOUBLE_FAULT: u16 = 1;
    /// Machine check.
    pub const MACHINE_CHECK: u16 = 2;
}

fn local(offset: u64) -> VirtAddr {
    VirtAddr::new(CPU_LOCAL.as_u64() + offset)
}

/// The task state: where the stacks of this CPU end, and how far the I/O bitmap is.
fn task_state() -> TaskStateSegment {
    let mut tss = TaskStateSegment::new();
    tss.privilege_stack_table[0] = local(cpu_local::KERNEL_STACK_TOP);
    for (slot, stack) in [
        (ist::NMI, cpu_local::NMI_STACK),
        (ist::DOUBLE_FAULT, cpu_local::DOUBLE_FAULT_STACK),
        (ist::MACHINE_CHECK, cpu_local::MACHINE_CHECK_STACK),
    ] {
        tss.interrupt_stack_table[slot as usize] = local(stack + cpu_local::EXCEPTION_STACK_SIZE);
    }
    tss.iomap_base = (cpu_local::IO_BITMAP - cpu_local::TSS) as u16;
    tss
}

/// The TSS descriptor covers the bitmap and its terminator (SDM 3A 8.2.3).
fn task_state_descriptor() -> [u64; 2] {
    let base = CPU_LOCAL.as_u64() + cpu_local::TSS;
    let limit = cpu_local::GDT_PAGE - cpu_local::TSS; // last byte: the terminator
    const AVAILABLE_TSS: u64 = 0x89 << 40;
    let low = limit & 0xffff
        | (base & 0x00ff_ffff) << 16
        | AVAILABLE_TSS
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

fn entries() -> [u64; ENTRIES] {
    let segment = |descriptor| match descriptor {
        Descriptor::UserSegment(bits) | Descriptor::SystemSegment(bits, _) => bits,
    };
    let [tss_low, tss_high] = task_state_descriptor();
    [
        0,
        DescriptorFlags::KERNEL_CODE64.bits(),
        segment(Descriptor::kernel_data_segment()),
        0, // SYSRET's base; 32-bit code would be here
        segment(Descriptor::user_data_segment()),
        segment(Descriptor::user_code_segment()),
        tss_low,
        tss_high,
    ]
}

/// Writes the tables of one CPU into its pages, before they are used.
///
/// # Safety
/// `tss_page` and `gdt_page` are writable pages that nobody else uses.
pub unsafe fn write_tables(tss_page: *mut u8, gdt_page: *mut u8) {
    let tss_offset = (cpu_local::TSS - cpu_local::TSS_PAGE) as usize;
    let gdt_offset = (cpu_local::GDT - cpu_local::GDT_PAGE) as usize;
    // SAFETY: both structures fit into their pages (asserted in `kcore::layout` and below) and are
    // aligned: the TSS needs 4 bytes, the GDT starts a 64-byte line.
    unsafe {
        tss_page.add(tss_offset).cast::<TaskStateSegment>().write_unaligned(task_state());
        gdt_page.write(TERMINATOR);
        gdt_page.add(gdt_offset).cast::<[u64; ENTRIES]>().write(entries());
    }
}

const _: () = assert!(
    cpu_local::GDT - cpu_local::GDT_PAGE + 8 * ENTRIES as u64 <= kcore::layout::PAGE_SIZE
        && size_of::<TaskStateSegment>() as u64 == cpu_local::TSS_SIZE
        && USER_DATA == SYSRET_BASE + 8
        && USER_CODE == SYSRET_BASE + 16
);

/// Loads this CPU's tables and segments. GS points at the user word for ever; there is no `swapgs`.
///
/// # Safety
/// The CPU-local window and the interrupt table are mapped and written.
pub unsafe fn load() {
    let gdt =
        DescriptorTablePointer { limit: (ENTRIES * 8 - 1) as u16, base: local(cpu_local::GDT) };
    // SAFETY: by the caller; the selectors name entries of this table.
    unsafe {
        lgdt(&gdt);
        CS::set_reg(SegmentSelector(KERNEL_CODE));
        SS::set_reg(SegmentSelector(KERNEL_DATA));
        DS::set_reg(SegmentSelector(0));
        ES::set_reg(SegmentSelector(0));
        FS::set_reg(SegmentSelector(0));
        GS::set_reg(SegmentSelector(0));
        load_tss(SegmentSelector(TASK_STATE));
        // No local descriptor table.
        asm!("lldt {0:x}", in(reg) 0u16, options(nomem, nostack, preserves_flags));
    }
    GsBase::write(local(cpu_local::USER_WORD));
}
