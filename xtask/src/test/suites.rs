//! The table of guest suites, `xtask/suites*.toml`.

use crate::{
    cli::{Boot, SimCaches, Whose},
    guest::Profile,
    machines, paths,
};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{collections::BTreeSet, fs, path::PathBuf};

/// A guest suite: what is booted where, and what must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Name on the command line.
    pub name: String,
    /// One line about it.
    pub about: String,
    /// Machines; empty means all there are.
    #[serde(default)]
    pub machines: Vec<String>,
    /// Kernel options.
    #[serde(default)]
    pub append: String,
    /// Manifest below `xtask/manifests/`, without ending; `default` without.
    pub manifest: Option<String>,
    /// Guest program in the root task's place, instead of the manifest's.
    pub roottask: Option<PathBuf>,
    /// A stress test: its program takes `--seconds` and `--seed`.
    #[serde(default)]
    pub stress: bool,
    /// How the guest is built: `release` without, `debug` with the kernel debugger, `traced`.
    #[serde(default)]
    pub profile: Profile,
    /// File in `xtask/input/`, without ending, whose lines are typed at the guest.
    pub input: Option<String>,
    /// Ways to boot; only `direct` without.
    #[serde(default)]
    pub boot: Vec<BootPath>,
    /// Seconds.
    pub timeout: f64,
    /// Seconds from the emulator's start to the boot record, at most.
    pub boot_within: Option<f64>,
    /// How the guest must end.
    #[serde(default)]
    pub expect: Expect,
    /// Texts that the console must show.
    #[serde(default)]
    pub prints: Vec<String>,
    /// The guest prints `test` records; none is a failure.
    #[serde(default)]
    pub tests: bool,
    /// Checks that xtask makes on the records.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// Run in the placement instrument, caches off: no region of interest may make a remote access.
    pub demand_local: Option<Whose>,
    /// Run in the placement instrument, with caches like this, two times: all records must be the same.
    pub twice: Option<SimCaches>,
}

impl Suite {
    /// Whether it runs in the placement instrument.
    pub const fn is_measured(&self) -> bool {
        self.demand_local.is_some() || self.twice.is_some()
    }
}

/// How to boot, as written in the table.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BootPath {
    /// `--boot direct`
    Direct,
    /// `--boot bios`
    Bios,
    /// `--boot uefi`
    Uefi,
}

impl BootPath {
    /// The same for `run`.
    pub fn boot(self) -> Boot {
        match self {
            Self::Direct => Boot::Direct,
            Self::Bios => Boot::Bios,
            Self::Uefi => Boot::Uefi,
        }
    }
}

/// How a guest is to end.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// With the code for success.
    #[default]
    Success,
    /// With a kernel panic.
    Panic,
    /// With any code that is not success.
    Failure,
}

/// Checks on records that need what only xtask knows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The `boot` record describes the machine that was asked for.
    Topology,
    /// Everything in the `boot` record lies on its own node.
    Local,
    /// All nodes share one kernel text.
    SharedText,
    /// The `placement` records say that nothing is on another node than it should be.
    Placement,
    /// They say that everything is: the kernel expects it there.
    PlacementBlind,
    /// They say that control blocks are, and nothing else.
    TcbsStay,
    /// The `clock` record says what is true of the emulator's clocks, or what was made up.
    Clocks,
    /// The guest printed a trace in which a message to another CPU can be followed from the send by the interrupt to
    /// the waking of the receiver.
    Trace,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    suite: Vec<Suite>,
}

/// The table is in several files, each a continuation of the one before.
const FILES: [&str; 3] = ["suites.toml", "suites-conformance.toml", "suites-tools.toml"];

