//! The files in `xtask/experiments/`.

use super::{Params, check::Check, figure::FigureSpec};
use crate::{cli::SimCaches, paths};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// An experiment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// As in the sources: `A7`, `B2`...
    pub id: String,
    /// What several experiments with one guest program are called together on the command line.
    pub name: String,
    /// A line.
    pub title: String,
    /// Document, section, figures.
    pub source: String,
    /// What the source says must come out, in our words.
    pub statement: String,
    /// What a reader has to know about our numbers.
    #[serde(default)]
    pub note: String,
    /// Shown if the shape does not hold: why, as far as it was found out.
    #[serde(default)]
    pub reason: String,
    /// What is run.
    #[serde(default)]
    pub run: Vec<RunSpec>,
    /// What is drawn.
    #[serde(default)]
    pub figure: Vec<FigureSpec>,
    /// By what the shape is judged; all must hold.
    #[serde(default)]
    pub check: Vec<Check>,
}

/// A family of boots: one for each combination of the values in `matrix`, which stand for `{name}` in
/// every text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Guest program.
    pub program: String,
    /// Where it runs.
    #[serde(default)]
    pub place: Place,
    /// What executes it.
    #[serde(default)]
    pub with: With,
    /// Machine shape.
    #[serde(default = "default_machine")]
    pub machine: String,
    /// How the instrument models caches.
    #[serde(default = "default_caches")]
    pub caches: String,
    /// Kernel options.
    #[serde(default)]
    pub options: String,
    /// The program's arguments, where it is a task.
    #[serde(default)]
    pub args: Vec<String>,
    /// Further keys of the manifest, where it is a task.
    #[serde(default)]
    pub manifest: BTreeMap<String, toml::Value>,
    /// Parameters and their values.
    #[serde(default)]
    pub matrix: BTreeMap<String, Vec<toml::Value>>,
    /// Values instead of these with `--quick`.
    #[serde(default)]
    pub quick: BTreeMap<String, Vec<toml::Value>>,
    /// Whether `--quick` runs it.
    #[serde(default = "yes")]
    pub in_quick: bool,
    /// Largest lead of one modelled clock over another, instead of the machine's: larger is faster, and
    /// right where CPUs seldom wait for each other.
    pub quantum: Option<u64>,
    /// Time limit in seconds.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In the root task's place.
    #[default]
    Root,
    /// As a task of the system with application pagers.
    Task,
}

/// What executes a program.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum With {
    /// The placement instrument.
    #[default]
    Sim,
    /// The emulator alone.
    Emulator,
    /// The table of kernel paths, which is two runs in the instrument and sums over them.
    Paths,
}

fn default_machine() -> String {
    "2n2c".into()
}

fn default_caches() -> String {
    "on".into()
}

const fn default_timeout() -> u64 {
    600
}

const fn yes() -> bool {
    true
}

/// One boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Guest program.
    pub program: String,
    /// Where it runs.
    pub place: Place,
    /// What executes it.
    pub with: With,
    /// Machine shape.
    pub machine: String,
    /// How the instrument models caches.
    pub caches: String,
    /// Kernel options.
    pub options: String,
    /// Largest lead of one modelled clock over another, if not the machine's.
    pub quantum: Option<u64>,
    /// The manifest, where it is a task.
    pub manifest: Option<String>,
    /// The matrix' values.
    pub params: Params,
    /// Time limit in seconds.
    pub timeout: u64,
}

impl Point {
    /// What tells it from other boots. Parameters do not: two experiments may look at one boot.
    pub fn key(&self) -> String {
        let manifest = match &self.manifest {
            Some(text) => format!(" task {:08x}", l4abi::archive::crc32(text.as_bytes())),
            None => String::new(),
        };
        let with = match self.with {
            With::Sim => match self.quantum {
                Some(quantum) => format!("caches {}, quantum {quantum}", self.caches),
                None => format!("caches {}", self.caches),
            },
            With::Emulator => "emulator".into(),
            With::Paths => "counted".into(),
        };
        let options = format!(" {}", self.options);
        format!("{} on {}, {with}{}{manifest}", self.program, self.machine, options.trim_end())
    }

    /// How the instrument models caches.
    pub fn caches(&self) -> Result<SimCaches> {
        Ok(match self.caches.as_str() {
            "on" => SimCaches::On,
            "off" => SimCaches::Off,
            "ideal" => SimCaches::Ideal,
            other => bail!("caches = '{other}' is none of on, off, ideal"),
        })
    }
}

