//! Addresses, sizes and limits that several parts of the kernel must agree on
//! (docs/design/architecture.md, sections 1 and 3).
//!
//! ```text
//! 0x0000_0000_0000_0000  user half                     the space's tables
//! 0xFFFF_8000_0000_0000  pool windows (phys + offset)  tables per node
//! 0xFFFF_FFFF_8020_0000  kernel image                  PD per CPU, text leaf per node
//! 0xFFFF_FFFF_A000_0000  CPU-local window, 2 MiB       one leaf table per CPU
//! 0xFFFF_FFFF_A020_0000  system call stub page         per node
//! 0xFFFF_FFFF_B000_0000  device registers              per node
//! 0xFFFF_FFFF_C000_0000  TCB array, 1 GiB              leaves per node, absent ones shared
//! ```

/// Most nodes and CPUs; a thread number's bits; numbers that are reserved for kernel threads.
pub use l4abi::id::{KERNEL_THREADS, MAX_CPUS, MAX_NODES, THREAD_NO_BITS};

use crate::types::{PhysAddr, ThreadNo, VirtAddr};

/// Bytes of the smallest hardware page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes of the middle hardware page.
pub const PAGE_SIZE_2M: u64 = 1 << 21;
/// Bytes of the largest hardware page.
pub const PAGE_SIZE_1G: u64 = 1 << 30;

/// Most memory ranges (per list) the kernel keeps from the firmware's tables.
pub const MAX_RANGES: usize = 256;

/// Slots of the TCB array.
pub const NR_THREADS: u64 = 1 << THREAD_NO_BITS;
/// Most interrupt threads: SystemBase never exceeds this.
pub const MAX_SYSTEM_BASE: u32 = 128;

/// First address after the lower canonical half.
pub const USER_END: VirtAddr = VirtAddr::new(0x0000_8000_0000_0000);
/// `virtual - physical` of pool memory.
pub const PHYS_OFFSET: u64 = 0xFFFF_8000_0000_0000;
/// Physical addresses from here on are not used: the pool windows end before the
/// kernel image's 512 GiB entry.
pub const PHYS_LIMIT: PhysAddr = PhysAddr::new(1 << 46);

/// The kernel image is linked at [`KERNEL_IMAGE`]; its physical load address is the link
/// address minus this.
pub const KERNEL_BASE: VirtAddr = VirtAddr::new(0xFFFF_FFFF_8000_0000);
/// Link address of the kernel image.
pub const KERNEL_IMAGE: VirtAddr = VirtAddr::new(0xFFFF_FFFF_8020_0000);

/// CPU-local window: the same virtual address on every CPU, other memory behind it.
pub const CPU_LOCAL: VirtAddr = VirtAddr::new(0xFFFF_FFFF_A000_0000);
/// Bytes of the CPU-local window: one leaf table.
pub const CPU_LOCAL_SIZE: u64 = PAGE_SIZE_2M;
/// System call stub page, user-executable, a replica per node.
pub const STUB_PAGE: VirtAddr = VirtAddr::new(0xFFFF_FFFF_A020_0000);
/// Device registers of the kernel, uncached.
pub const DEVICE_AREA: VirtAddr = VirtAddr::new(0xFFFF_FFFF_B000_0000);
/// First address after the device registers' area.
pub const DEVICE_AREA_END: VirtAddr = VirtAddr::new(0xFFFF_FFFF_C000_0000);
/// The TCB array: [`NR_THREADS`] slots of [`TCB_SIZE`] bytes, up to the end of memory.
pub const TCB_AREA: VirtAddr = VirtAddr::new(0xFFFF_FFFF_C000_0000);
/// Bytes of a TCB slot: the smallest page, so that a TCB can be moved alone (numa-l4 4.1.4).
pub const TCB_SIZE: u64 = PAGE_SIZE;

/// The slot of a thread in the TCB array; only the valid bits of the number count.
#[inline(always)]
pub const fn tcb_slot(number: ThreadNo) -> VirtAddr {
    TCB_AREA.offset((number.get() as u64 & (NR_THREADS - 1)) * TCB_SIZE)
}

/// Root table entries from here on are the kernel half.
pub const KERNEL_ROOT_INDEX: usize = 256;
/// Entries of a page table.
pub const TABLE_ENTRIES: usize = 512;

