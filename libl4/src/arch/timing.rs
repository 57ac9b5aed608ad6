//! Instructions that measurements need: cache lines one by one, clocks, counters.

use core::arch::asm;
use l4abi::CpuId;
use l4abi::ext::{self, HardwareCounter, NO_COUNTER, NoCounter};
use l4abi::marker::interrupt::AtHandler;

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

/// A counter of the processor that this program may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pmc(u32);

impl Pmc {
    /// The counter of `cpu` for `what`; the kernel runs with `measure=on`. To be read on that CPU.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(cpu: CpuId, what: HardwareCounter) -> Result<Self, NoCounter> {
        let mut word: u64 = NO_COUNTER;
        // SAFETY: `int3; cmp al, 0x51` changes RAX only; the comparison changes flags.
        unsafe {
            asm!(".byte 0xcc, 0x3c, 0x51", inout("rax") word, in("rdi") u64::from(cpu.0),
                 in("rsi") u64::from(what.raw()), options(nomem, nostack));
        }
        ext::hardware_counter(word).map(Self)
    }

    /// What it has counted; differences modulo 2^40 mean something.
    #[must_use]
    pub fn read(self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: RDPMC only reads; a counter that is not there raises an exception, and `find` names those that are.
        unsafe {
            asm!("rdpmc", in("ecx") self.0, out("eax") low, out("edx") high,
                 options(nomem, nostack, preserves_flags));
        }
        u64::from(high) << 32 | u64::from(low)
    }

    /// What was counted since it was `before`.
    #[must_use]
    pub fn since(self, before: u64) -> u64 {
        /// Counters have at least as many bits.
        const BITS: u32 = 40;
        self.read().wrapping_sub(before) & ((1 << BITS) - 1)
    }
}

/// Interrupts a processor; the kernel runs with `measure=on`. Answers the time-stamp counter just before the command to
/// the interrupt controller; `None` if the kernel refuses. `region` is one of [`l4abi::marker::interrupt`], 0 for none.
#[must_use]
pub fn send_interrupt(to: CpuId, region: u16) -> Option<u64> {
    let mut sent: u64 = NO_COUNTER;
    // SAFETY: `int3; cmp al, 0x4f` changes RAX only; the comparison changes flags.
    unsafe {
        asm!(".byte 0xcc, 0x3c, 0x4f", inout("rax") sent, in("rdi") u64::from(to.0),
             in("rsi") u64::from(region), options(nostack));
    }
    (sent != NO_COUNTER).then_some(sent)
}

/// Times around an interruption, of this processor's time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Last read before it.
    pub before: u64,
    /// First read after it.
    pub after: u64,
}

/// Reads the clock until an interrupt comes that another thread sends with [`send_interrupt`] (l4-smp 3.3.1). It may
/// be sent when word `at` of `block` has become `value`. Without `measure=on` this never ends.
#[must_use]
pub fn await_interrupt(mark: AtHandler, block: &Block, at: u64, value: u64) -> Interruption {
    assert!(at <= block.bytes - 8, "a store beyond the block");
    let (low, high, last_low, last_high): (u32, u32, u32, u32);
    // SAFETY: writes a word of the block and reads clocks. The kernel goes on behind the comparison, with carry clear, and
    // sets the flag when the interrupt has come; no other instruction here changes it.
    unsafe {
        asm!(
            ".byte 0xcc, 0x3c, 0x50",
            "mov qword ptr [{at}], {value}",
            "rdtsc",
            "2:",
            "mov {last_low:e}, eax",
            "mov {last_high:e}, edx",
            "rdtsc",
            "jnc 2b",
            last_low = out(reg) last_low,
            last_high = out(reg) last_high,
            at = in(reg) block.base + at,
            value = in(reg) value,
            in("rsi") u64::from(mark.raw()),
            out("eax") low,
            out("edx") high,
            options(nostack),
        );
    }
    let end = super::tsc();
    let time = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let (before, after) = (time(last_high, last_low), time(high, low));
    // It may have come between the last read and the look at the flag.
    if end.wrapping_sub(after) > after.wrapping_sub(before) {
        Interruption { before: after, after: end }
    } else {
        Interruption { before, after }
    }
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
