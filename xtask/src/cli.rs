//! The command line. The help texts are the first thing a newcomer reads: keep them teaching.

use crate::{guest::Profile, machines};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Lokal: an L4 microkernel for NUMA machines. This is the only door to it.
///
/// First time here? `cargo xtask run --append exit=boot` builds everything, boots the default
/// machine (two nodes, four CPUs) and leaves. Without `--append` you get the guest's console;
/// Ctrl-A x leaves the emulator. What is missing on this host is installed, or you are told how.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Task,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Build the guest and pack the boot archive
    Build(ProfileArgs),
    /// Boot a machine and show its console (Ctrl-A x leaves)
    Run(Box<RunArgs>),
    /// Run the tests: on the host, then in guests on every machine shape
    Test(TestArgs),
    /// Run experiments and collect their results
    Bench(BenchArgs),
    /// Run one program in the placement instrument
    Sim(SimArgs),
    /// Make the report with its plots from results
    Report(ReportArgs),
    /// Make a disk image that boots on real machines
    Image(ImageArgs),
    /// Check formatting, lints, the house rules, and what the documents name
    Check,
    /// Tell what is missing on this host, and install it on request
    Doctor(DoctorArgs),
}

impl Task {
    /// Files that the user names to be written, if there are any, and the manifest that is to be read.
    pub fn named_files(&self) -> (Vec<&Path>, Option<&Path>) {
        let (outputs, manifest) = match self {
            Self::Run(args) => ([&args.json, &args.trace], &args.manifest),
            Self::Test(args) => ([&args.json, &None], &None),
            Self::Bench(args) => ([&args.json, &None], &None),
            Self::Sim(args) => ([&args.json, &None], &None),
            Self::Image(args) => ([&args.output, &None], &args.manifest),
            _ => ([&None, &None], &None),
        };
        (outputs.into_iter().flatten().map(PathBuf::as_path).collect(), manifest.as_deref())
    }
}

/// Which build.
#[derive(Args, Clone, Copy, Debug)]
pub struct ProfileArgs {
    /// Optimised build, the default: what is measured and tested
    #[arg(long, conflicts_with = "debug")]
    pub release: bool,
    /// Build with assertions and the kernel debugger
    #[arg(long)]
    pub debug: bool,
}

impl ProfileArgs {
    /// The profile asked for.
    pub fn profile(self) -> Profile {
        if self.debug { Profile::Debug } else { Profile::Release }
    }
}

/// How to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Boot {
    /// The emulator loads kernel and archive itself: fastest
    Direct,
    /// From a disk image with a BIOS boot sector
    Bios,
    /// From a disk image through UEFI firmware
    Uefi,
}

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Machine shape: a file name in xtask/machines/, such as 2n4c or odd-shuffle
    #[arg(long, default_value = machines::DEFAULT, value_name = "NAME",
          conflicts_with_all = ["nodes", "cpus", "mem_per_node", "distance"])]
    pub machine: String,
    /// Make up a machine with N nodes instead
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
    /// CPUs of the made-up machine, in all
    #[arg(long, value_name = "M")]
    pub cpus: Option<u32>,
    /// Memory of each node of the made-up machine
    #[arg(long, value_name = "SIZE")]
    pub mem_per_node: Option<String>,
    /// Distance between the nodes of the made-up machine (a node is 10 from itself)
    #[arg(long, value_name = "D")]
    pub distance: Option<u8>,
    /// How to boot
    #[arg(long, value_enum, default_value_t = Boot::Direct)]
    pub boot: Boot,
    /// What the root task starts; default xtask/manifests/default.toml
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Program to run as root task: a guest program's name, or an ELF file built for any X.2 kernel
    #[arg(long, value_name = "ELF")]
    pub roottask: Option<PathBuf>,
    /// Program to run as sigma0, likewise
    #[arg(long, value_name = "ELF")]
    pub sigma0: Option<PathBuf>,
    /// Kernel options, such as "exit=boot text_replication=off"; a wrong one lists them all
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub append: String,
    /// Build with assertions and the kernel debugger
    #[arg(long)]
    pub debug: bool,
    /// Wait for a debugger on port 1234 before the first instruction
    #[arg(long)]
    pub gdb: bool,
    /// Stop after so many seconds with exit code 124; default 120, none at a terminal
    #[arg(long, value_name = "S")]
    pub timeout: Option<f64>,
    /// Write the guest's records to FILE as JSON lines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the guest's trace to FILE for Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Type the lines of FILE at the kernel debugger's prompt (see docs/design/debugger.md)
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Print the emulator's command line
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `test`.
#[derive(Args, Clone, Debug)]
pub struct TestArgs {
    /// `host`, `guest`, or names of suites; everything without
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Guest suites on this machine only
    #[arg(long, value_name = "NAME")]
    pub machine: Option<String>,
    /// Write one record per test to FILE as JSON lines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How long stress suites run, instead of a few seconds
    #[arg(long, value_name = "N")]
    pub seconds: Option<u32>,
    /// Seed of stress suites, as a failure printed it (decimal or 0x...)
    #[arg(long, value_name = "SEED", value_parser = seed)]
    pub seed: Option<u64>,
    /// List the suites and leave
    #[arg(long)]
    pub list: bool,
}

