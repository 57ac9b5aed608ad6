//! The rules by which a figure's shape is judged: pure functions over its numbers.
//!
//! A check says what it demands and what it found, in one sentence with the computed numbers. Numbers that
//! are missing make it undecided, never fulfilled.

use super::figure::{Figure, Series, number};
use serde::Deserialize;

/// A rule with its parameters, as it stands in an experiment's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// At each place all series differ by a factor of at most `within`.
    Equal { figure: String, within: f64 },
    /// All values of `series` (of all series without it) lie in a range.
    Range {
        figure: String,
        series: Option<String>,
        #[serde(default)]
        at_least: Option<f64>,
        #[serde(default)]
        at_most: Option<f64>,
    },
    /// `a` / `b` lies in a range at each place (at `places` only, if given).
    Ratio {
        figure: String,
        a: String,
        b: String,
        at_least: Option<f64>,
        at_most: Option<f64>,
        places: Option<Vec<String>>,
    },
    /// In each series (or in `series`) the value at `a` over that at `b` lies in a range.
    Places {
        figure: String,
        series: Option<String>,
        a: String,
        b: String,
        at_least: Option<f64>,
        at_most: Option<f64>,
    },
    /// In each series the values at these places go down, each by at least the factor `by`.
    Falling {
        figure: String,
        series: Option<String>,
        places: Vec<String>,
        #[serde(default = "one")]
        by: f64,
    },
    /// `a` begins above `b` and ends below it; they cross between `from` and `to`.
    Cross { figure: String, a: String, b: String, from: Option<f64>, to: Option<f64> },
    /// The largest value of each series (or of `series`) is at most `within` times the smallest.
    Flat { figure: String, series: Option<String>, within: f64 },
    /// What `a` grows by from its first place to its last, over what `b` grows by, lies in a range.
    Growth { figure: String, a: String, b: String, at_least: Option<f64>, at_most: Option<f64> },
    /// At each place no value is above `offset` + `slope` times the place.
    AtMostLine { figure: String, slope: f64, offset: f64 },
    /// A line through the points explains at least `r2` of the values, and rises.
    Linear { figure: String, series: String, r2: f64 },
}

const fn one() -> f64 {
    1.0
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Whether it holds; `None` if numbers are missing.
    pub holds: Option<bool>,
    /// The demand and the numbers.
    pub text: String,
}

/// What an experiment's checks mean together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All hold.
    Holds,
    /// At least one does not.
    Not,
    /// Numbers are missing.
    Undecided,
}

impl Verdict {
    /// All of `findings` together. Without any there is nothing to hold.
    pub fn of(findings: &[Finding]) -> Verdict {
        if findings.iter().any(|finding| finding.holds == Some(false)) {
            Verdict::Not
        } else if findings.is_empty() || findings.iter().any(|finding| finding.holds.is_none()) {
            Verdict::Undecided
        } else {
            Verdict::Holds
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Holds => "shape holds",
            Verdict::Not => "shape does not hold",
            Verdict::Undecided => "not decided",
        }
    }
}

/// A number as people read it.
pub fn show(value: f64) -> String {
    // An empty sum is -0.
    let value = if value == 0.0 { 0.0 } else { value };
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.1}").replace(".0", ""),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Demanded range in words.
fn range(at_least: Option<f64>, at_most: Option<f64>) -> String {
    match (at_least, at_most) {
        (Some(low), Some(high)) => format!("between {} and {}", show(low), show(high)),
        (Some(low), None) => format!("at least {}", show(low)),
        (None, Some(high)) => format!("at most {}", show(high)),
        (None, None) => "anything".into(),
    }
}

fn inside(value: f64, at_least: Option<f64>, at_most: Option<f64>) -> bool {
    value >= at_least.unwrap_or(f64::NEG_INFINITY) && value <= at_most.unwrap_or(f64::INFINITY)
}

fn missing(what: &str) -> Finding {
    Finding { holds: None, text: format!("cannot be judged: {what} is missing") }
}