/// Reads the table.
pub fn load() -> Result<Vec<Suite>> {
    let read = |file: &str| {
        let path = paths::root().join("xtask").join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let text = FILES.into_iter().map(read).collect::<Result<Vec<_>>>()?.concat();
    parse(&text).with_context(|| FILES.join(", "))
}

fn parse(text: &str) -> Result<Vec<Suite>> {
    let table: Table =
        toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", crate::toml_error(text, &e)))?;
    let known = machines::known();
    let mut names = BTreeSet::new();
    for suite in &table.suite {
        let name = &suite.name;
        ensure!(names.insert(name.clone()), "two suites are named '{name}'");
        ensure!(name != "host" && name != "guest", "'{name}' is no name for a suite");
        ensure!(suite.timeout > 0.0, "suite '{name}' needs a timeout");
        let unknown = suite.machines.iter().find(|machine| !known.contains(machine));
        ensure!(unknown.is_none(), "suite '{name}' names the unknown machine {unknown:?}");
        if suite.manifest.is_some() {
            let file = suite.manifest_path();
            ensure!(file.is_some_and(|file| file.exists()), "suite '{name}': no such manifest");
        }
        let input = suite.input_path();
        ensure!(input.is_none_or(|file| file.exists()), "suite '{name}': no such input");
    }
    Ok(table.suite)
}

impl Suite {
    /// Lets a stress suite run for so many seconds and with this seed; others stay as they are.
    pub fn set_stress(&mut self, seconds: Option<u32>, seed: Option<u64>) {
        let seconds = seconds.filter(|_| self.stress);
        let seed = seed.filter(|_| self.stress);
        if seconds.is_none() && seed.is_none() {
            return;
        }
        self.append.push_str(" --");
        if let Some(seconds) = seconds {
            self.append.push_str(&format!(" seconds={seconds}"));
            // The emulated clock may be slower than the host's.
            self.timeout += 2.0 * f64::from(seconds);
        }
        if let Some(seed) = seed {
            self.append.push_str(&format!(" seed={seed:#x}"));
        }
    }

    /// The kernel option `clock_skew`.
    pub fn clock_skew_us(&self) -> u64 {
        let words = self.append.split_ascii_whitespace();
        words
            .filter_map(|word| word.strip_prefix("clock_skew=")?.parse().ok())
            .next_back()
            .unwrap_or(0)
    }

    /// Names of the machines it runs on.
    pub fn machine_names(&self) -> Vec<String> {
        if self.machines.is_empty() { machines::known() } else { self.machines.clone() }
    }

    /// The ways in which it boots.
    pub fn boot_paths(&self) -> Vec<BootPath> {
        if self.boot.is_empty() { vec![BootPath::Direct] } else { self.boot.clone() }
    }

    /// What is typed at the guest.
    pub fn input_path(&self) -> Option<PathBuf> {
        let name = self.input.as_ref()?;
        Some(paths::root().join(format!("xtask/input/{name}.txt")))
    }

    /// The manifest file, if it is not the default one.
    pub fn manifest_path(&self) -> Option<PathBuf> {
        let name = self.manifest.as_ref()?;
        Some(paths::root().join(format!("xtask/manifests/{name}.toml")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_right() {
        assert!(!load().unwrap().is_empty());
    }

    #[test]
    fn stress_suites_take_seconds_and_a_seed() {
        let text = "[[suite]]\nname = \"a\"\nabout = \"x\"\ntimeout = 1\nstress = true\nappend = \"b=c\"\n";
        let mut suite = parse(text).unwrap().remove(0);
        suite.set_stress(None, None);
        assert_eq!(suite.append, "b=c");
        suite.set_stress(Some(60), Some(7));
        assert_eq!(suite.append, "b=c -- seconds=60 seed=0x7");
        assert!(suite.timeout > 60.0);
        let mut other = parse(&text.replace("stress = true", "")).unwrap().remove(0);
        other.set_stress(Some(60), None);
        assert_eq!(other.append, "b=c");
    }

    #[test]
    fn mistakes_are_named() {
        let suite = "[[suite]]\nname = \"a\"\nabout = \"x\"\ntimeout = 1\n";
        assert!(parse(suite).is_ok());
        for (text, word) in [
            (format!("{suite}{suite}"), "two suites"),
            (format!("{suite}machines = [\"9n\"]\n"), "9n"),
            (format!("{suite}manifest = \"gone\"\n"), "no such manifest"),
            (format!("{suite}expct = \"panic\"\n"), "expct"),
            (suite.replace("= 1", "= 0"), "timeout"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
