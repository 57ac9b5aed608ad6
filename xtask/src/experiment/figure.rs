//! Figures: which numbers stand over which parameter.

use super::observe::Observation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a figure shows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigureSpec {
    /// The source's number, or a word; unique in the experiment.
    pub id: String,
    /// A line.
    pub title: String,
    /// How it is drawn.
    #[serde(default)]
    pub kind: Kind,
    /// Only observations with one of these values for each parameter; `x*` is what begins with `x`.
    #[serde(default)]
    pub filter: BTreeMap<String, OneOrMany>,
    /// The parameter on the x axis; several are joined.
    pub x: OneOrMany,
    /// What it means, with its unit.
    pub x_label: String,
    /// Metrics on the y axis; with more than one each makes its own series.
    pub y: OneOrMany,
    /// What they mean, with the unit.
    pub y_label: String,
    /// Parameters that tell series apart.
    #[serde(default)]
    pub series: Vec<String>,
    /// What is done with several observations of a point (such as those of several CPUs).
    #[serde(default)]
    pub over: Over,
    /// Factor on the y axis.
    #[serde(default = "one")]
    pub scale: f64,
    /// Logarithmic y axis.
    #[serde(default)]
    pub log: bool,
    /// Names for people, by value, or by `parameter=value`: a number may be a CPU here and a count there.
    #[serde(default)]
    pub names: BTreeMap<String, String>,
}

const fn one() -> f64 {
    1.0
}

/// How a figure is drawn.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Lines over a numeric axis.
    #[default]
    Lines,
    /// Bars, a group for each x.
    Bars,
}

/// What is done with several observations of a point.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// The largest.
    #[default]
    Max,
    /// The smallest.
    Min,
    /// All together.
    Sum,
    /// The mean.
    Mean,
}

/// A word or a list of words.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn words(&self) -> &[String] {
        match self {
            OneOrMany::One(word) => std::slice::from_ref(word),
            OneOrMany::Many(words) => words,
        }
    }
}

/// A figure with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The source's number, or a word.
    pub id: String,
    /// Lines, or groups of bars.
    pub series: Vec<Series>,
}

/// A line of a figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// What distinguishes it.
    pub name: String,
    /// Its points, in the order of the x axis.
    pub points: Vec<Point>,
}

/// A point of a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Where it stands, as a word.
    pub x: String,
    /// Its value.
    pub y: f64,
}

impl Figure {
    /// Whether there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// The series with this name.
    pub fn series(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }

    /// All places on the x axis, each once, in order.
    pub fn places(&self) -> Vec<String> {
        let mut places: Vec<String> = Vec::new();
        for point in self.series.iter().flat_map(|series| &series.points) {
            if !places.contains(&point.x) {
                places.push(point.x.clone());
            }
        }
        let numeric = places.iter().all(|place| place.parse::<f64>().is_ok());
        if numeric {
            places.sort_by(|a, b| number(a).total_cmp(&number(b)));
        }
        places
    }
}

impl Series {
    /// The value at `x`.
    pub fn at(&self, x: &str) -> Option<f64> {
        self.points.iter().find(|point| point.x == x).map(|point| point.y)
    }
}

/// A place on a numeric axis.
pub fn number(place: &str) -> f64 {
    place.parse().unwrap_or(f64::NAN)
}

/// A map that keeps the order in which its names were met.
type Named<T> = Vec<(String, T)>;

/// The figure that `spec` describes, from all observations.
pub fn build(spec: &FigureSpec, observations: &[Observation]) -> Figure {
    // Series and points in the order in which they are met; the numbers of all that fall together.
    let mut found: Named<Named<Vec<f64>>> = Vec::new();
    let named = |what: &str, value: &str| {
        let of_this = spec.names.get(&format!("{what}={value}"));
        of_this.or(spec.names.get(value)).cloned().unwrap_or_else(|| value.to_string())
    };
    for observation in observations.iter().filter(|o| matches(spec, o)) {
        let place: Option<Vec<String>> = spec
            .x
            .words()
            .iter()
            .map(|name| observation.params.get(name).map(|v| named(name, v)))
            .collect();
        let Some(place) = place else { continue };
        for metric in spec.y.words() {
            let Some(value) = observation.metrics.get(metric) else { continue };
            let mut parts: Vec<String> = spec
                .series
                .iter()
                .map(|name| named(name, observation.params.get(name).map_or("", String::as_str)))
                .collect();
            if spec.y.words().len() > 1 {
                parts.push(named("", metric));
            }
            parts.retain(|part| !part.is_empty());
            let name = if parts.is_empty() { named("", metric) } else { parts.join(", ") };
            let points = entry(&mut found, name);
            entry(points, place.join(", ")).push(value * spec.scale);
        }
    }
    let mut series: Vec<Series> = found
        .into_iter()
        .map(|(name, points)| {
            let points =
                points.into_iter().map(|(x, values)| Point { x, y: join(spec.over, &values) });
            Series { name, points: points.collect() }
        })
        .collect();
    for line in &mut series {
        if line.points.iter().all(|point| point.x.parse::<f64>().is_ok()) {
            line.points.sort_by(|a, b| number(&a.x).total_cmp(&number(&b.x)));
        }
    }
    Figure { id: spec.id.clone(), series }
}

fn entry<T: Default>(list: &mut Named<T>, name: String) -> &mut T {
    let at = list.iter().position(|(known, _)| *known == name).unwrap_or(list.len());
    if at == list.len() {
        list.push((name, T::default()));
    }
    &mut list[at].1
}

fn matches(spec: &FigureSpec, observation: &Observation) -> bool {
    spec.filter.iter().all(|(name, wanted)| {
        let fits = |value: &String, word: &String| match word.strip_suffix('*') {
            Some(start) => value.starts_with(start),
            None => value == word,
        };
        let value = observation.params.get(name);
        value.is_some_and(|value| wanted.words().iter().any(|word| fits(value, word)))
    })
}

fn join(over: Over, values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    match over {
        Over::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Over::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
        Over::Sum => sum,
        Over::Mean => sum / values.len().max(1) as f64,
    }
}
