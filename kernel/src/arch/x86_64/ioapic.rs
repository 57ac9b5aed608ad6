//! Interrupt controllers of the board: the 8259 pair is masked for good, every I/O APIC input starts
//! masked.

use kcore::layout;
use spin::Mutex;
use x2apic::ioapic::{IoApic, IrqFlags};
use x86_64::instructions::port::Port;

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

/// Takes the I/O APICs, whose registers are mapped at [`virt`], and masks every input. Returns one more
/// than the highest global system interrupt.
pub fn init(found: &[IoApicInfo]) -> u32 {
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
                entry.set_flags(IrqFlags::MASKED);
                entry.set_vector(super::vectors::SPURIOUS);
                chip.set_table_entry(input as u8, entry);
            }
        }
        end = end.max(info.base + inputs);
        *slot = Some((IoApicInfo { inputs, ..*info }, chip));
    }
    end
}

/// Lets `edit` change the redirection entry of a global system interrupt; `None` if there is no such
/// input.
pub fn with_input<R>(
    gsi: u32,
    edit: impl FnOnce(&mut x2apic::ioapic::RedirectionTableEntry) -> R,
) -> Option<R> {
    let mut chips = CHIPS.lock();
    let (info, chip) = chips
        .iter_mut()
        .flatten()
        .find(|(info, _)| gsi >= info.base && gsi - info.base < info.inputs)?;
    let input = (gsi - info.base) as u8;
    // SAFETY: owned registers; vectors of devices have handlers.
    let mut entry = unsafe { chip.table_entry(input) };
    let result = edit(&mut entry);
    // SAFETY: as above.
    unsafe { chip.set_table_entry(input, entry) };
    Some(result)
}
