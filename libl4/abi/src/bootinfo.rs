//! Boot info records (ref 7.3): a header and a chain of records, all words 64 bit.

/// Magic of the header.
pub const MAGIC: u64 = 0x14B0_021D;
/// Version of header and records.
pub const VERSION: u64 = 1;
/// Size of the header in bytes.
pub const HEADER_SIZE: usize = 64;

/// Record types.
pub mod record_type {
    /// A module that was loaded as it is.
    pub const MODULE: u64 = 1;
    /// A program that was loaded from ELF.
    pub const SIMPLE_EXEC: u64 = 2;
    /// EFI tables.
    pub const EFI: u64 = 0x101;
    /// Multiboot info.
    pub const MULTIBOOT: u64 = 0x102;
}

/// Word indices of a SimpleExec record.
#[expect(missing_docs, reason = "the names are those of the table in ref 7.3")]
pub mod simple_exec {
    pub const TEXT_PSTART: usize = 3;
    pub const TEXT_VSTART: usize = 4;
    pub const TEXT_SIZE: usize = 5;
    pub const DATA_PSTART: usize = 6;
    pub const DATA_VSTART: usize = 7;
    pub const DATA_SIZE: usize = 8;
    pub const BSS_PSTART: usize = 9;
    pub const BSS_VSTART: usize = 10;
    pub const BSS_SIZE: usize = 11;
    pub const INITIAL_IP: usize = 12;
    pub const FLAGS: usize = 13;
    pub const LABEL: usize = 14;
    pub const CMDLINE: usize = 15;
}

/// A record as found: its words from word 0 on, up to the end of the boot info.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
}

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let at = index.checked_mul(8)?;
    let slice = bytes.get(at..at.checked_add(8)?)?;
    slice.try_into().ok().map(u64::from_le_bytes)
}

impl<'a> Record<'a> {
    /// Word `index` of the record; 0 outside.
    #[must_use]
    pub fn word(self, index: usize) -> u64 {
        word(self.bytes, index).unwrap_or(0)
    }

    /// The type, see [`record_type`].
    #[must_use]
    pub fn kind(self) -> u64 {
        self.word(0)
    }

    /// Start and size of the module, for a Module record.
    #[must_use]
    pub fn module(self) -> Option<(u64, u64)> {
        (self.kind() == record_type::MODULE).then(|| (self.word(3), self.word(4)))
    }

    /// The command line, without its NUL; `None` if there is none.
    #[must_use]
    pub fn command_line(self) -> Option<&'a [u8]> {
        let index = match self.kind() {
            record_type::MODULE => 5,
            record_type::SIMPLE_EXEC => simple_exec::CMDLINE,
            _ => return None,
        };
        let at = usize::try_from(self.word(index)).ok().filter(|&at| at != 0)?;
        let text = self.bytes.get(at..)?;
        let end = text.iter().position(|&b| b == 0)?;
        Some(&text[..end])
    }
}

/// Iterator over the records. Ends at the count of the header or at the first broken link.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    left: u64,
}

impl<'a> Records<'a> {
    /// The records of the boot info in `bytes`; `None` if that is not one.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        if word(bytes, 0)? != MAGIC || word(bytes, 1)? != VERSION {
            return None;
        }
        let size = usize::try_from(word(bytes, 2)?).ok()?;
        let first = usize::try_from(word(bytes, 3)?).ok()?;
        let left = word(bytes, 4)?;
        Some(Self { bytes: bytes.get(..size)?.get(first..)?, left })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.left == 0 || self.bytes.len() < 24 {
            return None;
        }
        let record = Record { bytes: self.bytes };
        let step = usize::try_from(record.word(2)).ok();
        self.left -= 1;
        self.bytes = match step {
            Some(step) if step >= 24 => self.bytes.get(step..).unwrap_or(&[]),
            _ => &[],
        };
        Some(record)
    }
}

/// Writes boot info into a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    area: &'a mut [u8],
    at: usize,
    count: u64,
}

