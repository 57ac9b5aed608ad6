//! The I/O permission bitmap that the processor sees: two pages of the CPU-local window behind the task state,
//! which show the running space's bitmap or a page that denies every port.

use core::arch::asm;

use kcore::layout::{CPU_LOCAL, PAGE_SIZE, cpu_local};
use kcore::paging::{ADDRESS, Flags};
use kcore::types::PhysAddr;

use super::copy_window;
use crate::sched::this_cpu;

const READ: Flags = Flags::PRESENT.union(Flags::NO_EXECUTE);

fn set(page: u64, frame: PhysAddr) {
    let at = CPU_LOCAL.as_u64() + cpu_local::IO_BITMAP + page * PAGE_SIZE;
    let index = (at >> 12 & 511) as usize;
    // SAFETY: the entry belongs to this CPU's I/O bitmap window; the frame is a bitmap or the page of ones.
    unsafe {
        copy_window::table().add(index).write_volatile(frame.as_u64() | READ.bits());
        asm!("invlpg [{}]", in(reg) at, options(nostack, preserves_flags));
    }
}

/// Shows a bitmap of two contiguous pages.
pub fn show(bitmap: PhysAddr) {
    let cpu = this_cpu();
    if cpu.no_ports.get() == 0 {
        let at = CPU_LOCAL.as_u64() + cpu_local::IO_BITMAP;
        // SAFETY: reads this CPU's own table.
        let entry = unsafe { copy_window::table().add((at >> 12 & 511) as usize).read_volatile() };
        cpu.no_ports.set(entry & ADDRESS);
    }
    set(0, bitmap);
    set(1, bitmap.offset(PAGE_SIZE));
}

/// Denies every port.
pub fn hide() {
    let none = PhysAddr::new(this_cpu().no_ports.get());
    set(0, none);
    set(1, none);
}
