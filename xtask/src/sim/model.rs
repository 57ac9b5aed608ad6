//! The `[sim]` table of a machine file, and the description that the plugin reads.

use super::caches_name;
use crate::{cli::SimArgs, machines::Machine};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{fmt::Write, path::Path};

/// Timing model of a machine; what a file leaves out is as here.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Caches: size/ways, or `none` for the L3.
    l1i: String,
    l1d: String,
    l2: String,
    l3: String,
    /// TLBs: entries/ways/entries for large pages.
    itlb: String,
    dtlb: String,
    /// Entries of the paging-structure cache.
    walk_cache: u64,
    /// Latencies in cycles, as `docs/design/instrument.md` defines them.
    l1_latency: u64,
    l2_latency: u64,
    l3_latency: u64,
    memory: u64,
    cache_to_cache_near: u64,
    cache_to_cache_far: u64,
    upgrade: u64,
    interrupt: u64,
    device: u64,
    /// Latency of other nodes' memory over the own; without it distances say it.
    remote: Option<f64>,
    /// Largest lead of one modelled clock over another.
    quantum: u64,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            l1i: "32K/8".into(),
            l1d: "32K/8".into(),
            l2: "1M/16".into(),
            l3: "16M/16".into(),
            itlb: "512/4/8".into(),
            dtlb: "512/4/32".into(),
            walk_cache: 24,
            l1_latency: 4,
            l2_latency: 14,
            l3_latency: 40,
            memory: 200,
            cache_to_cache_near: 120,
            cache_to_cache_far: 300,
            upgrade: 40,
            interrupt: 1000,
            device: 300,
            remote: None,
            quantum: 1000,
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    sim: Model,
}

impl Model {
    /// The model of a machine.
    pub fn load(machine: &Machine) -> Result<Model> {
        match super::machine_text(machine) {
            Some(text) => Self::parse(&text)
                .with_context(|| format!("the [sim] table of machine {}", machine.name)),
            None => Ok(Model::default()),
        }
    }

    fn parse(text: &str) -> Result<Model> {
        let file: File =
            toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", crate::toml_error(text, &e)))?;
        Ok(file.sim)
    }

    /// The description of `machine` for the plugin; memory files lie in `files`, results go to `out`.
    pub fn describe(
        &self,
        machine: &Machine,
        files: &Path,
        out: &Path,
        args: &SimArgs,
    ) -> Result<String> {
        let mut text = String::new();
        let mut line = |key: &str, values: &[String]| {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{key} {}", values.join(" "));
        };
        line("caches", &[caches_name(args.caches).into()]);
        let node_of = |cpu: u32| machine.nodes.iter().position(|n| n.cpus.contains(&cpu));
        let nodes: Vec<String> =
            (0..machine.cpu_count()).filter_map(node_of).map(|n| n.to_string()).collect();
        line("cpu_node", &nodes);
        let bytes: Vec<u64> = machine.nodes.iter().map(|n| n.memory_mib << 20).collect();
        line("memory", &strings(&bytes));
        line("lowmem", &[lowmem(bytes.iter().sum()).to_string()]);
        for (node, _) in bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
            let file = files.join(format!("m{node}"));
            line("file", &[node.to_string(), file.display().to_string()]);
        }
        for (from, row) in self.distances(machine)?.iter().enumerate() {
            line("distance", &[vec![from.to_string()], strings(row)].concat());
        }
        for (key, text) in [("l1i", &self.l1i), ("l1d", &self.l1d), ("l2", &self.l2)] {
            line(key, &strings(&cache(text)?));
        }
        let l3 = if self.l3 == "none" { vec![0, 0] } else { cache(&self.l3)? };
        line("l3", &strings(&l3));
        line("itlb", &strings(&sizes(&self.itlb, 3)?));
        line("dtlb", &strings(&sizes(&self.dtlb, 3)?));
        line("walk_cache", &[self.walk_cache.to_string()]);
        for (name, cycles) in [
            ("l1", self.l1_latency),
            ("l2", self.l2_latency),
            ("l3", self.l3_latency),
            ("memory", self.memory),
            ("c2c_near", self.cache_to_cache_near),
            ("c2c_far", self.cache_to_cache_far),
            ("upgrade", self.upgrade),
            ("ipi", self.interrupt),
            ("io", self.device),
        ] {
            line("latency", &[name.into(), cycles.to_string()]);
        }
        line("quantum", &[args.quantum.unwrap_or(self.quantum).to_string()]);
        line("trace_remote", &[u8::from(args.remote || args.demand_local.is_some()).to_string()]);
        line("out", &[out.display().to_string()]);
        Ok(text)
    }

    /// Latency ratios, times ten: the machine's distances, or the model's own ratio.
    fn distances(&self, machine: &Machine) -> Result<Vec<Vec<u64>>> {
        let n = machine.nodes.len();
        if let Some(ratio) = self.remote {
            ensure!((1.0..=25.0).contains(&ratio), "remote = {ratio} is no ratio of latencies");
            // At most 250.
            let far = (ratio * 10.0).round() as u64;
            let row = |from| (0..n).map(|to| if from == to { 10 } else { far }).collect();
            return Ok((0..n).map(row).collect());
        }
        if machine.distances.is_empty() {
            // What the emulator's firmware tables say by default.
            let row = |from| (0..n).map(|to| if from == to { 10 } else { 20 }).collect();
            return Ok((0..n).map(row).collect());
        }
        let row = |row: &Vec<u8>| row.iter().map(|d| u64::from(*d)).collect();
        Ok(machine.distances.iter().map(row).collect())
    }
}

