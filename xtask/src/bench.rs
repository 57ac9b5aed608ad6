//! `cargo xtask bench`: experiments.

mod arraywalk;
mod paths;

use crate::cli::BenchArgs;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;

/// What an experiment found.
pub struct Finding {
    /// Result records.
    pub records: Vec<Value>,
    /// Whether every limit was kept.
    pub kept: bool,
}

/// An experiment: its name and what runs it.
type Experiment = (&'static str, fn(&BenchArgs) -> Result<Finding>);

/// All experiments.
const EXPERIMENTS: [Experiment; 3] =
    [("paths", paths::run), ("arraywalk", arraywalk::walk), ("unmap", arraywalk::unmap)];

/// `cargo xtask bench`.
pub fn command(args: &BenchArgs) -> Result<u8> {
    let all = args.names.is_empty() || args.names.iter().any(|name| name == "all");
    if let Some(unknown) = args
        .names
        .iter()
        .find(|name| *name != "all" && EXPERIMENTS.iter().all(|(known, _)| known != name))
    {
        let known: Vec<&str> = EXPERIMENTS.iter().map(|(name, _)| *name).collect();
        bail!("no experiment named '{unknown}'; there are {}", known.join(", "));
    }
    let mut records = Vec::new();
    let mut kept = true;
    for (name, run) in EXPERIMENTS {
        if all || args.names.iter().any(|wanted| wanted == name) {
            let finding = run(args)?;
            records.extend(finding.records);
            kept &= finding.kept;
        }
    }
    if let Some(path) = &args.json {
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(u8::from(!kept))
}
