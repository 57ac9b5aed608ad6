//! `cargo xtask bench`: runs experiments, keeps their results, ends with the report.
//!
//! What an experiment is stands in `xtask/experiments/`; what was measured in the results file
//! ([`store`]). Runs whose inputs have not changed since are not made again.

mod arraywalk;
pub mod compare;
mod execute;
mod limits;
mod paths;
mod progress;
pub mod store;

use crate::{
    cli::BenchArgs,
    experiment::{
        Run,
        spec::{self, Experiment},
    },
    report, say,
};
use anyhow::{Context, Result, bail};
use execute::{Bench, Job};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fs};
use store::{Plan, Planned, Store};

/// What a table of counts found.
pub struct Finding {
    /// Result records.
    pub records: Vec<Value>,
    /// Whether every limit was kept.
    pub kept: bool,
}

/// A table of counts that must be kept: its name and what runs it.
type Table = (&'static str, fn(&BenchArgs) -> Result<Finding>);

/// Tables that are printed when they are asked for by name, instead of the experiments of that name.
const TABLES: [Table; 6] = [
    ("paths", |args| paths::run(args.machine.as_deref().unwrap_or("1n1c"))),
    ("arraywalk", arraywalk::walk),
    ("unmap", arraywalk::unmap),
    ("xcpu", limits::xcpu),
    ("migrate", limits::migrate),
    ("shootdown", limits::shootdown),
];

/// `cargo xtask bench`.
pub fn command(args: &BenchArgs) -> Result<u8> {
    let all = spec::load()?;
    let chosen = choose(&all, &args.names)?;
    let mut kept = true;
    let mut records = Vec::new();
    for (_, run) in TABLES.iter().filter(|(name, _)| args.names.iter().any(|n| n == name)) {
        let finding = run(args)?;
        records.extend(finding.records);
        kept &= finding.kept;
    }
    let mut store = Store::open(&Store::path()?)?;
    let failed = if chosen.is_empty() { 0 } else { measure(&chosen, args, &mut store)? };
    if let Some(path) = &args.json {
        for experiment in &chosen {
            records.extend(report::records(experiment, &store.results));
        }
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if chosen.is_empty() {
        return Ok(u8::from(!kept));
    }
    let ids: BTreeSet<&str> = chosen.iter().map(|experiment| experiment.id.as_str()).collect();
    report::conclude(&all, &store.results, &ids)?;
    if failed > 0 {
        say::error(&format!("{failed} runs failed; the report says why"));
    }
    Ok(u8::from(!kept || failed > 0))
}

/// The experiments that `names` are about: ids, names of several, `all`; nothing means all.
fn choose<'a>(all: &'a [Experiment], names: &[String]) -> Result<Vec<&'a Experiment>> {
    let is = |experiment: &Experiment, name: &str| {
        name == "all" || experiment.name == name || experiment.id.eq_ignore_ascii_case(name)
    };
    let is_known =
        |name: &str| all.iter().any(|e| is(e, name)) || TABLES.iter().any(|(t, _)| *t == name);
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        let mut known: Vec<&str> = Vec::new();
        for experiment in all {
            known.push(&experiment.id);
            if !known.contains(&experiment.name.as_str()) {
                known.push(&experiment.name);
            }
        }
        bail!("no experiment named '{unknown}'; there are all, {}", known.join(", "));
    }
    // A table answers for its name in a minute; the experiments of that name may take hours.
    let table = |name: &str| TABLES.iter().any(|(known, _)| *known == name);
    let wanted =
        |e: &&Experiment| names.is_empty() || names.iter().any(|name| is(e, name) && !table(name));
    Ok(all.iter().filter(wanted).collect())
}

/// Runs what was not run yet. The number of runs that failed.
fn measure(chosen: &[&Experiment], args: &BenchArgs, store: &mut Store) -> Result<usize> {
    let bench = Bench::new()?;
    let mut jobs: Vec<Job> = Vec::new();
    let mut there = 0;
    for experiment in chosen {
        let wanted = experiment.points(args.quick, args.machine.as_deref())?;
        if wanted.is_empty() {
            say::note(&format!("{} is not part of --quick", experiment.id));
            continue;
        }
        let mut points = Vec::new();
        for point in wanted {
            let (params, key) = (point.params.clone(), point.key());
            let (inputs, error) = match bench.prepare(&point) {
                Ok(job) => {
                    let inputs = job.inputs.clone();
                    if store.results.runs.get(&inputs).is_some_and(|run| run.ok) {
                        there += 1;
                    } else if jobs.iter().all(|known| known.inputs != inputs) {
                        jobs.push(job);
                    }
                    (inputs, String::new())
                }
                Err(error) => {
                    // What is not there is said in the report; it is no failed measurement.
                    say::note(&format!("{key} cannot run: {error:#}"));
                    (String::new(), format!("{error:#}"))
                }
            };
            points.push(Planned { point: key, inputs, error, params });
        }
        let id = experiment.id.clone();
        store.add_plan(Plan { kind: "plan".into(), experiment: id, quick: args.quick, points })?;
    }
    if there > 0 {
        say::step("Keeping", &format!("{there} runs that were made with the same inputs before"));
    }
    // The long ones first, so that no core is idle in the end.
    let seconds = &store.results.seconds;
    jobs.sort_by(|a, b| {
        let of = |job: &Job| seconds.get(&job.key).copied().unwrap_or(job.point.timeout as f64);
        of(b).total_cmp(&of(a))
    });
    say::step("Measuring", &format!("{} runs for {} experiments", jobs.len(), chosen.len()));
    bench.run_all(jobs, store)
}

/// The guest's results and the instrument's regions of a run, with its conditions.
pub fn flat_records(run: &Run) -> Vec<Value> {
    let wanted =
        |record: &&Map<String, Value>| matches!(crate::records::kind(record), "result" | "roi");
    let with_conditions = |record: &Map<String, Value>| {
        let mut record = record.clone();
        for name in ["git", "profile", "machine", "options", "caches", "emulator", "instrument"] {
            if let Some(value) = run.conditions.get(name) {
                record.insert(name.into(), value.clone().into());
            }
        }
        Value::Object(record)
    };
    run.records.iter().filter(wanted).map(with_conditions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiments_are_chosen_by_id_and_by_name() {
        let all = spec::load().unwrap();
        let ids = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            choose(&all, &names).map(|chosen| {
                chosen.iter().map(|experiment| experiment.id.clone()).collect::<Vec<_>>()
            })
        };
        assert_eq!(ids(&["a7"]).unwrap(), ["A7"]);
        assert!(ids(&["pingpong"]).unwrap().contains(&"A5".to_string()));
        assert!(ids(&["arraywalk"]).unwrap().is_empty(), "that is a table");
        assert_eq!(ids(&[]).unwrap().len(), all.len());
        assert_eq!(ids(&["all", "A7"]).unwrap().len(), all.len());
        let error = ids(&["nonsense"]).unwrap_err().to_string();
        assert!(error.contains("'nonsense'") && error.contains("A7"), "{error}");
    }

    #[test]
    fn tables_can_be_asked_for_by_name() {
        let all = spec::load().unwrap();
        for (name, _) in TABLES {
            assert!(choose(&all, &[name.to_string()]).is_ok(), "{name}");
        }
    }
}
