//! Page walks: which table entries the hardware reads to translate an address.
//!
//! The tables are the guest's own, read from its memory; CR0, CR3, CR4 and EFER come from the
//! emulated CPU (SDM 3A 4.5, AMD APM 2 5.3). Four-level paging is what Lokal uses; any other
//! paging mode is reported as not modelled.

use crate::tlb::Mapping;

/// Paging-related registers of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CR0: bit 31 switches paging on.
    pub cr0: u64,
    /// CR3: the root table.
    pub cr3: u64,
    /// CR4: bit 7 enables global pages, bit 12 five-level paging.
    pub cr4: u64,
    /// EFER: bit 10 says that long mode is active.
    pub efer: u64,
}

impl Control {
    /// Whether addresses are translated at all.
    #[must_use]
    pub fn paging(self) -> bool {
        self.cr0 >> 31 & 1 == 1
    }

    fn four_level(self) -> bool {
        self.efer >> 10 & 1 == 1 && self.cr4 >> 12 & 1 == 0
    }
}

/// What the model asks of the guest.
pub trait Guest {
    /// Eight bytes of guest-physical memory; `None` where there is no RAM.
    fn read(&self, gpa: u64) -> Option<u64>;
    /// The paging registers of a CPU as they are now.
    fn control(&self, cpu: usize) -> Control;
    /// Instructions executed by all CPUs so far, in the kernel and in user mode.
    fn counts(&self) -> [u64; 2];
    /// What the emulator itself says where the data access that is being reported went.
    fn emulator_says(&self, vaddr: u64) -> Option<Target>;
    /// A general register of the executing CPU, in hardware numbering. Right only between
    /// translation blocks.
    fn register(&self, number: u8) -> u64;
    /// CR2 of the executing CPU.
    fn fault_address(&self) -> u64;
}

/// Where an access went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// RAM at this guest-physical address.
    Memory(u64),
    /// A device register at this guest-physical address.
    Device(u64),
}

