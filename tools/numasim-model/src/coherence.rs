//! Private and shared caches kept coherent by a full-map directory.
//!
//! Per CPU: L1I and L1D, and an L2 that contains both. Per node: an L3 that contains its CPUs' L2s
//! (absent on some machines). The directory knows for each line which CPUs and which L3s hold it and
//! who owns it: MESI, with Exclusive and Modified told apart by a dirty flag.
//!
//! Invariants (checked by the tests after random operations): a line has an owner only if no other
//! CPU and no other node's L3 holds it; a line in an L1 is in that CPU's L2; a line in an L2 is in
//! that node's L3 if there is one; the directory's sets equal the caches' contents.
//!
//! Not modelled: prefetch, write buffers, limited bandwidth, the directory's own latency.

use crate::{
    cache::Cache,
    config::{Caches, Config},
    lines::LineTable,
    phys::Ram,
};

/// Which first-level cache an access goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Instruction fetch.
    Code,
    /// Loads, stores and page walks.
    Data,
}

/// What served an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// First level.
    L1,
    /// Second level.
    L2,
    /// Third level of the own node.
    L3,
    /// A dirty line of another CPU on the same node.
    CacheNear,
    /// A dirty line of a cache on another node.
    CacheFar,
    /// Memory of this node.
    Memory(usize),
}

/// What one access did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where the data came from.
    pub level: Level,
    /// What it cost.
    pub cycles: u64,
    /// Other CPUs whose copy was made invalid.
    pub invalidated: u32,
    /// One of these copies, or an L3's, was on another node.
    pub invalidated_far: bool,
    /// Dirty lines written back to the own node's memory, by this access or what it displaced.
    pub writebacks_local: u32,
    /// Dirty lines written to another node's memory.
    pub writebacks_far: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// One bit per CPU whose L2 holds the line.
    sharers: u64,
    /// One bit per node whose L3 holds the line.
    l3: u16,
    /// CPU + 1 that holds the line exclusively; 0 for none.
    owner: u8,
    /// The owner has written to it.
    dirty: bool,
    /// Node + 1 whose L3 holds newer data than memory; 0 for none.
    l3_dirty: u8,
}

#[derive(Debug)]
struct Private {
    l1i: Cache,
    l1d: Cache,
    l2: Cache,
}

impl Private {
    fn drop_line(&mut self, line: u32) {
        self.l1i.remove(line);
        self.l1d.remove(line);
        self.l2.remove(line);
    }

    fn l1(&mut self, port: Port) -> &mut Cache {
        match port {
            Port::Code => &mut self.l1i,
            Port::Data => &mut self.l1d,
        }
    }
}

/// All caches of the machine.
#[derive(Debug)]
pub struct Hierarchy {
    config: Config,
    mode: Caches,
    ram: Ram,
    cpus: Vec<Private>,
    l3: Vec<Cache>,
    directory: LineTable<Entry>,
}

impl Hierarchy {
    /// Cold caches.
    #[must_use]
    pub fn new(config: &Config, ram: &Ram) -> Hierarchy {
        let lines = if config.mode() == Caches::On { ram.total() / crate::LINE } else { 0 };
        let private = || Private {
            l1i: Cache::new(config.l1i),
            l1d: Cache::new(config.l1d),
            l2: Cache::new(config.l2),
        };
        Hierarchy {
            mode: config.mode(),
            cpus: config.cpu_node.iter().map(|_| private()).collect(),
            l3: config.memory.iter().map(|_| Cache::new(config.l3)).collect(),
            directory: LineTable::new(lines as usize),
            ram: ram.clone(),
            config: config.clone(),
        }
    }

    /// Empties every cache; dirty lines are forgotten, not counted.
    pub fn flush(&mut self) {
        for cpu in &mut self.cpus {
            cpu.l1i.clear();
            cpu.l1d.clear();
            cpu.l2.clear();
        }
        self.l3.iter_mut().for_each(Cache::clear);
        self.directory.clear();
    }

