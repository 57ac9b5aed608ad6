//! Pages that are worked on together.

use crate::ids::{PageNo, PageRange};

/// Some of 64 consecutive pages: two words of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageSet {
    first: PageNo,
    /// Bit n: page `first + n`.
    bits: u64,
}

impl PageSet {
    /// Just `page`.
    #[must_use]
    pub const fn one(page: PageNo) -> Self {
        Self { first: page, bits: 1 }
    }

    /// The set with the lowest page `first` and what `bits` say of the 64 pages from it on; `None` if
    /// `first` is not a member or the pages do not exist.
    #[must_use]
    pub const fn new(first: PageNo, bits: u64) -> Option<Self> {
        if bits & 1 == 0 {
            return None;
        }
        let exist = first.0.checked_add(63 - bits.leading_zeros() as u64).is_some();
        if exist { Some(Self { first, bits }) } else { None }
    }

    /// The lowest page.
    #[must_use]
    pub const fn first(self) -> PageNo {
        self.first
    }

    /// Which of the 64 pages from the first one on.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.bits
    }

    /// The pages from the first one to the last one.
    #[must_use]
    pub const fn range(self) -> PageRange {
        let last = self.first.0 + (63 - self.bits.leading_zeros() as u64);
        PageRange { first: self.first, end: PageNo(last.saturating_add(1)) }
    }

    /// Number of pages.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.bits.count_ones()
    }

    /// A set always has its first page.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether `page` is a member.
    #[must_use]
    pub const fn contains(self, page: PageNo) -> bool {
        match page.0.checked_sub(self.first.0) {
            Some(n) => n < 64 && self.bits >> n & 1 != 0,
            None => false,
        }
    }

    /// With `page` added, if it is one of the 64 from the first one on.
    #[must_use]
    pub const fn with(self, page: PageNo) -> Option<Self> {
        match page.0.checked_sub(self.first.0) {
            Some(n) if n < 64 => Some(Self { bits: self.bits | 1 << n, ..self }),
            _ => None,
        }
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = PageNo> {
        let mut bits = self.bits;
        core::iter::from_fn(move || {
            let n = bits.trailing_zeros();
            bits &= bits.wrapping_sub(1);
            (n < 64).then(|| PageNo(self.first.0 + u64::from(n)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use alloc::collections::BTreeSet;

    #[test]
    fn like_any_set_of_near_pages() {
        let mut rng = Rng::new(5);
        for _ in 0..2000 {
            let first =
                PageNo(if rng.below(9) == 0 { u64::MAX - rng.below(70) } else { rng.next() });
            let mut set = PageSet::one(first);
            let mut oracle = BTreeSet::from([first]);
            for _ in 0..rng.below(70) {
                let page = PageNo(first.0.saturating_add(rng.below(80)));
                match set.with(page) {
                    Some(with) => {
                        set = with;
                        oracle.insert(page);
                    }
                    None => assert!(page.0 - first.0 >= 64),
                }
            }
            assert!(set.iter().eq(oracle.iter().copied()));
            assert_eq!(set.len() as usize, oracle.len());
            assert_eq!(PageSet::new(first, set.bits()), Some(set));
            assert_eq!(set.range().first, first);
            assert_eq!(set.range().end.0, oracle.last().unwrap().0.saturating_add(1));
            for near in first.0.saturating_sub(3)..first.0.saturating_add(80) {
                assert_eq!(set.contains(PageNo(near)), oracle.contains(&PageNo(near)));
            }
        }
    }

    #[test]
    fn sets_have_a_first_page_and_no_page_beyond_the_last() {
        assert_eq!(PageSet::new(PageNo(7), 0), None);
        assert_eq!(PageSet::new(PageNo(7), 2), None);
        assert_eq!(PageSet::new(PageNo(u64::MAX), 3), None);
        assert!(PageSet::new(PageNo(u64::MAX), 1).is_some());
        assert_eq!(PageSet::one(PageNo(3)).with(PageNo(2)), None);
    }
}