/// The directory of the files.
fn directory() -> PathBuf {
    paths::root().join("xtask/experiments")
}

/// All experiments, in the order of their ids.
pub fn load() -> Result<Vec<Experiment>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory()).context("cannot read xtask/experiments")? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        all.push(parse(&text).with_context(|| format!("{} is wrong", paths::show(&path)))?);
    }
    all.sort_by_key(|experiment| order(&experiment.id));
    for pair in all.windows(2) {
        ensure!(pair[0].id != pair[1].id, "two experiments are called {}", pair[0].id);
    }
    Ok(all)
}

/// Takes apart the text of a file.
pub fn parse(text: &str) -> Result<Experiment> {
    let experiment: Experiment =
        toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", crate::toml_error(text, &e)))?;
    for check in &experiment.check {
        let figure = check.figure();
        ensure!(
            experiment.figure.iter().any(|known| known.id == figure),
            "a check names the figure '{figure}', which is not there"
        );
    }
    for quick in [false, true] {
        for point in experiment.points(quick, None)? {
            point.caches()?;
        }
    }
    Ok(experiment)
}

/// `A10` comes behind `A9`.
fn order(id: &str) -> (String, u32, String) {
    let letters: String = id.chars().take_while(|c| c.is_alphabetic()).collect();
    let digits: String = id[letters.len()..].chars().take_while(char::is_ascii_digit).collect();
    let rest = id[letters.len() + digits.len()..].to_string();
    (letters, digits.parse().unwrap_or(0), rest)
}

impl Experiment {
    /// All boots, each with its parameters; `machine` instead of their own.
    pub fn points(&self, quick: bool, machine: Option<&str>) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        for run in self.run.iter().filter(|run| run.in_quick || !quick) {
            for params in combinations(run, quick)? {
                points.push(point(run, params, machine));
            }
        }
        Ok(points)
    }
}

/// Each combination of the parameters' values.
fn combinations(run: &RunSpec, quick: bool) -> Result<Vec<Params>> {
    let mut all = vec![Params::new()];
    for (name, values) in &run.matrix {
        let values = run.quick.get(name).filter(|_| quick).unwrap_or(values);
        let mut longer = Vec::new();
        for params in &all {
            for value in values {
                let text = match value {
                    toml::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let mut params = params.clone();
                params.insert(name.clone(), text);
                longer.push(params);
            }
        }
        all = longer;
    }
    if let Some(unknown) = run.quick.keys().find(|name| !run.matrix.contains_key(*name)) {
        bail!("quick has values for '{unknown}', which is not in the matrix");
    }
    Ok(all)
}

/// `text` with the parameters' values in it.
fn fill(text: &str, params: &Params) -> String {
    params
        .iter()
        .fold(text.to_string(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

fn point(run: &RunSpec, params: Params, machine: Option<&str>) -> Point {
    let machine = machine.map_or_else(|| fill(&run.machine, &params), str::to_string);
    let manifest = (run.place == Place::Task).then(|| manifest(run, &params));
    Point {
        program: run.program.clone(),
        place: run.place,
        with: run.with,
        caches: fill(&run.caches, &params),
        options: fill(&run.options, &params),
        quantum: run.quantum,
        timeout: run.timeout,
        machine,
        manifest,
        params,
    }
}

/// The manifest that starts the program as a task.
fn manifest(run: &RunSpec, params: &Params) -> String {
    let mut top = toml::Table::new();
    for (name, module) in [("sigma0", "sigma0"), ("roottask", "roottask"), ("pager", "app_pager")] {
        top.insert(name.into(), module.into());
    }
    for (name, value) in &run.manifest {
        let value = match value {
            toml::Value::String(text) => {
                let text = fill(text, params);
                text.parse::<i64>().map_or_else(|_| text.into(), toml::Value::from)
            }
            other => other.clone(),
        };
        top.insert(name.clone(), value);
    }
    let mut program = toml::Table::new();
    program.insert("name".into(), run.program.clone().into());
    program.insert("module".into(), run.program.clone().into());
    let args: Vec<String> = run.args.iter().map(|arg| fill(arg, params)).collect();
    program.insert("args".into(), args.into());
    top.insert("program".into(), toml::Value::Array(vec![program.into()]));
    format!("# Written by `cargo xtask bench`.\n{top}")
}