impl Check {
    /// The figure it looks at.
    pub fn figure(&self) -> &str {
        match self {
            Check::Equal { figure, .. }
            | Check::Range { figure, .. }
            | Check::Ratio { figure, .. }
            | Check::Places { figure, .. }
            | Check::Falling { figure, .. }
            | Check::Cross { figure, .. }
            | Check::Flat { figure, .. }
            | Check::AtMostLine { figure, .. }
            | Check::Growth { figure, .. }
            | Check::Linear { figure, .. } => figure,
        }
    }

    /// Judges the figure among `figures` that it is about.
    pub fn judge(&self, figures: &[Figure]) -> Finding {
        let Some(figure) = figures.iter().find(|f| f.id == self.figure() && !f.is_empty()) else {
            return missing(&format!("figure {}", self.figure()));
        };
        let mut finding = match self {
            Check::Equal { within, .. } => equal(figure, *within),
            Check::Range { series, at_least, at_most, .. } => {
                in_range(figure, series.as_deref(), *at_least, *at_most)
            }
            Check::Ratio { a, b, at_least, at_most, places, .. } => {
                ratio(figure, (a, b), (*at_least, *at_most), places.as_deref())
            }
            Check::Places { series, a, b, at_least, at_most, .. } => {
                places(figure, series.as_deref(), (a, b), (*at_least, *at_most))
            }
            Check::Falling { series, places, by, .. } => {
                falling(figure, series.as_deref(), places, *by)
            }
            Check::Cross { a, b, from, to, .. } => cross(figure, (a, b), (*from, *to)),
            Check::Flat { series, within, .. } => flat(figure, series.as_deref(), *within),
            Check::Growth { a, b, at_least, at_most, .. } => {
                growth(figure, (a, b), (*at_least, *at_most))
            }
            Check::AtMostLine { slope, offset, .. } => under(figure, *slope, *offset),
            Check::Linear { series, r2, .. } => linear(figure, series, *r2),
        };
        finding.text = format!("Figure {}: {}", figure.id, finding.text);
        finding
    }
}

/// The series that a check is about: that one, or all.
fn chosen<'a>(figure: &'a Figure, name: Option<&str>) -> Option<Vec<&'a Series>> {
    match name {
        Some(name) => Some(vec![figure.series(name).filter(|series| !series.points.is_empty())?]),
        None => Some(figure.series.iter().collect()),
    }
}

