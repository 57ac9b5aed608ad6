//! What the model asks of the guest, answered from the emulator.

use crate::{
    memory::Ram,
    qemu::{self, Access, CpuHandle, Register},
};
use numasim_model::{
    config::Config,
    sim::Guest,
    walk::{Control, Target},
};
use std::cell::Cell;

/// Guest-physical address of the local APIC (it is never moved).
const APIC: u64 = 0xFEE0_0000;
const APIC_ID: u64 = APIC + 0x20;
/// Interrupt command register, low half: the store to it sends.
pub const APIC_ICR: u64 = APIC + 0x300;
const APIC_ICR_HIGH: u64 = APIC + 0x310;

/// The emulated machine.
pub struct Machine {
    ram: Ram,
    cpus: Vec<CpuHandle>,
    apic_ids: Vec<Option<u32>>,
    /// The CPU whose event is being handled.
    executing: Cell<usize>,
    /// The data access being reported.
    access: Cell<Option<Access>>,
}

impl Machine {
    /// Finds CPUs and memory; the machine has to be complete.
    pub fn new(config: &Config) -> Result<Machine, String> {
        let find = |i| CpuHandle::by_index(i).ok_or_else(|| format!("there is no CPU {i}"));
        let cpus: Vec<CpuHandle> =
            (0..config.cpu_node.len()).map(find).collect::<Result<_, _>>()?;
        Ok(Machine {
            ram: Ram::find(config)?,
            apic_ids: vec![None; cpus.len()],
            cpus,
            executing: Cell::new(0),
            access: Cell::new(None),
        })
    }

    /// Says whose event is being handled, and which access it is about.
    pub fn set_event(&self, cpu: usize, access: Option<Access>) {
        self.executing.set(cpu);
        self.access.set(access);
    }

    /// The emulator's handle of a CPU.
    pub fn cpu(&self, cpu: usize) -> CpuHandle {
        self.cpus[cpu]
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Notes the local APIC's id of the executing CPU, once.
    pub fn learn_apic_id(&mut self, cpu: usize) {
        if self.apic_ids[cpu].is_none() {
            self.apic_ids[cpu] = Some(self.cpus[cpu].load_physical(APIC_ID) >> 24);
        }
    }

    /// The interrupt command register of the executing CPU: low and high half.
    pub fn interrupt_command(&self, cpu: usize) -> (u32, u32) {
        let cpu = self.cpus[cpu];
        (cpu.load_physical(APIC_ICR), cpu.load_physical(APIC_ICR_HIGH))
    }

    /// The CPU with an APIC id.
    pub fn by_apic_id(&self, id: u32) -> Option<usize> {
        self.apic_ids.iter().position(|&a| a == Some(id))
    }
}

/// The paging registers of a CPU.
pub fn control_of(cpu: CpuHandle) -> Control {
    Control {
        cr0: cpu.register(Register::Cr0),
        cr3: cpu.register(Register::Cr3),
        cr4: cpu.register(Register::Cr4),
        efer: cpu.register(Register::Efer),
    }
}

impl Guest for Machine {
    fn read(&self, gpa: u64) -> Option<u64> {
        self.ram.read(gpa)
    }

    fn control(&self, cpu: usize) -> Control {
        control_of(self.cpus[cpu])
    }

    fn counts(&self) -> [u64; 2] {
        qemu::counts()
    }

    fn emulator_says(&self, vaddr: u64) -> Option<Target> {
        let (device, reported) = self.access.get()?.hardware_address(vaddr)?;
        if device {
            Some(Target::Device(reported))
        } else {
            self.ram.gpa_of_reported(reported).map(Target::Memory)
        }
    }

    fn register(&self, number: u8) -> u64 {
        self.cpus[self.executing.get()].register(Register::General(number))
    }

    fn fault_address(&self) -> u64 {
        self.cpus[self.executing.get()].register(Register::Cr2)
    }
}
