//! `cargo xtask report`: results to one HTML page with a plot for each figure.
//!
//! Measuring and reporting are apart: what is here reads results (those of `bench`, or serial logs of real
//! machines) and computes figures and verdicts anew each time.

mod hardware;
mod inspect;
mod page;
mod plot;
#[cfg(test)]
mod tests;

use crate::{
    bench::{
        self,
        store::{Planned, Results, Store},
    },
    cli::ReportArgs,
    experiment::{
        Params, Run,
        check::{Finding, Verdict},
        figure::{self, Figure},
        observe,
        spec::{self, Experiment},
    },
    paths, say,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// One set of results for an experiment, and what they mean.
pub struct Measured {
    /// Empty for those of `bench`; else where they come from.
    pub label: String,
    /// Whether it was cut short.
    pub quick: bool,
    /// What was drawn.
    pub figures: Vec<Figure>,
    /// What the checks found.
    pub findings: Vec<Finding>,
    /// The runs that it is made from.
    pub runs: Vec<Run>,
    /// What could not be run, and why.
    pub failures: Vec<String>,
}

impl Measured {
    /// All checks together.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(&self.findings)
    }
}

/// An experiment with all its results.
pub struct Section<'a> {
    /// The experiment.
    pub experiment: &'a Experiment,
    /// Its results; none if it was not run.
    pub measured: Vec<Measured>,
}

/// `cargo xtask report`.
pub fn command(args: &ReportArgs) -> Result<u8> {
    let all = spec::load()?;
    let mut results = Results::default();
    let mut logs = Vec::new();
    for path in &args.from {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let found = Results::parse(&text);
        if found.runs.is_empty() {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            logs.extend(hardware::runs(&text, &name.unwrap_or_default()));
        } else {
            results.runs.extend(found.runs);
            results.plans.extend(found.plans);
        }
    }
    // Logs stand beside what was measured here; other results take its place.
    let path = Store::path()?;
    ensure!(
        !args.from.is_empty() || path.exists(),
        "nothing was measured yet: cargo xtask bench --quick"
    );
    if results.plans.is_empty() && path.exists() {
        results = Results::parse(&fs::read_to_string(&path)?);
    }
    ensure!(!results.plans.is_empty() || !logs.is_empty(), "there is no result in these files");
    let ids: BTreeSet<&str> = all.iter().map(|experiment| experiment.id.as_str()).collect();
    finish(&sections(&all, &results, &logs), &ids)?;
    Ok(0)
}

/// The report after a measurement of the experiments `ids`.
pub fn conclude(all: &[Experiment], results: &Results, ids: &BTreeSet<&str>) -> Result<()> {
    finish(&sections(all, results, &[]), ids)
}

/// The page of a measurement.
#[cfg(test)]
fn conclude_html(all: &[Experiment], results: &Results) -> String {
    page::render(&sections(all, results, &[]))
}

/// Writes the page, looks whether all is there, prints the headline table for `ids`.
fn finish(sections: &[Section], ids: &BTreeSet<&str>) -> Result<()> {
    let html = page::render(sections);
    inspect::inspect(&html).context("the report is not what it should be")?;
    let path = path()?;
    fs::write(&path, html).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{}", headline(sections, ids));
    say::step("Report", &paths::show(&path));
    Ok(())
}

fn path() -> Result<PathBuf> {
    let directory = paths::target().join("report");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory.join("index.html"))
}

/// What is known of each experiment.
fn sections<'a>(all: &'a [Experiment], results: &Results, logs: &[Run]) -> Vec<Section<'a>> {
    let section = |experiment: &'a Experiment| {
        let mut measured = Vec::new();
        if let Some(plan) = results.plans.get(&experiment.id) {
            measured.push(from_plan(experiment, &plan.points, plan.quick, results));
        }
        measured.extend(hardware::measured(experiment, logs));
        Section { experiment, measured }
    };
    all.iter().map(section).collect()
}

