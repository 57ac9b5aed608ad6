//! What this host lacks.

use anyhow::{Context, Result, bail};
use std::{path::PathBuf, process::Command};

/// Makes sure that the guest's Rust target is there.
pub fn ensure_rust() -> Result<()> {
    Ok(())
}

/// Makes sure that the emulator is there.
pub fn ensure_emulator(_firmware: bool) -> Result<()> {
    Ok(())
}

/// The program that strips guest programs.
pub fn objcopy() -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output =
        Command::new(rustc).args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let tools = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin");
    for name in ["llvm-objcopy", "rust-objcopy"] {
        if tools.join(name).exists() {
            return Ok(tools.join(name));
        }
    }
    bail!("no llvm-objcopy; type: rustup component add llvm-tools")
}
