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
    if let Some(on) = boot.get("cache").and_then(Value::as_bool) {
        all.insert("caches".into(), if on { "on" } else { "off" }.into());
    }
    // What the processor counts, or why it does not.
    if let Some(counters) = boot.get("hardware_counters").and_then(Value::as_str) {
        all.insert("hardware counters".into(), counters.into());
    }
    for name in ["nr_nodes", "nr_cpus", "tsc_khz"] {
        if let Some(number) = boot.get(name).and_then(Value::as_u64) {
            all.insert(name.into(), number.to_string());
        }
    }
    all
}

/// What one of `programs` could not count, and why, if a record says that.
fn absent<'a>(programs: &'a [&str]) -> impl Fn(&Object) -> Option<String> + 'a {
    |record| {
        let word = |name: &str| record.get(name).and_then(Value::as_str);
        let bench = word("bench").filter(|bench| programs.contains(bench))?;
        (records::kind(record) == "absent").then_some(())?;
        Some(format!("{bench}: {} were not counted: {}", word("counter")?, word("why")?))
    }
}

/// The kernel's switches as parameters, under the names of its options, and the values of those parameters in the
/// experiment's matrix that mean these switches.
fn parameters(experiment: &Experiment, conditions: &Params) -> Params {
    let mut params: Params = SWITCHES
        .iter()
        .filter_map(|name| Some((name.to_string(), conditions.get(*name)?.clone())))
        .collect();
    for run in &experiment.run {
        let options = |name: &str| run.options.contains(&format!("{{{name}}}"));
        for (name, values) in run.matrix.iter().filter(|(name, _)| options(name)) {
            let texts = values.iter().filter_map(toml::Value::as_str);
            let meant = texts.into_iter().find(|text| {
                let filled = run.options.replace(&format!("{{{name}}}"), text);
                means(&filled, conditions)
            });
            if let Some(meant) = meant {
                params.insert(name.clone(), meant.into());
            }
        }
    }
    params
}

/// Whether a kernel with these options has the switches that a boot record told.
fn means(options: &str, conditions: &Params) -> bool {
    SWITCHES.iter().all(|name| {
        let words = options.split_whitespace().filter_map(|word| word.split_once('='));
        let on = words.filter(|(word, _)| word == name).all(|(_, value)| value == "on");
        conditions.get(*name).is_some_and(|found| (found == "on") == on)
    })
}

/// Whether the experiment has runs with the caches as a boot record told.
fn has_caches(experiment: &Experiment, conditions: &Params) -> bool {
    let Some(found) = conditions.get("caches") else { return true };
    // Only `off` is anything special on hardware; what the matrix fills in may be either.
    experiment
        .run
        .iter()
        .any(|run| run.caches.contains('{') || (run.caches == "off") == (found == "off"))
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
            kind => matches!(kind, "roi" | "absent"),
        });
        if !has_caches(experiment, &run.conditions) {
            continue;
        }
        let params = parameters(experiment, &run.conditions);
        if !observe::observations(&run, &params).is_empty() {
            runs.push((run, params));
        }
    }
    let label = runs.first()?.0.conditions.get("file").cloned().unwrap_or_default();
    let mut missing: Vec<String> = Vec::new();
    for record in runs.iter().flat_map(|(run, _)| &run.records).filter_map(absent(&programs)) {
        if !missing.contains(&record) {
            missing.push(record);
        }
    }
    let mut measured = interpret(experiment, runs, false, missing);
    measured.label = label;
    (!measured.figures.iter().all(crate::experiment::figure::Figure::is_empty)).then_some(measured)
}
