//! Boot from a BIOS or UEFI image: the entry that the `bootloader` crate jumps to.

use bootloader_api::BootInfo;
use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::MemoryRegionKind;

use super::bootmem::BootWindow;
use super::tables;
use crate::boot::handoff::{Handoff, MemoryKind, MemoryRange};

static CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = 192 * 1024;
    config.mappings.physical_memory = Some(Mapping::FixedAddress(kcore::layout::PHYS_OFFSET));
    // Everything else the loader maps stays in the lower half, out of the way of the final layout.
    config.mappings.dynamic_range_start = Some(0x0000_0100_0000_0000);
    config.mappings.dynamic_range_end = Some(0x0000_7000_0000_0000);
    config
};

bootloader_api::entry_point!(image_start, config = &CONFIG);

/// First Rust code of an image boot: turns the loader's information into a [`Handoff`].
fn image_start(info: &'static mut BootInfo) -> ! {
    let entry_tsc = super::cpu_ops::rdtsc();
    crate::console::init();
    // The loader maps up to the end of its memory map, and 4 GiB at least.
    let end = info.memory_regions.iter().map(|region| region.end).max().unwrap_or(0);
    // SAFETY: the loader was asked for this mapping by `CONFIG`.
    let window = unsafe { BootWindow::new(end.max(4 << 30)) };
    let mut handoff = Handoff::new("image", entry_tsc);
    handoff.rsdp = info.rsdp_addr.into_option();
    for region in info.memory_regions.iter() {
        let kind = match region.kind {
            MemoryRegionKind::Usable => MemoryKind::Usable,
            MemoryRegionKind::Bootloader => MemoryKind::Loader,
            _ => MemoryKind::Reserved,
        };
        handoff.add_range(MemoryRange { start: region.start, end: region.end, kind });
    }
    if let Some(virt) = info.ramdisk_addr.into_option() {
        // The archive lies contiguously in physical memory; its start tells where.
        let start = tables::walk_boot(&window, virt).phys();
        handoff.archive = start.map(|start| (start.as_u64(), info.ramdisk_len));
    }
    crate::boot::run(&handoff, window)
}
