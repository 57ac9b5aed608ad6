//! Disk images.

use crate::{cli::Firmware, guest::Programs};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Makes an image of the kernel and the archive.
pub fn make(_firmware: Firmware, _programs: &Programs, _archive: &Path) -> Result<PathBuf> {
    bail!("image boots are not there yet")
}
