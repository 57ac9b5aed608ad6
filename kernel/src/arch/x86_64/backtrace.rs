//! Return addresses by walking frame pointers (all code is built with them).
//!
//! A walk stays inside one known stack, goes strictly upwards and reports only addresses inside the
//! kernel's text, so garbage in RBP ends it and nothing else.

use kcore::layout::{self, cpu_local};

use super::image;

/// Longest backtrace.
const MAX_FRAMES: usize = 32;

/// Iterator over return addresses, innermost first.
pub struct Frames {
    next_ip: Option<u64>,
    rbp: u64,
    left: usize,
}

impl Frames {
    /// Starts at the function whose frame pointer is `rbp`.
    pub fn from_pointer(rbp: u64) -> Self {
        Frames { next_ip: None, rbp, left: MAX_FRAMES }
    }

    /// Starts at an interrupted instruction.
    pub fn from_trap(rip: u64, rbp: u64) -> Self {
        Frames { next_ip: image::text().contains(&rip).then_some(rip), rbp, left: MAX_FRAMES }
    }
}

/// `[rbp, rbp + 16)` lies on a stack of this CPU, or on the boot stack in the kernel's data.
fn on_a_stack(rbp: u64) -> bool {
    let fits = |start: u64, end: u64| rbp >= start && rbp.saturating_add(16) <= end;
    if !rbp.is_multiple_of(8) {
        return false;
    }
    let data = image::data();
    let local = |offset: u64, size: u64| {
        let start = layout::CPU_LOCAL.as_u64() + offset;
        fits(start, start + size)
    };
    let exception = |offset| local(offset, cpu_local::EXCEPTION_STACK_SIZE);
    fits(data.start, data.end)
        || super::paging::kernel_space_live()
            && (local(cpu_local::KERNEL_STACK, cpu_local::KERNEL_STACK_SIZE)
                || exception(cpu_local::NMI_STACK)
                || exception(cpu_local::DOUBLE_FAULT_STACK)
                || exception(cpu_local::MACHINE_CHECK_STACK))
}

impl Iterator for Frames {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        if let Some(ip) = self.next_ip.take() {
            return Some(ip);
        }
        if !on_a_stack(self.rbp) {
            return None;
        }
        let frame = self.rbp as *const [u64; 2];
        // SAFETY: both words lie on a mapped stack, just checked.
        let [up, ret] = unsafe { frame.read() };
        self.rbp = if up > self.rbp { up } else { 0 };
        image::text().contains(&ret).then_some(ret)
    }
}
