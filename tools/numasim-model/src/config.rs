//! The machine that is modelled, and the text that describes it.
//!
//! `cargo xtask sim` writes one line per fact, `key value...`, from the machine file; the plugin
//! parses it. Every key has to be present once (`distance` and `file` once per node), an unknown key
//! is an error: a configuration that is misread would give numbers that look right.

use crate::{MAX_CPUS, MAX_NODES};

/// How the memory hierarchy is modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caches {
    /// L1I, L1D, L2 per CPU, L3 per node, directory.
    On,
    /// As a machine with CR0.CD set: every access goes to memory.
    Off,
    /// Everything hits at no cost: counting only; a modelled cycle is an instruction.
    Ideal,
}

impl Caches {
    /// The name in configuration and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Caches::On => "on",
            Caches::Off => "off",
            Caches::Ideal => "ideal",
        }
    }
}

/// Size and associativity of a cache; size 0 means there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Geometry {
    /// Capacity in bytes.
    pub bytes: u64,
    /// Ways per set.
    pub ways: usize,
}

/// Size of a translation buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbGeometry {
    /// Entries for 4 KiB pages.
    pub entries: usize,
    /// Ways per set of the 4 KiB part.
    pub ways: usize,
    /// Entries for 2 MiB and 1 GiB pages, fully associative.
    pub large: usize,
}

/// Latencies in cycles. A hit costs the latency of the level that served it, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Load or store that hits the first level. Fetches that hit it are free (pipelined).
    pub l1: u64,
    /// Second level.
    pub l2: u64,
    /// Third level of the own node.
    pub l3: u64,
    /// DRAM of the own node. Another node's costs `memory * distance / 10`.
    pub memory: u64,
    /// A line taken from another CPU's cache on the same node.
    pub c2c_near: u64,
    /// A line taken from a cache on another node.
    pub c2c_far: u64,
    /// Making other copies of a line invalid before writing to it.
    pub upgrade: u64,
    /// From the write to the interrupt command register to the first instruction of the handler.
    pub ipi: u64,
    /// Access to a device register.
    pub io: u64,
}

/// Everything the model has to be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Hierarchy mode.
    pub caches: Option<Caches>,
    /// Node of each CPU, by the emulator's CPU index.
    pub cpu_node: Vec<usize>,
    /// Bytes of memory of each node, in the order in which the machine lays them out.
    pub memory: Vec<u64>,
    /// Where RAM stops below 4 GiB; what is left over continues at 4 GiB.
    pub lowmem: u64,
    /// The file that backs each node's memory (empty for a node without memory).
    pub files: Vec<String>,
    /// SLIT distances, `distance[from][to]`, 10 for the own node.
    pub distance: Vec<Vec<u64>>,
    /// Instruction cache of a CPU.
    pub l1i: Geometry,
    /// Data cache of a CPU.
    pub l1d: Geometry,
    /// Second-level cache of a CPU, holds what the first level holds.
    pub l2: Geometry,
    /// Third-level cache of a node, holds what its CPUs hold.
    pub l3: Geometry,
    /// Instruction translation buffer.
    pub itlb: TlbGeometry,
    /// Data translation buffer.
    pub dtlb: TlbGeometry,
    /// Entries of the paging-structure cache (last-level table addresses); 0 for none.
    pub walk_cache: usize,
    /// Latencies.
    pub latency: Latency,
    /// Largest lead, in cycles, of one runnable CPU over another before it has to let others run.
    pub quantum: u64,
    /// Where to write results.
    pub out: String,
    /// Whether to record which code touches which remote line.
    pub trace_remote: bool,
}

