//! A vector of fixed capacity, for the time before there is a heap (the kernel never has one).

use core::ops::{Deref, DerefMut};

/// Up to `N` items in place. Adding to a full one is an error that returns the item.
#[derive(Clone, Copy)]
pub struct FixedVec<T: Copy, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy, const N: usize> FixedVec<T, N> {
    /// An empty vector; `fill` occupies the unused places.
    pub const fn new(fill: T) -> Self {
        Self { items: [fill; N], len: 0 }
    }

    /// Removes all items.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// True if nothing more can be added.
    pub const fn is_full(&self) -> bool {
        self.len == N
    }

    /// Appends an item.
    ///
    /// # Errors
    /// Returns the item if the vector is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.insert(self.len, item)
    }

    /// Inserts before `at` (`at <= len`), moving the rest up.
    ///
    /// # Errors
    /// Returns the item if the vector is full.
    pub fn insert(&mut self, at: usize, item: T) -> Result<(), T> {
        if self.len == N || at > self.len {
            return Err(item);
        }
        self.items.copy_within(at..self.len, at + 1);
        self.items[at] = item;
        self.len += 1;
        Ok(())
    }

    /// Removes the last item.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        Some(self.items[self.len])
    }

    /// Removes the items `at..at + count`, moving the rest down; out of range is a no-op.
    pub fn remove(&mut self, at: usize, count: usize) {
        if at + count <= self.len {
            self.items.copy_within(at + count..self.len, at);
            self.len -= count;
        }
    }
}

impl<T: Copy, const N: usize> Deref for FixedVec<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T: Copy, const N: usize> DerefMut for FixedVec<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}

impl<T: Copy + core::fmt::Debug, const N: usize> core::fmt::Debug for FixedVec<T, N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_vec() {
        let mut v: FixedVec<u8, 4> = FixedVec::new(0);
        assert_eq!(v.pop(), None);
        for i in 0..4 {
            v.insert(0, i).unwrap();
        }
        assert_eq!(v.push(9), Err(9));
        assert_eq!(&v[..], &[3, 2, 1, 0]);
        v.remove(1, 2);
        assert_eq!(&v[..], &[3, 0]);
        v.remove(1, 2);
        assert_eq!(&v[..], &[3, 0]);
        assert_eq!(v.pop(), Some(0));
    }
}
