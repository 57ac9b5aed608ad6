//! The simulation: one method per event that the emulator reports.
//!
//! The emulator runs one CPU at a time, in slices. Counts of instructions are running totals over
//! all CPUs ([`Guest::counts`]); what they grew by since the last event belongs to the CPU that was
//! executing and to the privilege of the block it was in.
//!
//! *Clocks.* A CPU's clock advances by one cycle per instruction plus the latency of its accesses. A
//! CPU that gets more than a quantum ahead of the slowest runnable one is asked to let others run
//! (`sched`), so clocks differ by a bounded amount. A CPU that reads a line another has written at a
//! later time moves its clock there (`access`): results never precede their causes.

mod access;
mod marker;
mod sched;

pub use crate::walk::Guest;
use crate::{
    coherence::{Hierarchy, Level},
    config::{Caches, Config},
    counters::{Class, Count, KERNEL, USER},
    cpu::{Cpu, NO_LINE, Operand, Pending, Stamp},
    lines::LineTable,
    phys::Ram,
    region::{Regions, touch},
};
pub use sched::Recipients;
use std::collections::BTreeMap;

/// A run of instructions in one code line, as it was translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Block {
    /// Virtual address of its first instruction.
    pub vaddr: u64,
    /// Guest-physical address of the same.
    pub gpa: Option<u64>,
    /// Virtual address behind the last instruction of the emulator's block.
    pub end: u64,
    /// It executes in user mode.
    pub user: bool,
    /// It is the first block of the handler of this interrupt vector.
    pub vector: Option<u8>,
}

/// How well the instrument knows what it talks about; part of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// HELLO markers seen.
    pub hellos: u64,
    /// HELLO markers that contradict an earlier one.
    pub hellos_wrong: u64,
    /// PLACE markers answered.
    pub places: u64,
    /// PLACE markers whose store went to another node.
    pub places_wrong: u64,
    /// Own page walks compared with the emulator's translation.
    pub walks: u64,
    /// Of these, walks that gave another address.
    pub walks_wrong: u64,
    /// Accesses whose address could not be translated by a walk.
    pub untranslated: u64,
    /// Fetches from code whose place in memory is not known.
    pub fetch_unknown: u64,
}

/// A remote access, for the question what is touched where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteKey {
    /// Index of the region.
    pub region: usize,
    /// CPU.
    pub cpu: usize,
    /// Index of the traffic class.
    pub class: usize,
    /// The code line that was executing.
    pub pc: u64,
    /// The virtual address of the line (for walks: the guest-physical one of the entry's line).
    pub address: u64,
    /// The node it lies on.
    pub home: usize,
}

/// The whole modelled machine.
#[derive(Debug)]
pub struct Sim {
    config: Config,
    ram: Ram,
    caches: Hierarchy,
    stamps: LineTable<Stamp>,
    /// Its CPUs.
    pub cpus: Vec<Cpu>,
    /// Its regions of interest.
    pub regions: Regions,
    /// Its self-checks.
    pub checks: Checks,
    /// Remote accesses in regions, if they are traced.
    pub remote: BTreeMap<RemoteKey, u64>,
    /// Points recorded by PROBE: (id, CPU, clock, kernel and user instructions).
    pub probes: Vec<(u16, usize, u64, [u64; 2])>,
    running: Option<usize>,
    seen: [u64; 2],
    slice: u32,
    limit: u64,
    place_check: Option<(usize, usize)>,
    finished: bool,
}

impl Sim {
    /// A machine with cold caches on which nothing has run.
    #[must_use]
    pub fn new(config: Config) -> Sim {
        let ram = Ram::new(&config);
        Sim {
            caches: Hierarchy::new(&config, &ram),
            stamps: LineTable::new((ram.total() / crate::LINE) as usize),
            cpus: (0..config.cpu_node.len()).map(|i| Cpu::new(&config, i)).collect(),
            regions: Regions::default(),
            checks: Checks::default(),
            remote: BTreeMap::new(),
            probes: Vec::new(),
            running: None,
            seen: [0; 2],
            slice: 0,
            limit: 0,
            place_check: None,
            finished: false,
            ram,
            config,
        }
    }

    /// The machine's description.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The machine's memory layout.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// A CPU begins to execute a block. `true`: it should let another CPU run soon.
    pub fn fetch(&mut self, cpu: usize, block: &Block, guest: &impl Guest) -> bool {
        self.enter(cpu, guest);
        self.wake(cpu, block.vector);
        self.apply_pending(cpu, guest);
        let c = &mut self.cpus[cpu];
        c.mode = if block.user { USER } else { KERNEL };
        c.pc = block.vaddr;
        if let Some(vector) = block.vector {
            self.interrupted(cpu, vector, guest);
        }
        let c = &mut self.cpus[cpu];
        let vline = block.vaddr >> 6;
        // Without caches a jump fetches its target again. The emulator ends a block at every branch, taken or not; one
        // that is not taken goes on in what is fetched, as does a string instruction that repeats.
        let goes_on = block.vaddr == c.fetch_end || c.repeating == (block.vaddr, c.instructions());
        c.fetch_end = block.end;
        if vline != c.fetched.line || self.config.mode() == Caches::Off && !goes_on {
            if vline == c.fetched_before.line && c.mode == c.fetched_before.mode {
                std::mem::swap(&mut c.fetched, &mut c.fetched_before);
                c.counters.access(c.mode, Class::Fetch, Level::L1);
            } else {
                self.fetch_line(cpu, block, guest);
            }
        }
        let ahead = self.cpus[cpu].clock > self.limit;
        if ahead {
            // If there is nobody else, this CPU goes on, and looks again after as long, not at every block.
            self.set_limit(cpu);
        }
        ahead
    }

