//! The copy window: the only way in which the kernel touches user frames.
//!
//! A few slots of the CPU-local window whose page-table entries this CPU writes for a moment. Nobody else uses
//! them, so a changed entry needs nothing but a local INVLPG.

use core::arch::asm;

use kcore::layout::{CPU_LOCAL, PAGE_SIZE, cpu_local};
use kcore::paging::Flags;
use kcore::types::{PhysAddr, VirtAddr};

use super::tables;
use crate::sched::this_cpu;

/// A slot of the copy window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Slot {
    /// What is read.
    Source = 0,
    /// What is written.
    Target = 1,
    /// First of many, for looking at modules during start-up.
    Many = 2,
}

const READ: Flags = Flags::PRESENT.union(Flags::NO_EXECUTE);
const WRITE: Flags = READ.union(Flags::WRITABLE);

fn address(slot: u64) -> u64 {
    CPU_LOCAL.as_u64() + cpu_local::COPY_WINDOW + slot * PAGE_SIZE
}

/// Kernel address of this CPU's page table for the CPU-local window.
pub fn table() -> *mut u64 {
    let cpu = this_cpu();
    if cpu.window_table.get() == 0 {
        let inside = VirtAddr::new(CPU_LOCAL.as_u64());
        let leaf = tables::walk_live(inside).table_of_level(1).unwrap_or(PhysAddr::ZERO);
        cpu.window_table.set(leaf.window().as_u64());
    }
    cpu.window_table.get() as *mut u64
}

fn set(slot: u64, frame: PhysAddr, flags: Flags) {
    let at = address(slot);
    let index = (at >> 12 & 511) as usize;
    // SAFETY: the entry belongs to the copy window of this CPU, which only this code uses, with interrupts
    // off. The frame is user memory or a boot module: nothing the kernel itself relies on.
    unsafe {
        table().add(index).write_volatile(frame.as_u64() & !(PAGE_SIZE - 1) | flags.bits());
        asm!("invlpg [{}]", in(reg) at, options(nostack, preserves_flags));
    }
}

/// Copies `length` bytes between two frames, each range inside its page.
#[inline]
pub fn copy(source: PhysAddr, target: PhysAddr, length: u64) {
    debug_assert!(source.page_offset() + length <= PAGE_SIZE);
    debug_assert!(target.page_offset() + length <= PAGE_SIZE);
    set(Slot::Source as u64, source, READ);
    set(Slot::Target as u64, target, WRITE);
    let from = address(Slot::Source as u64) + source.page_offset();
    let to = address(Slot::Target as u64) + target.page_offset();
    // SAFETY: both slots are mapped and the ranges stay in them. User level may change the bytes meanwhile,
    // hence assembly instead of a Rust copy: every byte is read once and any value is fine.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) length & 7,
            inout("rcx") length >> 3 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Reads bytes of a frame into kernel memory.
pub fn read(source: PhysAddr, into: &mut [u8]) {
    debug_assert!(source.page_offset() + into.len() as u64 <= PAGE_SIZE);
    set(Slot::Source as u64, source, READ);
    let from = address(Slot::Source as u64) + source.page_offset();
    for (i, byte) in into.iter_mut().enumerate() {
        // SAFETY: inside the slot; volatile because user level may write it.
        *byte = unsafe { ((from + i as u64) as *const u8).read_volatile() };
    }
}

/// Reads two bytes of a frame, the first not the last of its page.
#[inline]
pub fn read_pair(source: PhysAddr) -> [u8; 2] {
    set(Slot::Source as u64, source, READ);
    let from = (address(Slot::Source as u64) + source.page_offset()) as *const u8;
    // SAFETY: both bytes are inside the slot; volatile because user level may write them.
    unsafe { [from.read_volatile(), from.add(1).read_volatile()] }
}

/// Writes kernel bytes into a frame.
pub fn write(bytes: &[u8], target: PhysAddr) {
    debug_assert!(target.page_offset() + bytes.len() as u64 <= PAGE_SIZE);
    set(Slot::Target as u64, target, WRITE);
    let to = address(Slot::Target as u64) + target.page_offset();
    // SAFETY: the slot is mapped writable and the range stays in it; `bytes` is kernel memory.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
}

/// Fills a frame with zeros.
pub fn zero(target: PhysAddr) {
    set(Slot::Target as u64, target, WRITE);
    // SAFETY: the slot is mapped writable.
    unsafe {
        core::ptr::write_bytes(address(Slot::Target as u64) as *mut u8, 0, PAGE_SIZE as usize);
    }
}

/// Lets `look` see `length` bytes of contiguous memory outside the pools, during start-up; none if they do not
/// fit into the window.
pub fn look<R>(start: PhysAddr, length: u64, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let first = start.page_base();
    let pages = (start.page_offset() + length).div_ceil(PAGE_SIZE);
    if pages > cpu_local::COPY_WINDOW_SLOTS - Slot::Many as u64 {
        return None;
    }
    for page in 0..pages {
        set(Slot::Many as u64 + page, first.offset(page * PAGE_SIZE), READ);
    }
    let at = address(Slot::Many as u64) + start.page_offset();
    // SAFETY: the pages are mapped for the time of the call (nobody else uses these slots), and during
    // start-up nobody writes boot modules.
    Some(look(unsafe { core::slice::from_raw_parts(at as *const u8, length as usize) }))
}
