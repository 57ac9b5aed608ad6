//! A map from addresses to values, kept as sorted disjoint intervals in a fixed array.
//!
//! Invariant: intervals are sorted, do not overlap, and neighbours that touch have different values
//! (so memory that was given page by page to one owner takes one entry). A change that would need
//! more entries than there are fails and changes nothing.

/// An interval with its value; both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval<V> {
    /// First address.
    pub low: u64,
    /// Last address.
    pub last: u64,
    /// The value.
    pub value: V,
}

/// All entries are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The map. Addresses in no interval have no value.
#[derive(Debug)]
pub struct IntervalMap<V, const N: usize> {
    entries: [Interval<V>; N],
    len: usize,
}

impl<V: Copy + PartialEq, const N: usize> IntervalMap<V, N> {
    /// An empty map. Unused entries hold `filler`; a value of zero bits keeps a static map out of the
    /// image.
    #[must_use]
    pub const fn new(filler: V) -> Self {
        Self { entries: [Interval { low: 0, last: 0, value: filler }; N], len: 0 }
    }

    /// The intervals in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Interval<V>> + '_ {
        self.entries[..self.len].iter().copied()
    }

    /// Number of entries in use.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has a value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Index of the first interval that ends at or after `addr`.
    fn first_from(&self, addr: u64) -> usize {
        self.entries[..self.len].partition_point(|e| e.last < addr)
    }

    /// The value at an address.
    #[must_use]
    pub fn get(&self, addr: u64) -> Option<V> {
        let entry = self.entries[..self.len].get(self.first_from(addr))?;
        (entry.low <= addr).then_some(entry.value)
    }

    /// The intervals that share an address with `low..=last`, cut to that range.
    pub fn within(&self, low: u64, last: u64) -> impl Iterator<Item = Interval<V>> + '_ {
        self.entries[self.first_from(low).min(self.len)..self.len]
            .iter()
            .take_while(move |e| e.low <= last)
            .map(move |e| Interval { low: e.low.max(low), last: e.last.min(last), ..*e })
    }

    /// Whether every address of `low..=last` has a value for which `test` holds.
    pub fn all_within(&self, low: u64, last: u64, mut test: impl FnMut(V) -> bool) -> bool {
        let mut next = Some(low);
        for piece in self.within(low, last) {
            if next != Some(piece.low) || !test(piece.value) {
                return false;
            }
            next = piece.last.checked_add(1);
        }
        // Either the end was reached, or it was the end of all addresses.
        next.is_none() || next == last.checked_add(1)
    }

    /// Gives `low..=last` a value, or removes it.
    ///
    /// # Errors
    /// [`Full`]; the map is then unchanged.
    pub fn set(&mut self, low: u64, last: u64, value: Option<V>) -> Result<(), Full> {
        if low > last {
            return Ok(());
        }
        let mut new = value.map(|value| Interval { low, last, value });
        let (mut left, mut right) = (None, None);
        // Include neighbours that touch, so that equal values merge.
        let mut from = self.first_from(low.saturating_sub(1));
        let mut to = from;
        while let Some(&old) = self.entries[..self.len].get(to) {
            if old.low > last.saturating_add(1) {
                break;
            }
            match &mut new {
                Some(new) if new.value == old.value => {
                    new.low = new.low.min(old.low);
                    new.last = new.last.max(old.last);
                }
                _ => {
                    if old.low < low {
                        left = Some(Interval { last: old.last.min(low - 1), ..old });
                    }
                    if old.last > last {
                        right = Some(Interval { low: old.low.max(last + 1), ..old });
                    }
                }
            }
            to += 1;
        }
        let pieces = [left, new, right];
        let count = pieces.iter().flatten().count();
        if self.len - (to - from) + count > N {
            return Err(Full);
        }
        self.resize_hole(from, to, count);
        for piece in pieces.into_iter().flatten() {
            self.entries[from] = piece;
            from += 1;
        }
        Ok(())
    }

    /// Makes room for `count` entries in place of `from..to`.
    fn resize_hole(&mut self, from: usize, to: usize, count: usize) {
        let new_len = self.len - (to - from) + count;
        self.entries.copy_within(to..self.len, from + count);
        self.len = new_len;
    }
}
