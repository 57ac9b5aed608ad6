//! How far the time-stamp counter of one CPU is ahead of another's, from exchanges through shared memory.
//!
//! One side notes its counter, asks, and notes it again when the answer is there; the answer is the other side's counter
//! at some moment in between. So each exchange says for certain in which *interval* the offset lies, whatever delays
//! there were; the interval is as long as the round trip (the argument of D. Mills' and K. Marzullo's clock
//! synchronisation). All exchanges speak of the same offset, so it lies in the intersection of the intervals, which is
//! at most as long as the smallest round trip. Intervals that have no moment in common contradict that the offset is
//! constant: then one counter jumped or runs at another rate.
//!
//! Of the offsets that nothing contradicts, [`Estimator::finish`] takes zero if it is among them: processors start their
//! counters together, so equal ones stay exactly equal and are not disturbed by the error of the measurement. Otherwise it
//! takes the middle, whose greatest possible error is half of the interval.
//!
//! All numbers are ticks; differences are taken modulo 2^64, so it does not matter where the counters started.

/// One question and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The asking side's counter before it asked.
    pub asked: u64,
    /// The other side's counter when it answered.
    pub remote: u64,
    /// The asking side's counter when it had the answer.
    pub answered: u64,
}

impl Exchange {
    /// Ticks from the question to the answer.
    #[must_use]
    pub const fn round_trip(self) -> u64 {
        self.answered.wrapping_sub(self.asked)
    }

    /// Smallest and greatest offset that the exchange allows.
    const fn interval(self) -> Interval {
        Interval {
            least: self.remote.wrapping_sub(self.answered) as i64,
            most: self.remote.wrapping_sub(self.asked) as i64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    least: i64,
    most: i64,
}

impl Interval {
    const fn is_empty(self) -> bool {
        self.least > self.most
    }

    fn and(self, other: Self) -> Self {
        Self { least: self.least.max(other.least), most: self.most.min(other.most) }
    }

    /// The offset to take and its greatest possible error.
    fn choose(self) -> (i64, u64) {
        let offset = if self.least <= 0 && 0 <= self.most {
            0
        } else {
            self.least.wrapping_add((self.most.wrapping_sub(self.least) as u64 / 2) as i64)
        };
        (offset, offset.abs_diff(self.least).max(offset.abs_diff(self.most)))
    }
}

/// What the exchanges say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// How many ticks the other counter is ahead.
    pub offset: i64,
    /// The offset is wrong by at most so many ticks.
    pub bound: u64,
    /// The smallest round trip, ticks.
    pub round_trip: u64,
    /// Exchanges that were taken.
    pub rounds: u32,
    /// No exchange contradicted another: the offset was constant meanwhile. If not, offset and bound are those of the
    /// sharpest exchange, which was right at its time.
    pub steady: bool,
}

/// Collects exchanges.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimator {
    common: Option<Interval>,
    sharpest: Option<Exchange>,
    rounds: u32,
    contradicted: bool,
}

impl Estimator {
    /// Nothing known.
    #[must_use]
    pub const fn new() -> Self {
        Self { common: None, sharpest: None, rounds: 0, contradicted: false }
    }

    /// Takes an exchange.
    pub fn add(&mut self, exchange: Exchange) {
        self.rounds = self.rounds.saturating_add(1);
        let interval = exchange.interval();
        let common = self.common.map_or(interval, |common| common.and(interval));
        self.contradicted |= common.is_empty();
        self.common = Some(common);
        if self.sharpest.is_none_or(|best| exchange.round_trip() < best.round_trip()) {
            self.sharpest = Some(exchange);
        }
    }

    /// Exchanges that were taken.
    #[must_use]
    pub const fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Ticks between the least and the greatest offset that nothing contradicts; 0 if there is none.
    #[must_use]
    pub fn width(&self) -> u64 {
        let width = |i: Interval| if i.is_empty() { 0 } else { i.most.abs_diff(i.least) };
        self.common.map_or(u64::MAX, width)
    }

    /// The estimate; none without an exchange.
    #[must_use]
    pub fn finish(&self) -> Option<Estimate> {
        let sharpest = self.sharpest?;
        let interval = self.common.filter(|_| !self.contradicted).unwrap_or(sharpest.interval());
        let (offset, bound) = interval.choose();
        Some(Estimate {
            offset,
            bound,
            round_trip: sharpest.round_trip(),
            rounds: self.rounds,
            steady: !self.contradicted,
        })
    }
}

