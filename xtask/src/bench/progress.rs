//! How far a measurement is and how long it will take: a bar on a terminal, plain lines elsewhere.

use crate::say;
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

/// Width of the bar.
const WIDTH: usize = 24;

/// The state of a measurement.
pub struct Progress {
    terminal: bool,
    started: Instant,
    workers: usize,
    total: usize,
    done: usize,
    /// Seconds that are to be expected for what is not done.
    expected: BTreeMap<String, f64>,
    /// Seconds taken where nothing was expected.
    measured: Vec<f64>,
}

impl Progress {
    /// `points` are to be measured by `workers` at a time; `seconds` is what they took before.
    pub fn new<'a>(
        points: impl Iterator<Item = &'a str>,
        seconds: &BTreeMap<String, f64>,
        workers: usize,
    ) -> Self {
        let unknown = f64::NAN;
        let expected: BTreeMap<String, f64> = points
            .map(|point| (point.to_string(), *seconds.get(point).unwrap_or(&unknown)))
            .collect();
        Self {
            terminal: stderr().is_terminal(),
            started: Instant::now(),
            workers: workers.max(1),
            total: expected.len(),
            done: 0,
            expected,
            measured: Vec::new(),
        }
    }

    /// Time to go, as far as can be said.
    fn remaining(&self) -> Option<Duration> {
        let known: Vec<f64> = self.expected.values().copied().filter(|s| s.is_finite()).collect();
        let unknown = self.expected.len() - known.len();
        let samples: Vec<f64> = self.measured.iter().chain(&known).copied().collect();
        if samples.is_empty() && unknown > 0 {
            return None;
        }
        let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
        let work = known.iter().sum::<f64>() + mean * unknown as f64;
        // Work that can be shared by all, but not beyond one worker for each piece.
        let workers = self.workers.min(self.expected.len().max(1));
        Some(Duration::from_secs_f64(work / workers as f64))
    }

    /// One more is done.
    pub fn done(&mut self, point: &str, seconds: f64, error: &str) {
        self.done += 1;
        self.expected.remove(point);
        self.measured.push(seconds);
        if self.terminal {
            // The bar's line becomes this one.
            eprint!("\r\x1b[K");
        }
        let left = self.left();
        let count = format!("[{}/{}]", self.done, self.total);
        if error.is_empty() {
            let left = if self.terminal { String::new() } else { format!(", {left}") };
            say::step("Measured", &format!("{count} {point}, {seconds:.1} s{left}"));
        } else {
            say::note(&format!("{count} {point} failed: {error}"));
        }
        self.draw();
    }

    fn left(&self) -> String {
        match self.remaining() {
            _ if self.expected.is_empty() => "all done".into(),
            Some(left) => format!("about {} left", clock(left)),
            None => "time left not known yet".into(),
        }
    }

    /// Draws the bar, on a terminal.
    pub fn draw(&self) {
        if !self.terminal || self.total == 0 || self.done == self.total {
            return;
        }
        let line = format!(
            "{} {}/{}  {} gone, {}",
            bar(self.done, self.total),
            self.done,
            self.total,
            clock(self.started.elapsed()),
            self.left()
        );
        eprint!("\r\x1b[K{line}");
        // A bar that cannot be shown is no failure of the measurement.
        let _ = stderr().flush();
    }
}

fn bar(done: usize, total: usize) -> String {
    let full = WIDTH * done / total.max(1);
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_summed_and_the_rest_is_guessed() {
        let seconds: BTreeMap<String, f64> = [("a".into(), 10.0), ("b".into(), 30.0)].into();
        let mut progress = Progress::new(["a", "b", "c"].into_iter(), &seconds, 2);
        assert_eq!(progress.remaining(), Some(Duration::from_secs(30)));
        progress.done("b", 20.0, "");
        // a: 10; c: the mean of 20 and 10.
        assert_eq!(progress.remaining(), Some(Duration::from_secs_f64(12.5)));
        assert_eq!(progress.left(), "about 0:13 left");
        progress.done("a", 10.0, "broken");
        progress.done("c", 10.0, "");
        assert_eq!(progress.left(), "all done");
        assert_eq!(Progress::new(["x"].into_iter(), &BTreeMap::new(), 1).remaining(), None);
        assert_eq!(bar(1, 2), format!("[{}{}]", "#".repeat(12), ".".repeat(12)));
    }
}