/// A seed, decimal or with `0x`.
fn seed(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|error| error.to_string())
}

/// Arguments of `bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Experiments to run, or `all`
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Fewer points and repetitions
    #[arg(long)]
    pub quick: bool,
    /// Machine shape instead of each experiment's own
    #[arg(long, value_name = "NAME")]
    pub machine: Option<String>,
    /// Write results to FILE as JSON lines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `sim`.
#[derive(Args, Clone, Debug)]
pub struct SimArgs {
    /// Guest program to run in the root task's place, `boot` for the kernel alone, a manifest in
    /// xtask/manifests/, or `selftest` to check the instrument itself
    pub name: String,
    /// Machine shape and timing model
    #[arg(long, default_value = "2n2c", value_name = "NAME")]
    pub machine: String,
    /// How caches are modelled
    #[arg(long, value_enum, default_value_t = SimCaches::On)]
    pub caches: SimCaches,
    /// Write results to FILE as JSON lines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Kernel options
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub append: String,
    /// Show which code touches which remote line in regions of interest
    #[arg(long)]
    pub remote: bool,
    /// Fail if a region of interest makes a remote access, and show which (implies --remote)
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub demand_local: Option<Whose>,
    /// Show the guest's console
    #[arg(long)]
    pub console: bool,
    /// Largest lead of one CPU's modelled clock over another, in cycles [default: the machine's]
    #[arg(long, value_name = "CYCLES", value_parser = clap::value_parser!(u64).range(1..))]
    pub quantum: Option<u64>,
    /// Stop after so many seconds
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

impl SimArgs {
    /// Counting only, of program `name` on `machine`.
    pub fn counting(name: &str, machine: &str, append: &str) -> Self {
        SimArgs {
            name: name.into(),
            machine: machine.into(),
            caches: SimCaches::Ideal,
            json: None,
            append: append.into(),
            remote: false,
            demand_local: None,
            console: false,
            quantum: None,
            timeout: 600,
        }
    }
}

/// Whose accesses are looked at.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// The kernel's: code, data and page tables it uses
    Kernel,
    /// The kernel's and the programs'
    All,
}

/// How the instrument models caches.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SimCaches {
    /// As the machine file says
    On,
    /// Switched off: every access goes to memory
    Off,
    /// Free of cost: only counts; a cycle is an instruction
    Ideal,
}

/// Arguments of `report`.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Result files; default: the last ones of `bench`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub from: Vec<PathBuf>,
}

/// Arguments of `image`.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    /// Firmware of the machine that is to boot it
    #[arg(long, value_enum, default_value_t = Firmware::Uefi)]
    pub boot: Firmware,
    /// File to write; default target/lokal/<profile>/lokal-<firmware>.img
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What the root task starts; default xtask/manifests/default.toml
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Program to run as root task: a guest program's name, or an ELF file built for any X.2 kernel
    #[arg(long, value_name = "ELF")]
    pub roottask: Option<PathBuf>,
    /// Program to run as sigma0, likewise
    #[arg(long, value_name = "ELF")]
    pub sigma0: Option<PathBuf>,
    /// Kernel options that go into the image
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub append: String,
    /// Build with assertions and the kernel debugger
    #[arg(long)]
    pub debug: bool,
}

/// Kinds of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// Boot sector for BIOS machines
    Bios,
    /// Boot partition for UEFI machines
    Uefi,
}

/// Arguments of `doctor`.
#[derive(Args, Clone, Copy, Debug)]
pub struct DoctorArgs {
    /// Install what is missing
    #[arg(long)]
    pub install: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_designs_command_lines_parse() {
        for line in [
            "build --release",
            "run --nodes 3 --cpus 6 --mem-per-node 256M --distance 30",
            "run --machine 2n4c --append exit=boot --json F",
            "run --boot bios --manifest M --roottask R --sigma0 S --debug --gdb --timeout 5 --trace T",
            "test host --machine 2n4c --json F",
            "test s07 --seconds 600 --seed 0x5eed",
            "bench all --quick --machine 2n4c --json F",
            "sim pingpong --machine 2n2c --caches off --json F",
            "report --from a b",
            "image --boot bios -o F --roottask R --sigma0 S",
            "check",
            "doctor --install",
        ] {
            let words = std::iter::once("cargo xtask").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
