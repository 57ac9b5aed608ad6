//! Which hardware counters count memory accesses by node: vendor, family and model to event numbers and registers.
//!
//! Sources: AMD, *BIOS and Kernel Developer's Guide* for families 0Fh, 10h and 15h, event 0E9h "CPU/IO requests to memory/IO" of
//! the north bridge; AMD, *Processor Programming Reference* for families 17h and 19h, event 043h "demand data cache fills"; Intel,
//! *SDM* 3B chapter 20, off-core response events 0B7h and 0BBh with their registers 1A6h and 1A7h (bits of the response per
//! micro-architecture), 02Ah on Sapphire Rapids. What is not listed here counts nothing: absent is better than wrong.

use l4abi::ext::{HardwareCounter, NoCounter};

/// What CPUID says about a processor, of the things counters depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Who made it.
    pub vendor: Vendor,
    /// Family, the extended one added.
    pub family: u32,
    /// Model, the extended one in front.
    pub model: u32,
    /// It says that it is emulated.
    pub hypervisor: bool,
    /// Intel: version of the counters, 0 for none (leaf 0Ah).
    pub version: u32,
    /// Intel: number of counters.
    pub counters: u32,
    /// AMD: counters at the newer register addresses (PerfCtrExtCore).
    pub extended_core: bool,
    /// AMD: the north bridge has counters of its own (PerfCtrExtNB).
    pub extended_northbridge: bool,
}

/// Maker of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Anybody else.
    Other,
}

/// The registers of a leaf: EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

impl Processor {
    /// Reads it out of CPUID (SDM 2A, APM 3 appendix E).
    pub fn read(cpuid: impl Fn(u32) -> Leaf) -> Self {
        let [most, b, c, d] = cpuid(0);
        let vendor = match (b, d, c) {
            (0x6874_7541, 0x6974_6E65, 0x444D_4163) => Vendor::Amd,
            (0x756E_6547, 0x4965_6E69, 0x6C65_746E) => Vendor::Intel,
            _ => Vendor::Other,
        };
        let [signature, _, features, _] = cpuid(1);
        let (base, low) = (signature >> 8 & 0xF, signature >> 4 & 0xF);
        let family = if base == 0xF { base + (signature >> 20 & 0xFF) } else { base };
        let has_high = base == 0xF || base == 6 && vendor == Vendor::Intel;
        let model = if has_high { (signature >> 16 & 0xF) << 4 | low } else { low };
        let counting = if vendor == Vendor::Intel && most >= 0xA { cpuid(0xA)[0] } else { 0 };
        let most_extended = cpuid(0x8000_0000)[0];
        let extended = if most_extended >= 0x8000_0001 { cpuid(0x8000_0001)[2] } else { 0 };
        let amd = vendor == Vendor::Amd;
        Self {
            vendor,
            family,
            model,
            hypervisor: features >> 31 & 1 == 1,
            version: counting & 0xFF,
            counters: counting >> 8 & 0xFF,
            extended_core: amd && extended >> 23 & 1 == 1,
            extended_northbridge: amd && extended >> 24 & 1 == 1,
        }
    }
}

/// Whose events a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of the processor that reads it.
    Cpu,
    /// Those of all processors of the node; one of them sets it up and reads it.
    Node,
}

/// How to set a counter up and read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counting {
    /// Register that selects the event, and its value.
    pub select: (u32, u64),
    /// Register with the rest of the event, and its value.
    pub response: Option<(u32, u64)>,
    /// The number by which RDPMC reads it.
    pub number: u32,
    /// Whose events.
    pub scope: Scope,
}

/// What a processor can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Register that lets counters run, and its value; written last.
    pub enable: Option<(u32, u64)>,
    /// Remote accesses.
    pub remote: Option<Counting>,
    /// Local accesses.
    pub local: Option<Counting>,
}

impl Plan {
    /// How one of them is counted.
    #[must_use]
    pub const fn of(&self, counter: HardwareCounter) -> Option<&Counting> {
        match counter {
            HardwareCounter::RemoteAccesses => self.remote.as_ref(),
            HardwareCounter::LocalAccesses => self.local.as_ref(),
        }
    }

    /// All that there is.
    pub fn all(&self) -> impl Iterator<Item = &Counting> {
        self.remote.iter().chain(&self.local)
    }
}

/// User and kernel mode are counted, and the counter runs (the same bits with both makers).
const RUN: u64 = 1 << 22 | 1 << 17 | 1 << 16;

/// What `processor` can count.
///
/// # Errors
/// Why it counts nothing.
pub fn plan(processor: &Processor) -> Result<Plan, NoCounter> {
    if processor.hypervisor {
        return Err(NoCounter::Hypervisor);
    }
    match processor.vendor {
        Vendor::Amd => amd(processor),
        Vendor::Intel => intel(processor),
        Vendor::Other => Err(NoCounter::Processor),
    }
}