/// The result of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Guest-physical addresses of the entries read, root first; the first `reads` are valid.
    pub entries: [u64; 4],
    /// How many entries were read.
    pub reads: usize,
    /// The translation, unless an entry was not present or could not be read.
    pub mapping: Option<Mapping>,
    /// The table that holds the last entry (for the paging-structure cache).
    pub last_table: Option<u64>,
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// Walks the tables for `vaddr`. With `from` (the address of the last-level table, known from the
/// paging-structure cache) only the last entry is read. `None` if this paging mode is not modelled.
#[must_use]
pub fn walk(guest: &impl Guest, control: Control, vaddr: u64, from: Option<u64>) -> Option<Walk> {
    if !control.paging() {
        let mapping =
            Mapping { vaddr: vaddr & !0xFFF, gpa: vaddr & !0xFFF, shift: 12, global: false };
        return Some(Walk { mapping: Some(mapping), ..Walk::default() });
    }
    if !control.four_level() {
        return None;
    }
    let mut out = Walk::default();
    let (mut table, levels) = match from {
        Some(table) => (table, 0..1),
        None => (control.cr3 & ADDRESS, 0..4),
    };
    for level in levels.rev() {
        let shift = 12 + 9 * level;
        let gpa = table + (vaddr >> shift & 0x1FF) * 8;
        let Some(entry) = guest.read(gpa) else { return Some(out) };
        out.entries[out.reads] = gpa;
        out.reads += 1;
        if entry & PRESENT == 0 {
            return Some(out);
        }
        if level == 0 || (level < 3 && entry & LARGE != 0) {
            if level == 0 {
                out.last_table = Some(table);
            }
            let mask = (1u64 << shift) - 1;
            out.mapping = Some(Mapping {
                vaddr: vaddr & !mask,
                gpa: entry & ADDRESS & !mask,
                shift,
                global: entry & GLOBAL != 0 && control.cr4 >> 7 & 1 == 1,
            });
            return Some(out);
        }
        table = entry & ADDRESS;
    }
    Some(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{cell::Cell, collections::HashMap};

    /// A guest made of a few words of memory.
    #[derive(Default)]
    pub(crate) struct FakeGuest {
        pub words: HashMap<u64, u64>,
        pub control: Control,
        pub counts: Cell<[u64; 2]>,
        pub registers: [u64; 16],
        pub cr2: u64,
    }

    impl Guest for FakeGuest {
        fn read(&self, gpa: u64) -> Option<u64> {
            (gpa < 1 << 40).then(|| self.words.get(&gpa).copied().unwrap_or(0))
        }
        fn control(&self, _cpu: usize) -> Control {
            self.control
        }
        fn counts(&self) -> [u64; 2] {
            self.counts.get()
        }
        fn emulator_says(&self, _vaddr: u64) -> Option<Target> {
            None
        }
        fn register(&self, number: u8) -> u64 {
            self.registers[usize::from(number)]
        }
        fn fault_address(&self) -> u64 {
            self.cr2
        }
    }

    pub(crate) const LONG_MODE: Control =
        Control { cr0: 1 << 31 | 1, cr3: 0x1000, cr4: 1 << 7 | 1 << 5, efer: 1 << 10 | 1 << 8 };

    fn guest() -> FakeGuest {
        let mut g = FakeGuest { control: LONG_MODE, ..FakeGuest::default() };
        g.words.insert(0x1000, 0x2003); // 0..512 GiB
        g.words.insert(0x2000, 0x3003); // 0..1 GiB
        g.words.insert(0x2008, 0x4000_0000 | LARGE | GLOBAL | 3); // 1..2 GiB
        g.words.insert(0x3000, 0x4003); // 0..2 MiB
        g.words.insert(0x3008, 0x20_0000 | LARGE | 3); // 2..4 MiB
        g.words.insert(0x4000 + 5 * 8, 1 << 63 | 0x9003); // page 5
        g
    }

    #[test]
    fn a_small_page_takes_four_reads() {
        let w = walk(&guest(), LONG_MODE, 0x5123, None).expect("modelled");
        assert_eq!(&w.entries[..w.reads], [0x1000, 0x2000, 0x3000, 0x4028]);
        let m = w.mapping.expect("mapped");
        assert_eq!((m.translate(0x5123), m.shift, m.global), (0x9123, 12, false));
        assert_eq!(w.last_table, Some(0x4000));
        let short = walk(&guest(), LONG_MODE, 0x5123, w.last_table).expect("modelled");
        assert_eq!(&short.entries[..short.reads], [0x4028]);
        assert_eq!(short.mapping, w.mapping);
    }

    #[test]
    fn large_pages_take_fewer() {
        let w = walk(&guest(), LONG_MODE, 0x2F_1234, None).expect("modelled");
        assert_eq!((w.reads, w.mapping.map(|m| m.translate(0x2F_1234))), (3, Some(0x2F_1234)));
        let w = walk(&guest(), LONG_MODE, 0x4000_0001, None).expect("modelled");
        assert_eq!(w.reads, 2);
        assert!(w.mapping.is_some_and(|m| m.global && m.shift == 30));
        assert_eq!(w.last_table, None);
    }

    #[test]
    fn a_missing_page_ends_the_walk() {
        let w = walk(&guest(), LONG_MODE, 0x6000, None).expect("modelled");
        assert_eq!((w.reads, w.mapping), (4, None));
        let w = walk(&guest(), LONG_MODE, 1 << 40, None).expect("modelled");
        assert_eq!((w.reads, w.mapping), (1, None));
    }

    #[test]
    fn other_paging_modes() {
        let off = Control::default();
        let w = walk(&guest(), off, 0x8123, None).expect("identity");
        assert_eq!((w.reads, w.mapping.map(|m| m.translate(0x8123))), (0, Some(0x8123)));
        let legacy = Control { cr0: 1 << 31, ..Control::default() };
        assert_eq!(walk(&guest(), legacy, 0, None), None);
    }
}
