//! Tables over memory lines, allocated where they are touched.

use std::collections::HashMap;

/// Lines per chunk: 32 KiB of guest memory.
const CHUNK: usize = 512;

/// One `T` per line; untouched lines read as `T::default()`.
#[derive(Debug)]
pub struct LineTable<T> {
    chunks: Vec<Option<Box<[T]>>>,
}

impl<T: Copy + Default> LineTable<T> {
    /// A table for `lines` lines.
    #[must_use]
    pub fn new(lines: usize) -> Self {
        LineTable { chunks: vec![None; lines.div_ceil(CHUNK)] }
    }

    /// The entry of a line, created if need be.
    ///
    /// # Panics
    /// If the line is beyond the table.
    pub fn entry(&mut self, line: u32) -> &mut T {
        let line = line as usize;
        let chunk = self.chunks[line / CHUNK]
            .get_or_insert_with(|| vec![T::default(); CHUNK].into_boxed_slice());
        &mut chunk[line % CHUNK]
    }

    /// The entry of a line, by value.
    #[must_use]
    pub fn get(&self, line: u32) -> T {
        let line = line as usize;
        self.chunks[line / CHUNK].as_ref().map_or_else(T::default, |c| c[line % CHUNK])
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.chunks.fill_with(|| None);
    }
}

/// Chunks whose place is remembered: code, stacks and tables take turns.
const RECENT: usize = 16;

/// How lines were touched: a byte of flags for each, 0 for lines that were not. Accesses have locality,
/// so the places of recently used chunks are remembered.
#[derive(Debug, Default)]
pub struct Touched {
    index: HashMap<u32, usize>,
    chunks: Vec<(u32, Box<[u8; CHUNK]>)>,
    recent: [usize; RECENT],
}

impl Touched {
    /// Adds flags to a line. Whether it lacked one of them.
    pub fn touch(&mut self, line: u32, how: u8) -> bool {
        let chunk = line / CHUNK as u32;
        let place = &mut self.recent[chunk as usize % RECENT];
        if self.chunks.get(*place).is_none_or(|c| c.0 != chunk) {
            *place = *self.index.entry(chunk).or_insert_with(|| {
                self.chunks.push((chunk, Box::new([0; CHUNK])));
                self.chunks.len() - 1
            });
        }
        let flags = &mut self.chunks[*place].1[line as usize % CHUNK];
        let lacked = *flags & how != how;
        *flags |= how;
        lacked
    }

    /// The flags of a line.
    #[must_use]
    pub fn get(&self, line: u32) -> u8 {
        let at = self.index.get(&(line / CHUNK as u32));
        at.map_or(0, |&at| self.chunks[at].1[line as usize % CHUNK])
    }

    /// All lines that were touched, in no particular order, with their flags.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u8)> {
        self.chunks.iter().flat_map(|(chunk, flags)| {
            let first = chunk * CHUNK as u32;
            flags.iter().zip(first..).filter(|(how, _)| **how != 0).map(|(&how, line)| (line, how))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_independent_and_start_at_default() {
        let mut t = LineTable::<u32>::new(2000);
        for line in (0..2000).step_by(7) {
            *t.entry(line) = line + 1;
        }
        for line in 0..2000 {
            assert_eq!(t.get(line), if line % 7 == 0 { line + 1 } else { 0 });
        }
        t.clear();
        assert_eq!(t.get(7), 0);
    }

    #[test]
    fn flags_add_up() {
        let mut t = Touched::default();
        for (line, how) in [(5, 1), (100_000, 2), (5, 4), (99_999, 1), (512, 8)] {
            assert!(t.touch(line, how));
        }
        assert!(!t.touch(5, 4) && t.touch(512, 9), "one flag is new");
        assert!(!t.touch(512, 9) && !t.touch(5, 1));
        let mut all: Vec<_> = t.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [(5, 5), (512, 9), (99_999, 1), (100_000, 2)]);
        assert_eq!((t.get(5), t.get(6), t.get(1 << 30)), (5, 0, 0));
    }
}
