//! `cargo xtask sim` with a guest whose numbers mean something beside each other's only: IPC with and without
//! the locality mechanisms, the array walk in both systems. Runs what the experiments with that guest need (the
//! sizes of `--quick`), prints their figures as tables, and says what their rules find.

use super::{execute::Bench, flat_records};
use crate::{
    cli::{SimArgs, SimCaches},
    experiment::{
        Params, Run,
        check::show,
        figure::{Figure, FigureSpec},
        spec::{self, Experiment},
    },
    report, say,
};
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, fs};

/// Guests, and the experiments that compare runs of them.
const COMPARED: [(&str, &[&str]); 2] =
    [("pingpong", &["A2", "A3", "A4", "A5", "A6"]), ("arraywalk", &["A7", "A10"])];

/// The experiments that `args` mean, if they name no single run.
pub fn wanted(args: &SimArgs) -> Option<&'static [&'static str]> {
    let single = !args.append.is_empty()
        || args.remote
        || args.console
        || args.demand_local.is_some()
        || args.quantum.is_some();
    let (_, ids) = COMPARED.iter().find(|(name, _)| *name == args.name)?;
    (!single).then_some(*ids)
}

/// Runs and compares.
pub fn command(args: &SimArgs, ids: &[&str]) -> Result<u8> {
    let all = spec::load()?;
    let caches = caches(args.caches);
    let mut chosen: Vec<(&Experiment, Vec<(String, Params)>)> = Vec::new();
    let mut jobs = Vec::new();
    let bench = Bench::new()?;
    for experiment in all.iter().filter(|experiment| ids.contains(&experiment.id.as_str())) {
        let mut points = Vec::new();
        for point in experiment.points(true, Some(&args.machine))? {
            if point.caches != caches {
                continue;
            }
            let job = bench.prepare(&point)?;
            points.push((job.inputs.clone(), point.params));
            if jobs.iter().all(|known: &super::Job| known.inputs != job.inputs) {
                jobs.push(job);
            }
        }
        if !points.is_empty() {
            chosen.push((experiment, points));
        }
    }
    if chosen.is_empty() {
        bail!("nothing compares runs of {} with caches {caches}", args.name);
    }
    say::step("Simulating", &format!("{} on {}, {} runs", args.name, args.machine, jobs.len()));
    let mut runs: BTreeMap<String, Run> = BTreeMap::new();
    bench.run_each(jobs, |run| {
        if !run.ok {
            bail!("{}: {}", run.point, run.error);
        }
        runs.insert(run.inputs.clone(), run);
        Ok(())
    })?;
    let mut records: Vec<_> = runs.values().flat_map(flat_records).collect();
    for (experiment, points) in chosen {
        let of = |(inputs, params): (String, Params)| Some((runs.get(&inputs)?.clone(), params));
        let found = points.into_iter().filter_map(of).collect();
        let mut measured = report::interpret(experiment, found, true, Vec::new());
        // Rules about runs with the caches in the other state.
        measured.findings.retain(|finding| finding.holds.is_some());
        println!("\n{} {}", experiment.id, experiment.title);
        for (spec, figure) in experiment.figure.iter().zip(&measured.figures) {
            print!("{}", table(spec, figure));
        }
        for finding in &measured.findings {
            let word = if finding.holds == Some(true) { "holds" } else { "does not hold" };
            println!("  {word}: {}", finding.text);
        }
        records.push(report::verdict(experiment, &measured));
    }
    if let Some(path) = &args.json {
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(0)
}

const fn caches(caches: SimCaches) -> &'static str {
    match caches {
        SimCaches::On => "on",
        SimCaches::Off => "off",
        SimCaches::Ideal => "ideal",
    }
}

/// A figure's numbers: a row for each place, a column for each series.
fn table(spec: &FigureSpec, figure: &Figure) -> String {
    if figure.is_empty() {
        return String::new();
    }
    let mut out = format!("  Figure {}: {} ({})\n", spec.id, spec.title, spec.y_label);
    let places = figure.places();
    let first = places.iter().map(|p| p.len()).chain([spec.x_label.len()]).max().unwrap_or(0);
    let width = |name: &str| name.len().max(10);
    out += &format!("    {:first$}", spec.x_label);
    for series in &figure.series {
        out += &format!("  {:>1$}", series.name, width(&series.name));
    }
    out += "\n";
    for place in &places {
        out += &format!("    {place:first$}");
        for series in &figure.series {
            let value = series.at(place).map_or_else(|| "-".into(), show);
            out += &format!("  {value:>0$}", width(&series.name));
        }
        out += "\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::figure::{Point, Series};

    fn args(name: &str) -> SimArgs {
        SimArgs { append: String::new(), ..SimArgs::counting(name, "2n2c", "") }
    }

    #[test]
    fn a_single_run_can_still_be_asked_for() {
        assert!(wanted(&args("pingpong")).is_some_and(|ids| ids.contains(&"A5")));
        assert!(wanted(&args("arraywalk")).is_some_and(|ids| ids == ["A7", "A10"]));
        assert!(wanted(&args("boot")).is_none());
        assert!(wanted(&SimArgs { remote: true, ..args("pingpong") }).is_none());
        assert!(wanted(&SimArgs { append: "fastpath=off".into(), ..args("pingpong") }).is_none());
        let all = spec::load().unwrap();
        for id in COMPARED.iter().flat_map(|(_, ids)| *ids) {
            assert!(all.iter().any(|experiment| experiment.id == *id), "{id}");
        }
    }

    #[test]
    fn a_table_has_a_row_for_each_place() {
        let all = spec::load().unwrap();
        let a10 = all.iter().find(|experiment| experiment.id == "A10").unwrap();
        let point = |x: &str, y| Point { x: x.into(), y };
        let flat =
            Series { name: "flat".into(), points: vec![point("0", 20.0), point("50", 17.25)] };
        let numa = Series { name: "NUMA".into(), points: vec![point("0", 15.0)] };
        let figure = Figure { id: "5.14".into(), series: vec![flat, numa] };
        let text = table(&a10.figure[0], &figure);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 4, "{text}");
        assert!(rows[2].trim().starts_with('0') && rows[2].trim().ends_with("15"), "{text}");
        assert!(rows[3].contains("17.25") && rows[3].trim().ends_with('-'), "{text}");
        assert!(table(&a10.figure[0], &Figure { id: "x".into(), series: Vec::new() }).is_empty());
    }
}
