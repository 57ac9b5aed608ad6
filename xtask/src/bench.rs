//! `cargo xtask bench`: experiments.

use crate::cli::BenchArgs;
use anyhow::{Result, bail};

/// `cargo xtask bench`.
pub fn command(args: &BenchArgs) -> Result<u8> {
    bail!("bench {}: there are no experiments yet", args.names.join(" "))
}