/// Where the emulated board's RAM stops below 4 GiB: it leaves 2 GiB for devices if there is enough to
/// put above, else 1.25 GiB (QEMU's hw/i386/pc_q35.c).
fn lowmem(total: u64) -> u64 {
    const SMALL: u64 = 0xB000_0000;
    if total >= SMALL { 0x8000_0000 } else { SMALL }
}

fn strings(numbers: &[u64]) -> Vec<String> {
    numbers.iter().map(u64::to_string).collect()
}

/// `64K/2` to bytes and ways.
fn cache(text: &str) -> Result<Vec<u64>> {
    sizes(text, 2)
}

fn sizes(text: &str, count: usize) -> Result<Vec<u64>> {
    let number = |word: &str| {
        let (digits, factor) = match word.as_bytes().last() {
            Some(b'K') => (&word[..word.len() - 1], 1 << 10),
            Some(b'M') => (&word[..word.len() - 1], 1 << 20),
            _ => (word, 1),
        };
        digits.parse::<u64>().map(|n| n * factor)
    };
    let numbers: Result<Vec<u64>, _> = text.split('/').map(number).collect();
    let numbers = numbers.with_context(|| format!("'{text}' is no size; write 64K/2"))?;
    ensure!(numbers.len() == count, "'{text}' has {} numbers, not {count}", numbers.len());
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::SimCaches, machines};

    fn args() -> SimArgs {
        SimArgs {
            name: "x".into(),
            machine: "2n2c".into(),
            caches: SimCaches::Off,
            json: None,
            append: String::new(),
            remote: false,
            demand_local: None,
            console: false,
            quantum: None,
            timeout: 1,
        }
    }

    #[test]
    fn every_machine_has_a_model_that_the_plugin_reads() {
        for name in machines::known() {
            let machine = Machine::load(&name).unwrap();
            let model = Model::load(&machine).unwrap();
            let text =
                model.describe(&machine, Path::new("/d"), Path::new("/d/out"), &args()).unwrap();
            let config = numasim_model::config::Config::parse(&text)
                .unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
            assert_eq!(config.cpu_node.len(), machine.cpu_count() as usize, "{name}");
            assert_eq!(config.memory.iter().sum::<u64>(), machine.memory_mib() << 20);
            assert_eq!(config.files.last().map(String::is_empty), Some(false), "{name}");
        }
    }

    #[test]
    fn the_ratio_wins_over_distances() {
        let machine = Machine::load("2n2c").unwrap();
        let model = Model::parse("[sim]\nremote = 1.4").unwrap();
        assert_eq!(model.distances(&machine).unwrap(), [[10, 14], [14, 10]]);
        assert_eq!(Model::default().distances(&machine).unwrap(), [[10, 20], [20, 10]]);
        assert!(Model::parse("[sim]\nremote = 0.4").unwrap().distances(&machine).is_err());
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(Model::parse("[sim]\nl4 = \"1M/2\"").is_err());
        assert_eq!(sizes("64K/2", 2).unwrap(), [65536, 2]);
        assert!(sizes("64K", 2).is_err() && sizes("64X/2", 2).is_err());
    }
}
