//! Decoding of the ACPI tables SRAT and SLIT from their raw bytes.
//!
//! This is the one adapter in place of the `acpi` crate's versions, which read the header length
//! as 16 bits and square the matrix bounds (platform facts, "Crates' quirks"). A table is either
//! wholly well-formed or refused with a [`TableError`]: half a topology is worse than none.
//!
//! Source: ACPI 6.5, 5.2.6 (header), 5.2.16 (SRAT), 5.2.17 (SLIT).

use core::fmt;

use crate::types::{ApicId, PhysRange};

/// Why a table is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// Fewer bytes than a header, or than the header's length field says.
    Truncated {
        /// Bytes the table claims or needs.
        needed: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The signature is another table's.
    Signature([u8; 4]),
    /// The bytes do not sum up to zero.
    Checksum(u8),
    /// An entry has an impossible length.
    Entry {
        /// Byte offset of the entry in the table.
        offset: u32,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { needed, have } => {
                write!(f, "truncated: needs {needed} bytes, has {have}")
            }
            Self::Signature(s) => write!(f, "wrong signature {s:?}"),
            Self::Checksum(sum) => write!(f, "checksum is off by {sum:#x}"),
            Self::Entry { offset } => write!(f, "malformed entry at offset {offset:#x}"),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

const HEADER: usize = 36;

/// Checks header, length (32 bits at offset 4) and checksum; returns the table cut to its length.
fn checked<'a>(
    bytes: &'a [u8],
    signature: &[u8; 4],
    min_len: usize,
) -> Result<&'a [u8], TableError> {
    let have = bytes.len() as u64;
    let truncated = |needed: u64| TableError::Truncated { needed, have };
    let found = bytes.first_chunk::<4>().ok_or(truncated(HEADER as u64))?;
    if found != signature {
        return Err(TableError::Signature(*found));
    }
    let len = u32_at(bytes, 4).ok_or(truncated(HEADER as u64))?;
    if (len as usize) < min_len {
        return Err(TableError::Truncated { needed: min_len as u64, have: u64::from(len) });
    }
    let table = bytes.get(..len as usize).ok_or(truncated(u64::from(len)))?;
    match table.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) {
        0 => Ok(table),
        sum => Err(TableError::Checksum(sum)),
    }
}

/// One enabled entry of an SRAT. Disabled entries and unknown types are not shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SratEntry {
    /// A CPU, from a local APIC or an x2APIC entry.
    Cpu {
        /// Its APIC id.
        apic: ApicId,
        /// Its proximity domain.
        domain: u32,
    },
    /// A range of memory. May have holes, and may be hot-pluggable address space without
    /// memory behind it: only its intersection with the firmware's memory map is memory.
    Memory {
        /// The addresses.
        range: PhysRange,
        /// Its proximity domain.
        domain: u32,
        /// The range can be plugged and unplugged at run time.
        hotplug: bool,
    },
}

/// A well-formed SRAT.
#[derive(Clone, Copy, Debug)]
pub struct Srat<'a> {
    table: &'a [u8],
    /// Proximity domains have 32 bits from revision 2 on, 8 bits before.
    domain_mask: u32,
}

impl<'a> Srat<'a> {
    /// Bytes before the first entry.
    const ENTRIES: usize = HEADER + 12;

    /// Checks a whole table, including every entry's length.
    ///
    /// # Errors
    /// What is malformed; extra bytes after the table are ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let table = checked(bytes, b"SRAT", Self::ENTRIES)?;
        let revision = table[8];
        let srat = Self { table, domain_mask: if revision < 2 { 0xFF } else { u32::MAX } };
        let mut at = Self::ENTRIES;
        while at < table.len() {
            let entry = srat.raw_entry(at).ok_or(TableError::Entry { offset: at as u32 })?;
            at += entry.len();
        }
        Ok(srat)
    }

    /// The bytes of the entry at `at`: `None` if its length is impossible for its type.
    fn raw_entry(&self, at: usize) -> Option<&'a [u8]> {
        let kind = *self.table.get(at)?;
        let len = usize::from(*self.table.get(at + 1)?);
        let min = match kind {
            0 => 16,
            1 => 40,
            2 => 24,
            _ => 2,
        };
        if len < min {
            return None;
        }
        self.table.get(at..at + len)
    }

    /// The enabled CPU and memory entries in table order.
    pub fn entries(&self) -> impl Iterator<Item = SratEntry> + use<'a> {
        let srat = *self;
        let mut at = Self::ENTRIES;
        core::iter::from_fn(move || {
            loop {
                let raw = srat.raw_entry(at)?;
                at += raw.len();
                if let Some(entry) = srat.decode(raw) {
                    return Some(entry);
                }
            }
        })
    }

    fn decode(&self, raw: &[u8]) -> Option<SratEntry> {
        const ENABLED: u32 = 1;
        const HOTPLUG: u32 = 2;
        match *raw.first()? {
            0 if u32_at(raw, 4)? & ENABLED != 0 => {
                // Bits 31..8 of the domain are the three bytes at offset 9.
                let high = u32_at(raw, 8)? & 0xFFFF_FF00;
                let domain = (u32::from(raw[2]) | high) & self.domain_mask;
                Some(SratEntry::Cpu { apic: ApicId::new(u32::from(raw[3])), domain })
            }
            1 => {
                let flags = u32_at(raw, 28)?;
                let domain = u32_at(raw, 2)?;
                let range = PhysRange::from_len(u64_at(raw, 8)?, u64_at(raw, 16)?);
                (flags & ENABLED != 0 && !range.is_empty()).then_some(SratEntry::Memory {
                    range,
                    domain: domain & self.domain_mask,
                    hotplug: flags & HOTPLUG != 0,
                })
            }
            2 if u32_at(raw, 12)? & ENABLED != 0 => Some(SratEntry::Cpu {
                apic: ApicId::new(u32_at(raw, 8)?),
                domain: u32_at(raw, 4)? & self.domain_mask,
            }),
            _ => None,
        }
    }
}

/// A well-formed SLIT: a square matrix of distances between proximity domains.
#[derive(Clone, Copy, Debug)]
pub struct Slit<'a> {
    matrix: &'a [u8],
    size: u64,
}

impl<'a> Slit<'a> {
    const MATRIX: usize = HEADER + 8;

    /// Checks a whole table.
    ///
    /// # Errors
    /// What is malformed. The values of the matrix are not judged here.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let table = checked(bytes, b"SLIT", Self::MATRIX)?;
        let size = u64_at(table, HEADER).unwrap_or(0);
        let have = (table.len() - Self::MATRIX) as u64;
        match size.checked_mul(size) {
            Some(cells) if cells <= have => Ok(Self { matrix: &table[Self::MATRIX..], size }),
            cells => Err(TableError::Truncated { needed: cells.unwrap_or(u64::MAX), have }),
        }
    }

    /// The raw distance; `None` for a domain that the matrix does not cover.
    pub fn distance(&self, from: u32, to: u32) -> Option<u8> {
        let (from, to) = (u64::from(from), u64::from(to));
        if from >= self.size || to >= self.size {
            return None;
        }
        self.matrix.get((from * self.size + to) as usize).copied()
    }
}
