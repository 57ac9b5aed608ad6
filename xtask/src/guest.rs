//! Builds the guest packages.

use crate::{
    doctor, paths, say,
    workspace::{Package, Workspace},
};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Target triple of everything that runs in the guest.
pub const TARGET: &str = "x86_64-unknown-none";

/// Packages whose binaries go into the guest; all packages under `servers/` do, too.
const PACKAGES: [&str; 5] = ["kernel", "sigma0", "roottask", "app_pager", "bench"];

/// How the guest is built.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Optimised; what is measured and tested.
    #[default]
    Release,
    /// With the kernel debugger.
    Debug,
    /// The same as `Release`, but for a kernel that can trace (docs/design/tracing.md).
    Traced,
}

impl Profile {
    /// Name as it appears in records and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
            Self::Traced => "traced",
        }
    }

    /// The profile of everything but the kernel.
    fn of_programs(self) -> Self {
        if self == Self::Traced { Self::Release } else { self }
    }
}

/// One built guest program.
#[derive(Clone, Debug)]
pub struct Program {
    /// With symbols, for the debugger and for backtraces.
    pub full: PathBuf,
    /// Without debug information, for the archive.
    pub stripped: PathBuf,
}

/// All built guest programs by name.
pub type Programs = BTreeMap<String, Program>;

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<MessageTarget>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
}

/// Builds every guest program and strips a copy of each.
pub fn build(profile: Profile) -> Result<Programs> {
    doctor::ensure_rust()?;
    let packages = guest_packages()?;
    let mut command = build_command(profile.of_programs());
    select(&mut command, &packages);
    if profile == Profile::Debug {
        command.args(["--features", "kernel/kdb"]);
    }
    let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
    say::step("Building", &format!("{} ({})", names.join(", "), profile.of_programs().name()));
    let mut programs = Programs::new();
    collect(command, profile.of_programs(), &mut programs)?;
    if profile == Profile::Traced {
        programs.extend(traced_kernel()?);
    }
    Ok(programs)
}

/// The kernel with trace points, in a profile of its own, so that it and the measured one do not replace each other.
pub fn traced_kernel() -> Result<Programs> {
    let mut command = build_command(Profile::Traced);
    command.args(["--package", "kernel", "--features", "kernel/trace", "--bins"]);
    say::step("Building", "kernel (traced)");
    let mut programs = Programs::new();
    collect(command, Profile::Traced, &mut programs)?;
    Ok(programs)
}

fn build_command(profile: Profile) -> Command {
    let mut command = cargo("build");
    command.args(["--target", TARGET, "--message-format", "json-render-diagnostics", "--quiet"]);
    if profile != Profile::Debug {
        command.args(["--profile", profile.name()]);
    }
    command
}

/// Runs a build and strips a copy of each program.
fn collect(command: Command, profile: Profile, programs: &mut Programs) -> Result<()> {
    let directory = paths::output(profile)?;
    for (name, full) in run_build(command)? {
        let stripped = directory.join(&name);
        strip(&full, &stripped)?;
        programs.insert(name, Program { full, stripped });
    }
    Ok(())
}

/// Tells a cargo command to work on all guest programs.
pub fn select_packages(command: &mut Command) -> Result<()> {
    select(command, &guest_packages()?);
    Ok(())
}

fn select(command: &mut Command, packages: &[Package]) {
    for package in packages {
        command.args(["--package", &package.name]);
        for feature in package.features_of_programs() {
            command.args(["--features", &format!("{}/{feature}", package.name)]);
        }
    }
    command.arg("--bins");
}

/// The kernel among `programs`.
pub fn kernel(programs: &Programs) -> Result<&Program> {
    programs.get("kernel").context("there is no kernel among the guest packages")
}

fn guest_packages() -> Result<Vec<Package>> {
    let workspace = Workspace::read()?;
    let wanted = |package: &&Package| {
        let known = PACKAGES.contains(&package.name.as_str()) || package.is_below("servers");
        known && package.has_programs()
    };
    Ok(workspace.packages().filter(wanted).cloned().collect())
}

/// Cargo in the checkout, without flags that the caller's environment meant for other builds.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(paths::root()).stdin(Stdio::null());
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

fn run_build(mut command: Command) -> Result<Vec<(String, PathBuf)>> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut built = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let Ok(message) = serde_json::from_str::<Message>(&line?) else { continue };
            if let (Some(executable), Some(target)) = (message.executable, message.target)
                && message.reason == "compiler-artifact"
            {
                built.push((target.name, executable));
            }
        }
    }
    if !child.wait()?.success() {
        bail!("the guest does not build; the compiler's messages are above");
    }
    Ok(built)
}

/// Copies `from` to `to` without symbols. What the kernel debugger shows is named from `from` (`trace::Names`), and the
/// kernel must be able to look at the whole archive at once.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let fresh = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if fresh(to).zip(fresh(from)).is_some_and(|(copy, original)| copy > original) {
        return Ok(());
    }
    let output = Command::new(doctor::objcopy()?)
        .arg("--strip-all")
        .args([from, to])
        .output()
        .context("cannot run llvm-objcopy")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("cannot strip {}: {}", from.display(), message.trim());
    }
    Ok(())
}