/// The clock of two CPUs can differ by so many microseconds at most, for the same moment: the errors of both offsets
/// (ticks, against the same CPU), and one because readings are cut to whole microseconds.
#[must_use]
pub fn disagreement_us(bound: u64, other_bound: u64, tsc_hz: u64) -> u64 {
    let ticks = u128::from(bound) + u128::from(other_bound);
    let us = (ticks * 1_000_000).div_ceil(u128::from(tsc_hz.max(1)));
    u64::try_from(us).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, rounds};

    /// Two counters and a way between them.
    struct World {
        /// Ticks of the asking side.
        now: u64,
        /// The other counter at `now` = 0.
        ahead: i64,
        /// How much faster the other counter runs, parts per million.
        drift_ppm: i64,
    }

    impl World {
        fn remote(&self) -> u64 {
            let drift = i128::from(self.now as i64) * i128::from(self.drift_ppm) / 1_000_000;
            self.now.wrapping_add(self.ahead as u64).wrapping_add(drift as u64)
        }

        /// The question takes `there` ticks, the answer `back`.
        fn exchange(&mut self, there: u64, back: u64) -> Exchange {
            let asked = self.now;
            self.now = self.now.wrapping_add(there);
            let remote = self.remote();
            self.now = self.now.wrapping_add(back);
            Exchange { asked, remote, answered: self.now }
        }
    }

    #[test]
    fn nothing_says_nothing() {
        assert_eq!(Estimator::new().finish(), None);
    }

    #[test]
    fn one_exchange_is_known_to_half_its_round_trip() {
        let mut all = Estimator::new();
        all.add(Exchange { asked: 1000, remote: 5100, answered: 1200 });
        let found = all.finish().unwrap();
        assert_eq!(
            found,
            Estimate { offset: 4000, bound: 100, round_trip: 200, rounds: 1, steady: true }
        );
    }

    #[test]
    fn equal_counters_are_left_alone() {
        // Lopsided delays would make the middle wrong by 45.
        let mut world = World { now: 7, ahead: 0, drift_ppm: 0 };
        let mut all = Estimator::new();
        (0..50).for_each(|_| all.add(world.exchange(95, 5)));
        let found = all.finish().unwrap();
        assert_eq!((found.offset, found.bound), (0, 95));
    }

    #[test]
    fn the_truth_is_within_the_bound_for_any_skew_and_jitter() {
        let mut rng = Rng::new(11);
        for _ in 0..rounds(20_000) {
            let ahead = match rng.below(4) {
                0 => rng.below(300) as i64 - 150,
                1 => rng.next() as i64 >> 8,
                2 => -(rng.below(1 << 40) as i64),
                _ => rng.below(1 << 40) as i64,
            };
            let mut world = World { now: rng.next(), ahead, drift_ppm: 0 };
            let mut all = Estimator::new();
            let (mut smallest, nr) = (u64::MAX, 1 + rng.below(40));
            for _ in 0..nr {
                // Mostly quick, sometimes a CPU that lost its processor.
                let late = if rng.below(5) == 0 { rng.below(1 << 30) } else { 0 };
                let way = (20 + rng.below(100), 20 + rng.below(100));
                let (there, back) =
                    if rng.below(2) == 0 { (way.0 + late, way.1) } else { (way.0, way.1 + late) };
                smallest = smallest.min(there + back);
                all.add(world.exchange(there, back));
                world.now = world.now.wrapping_add(rng.below(100_000));
            }
            let found = all.finish().unwrap();
            assert!(found.steady);
            assert!(all.width() <= smallest && found.bound <= all.width());
            assert_eq!((found.rounds, found.round_trip), (nr as u32, smallest));
            assert!(found.offset.abs_diff(ahead) <= found.bound, "{found:?}, truth {ahead}");
            // Half a round trip where there is an offset, and never more than a whole one.
            let most = if found.offset == 0 { smallest } else { smallest.div_ceil(2) };
            assert!(found.bound <= most, "{found:?}");
        }
    }

    #[test]
    fn counters_near_their_end_are_no_special_case() {
        let mut world = World { now: u64::MAX - 500, ahead: 1_000_000, drift_ppm: 0 };
        let mut all = Estimator::new();
        (0..20).for_each(|_| all.add(world.exchange(40, 40)));
        let found = all.finish().unwrap();
        assert_eq!((found.offset, found.bound, found.steady), (1_000_000, 40, true));
    }

    #[test]
    fn another_rate_or_a_jump_is_noticed() {
        // 100 ppm over 1000 exchanges of 100 ticks with pauses: far more than a round trip.
        let mut world = World { now: 0, ahead: 5000, drift_ppm: 100 };
        let mut all = Estimator::new();
        for _ in 0..1000 {
            all.add(world.exchange(50, 50));
            world.now += 100_000;
        }
        assert!(!all.finish().unwrap().steady);

        let mut world = World { now: 0, ahead: 5000, drift_ppm: 0 };
        let mut all = Estimator::new();
        all.add(world.exchange(50, 50));
        world.ahead += 1000;
        all.add(world.exchange(50, 50));
        assert!(!all.finish().unwrap().steady);
    }

    #[test]
    fn a_drift_too_small_to_matter_is_no_contradiction() {
        let mut world = World { now: 0, ahead: -9000, drift_ppm: 1 };
        let mut all = Estimator::new();
        (0..1000).for_each(|_| all.add(world.exchange(50, 50)));
        let found = all.finish().unwrap();
        assert!(found.steady && found.offset.abs_diff(-9000) <= found.bound + 1);
    }

    #[test]
    fn disagreement_is_rounded_up() {
        assert_eq!(disagreement_us(0, 0, 3_000_000_000), 1);
        assert_eq!(disagreement_us(1, 0, 3_000_000_000), 2);
        assert_eq!(disagreement_us(3000, 3000, 3_000_000_000), 3);
        assert_eq!(disagreement_us(u64::MAX, u64::MAX, 1), u64::MAX);
    }
}
