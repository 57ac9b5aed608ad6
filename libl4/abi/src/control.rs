//! Argument words of ThreadControl, SpaceControl, Unmap and MemoryControl (ref 4.5, 4.9 to 4.12).

/// ThreadControl: "UTCB location not given".
pub const UTCB_UNSPECIFIED: u64 = u64::MAX;

/// SpaceControl: the space runs 32-bit programs. Lokal ignores it and returns control 0 (ref 4.10).
pub const SPACE_COMPATIBILITY: u64 = 1 << 63;

/// Control word of Unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapControl {
    /// Number of fpages in MR0.., 1 to 64.
    pub count: usize,
    /// f: act on the caller's own mappings as well.
    pub flush: bool,
}

impl UnmapControl {
    /// The word that crosses the interface. `count` is cut to 1 .. 64.
    #[must_use]
    pub const fn raw(self) -> u64 {
        (self.count.saturating_sub(1) as u64 & 0x3F) | ((self.flush as u64) << 6)
    }

    /// Decodes a word; other bits are ignored.
    #[must_use]
    pub const fn parse(raw: u64) -> Self {
        Self { count: (raw & 0x3F) as usize + 1, flush: raw & 0x40 != 0 }
    }
}

abi_enum! {
    /// Cache attributes of MemoryControl. The API leaves all but 0 to the architecture; the values
    /// here are the PAT memory types plus one (SDM 3A 12.12.3).
    pub enum CacheAttribute: u64 {
        /// As the firmware's memory-type registers say: write-back for memory.
        Default = 0 => "default",
        /// Uncacheable.
        Uncacheable = 1 => "uncacheable",
        /// Write combining.
        WriteCombining = 2 => "write combining",
        /// Write through.
        WriteThrough = 5 => "write through",
        /// Write back.
        WriteBack = 7 => "write back",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmap_words() {
        for count in 1..=64 {
            for flush in [false, true] {
                let c = UnmapControl { count, flush };
                assert_eq!(UnmapControl::parse(c.raw()), c);
            }
        }
        assert_eq!(UnmapControl::parse(0xFF00_0040), UnmapControl { count: 1, flush: true });
    }
}
