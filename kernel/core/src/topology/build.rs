//! [`Topology::discover`]: from the firmware's tables to one consistent picture.

use super::ranges::{self, RangeList};
use super::tables::{Slit, Srat, SratEntry};
use super::{
    Cpu, LOCAL_DISTANCE, MadtCpu, NodeRange, REMOTE_DISTANCE, Tables, Topology, TopologyError,
    Warning,
};
use crate::fixed::FixedVec;
use crate::layout::{MAX_CPUS, MAX_RANGES, PAGE_SIZE, PHYS_LIMIT};
use crate::types::{ApicId, NodeId, PhysAddr, PhysRange};

/// What the SRAT says of memory: ascending and disjoint.
type Claims = FixedVec<(PhysRange, u32), MAX_RANGES>;

/// A CPU and the domain that the SRAT puts it into.
#[derive(Clone, Copy)]
struct FoundCpu {
    apic: ApicId,
    domain: Option<u32>,
}

/// The bootstrap processor first.
type FoundCpus = FixedVec<FoundCpu, MAX_CPUS>;

/// A piece of usable memory and its domain.
type Pieces = FixedVec<(PhysRange, Option<u32>), MAX_RANGES>;

impl Topology {
    /// Fills the topology from the firmware's tables, its map of *usable* memory (any order, may
    /// overlap), the MADT's CPUs and the APIC id of the CPU that runs this.
    ///
    /// Needs about 20 KiB of stack.
    ///
    /// # Errors
    /// [`TopologyError::NoMemory`]; everything else is corrected and recorded as a [`Warning`].
    pub fn discover(
        &mut self,
        tables: Tables<'_>,
        usable: &[PhysRange],
        cpus: impl IntoIterator<Item = MadtCpu>,
        bsp: ApicId,
    ) -> Result<(), TopologyError> {
        self.reset();
        let mut cpus = self.collect_cpus(cpus, bsp);
        let srat = self.parse_srat(tables.srat);
        let mut claims: Claims = FixedVec::new((PhysRange::EMPTY, 0));
        if let Some(srat) = &srat {
            self.read_srat(srat, &mut cpus, &mut claims);
            self.resolve_overlaps(&mut claims);
        }
        let usable = self.usable_memory(usable);
        let mut pieces: Pieces = FixedVec::new((PhysRange::EMPTY, None));
        self.assign_memory(&usable, &claims, srat.is_some(), &mut pieces);
        if pieces.is_empty() {
            return Err(TopologyError::NoMemory);
        }
        self.number_nodes(&cpus, &pieces);
        if let Some(srat) = &srat {
            self.report_left_out(srat, &cpus, &pieces);
        }
        self.place(&cpus, &pieces);
        self.set_distances(tables.slit);
        Ok(())
    }

    fn reset(&mut self) {
        self.domains.clear();
        self.cpus.clear();
        self.ranges.clear();
        self.warnings.clear();
        self.warnings_lost = 0;
    }

    fn collect_cpus(
        &mut self,
        listed: impl IntoIterator<Item = MadtCpu>,
        bsp: ApicId,
    ) -> FoundCpus {
        let mut cpus: FoundCpus = FixedVec::new(FoundCpu { apic: bsp, domain: None });
        let _ = cpus.push(FoundCpu { apic: bsp, domain: None });
        let (mut bsp_listed, mut any) = (false, false);
        for cpu in listed.into_iter().filter(|c| c.usable) {
            any = true;
            let first_bsp = cpu.apic == bsp && !bsp_listed;
            bsp_listed |= cpu.apic == bsp;
            if first_bsp {
                continue;
            }
            if cpus.iter().any(|c| c.apic == cpu.apic) {
                self.warn(Warning::CpuTwice(cpu.apic));
            } else if cpus.push(FoundCpu { apic: cpu.apic, domain: None }).is_err() {
                self.warn(Warning::CpuDropped(cpu.apic));
            }
        }
        if !any {
            self.warn(Warning::NoCpuListed);
        } else if !bsp_listed {
            self.warn(Warning::BspNotListed(bsp));
        }
        cpus
    }