    /// A CPU has loaded or stored `size` bytes. If they are no RAM, gives the guest-physical address.
    pub fn data(
        &mut self,
        cpu: usize,
        vaddr: u64,
        size: u64,
        store: bool,
        guest: &impl Guest,
    ) -> Option<u64> {
        if self.running != Some(cpu) {
            self.enter(cpu, guest);
        }
        let vline = vaddr >> 6;
        if self.config.mode() != Caches::Off && (vaddr & 63) + size <= 64 {
            let cost = if self.config.mode() == Caches::On { self.config.latency.l1 } else { 0 };
            let c = &mut self.cpus[cpu];
            let again = vline == c.write_line.0 || (!store && vline == c.read_line);
            if again && self.place_check.is_none() {
                let count = if store { Count::Stores } else { Count::Loads };
                c.counters.add(c.mode, count, 1);
                c.counters.access(c.mode, Class::Data, Level::L1);
                c.clock += cost;
                if store {
                    let line = c.write_line.1;
                    self.sync(guest);
                    self.stamp(cpu, line);
                }
                return None;
            }
        }
        self.sync(guest);
        let device = self.data_piece(cpu, vaddr, store, guest);
        let last = vaddr + size.max(1) - 1;
        if last >> 6 != vline {
            self.data_piece(cpu, last & !63, store, guest);
        }
        device
    }

    /// A CPU executes an instruction that is counted by itself.
    pub fn special(&mut self, cpu: usize, count: Count, guest: &impl Guest) {
        self.enter(cpu, guest);
        let c = &mut self.cpus[cpu];
        c.counters.add(c.mode, count, 1);
        if matches!(count, Count::Cr3Write | Count::ModeWrite | Count::Invlpg | Count::Invpcid) {
            // Serialising instructions discard what was fetched ahead (SDM 3A 9.3).
            c.fetch_end = NO_LINE;
        }
        match count {
            Count::Cr3Write if c.pending == Pending::Nothing => c.pending = Pending::Context,
            Count::Cr3Write | Count::ModeWrite | Count::Invpcid => c.pending = Pending::All,
            Count::Hlt => c.runnable = false,
            Count::Pause => c.paused_at = Some((c.instructions(), self.slice)),
            _ => {}
        }
    }

    /// A CPU executes INVLPG with this operand; the page is dropped before its next block.
    pub fn invlpg(&mut self, cpu: usize, operand: Operand, guest: &impl Guest) {
        self.special(cpu, Count::Invlpg, guest);
        let c = &mut self.cpus[cpu];
        c.pending = match c.pending {
            Pending::Nothing => Pending::Page(operand),
            _ => Pending::All,
        };
    }

    /// A CPU executes one element of a repeated string instruction at `pc`. Such instructions are not
    /// part of [`Guest::counts`]; the whole repetition counts as one.
    pub fn repeated(&mut self, cpu: usize, pc: u64, guest: &impl Guest) {
        self.enter(cpu, guest);
        let c = &mut self.cpus[cpu];
        if c.repeating != (pc, c.instructions()) {
            c.counters.add(c.mode, Count::Instructions, 1);
            c.clock += 1;
            c.repeating = (pc, c.instructions());
        }
    }

    /// Whether a SIMEND marker has been seen.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.finished
    }

    fn data_piece(
        &mut self,
        cpu: usize,
        vaddr: u64,
        store: bool,
        guest: &impl Guest,
    ) -> Option<u64> {
        let c = &mut self.cpus[cpu];
        let (count, how) =
            if store { (Count::Stores, touch::WRITTEN) } else { (Count::Loads, touch::READ) };
        c.counters.add(c.mode, count, 1);
        let gpa = self.translate(cpu, vaddr, guest);
        let Some(place) = gpa.and_then(|gpa| self.ram.locate(gpa)) else {
            let c = &mut self.cpus[cpu];
            c.counters.device(c.mode, Class::Data);
            c.clock += self.config.latency.io;
            return gpa;
        };
        if store
            && let Some((checked, node)) = self.place_check
            && checked == cpu
        {
            self.place_check = None;
            self.checks.places += 1;
            self.checks.places_wrong += u64::from(place.node != node);
        }
        self.line(cpu, Class::Data, place, vaddr, store, how);
        let c = &mut self.cpus[cpu];
        if store {
            c.write_line = (vaddr >> 6, place.line());
            self.stamp(cpu, place.line());
        } else {
            c.read_line = vaddr >> 6;
        }
        None
    }
}

#[cfg(test)]
#[path = "../sim_tests.rs"]
mod tests;