/// Offsets into the CPU-local window ([`CPU_LOCAL`]).
///
/// ```text
/// 0x00000  CpuBlock            16 KiB
/// 0x08000  user word, alias    kernel RW
/// 0x09000  user word           user R (GS base)
/// 0x0AF98  TSS                 ends with its page
/// 0x0B000  I/O bitmap window   2 pages, then the terminator byte at 0x0D000
/// 0x0D040  GDT                 in the page of the terminator
/// 0x10000  kernel stack        32 KiB, top 0x18000, guard 0x0F000
/// 0x20000  NMI stack           16 KiB, guard 0x1F000
/// 0x28000  double-fault stack  16 KiB, guard 0x27000
/// 0x30000  machine-check stack 16 KiB, guard 0x2F000
/// 0x40000  copy window         to the end of the 2 MiB
/// ```
pub mod cpu_local {
    /// The CPU block.
    pub const BLOCK: u64 = 0x0;
    /// Bytes of the CPU block.
    pub const BLOCK_SIZE: u64 = 0x4000;
    /// The kernel's writable alias of the user word page.
    pub const USER_WORD_ALIAS: u64 = 0x8000;
    /// The user-readable word page; GS base points here on every CPU.
    pub const USER_WORD: u64 = 0x9000;
    /// Page that the TSS ends.
    pub const TSS_PAGE: u64 = 0xA000;
    /// Bytes of a 64-bit TSS (SDM 3A 8.7).
    pub const TSS_SIZE: u64 = 104;
    /// The TSS: its last byte is the last byte of [`TSS_PAGE`], so the I/O bitmap starts a page.
    pub const TSS: u64 = IO_BITMAP - TSS_SIZE;
    /// I/O permission bitmap: two pages, mapped per space.
    pub const IO_BITMAP: u64 = 0xB000;
    /// Bytes of the I/O bitmap: 65536 ports.
    pub const IO_BITMAP_SIZE: u64 = 0x2000;
    /// Page with the terminator byte of the I/O bitmap at its start, and the GDT.
    pub const GDT_PAGE: u64 = IO_BITMAP + IO_BITMAP_SIZE;
    /// The GDT.
    pub const GDT: u64 = GDT_PAGE + 0x40;
    /// Lowest byte of the kernel stack.
    pub const KERNEL_STACK: u64 = 0x10000;
    /// Bytes of the kernel stack.
    pub const KERNEL_STACK_SIZE: u64 = 0x8000;
    /// Initial stack pointer of the kernel stack.
    pub const KERNEL_STACK_TOP: u64 = KERNEL_STACK + KERNEL_STACK_SIZE;
    /// Lowest byte of the NMI stack.
    pub const NMI_STACK: u64 = 0x20000;
    /// Lowest byte of the double-fault stack.
    pub const DOUBLE_FAULT_STACK: u64 = 0x28000;
    /// Lowest byte of the machine-check stack.
    pub const MACHINE_CHECK_STACK: u64 = 0x30000;
    /// Bytes of each of the three exception stacks.
    pub const EXCEPTION_STACK_SIZE: u64 = 0x4000;
    /// Slots for user frames during string copies, one 4 KiB page each.
    pub const COPY_WINDOW: u64 = 0x40000;
    /// Slots of the copy window.
    pub const COPY_WINDOW_SLOTS: u64 = (super::CPU_LOCAL_SIZE - COPY_WINDOW) / super::PAGE_SIZE;
}

/// Physical memory below this is left to images that are linked at fixed addresses, as far as
/// a node has other memory for its pool.
pub const LOW_IMAGE_AREA: PhysAddr = PhysAddr::new(64 << 20);
/// Page of the application processors' real-mode start code.
pub const TRAMPOLINE: PhysAddr = PhysAddr::new(0x8000);

const _: () = {
    use cpu_local as c;
    assert!(NR_THREADS * TCB_SIZE == 0u64.wrapping_sub(TCB_AREA.as_u64()));
    assert!(tcb_slot(ThreadNo::new(0)).as_u64() == TCB_AREA.as_u64());
    assert!(tcb_slot(ThreadNo::new(0x3_FFFF)).as_u64() == 0xFFFF_FFFF_FFFF_F000);
    assert!(tcb_slot(ThreadNo::new(0x4_0001)).as_u64() == TCB_AREA.as_u64() + TCB_SIZE);
    assert!(c::TSS + c::TSS_SIZE == c::IO_BITMAP && c::TSS >= c::TSS_PAGE);
    assert!(c::GDT_PAGE + PAGE_SIZE < c::KERNEL_STACK);
    assert!(c::KERNEL_STACK_TOP + PAGE_SIZE <= c::NMI_STACK);
    assert!(c::NMI_STACK + c::EXCEPTION_STACK_SIZE < c::DOUBLE_FAULT_STACK);
    assert!(c::DOUBLE_FAULT_STACK + c::EXCEPTION_STACK_SIZE < c::MACHINE_CHECK_STACK);
    assert!(c::MACHINE_CHECK_STACK + c::EXCEPTION_STACK_SIZE <= c::COPY_WINDOW);
    assert!(PHYS_LIMIT.as_u64() < KERNEL_BASE.as_u64() - PHYS_OFFSET);
    assert!(STUB_PAGE.as_u64() == CPU_LOCAL.as_u64() + CPU_LOCAL_SIZE);
};
