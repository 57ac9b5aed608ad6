//! Builds ACPI tables for tests.

use crate::types::PhysRange;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Builds ACPI tables.
pub(crate) struct Table(pub Vec<u8>);

impl Table {
    pub fn srat(revision: u8) -> Self {
        let mut bytes = vec![0; 48];
        bytes[..4].copy_from_slice(b"SRAT");
        bytes[8] = revision;
        bytes[36] = 1;
        Self(bytes)
    }

    pub fn slit(size: u64, matrix: &[u8]) -> Self {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(b"SLIT");
        bytes.extend(size.to_le_bytes());
        bytes.extend(matrix);
        Self(bytes)
    }

    pub fn apic(mut self, apic: u8, domain: u32, flags: u32) -> Self {
        let d = domain.to_le_bytes();
        self.0.extend([0, 16, d[0], apic]);
        self.0.extend(flags.to_le_bytes());
        self.0.extend([0x77, d[1], d[2], d[3], 0, 0, 0, 0]);
        self
    }

    pub fn x2apic(mut self, apic: u32, domain: u32, flags: u32) -> Self {
        self.0.extend([2, 24, 0, 0]);
        for field in [domain, apic, flags, 0, 0] {
            self.0.extend(field.to_le_bytes());
        }
        self
    }

    pub fn memory(mut self, start: u64, len: u64, domain: u32, flags: u32) -> Self {
        self.0.extend([1, 40]);
        self.0.extend(domain.to_le_bytes());
        self.0.extend([0, 0]);
        self.0.extend(start.to_le_bytes());
        self.0.extend(len.to_le_bytes());
        self.0.extend([0; 4]);
        self.0.extend(flags.to_le_bytes());
        self.0.extend([0; 8]);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Sets length and checksum.
    pub fn seal(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&len.to_le_bytes());
        self.0[9] = 0;
        let sum = self.0.iter().fold(0u8, |s, b| s.wrapping_add(*b));
        self.0[9] = 0u8.wrapping_sub(sum);
        self.0
    }
}

pub(crate) fn range(start: u64, len: u64) -> PhysRange {
    PhysRange::from_len(start, len)
}
