//! A table with one entry per memory line, allocated where it is touched.

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
}
