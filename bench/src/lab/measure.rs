//! Numbers with their spread: samples, percentiles, calibrated overhead, a gate for unstable series.
//!
//! Rules (after what careful suites do): a loop is warmed up first; the cost of measuring is measured by the same
//! code around nothing and subtracted; a series whose halves disagree, or whose spread is too wide, is not
//! reported as a number.

/// A set of samples, ascending.
#[derive(Debug)]
pub struct Sorted<'a>(&'a [u64]);

/// The numbers of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Half of the samples are not above it.
    pub median: u64,
    /// Nine in ten are not above it.
    pub p90: u64,
    /// 99 in a hundred are not above it.
    pub p99: u64,
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// How many.
    pub n: u64,
}

impl<'a> Sorted<'a> {
    /// Sorts the samples in place.
    pub fn new(samples: &'a mut [u64]) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The smallest sample that `percent` % of all do not exceed; 0 if there are none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> u64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(0)
    }

    /// All of it in numbers, each less `overhead`.
    #[must_use]
    pub fn summary(&self, overhead: u64) -> Summary {
        let less = |value: u64| value.saturating_sub(overhead);
        Summary {
            median: less(self.percentile(50)),
            p90: less(self.percentile(90)),
            p99: less(self.percentile(99)),
            min: less(self.0.first().copied().unwrap_or(0)),
            max: less(self.0.last().copied().unwrap_or(0)),
            n: self.0.len() as u64,
        }
    }
}

/// Words that [`pack`] makes.
pub const PACKED: usize = 7;

/// A series as words, for a message.
#[must_use]
pub const fn pack(series: Result<Summary, Unstable>) -> [u64; PACKED] {
    match series {
        Ok(Summary { median, p90, p99, min, max, n }) => [0, median, p90, p99, min, max, n],
        Err(Unstable::TooFew) => [1, 0, 0, 0, 0, 0, 0],
        Err(Unstable::Drift { first, second }) => [2, first, second, 0, 0, 0, 0],
        Err(Unstable::Wide { median, p90 }) => [3, median, p90, 0, 0, 0, 0],
    }
}

/// What [`pack`] made.
///
/// # Errors
/// The [`Unstable`] that was packed; `TooFew` for words that it cannot have made.
pub const fn unpack(words: [u64; PACKED]) -> Result<Summary, Unstable> {
    match words {
        [0, median, p90, p99, min, max, n] => Ok(Summary { median, p90, p99, min, max, n }),
        [2, first, second, ..] => Err(Unstable::Drift { first, second }),
        [3, median, p90, ..] => Err(Unstable::Wide { median, p90 }),
        _ => Err(Unstable::TooFew),
    }
}

/// Why a series is not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstable {
    /// Fewer samples than can be judged.
    TooFew,
    /// The medians of the two halves differ by more than `percent` %: it was still warming up, or something else
    /// began to run.
    Drift {
        /// Median of the first half.
        first: u64,
        /// Median of the second half.
        second: u64,
    },
    /// The 90th percentile is more than twice the median.
    Wide {
        /// The median.
        median: u64,
        /// The 90th percentile.
        p90: u64,
    },
}

impl Unstable {
    /// In words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooFew => "too few samples",
            Self::Drift { .. } => "the two halves differ",
            Self::Wide { .. } => "the samples spread too far",
        }
    }
}

/// Fewest samples that are judged.
pub const FEWEST: usize = 8;

/// How far the medians of the halves may be apart, %.
pub const DRIFT_PERCENT: u64 = 10;

