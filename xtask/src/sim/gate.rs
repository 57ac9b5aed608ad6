//! What tests demand of a run in the instrument: no remote access in regions of interest, with caches off (the
//! zero-remote gate); the same records from a second run.

use super::{Job, Results, plugin_path, table};
use crate::{
    cli::{SimArgs, SimCaches, Whose},
    machines::Machine,
    qemu::Media,
    run::Outcome,
    symbols::Symbols,
};
use anyhow::Result;
use serde_json::{Map, Value};
use std::path::Path;

/// A region whose name has this in it crosses nodes by what it is: nothing is demanded of it.
const CROSSING: &str = "other node";

/// What came of a run: how the guest did, and each region that was looked at.
pub struct Verdict {
    /// The guest's run.
    pub outcome: Outcome,
    /// Each region and CPU: what was looked at, or which accesses strayed.
    pub regions: Vec<Result<String, String>>,
    /// What was touched where, if any did.
    pub strays: String,
}

/// Runs a guest in the instrument with caches off. [`super::prepare`] has been called.
pub fn run(
    name: &str,
    machine: &Machine,
    media: &Media,
    kernel: &Path,
    whose: Whose,
    timeout: u64,
) -> Result<Verdict> {
    let args = SimArgs {
        caches: SimCaches::Off,
        demand_local: Some(whose),
        timeout,
        ..SimArgs::counting(name, &machine.name, "")
    };
    let job = Job { plugin: &plugin_path(), machine, media, kernel, args: &args };
    let results = job.run()?;
    let regions = judge(&results.lines, whose);
    let strays = table::remote(&results.lines, &mut Symbols::new(kernel));
    Ok(Verdict { outcome: results.outcome, regions, strays })
}

/// Runs a guest two times. The second run, and the number of records if they are the same in both, or else the first
/// ones that differ. [`super::prepare`] has been called.
pub fn twice(
    name: &str,
    machine: &Machine,
    media: &Media,
    kernel: &Path,
    caches: SimCaches,
    timeout: u64,
) -> Result<(Outcome, std::result::Result<usize, String>)> {
    let args = SimArgs { caches, timeout, ..SimArgs::counting(name, &machine.name, "") };
    let job = Job { plugin: &plugin_path(), machine, media, kernel, args: &args };
    let records = |results: &Results| results.all().map(|r| r.to_string()).collect::<Vec<_>>();
    let first = records(&job.run()?);
    let again = job.run()?;
    let same = compare(&first, &records(&again));
    Ok((again.outcome, same))
}

/// The number of records, if they are the same.
fn compare(first: &[String], second: &[String]) -> std::result::Result<usize, String> {
    let differ = first.iter().zip(second).find(|(a, b)| a != b);
    match differ {
        Some((a, b)) => Err(format!("first {a}, then {b}")),
        None if first.len() != second.len() => {
            Err(format!("first {} records, then {}", first.len(), second.len()))
        }
        None if first.is_empty() => Err("there are no records".into()),
        None => Ok(first.len()),
    }
}

/// Each region of which locality is demanded, on each CPU that did something in it: its name, or its name with the
/// number of remote accesses. That there is no such region at all is a fault, too: nothing was looked at.
pub fn judge(lines: &[Map<String, Value>], whose: Whose) -> Vec<Result<String, String>> {
    let mut out = Vec::new();
    for roi in lines.iter().filter(|line| crate::records::kind(line) == "roi") {
        let of = |bank: &str| -> u64 {
            let classes = ["fetch", "data", "walk"];
            classes
                .iter()
                .map(|class| roi[bank][class]["remote"].as_u64().unwrap_or(u64::MAX / 8))
                .sum()
        };
        let remote = match whose {
            Whose::Kernel => of("kernel"),
            Whose::All => of("kernel") + of("user"),
        };
        if roi["name"].as_str().is_some_and(|name| name.contains(CROSSING)) {
            continue;
        }
        let place = format!("{} on CPU {}", roi["name"], roi["cpu"]);
        out.push(if remote > 0 { Err(format!("{place}: {remote}")) } else { Ok(place) });
    }
    if out.is_empty() {
        out.push(Err("no region of interest: none was opened".into()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn roi(name: &str, kernel: u64, user: u64) -> Vec<Map<String, Value>> {
        let bank =
            |n: u64| json!({"fetch": {"remote": 0}, "data": {"remote": n}, "walk": {"remote": 0}});
        let line = json!({"kind": "roi", "name": name, "cpu": 1, "kernel": bank(kernel), "user": bank(user)});
        vec![line.as_object().unwrap().clone()]
    }

    fn strayed(lines: &[Map<String, Value>], whose: Whose) -> Vec<String> {
        judge(lines, whose).into_iter().filter_map(Result::err).collect()
    }

    #[test]
    fn strays_are_found() {
        assert_eq!(strayed(&roi("x", 0, 3), Whose::Kernel), [""; 0]);
        assert_eq!(strayed(&roi("x", 0, 3), Whose::All), ["\"x\" on CPU 1: 3"]);
        assert_eq!(strayed(&roi("x", 2, 0), Whose::Kernel).len(), 1);
    }

    #[test]
    fn nothing_looked_at_is_no_success() {
        assert_eq!(strayed(&[], Whose::All).len(), 1);
        assert_eq!(strayed(&roi("call other node", 5, 5), Whose::All).len(), 1);
        let both = [roi("call other node", 5, 5), roi("call", 0, 0)].concat();
        assert_eq!(strayed(&both, Whose::All), [""; 0]);
    }

    #[test]
    fn runs_that_differ_are_noticed() {
        let records = |all: &[&str]| all.iter().map(|r| r.to_string()).collect::<Vec<_>>();
        let both = |a: &[&str], b: &[&str]| compare(&records(a), &records(b));
        assert_eq!(both(&["a", "b"], &["a", "b"]), Ok(2));
        assert_eq!(both(&["a", "b"], &["a", "c"]).unwrap_err(), "first b, then c");
        assert!(both(&["a"], &["a", "b"]).unwrap_err().contains("then 2"));
        assert!(both(&[], &[]).is_err());
    }

    #[test]
    fn missing_counts_are_strays() {
        let line = json!({"kind": "roi", "name": "x", "cpu": 0, "kernel": {}, "user": {}});
        assert_eq!(strayed(&[line.as_object().unwrap().clone()], Whose::All).len(), 1);
    }
}