fn bounds(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    values
        .into_iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

fn equal(figure: &Figure, within: f64) -> Finding {
    let mut worst: f64 = 1.0;
    let mut compared = 0;
    for place in figure.places() {
        let values: Vec<f64> = figure.series.iter().filter_map(|s| s.at(&place)).collect();
        compared += usize::from(values.len() > 1);
        let (low, high) = bounds(values);
        // Equal zeroes are equal.
        let factor = if high == low { 1.0 } else { high / low };
        worst = worst.max(factor);
    }
    if compared == 0 {
        return missing("a second series");
    }
    let text = format!(
        "all series within a factor of {} at each place; the widest is {}",
        show(within),
        show(worst)
    );
    Finding { holds: Some(worst <= within), text }
}

fn in_range(figure: &Figure, name: Option<&str>, low: Option<f64>, high: Option<f64>) -> Finding {
    let Some(series) = chosen(figure, name) else { return missing(name.unwrap_or("")) };
    let values = series.iter().flat_map(|s| &s.points).map(|point| point.y);
    let (least, most) = bounds(values);
    let text = format!(
        "{} {}; found {} to {}",
        name.unwrap_or("all values"),
        range(low, high),
        show(least),
        show(most)
    );
    Finding { holds: Some(inside(least, low, high) && inside(most, low, high)), text }
}

fn ratio(
    figure: &Figure,
    (a, b): (&str, &str),
    (low, high): (Option<f64>, Option<f64>),
    at: Option<&[String]>,
) -> Finding {
    let (Some(first), Some(second)) = (figure.series(a), figure.series(b)) else {
        return missing(&format!("'{a}' or '{b}'"));
    };
    let places = at.map_or_else(|| figure.places(), <[String]>::to_vec);
    let mut ratios = Vec::new();
    for place in &places {
        match (first.at(place), second.at(place)) {
            (Some(x), Some(y)) => ratios.push(x / y),
            _ if at.is_some() => return missing(&format!("the value at {place}")),
            _ => {}
        }
    }
    if ratios.is_empty() {
        return missing("a place that both have");
    }
    let (least, most) = bounds(ratios.iter().copied());
    let found =
        if ratios.len() == 1 { show(least) } else { format!("{} to {}", show(least), show(most)) };
    let text = format!(
        "{a} over {b} {}{}; found {found}",
        range(low, high),
        at.map(|at| format!(" at {}", at.join(", "))).unwrap_or_default(),
    );
    Finding { holds: Some(ratios.iter().all(|r| inside(*r, low, high))), text }
}

fn places(
    figure: &Figure,
    name: Option<&str>,
    (a, b): (&str, &str),
    (low, high): (Option<f64>, Option<f64>),
) -> Finding {
    let Some(series) = chosen(figure, name) else { return missing(name.unwrap_or("")) };
    let pairs = series.iter().map(|s| Some((s.name.as_str(), s.at(a)? / s.at(b)?)));
    let Some(pairs) = pairs.collect::<Option<Vec<_>>>().filter(|pairs| !pairs.is_empty()) else {
        return missing(&format!("the value at {a} or {b}"));
    };
    let found: Vec<String> =
        pairs.iter().map(|(name, r)| format!("{} ({name})", show(*r))).collect();
    let text = format!("{a} over {b} {}; found {}", range(low, high), found.join(", "));
    Finding { holds: Some(pairs.iter().all(|(_, r)| inside(*r, low, high))), text }
}

fn falling(figure: &Figure, name: Option<&str>, order: &[String], by: f64) -> Finding {
    let Some(series) = chosen(figure, name) else { return missing(name.unwrap_or("")) };
    let mut holds = true;
    let mut found = Vec::new();
    for line in series {
        let values: Option<Vec<f64>> = order.iter().map(|place| line.at(place)).collect();
        let Some(values) = values else {
            return missing(&format!("one of {} in {}", order.join(", "), line.name));
        };
        holds &= values.windows(2).all(|pair| pair[1] * by <= pair[0] && pair[1] < pair[0]);
        let values: Vec<String> = values.iter().map(|v| show(*v)).collect();
        found.push(format!("{} ({})", values.join(" > "), line.name));
    }
    let factor =
        if by > 1.0 { format!(" by a factor of {} or more", show(by)) } else { String::new() };
    let text =
        format!("falls{factor} in the order {}; found {}", order.join(", "), found.join("; "));
    Finding { holds: Some(holds), text }
}

/// Where `a` - `b` changes its sign for the last time, by linear interpolation.
fn crossing(a: &Series, b: &Series) -> Option<f64> {
    let difference: Vec<(f64, f64)> =
        a.points.iter().filter_map(|p| Some((number(&p.x), p.y - b.at(&p.x)?))).collect();
    let pair = difference.windows(2).rfind(|pair| pair[0].1 > 0.0 && pair[1].1 <= 0.0)?;
    let ((x0, d0), (x1, d1)) = (pair[0], pair[1]);
    Some(x0 + (x1 - x0) * d0 / (d0 - d1))
}

fn cross(figure: &Figure, (a, b): (&str, &str), (from, to): (Option<f64>, Option<f64>)) -> Finding {
    let (Some(first), Some(second)) = (figure.series(a), figure.series(b)) else {
        return missing(&format!("'{a}' or '{b}'"));
    };
    let common: Vec<&String> =
        first.points.iter().map(|p| &p.x).filter(|x| second.at(x).is_some()).collect();
    let (Some(start), Some(end)) = (common.first(), common.last()) else {
        return missing("a place that both have");
    };
    let begins = |x: &str| match (first.at(x), second.at(x)) {
        (Some(p), Some(q)) => p > q,
        _ => false,
    };
    let (above, below) = (begins(start), !begins(end));
    let at = crossing(first, second).filter(|_| above && below);
    let wanted = match (from, to) {
        (None, None) => String::new(),
        (from, to) => format!(", crossing at {}", range(from, to)),
    };
    let found = match at {
        Some(x) => format!("they cross at {}", show(x)),
        None if !above => format!("{a} is not above at {start}"),
        None => format!("{a} is still above at {end}"),
    };
    let text = format!("{a} begins above {b} and ends below{wanted}; found: {found}");
    Finding { holds: Some(at.is_some_and(|x| inside(x, from, to))), text }
}

fn flat(figure: &Figure, name: Option<&str>, within: f64) -> Finding {
    let Some(series) = chosen(figure, name) else { return missing(name.unwrap_or("")) };
    if series.iter().any(|line| line.points.len() < 2) {
        return missing("a second point");
    }
    let spread = |line: &&Series| {
        let (low, high) = bounds(line.points.iter().map(|point| point.y));
        if high == low { 1.0 } else { high / low }
    };
    let worst = series.iter().map(spread).fold(1.0, f64::max);
    let text = format!(
        "{} flat within a factor of {}; largest over smallest is {}",
        name.unwrap_or("each series"),
        show(within),
        show(worst)
    );
    Finding { holds: Some(worst <= within), text }
}

fn growth(
    figure: &Figure,
    (a, b): (&str, &str),
    (low, high): (Option<f64>, Option<f64>),
) -> Finding {
    let grows = |name: &str| -> Option<f64> {
        let points = &figure.series(name)?.points;
        (points.len() > 1).then(|| points[points.len() - 1].y - points[0].y)
    };
    let (Some(first), Some(second)) = (grows(a), grows(b)) else {
        return missing(&format!("'{a}' or '{b}', or a second point of it"));
    };
    let text = format!(
        "what {a} grows by over what {b} grows by {}; found {} over {}, which is {}",
        range(low, high),
        show(first),
        show(second),
        show(first / second)
    );
    Finding { holds: Some(second > 0.0 && inside(first / second, low, high)), text }
}

fn under(figure: &Figure, slope: f64, offset: f64) -> Finding {
    let points = || figure.series.iter().flat_map(|line| &line.points);
    let excess = points().map(|point| point.y - (offset + slope * number(&point.x)));
    let worst = excess.fold(f64::NEG_INFINITY, f64::max);
    let found: Vec<String> = points().map(|p| format!("{} at {}", show(p.y), p.x)).collect();
    let text = format!(
        "at most {} x place {}; found {}",
        show(slope),
        if offset < 0.0 { format!("- {}", show(-offset)) } else { format!("+ {}", show(offset)) },
        found.join(", ")
    );
    Finding { holds: Some(worst <= 0.0), text }
}

fn linear(figure: &Figure, name: &str, wanted: f64) -> Finding {
    let Some(line) = figure.series(name) else { return missing(name) };
    let points: Vec<(f64, f64)> = line.points.iter().map(|p| (number(&p.x), p.y)).collect();
    if points.len() < 3 {
        return missing("a third point");
    }
    let n = points.len() as f64;
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (mx, my) = (mean(&|p| p.0), mean(&|p| p.1));
    let covariance = mean(&|p| (p.0 - mx) * (p.1 - my));
    let (vx, vy) = (mean(&|p| (p.0 - mx).powi(2)), mean(&|p| (p.1 - my).powi(2)));
    let slope = covariance / vx;
    let r2 = if vy > 0.0 { covariance.powi(2) / (vx * vy) } else { 0.0 };
    let text = format!(
        "{name} is a rising line (R\u{b2} at least {wanted}); R\u{b2} is {r2:.3}, {} for each more",
        show(slope)
    );
    Finding { holds: Some(r2 >= wanted && slope > 0.0), text }
}
