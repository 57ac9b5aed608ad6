//! A CPU's translation buffer: virtual page to guest-physical page.
//!
//! It serves two ends: its misses are the page walks that are modelled, and it spares the plugin the
//! question to the emulator at every access. Entries live exactly as long as the architecture lets
//! them: until INVLPG of the page, a CR3 load (global pages survive it), or a change of paging mode.

use crate::config::TlbGeometry;

/// One translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First virtual address of the page.
    pub vaddr: u64,
    /// First guest-physical address of the page.
    pub gpa: u64,
    /// log2 of the page's size: 12, 21 or 30.
    pub shift: u32,
    /// Survives a load of CR3.
    pub global: bool,
}

impl Mapping {
    fn covers(&self, vaddr: u64) -> bool {
        vaddr >> self.shift == self.vaddr >> self.shift
    }

    /// The guest-physical address of a virtual address in the page.
    #[must_use]
    pub fn translate(&self, vaddr: u64) -> u64 {
        self.gpa | (vaddr & ((1 << self.shift) - 1))
    }
}

/// A translation buffer with least-recently-used replacement.
#[derive(Clone, Debug)]
pub struct Tlb {
    small: Vec<Option<Mapping>>,
    ways: usize,
    mask: u64,
    large: Vec<Mapping>,
    large_max: usize,
}

impl Tlb {
    /// An empty buffer.
    #[must_use]
    pub fn new(geometry: TlbGeometry) -> Tlb {
        Tlb {
            small: vec![None; geometry.entries],
            ways: geometry.ways,
            mask: (geometry.entries / geometry.ways) as u64 - 1,
            large: Vec::new(),
            large_max: geometry.large,
        }
    }

    /// The guest-physical address, if the translation is in.
    pub fn lookup(&mut self, vaddr: u64) -> Option<u64> {
        let set = self.set(vaddr);
        let set = &mut self.small[set];
        if let Some(way) = set.iter().position(|m| m.is_some_and(|m| m.covers(vaddr))) {
            set[..=way].rotate_right(1);
            return set[0].map(|m| m.translate(vaddr));
        }
        let way = self.large.iter().position(|m| m.covers(vaddr))?;
        self.large[..=way].rotate_right(1);
        Some(self.large[0].translate(vaddr))
    }

    /// Whether looking the two addresses up in turn leaves the order of use as it is, if both are in and were used last:
    /// they are in one page, or the entries for small pages are in different sets and a large page would hold both.
    #[must_use]
    pub fn is_apart(&self, a: u64, b: u64) -> bool {
        a >> 12 == b >> 12 || (a >> 21 == b >> 21 && self.set(a) != self.set(b))
    }

    /// Puts a translation in, as most recently used.
    pub fn insert(&mut self, mapping: Mapping) {
        if mapping.shift > 12 {
            self.large.truncate(self.large_max - 1);
            self.large.insert(0, mapping);
            return;
        }
        let set = self.set(mapping.vaddr);
        let set = &mut self.small[set];
        let way = set.iter().position(Option::is_none).unwrap_or(set.len() - 1);
        set[..=way].rotate_right(1);
        set[0] = Some(mapping);
    }

    /// Forgets translations of the page at `vaddr`, global or not (INVLPG).
    pub fn invalidate(&mut self, vaddr: u64) {
        let set = self.set(vaddr);
        for m in &mut self.small[set] {
            if m.is_some_and(|m| m.covers(vaddr)) {
                *m = None;
            }
        }
        self.large.retain(|m| !m.covers(vaddr));
    }

    /// Forgets all translations, or all but the global ones.
    pub fn flush(&mut self, keep_global: bool) {
        for m in &mut self.small {
            if m.is_some_and(|m| !(keep_global && m.global)) {
                *m = None;
            }
        }
        self.large.retain(|m| keep_global && m.global);
    }

    fn set(&self, vaddr: u64) -> std::ops::Range<usize> {
        let start = (vaddr >> 12 & self.mask) as usize * self.ways;
        start..start + self.ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(vaddr: u64, gpa: u64, shift: u32, global: bool) -> Mapping {
        Mapping { vaddr, gpa, shift, global }
    }

    fn tlb() -> Tlb {
        Tlb::new(TlbGeometry { entries: 8, ways: 2, large: 2 })
    }

    #[test]
    fn pages_of_all_sizes_translate() {
        let mut t = tlb();
        t.insert(page(0x5000, 0x9000, 12, false));
        t.insert(page(0x20_0000, 0x4000_0000, 21, false));
        t.insert(page(0xC000_0000, 0, 30, true));
        assert_eq!(t.lookup(0x5123), Some(0x9123));
        assert_eq!(t.lookup(0x2F_FFFF), Some(0x400F_FFFF));
        assert_eq!(t.lookup(0xC123_4567), Some(0x0123_4567));
        assert_eq!(t.lookup(0x6000), None);
        t.flush(true);
        assert_eq!(t.lookup(0x5123), None);
        assert_eq!(t.lookup(0xC000_0000), Some(0), "global pages survive a CR3 load");
        t.invalidate(0xC800_0000);
        assert_eq!(t.lookup(0xC000_0000), None, "but not INVLPG anywhere in them");
    }

    #[test]
    fn the_least_recently_used_entry_goes() {
        let mut t = tlb();
        for vaddr in [0x0000, 0x4000] {
            t.insert(page(vaddr, vaddr, 12, false));
        }
        assert!(t.lookup(0).is_some());
        t.insert(page(0x8000, 0x8000, 12, false));
        assert!(t.lookup(0).is_some() && t.lookup(0x4000).is_none());
        for i in 0..3u64 {
            t.insert(page(i << 30, i << 30, 30, false));
        }
        assert_eq!(t.large.len(), 2);
        assert_eq!(t.lookup(2 << 30), Some(2 << 30));
    }
}
