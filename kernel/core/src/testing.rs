//! What the host tests share: a reproducible random source and the number of rounds.

/// xorshift64*: small, reproducible, good enough to pick test operations.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number in `0..bound`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

/// Rounds of a random test: `full`, or a thousandth of it (at least 2) under miri.
pub(crate) fn rounds(full: usize) -> usize {
    if cfg!(miri) { (full / 1000).max(2) } else { full }
}
