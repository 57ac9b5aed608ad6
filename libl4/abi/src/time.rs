//! Time values and timeouts (ref 1.8). The clock counts microseconds since boot.

use core::fmt;

/// A 16-bit time value: never, a period, or a point.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Time(u16);

/// What a [`Time`] means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeKind {
    /// Infinite.
    Never,
    /// Relative, in microseconds; 0 is the zero timeout.
    Period {
        /// Length in microseconds.
        us: u64,
    },
    /// Absolute.
    Point {
        /// Exponent.
        e: u8,
        /// The cycle bit to compare with bit e + 10 of the clock.
        c: bool,
        /// Mantissa.
        m: u16,
    },
}

/// When a timeout strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// Not at all.
    Never,
    /// At once: the zero period, or a point that has passed.
    Now,
    /// When the clock reaches this value, in microseconds.
    At(u64),
}

impl Time {
    /// Infinite.
    pub const NEVER: Self = Self(0);
    /// The zero period.
    pub const ZERO: Self = Self(0x0400);

    /// The value with exactly these bits.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The period of `us` microseconds, rounded down to ten significant bits, as the X.2 library
    /// encodes it (smallest exponent that fits). Zero gives [`Self::ZERO`], what exceeds 31
    /// exponent bits gives [`Self::NEVER`].
    #[must_use]
    pub const fn period_us(us: u64) -> Self {
        if us == 0 {
            return Self::ZERO;
        }
        let bits = 64 - us.leading_zeros();
        let e = bits.saturating_sub(10);
        if e > 31 {
            return Self::NEVER;
        }
        Self(((e as u16) << 10) | (us >> e) as u16)
    }

    /// The point with these fields (ref 1.8). `e` is cut to four bits, `m` to ten.
    #[must_use]
    pub const fn point(e: u8, c: bool, m: u16) -> Self {
        Self(0x8000 | (((e & 0xF) as u16) << 11) | ((c as u16) << 10) | (m & 0x3FF))
    }

    /// The point at or just before the clock value `at_us`, valid while the clock is at most
    /// 2^(e+10) microseconds before it. `None` when it lies too far ahead of `now_us`.
    #[must_use]
    pub const fn point_at(at_us: u64, now_us: u64) -> Option<Self> {
        let mut e = 0;
        while e < 16 {
            let window = 1u64 << (e + 10);
            if at_us >= now_us && at_us - now_us < window {
                let m = (at_us >> e) & 0x3FF;
                return Some(Self::point(e, (at_us >> (e + 10)) & 1 == 1, m as u16));
            }
            e += 1;
        }
        None
    }

    /// What the value means.
    #[must_use]
    pub const fn kind(self) -> TimeKind {
        if self.0 == 0 {
            return TimeKind::Never;
        }
        let m = self.0 & 0x3FF;
        if self.0 & 0x8000 == 0 {
            return TimeKind::Period { us: (m as u64) << (self.0 >> 10) };
        }
        TimeKind::Point { e: ((self.0 >> 11) & 0xF) as u8, c: self.0 & 0x400 != 0, m }
    }

    /// The length in microseconds if this is a period.
    #[must_use]
    pub const fn as_period_us(self) -> Option<u64> {
        match self.kind() {
            TimeKind::Period { us } => Some(us),
            _ => None,
        }
    }

    /// Whether this is infinite.
    #[must_use]
    pub const fn is_never(self) -> bool {
        self.0 == 0
    }

    /// Whether this is a period of length zero, in any encoding.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(self.kind(), TimeKind::Period { us: 0 })
    }

    /// When the timeout strikes if it starts at clock value `now_us`.
    #[must_use]
    pub const fn deadline(self, now_us: u64) -> Deadline {
        match self.kind() {
            TimeKind::Never => Deadline::Never,
            TimeKind::Period { us: 0 } => Deadline::Now,
            TimeKind::Period { us } => Deadline::At(now_us.saturating_add(us)),
            TimeKind::Point { e, c, m } => {
                let cycle = 1u64 << (e + 10);
                let start = now_us & !(cycle - 1);
                let in_this_cycle = ((now_us >> (e + 10)) & 1 == 1) == c;
                let start = if in_this_cycle { start } else { start.saturating_add(cycle) };
                let at = start.saturating_add((m as u64) << e);
                if at <= now_us { Deadline::Now } else { Deadline::At(at) }
            }
        }
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            TimeKind::Never => f.write_str("never"),
            TimeKind::Period { us } => write!(f, "{us}us"),
            TimeKind::Point { e, c, m } => write!(f, "point(e {e} c {} m {m})", u8::from(c)),
        }
    }
}

