//! The interrupt descriptor table: one read-only page per node, the same for all its CPUs.

use kcore::layout::PAGE_SIZE;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::gdt::{self, ist};
use super::paging::IDT_PAGE;
use super::{entry, traps, vectors};

/// One entry as the processor reads it (SDM 3A 6.14.1).
type Gate = [u64; 2];
/// Number of vectors; the table fills a page.
const VECTORS: usize = 256;
const _: () = assert!((VECTORS * size_of::<Gate>()) as u64 == PAGE_SIZE);

/// How a vector is entered.
struct Entry {
    /// Address of the code.
    handler: u64,
    /// Interrupt stack table slot, counted from 0.
    stack: Option<u16>,
    /// Reachable with `int` from user level.
    user: bool,
}

fn entry_of(vector: u8) -> Entry {
    let stack = match vector {
        vectors::NMI => Some(ist::NMI),
        vectors::DOUBLE_FAULT => Some(ist::DOUBLE_FAULT),
        vectors::MACHINE_CHECK => Some(ist::MACHINE_CHECK),
        _ => None,
    };
    let handler = entry::door(vector).unwrap_or_else(|| traps::stub(vector));
    Entry { handler, stack, user: vector == vectors::BREAKPOINT }
}

/// All gates are interrupt gates: the kernel runs with interrupts off.
fn gate(entry: &Entry) -> Gate {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
    const USER: u64 = 0x6000 << 32;
    let stack = entry.stack.map_or(0, |slot| u64::from(slot) + 1);
    let low = entry.handler & 0xffff
        | u64::from(gdt::KERNEL_CODE) << 16
        | stack << 32
        | PRESENT_INTERRUPT_GATE
        | if entry.user { USER } else { 0 }
        | (entry.handler >> 16 & 0xffff) << 48;
    [low, entry.handler >> 32]
}

/// A gate for the time before task state and interrupt stacks exist.
pub fn early_gate(vector: u8) -> [u64; 2] {
    gate(&Entry { handler: traps::stub(vector), stack: None, user: false })
}

/// Writes the table into a page.
///
/// # Safety
/// `page` is a writable page that nobody else uses.
pub unsafe fn write_table(page: *mut u8) {
    for vector in 0..=u8::MAX {
        // SAFETY: the table fits exactly; pages are aligned.
        unsafe { page.cast::<Gate>().add(vector as usize).write(gate(&entry_of(vector))) };
    }
}

/// Makes this CPU use its node's table.
///
/// # Safety
/// The table is mapped and written.
pub unsafe fn load() {
    let table =
        DescriptorTablePointer { limit: (PAGE_SIZE - 1) as u16, base: VirtAddr::new(IDT_PAGE) };
    // SAFETY: by the caller.
    unsafe { lidt(&table) };
}
