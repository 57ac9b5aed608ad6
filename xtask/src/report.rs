//! `cargo xtask report`: results to HTML with plots.

use crate::cli::ReportArgs;
use anyhow::{Result, bail};

/// `cargo xtask report`.
pub fn command(args: &ReportArgs) -> Result<u8> {
    bail!("report from {} files: there are no experiments yet", args.from.len())
}
