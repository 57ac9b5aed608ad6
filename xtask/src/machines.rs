//! Machine shapes: the files in `xtask/machines/` and machines made up on the command line.

use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::{fs, path::PathBuf};

/// Name of the machine that is used where none is asked for.
pub const DEFAULT: &str = "2n4c";

/// A machine shape, checked: node ids are indices, every CPU belongs to exactly one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// File name without `.toml`, or a name made from the numbers given.
    pub name: String,
    /// One line for `--help` and error messages.
    pub about: String,
    /// Whether the firmware describes the nodes at all.
    pub numa: bool,
    /// Nodes in order of their ids.
    pub nodes: Vec<Node>,
    /// SLIT distances, `[from][to]`; empty if the firmware is to say nothing.
    pub distances: Vec<Vec<u8>>,
    /// CPU sockets; the emulator leaves gaps in the APIC ids if a socket's CPUs are no power of two.
    pub sockets: Option<u32>,
    /// Directory for files that back the nodes' memory (`m0`, `m1`...), where something reads them.
    pub memory_files: Option<PathBuf>,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// MiB of memory; may be 0.
    pub memory_mib: u64,
    /// CPU numbers, in the order given; may be empty.
    pub cpus: Vec<u32>,
}

/// What a machine file holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineFile {
    about: String,
    #[serde(default = "yes")]
    numa: bool,
    node: Vec<NodeFile>,
    /// Distance between any two nodes.
    distance: Option<u8>,
    /// The whole matrix; wins over `distance`.
    distances: Option<Vec<Vec<u8>>>,
    sockets: Option<u32>,
    /// Timing model of the placement instrument, which reads it by itself.
    #[serde(rename = "sim")]
    _sim: Option<toml::Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    memory: String,
    cpus: String,
}

fn yes() -> bool {
    true
}

impl Machine {
    /// Reads `xtask/machines/NAME.toml`.
    pub fn load(name: &str) -> Result<Self> {
        let file = directory().join(format!("{name}.toml"));
        let Ok(text) = fs::read_to_string(&file) else {
            bail!("no machine named '{name}'; there are {}", known().join(", "));
        };
        Self::parse(name, &text).with_context(|| format!("{} is wrong", file.display()))
    }

    /// Takes apart the text of a machine file.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let file: MachineFile =
            toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", crate::toml_error(text, &e)))?;
        let mut nodes = Vec::new();
        for node in &file.node {
            let memory_mib = parse_mib(&node.memory)?;
            nodes.push(Node { memory_mib, cpus: parse_cpus(&node.cpus)? });
        }
        let distances = match (file.distances, file.distance) {
            (Some(matrix), _) => matrix,
            (None, Some(remote)) => uniform(nodes.len(), remote),
            (None, None) => Vec::new(),
        };
        let machine = Self {
            name: name.to_string(),
            about: file.about,
            numa: file.numa,
            nodes,
            distances,
            sockets: file.sockets,
            memory_files: None,
        };
        machine.check()?;
        Ok(machine)
    }

    /// A machine of `nodes` nodes with `cpus` CPUs dealt out evenly, the first nodes getting one more.
    pub fn regular(nodes: u32, cpus: u32, memory_mib: u64, distance: u8) -> Result<Self> {
        ensure!(
            nodes > 0 && cpus > 0,
            "a machine needs a node and a CPU: --nodes and --cpus count"
        );
        let (each, more) = (cpus / nodes, cpus % nodes);
        let mut next = 0;
        let mut list = Vec::new();
        for node in 0..nodes {
            let here = each + u32::from(node < more);
            list.push(Node { memory_mib, cpus: (next..next + here).collect() });
            next += here;
        }
        let distances = if nodes > 1 { uniform(nodes as usize, distance) } else { Vec::new() };
        let machine = Self {
            name: format!("{nodes}n{cpus}c-{memory_mib}M-{distance}"),
            about: "made up on the command line".into(),
            numa: true,
            nodes: list,
            distances,
            sockets: None,
            memory_files: None,
        };
        machine.check()?;
        Ok(machine)
    }

    /// Number of CPUs.
    pub fn cpu_count(&self) -> u32 {
        self.nodes.iter().map(|node| node.cpus.len() as u32).sum()
    }

    /// Memory of all nodes in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.nodes.iter().map(|node| node.memory_mib).sum()
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.nodes.is_empty() && self.nodes.len() <= 64, "a machine has 1 to 64 nodes");
        let mut cpus: Vec<u32> = self.nodes.iter().flat_map(|node| node.cpus.clone()).collect();
        cpus.sort_unstable();
        ensure!(!cpus.is_empty() && cpus.len() <= 256, "a machine has 1 to 256 CPUs");
        ensure!(
            cpus.iter().zip(0..).all(|(cpu, index)| *cpu == index),
            "CPUs must be numbered from 0 without gaps, each on one node; found {cpus:?}"
        );
        ensure!(self.memory_mib() >= 32, "a machine needs 32M of memory or more");
        ensure!(
            self.numa || self.nodes.len() == 1,
            "with numa = false all CPUs and memory belong to one [[node]]"
        );
        if let Some(sockets) = self.sockets {
            let whole = sockets > 0 && self.cpu_count().is_multiple_of(sockets);
            ensure!(whole, "{} CPUs do not fill {sockets} sockets evenly", self.cpu_count());
        }
        self.check_distances()
    }

    fn check_distances(&self) -> Result<()> {
        if self.distances.is_empty() {
            return Ok(());
        }
        let n = self.nodes.len();
        ensure!(
            self.distances.len() == n && self.distances.iter().all(|row| row.len() == n),
            "distances must be a matrix of {n} rows with {n} numbers"
        );
        for (from, row) in self.distances.iter().enumerate() {
            for (to, distance) in row.iter().enumerate() {
                let fits = if from == to { *distance == 10 } else { *distance > 10 };
                ensure!(
                    fits,
                    "distance {from}->{to} is {distance}; a node is 10 from itself, others are 11 to 255"
                );
            }
        }
        Ok(())
    }
}

