//! A table by page number that is quick where pages lie side by side, as those of an array do.
//!
//! A fault looks its page up, or makes an entry, with a lock held that other processors wait for, so
//! what counts are steps and lines: a tree of blocks is a few levels lower than a tree of pages, and
//! a new entry moves none of its neighbours.

use crate::ids::{PageNo, PageRange};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;

/// log2 of the number of pages in a block.
const BLOCK_LOG2: u32 = 5;
const BLOCK: usize = 1 << BLOCK_LOG2;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Block<V> {
    /// Bit n: there is an entry for page n of the block.
    used: u32,
    values: [Option<V>; BLOCK],
}

/// Values by page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PageMap<V> {
    /// By page number without the low bits. No block is empty.
    blocks: BTreeMap<u64, Box<Block<V>>>,
}

const fn place(page: PageNo) -> (u64, usize) {
    (page.0 >> BLOCK_LOG2, page.0 as usize % BLOCK)
}

const fn page(block: u64, index: u32) -> PageNo {
    PageNo(block << BLOCK_LOG2 | index as u64)
}

/// The indices of `used` from `from` on.
fn indices(used: u32, from: usize) -> impl Iterator<Item = u32> {
    let mut rest = used & (u32::MAX << from);
    core::iter::from_fn(move || {
        let index = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (index < BLOCK as u32).then_some(index)
    })
}

impl<V> Default for PageMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> PageMap<V> {
    /// No page.
    #[must_use]
    pub const fn new() -> Self {
        Self { blocks: BTreeMap::new() }
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The value of a page.
    #[must_use]
    pub fn get(&self, page: PageNo) -> Option<&V> {
        let (block, index) = place(page);
        self.blocks.get(&block)?.values[index].as_ref()
    }

    /// The value of a page.
    pub fn get_mut(&mut self, page: PageNo) -> Option<&mut V> {
        let (block, index) = place(page);
        self.blocks.get_mut(&block)?.values[index].as_mut()
    }

    /// The value of a page, made by `make` if there is none.
    pub fn get_or_insert_with(&mut self, page: PageNo, make: impl FnOnce() -> V) -> &mut V {
        let (block, index) = place(page);
        let empty = || Box::new(Block { used: 0, values: [const { None }; BLOCK] });
        let block = self.blocks.entry(block).or_insert_with(empty);
        block.used |= 1 << index;
        block.values[index].get_or_insert_with(make)
    }

    /// Gives a page a value; the one it had.
    pub fn insert(&mut self, page: PageNo, value: V) -> Option<V> {
        let mut fresh = Some(value);
        let at = self.get_or_insert_with(page, || fresh.take().expect("called once"));
        fresh.map(|value| core::mem::replace(at, value))
    }

    /// Takes the value of a page away.
    pub fn remove(&mut self, page: PageNo) -> Option<V> {
        let (at, index) = place(page);
        let block = self.blocks.get_mut(&at)?;
        let value = block.values[index].take()?;
        block.used &= !(1 << index);
        if block.used == 0 {
            self.blocks.remove(&at);
        }
        Some(value)
    }

    /// Takes all values away.
    pub fn clear(&mut self) {
        self.blocks.clear();
    }

    /// All entries in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (PageNo, &V)> {
        self.blocks.iter().flat_map(|(&at, block)| {
            let value = move |i| Some((page(at, i), block.values[i as usize].as_ref()?));
            indices(block.used, 0).filter_map(value)
        })
    }

    /// All values in ascending order of pages.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// All values in ascending order of pages.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.blocks.values_mut().flat_map(|block| block.values.iter_mut().flatten())
    }

    /// All values in ascending order of pages.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.blocks.into_values().flat_map(|block| block.values.into_iter().flatten())
    }

    /// The entries of a range in ascending order.
    pub fn range(&self, range: PageRange) -> impl Iterator<Item = (PageNo, &V)> {
        let ((from, index), to) = (place(range.first), range.end.0.div_ceil(BLOCK as u64));
        let blocks = if range.is_empty() { from..from } else { from..to };
        self.blocks.range(blocks).flat_map(move |(&at, block)| {
            let value = move |i| Some((page(at, i), block.values[i as usize].as_ref()?));
            indices(block.used, if at == from { index } else { 0 })
                .filter_map(value)
                .take_while(move |(page, _)| *page < range.end)
        })
    }

    /// The first page of `range` that has an entry, and its value.
    pub fn first_in(&mut self, range: PageRange) -> Option<(PageNo, &mut V)> {
        let page = self.range(range).next()?.0;
        Some((page, self.get_mut(page)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use alloc::vec::Vec;

    #[test]
    fn like_any_map() {
        let mut rng = Rng::new(11);
        let (mut map, mut oracle) = (PageMap::new(), BTreeMap::new());
        for round in 0..40_000u64 {
            let base = [0, 1000, u64::MAX - 150][rng.below(3) as usize];
            let at = PageNo(base + rng.below(150));
            match rng.below(6) {
                0 | 1 => assert_eq!(map.insert(at, round), oracle.insert(at, round)),
                2 | 3 => assert_eq!(map.remove(at), oracle.remove(&at)),
                4 => {
                    let value = map.get_or_insert_with(at, || round);
                    assert_eq!(value, oracle.entry(at).or_insert(round));
                    *value += 1;
                    *oracle.get_mut(&at).unwrap() += 1;
                }
                _ => {
                    let range = PageRange { first: at, end: PageNo(base + rng.below(151)) };
                    let wanted = || oracle.iter().filter(|(page, _)| range.contains(**page));
                    assert!(map.range(range).eq(wanted().map(|(&p, v)| (p, v))));
                    let first = map.first_in(range).map(|(p, v)| (p, *v));
                    assert_eq!(first, wanted().next().map(|(&p, &v)| (p, v)));
                }
            }
            assert_eq!(map.get(at), oracle.get(&at));
            assert_eq!(map.get_mut(at), oracle.get_mut(&at));
            assert_eq!(map.is_empty(), oracle.is_empty());
            if round % 64 == 0 {
                assert!(map.iter().eq(oracle.iter().map(|(&p, v)| (p, v))));
                assert!(map.values().eq(oracle.values()));
                assert!(map.values_mut().eq(oracle.values_mut()));
                assert!(map.clone().into_values().eq(oracle.values().copied()));
                // Equal content is equal, whatever the history.
                let mut again = PageMap::new();
                let entries: Vec<_> = oracle.iter().rev().map(|(&p, &v)| (p, v)).collect();
                entries.into_iter().for_each(|(page, value)| {
                    again.insert(page, value);
                });
                assert_eq!(again, map);
            }
        }
        map.clear();
        assert!(map.is_empty() && map.iter().next().is_none());
    }
}
