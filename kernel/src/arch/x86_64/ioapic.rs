//! Interrupt controllers of the board: the 8259 pair is masked for good, every I/O APIC input starts
//! masked.

use core::sync::atomic::{AtomicU32, Ordering};

use kcore::layout;
use kcore::types::{ApicId, CpuId};
use spin::Mutex;
use x2apic::ioapic::{IoApic, IrqFlags, IrqMode};
use x86_64::instructions::port::Port;

use super::vectors::{DEVICES, MAX_DEVICES};
use crate::util::sealed;

/// Most overrides kept: the ISA lines.
pub const MAX_OVERRIDES: usize = 16;
/// Most I/O APICs kept.
pub const MAX_IO_APICS: usize = 8;

/// Where the registers of I/O APIC `n` are mapped.
pub const fn virt(n: usize) -> u64 {
    layout::DEVICE_AREA.as_u64() + (1 + n as u64) * layout::PAGE_SIZE
}

/// One I/O APIC, as the firmware describes it and the device answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoApicInfo {
    /// Physical address of its registers.
    pub phys: u64,
    /// First global system interrupt.
    pub base: u32,
    /// Number of inputs; 0 until the device was asked.
    pub inputs: u32,
}

sealed! {
    static LINES: AtomicU32 = AtomicU32::new(0);
}
static CHIPS: Mutex<[Option<(IoApicInfo, IoApic)>; MAX_IO_APICS]> =
    Mutex::new([const { None }; MAX_IO_APICS]);

/// Moves the 8259 pair's vectors out of the exceptions' way and masks all inputs: even a masked 8259 can
/// raise a spurious interrupt.
pub fn mask_8259() {
    let ports: [(u16, [u8; 3]); 2] = [(0x20, [0x20, 4, 1]), (0xa0, [0x28, 2, 1])];
    for (base, words) in ports {
        let mut command = Port::<u8>::new(base);
        let mut data = Port::<u8>::new(base + 1);
        // SAFETY: the initialization sequence of the 8259 (ICW1 to ICW4), then its mask register.
        unsafe {
            command.write(0x11);
            for word in words {
                data.write(word);
            }
            data.write(0xff);
        }
    }
}

/// How a line signals, where the firmware says that it differs from the bus's habit (ACPI 6.5, 5.2.12.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// The line (global system interrupt).
    pub line: u32,
    /// Polarity in bits 1:0, trigger mode in bits 3:2; 1 = high or edge, 3 = low or level, 0 = the bus's.
    pub flags: u16,
}

/// Lines below this are the ISA bus's: edge-triggered, active high. The others are PCI's: level, low.
const ISA_LINES: u32 = 16;

fn signalling(line: u32, overrides: &[Override]) -> IrqFlags {
    let flags = overrides.iter().find(|o| o.line == line).map_or(0, |o| o.flags);
    let isa = line < ISA_LINES;
    let low = match flags & 3 {
        1 => false,
        3 => true,
        _ => !isa,
    };
    let level = match flags >> 2 & 3 {
        1 => false,
        3 => true,
        _ => !isa,
    };
    let mut bits = IrqFlags::MASKED;
    bits.set(IrqFlags::LOW_ACTIVE, low);
    bits.set(IrqFlags::LEVEL_TRIGGERED, level);
    bits
}

/// Takes the I/O APICs, whose registers are mapped at [`virt`], and masks every input.
pub fn init(found: &[IoApicInfo], overrides: &[Override]) {
    let mut chips = CHIPS.lock();
    let mut end = 0;
    for (n, (slot, info)) in chips.iter_mut().zip(found).enumerate() {
        // SAFETY: the page is mapped uncached in every address space, and this table owns the registers.
        let mut chip = unsafe { IoApic::new(virt(n)) };
        // SAFETY: owned registers.
        let inputs = u32::from(unsafe { chip.max_table_entry() }) + 1;
        for input in 0..inputs {
            // SAFETY: a masked entry delivers nothing.
            unsafe {
                let mut entry = chip.table_entry(input as u8);
                entry.set_flags(signalling(info.base + input, overrides));
                entry.set_vector(super::vectors::SPURIOUS);
                chip.set_table_entry(input as u8, entry);
            }
        }
        end = end.max(info.base + inputs);
        *slot = Some((IoApicInfo { inputs, ..*info }, chip));
    }
    LINES.store(end, Ordering::Relaxed);
}

/// Number of interrupt lines: one more than the highest global system interrupt.
pub fn lines() -> u32 {
    LINES.load(Ordering::Relaxed)
}

/// Whether each edge of the line is an interrupt of its own; otherwise it interrupts for as long as it is asserted. None if
/// the line has no input at any I/O APIC.
pub fn trigger(line: u32) -> Option<bool> {
    with_input(line, |chip, input| {
        // SAFETY: owned registers.
        let entry = unsafe { chip.table_entry(input) };
        !entry.flags().contains(IrqFlags::LEVEL_TRIGGERED)
    })
}

/// Keeps the line from interrupting anybody, or lets it interrupt the CPU that it is routed to, as `is_masked` says once the
/// device is locked: whoever has changed what that looks at settles the line, and the last one is right. A level-triggered line
/// that is still asserted fires again when it is unmasked.
pub fn settle(line: u32, is_masked: impl FnOnce() -> bool) {
    with_input(line, |chip, input| {
        // SAFETY: owned registers; [`route`] has given a line that may be unmasked a vector with a handler.
        unsafe { if is_masked() { chip.disable_irq(input) } else { chip.enable_irq(input) } }
    });
}

/// Where interrupts for CPU `to` go, and as what: vector `DEVICES + line`. None if there is no such line or CPU, or the
/// CPU's APIC id is above 255, which needs interrupt remapping.
fn target(line: u32, to: u16) -> Option<(u8, u8)> {
    let apic_id = crate::cpu::apic_id_of(CpuId::new(to)).map(ApicId::get)?;
    let destination = u8::try_from(apic_id).ok()?;
    (line < u32::from(MAX_DEVICES)).then(|| (destination, DEVICES + line as u8))
}

/// Whether the line's interrupts can go to CPU `to`.
pub fn may_route(line: u32, to: u16) -> bool {
    target(line, to).is_some()
}

/// Sends the line's interrupts to CPU `to`, if `still` says so once the device is locked. Masked or not, the line stays so. False
/// if it has no input, or they cannot go there.
pub fn route(line: u32, to: u16, still: impl FnOnce() -> bool) -> bool {
    let Some((destination, vector)) = target(line, to) else { return false };
    with_input(line, |chip, input| {
        if !still() {
            return;
        }
        // SAFETY: owned registers; vectors of devices have handlers on every CPU.
        unsafe {
            let mut entry = chip.table_entry(input);
            entry.set_mode(IrqMode::Fixed);
            entry.set_vector(vector);
            entry.set_dest(destination);
            chip.set_table_entry(input, entry);
        }
    })
    .is_some()
}

fn with_input<R>(line: u32, act: impl FnOnce(&mut IoApic, u8) -> R) -> Option<R> {
    let mut chips = CHIPS.lock();
    let (info, chip) = chips
        .iter_mut()
        .flatten()
        .find(|(info, _)| line >= info.base && line - info.base < info.inputs)?;
    Some(act(chip, (line - info.base) as u8))
}
