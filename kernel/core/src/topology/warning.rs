//! What can be odd about a machine, as values.

use core::fmt;

use super::tables::TableError;
use crate::types::{ApicId, NodeId, PhysRange};

/// Why there is no topology at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopologyError {
    /// The firmware's memory map holds no whole usable page.
    NoMemory,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("the firmware reports no usable memory"),
        }
    }
}

/// A correction that was made to what the firmware says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The SRAT is malformed; the machine is treated as one node.
    SratIgnored(TableError),
    /// The SLIT is malformed; default distances are used.
    SlitIgnored(TableError),
    /// The MADT lists no usable CPU; only the bootstrap processor is used.
    NoCpuListed,
    /// The MADT does not list the bootstrap processor as usable; it is used all the same.
    BspNotListed(ApicId),
    /// The MADT lists a CPU twice.
    CpuTwice(ApicId),
    /// More CPUs than the kernel can use; this one is left out.
    CpuDropped(ApicId),
    /// The SRAT does not name the CPU; it is put on node 0.
    CpuNotInSrat(ApicId),
    /// The SRAT puts a CPU into two domains; the first one counts.
    CpuInTwoDomains {
        /// The CPU.
        apic: ApicId,
        /// The domain that counts.
        kept: u32,
        /// The other one.
        ignored: u32,
    },
    /// Memory that the SRAT gives to two domains; the range that starts first keeps it.
    RangesOverlap {
        /// The domain that keeps the range.
        kept: u32,
        /// The domain that loses it.
        cut: u32,
        /// What both claim.
        range: PhysRange,
    },
    /// A range that did not fit into a list of fixed size; its memory is not used.
    RangeDropped(PhysRange),
    /// Usable memory that no SRAT range covers; it is put on node 0.
    MemoryNotInSrat(PhysRange),
    /// Memory above the highest physical address the kernel can map; it is not used.
    MemoryTooHigh(PhysRange),
    /// A domain with an enabled entry but without CPU and usable memory; it is not a node.
    EmptyDomain(u32),
    /// More domains than the kernel has nodes; this one's CPUs and memory are put on node 0.
    DomainDropped(u32),
    /// The SLIT does not cover a domain; default distances are used for it.
    DomainNotInSlit(u32),
    /// The SLIT holds an impossible distance.
    Distance {
        /// Row.
        from: NodeId,
        /// Column.
        to: NodeId,
        /// What the SLIT says.
        value: u8,
        /// What is used.
        used: u8,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SratIgnored(e) => write!(f, "SRAT ignored, one node assumed: {e}"),
            Self::SlitIgnored(e) => write!(f, "SLIT ignored, default distances used: {e}"),
            Self::NoCpuListed => write!(f, "MADT lists no usable CPU"),
            Self::BspNotListed(a) => write!(f, "MADT does not list the boot CPU, APIC {a}"),
            Self::CpuTwice(a) => write!(f, "MADT lists APIC {a} twice"),
            Self::CpuDropped(a) => write!(f, "too many CPUs, APIC {a} left out"),
            Self::CpuNotInSrat(a) => write!(f, "APIC {a} not in SRAT, put on node 0"),
            Self::CpuInTwoDomains { apic, kept, ignored } => {
                write!(f, "APIC {apic} in domains {kept} and {ignored}, first used")
            }
            Self::RangesOverlap { kept, cut, range } => {
                write!(f, "domains {kept} and {cut} both claim {range}, first used")
            }
            Self::RangeDropped(r) => write!(f, "too many memory ranges, {r} not used"),
            Self::MemoryNotInSrat(r) => write!(f, "memory {r} not in SRAT, put on node 0"),
            Self::MemoryTooHigh(r) => write!(f, "memory {r} is too high, not used"),
            Self::EmptyDomain(d) => write!(f, "domain {d} has neither CPU nor memory"),
            Self::DomainDropped(d) => write!(f, "too many nodes, domain {d} put on node 0"),
            Self::DomainNotInSlit(d) => write!(f, "domain {d} not in SLIT, defaults used"),
            Self::Distance { from, to, value, used } => {
                write!(f, "distance {from} to {to} cannot be {value}, {used} used")
            }
        }
    }
}
