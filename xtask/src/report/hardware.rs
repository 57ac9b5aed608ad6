//! Results that come as records: serial logs of real machines, and files of `--json`.

use super::{Measured, interpret};
use crate::{
    experiment::{Object, Params, Run, observe, spec::Experiment},
    records::{self, Line},
};
use serde_json::Value;

/// Kernel options that the boot record tells.
const SWITCHES: [&str; 4] =
    ["text_replication", "page_table_replication", "node_pools", "tcb_migration"];

/// The boots that a log holds, one run for each. A log without a boot record is one run.
pub fn runs(text: &str, name: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for record in text.lines().filter_map(record) {
        let boots = records::kind(&record) == "boot";
        if boots || runs.is_empty() {
            runs.push(begin(name, runs.len()));
        }
        let Some(run) = runs.last_mut() else { continue };
        if boots {
            run.conditions.extend(conditions(&record));
        }
        for condition in ["git", "profile", "machine", "emulator", "accel"] {
            if let Some(value) = record.get(condition).and_then(Value::as_str) {
                run.conditions.insert(condition.into(), value.into());
            }
        }
        run.records.push(record);
    }
    runs.retain(|run| {
        run.records.iter().any(|record| matches!(records::kind(record), "result" | "roi"))
    });
    runs
}

/// A console line, or a line of a file of records.
fn record(line: &str) -> Option<Object> {
    let line = line.trim();
    match records::parse(line) {
        Line::Record(record) => Some(record),
        _ if line.starts_with('{') => serde_json::from_str(line).ok(),
        _ => None,
    }
}

fn begin(name: &str, number: usize) -> Run {
    Run {
        kind: "run".into(),
        point: format!("{name}, boot {}", number + 1),
        inputs: format!("{name} {number}"),
        ok: true,
        error: String::new(),
        seconds: 0.0,
        conditions: [("file".to_string(), name.to_string())].into(),
        records: Vec::new(),
    }
}

/// What a boot record says about the machine and the kernel's switches.
fn conditions(boot: &Object) -> Params {
    let mut all = Params::new();
    for name in SWITCHES {
        if let Some(on) = boot.get(name).and_then(Value::as_bool) {
            all.insert(name.into(), if on { "on" } else { "off" }.into());
        }
    }
    for name in ["nr_nodes", "nr_cpus", "tsc_khz"] {
        if let Some(number) = boot.get(name).and_then(Value::as_u64) {
            all.insert(name.into(), number.to_string());
        }
    }
    all
}

/// What `logs` have for an experiment: those results whose program it runs.
pub fn measured(experiment: &Experiment, logs: &[Run]) -> Option<Measured> {
    let programs: Vec<&str> = experiment.run.iter().map(|run| run.program.as_str()).collect();
    let mut runs = Vec::new();
    for log in logs {
        let mut run = log.clone();
        run.records.retain(|record| match records::kind(record) {
            "result" => {
                record.get("bench").and_then(Value::as_str).is_some_and(|b| programs.contains(&b))
            }
            kind => kind == "roi",
        });
        // The kernel's switches are parameters, under the names of its options.
        let params: Params = SWITCHES
            .iter()
            .filter_map(|name| Some((name.to_string(), run.conditions.get(*name)?.clone())))
            .collect();
        if !observe::observations(&run, &params).is_empty() {
            runs.push((run, params));
        }
    }
    let label = runs.first()?.0.conditions.get("file").cloned().unwrap_or_default();
    let mut measured = interpret(experiment, runs, false, Vec::new());
    measured.label = label;
    (!measured.figures.iter().all(crate::experiment::figure::Figure::is_empty)).then_some(measured)
}
