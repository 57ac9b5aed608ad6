//! The rules of the sigma0 protocol (ref 3.2, 6.6).
//!
//! Every piece of physical memory is in one [`State`]. Memory descriptors set the states in order,
//! later ones overriding earlier ones; requests move memory from the pools to an owner, which is a
//! thread. Owned memory is given again only to its owner; nothing ever comes back.

use crate::interval::{Full, IntervalMap};
use l4abi::kip::numa::NodeRange;
use l4abi::kip::{Kip, MemoryDesc, MemoryType};
use l4abi::proto::Sigma0Request;
use l4abi::{Fpage, FpageKind, NodeId, Region, Rights, ThreadId};

/// Most pieces of memory that are told apart.
pub const MEMORY_ENTRIES: usize = 4096;
/// Most pieces of the I/O space that are told apart.
pub const PORT_ENTRIES: usize = 256;
/// Most node ranges.
pub const MAX_NODE_RANGES: usize = 256;
/// "Any" requests get nothing below: legacy areas, and address 0, which reads as a null pointer.
pub const ANY_FROM: u64 = 1 << 20;
/// log2 of what a page fault gets.
const FAULT_LOG2: u8 = 12;

/// What a piece of memory (or of the I/O space) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Free RAM: for any, specific and fault requests.
    Free,
    /// Given out once, on specific request only.
    Dedicated,
    /// Given to anyone, any number of times.
    Shared,
    /// The kernel's or sigma0's own: never given out.
    Reserved,
    /// Given to this thread.
    Owned(ThreadId),
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Map this to the requester, after giving it these attributes if they are not 0.
    Map {
        /// The pages or ports, with all rights.
        fpage: Fpage,
        /// Attributes for MemoryControl.
        attributes: u64,
    },
    /// Answer with a nilpage.
    Refuse,
    /// Do not answer.
    Ignore,
    /// Set the verbosity; no answer.
    Verbose(u64),
    /// Print the pools, then answer (empty) if `reply`.
    Dump {
        /// Whether to answer.
        reply: bool,
    },
}