/// The buffer is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<'a> Writer<'a> {
    /// Starts boot info in `area`.
    ///
    /// # Errors
    /// [`Full`] if not even the header fits.
    pub fn new(area: &'a mut [u8]) -> Result<Self, Full> {
        area.get_mut(..HEADER_SIZE).ok_or(Full)?.fill(0);
        Ok(Self { area, at: HEADER_SIZE, count: 0 })
    }

    fn record(&mut self, fields: &[u64], cmdline: Option<(usize, &str)>) -> Result<(), Full> {
        let text = cmdline.map_or(0, |(_, text)| text.len() + 1);
        let size = (fields.len() * 8 + text).next_multiple_of(8);
        let area = self.area.get_mut(self.at..self.at + size).ok_or(Full)?;
        area.fill(0);
        for (slot, word) in area.chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        area[16..24].copy_from_slice(&(size as u64).to_le_bytes());
        if let Some((index, text)) = cmdline {
            let at = fields.len() * 8;
            area[index * 8..index * 8 + 8].copy_from_slice(&(at as u64).to_le_bytes());
            area[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        self.at += size;
        self.count += 1;
        Ok(())
    }

    /// Adds a Module record.
    ///
    /// # Errors
    /// [`Full`]; the record is then left out.
    pub fn module(&mut self, start: u64, size: u64, cmdline: &str) -> Result<(), Full> {
        let fields = [record_type::MODULE, VERSION, 0, start, size, 0];
        self.record(&fields, Some((5, cmdline)))
    }

    /// Adds a SimpleExec record for an image in one piece, loaded where it is linked.
    ///
    /// # Errors
    /// [`Full`]; the record is then left out.
    pub fn simple_exec(
        &mut self,
        start: u64,
        size: u64,
        ip: u64,
        cmdline: &str,
    ) -> Result<(), Full> {
        let mut fields = [0; 16];
        fields[0] = record_type::SIMPLE_EXEC;
        fields[1] = VERSION;
        fields[simple_exec::TEXT_PSTART] = start;
        fields[simple_exec::TEXT_VSTART] = start;
        fields[simple_exec::TEXT_SIZE] = size;
        fields[simple_exec::INITIAL_IP] = ip;
        self.record(&fields, Some((simple_exec::CMDLINE, cmdline)))
    }

    /// Writes the header. Returns the size in bytes.
    #[must_use]
    pub fn finish(self) -> usize {
        let header = [MAGIC, VERSION, self.at as u64, HEADER_SIZE as u64, self.count];
        for (slot, word) in self.area.chunks_exact_mut(8).zip(header) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let mut area = [0xAA; 512];
        let mut w = Writer::new(&mut area).expect("room");
        w.simple_exec(0x200_0000, 0x5000, 0x200_0010, "sigma0").expect("room");
        w.module(0x300_0000, 1234, "archive a=b").expect("room");
        let size = w.finish();
        let records: Vec<_> = Records::new(&area[..size]).expect("header").collect();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].kind(), record_type::SIMPLE_EXEC);
        assert_eq!(records[0].word(simple_exec::INITIAL_IP), 0x200_0010);
        assert_eq!(records[0].command_line(), Some(&b"sigma0"[..]));
        assert_eq!(records[0].module(), None);
        assert_eq!(records[1].module(), Some((0x300_0000, 1234)));
        assert_eq!(records[1].command_line(), Some(&b"archive a=b"[..]));
        assert_eq!(size % 8, 0);
    }

    #[test]
    fn a_full_buffer_is_an_error() {
        let mut area = [0; 100];
        let mut w = Writer::new(&mut area).expect("room");
        assert_eq!(w.module(0, 0, "x"), Err(Full));
        assert_eq!(w.finish(), HEADER_SIZE);
        assert!(Writer::new(&mut [0; 10]).is_err());
    }

    #[test]
    fn broken_chains_end() {
        let mut area = [0; 256];
        let mut w = Writer::new(&mut area).expect("room");
        w.module(1, 2, "").expect("room");
        let size = w.finish();
        for step in [0u64, 8, u64::MAX] {
            area[HEADER_SIZE + 16..HEADER_SIZE + 24].copy_from_slice(&step.to_le_bytes());
            area[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
            assert_eq!(Records::new(&area[..size]).expect("header").count(), 1);
        }
        assert!(Records::new(&[0; 64]).is_none());
    }
}
