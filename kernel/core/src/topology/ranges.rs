//! Sorted, disjoint lists of physical ranges.

use crate::fixed::FixedVec;
use crate::layout::MAX_RANGES;
use crate::types::PhysRange;

/// A list of ranges, kept ascending and disjoint by [`insert`] and [`subtract`].
pub type RangeList = FixedVec<PhysRange, MAX_RANGES>;

/// An empty list.
pub const EMPTY: RangeList = FixedVec::new(PhysRange::EMPTY);

/// Adds `range`, merging it with every range that it overlaps or touches.
///
/// # Errors
/// Returns the range if the list is full; the list is then unchanged.
pub fn insert(list: &mut RangeList, range: PhysRange) -> Result<(), PhysRange> {
    if range.is_empty() {
        return Ok(());
    }
    let first = list.partition_point(|r| r.end < range.start);
    let last = list.partition_point(|r| r.start <= range.end);
    if first == last {
        return list.insert(first, range);
    }
    let merged =
        PhysRange::new(range.start.min(list[first].start), range.end.max(list[last - 1].end));
    list[first] = merged;
    list.remove(first + 1, last - first - 1);
    Ok(())
}

/// Takes `hole` out of every range of the list.
///
/// # Errors
/// Returns the part behind the hole that did not fit into the full list; that part is lost
/// from the list, the hole is taken out in any case.
pub fn subtract(list: &mut RangeList, hole: PhysRange) -> Result<(), PhysRange> {
    if hole.is_empty() {
        return Ok(());
    }
    let mut i = list.partition_point(|r| r.end <= hole.start);
    while i < list.len() && list[i].start < hole.end {
        let r = list[i];
        let below = PhysRange::new(r.start, hole.start.min(r.end));
        let above = PhysRange::new(hole.end.max(r.start), r.end);
        match (below.is_empty(), above.is_empty()) {
            (true, true) => list.remove(i, 1),
            (true, false) => {
                list[i] = above;
                i += 1;
            }
            (false, true) => {
                list[i] = below;
                i += 1;
            }
            (false, false) => {
                list[i] = below;
                return list.insert(i + 1, above);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, rounds};

    /// Random inserts and holes against a plain set of units.
    #[test]
    fn random_operations_match_a_bitmap() {
        let mut rng = Rng::new(7);
        for _ in 0..rounds(2_000) {
            let mut list = EMPTY;
            let mut bits = [false; 100];
            for _ in 0..20 {
                let start = rng.below(100);
                let len = rng.below(12).min(100 - start);
                let range = PhysRange::from_len(start, len);
                let add = rng.below(2) == 0;
                if add {
                    insert(&mut list, range).unwrap();
                } else {
                    subtract(&mut list, range).unwrap();
                }
                bits[start as usize..(start + len) as usize].fill(add);
                let mut seen = [false; 100];
                for pair in list.windows(2) {
                    assert!(pair[0].end < pair[1].start || !add || pair[0].end == pair[1].start);
                    assert!(pair[0].end <= pair[1].start);
                }
                for r in list.iter() {
                    assert!(!r.is_empty());
                    seen[r.start.as_usize()..r.end.as_usize()].fill(true);
                }
                assert_eq!(seen, bits);
            }
        }
    }

    #[test]
    fn a_full_list_reports_what_it_loses() {
        let mut list = EMPTY;
        for i in 0..MAX_RANGES as u64 {
            insert(&mut list, PhysRange::from_len(i * 10, 5)).unwrap();
        }
        let extra = PhysRange::from_len(1 << 20, 5);
        assert_eq!(insert(&mut list, extra), Err(extra));
        assert_eq!(subtract(&mut list, PhysRange::from_len(2, 1)), Err(PhysRange::from_len(3, 2)));
        assert_eq!(list[0], PhysRange::from_len(0, 2));
        assert_eq!(list.len(), MAX_RANGES);
    }
}