    /// Whether the two lines lie in different sets of a CPU's first-level cache.
    #[must_use]
    pub fn in_other_set(&self, port: Port, a: u32, b: u32) -> bool {
        let l1 = match port {
            Port::Code => &self.cpus[0].l1i,
            Port::Data => &self.cpus[0].l1d,
        };
        !l1.same_set(a, b)
    }

    /// One access to a line whose memory is on node `home`.
    pub fn access(
        &mut self,
        cpu: usize,
        line: u32,
        home: usize,
        port: Port,
        write: bool,
    ) -> Outcome {
        let plain = |level, cycles| Outcome {
            level,
            cycles,
            invalidated: 0,
            invalidated_far: false,
            writebacks_local: 0,
            writebacks_far: 0,
        };
        match self.mode {
            Caches::Ideal => plain(Level::L1, 0),
            Caches::Off => {
                let node = self.config.cpu_node[cpu];
                plain(Level::Memory(home), self.config.memory_latency(node, home))
            }
            Caches::On => {
                let mut out = plain(Level::L1, 0);
                self.cached(cpu, line, home, port, write, &mut out);
                out
            }
        }
    }

    fn cached(
        &mut self,
        cpu: usize,
        line: u32,
        home: usize,
        port: Port,
        write: bool,
        out: &mut Outcome,
    ) {
        let lat = self.config.latency;
        let private = &mut self.cpus[cpu];
        let held = if private.l1(port).touch(line) {
            out.cycles = if port == Port::Code { 0 } else { lat.l1 };
            // The L2's order of use follows what the L1 misses, as in hardware.
            true
        } else if private.l2.touch(line) {
            private.l1(port).insert(line);
            out.level = Level::L2;
            out.cycles = lat.l2;
            true
        } else {
            false
        };
        if !held {
            self.fetch_line(cpu, line, home, write, out);
            self.fill(cpu, line, port, out);
        }
        if write {
            self.own(cpu, line, held, out);
        }
    }

    /// Finds the data of a line that the CPU does not hold, and says what that costs.
    fn fetch_line(&mut self, cpu: usize, line: u32, home: usize, write: bool, out: &mut Outcome) {
        let node = self.config.cpu_node[cpu];
        let lat = self.config.latency;
        let has_l3 = self.l3[node].exists();
        let entry = *self.directory.entry(line);
        let far_l3_dirty = entry.l3_dirty != 0 && usize::from(entry.l3_dirty) != node + 1;
        if entry.owner != 0 && entry.dirty {
            let owner_node = self.config.cpu_node[usize::from(entry.owner) - 1];
            let near = owner_node == node;
            (out.level, out.cycles) = if near {
                (Level::CacheNear, lat.c2c_near)
            } else {
                (Level::CacheFar, lat.c2c_far)
            };
            let e = self.directory.entry(line);
            e.dirty = false;
            if !write {
                e.owner = 0;
                if near && has_l3 {
                    e.l3_dirty = node as u8 + 1;
                } else {
                    self.written_back(node, line, out);
                }
            }
        } else if far_l3_dirty {
            (out.level, out.cycles) = (Level::CacheFar, lat.c2c_far);
            self.directory.entry(line).l3_dirty = 0;
            if !write {
                self.written_back(node, line, out);
            }
        } else if self.l3[node].touch(line) {
            (out.level, out.cycles) = (Level::L3, lat.l3);
        } else {
            out.level = Level::Memory(home);
            out.cycles = self.config.memory_latency(node, home);
        }
        // Whoever had it exclusively but clean now shares it.
        self.directory.entry(line).owner = 0;
    }