/// The timeouts word: receive in bits 15..0, send in bits 31..16, the rest ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Timeouts(u64);

impl Timeouts {
    /// Both infinite.
    pub const NEVER: Self = Self(0);

    /// The word with exactly these bits.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A send and a receive timeout.
    #[must_use]
    pub const fn new(send: Time, receive: Time) -> Self {
        Self(((send.0 as u64) << 16) | receive.0 as u64)
    }

    /// The send timeout.
    #[must_use]
    pub const fn send(self) -> Time {
        Time((self.0 >> 16) as u16)
    }

    /// The receive timeout.
    #[must_use]
    pub const fn receive(self) -> Time {
        Time(self.0 as u16)
    }
}

impl fmt::Debug for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snd {:?} rcv {:?}", self.send(), self.receive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_encodings() {
        assert_eq!(Time::period_us(1000).raw(), 0x03E8);
        assert_eq!(Time::period_us(1_000_000).raw(), 0x2BD0);
        assert_eq!(Time::from_raw(0x2BD0).as_period_us(), Some(999_424));
        assert_eq!(Time::period_us(0), Time::ZERO);
        assert!(Time::ZERO.is_zero() && !Time::NEVER.is_zero());
        assert_eq!(Time::period_us(u64::MAX), Time::NEVER);
    }

    #[test]
    fn every_period_is_close() {
        for shift in 0..41 {
            for low in [1u64, 511, 1023] {
                let us = low << shift;
                let Some(got) = Time::period_us(us).as_period_us() else {
                    assert!(us >= 1 << 41);
                    continue;
                };
                assert!(got <= us && us - got <= us / 512, "{us} {got}");
            }
        }
    }

    #[test]
    fn deadlines() {
        assert_eq!(Time::NEVER.deadline(5), Deadline::Never);
        assert_eq!(Time::ZERO.deadline(5), Deadline::Now);
        assert_eq!(Time::period_us(100).deadline(5), Deadline::At(105));
        assert_eq!(Time::period_us(100).deadline(u64::MAX), Deadline::At(u64::MAX));
    }

    #[test]
    fn points_are_absolute() {
        for now in [0u64, 1, 1023, 1024, 5000, 123_456_789] {
            for ahead in [0u64, 1, 77, 1000, 1023, 5000, 100_000, 30_000_000] {
                let at = now + ahead;
                let p = Time::point_at(at, now).expect("in range");
                let TimeKind::Point { e, .. } = p.kind() else { panic!("a point") };
                match p.deadline(now) {
                    Deadline::At(t) => assert!(t <= at && at - t < 1 << e, "{now} {ahead} {t}"),
                    Deadline::Now => assert!(ahead < 1 << e),
                    Deadline::Never => panic!("never"),
                }
            }
        }
        assert_eq!(Time::point_at(1 << 40, 0), None);
    }

    #[test]
    fn a_point_of_the_other_cycle_lies_ahead() {
        // Clock in cycle 0 (c = 0); the point with c = 1 is in the next cycle.
        assert_eq!(Time::point(0, true, 7).deadline(100), Deadline::At(1024 + 7));
        assert_eq!(Time::point(0, false, 7).deadline(100), Deadline::Now);
        assert_eq!(Time::point(0, false, 101).deadline(100), Deadline::At(101));
    }

    #[test]
    fn timeouts_word() {
        let t = Timeouts::new(Time::ZERO, Time::period_us(1000));
        assert_eq!(t.raw(), 0x0400_03E8);
        assert_eq!((t.send(), t.receive()), (Time::ZERO, Time::from_raw(0x3E8)));
        assert_eq!(Timeouts::from_raw(0xFFFF_0000_0400_0000).receive(), Time::NEVER);
    }
}