    fn parse_srat<'a>(&mut self, bytes: Option<&'a [u8]>) -> Option<Srat<'a>> {
        match Srat::parse(bytes?) {
            // A table without any enabled entry says nothing: as if there were none.
            Ok(srat) => srat.entries().next().map(|_| srat),
            Err(e) => {
                self.warn(Warning::SratIgnored(e));
                None
            }
        }
    }

    fn read_srat(&mut self, srat: &Srat<'_>, cpus: &mut FoundCpus, claims: &mut Claims) {
        for entry in srat.entries() {
            match entry {
                SratEntry::Cpu { apic, domain } => {
                    let Some(cpu) = cpus.iter_mut().find(|c| c.apic == apic) else { continue };
                    let kept = *cpu.domain.get_or_insert(domain);
                    if kept != domain {
                        self.warn(Warning::CpuInTwoDomains { apic, kept, ignored: domain });
                    }
                }
                SratEntry::Memory { range, domain, .. } => {
                    let at = claims.partition_point(|(r, _)| r.start <= range.start);
                    if claims.insert(at, (range, domain)).is_err() {
                        self.warn(Warning::RangeDropped(range));
                    }
                }
            }
        }
        for cpu in cpus.iter().filter(|c| c.domain.is_none()) {
            self.warn(Warning::CpuNotInSrat(cpu.apic));
        }
    }

    /// Makes the claims disjoint: the range that starts first keeps what two claim.
    fn resolve_overlaps(&mut self, claims: &mut Claims) {
        let mut done: Claims = FixedVec::new((PhysRange::EMPTY, 0));
        for &(range, domain) in claims.iter() {
            let Some(&(last, last_domain)) = done.last() else {
                let _ = done.push((range, domain));
                continue;
            };
            let overlap = last.intersect(range);
            if !overlap.is_empty() && last_domain != domain {
                let (kept, cut) = (last_domain, domain);
                self.warn(Warning::RangesOverlap { kept, cut, range: overlap });
            }
            let rest = PhysRange::new(range.start.max(last.end), range.end);
            if !rest.is_empty() {
                // Cannot be full: `done` never gets more ranges than `claims` has.
                let _ = done.push((rest, domain));
            }
        }
        *claims = done;
    }

    /// The firmware's usable memory: merged, page-aligned, below the highest mappable address.
    fn usable_memory(&mut self, usable: &[PhysRange]) -> RangeList {
        let mut merged = ranges::EMPTY;
        for &range in usable {
            let mappable = PhysRange::new(PhysAddr::ZERO, PHYS_LIMIT);
            let too_high = PhysRange::new(range.start.max(PHYS_LIMIT), range.end);
            if !too_high.is_empty() {
                self.warn(Warning::MemoryTooHigh(too_high));
            }
            if let Err(lost) = ranges::insert(&mut merged, range.intersect(mappable)) {
                self.warn(Warning::RangeDropped(lost));
            }
        }
        merged
    }

    /// Cuts usable memory along the claims.
    fn assign_memory(
        &mut self,
        usable: &RangeList,
        claims: &Claims,
        has_srat: bool,
        pieces: &mut Pieces,
    ) {
        for &memory in usable.iter() {
            let mut at = memory.start;
            let first = claims.partition_point(|(r, _)| r.end <= at);
            for &(claim, domain) in &claims[first..] {
                let claimed = claim.intersect(memory);
                if claimed.is_empty() {
                    break;
                }
                self.add_piece(PhysRange::new(at, claimed.start), None, has_srat, pieces);
                self.add_piece(claimed, Some(domain), has_srat, pieces);
                at = claimed.end;
            }
            self.add_piece(PhysRange::new(at, memory.end), None, has_srat, pieces);
        }
    }

    /// Adds the whole pages of a piece, merged with the one before if they touch.
    fn add_piece(
        &mut self,
        bytes: PhysRange,
        domain: Option<u32>,
        has_srat: bool,
        pieces: &mut Pieces,
    ) {
        let range = bytes.align_inward(PAGE_SIZE);
        if range.is_empty() {
            return;
        }
        if has_srat && domain.is_none() {
            self.warn(Warning::MemoryNotInSrat(range));
        }
        if let Some((last, last_domain)) = pieces.last_mut()
            && last.end == range.start
            && *last_domain == domain
        {
            last.end = range.end;
        } else if pieces.push((range, domain)).is_err() {
            self.warn(Warning::RangeDropped(range));
        }
    }

    /// Dense node numbers, ascending with the proximity domains that have a CPU or memory.
    fn number_nodes(&mut self, cpus: &FoundCpus, pieces: &Pieces) {
        let of_cpus = cpus.iter().filter_map(|c| c.domain);
        let of_memory = pieces.iter().filter_map(|(_, domain)| *domain);
        for domain in of_cpus.chain(of_memory) {
            if let Err(at) = self.domains.binary_search(&domain) {
                // The lowest domains win: a full list drops its highest.
                if self.domains.is_full() && at < self.domains.len() {
                    self.domains.pop();
                }
                let _ = self.domains.insert(at, domain);
            }
        }
        if self.domains.is_empty() {
            let _ = self.domains.push(0);
        }
    }

    /// Warns of domains of the SRAT that did not become nodes.
    fn report_left_out(&mut self, srat: &Srat<'_>, cpus: &FoundCpus, pieces: &Pieces) {
        for entry in srat.entries() {
            let domain = match entry {
                SratEntry::Cpu { domain, .. } | SratEntry::Memory { domain, .. } => domain,
            };
            if self.node_of_domain(domain).is_some() {
                continue;
            }
            let used = cpus.iter().any(|c| c.domain == Some(domain))
                || pieces.iter().any(|(_, d)| *d == Some(domain));
            if used {
                self.warn(Warning::DomainDropped(domain));
            } else {
                self.warn(Warning::EmptyDomain(domain));
            }
        }
    }

    fn node_or_first(&self, domain: Option<u32>) -> NodeId {
        domain.and_then(|d| self.node_of_domain(d)).unwrap_or(NodeId::new(0))
    }

    /// Fills in CPUs and ranges under their node numbers.
    fn place(&mut self, cpus: &FoundCpus, pieces: &Pieces) {
        for found in cpus.iter() {
            let cpu = Cpu { apic: found.apic, node: self.node_or_first(found.domain) };
            let key = |c: &Cpu| (c.node, c.apic);
            // The bootstrap processor comes first in `cpus` and stays first.
            let behind_bsp = self.cpus.get(1..).unwrap_or(&[]);
            let at = behind_bsp.partition_point(|c| key(c) < key(&cpu)) + 1;
            let _ = self.cpus.insert(at.min(self.cpus.len()), cpu);
        }
        for &(range, domain) in pieces.iter() {
            let node = self.node_or_first(domain);
            if let Some(last) = self.ranges.last_mut()
                && last.range.end == range.start
                && last.node == node
            {
                last.range.end = range.end;
            } else {
                let _ = self.ranges.push(NodeRange { node, range });
            }
        }
    }

    fn set_distances(&mut self, slit: Option<&[u8]>) {
        let slit = slit.and_then(|bytes| match Slit::parse(bytes) {
            Ok(slit) => Some(slit),
            Err(e) => {
                self.warn(Warning::SlitIgnored(e));
                None
            }
        });
        for from in self.nodes() {
            for to in self.nodes() {
                let default = if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
                let used = match &slit {
                    Some(slit) => self.sane_distance(slit, from, to, default),
                    None => default,
                };
                self.distances[from.index()][to.index()] = used;
            }
        }
    }

    /// The SLIT's distance, or the default if the SLIT has none or an impossible one: 0 to 9 are
    /// reserved, 10 means local and nothing else (ACPI 6.5, 5.2.17).
    fn sane_distance(&mut self, slit: &Slit<'_>, from: NodeId, to: NodeId, default: u8) -> u8 {
        let (row, column) = (self.domains[from.index()], self.domains[to.index()]);
        let Some(value) = slit.distance(row, column) else {
            let missing = if slit.distance(row, row).is_none() { row } else { column };
            self.warn(Warning::DomainNotInSlit(missing));
            return default;
        };
        let sane = if from == to { value == LOCAL_DISTANCE } else { value > LOCAL_DISTANCE };
        if sane {
            return value;
        }
        self.warn(Warning::Distance { from, to, value, used: default });
        default
    }
}
