//! What this host lacks, and how it gets it.
//!
//! Rust targets and components come through rustup, everything else through the system's package
//! manager, if the user may (root or sudo without a password). Where that does not work, the one
//! command to type is printed instead.

use crate::{cli::DoctorArgs, guest, paths, qemu, say};
use anyhow::{Context, Result, bail, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Something that must be on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Standard library for the guest.
    GuestTarget,
    /// `llvm-objcopy`.
    LlvmTools,
    /// Source of the standard library, for the boot loader's stages.
    RustSource,
    /// `cargo fmt`.
    Rustfmt,
    /// `cargo clippy`.
    Clippy,
    /// The emulator.
    Emulator,
    /// UEFI firmware for the emulator.
    Firmware,
}

/// What a guest build needs.
pub const FOR_BUILDS: [Need; 2] = [Need::GuestTarget, Need::LlvmTools];
/// What making images needs.
pub const FOR_IMAGES: [Need; 2] = [Need::RustSource, Need::LlvmTools];
/// What `check` needs.
pub const FOR_CHECKS: [Need; 3] = [Need::GuestTarget, Need::Rustfmt, Need::Clippy];
const ALL: [Need; 7] = [
    Need::GuestTarget,
    Need::LlvmTools,
    Need::RustSource,
    Need::Rustfmt,
    Need::Clippy,
    Need::Emulator,
    Need::Firmware,
];

/// Who brings it.
enum Source {
    /// `rustup target add` or `rustup component add`.
    Rustup(&'static str, &'static str),
    /// Packages of the system, in the order of [`MANAGERS`].
    Packages([&'static str; 3]),
}

impl Need {
    fn what(self) -> &'static str {
        match self {
            Self::GuestTarget => "Rust target x86_64-unknown-none",
            Self::LlvmTools => "Rust component llvm-tools",
            Self::RustSource => "Rust component rust-src",
            Self::Rustfmt => "Rust component rustfmt",
            Self::Clippy => "Rust component clippy",
            Self::Emulator => "emulator qemu-system-x86_64",
            Self::Firmware => "UEFI firmware (ovmf)",
        }
    }

    fn source(self) -> Source {
        match self {
            Self::GuestTarget => Source::Rustup("target", guest::TARGET),
            Self::LlvmTools => Source::Rustup("component", "llvm-tools"),
            Self::RustSource => Source::Rustup("component", "rust-src"),
            Self::Rustfmt => Source::Rustup("component", "rustfmt"),
            Self::Clippy => Source::Rustup("component", "clippy"),
            Self::Emulator => {
                Source::Packages(["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86"])
            }
            Self::Firmware => Source::Packages(["ovmf", "edk2-ovmf", "edk2-ovmf"]),
        }
    }

    /// Looks at files rather than asking rustup, which is slow and not on every host.
    fn present(self) -> bool {
        let inside = |path: &str| sysroot().is_ok_and(|root| root.join(path).exists());
        match self {
            Self::GuestTarget => inside("lib/rustlib/x86_64-unknown-none/lib"),
            Self::LlvmTools => objcopy().is_ok(),
            Self::RustSource => inside("lib/rustlib/src/rust/library/core"),
            Self::Rustfmt => inside("bin/cargo-fmt") && inside("bin/rustfmt"),
            Self::Clippy => inside("bin/cargo-clippy"),
            Self::Emulator => on_path(qemu::PROGRAM).is_some(),
            Self::Firmware => qemu::firmware().is_ok(),
        }
    }
}

/// A package manager: program, arguments that refresh its lists, arguments that install.
struct Manager {
    /// Index into [`Source::Packages`].
    column: usize,
    program: &'static str,
    refresh: Option<&'static str>,
    install: &'static [&'static str],
}

const MANAGERS: [Manager; 3] = [
    Manager {
        column: 0,
        program: "apt-get",
        refresh: Some("update"),
        install: &["install", "--yes", "--no-install-recommends"],
    },
    Manager { column: 1, program: "dnf", refresh: None, install: &["install", "--assumeyes"] },
    Manager { column: 2, program: "pacman", refresh: None, install: &["-Sy", "--noconfirm"] },
];

/// `cargo xtask doctor`.
pub fn command(args: DoctorArgs) -> Result<u8> {
    let missing: Vec<Need> = ALL.into_iter().filter(|need| !need.present()).collect();
    for need in ALL {
        let state = if missing.contains(&need) { "missing" } else { "ok" };
        println!("{state:>8}  {}", need.what());
    }
    println!(
        "{:>8}  miri on a nightly tool chain (optional)",
        if has_miri() { "ok" } else { "absent" }
    );
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(0);
    }
    if args.install {
        install(&missing)?;
        return Ok(0);
    }
    for command in commands(&missing)? {
        println!("to install: {}", command.join(" "));
    }
    println!("or let xtask do it: cargo xtask doctor --install");
    Ok(1)
}

/// Whether a nightly tool chain with miri is there.
pub fn has_miri() -> bool {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "miri", "--version"]).env_remove("RUSTUP_TOOLCHAIN");
    command.env_remove("CARGO").env_remove("RUSTC").stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// Makes sure that the guest can be built.
pub fn ensure_rust() -> Result<()> {
    ensure(&FOR_BUILDS)
}

/// Makes sure that the emulator is there, and UEFI firmware if asked for.
pub fn ensure_emulator(firmware: bool) -> Result<()> {
    let needs = [Need::Emulator, Need::Firmware];
    ensure(if firmware { &needs } else { &needs[..1] })
}