/// The directory with the machine files.
pub fn directory() -> PathBuf {
    paths::root().join("xtask/machines")
}

/// Names of all machine files, sorted.
pub fn known() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".toml")?.to_string())
        })
        .collect();
    names.sort();
    names
}

fn uniform(nodes: usize, remote: u8) -> Vec<Vec<u8>> {
    (0..nodes)
        .map(|from| (0..nodes).map(|to| if from == to { 10 } else { remote }).collect())
        .collect()
}

/// `256M`, `1G`, `0` to MiB.
pub fn parse_mib(text: &str) -> Result<u64> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024),
        _ if text == "0" => (text, 1),
        _ => bail!("'{text}' is no memory size; write 256M or 2G"),
    };
    let number: u64 =
        digits.parse().with_context(|| format!("'{text}' is no memory size; write 256M or 2G"))?;
    number.checked_mul(factor).context("memory size out of range")
}

/// `0-2,5` to numbers.
fn parse_cpus(text: &str) -> Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number =
            |t: &str| t.trim().parse::<u32>().with_context(|| format!("bad CPU list '{text}'"));
        let (first, last) = (number(first)?, number(last)?);
        ensure!(first <= last && last < 256, "bad CPU list '{text}'");
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_file_is_right() {
        let names = known();
        assert!(names.iter().any(|name| name == DEFAULT), "{names:?}");
        for name in names {
            let machine = Machine::load(&name).unwrap();
            assert!(machine.cpu_count() > 0 && !machine.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn names_tell_the_numbers() {
        for name in known().iter().filter(|name| !name.starts_with("odd-")) {
            let machine = Machine::load(name).unwrap();
            assert_eq!(*name, format!("{}n{}c", machine.nodes.len(), machine.cpu_count()));
        }
    }

    #[test]
    fn nonsense_lists_what_there_is() {
        let error = Machine::load("nonsense").unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains("2n4c"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn regular_machines_deal_out_all_cpus() {
        let machine = Machine::regular(3, 7, 64, 30).unwrap();
        let counts: Vec<_> = machine.nodes.iter().map(|node| node.cpus.len()).collect();
        assert_eq!(counts, [3, 2, 2]);
        assert_eq!(machine.distances[0], [10, 30, 30]);
        assert!(Machine::regular(0, 1, 64, 20).is_err());
        assert!(Machine::regular(2, 300, 64, 20).is_err());
        assert!(Machine::regular(2, 2, 64, 10).is_err());
    }

    #[test]
    fn wrong_files_are_refused() {
        let with = |rest: &str| Machine::parse("m", &format!("about = \"x\"\n{rest}"));
        assert!(with("[[node]]\nmemory = \"64M\"\ncpus = \"0\"").is_ok());
        assert!(with("[[node]]\nmemory = \"64M\"\ncpus = \"0,2\"").is_err());
        assert!(with("[[node]]\nmemory = \"64M\"\ncpus = \"0,0\"").is_err());
        assert!(with("[[node]]\nmemory = \"64\"\ncpus = \"0\"").is_err());
        assert!(with("typo = 1\n[[node]]\nmemory = \"64M\"\ncpus = \"0\"").is_err());
        assert!(with("distances = [[10, 20]]\n[[node]]\nmemory = \"64M\"\ncpus = \"0\"").is_err());
        assert!(with("sockets = 2\n[[node]]\nmemory = \"64M\"\ncpus = \"0-2\"").is_err());
    }

    #[test]
    fn sizes_and_lists() {
        assert_eq!(parse_mib("3G").unwrap(), 3072);
        assert!(parse_mib("").is_err() && parse_mib("M").is_err() && parse_mib("12").is_err());
        assert_eq!(parse_cpus("0-2, 5").unwrap(), [0, 1, 2, 5]);
        assert!(parse_cpus("2-0").is_err() && parse_cpus("a").is_err());
    }
}
