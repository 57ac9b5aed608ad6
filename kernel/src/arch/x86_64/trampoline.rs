//! From the start-up interrupt, in real mode below 1 MiB, to [`ap_main`] on the CPU's own tables and
//! stack (SDM 3A 9.4.4; l4-smp 8.2.1).
//!
//! Four low pages: the code, and three tables that map the first 2 MiB at 0 and the kernel half as the
//! boot processor has it. CPUs are started one at a time; the one being started takes its root table out
//! of [`ROOT`]. A CPU that answers too late finds its APIC id not expected any more and stops.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kcore::layout::{self, KERNEL_ROOT_INDEX, PAGE_SIZE, TABLE_ENTRIES, cpu_local};
use kcore::types::{ApicId, PhysAddr, PhysRange};

use super::bootmem::BootWindow;

/// The low pages.
pub const PAGES: PhysRange = PhysRange {
    start: layout::TRAMPOLINE,
    end: PhysAddr::new(layout::TRAMPOLINE.as_u64() + 4 * PAGE_SIZE),
};
/// What a start-up interrupt names.
pub const START_PAGE: u8 = (layout::TRAMPOLINE.as_u64() / PAGE_SIZE) as u8;

/// Root table of the CPU being started.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// Low byte of its APIC id, or `NOBODY`.
static EXPECTED: AtomicU32 = AtomicU32::new(NOBODY);
const NOBODY: u32 = u32::MAX;

global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .code16
    .balign 16
    .global ap_code
    ap_code:
        cli
        cld
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl {base} + ap_gdt_pointer - ap_code
        movl $0x20, %eax                    // CR4.PAE
        movl %eax, %cr4
        movl ${root}, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx              // EFER
        xorl %edx, %edx
        movl $0x900, %eax                   // LME, NXE
        wrmsr
        movl $0x80010011, %eax              // PG, WP, ET, PE: from real to long mode at once
        movl %eax, %cr0
        ljmpl $8, ${base} + 2f - ap_code
    .code64
    2:  movabsq $ap_entry, %rax
        jmp *%rax
    .balign 8
    ap_gdt:
        .quad 0
        .quad 0x00af9b000000ffff
        .quad 0x00cf93000000ffff
    ap_gdt_pointer:
        .word 23
        .long {base} + ap_gdt - ap_code
    .global ap_code_end
    ap_code_end:

    .section .text.trampoline, "ax"
    ap_entry:
        movl $16, %eax
        movl %eax, %ss
        movl $1, %eax
        cpuid
        shrl $24, %ebx
        cmpl {expected}(%rip), %ebx
        jne 3f
        xorl %eax, %eax
        xchgq %rax, {own_root}(%rip)
        testq %rax, %rax
        jz 3f
        movq %rax, %cr3
        movq ${stack}, %rsp
        xorl %ebp, %ebp
        pushq %rbp                          // ends the chain of frames
        pushq %rbp
        call {main}
    3:  cli
        hlt
        jmp 3b
    .text
    "#,
    base = const layout::TRAMPOLINE.as_u64(),
    root = const layout::TRAMPOLINE.as_u64() + PAGE_SIZE,
    expected = sym EXPECTED,
    own_root = sym ROOT,
    stack = const layout::CPU_LOCAL.as_u64() + cpu_local::KERNEL_STACK_TOP,
    main = sym ap_main,
    options(att_syntax)
);

extern "C" fn ap_main() -> ! {
    crate::boot::on_application_processor()
}

/// Writes code and tables into the low pages. `kernel_root` is the boot processor's root table.
pub fn prepare(window: &BootWindow, kernel_root: PhysAddr) {
    unsafe extern "C" {
        static ap_code: u8;
        static ap_code_end: u8;
    }
    const TABLE: u64 = 3;
    const LARGE_PAGE: u64 = 0x83;
    let code = &raw const ap_code;
    let length = &raw const ap_code_end as usize - code as usize;
    assert!(length as u64 <= PAGE_SIZE, "the trampoline has outgrown its page");
    let page = |n: u64| PAGES.start.offset(n * PAGE_SIZE).as_u64();
    let [root, directory_pointers, directory] = [page(1), page(2), page(3)];
    // SAFETY: the pages are usable memory that the boot stages keep out of every pool and of the memory
    // given away; nothing of the loader lies there (checked by `memory_map`).
    unsafe {
        window.pointer::<u8>(page(0)).copy_from_nonoverlapping(code, length);
        window.pointer::<u8>(root).write_bytes(0, 3 * PAGE_SIZE as usize);
        window.pointer::<u64>(root).write(directory_pointers | TABLE);
        window.pointer::<u64>(directory_pointers).write(directory | TABLE);
        window.pointer::<u64>(directory).write(LARGE_PAGE);
        for index in KERNEL_ROOT_INDEX..TABLE_ENTRIES {
            let entry = window.pointer::<u64>(kernel_root.as_u64()).add(index).read();
            window.pointer::<u64>(root).add(index).write(entry);
        }
    }
}

/// The CPU with this APIC id, and no other, may start now, on `root`.
pub fn expect(apic_id: ApicId, root: PhysAddr) {
    EXPECTED.store(apic_id.get() & 0xff, Ordering::SeqCst);
    ROOT.store(root.as_u64(), Ordering::SeqCst);
}

/// Nobody may start any more. Returns true if the expected CPU has not taken its root.
pub fn give_up() -> bool {
    EXPECTED.store(NOBODY, Ordering::SeqCst);
    ROOT.swap(0, Ordering::SeqCst) != 0
}