/// Installs whatever of `needs` is missing.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<Need> = needs.iter().copied().filter(|need| !need.present()).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn install(missing: &[Need]) -> Result<()> {
    for need in missing {
        say::step("Missing", need.what());
    }
    let all: Vec<String> = commands(missing)?.iter().map(|command| command.join(" ")).collect();
    let all = all.join(" && ");
    if missing.iter().any(|need| matches!(need.source(), Source::Packages(_)))
        && may_install().is_none()
    {
        bail!("this needs an administrator; type: {all}");
    }
    for command in commands(missing)? {
        say::step("Installing", &command.join(" "));
        let status = Command::new(&command[0])
            .args(&command[1..])
            .current_dir(paths::root())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .status();
        let done = status.as_ref().is_ok_and(|status| status.success());
        ensure!(done, "that did not work; type: {all}");
    }
    let still: Vec<_> = missing.iter().filter(|need| !need.present()).map(|n| n.what()).collect();
    ensure!(still.is_empty(), "still missing after the installation: {}", still.join(", "));
    Ok(())
}

/// What installing depends on.
struct Host {
    rustup: bool,
    manager: Option<&'static Manager>,
    right: Option<Right>,
}

impl Host {
    fn look() -> Self {
        let rustup = on_path("rustup").is_some();
        let manager = MANAGERS.iter().find(|manager| on_path(manager.program).is_some());
        Self { rustup, manager, right: may_install() }
    }
}

/// The commands that install `missing` on this host.
fn commands(missing: &[Need]) -> Result<Vec<Vec<String>>> {
    commands_on(&Host::look(), missing)
}

fn commands_on(host: &Host, missing: &[Need]) -> Result<Vec<Vec<String>>> {
    let words = |list: &[&str]| list.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let mut out = Vec::new();
    let mut packages = Vec::new();
    for need in missing {
        let what = need.what();
        match need.source() {
            Source::Rustup(kind, name) => {
                ensure!(host.rustup, "{what} is missing, and so is rustup; see https://rustup.rs");
                out.push(words(&["rustup", kind, "add", name]));
            }
            Source::Packages(names) => {
                let manager = host.manager.with_context(|| {
                    format!("{what} is missing; install it with this system's package manager")
                })?;
                packages.push(names[manager.column]);
            }
        }
    }
    if let Some(manager) = host.manager
        && !packages.is_empty()
    {
        let prefix: &[&str] = match host.right {
            Some(Right::Root) => &[],
            Some(Right::Sudo) => &["sudo", "-n"],
            None => &["sudo"],
        };
        let start = words(&[prefix, &[manager.program]].concat());
        if let Some(refresh) = manager.refresh {
            out.push([start.clone(), words(&[refresh])].concat());
        }
        out.push([start, words(manager.install), words(&packages)].concat());
    }
    Ok(out)
}

/// How system packages may be installed.
#[derive(Clone, Copy, Debug)]
enum Right {
    Root,
    Sudo,
}

fn may_install() -> Option<Right> {
    static RIGHT: OnceLock<Option<Right>> = OnceLock::new();
    *RIGHT.get_or_init(|| {
        let says = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
            output
                .status
                .success()
                .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
        };
        if says("id", &["-u"]).as_deref() == Some("0") {
            return Some(Right::Root);
        }
        says("sudo", &["-n", "true"]).map(|_| Right::Sudo)
    })
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Where the active tool chain lies.
fn sysroot() -> Result<&'static PathBuf> {
    static SYSROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let ask = || {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .args(["--print", "sysroot"])
            .current_dir(paths::root())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        (output.status.success() && !text.is_empty()).then(|| PathBuf::from(text))
    };
    SYSROOT.get_or_init(ask).as_ref().context("rustc does not tell where its tool chain lies")
}

/// The program that strips guest programs.
pub fn objcopy() -> Result<PathBuf> {
    let hosts = sysroot()?.join("lib/rustlib");
    let tools = fs::read_dir(&hosts).with_context(|| format!("cannot read {}", hosts.display()))?;
    tools
        .flatten()
        .map(|host| host.path().join("bin/llvm-objcopy"))
        .find(|tool| tool.exists())
        .context("no llvm-objcopy; type: rustup component add llvm-tools")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(host: &Host, missing: &[Need]) -> Vec<String> {
        let commands = commands_on(host, missing).unwrap();
        commands.iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn rust_parts_come_from_rustup() {
        let mut host = Host { rustup: true, manager: None, right: None };
        assert_eq!(
            lines(&host, &[Need::GuestTarget, Need::Clippy]),
            ["rustup target add x86_64-unknown-none", "rustup component add clippy"]
        );
        host.rustup = false;
        let error = commands_on(&host, &[Need::GuestTarget]).unwrap_err().to_string();
        assert!(error.contains("rustup.rs"), "{error}");
    }

    #[test]
    fn packages_are_installed_in_one_go() {
        let both = [Need::Emulator, Need::Firmware];
        let install = "apt-get install --yes --no-install-recommends qemu-system-x86 ovmf";
        for (right, prefix) in
            [(Some(Right::Root), ""), (Some(Right::Sudo), "sudo -n "), (None, "sudo ")]
        {
            let host = Host { rustup: true, manager: Some(&MANAGERS[0]), right };
            let wanted = [format!("{prefix}apt-get update"), format!("{prefix}{install}")];
            assert_eq!(lines(&host, &both), wanted);
        }
        let host = Host { rustup: true, manager: Some(&MANAGERS[1]), right: Some(Right::Root) };
        assert_eq!(lines(&host, &both), ["dnf install --assumeyes qemu-system-x86-core edk2-ovmf"]);
        let host = Host { rustup: true, manager: None, right: None };
        assert!(commands_on(&host, &both).is_err());
    }
}
