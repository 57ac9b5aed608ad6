//! What an ELF program looks like in memory, page by page.

use crate::ids::PAGE_LOG2;
use alloc::vec::Vec;
use l4abi::Rights;
use xmas_elf::ElfFile;
use xmas_elf::program::Type;

const PAGE: u64 = 1 << PAGE_LOG2;
/// End of user memory.
const USER_END: u64 = 1 << 47;

/// A program to load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image<'a> {
    /// Where it starts.
    pub entry: u64,
    /// Its segments by address; no two share a page.
    pub segments: Vec<Segment<'a>>,
}

/// A run of pages with the same rights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Address of the first byte; the first page begins at or before it.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What the program may do there; never both write and execute.
    pub rights: Rights,
    /// The first bytes; the rest is zero.
    pub data: &'a [u8],
}

impl<'a> Image<'a> {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let elf = ElfFile::new(bytes)?;
        let mut segments: Vec<Segment<'a>> = Vec::new();
        for s in elf.program_iter().filter(|s| s.get_type() == Ok(Type::Load) && s.mem_size() > 0) {
            let (offset, size) = (s.offset() as usize, s.file_size() as usize);
            let data = bytes.get(offset..).and_then(|b| b.get(..size)).ok_or("it is cut short")?;
            let start = s.virtual_addr();
            let end = start.checked_add(s.mem_size()).filter(|&end| end <= USER_END);
            let end = end.ok_or("a segment lies outside of user memory")?;
            if s.file_size() > s.mem_size() {
                return Err("a segment's file is larger than its memory");
            }
            let flags = s.flags();
            let mut rights = Rights::R;
            rights.set(Rights::W, flags.is_write());
            rights.set(Rights::X, flags.is_execute());
            if rights == Rights::RWX {
                return Err("a segment is both writable and executable");
            }
            segments.push(Segment { start, end, rights, data });
        }
        segments.sort_by_key(|s| s.start);
        let shared = |w: &[Segment<'_>]| w[0].end.next_multiple_of(PAGE) > w[1].start & !(PAGE - 1);
        if segments.is_empty() || segments.windows(2).any(shared) {
            return Err("no segments, or two that share a page");
        }
        Ok(Self { entry: elf.header.pt2.entry_point(), segments })
    }
}

impl<'a> Segment<'a> {
    /// Numbers of its first page and of the one past its last.
    #[must_use]
    pub const fn pages(&self) -> (u64, u64) {
        (self.start >> PAGE_LOG2, self.end.div_ceil(PAGE))
    }

    /// The part of the file that belongs into page `page`: the offset in the page, and the bytes.
    /// `None` for a page of zeros only.
    #[must_use]
    pub fn page_data(&self, page: u64) -> Option<(u64, &'a [u8])> {
        let at = page << PAGE_LOG2;
        let file_end = self.start + self.data.len() as u64;
        let (from, to) = (at.max(self.start), (at + PAGE).min(file_end));
        if from >= to {
            return None;
        }
        let data = &self.data[(from - self.start) as usize..(to - self.start) as usize];
        Some((from - at, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_segment_add_up() {
        let file: Vec<u8> = (0..9000u32).map(|i| i as u8).collect();
        let s = Segment { start: 0x1800, end: 0x8000, rights: Rights::RW, data: &file };
        assert_eq!(s.pages(), (1, 8));
        let mut memory = alloc::vec![0u8; 0x8000];
        for page in 1..8 {
            if let Some((at, data)) = s.page_data(page) {
                let from = (page * PAGE + at) as usize;
                memory[from..from + data.len()].copy_from_slice(data);
            }
        }
        assert_eq!(memory[0x1800..0x1800 + 9000], file[..]);
        assert!(memory[0x1800 + 9000..].iter().all(|&b| b == 0));
        assert_eq!(s.page_data(4), None);
        assert_eq!(s.page_data(0), None);
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(Image::parse(&[]).is_err());
        assert!(Image::parse(&[0x7F; 200]).is_err());
    }
}
