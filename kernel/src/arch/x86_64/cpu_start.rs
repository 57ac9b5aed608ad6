//! How a CPU gets onto its own tables and stack.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use kcore::layout::{self, PAGE_SIZE, cpu_local};
use kcore::types::{ApicId, CpuId, PhysAddr};
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::bootmem::BootWindow;
use super::paging::CpuSpace;
use super::{apic, clock, clock_sync, cpu_ops, gdt, idt, image, trampoline};
use crate::cpu::{CpuBlock, Shared};

/// How long a CPU has to answer the first start-up interrupt, and the second. Emulated CPUs share few
/// real ones, so a working one can be slow.
const FIRST_PATIENCE_US: u64 = 50_000;
const PATIENCE_US: u64 = 500_000;

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

/// Moves the kernel's data to `data`, in a pool, and enters the kernel address space on the boot processor's own
/// stack. The boot window ends here.
pub fn enter_kernel_space(
    _: BootWindow,
    root: PhysAddr,
    data: PhysAddr,
    then: extern "C" fn() -> !,
) -> ! {
    let stack = layout::CPU_LOCAL.as_u64() + cpu_local::KERNEL_STACK_TOP;
    let old = image::writable();
    // SAFETY: nothing writes data between the copy and the switch. The new tables map the kernel image like the
    // old ones, with the copy as its data (`build_node_space`); the stack is mapped and unused, and `then` never
    // returns.
    unsafe {
        asm!(
            "rep movsb",
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push rbp",
            "push rbp",
            "call {then}",
            "ud2",
            in("rcx") old.end - old.start,
            in("rsi") old.start,
            in("rdi") data.window().as_u64(),
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

/// Starts a CPU and waits until it is up. `false` if it has no address space or does not answer in time.
///
/// The caller has sent it an INIT and waited 10 ms (SDM 3A 9.4.4.1). To a `silent` CPU nothing is sent, so it
/// does not answer.
pub fn start(cpu: CpuId, apic_id: ApicId, silent: bool) -> bool {
    let root = ROOTS[cpu.index()].load(Ordering::Relaxed);
    if root == 0 {
        return false;
    }
    trampoline::expect(apic_id, PhysAddr::new(root));
    let wake = || {
        if !silent {
            apic::send_startup(trampoline::START_PAGE, apic_id);
        }
    };
    wake();
    let mut up = wait_for(cpu, FIRST_PATIENCE_US);
    if !up {
        // A processor that missed the first one takes the second; one that is starting ignores it.
        wake();
        up = wait_for(cpu, PATIENCE_US);
    }
    trampoline::give_up();
    // The CPU that is up waits for its clock to be compared.
    up = up && block_of(cpu).is_some_and(clock_sync::lead);
    if !up {
        apic::send_init(apic_id);
    }
    up
}

/// Resets a CPU so that it waits for [`start`].
pub fn reset(apic_id: ApicId) {
    apic::send_init(apic_id);
}

fn wait_for(cpu: CpuId, us: u64) -> bool {
    let Some(up) = block_of(cpu).map(|block| &block.up) else { return false };
    let start = cpu_ops::rdtsc();
    while !up.load(Ordering::Acquire) {
        if clock::tsc_to_us(cpu_ops::rdtsc().wrapping_sub(start)) > us {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// The shared part of the block of a CPU that need not be up.
pub fn block_of(cpu: CpuId) -> Option<&'static Shared> {
    let phys = BLOCKS[cpu.index()].load(Ordering::Relaxed);
    let block = PhysAddr::new(phys).window().as_u64() as *const CpuBlock;
    // SAFETY: blocks of CPUs with an address space are initialized and never freed; only the `Sync` part
    // is referred to.
    (phys != 0).then(|| unsafe { &(*block).shared })
}

/// Physical address of a CPU's block; zero for a CPU without an address space.
pub fn block_address(cpu: CpuId) -> PhysAddr {
    PhysAddr::new(BLOCKS[cpu.index()].load(Ordering::Relaxed))
}