/// The series in numbers, less `overhead`, or why it is not reported. `samples` are in the order in which they were
/// taken; they are sorted.
///
/// # Errors
/// [`Unstable`].
pub fn judge(samples: &mut [u64], overhead: u64) -> Result<Summary, Unstable> {
    if samples.len() < FEWEST {
        return Err(Unstable::TooFew);
    }
    let (first, second) = samples.split_at_mut(samples.len() / 2);
    let (first, second) = (Sorted::new(first).percentile(50), Sorted::new(second).percentile(50));
    if first.abs_diff(second) * 100 > first.min(second) * DRIFT_PERCENT {
        return Err(Unstable::Drift { first, second });
    }
    let summary = Sorted::new(samples).summary(overhead);
    if summary.p90 > 2 * summary.median.max(1) {
        return Err(Unstable::Wide { median: summary.median, p90: summary.p90 });
    }
    Ok(summary)
}

/// The cost of measuring nothing: the median of `rounds` differences of `clock` around nothing, by the code that
/// measures everything else.
pub fn overhead<const N: usize>(clock: impl Fn() -> u64) -> u64 {
    let mut samples = [0; N];
    for sample in &mut samples {
        let start = clock();
        *sample = clock().wrapping_sub(start);
    }
    Sorted::new(&mut samples).percentile(50)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<u64> = (1..=100).rev().collect();
        let sorted = Sorted::new(&mut samples);
        for (percent, value) in [(0, 1), (1, 1), (50, 50), (90, 90), (99, 99), (100, 100)] {
            assert_eq!(sorted.percentile(percent), value);
        }
        assert_eq!(Sorted::new(&mut []).percentile(50), 0);
        assert_eq!(Sorted::new(&mut [7]).percentile(99), 7);
        let summary = sorted.summary(10);
        let wanted = Summary { median: 40, p90: 80, p99: 89, min: 0, max: 90, n: 100 };
        assert_eq!(summary, wanted);
    }

    #[test]
    fn percentiles_agree_with_their_definition() {
        let mut seed = 1u64;
        for len in 1..60 {
            let mut samples: Vec<u64> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    seed >> 59
                })
                .collect();
            let all = samples.clone();
            let sorted = Sorted::new(&mut samples);
            for percent in 1..=100 {
                let value = sorted.percentile(percent);
                let within = |limit: u64| all.iter().filter(|&&s| s <= limit).count() * 100;
                assert!(within(value) >= percent * len as usize);
                assert!(value == 0 || within(value - 1) < percent * len as usize);
            }
        }
    }

    #[test]
    fn unstable_series_are_refused() {
        let mut steady = [100, 101, 99, 100, 100, 102, 98, 100];
        assert_eq!(judge(&mut steady, 20).map(|s| (s.median, s.n)), Ok((80, 8)));
        assert_eq!(judge(&mut [5; 7], 0), Err(Unstable::TooFew));
        let mut warming = [200, 200, 200, 200, 100, 100, 100, 100];
        assert_eq!(judge(&mut warming, 0), Err(Unstable::Drift { first: 200, second: 100 }));
        let mut wide = [10, 10, 90, 10, 10, 10, 90, 10, 10, 10];
        assert!(matches!(judge(&mut wide, 0), Err(Unstable::Wide { median: 10, p90: 90 })));
        // One outlier in a hundred does not make a series unstable.
        let mut outlier = [10; 100];
        outlier[50] = 5000;
        assert_eq!(judge(&mut outlier, 0).map(|s| (s.p99, s.max)), Ok((10, 5000)));
    }

    #[test]
    fn series_survive_a_message() {
        let summary = Summary { median: 1, p90: 2, p99: 3, min: 4, max: 5, n: 6 };
        for series in [
            Ok(summary),
            Err(Unstable::TooFew),
            Err(Unstable::Drift { first: 1, second: 2 }),
            Err(Unstable::Wide { median: 3, p90: 9 }),
        ] {
            assert_eq!(unpack(pack(series)), series);
        }
        assert_eq!(unpack([9; PACKED]), Err(Unstable::TooFew));
    }

    #[test]
    fn overhead_is_that_of_the_clock() {
        let now = Cell::new(0);
        let clock = || {
            now.set(now.get() + 24);
            now.get()
        };
        assert_eq!(overhead::<16>(clock), 24);
    }
}
