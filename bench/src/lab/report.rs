//! Results as records, with their conditions: what the report and the checks read.

use super::measure::{Summary, Unstable};
use core::fmt;
use l4abi::record::{Line, Measurement};
use libl4::console;

/// What a number is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The experiment.
    pub bench: &'a str,
    /// The variant or point of it.
    pub variant: &'a str,
    /// What was measured.
    pub metric: &'a str,
    /// Unit of the numbers.
    pub unit: &'a str,
    /// Parameters of the point.
    pub parameters: &'a [(&'a str, u64)],
}

impl Subject<'_> {
    /// Prints a series: a `result` record, or an `unstable` one with the reason.
    pub fn series(&self, series: Result<Summary, Unstable>) {
        console::record(|out| self.write_series(out, series));
    }

    fn write_series<W: fmt::Write>(
        &self,
        out: &mut W,
        series: Result<Summary, Unstable>,
    ) -> fmt::Result {
        let Self { bench, variant, metric, unit, parameters } = *self;
        match series {
            Ok(Summary { median, p90, p99, min, max, n }) => {
                let measurement =
                    Measurement { bench, variant, metric, unit, value: median, min, max, n };
                measurement.write_with(out, |line| {
                    line.num("p90", p90).num("p99", p99);
                    for &(name, value) in parameters {
                        line.num(name, value);
                    }
                })
            }
            Err(why) => {
                let mut line = Line::begin(out, "unstable");
                line.str("bench", bench).str("variant", variant).str("metric", metric);
                line.str("why", why.reason());
                for &(name, value) in parameters {
                    line.num(name, value);
                }
                line.end()
            }
        }
    }

    /// Prints a single number: `value` over `n` repetitions.
    pub fn number(&self, value: u64, n: u64) {
        let one = Summary { median: value, p90: value, p99: value, min: value, max: value, n };
        self.series(Ok(one));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_carry_their_parameters() {
        let subject = Subject {
            bench: "b",
            variant: "v",
            metric: "m",
            unit: "cycles",
            parameters: &[("words", 7)],
        };
        let summary = Summary { median: 2, p90: 3, p99: 4, min: 1, max: 9, n: 8 };
        let mut text = String::new();
        subject.write_series(&mut text, Ok(summary)).unwrap();
        assert!(text.contains("\"kind\":\"result\"") && text.contains("\"value\":2,"), "{text}");
        assert!(text.contains("\"p99\":4,\"words\":7}"), "{text}");
        text.clear();
        subject.write_series(&mut text, Err(Unstable::TooFew)).unwrap();
        assert!(text.contains("\"kind\":\"unstable\"") && text.contains("\"words\":7"), "{text}");
        assert!(!text.contains("value"), "an unstable series has no value: {text}");
    }
}
