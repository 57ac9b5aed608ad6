//! Where things lie.

use crate::guest::Profile;
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The top directory of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// What xtask makes for a build profile: stripped programs and archives.
pub fn output(profile: Profile) -> Result<PathBuf> {
    made(target().join("lokal").join(profile.name()))
}

/// Serial logs and emulator command lines.
pub fn logs() -> Result<PathBuf> {
    made(target().join("lokal/logs"))
}

/// Makes sure that a file which the user names can be written, without touching what is in it.
pub fn ensure_writable(path: &Path) -> Result<()> {
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).with_context(|| format!("cannot write {}", path.display()))
}

fn made(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// `path` relative to the checkout, for messages.
pub fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