/// All memory and ports with their states.
#[derive(Debug)]
pub struct Pool {
    memory: IntervalMap<State, MEMORY_ENTRIES>,
    ports: IntervalMap<State, PORT_ENTRIES>,
    nodes: [Option<NodeRange>; MAX_NODE_RANGES],
    root: ThreadId,
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// No memory at all.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            memory: IntervalMap::new(State::Free),
            ports: IntervalMap::new(State::Free),
            nodes: [None; MAX_NODE_RANGES],
            root: ThreadId::NIL,
        }
    }

    /// Takes everything from the KIP. Returns how many descriptors did not fit: if any, memory may
    /// have a wrong state and nothing must be given out. (A KIP of four pages has room for fewer
    /// descriptors than a quarter of [`MEMORY_ENTRIES`], and each adds two entries at most.)
    pub fn fill(&mut self, kip: Kip<'_>) -> usize {
        let ranges = kip.thread_ranges();
        self.root = ranges.root_task();
        let mut failed = 0;
        for desc in kip.memory() {
            failed += usize::from(self.describe(desc).is_err());
        }
        let root = State::Owned(self.root);
        for (image, state) in [
            (kip.sigma0_image(), State::Reserved),
            (kip.sigma1_image(), State::Reserved),
            (kip.root_image(), root),
        ] {
            if image.high > image.low {
                // Pages, not bytes: the rest of the last page belongs to the image, too.
                let (low, last) = (image.low & !0xFFF, (image.high - 1) | 0xFFF);
                failed += usize::from(self.memory.set(low, last, Some(state)).is_err());
            }
        }
        failed += usize::from(self.ports.set(0, 0xFFFF, Some(State::Free)).is_err());
        if let Some(numa) = kip.numa() {
            for (slot, range) in self.nodes.iter_mut().zip(numa.ranges()) {
                *slot = Some(range);
            }
        }
        failed
    }

    /// Applies one memory descriptor.
    ///
    /// # Errors
    /// [`Full`]; nothing changed.
    pub fn describe(&mut self, desc: MemoryDesc) -> Result<(), Full> {
        if desc.is_virtual() {
            return Ok(());
        }
        let state = match desc.kind() {
            Some(MemoryType::Undefined) => None,
            Some(MemoryType::Conventional) => Some(State::Free),
            Some(MemoryType::Shared) => Some(State::Shared),
            Some(MemoryType::Dedicated | MemoryType::BootLoader | MemoryType::Architecture) => {
                Some(State::Dedicated)
            }
            Some(MemoryType::Reserved) | None => Some(State::Reserved),
        };
        self.memory.set(desc.low(), desc.last(), state)
    }

    /// Adds a node range; the binary takes them from the KIP.
    #[cfg(test)]
    pub fn add_node_range(&mut self, range: NodeRange) {
        if let Some(slot) = self.nodes.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(range);
        }
    }

    /// Names the root task, who may dump; the binary takes it from the KIP.
    #[cfg(test)]
    pub fn set_root(&mut self, root: ThreadId) {
        self.root = root;
    }

    /// Decides about a request and takes what it is given out of the pools.
    pub fn handle(&mut self, from: ThreadId, request: Sigma0Request) -> Verdict {
        match request {
            Sigma0Request::Pages { fpage, attributes } => self.pages(from, fpage, attributes, None),
            Sigma0Request::PagesOnNode { fpage, attributes, node } => {
                self.pages(from, fpage, attributes, Some(node))
            }
            Sigma0Request::Fault(fault) => {
                let region = Region::containing(fault.addr, FAULT_LOG2);
                let allowed = |state| state != State::Dedicated;
                self.take_memory(from, region, 0, allowed)
            }
            Sigma0Request::IoFault(fault) => self.pages(from, fault.ports, 0, None),
            Sigma0Request::Verbose(level) if from == self.root => Verdict::Verbose(level),
            Sigma0Request::Dump { reply } if from == self.root => Verdict::Dump { reply },
            Sigma0Request::Verbose(_) | Sigma0Request::Dump { .. } => Verdict::Ignore,
        }
    }

    fn pages(
        &mut self,
        from: ThreadId,
        fpage: Fpage,
        attributes: u64,
        node: Option<NodeId>,
    ) -> Verdict {
        if fpage.is_any() {
            let Some(region) = self.find_free(fpage.size_field(), node) else {
                return Verdict::Refuse;
            };
            return self.take_memory(from, region, attributes, |_| true);
        }
        match fpage.kind() {
            FpageKind::Memory(region) => {
                if node.is_some_and(|node| !self.lies_on(region, node)) {
                    return Verdict::Refuse;
                }
                self.take_memory(from, region, attributes, |_| true)
            }
            FpageKind::Io(region) if node.is_none() => self.take_ports(from, region),
            FpageKind::Io(_) | FpageKind::Nothing => Verdict::Refuse,
        }
    }

    fn take_memory(
        &mut self,
        from: ThreadId,
        region: Region,
        attributes: u64,
        allowed: impl Fn(State) -> bool,
    ) -> Verdict {
        let (low, last) = (region.base(), region.last());
        if take(&mut self.memory, from, low, last, allowed) {
            let fpage = Fpage::memory(low, region.size_log2(), Rights::RWX);
            return Verdict::Map { fpage, attributes };
        }
        Verdict::Refuse
    }

    fn take_ports(&mut self, from: ThreadId, region: Region) -> Verdict {
        if take(&mut self.ports, from, region.base(), region.last(), |_| true) {
            let fpage = Fpage::io(region.base() as u16, region.size_log2());
            return Verdict::Map { fpage, attributes: 0 };
        }
        Verdict::Refuse
    }

    /// Whether all of `region` lies in memory of `node`.
    fn lies_on(&self, region: Region, node: NodeId) -> bool {
        if self.nodes[0].is_none() {
            return node == NodeId(0);
        }
        let inside = |r: &NodeRange| r.low <= region.base() && region.last() <= r.last;
        self.nodes.iter().flatten().any(|r| r.node == node && inside(r))
    }

    /// A free region of `2^log2` bytes: the smallest free interval that holds one, at its upper end,
    /// so that large intervals stay whole. Without a node, nodes are tried in order.
    fn find_free(&self, log2: u8, node: Option<NodeId>) -> Option<Region> {
        if !(FAULT_LOG2..=48).contains(&log2) {
            return None;
        }
        if self.nodes[0].is_none() {
            let anywhere = node.is_none_or(|node| node == NodeId(0));
            return anywhere.then(|| self.find_in(log2, ANY_FROM, u64::MAX))?;
        }
        let ranges = self.nodes.iter().flatten();
        let found = ranges
            .filter(|r| node.is_none_or(|node| r.node == node))
            .find_map(|r| self.find_in(log2, r.low.max(ANY_FROM), r.last));
        // Memory that no node claims is nobody's, and still memory.
        found.or_else(|| match node {
            None => self.find_in(log2, ANY_FROM, u64::MAX),
            Some(_) => None,
        })
    }

    fn find_in(&self, log2: u8, low: u64, last: u64) -> Option<Region> {
        let size_less_one = l4abi::fpage::low_mask(log2);
        let mut best: Option<(u64, Region)> = None;
        for piece in self.memory.within(low, last).filter(|p| p.value == State::Free) {
            // The highest aligned region that ends inside the piece.
            let Some(end) = piece.last.checked_add(1).map(|end| end & !size_less_one) else {
                continue;
            };
            let Some(base) = end.checked_sub(1 << log2).filter(|&base| base >= piece.low) else {
                continue;
            };
            let length = piece.last - piece.low;
            if best.is_none_or(|(shortest, _)| length < shortest) {
                best = Some((length, Region::containing(base, log2)));
            }
        }
        best.map(|(_, region)| region)
    }

    /// The state of an address.
    #[must_use]
    pub fn state(&self, addr: u64) -> Option<State> {
        self.memory.get(addr)
    }

    /// All memory in order, for the dump.
    pub fn memory(&self) -> impl Iterator<Item = (u64, u64, State)> + '_ {
        self.memory.iter().map(|i| (i.low, i.last, i.value))
    }

    /// All ports in order, for the dump.
    pub fn ports(&self) -> impl Iterator<Item = (u64, u64, State)> + '_ {
        self.ports.iter().map(|i| (i.low, i.last, i.value))
    }
}

/// Gives `low..=last` to `from` if every byte is free for it; shared parts stay shared.
fn take<const N: usize>(
    map: &mut IntervalMap<State, N>,
    from: ThreadId,
    low: u64,
    last: u64,
    allowed: impl Fn(State) -> bool,
) -> bool {
    let mut all_shared = true;
    let mut any_shared = false;
    let available = map.all_within(low, last, |state| {
        all_shared &= state == State::Shared;
        any_shared |= state == State::Shared;
        let mine = match state {
            State::Free | State::Dedicated | State::Shared => true,
            State::Reserved => false,
            State::Owned(owner) => owner == from,
        };
        mine && allowed(state)
    });
    // A mixture of shared and other memory would need several changes that could fail half way.
    if !available || (any_shared && !all_shared) {
        return false;
    }
    all_shared || map.set(low, last, Some(State::Owned(from))).is_ok()
}
