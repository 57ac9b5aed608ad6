//! Boot: from a [`handoff::Handoff`] to [`crate::start`] on every CPU.
//!
//! Stages are functions that take what the stage before returned, so their order is a type error to break
//! (DESIGN 3.1). Up to [`stages::address_space`] the boot processor runs on the loader's tables and stack;
//! the stage ends by jumping to [`on_kernel_space`] on the final ones.

#[expect(unsafe_code, reason = "the acpi crate asks for a trait with unsafe functions")]
pub mod acpi;
pub mod handoff;
mod stages;
pub use stages::BootProcessor;

use handoff::Handoff;

use crate::arch::x86_64::bootmem::BootWindow;
pub use crate::panic::fatal;

/// First half, on the loader's page tables.
pub fn run(handoff: &Handoff, window: BootWindow) -> ! {
    let console = stages::console(handoff);
    let options = stages::options(&console, handoff, &window);
    let memory = stages::memory_map(options, handoff, &window);
    let topology = stages::topology(memory, handoff, &window);
    let pools = stages::pools(topology);
    stages::address_space(pools, window)
}

/// Second half, on the kernel address space and the boot processor's own stack.
pub extern "C" fn on_kernel_space() -> ! {
    let processor = stages::boot_processor();
    stages::clocks(&processor);
    crate::start(&processor)
}
