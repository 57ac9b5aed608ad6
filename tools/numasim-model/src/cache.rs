//! Tags of one set-associative cache with least-recently-used replacement.
//!
//! A set is kept in order of use, most recent first: a repeated hit looks at one host word.

use crate::{LINE, config::Geometry};

/// The tags of a cache. Lines are the dense numbers of [`crate::phys`].
#[derive(Clone, Debug)]
pub struct Cache {
    /// `line + 1`, 0 for an empty way; `ways` consecutive entries are a set.
    tags: Vec<u32>,
    ways: usize,
    mask: usize,
}

impl Cache {
    /// An empty cache; a geometry of 0 bytes gives a cache that holds nothing.
    #[must_use]
    pub fn new(geometry: Geometry) -> Cache {
        let lines = (geometry.bytes / LINE) as usize;
        let ways = geometry.ways.max(1);
        Cache { tags: vec![0; lines], ways, mask: (lines / ways).saturating_sub(1) }
    }

    /// Whether the cache exists at all.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether the line is in; if so it becomes the most recently used of its set.
    pub fn touch(&mut self, line: u32) -> bool {
        let set = self.set(line);
        let Some(set) = self.tags.get_mut(set) else { return false };
        match set.iter().position(|&t| t == line + 1) {
            Some(0) => true,
            Some(way) => {
                set[..=way].rotate_right(1);
                true
            }
            None => false,
        }
    }

    /// Whether the line is in; changes nothing.
    #[must_use]
    pub fn contains(&self, line: u32) -> bool {
        self.tags.get(self.set(line)).is_some_and(|s| s.contains(&(line + 1)))
    }

    /// Puts a line that is not in, as most recently used; gives back the line that had to go.
    pub fn insert(&mut self, line: u32) -> Option<u32> {
        let set = self.set(line);
        let set = self.tags.get_mut(set)?;
        debug_assert!(!set.contains(&(line + 1)));
        // An empty way further up the order is taken before a used one is dropped.
        let way = set.iter().position(|&t| t == 0).unwrap_or(set.len() - 1);
        let victim = set[way];
        set[..=way].rotate_right(1);
        set[0] = line + 1;
        victim.checked_sub(1)
    }

    /// Takes a line out; says whether it was in.
    pub fn remove(&mut self, line: u32) -> bool {
        let set = self.set(line);
        let Some(set) = self.tags.get_mut(set) else { return false };
        match set.iter().position(|&t| t == line + 1) {
            Some(way) => {
                set[way] = 0;
                true
            }
            None => false,
        }
    }

    /// Whether two lines compete for the same ways.
    #[must_use]
    pub fn same_set(&self, a: u32, b: u32) -> bool {
        self.set(a) == self.set(b)
    }

    /// Empties the cache.
    pub fn clear(&mut self) {
        self.tags.fill(0);
    }

    fn set(&self, line: u32) -> std::ops::Range<usize> {
        let start = (line as usize & self.mask) * self.ways;
        start..start + self.ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn small() -> Cache {
        Cache::new(Geometry { bytes: 4 * 4 * LINE, ways: 4 })
    }

    #[test]
    fn the_least_recently_used_line_goes() {
        let mut c = small();
        for line in [0, 4, 8, 12] {
            assert_eq!(c.insert(line), None);
        }
        assert!(c.touch(0));
        assert_eq!(c.insert(16), Some(4));
        assert!(c.contains(0) && !c.contains(4));
        assert!(c.remove(8) && !c.remove(8));
        assert_eq!(c.insert(20), None, "the freed way is used first");
    }

    #[test]
    fn a_cache_of_no_bytes_holds_nothing() {
        let mut c = Cache::new(Geometry::default());
        assert!(!c.exists() && !c.touch(1) && !c.remove(1));
        assert_eq!(c.insert(1), None);
        assert!(!c.contains(1));
    }

    /// Random operations against four queues in order of use.
    #[test]
    fn random_operations_agree_with_a_list() {
        let mut c = small();
        let mut oracle: [VecDeque<u32>; 4] = Default::default();
        let mut x = 0x0123_4567_89AB_CDEFu64;
        for _ in 0..200_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let line = (x >> 8) as u32 % 40;
            let list = &mut oracle[line as usize % 4];
            let at = list.iter().position(|&l| l == line);
            match x % 8 {
                0 => {
                    assert_eq!(c.remove(line), at.is_some());
                    at.map(|i| list.remove(i));
                }
                _ => {
                    assert_eq!(c.touch(line), at.is_some());
                    let victim = match at {
                        Some(i) => {
                            list.remove(i);
                            None
                        }
                        None if list.len() == 4 => list.pop_back(),
                        None => None,
                    };
                    if at.is_none() {
                        assert_eq!(c.insert(line), victim);
                    }
                    list.push_front(line);
                }
            }
        }
    }
}
