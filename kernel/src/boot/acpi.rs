//! The firmware's tables, found with the `acpi` crate: CPUs and interrupt controllers from the MADT, the
//! ACPI timer's port from the FADT, and the raw bytes of SRAT and SLIT, which `kcore::topology` decodes
//! (the crate's own SRAT and SLIT types read both wrongly).

use acpi::sdt::Signature;
use acpi::sdt::fadt::Fadt;
use acpi::sdt::madt::{Madt, MadtEntry};
use acpi::{AcpiTables, PciAddress};
use core::ptr::NonNull;

use kcore::fixed::FixedVec;
use kcore::layout::MAX_CPUS;
use kcore::topology::{MadtCpu, Tables};
use kcore::types::ApicId;

use crate::arch::x86_64::bootmem::BootWindow;
use crate::arch::x86_64::ioapic::{IoApicInfo, MAX_IO_APICS, MAX_OVERRIDES, Override};

/// Most CPUs looked at; those beyond the kernel's limit are reported by the topology.
const MAX_LISTED: usize = 2 * MAX_CPUS;
/// Longest table believed; a longer one is treated as missing.
const MAX_TABLE: usize = 1 << 20;

/// What the tables say.
pub struct Firmware<'w> {
    /// CPUs in the order of the MADT.
    pub cpus: FixedVec<MadtCpu, MAX_LISTED>,
    /// I/O APICs in the order of the MADT.
    pub io_apics: FixedVec<IoApicInfo, MAX_IO_APICS>,
    /// Lines that signal otherwise than their bus does.
    pub overrides: FixedVec<Override, MAX_OVERRIDES>,
    /// I/O port of the power-management timer.
    pub pm_timer: Option<u16>,
    /// SRAT and SLIT.
    pub tables: Tables<'w>,
}

impl<'w> Firmware<'w> {
    /// What a machine without ACPI tables says: nothing.
    const SILENT: Self = Firmware {
        cpus: FixedVec::new(MadtCpu { apic: ApicId::new(0), usable: false }),
        io_apics: FixedVec::new(IoApicInfo { phys: 0, base: 0, inputs: 0 }),
        overrides: FixedVec::new(Override { line: 0, flags: 0 }),
        pm_timer: None,
        tables: Tables { srat: None, slit: None },
    };

    /// Reads the tables behind the root pointer; a reason comes along if there are none to read.
    pub fn read(window: &'w BootWindow, rsdp: Option<u64>) -> (Self, Option<&'static str>) {
        let mut firmware = Self::SILENT;
        let Some(rsdp) = rsdp else {
            return (firmware, Some("the boot loader passed no ACPI root pointer"));
        };
        let memory = Memory(window);
        // SAFETY: the address comes from the firmware by way of the boot loader; the crate checks the
        // signature behind it.
        let tables = match unsafe { AcpiTables::from_rsdp(memory, rsdp as usize) } {
            Ok(tables) => tables,
            Err(_) => return (firmware, Some("the ACPI root pointer is damaged")),
        };
        firmware.read_madt(&tables);
        firmware.pm_timer = pm_timer(&tables);
        firmware.tables = Tables {
            srat: raw_table(window, &tables, Signature::SRAT),
            slit: raw_table(window, &tables, Signature::SLIT),
        };
        (firmware, None)
    }

    fn read_madt(&mut self, tables: &AcpiTables<Memory<'_>>) {
        const ENABLED: u32 = 1;
        let Some(madt) = tables.find_table::<Madt>() else { return };
        for entry in madt.get().entries() {
            // What does not fit is more than the kernel can use.
            match entry {
                MadtEntry::LocalApic(cpu) => {
                    let _ = self.cpus.push(MadtCpu {
                        apic: ApicId::new(u32::from(cpu.apic_id)),
                        usable: cpu.flags & ENABLED != 0,
                    });
                }
                MadtEntry::LocalX2Apic(cpu) => {
                    let _ = self.cpus.push(MadtCpu {
                        apic: ApicId::new(cpu.x2apic_id),
                        usable: cpu.flags & ENABLED != 0,
                    });
                }
                MadtEntry::IoApic(chip) => {
                    let _ = self.io_apics.push(IoApicInfo {
                        phys: u64::from(chip.io_apic_address),
                        base: chip.global_system_interrupt_base,
                        inputs: 0,
                    });
                }
                MadtEntry::InterruptSourceOverride(entry) => {
                    let _ = self
                        .overrides
                        .push(Override { line: entry.global_system_interrupt, flags: entry.flags });
                }
                _ => {}
            }
        }
    }
}

fn pm_timer(tables: &AcpiTables<Memory<'_>>) -> Option<u16> {
    let block = tables.find_table::<Fadt>()?.pm_timer_block().ok()??;
    let port_space = matches!(block.address_space, acpi::address::AddressSpace::SystemIo);
    u16::try_from(block.address).ok().filter(|_| port_space)
}

fn raw_table<'w>(
    window: &'w BootWindow,
    tables: &AcpiTables<Memory<'_>>,
    signature: Signature,
) -> Option<&'w [u8]> {
    let (phys, header) = tables.table_headers().find(|(_, h)| h.signature == signature)?;
    let length = header.length as usize;
    (length <= MAX_TABLE).then(|| window.bytes(phys as u64, length))
}

/// How the crate sees physical memory: through the boot window, which needs no mapping. It decodes static
/// tables only, so it never calls the rest.
#[derive(Clone)]
struct Memory<'w>(&'w BootWindow);

macro_rules! unused {
    ($($name:ident($($arg:ty),*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self, $(_: $arg),*) $(-> $result)? {
            unreachable!("static ACPI tables need no {}", stringify!($name))
        })*
    };
}

impl acpi::Handler for Memory<'_> {
    unsafe fn map_physical_region<T>(
        &self,
        physical: usize,
        size: usize,
    ) -> acpi::RawPhysicalMapping<T> {
        let pointer = NonNull::new(self.0.pointer::<T>(physical as u64));
        // `pointer` adds a non-zero constant; zero would mean an address just below 2^64.
        let pointer = pointer.unwrap_or(NonNull::dangling());
        // SAFETY: all physical memory is mapped in the boot window while it exists.
        unsafe { acpi::RawPhysicalMapping::new(physical, pointer, size, size) }
    }

    unsafe fn unmap_physical_region<T>(&self, _: acpi::RawPhysicalMapping<T>) {}

    unused! {
        read_u8(usize) -> u8;
        read_u16(usize) -> u16;
        read_u32(usize) -> u32;
        read_u64(usize) -> u64;
        write_u8(usize, u8);
        write_u16(usize, u16);
        write_u32(usize, u32);
        write_u64(usize, u64);
        read_io_u8(u16) -> u8;
        read_io_u16(u16) -> u16;
        read_io_u32(u16) -> u32;
        write_io_u8(u16, u8);
        write_io_u16(u16, u16);
        write_io_u32(u16, u32);
        read_pci_u8(PciAddress, u16) -> u8;
        read_pci_u16(PciAddress, u16) -> u16;
        read_pci_u32(PciAddress, u16) -> u32;
        write_pci_u8(PciAddress, u16, u8);
        write_pci_u16(PciAddress, u16, u16);
        write_pci_u32(PciAddress, u16, u32);
        nanos_since_boot() -> u64;
        stall(u64);
        sleep(u64);
    }
}