    /// Puts the line into the CPU's caches and books what it displaces.
    fn fill(&mut self, cpu: usize, line: u32, port: Port, out: &mut Outcome) {
        let node = self.config.cpu_node[cpu];
        if self.l3[node].exists() && !self.l3[node].contains(line) {
            if let Some(victim) = self.l3[node].insert(line) {
                self.evict_l3(node, victim, out);
            }
            self.directory.entry(line).l3 |= 1 << node;
        }
        if let Some(victim) = self.cpus[cpu].l2.insert(line) {
            self.evict_l2(cpu, victim, out);
        }
        self.cpus[cpu].l1(port).insert(line);
        let entry = self.directory.entry(line);
        entry.sharers |= 1 << cpu;
        if entry.sharers == 1 << cpu && entry.l3 & !(1 << node) == 0 {
            entry.owner = cpu as u8 + 1;
        }
    }

    /// Makes the CPU, which holds the line, its owner with dirty data.
    fn own(&mut self, cpu: usize, line: u32, held: bool, out: &mut Outcome) {
        let node = self.config.cpu_node[cpu];
        let entry = *self.directory.entry(line);
        if usize::from(entry.owner) != cpu + 1 {
            let others = entry.sharers & !(1 << cpu);
            for other in bits(others) {
                self.cpus[other].drop_line(line);
                out.invalidated_far |= self.config.cpu_node[other] != node;
            }
            out.invalidated = others.count_ones();
            for other in bits(u64::from(entry.l3 & !(1 << node))) {
                self.l3[other].remove(line);
                out.invalidated_far = true;
            }
            let transferred = matches!(out.level, Level::CacheNear | Level::CacheFar);
            let copies = others != 0 || entry.l3 & !(1 << node) != 0;
            // A transfer of ownership invalidates on its way; a shared line needs a round of its own.
            if held || (copies && !transferred) {
                out.cycles += self.config.latency.upgrade;
            }
        }
        let entry = self.directory.entry(line);
        entry.sharers = 1 << cpu;
        entry.l3 &= 1 << node;
        entry.owner = cpu as u8 + 1;
        entry.dirty = true;
        entry.l3_dirty = 0;
    }

    fn evict_l2(&mut self, cpu: usize, victim: u32, out: &mut Outcome) {
        let node = self.config.cpu_node[cpu];
        self.cpus[cpu].l1i.remove(victim);
        self.cpus[cpu].l1d.remove(victim);
        let has_l3 = self.l3[node].exists();
        let entry = self.directory.entry(victim);
        entry.sharers &= !(1 << cpu);
        if usize::from(entry.owner) == cpu + 1 {
            entry.owner = 0;
            if std::mem::take(&mut entry.dirty) {
                if has_l3 {
                    entry.l3_dirty = node as u8 + 1;
                } else {
                    self.written_back(node, victim, out);
                }
            }
        }
    }

    fn evict_l3(&mut self, node: usize, victim: u32, out: &mut Outcome) {
        let entry = *self.directory.entry(victim);
        let mut kept = entry;
        for cpu in bits(entry.sharers) {
            if self.config.cpu_node[cpu] == node {
                self.cpus[cpu].drop_line(victim);
                kept.sharers &= !(1 << cpu);
            }
        }
        kept.l3 &= !(1 << node);
        let owned_here =
            entry.owner != 0 && self.config.cpu_node[usize::from(entry.owner) - 1] == node;
        let mut dirty = false;
        if owned_here {
            dirty |= std::mem::take(&mut kept.dirty);
            kept.owner = 0;
        }
        if usize::from(entry.l3_dirty) == node + 1 {
            dirty = true;
            kept.l3_dirty = 0;
        }
        *self.directory.entry(victim) = kept;
        if dirty {
            self.written_back(node, victim, out);
        }
    }

    fn written_back(&self, from: usize, line: u32, out: &mut Outcome) {
        if self.ram.node_of_line(line) == from {
            out.writebacks_local += 1;
        } else {
            out.writebacks_far += 1;
        }
    }
}

/// The positions of the set bits.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (set != 0).then(|| {
            let bit = set.trailing_zeros() as usize;
            set &= set - 1;
            bit
        })
    })
}

#[cfg(test)]
#[path = "coherence_tests.rs"]
mod tests;
