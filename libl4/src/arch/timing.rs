//! Instructions that measurements need: cache lines one by one, clocks, counters.

use core::arch::asm;

/// Memory that belongs to no Rust object and is checked once, so that a measured access is an instruction and nothing
/// else.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    base: u64,
    bytes: u64,
}

impl Block {
    /// The block of `bytes` at `base`.
    ///
    /// # Panics
    /// If it lies in the program's image or in its heap, or is shorter than a word.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Self {
        super::memory::check_foreign(base, bytes);
        assert!(bytes >= 8, "a block of less than a word");
        Self { base, bytes }
    }

    /// Reads a word; a place beyond the block is read, too, if something is mapped there.
    #[inline(always)]
    #[must_use]
    pub fn load(&self, offset: u64) -> u64 {
        let value;
        // SAFETY: reads memory that the compiler knows nothing about; if nothing is mapped there the pager hears of it.
        unsafe {
            asm!("mov {}, qword ptr [{}]", out(reg) value, in(reg) self.base.wrapping_add(offset),
                 options(readonly, nostack, preserves_flags));
        }
        value
    }

    /// Writes a word without reading its line before.
    ///
    /// # Panics
    /// If the word is not in the block.
    #[inline(always)]
    pub fn store(&self, offset: u64, value: u64) {
        assert!(offset <= self.bytes - 8, "a store beyond the block");
        // SAFETY: inside of the block, which is outside of everything that Rust objects live in (`new`).
        unsafe {
            asm!("mov qword ptr [{}], {}", in(reg) self.base + offset, in(reg) value,
                 options(nostack, preserves_flags));
        }
    }

    /// Has all caches write a line back and forget it (SDM 2A, CLFLUSH).
    pub fn flush(&self, offset: u64) {
        // SAFETY: no memory changes; the address is mapped or the pager hears of it.
        unsafe {
            asm!("clflush [{}]", in(reg) self.base.wrapping_add(offset), options(nostack, preserves_flags));
        }
    }
}

/// Takes a value through a register: what is left of an access when there is no access.
#[inline(always)]
#[must_use]
pub fn through_register(value: u64) -> u64 {
    let out;
    // SAFETY: copies a register.
    unsafe {
        asm!("mov {}, {}", out(reg) out, in(reg) value, options(nomem, nostack, preserves_flags))
    };
    out
}

/// Returns when all loads and stores before it are done (SDM 2A, MFENCE and LFENCE).
#[inline(always)]
pub fn settle_memory() {
    // SAFETY: only orders.
    unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_keep_values() {
        assert_eq!(through_register(77), 77);
        settle_memory();
    }

    #[test]
    #[should_panic(expected = "beyond the block")]
    fn stores_stay_inside() {
        Block { base: 0x1000, bytes: 64 }.store(57, 0);
    }

    #[test]
    fn memory_is_read_and_written() {
        let mut words = [1u64, 2, 3];
        let block = Block { base: words.as_mut_ptr() as u64, bytes: 24 };
        block.store(16, 9);
        block.flush(0);
        settle_memory();
        assert_eq!((block.load(0), block.load(16)), (1, 9));
        assert_eq!(words, [1, 2, 9]);
    }
}
