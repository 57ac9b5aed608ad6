//! The results: JSON lines that are only ever appended to.
//!
//! A line is a run (one boot with everything it printed) or a plan (which runs belong to an experiment). A run
//! is found again by the checksum of all that determines it, so a measurement that was interrupted goes on where
//! it stopped, and one whose inputs did not change is not made twice.

use crate::{
    experiment::{Params, Run},
    paths,
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// What belongs to an experiment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// Always `plan`.
    pub kind: String,
    /// Its id.
    pub experiment: String,
    /// Whether it was cut short with `--quick`.
    pub quick: bool,
    /// Its boots.
    pub points: Vec<Planned>,
}

/// A boot of a plan.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Planned {
    /// What is run.
    pub point: String,
    /// The run's checksum; empty if it could not even be prepared.
    pub inputs: String,
    /// Why it could not be prepared.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Its parameters in this experiment.
    pub params: Params,
}

/// All results.
#[derive(Debug, Default)]
pub struct Results {
    /// The last run for each checksum.
    pub runs: BTreeMap<String, Run>,
    /// The last plan of each experiment.
    pub plans: BTreeMap<String, Plan>,
    /// Host seconds that a point took last.
    pub seconds: BTreeMap<String, f64>,
    /// Lines that are neither (a line cut off by an interruption, or somebody else's records).
    pub others: usize,
}

impl Results {
    /// Takes apart the text of a results file.
    pub fn parse(text: &str) -> Results {
        let mut results = Results::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Ok(run) = serde_json::from_str::<Run>(line) {
                results.add_run(run);
            } else if let Ok(plan) = serde_json::from_str::<Plan>(line) {
                results.plans.insert(plan.experiment.clone(), plan);
            } else {
                results.others += 1;
            }
        }
        results
    }

    fn add_run(&mut self, run: Run) {
        if run.ok {
            self.seconds.insert(run.point.clone(), run.seconds);
        }
        self.runs.insert(run.inputs.clone(), run);
    }
}

/// The file and what is in it.
pub struct Store {
    path: PathBuf,
    file: File,
    /// Its contents.
    pub results: Results,
}

impl Store {
    /// The one file of this checkout.
    pub fn path() -> Result<PathBuf> {
        let directory = paths::target().join("lokal/results");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory.join("results.jsonl"))
    }

    /// Opens it for appending.
    pub fn open(path: &Path) -> Result<Store> {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        if !text.is_empty() && !text.ends_with('\n') {
            // An interruption cut the last line off: what comes now begins on a line of its own.
            writeln!(file)?;
        }
        Ok(Store { path: path.into(), file, results: Results::parse(&text) })
    }

    /// Adds a run.
    pub fn add_run(&mut self, run: Run) -> Result<()> {
        self.write(&serde_json::to_string(&run)?)?;
        self.results.add_run(run);
        Ok(())
    }

    /// Adds a plan, unless it is the last one already.
    pub fn add_plan(&mut self, plan: Plan) -> Result<()> {
        if self.results.plans.get(&plan.experiment) != Some(&plan) {
            self.write(&serde_json::to_string(&plan)?)?;
            self.results.plans.insert(plan.experiment.clone(), plan);
        }
        Ok(())
    }

    fn write(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}")
            .and_then(|()| self.file.flush())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(inputs: &str, ok: bool) -> Run {
        Run {
            kind: "run".into(),
            point: "p".into(),
            inputs: inputs.into(),
            ok,
            error: String::new(),
            seconds: 2.5,
            conditions: Params::new(),
            records: Vec::new(),
        }
    }

    #[test]
    fn an_interrupted_file_is_continued() {
        let path = std::env::temp_dir().join(format!("lokal-store-{}", std::process::id()));
        let whole = serde_json::to_string(&run("one", true)).unwrap();
        fs::write(&path, format!("{whole}\n{}", &whole[..20])).unwrap();
        let mut store = Store::open(&path).unwrap();
        assert!(store.results.runs["one"].ok);
        assert_eq!((store.results.others, store.results.seconds["p"]), (1, 2.5));
        store.add_run(run("two", false)).unwrap();
        let plan =
            Plan { kind: "plan".into(), experiment: "A1".into(), quick: true, points: Vec::new() };
        store.add_plan(plan.clone()).unwrap();
        store.add_plan(plan.clone()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4, "the same plan is not written twice");
        let again = Results::parse(&text);
        assert_eq!(again.runs.len(), 2);
        assert!(!again.runs["two"].ok);
        assert_eq!(again.plans["A1"], plan);
        fs::remove_file(path).unwrap();
    }
}