/// What the runs of a plan mean.
fn from_plan(
    experiment: &Experiment,
    points: &[Planned],
    quick: bool,
    results: &Results,
) -> Measured {
    let (mut runs, mut failures) = (Vec::new(), Vec::new());
    for point in points {
        match results.runs.get(&point.inputs) {
            Some(run) if run.ok => runs.push((run.clone(), point.params.clone())),
            Some(run) => failures.push(format!("{}: {}", point.point, run.error)),
            None if point.error.is_empty() => {
                failures.push(format!("{}: not run yet", point.point));
            }
            None => failures.push(format!("{}: {}", point.point, point.error)),
        }
    }
    interpret(experiment, runs, quick, failures)
}

/// Figures and findings from runs with their parameters.
pub fn interpret(
    experiment: &Experiment,
    runs: Vec<(Run, Params)>,
    quick: bool,
    failures: Vec<String>,
) -> Measured {
    let observations: Vec<_> =
        runs.iter().flat_map(|(run, params)| observe::observations(run, params)).collect();
    let figures: Vec<Figure> =
        experiment.figure.iter().map(|spec| figure::build(spec, &observations)).collect();
    let findings = experiment.check.iter().map(|check| check.judge(&figures)).collect();
    let mut kept: Vec<Run> = Vec::new();
    for (run, _) in runs {
        if kept.iter().all(|known| known.inputs != run.inputs) {
            kept.push(run);
        }
    }
    Measured { label: String::new(), quick, figures, findings, runs: kept, failures }
}

/// An experiment's records, and its verdict as one more.
pub fn records(experiment: &Experiment, results: &Results) -> Vec<Value> {
    let Some(plan) = results.plans.get(&experiment.id) else { return Vec::new() };
    let measured = from_plan(experiment, &plan.points, plan.quick, results);
    let mut records: Vec<Value> = measured.runs.iter().flat_map(bench::flat_records).collect();
    records.push(verdict(experiment, &measured));
    records
}

/// A verdict as a record.
pub fn verdict(experiment: &Experiment, measured: &Measured) -> Value {
    let findings: Vec<Value> = measured
        .findings
        .iter()
        .map(|finding| json!({"holds": finding.holds, "text": finding.text}))
        .collect();
    json!({
        "kind": "verdict", "experiment": experiment.id, "quick": measured.quick,
        "verdict": measured.verdict().words(), "checks": findings, "failures": measured.failures,
    })
}

/// The words for a section's verdict.
fn verdict_words(section: &Section) -> &'static str {
    match section.measured.first() {
        None => "not run",
        Some(measured) if measured.runs.is_empty() => "could not run",
        Some(measured) => measured.verdict().words(),
    }
}

/// What to say beside a verdict: the check that decided it.
fn decisive(section: &Section) -> String {
    let Some(measured) = section.measured.first() else { return String::new() };
    if measured.runs.is_empty() {
        return measured.failures.first().cloned().unwrap_or_default();
    }
    let wanted = match measured.verdict() {
        Verdict::Holds => Some(true),
        Verdict::Not => Some(false),
        Verdict::Undecided => None,
    };
    let finding = measured.findings.iter().find(|finding| finding.holds == wanted);
    finding.map(|finding| finding.text.clone()).unwrap_or_default()
}

/// The headline table as text.
fn headline(sections: &[Section], ids: &BTreeSet<&str>) -> String {
    let mut out = format!("\n{:<4} {:<48} verdict\n", "", "experiment");
    for section in sections.iter().filter(|s| ids.contains(s.experiment.id.as_str())) {
        let experiment = section.experiment;
        out +=
            &format!("{:<4} {:<48} {}\n", experiment.id, experiment.title, verdict_words(section));
        let why = decisive(section);
        if !why.is_empty() {
            out += &format!("{:<4}   {why}\n", "");
        }
    }
    out.push('\n');
    out
}
