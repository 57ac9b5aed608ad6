//! How a CPU gets onto its own tables and stack.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use kcore::layout::{self, PAGE_SIZE, cpu_local};
use kcore::types::{ApicId, CpuId, PhysAddr, PhysRange};
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::bootmem::BootWindow;
use super::paging::CpuSpace;
use super::{gdt, idt, regs};

/// Low pages that starting the other CPUs needs: code, and three page tables.
pub const TRAMPOLINE_PAGES: PhysRange = PhysRange {
    start: layout::TRAMPOLINE,
    end: PhysAddr::new(layout::TRAMPOLINE.as_u64() + 4 * PAGE_SIZE),
};

/// Root tables of the CPUs; 0 for one that has none.
static ROOTS: [AtomicU64; layout::MAX_CPUS] = [const { AtomicU64::new(0) }; layout::MAX_CPUS];
/// CPU blocks, physical.
static BLOCKS: [AtomicU64; layout::MAX_CPUS] = [const { AtomicU64::new(0) }; layout::MAX_CPUS];

/// Interrupt table for the time before the node's own: exceptions get an epitaph, not a triple fault.
#[repr(C, align(4096))]
struct EarlyTable([AtomicU64; 512]);
static EARLY: EarlyTable = EarlyTable([const { AtomicU64::new(0) }; 512]);

/// Catches exceptions on the loader's tables. Both loaders leave a 64-bit code segment at selector 8.
pub fn load_early_traps() {
    for vector in 0..=u8::MAX {
        let [low, high] = idt::early_gate(vector);
        EARLY.0[vector as usize * 2].store(low, Ordering::Relaxed);
        EARLY.0[vector as usize * 2 + 1].store(high, Ordering::Relaxed);
    }
    let base = VirtAddr::new(&raw const EARLY as u64);
    let table = DescriptorTablePointer { limit: (PAGE_SIZE - 1) as u16, base };
    // SAFETY: the table is complete and stays where it is.
    unsafe { lidt(&table) };
}

/// The APIC id of this CPU by CPUID, before the local APIC is reachable.
pub fn initial_apic_id() -> ApicId {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax >= 0xb {
        let topology = __cpuid_count(0xb, 0);
        if topology.ebx != 0 {
            return ApicId::new(topology.edx);
        }
    }
    ApicId::new(__cpuid(1).ebx >> 24)
}

/// Keeps a CPU's space until it is started.
pub fn remember(cpu: CpuId, space: CpuSpace) {
    ROOTS[cpu.index()].store(space.root.as_u64(), Ordering::Relaxed);
    BLOCKS[cpu.index()].store(space.block.as_u64(), Ordering::Relaxed);
}

/// Enters the kernel address space on the boot processor's own stack.
pub fn enter_kernel_space(root: PhysAddr, then: extern "C" fn() -> !) -> ! {
    let stack = layout::CPU_LOCAL.as_u64() + cpu_local::KERNEL_STACK_TOP;
    // SAFETY: the new tables map the kernel image like the old ones (`build_node_space`), the stack is
    // mapped and unused, and `then` never returns.
    unsafe {
        asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push rbp",
            "push rbp",
            "call {then}",
            "ud2",
            root = in(reg) root.as_u64(),
            stack = in(reg) stack,
            then = in(reg) then,
            options(noreturn)
        )
    }
}

/// Loads this CPU's descriptor tables from its window and its node.
pub fn load_tables() {
    // SAFETY: the kernel address space of this CPU is in use.
    unsafe {
        gdt::load();
        idt::load();
    }
}

/// Writes the start code and its page tables into low memory.
pub fn prepare_trampoline(_window: &BootWindow, _boot_root: PhysAddr) {
    let _ = regs::cr3();
}
