//! Direct boot: the PVH entry (`qemu -kernel`) from 32-bit protected mode to the kernel in long mode.
//!
//! The loader enters at the address of the PVH note with paging off, flat segments, interrupts off and
//! the physical address of the start information in EBX (Xen `docs/misc/pvh.pandoc`). The boot tables
//! map physical memory twice: at 0, for the instructions between paging on and the jump, and at
//! `PHYS_OFFSET`, where the boot stages read firmware tables and build the pools. The image boot loader
//! is asked for the same second window, so the stages do not know which way the machine was booted.
//! Memory above 4 GiB is in the window where the processor has 1 GiB pages.

use core::arch::global_asm;

use super::bootmem::{BootWindow, Plain};
use crate::boot::handoff::{Handoff, MemoryKind, MemoryRange};

/// Physical address that the kernel's link address 0xffff_ffff_8000_0000 corresponds to on direct boot
/// is zero; `sym - KERNEL_BASE` is a symbol's physical address.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Size of the stack the boot stages run on until the CPU-local window is mapped.
const BOOT_STACK_SIZE: usize = 128 * 1024;

global_asm!(
    // Note of type XEN_ELFNOTE_PHYS32_ENTRY (18).
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry - {base}

    .section .bss.pvh, "aw", @nobits
    .balign 4096
    pvh_pml4:      .skip 4096
    pvh_pdpt_phys: .skip 4096
    pvh_pdpt_high: .skip 4096
    pvh_pd:        .skip 4 * 4096
    pvh_stack:     .skip {stack_size}
    pvh_stack_top:

    .section .rodata.pvh, "a"
    .balign 8
    pvh_gdt:
        .quad 0
        .quad 0x00af9b000000ffff
        .quad 0x00cf93000000ffff
    pvh_gdt_pointer:
        .word 23
        .quad pvh_gdt - {base}

    .section .text.pvh, "ax"
    .code32
    .global pvh_entry
    pvh_entry:
        cli
        cld
        mov %ebx, %ebp                      // start information; CPUID destroys EBX
        rdtsc
        mov %eax, %esi                      // time of entry
        mov %edx, %esp

        // 2 MiB pages for the first 4 GiB.
        mov $(pvh_pd - {base}), %edi
        mov $0x83, %eax
        xor %ecx, %ecx
    2:  mov %eax, (%edi,%ecx,8)
        add $0x200000, %eax
        inc %ecx
        cmp $2048, %ecx
        jne 2b

        mov $(pvh_pdpt_phys - {base}), %edi
        mov $(pvh_pd - {base} + 3), %eax
        mov %eax, (%edi)
        add $0x1000, %eax
        mov %eax, 8(%edi)
        add $0x1000, %eax
        mov %eax, 16(%edi)
        add $0x1000, %eax
        mov %eax, 24(%edi)

        // 1 GiB pages for the rest of the first 512 GiB, where the processor has them.
        mov $0x80000001, %eax
        cpuid
        bt $26, %edx
        jnc 4f
        mov $0x83, %eax                     // low half of entry 4 (4 GiB): address bits are all above
        mov $4, %ecx
        mov $1, %edx
    3:  mov %eax, (%edi,%ecx,8)
        mov %edx, 4(%edi,%ecx,8)
        add $0x40000000, %eax
        adc $0, %edx
        inc %ecx
        cmp $512, %ecx
        jne 3b
    4:
        movl $(pvh_pd - {base} + 3), %eax
        movl %eax, pvh_pdpt_high - {base} + 510 * 8
        movl $(pvh_pdpt_phys - {base} + 3), %eax
        movl %eax, pvh_pml4 - {base}
        movl %eax, pvh_pml4 - {base} + 256 * 8
        movl $(pvh_pdpt_high - {base} + 3), %eax
        movl %eax, pvh_pml4 - {base} + 511 * 8

        mov $0x20, %eax                     // CR4.PAE
        mov %eax, %cr4
        mov $(pvh_pml4 - {base}), %eax
        mov %eax, %cr3
        mov %esp, %edi                      // entry time, high half
        mov $0xc0000080, %ecx               // EFER
        xor %edx, %edx
        mov $0x900, %eax                    // LME, NXE
        wrmsr
        mov $0x80010001, %eax               // PG, WP, PE
        mov %eax, %cr0
        lgdt pvh_gdt_pointer - {base}
        ljmp $8, $(5f - {base})

    .code64
    5:  movabs $6f, %rax
        jmp *%rax
    6:  mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
        mov $pvh_stack_top, %rsp
        mov %edi, %eax
        shl $32, %rax
        mov %esi, %esi
        or %rax, %rsi                       // second argument: time of entry
        mov %ebp, %edi                      // first argument: start information
        xor %ebp, %ebp
        push %rbp                           // ends the chain of frames
        push %rbp
        call {start}
        ud2
    .text
    "#,
    base = const KERNEL_BASE,
    stack_size = const BOOT_STACK_SIZE,
    start = sym pvh_start,
    options(att_syntax)
);

/// `hvm_start_info`, version 1 (Xen `public/arch-x86/hvm/start_info.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    reserved: u32,
}

/// `hvm_modlist_entry`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Module {
    start: u64,
    size: u64,
    cmdline: u64,
    reserved: u64,
}

/// `hvm_memmap_table_entry`; kinds are those of E820.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

// SAFETY: integers without padding.
unsafe impl Plain for StartInfo {}
// SAFETY: integers without padding.
unsafe impl Plain for Module {}
// SAFETY: integers without padding.
unsafe impl Plain for MemoryEntry {}

const START_MAGIC: u32 = 0x336e_c578;
const E820_RAM: u32 = 1;

/// First Rust code of a direct boot: turns the start information into a [`Handoff`].
extern "C" fn pvh_start(start_info: u64, entry_tsc: u64) -> ! {
    let limit = if super::regs::Features::detect().gib_pages { 512 << 30 } else { 4 << 30 };
    // SAFETY: the tables built above map this much at `PHYS_OFFSET`.
    let window = unsafe { BootWindow::new(limit) };
    let info: StartInfo = window.read(start_info);
    crate::console::init();
    let mut handoff = Handoff::new("direct", entry_tsc);
    if info.magic != START_MAGIC || info.version < 1 {
        crate::boot::fatal(format_args!(
            "direct boot: start information has magic {:#x}, version {}; need {START_MAGIC:#x}, 1 or later",
            info.magic, info.version
        ));
    }
    handoff.rsdp = (info.rsdp != 0).then_some(info.rsdp);
    for i in 0..u64::from(info.memmap_entries) {
        let entry: MemoryEntry = window.read(info.memmap + i * size_of::<MemoryEntry>() as u64);
        let kind = if entry.kind == E820_RAM { MemoryKind::Usable } else { MemoryKind::Reserved };
        handoff.add_range(MemoryRange {
            start: entry.start,
            end: entry.start.saturating_add(entry.size),
            kind,
        });
    }
    if info.nr_modules > 0 {
        let module: Module = window.read(info.modlist);
        handoff.archive = Some((module.start, module.size));
    }
    if info.cmdline != 0 {
        for i in 0.. {
            let byte: u8 = window.read(info.cmdline + i);
            if byte == 0 || !handoff.push_command_line(byte) {
                break;
            }
        }
    }
    crate::boot::run(&handoff, window)
}