/// AMD's counters.
fn amd(processor: &Processor) -> Result<Plan, NoCounter> {
    /// Local CPU to memory of another node; of its own node.
    const NORTHBRIDGE: [u64; 2] = [0x98E9, 0xA8E9];
    /// Demand fills from memory of another node; of its own node.
    const FILLS: [u64; 2] = [0x4043, 0x0843];
    const OLD_SELECT: u32 = 0xC001_0000;
    const CORE_SELECT: u32 = 0xC001_0200;
    const NORTHBRIDGE_SELECT: u32 = 0xC001_0240;
    /// RDPMC numbers of the north bridge's own counters begin here.
    const FIRST_NORTHBRIDGE: u32 = 6;
    let counting = |events: [u64; 2], n: u32, register: u32, number: u32, scope| Counting {
        select: (register, events[n as usize] | RUN),
        response: None,
        number: number + n,
        scope,
    };
    let make = |one: &dyn Fn(u32) -> Counting| {
        Ok(Plan { enable: None, remote: Some(one(0)), local: Some(one(1)) })
    };
    match processor.family {
        0x0F | 0x10 => make(&|n| counting(NORTHBRIDGE, n, OLD_SELECT + n, 0, Scope::Node)),
        0x15 if processor.extended_northbridge => make(&|n| {
            let register = NORTHBRIDGE_SELECT + 2 * n;
            counting(NORTHBRIDGE, n, register, FIRST_NORTHBRIDGE, Scope::Node)
        }),
        0x17 | 0x19 if processor.extended_core => {
            make(&|n| counting(FILLS, n, CORE_SELECT + 2 * n, 0, Scope::Cpu))
        }
        _ => Err(NoCounter::Processor),
    }
}

/// Values of the off-core response register: remote, local; and whether there are two such registers.
struct OffCore {
    responses: [u64; 2],
    events: [u64; 2],
    both: bool,
}

/// Off-core events by model (family 6).
fn off_core(model: u32) -> Option<OffCore> {
    /// Demand reads of data, for ownership, and of code.
    const DEMAND: u64 = 0b111;
    /// Any outcome of the snoop but "no memory".
    const SNOOPED: u64 = 0x3F << 31;
    const EVENTS: [u64; 2] = [0x01B7, 0x01BB];
    let core = |remote: u64, local: u64| OffCore {
        responses: [DEMAND | remote | SNOOPED, DEMAND | local | SNOOPED],
        events: EVENTS,
        both: true,
    };
    /// Three kinds of distance.
    const HOPS: u64 = 0b111 << 27;
    Some(match model {
        // Nehalem and Westmere, for servers: memory of another node or its caches; memory of the own node.
        0x1A | 0x2E | 0x2C | 0x2F => OffCore {
            responses: [DEMAND | 1 << 12 | 1 << 13, DEMAND | 1 << 14],
            events: EVENTS,
            both: matches!(model, 0x2C | 0x2F),
        },
        // Sandy Bridge and Ivy Bridge.
        0x2D | 0x3E => core(0xFF << 23, 1 << 22),
        // Haswell.
        0x3F => core(HOPS, 1 << 22),
        // Broadwell; Skylake and those after it.
        0x4F | 0x55 => core(HOPS, 1 << 26),
        // Sapphire Rapids: other events, complete values for reads of data.
        0x8F => OffCore {
            responses: [0x3F_B300_0001, 0x1_0C00_0001],
            events: [0x012A, 0x012B],
            both: true,
        },
        _ => return None,
    })
}

/// Intel's counters.
fn intel(processor: &Processor) -> Result<Plan, NoCounter> {
    const SELECT: u32 = 0x186;
    const RESPONSE: u32 = 0x1A6;
    const ENABLE: u32 = 0x38F;
    if processor.version == 0 || processor.counters < 2 {
        return Err(NoCounter::Unsupported);
    }
    let known = if processor.family == 6 { off_core(processor.model) } else { None };
    let known = known.ok_or(NoCounter::Processor)?;
    let counting = |n: u32| Counting {
        select: (SELECT + n, known.events[n as usize] | RUN),
        response: Some((RESPONSE + n, known.responses[n as usize])),
        number: n,
        scope: Scope::Cpu,
    };
    Ok(Plan {
        // From version 2 on counters need a second permission.
        enable: (processor.version >= 2).then_some((ENABLE, 0b11)),
        remote: Some(counting(0)),
        local: known.both.then(|| counting(1)),
    })
}

#[cfg(test)]
mod tests;