impl Config {
    /// Parses the text form. The error names the line.
    ///
    /// # Errors
    /// An unknown, repeated or missing key; a malformed number; sizes that do not fit together.
    pub fn parse(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        let mut seen: Vec<String> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let key = words.next().unwrap_or_default();
            let values: Vec<&str> = words.collect();
            let once = if matches!(key, "distance" | "file" | "latency") {
                format!("{key} {}", values.first().unwrap_or(&""))
            } else {
                key.to_string()
            };
            if seen.contains(&once) {
                return Err(format!("line {}: `{once}` given twice", number + 1));
            }
            seen.push(once);
            config.set(key, &values).map_err(|e| format!("line {}: {e}", number + 1))?;
        }
        for key in KEYS {
            if !seen.iter().any(|s| s == key) {
                return Err(format!("`{key}` is missing"));
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Cycles from a CPU on node `from` to memory of node `to`.
    #[must_use]
    pub fn memory_latency(&self, from: usize, to: usize) -> u64 {
        self.latency.memory * self.distance[from][to] / 10
    }

    /// The hierarchy mode (a parsed configuration always has one).
    #[must_use]
    pub fn mode(&self) -> Caches {
        self.caches.unwrap_or(Caches::On)
    }

    fn set(&mut self, key: &str, v: &[&str]) -> Result<(), String> {
        match key {
            "caches" => {
                self.caches = Some(match v {
                    ["on"] => Caches::On,
                    ["off"] => Caches::Off,
                    ["ideal"] => Caches::Ideal,
                    _ => return Err("caches is on, off or ideal".into()),
                });
            }
            "cpu_node" => self.cpu_node = numbers(v)?,
            "memory" => self.memory = numbers(v)?,
            "lowmem" => self.lowmem = one(v)?,
            "file" => {
                let [node, path] = v else { return Err("file NODE PATH".into()) };
                let node: usize = number(node)?;
                if node >= MAX_NODES {
                    return Err(format!("node {node} is too large"));
                }
                if self.files.len() <= node {
                    self.files.resize(node + 1, String::new());
                }
                self.files[node] = (*path).to_string();
            }
            "distance" => {
                let row: Vec<u64> = numbers(v)?;
                let (from, row) = row.split_first().ok_or("distance FROM VALUES")?;
                if *from != self.distance.len() as u64 {
                    return Err("distance rows have to come in order".into());
                }
                self.distance.push(row.to_vec());
            }
            "l1i" => self.l1i = geometry(v)?,
            "l1d" => self.l1d = geometry(v)?,
            "l2" => self.l2 = geometry(v)?,
            "l3" => self.l3 = geometry(v)?,
            "itlb" => self.itlb = tlb_geometry(v)?,
            "dtlb" => self.dtlb = tlb_geometry(v)?,
            "walk_cache" => self.walk_cache = one(v)?,
            "latency" => self.latency.set(v)?,
            "quantum" => self.quantum = one(v)?,
            "out" => self.out = v.join(" "),
            "trace_remote" => self.trace_remote = one::<u64>(v)? != 0,
            _ => return Err(format!("unknown key `{key}`")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let nodes = self.memory.len();
        if nodes == 0 || nodes > MAX_NODES {
            return Err(format!("{nodes} nodes: 1 to {MAX_NODES} can be modelled"));
        }
        if self.cpu_node.is_empty() || self.cpu_node.len() > MAX_CPUS {
            return Err(format!("{} CPUs: 1 to {MAX_CPUS} can be modelled", self.cpu_node.len()));
        }
        if self.cpu_node.iter().any(|&n| n >= nodes) {
            return Err("a CPU is on a node that does not exist".into());
        }
        if self.distance.len() != nodes || self.distance.iter().any(|row| row.len() != nodes) {
            return Err("the distance matrix has another size than the machine".into());
        }
        if self.quantum == 0 {
            return Err("a quantum of 0 would never let another CPU run".into());
        }
        if self.memory.iter().any(|m| !m.is_multiple_of(4096)) || !self.lowmem.is_multiple_of(4096)
        {
            return Err("memory sizes have to be multiples of a page".into());
        }
        for g in [self.l1i, self.l1d, self.l2] {
            if g.bytes == 0 {
                return Err("l1i, l1d and l2 cannot be absent".into());
            }
        }
        Ok(())
    }
}

/// Keys that have to be present (besides one `distance` row per node and the `latency` rows).
const KEYS: &[&str] = &[
    "caches",
    "cpu_node",
    "memory",
    "lowmem",
    "l1i",
    "l1d",
    "l2",
    "l3",
    "itlb",
    "dtlb",
    "walk_cache",
    "quantum",
    "out",
    "trace_remote",
    "latency l1",
    "latency l2",
    "latency l3",
    "latency memory",
    "latency c2c_near",
    "latency c2c_far",
    "latency upgrade",
    "latency ipi",
    "latency io",
];

impl Latency {
    fn set(&mut self, v: &[&str]) -> Result<(), String> {
        let [name, value] = v else { return Err("latency NAME CYCLES".into()) };
        let field = match *name {
            "l1" => &mut self.l1,
            "l2" => &mut self.l2,
            "l3" => &mut self.l3,
            "memory" => &mut self.memory,
            "c2c_near" => &mut self.c2c_near,
            "c2c_far" => &mut self.c2c_far,
            "upgrade" => &mut self.upgrade,
            "ipi" => &mut self.ipi,
            "io" => &mut self.io,
            _ => return Err(format!("unknown latency `{name}`")),
        };
        *field = number(value)?;
        Ok(())
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is not a number here"))
}

fn numbers<T: std::str::FromStr>(v: &[&str]) -> Result<Vec<T>, String> {
    v.iter().map(|w| number(w)).collect()
}

fn one<T: std::str::FromStr>(v: &[&str]) -> Result<T, String> {
    let [word] = v else { return Err("one number expected".into()) };
    number(word)
}

fn geometry(v: &[&str]) -> Result<Geometry, String> {
    let [bytes, ways] = v else { return Err("BYTES WAYS expected".into()) };
    let g = Geometry { bytes: number(bytes)?, ways: number(ways)? };
    if g.bytes == 0 {
        return Ok(Geometry::default());
    }
    let set = crate::LINE * g.ways as u64;
    if g.ways == 0 || !g.bytes.is_multiple_of(set) || !(g.bytes / set).is_power_of_two() {
        return Err(format!("{bytes} bytes in {ways} ways is no power of two of sets"));
    }
    Ok(g)
}

fn tlb_geometry(v: &[&str]) -> Result<TlbGeometry, String> {
    let [entries, ways, large] = v else { return Err("ENTRIES WAYS LARGE expected".into()) };
    let g = TlbGeometry { entries: number(entries)?, ways: number(ways)?, large: number(large)? };
    if g.ways == 0 || !g.entries.is_multiple_of(g.ways) || !(g.entries / g.ways).is_power_of_two() {
        return Err(format!("{entries} entries in {ways} ways is no power of two of sets"));
    }
    if g.large == 0 {
        return Err("a TLB needs an entry for large pages".into());
    }
    Ok(g)
}

/// A small two-node machine for the tests of this crate.
#[cfg(test)]
pub(crate) const TEST_MACHINE: &str = "\
caches on
cpu_node 0 0 1 1
memory 67108864 67108864
lowmem 2952790016
file 0 /dev/shm/a
file 1 /dev/shm/b
distance 0 10 14
distance 1 14 10
l1i 32768 8
l1d 32768 8
l2 262144 8
l3 2097152 16
itlb 512 4 8
dtlb 512 4 8
walk_cache 24
latency l1 4
latency l2 14
latency l3 40
latency memory 200
latency c2c_near 120
latency c2c_far 300
latency upgrade 40
latency ipi 1000
latency io 300
quantum 1000
out /tmp/x
trace_remote 0
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_parses() {
        let c = Config::parse(TEST_MACHINE).expect("parses");
        assert_eq!(c.mode(), Caches::On);
        assert_eq!(c.cpu_node, [0, 0, 1, 1]);
        assert_eq!(c.memory_latency(0, 0), 200);
        assert_eq!(c.memory_latency(1, 0), 280);
        assert_eq!(c.l3, Geometry { bytes: 2 << 20, ways: 16 });
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let bad = |from: &str, to: &str| {
            assert!(TEST_MACHINE.contains(from), "{from}");
            Config::parse(&TEST_MACHINE.replace(from, to)).expect_err(to)
        };
        assert!(bad("quantum 1000", "").contains("missing"));
        assert!(bad("quantum 1000", "quantum 0").contains("never"));
        assert!(bad("quantum 1000", "quantums 1").contains("unknown key"));
        assert!(bad("latency ipi 1000\n", "").contains("latency ipi"));
        assert!(bad("quantum 1000", "quantum 1\nquantum 1").contains("twice"));
        assert!(bad("cpu_node 0 0 1 1", "cpu_node 0 0 2 1").contains("does not exist"));
        assert!(bad("distance 1 14 10", "").contains("another size"));
        assert!(bad("l2 262144 8", "l2 262145 8").contains("power of two"));
        assert!(bad("caches on", "caches maybe").contains("on, off or ideal"));
    }
}
