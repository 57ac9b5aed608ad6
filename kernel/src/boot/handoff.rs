//! What the three ways of booting have in common: one value that a thin front fills.
//!
//! The front copies everything out of the loader's memory, so nothing of the loader has to stay alive
//! but the boot archive.

/// Most ranges kept of a firmware memory map. UEFI maps have dozens; adjacent ranges of one kind are
/// merged on the way in.
pub const MAX_RANGES: usize = 256;
/// Longest command line kept.
pub const MAX_COMMAND_LINE: usize = 1024;

/// What a physical range may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Free memory.
    Usable,
    /// In use by the boot loader: tables, the kernel's frames, the archive. Memory all the same.
    Loader,
    /// Not memory, or the firmware's.
    Reserved,
}

/// A physical range, end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// What a boot path hands to the kernel.
pub struct Handoff {
    /// Which way the machine was booted: `direct` or `image`.
    pub path: &'static str,
    /// Time-stamp counter at the kernel's first instruction.
    pub entry_tsc: u64,
    /// Physical address of the ACPI root pointer, if the loader found one.
    pub rsdp: Option<u64>,
    /// Physical start and length of the boot archive.
    pub archive: Option<(u64, u64)>,
    ranges: [MemoryRange; MAX_RANGES],
    nr_ranges: usize,
    /// Ranges that did not fit; reported on the console.
    pub dropped_ranges: usize,
    command_line: [u8; MAX_COMMAND_LINE],
    command_line_len: usize,
    /// The command line was longer than [`MAX_COMMAND_LINE`].
    pub command_line_cut: bool,
}

impl Handoff {
    /// An empty handoff for the boot path `path`, entered at `entry_tsc`.
    pub const fn new(path: &'static str, entry_tsc: u64) -> Self {
        let none = MemoryRange { start: 0, end: 0, kind: MemoryKind::Reserved };
        Handoff {
            path,
            entry_tsc,
            rsdp: None,
            archive: None,
            ranges: [none; MAX_RANGES],
            nr_ranges: 0,
            dropped_ranges: 0,
            command_line: [0; MAX_COMMAND_LINE],
            command_line_len: 0,
            command_line_cut: false,
        }
    }

    /// Adds a range of the firmware's map; a range that continues the last one of its kind extends it.
    pub fn add_range(&mut self, range: MemoryRange) {
        if range.start >= range.end {
            return;
        }
        if let Some(last) = self.ranges[..self.nr_ranges].last_mut()
            && last.kind == range.kind
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        match self.ranges.get_mut(self.nr_ranges) {
            Some(slot) => {
                *slot = range;
                self.nr_ranges += 1;
            }
            // Forgetting memory is safe: it is never used.
            None => self.dropped_ranges += 1,
        }
    }

    /// The memory map in the firmware's order.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges[..self.nr_ranges]
    }

    /// Appends a byte of the command line; false when it is full.
    pub fn push_command_line(&mut self, byte: u8) -> bool {
        match self.command_line.get_mut(self.command_line_len) {
            Some(slot) => {
                *slot = byte;
                self.command_line_len += 1;
                true
            }
            None => {
                self.command_line_cut = true;
                false
            }
        }
    }

    /// The command line, up to the first byte that is not UTF-8.
    pub fn command_line(&self) -> &str {
        let bytes = &self.command_line[..self.command_line_len];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }
}
