//! What boot found out about the machine, for the rest of the kernel: constant after boot.

use kcore::fixed::FixedVec;
use kcore::options::Options;
use kcore::pool::PoolPlan;
use kcore::topology::Topology;
use kcore::topology::ranges::RangeList;
use kcore::types::PhysRange;
use spin::Once;

use crate::arch::x86_64::ioapic::{IoApicInfo, MAX_IO_APICS, MAX_OVERRIDES, Override};
use crate::arch::x86_64::regs::Features;
use crate::util::sealed;

/// The machine.
pub struct Machine {
    /// Which way it was booted.
    pub path: &'static str,
    /// Time-stamp counter at the kernel's first instruction.
    pub entry_tsc: u64,
    /// The kernel command line, understood.
    pub options: Options,
    /// Nodes, CPUs, distances.
    pub topology: &'static Topology,
    /// What the boot processor can do.
    pub features: Features,
    /// Where the boot archive lies; page-aligned start.
    pub archive: Option<PhysRange>,
    /// The low pages that starting other CPUs needs are free.
    pub can_start_cpus: bool,
    /// The extents of the pools.
    pub pools: &'static PoolPlan,
    /// Memory that is nobody's yet: all usable memory less pools, kernel image and archive.
    pub free: &'static RangeList,
    /// Memory that the kernel keeps besides the pools.
    pub kept: &'static RangeList,
    /// I/O APICs.
    pub io_apics: FixedVec<IoApicInfo, MAX_IO_APICS>,
    /// Interrupt lines that signal otherwise than their bus does.
    pub overrides: FixedVec<Override, MAX_OVERRIDES>,
    /// I/O port of the ACPI timer.
    pub pm_timer: Option<u16>,
}

sealed! {
    static MACHINE: Once<Machine> = Once::new();
}

/// Called once, by the boot processor.
pub fn set(machine: Machine) -> &'static Machine {
    MACHINE.call_once(|| machine)
}

/// The machine. Not before the kernel address space is built.
pub fn get() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => panic!("the machine is not known yet"),
    }
}
