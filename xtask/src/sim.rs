//! `cargo xtask sim`: one program in the placement instrument.

use crate::cli::SimArgs;
use anyhow::{Result, bail};

/// `cargo xtask sim`.
pub fn command(args: &SimArgs) -> Result<u8> {
    bail!("sim {}: the placement instrument is not there yet", args.name)
}
