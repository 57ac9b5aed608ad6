//! What Lokal adds to X.2, in places that old programs never set.
//!
//! # Abort instead of crossing (`papers/l4-smp` design decision 4)
//!
//! A sender may ask that its send phase fails when the receiver lives on another processor. The
//! request is bit 0 of byte 2 of the flags TCR (word -10, [`crate::utcb::word::FLAGS`]): the bytes
//! above PreemptFlags and CopFlags are reserved and zero in X.2 programs. The kernel reads it only
//! after it has found that the partner is elsewhere, so same-processor IPC pays nothing.
//!
//! The failure is reported like every other one: tag with only E set, and in ErrorCode an
//! [`crate::IpcError`] of the send phase with code [`crate::IpcCode::WouldCross`] (0, unused by
//! X.2), the partner's processor number as its offset, and bit 63 set so that the word is not zero.
//! Nothing was sent and the receive phase is skipped. The flag stays set until the thread clears it.
//! Whether the partner was ready to receive makes no difference. The number is that at the time of
//! the call: the partner may have moved since.
//!
//! # Counters of the kernel's memory
//!
//! A debugger call ([`crate::syscall::debugger::KERNEL_MEMORY`]) reads one [`MemoryCounter`] of one node, so that tests
//! and measurements can tell what an operation allocated and whether it came back. Another
//! ([`crate::syscall::debugger::CPU_COUNTER`]) reads one [`CpuCounter`] of one processor.
//!
//! # Measuring the machine
//!
//! With the kernel option `measure=on` programs may read the processor's own counters ([`HardwareCounter`]) with RDPMC, and send
//! interrupts to processors to see how long these take. Without it both are refused: the first tells what other programs do,
//! the second costs them time.

use crate::error::{IpcCode, IpcError, Phase};
use crate::id::CpuId;

bitflags::bitflags! {
    /// IpcFlags: byte 2 of the flags TCR.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct IpcFlags: u8 {
        /// Fail a send to a thread on another processor.
        const STAY_ON_CPU = 1;
    }
}

/// Position of [`IpcFlags`] in the flags TCR.
pub const IPC_FLAGS_SHIFT: u32 = 16;

impl IpcFlags {
    /// The flags in a flags TCR word.
    #[must_use]
    pub const fn of(flags_tcr: u64) -> Self {
        Self::from_bits_truncate((flags_tcr >> IPC_FLAGS_SHIFT) as u8)
    }

    /// The flags TCR word with these IpcFlags instead of its own.
    #[must_use]
    pub const fn put(self, flags_tcr: u64) -> u64 {
        (flags_tcr & !(0xFF << IPC_FLAGS_SHIFT)) | ((self.bits() as u64) << IPC_FLAGS_SHIFT)
    }
}

/// The error of a send that would have crossed to `partner`.
#[must_use]
pub const fn would_cross(partner: CpuId) -> IpcError {
    IpcError::at(Phase::Send, IpcCode::WouldCross, partner.0 as u64)
}

/// The partner's processor, if `error` says that the send would have crossed.
#[must_use]
pub const fn crossing_cpu(error: IpcError) -> Option<CpuId> {
    match error.code {
        IpcCode::WouldCross => Some(CpuId(error.offset as u16)),
        _ => None,
    }
}

abi_enum! {
    /// A counter of a node's kernel memory. Pages are of 4 KiB.
    pub enum MemoryCounter: u32 {
        /// Pages that can be allocated at all.
        Total = 0 => "total",
        /// Pages allocated now. The kernel first gives back what the asking processor keeps for later use.
        Used = 1 => "used",
        /// Most pages that were ever allocated at the same time.
        Peak = 2 => "peak",
        /// Successful allocations.
        Allocations = 3 => "allocations",
        /// Successful frees.
        Frees = 4 => "frees",
        /// Allocations that failed.
        Failures = 5 => "failures",
        /// Pages in the slab of mapping nodes.
        SlabPages = 6 => "slab_pages",
        /// Mapping nodes that the slab has given out, those that processors keep free included.
        SlabObjects = 7 => "slab_objects",
    }
}

abi_enum! {
    /// A counter of a processor's traffic with others.
    pub enum CpuCounter: u32 {
        /// Threads sent to other processors.
        RequestsSent = 0 => "requests_sent",
        /// Threads that arrived.
        RequestsReceived = 1 => "requests_received",
        /// Interrupts sent for them.
        RequestInterrupts = 2 => "request_interrupts",
        /// Operations that had other processors flush.
        Shootdowns = 3 => "shootdowns",
        /// Interrupts sent for that.
        ShootdownInterrupts = 4 => "shootdown_interrupts",
        /// Shootdown requests served.
        ShootdownsServed = 5 => "shootdowns_served",
        /// Interrupts of other processors taken.
        InterruptsReceived = 6 => "interrupts_received",
        /// Messages sent to threads on other processors.
        CrossIpc = 7 => "cross_ipc",
        /// Thread control blocks moved to this processor's node.
        TcbMoves = 8 => "tcb_moves",
        /// Not a count: the processor's clock is wrong by at most so many nanoseconds against the boot processor's.
        ClockBound = 9 => "clock_bound_ns",
        /// Interrupts taken that were sent to measure them ([`crate::syscall::debugger::SEND_INTERRUPT`]).
        Probes = 10 => "probes",
        /// Time-stamp counter of the processor when it came to the handler of the last of these.
        ProbeTime = 11 => "probe_time",
    }
}

abi_enum! {
    /// What the processor's own counters may count.
    pub enum HardwareCounter: u32 {
        /// Accesses to memory of other nodes.
        RemoteAccesses = 0 => "remote accesses",
        /// Accesses to memory of the own node.
        LocalAccesses = 1 => "local accesses",
    }
}

abi_enum! {
    /// Why a hardware counter cannot be read.
    pub enum NoCounter: u32 {
        /// There is no such counter or processor.
        Unknown = 0 => "no such counter",
        /// The kernel was not told to let programs read them (`measure=on`).
        Off = 1 => "the kernel runs without measure=on",
        /// The processor is emulated or virtual.
        Hypervisor = 2 => "the processor is emulated or virtual",
        /// It is not known how this model counts that.
        Processor = 3 => "not known for this processor",
        /// The processor has too few counters.
        Unsupported = 4 => "the processor has no such counters",
        /// The node has one counter, which its first processor reads.
        OtherProcessor = 5 => "the node's first processor counts it",
    }
}

/// The answer of [`crate::syscall::debugger::HARDWARE_COUNTER`] as a word.
#[must_use]
pub const fn hardware_counter_word(answer: Result<u32, NoCounter>) -> u64 {
    match answer {
        Ok(number) => number as u64,
        Err(why) => u64::MAX - why.raw() as u64,
    }
}

/// The number by which RDPMC reads a hardware counter, from that word.
///
/// # Errors
/// Why there is none.
pub const fn hardware_counter(word: u64) -> Result<u32, NoCounter> {
    if word <= u32::MAX as u64 {
        return Ok(word as u32);
    }
    let code = u64::MAX - word;
    let known = if code <= u32::MAX as u64 { NoCounter::from_raw(code as u32) } else { None };
    match known {
        Some(why) => Err(why),
        None => Err(NoCounter::Unknown),
    }
}

/// The answer for a counter that does not exist, a node without kernel memory or a processor that is not up.
pub const NO_COUNTER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_leave_their_neighbours() {
        let tcr = IpcFlags::STAY_ON_CPU.put(0xFFFF_FFFF_FF00_A5E0);
        assert_eq!(tcr, 0xFFFF_FFFF_FF01_A5E0);
        assert_eq!(IpcFlags::of(tcr), IpcFlags::STAY_ON_CPU);
        assert_eq!(IpcFlags::empty().put(tcr), 0xFFFF_FFFF_FF00_A5E0);
    }

    #[test]
    fn hardware_counters_have_numbers_or_reasons() {
        for number in [0, 1, 6, 1 << 30] {
            assert_eq!(hardware_counter(hardware_counter_word(Ok(number))), Ok(number));
        }
        for &why in NoCounter::ALL {
            assert_eq!(hardware_counter(hardware_counter_word(Err(why))), Err(why));
        }
        // A kernel that does not know the call leaves what the caller put there, at worst.
        assert_eq!(hardware_counter(NO_COUNTER), Err(NoCounter::Unknown));
        assert_eq!(hardware_counter(u64::MAX - 77), Err(NoCounter::Unknown));
    }

    #[test]
    fn processor_zero_is_still_an_error_word() {
        let e = would_cross(CpuId(0));
        assert_ne!(e.raw(), 0);
        assert_eq!(crossing_cpu(IpcError::from_raw(e.raw())), Some(CpuId(0)));
        assert_eq!(
            crossing_cpu(IpcError::from_raw(would_cross(CpuId(255)).raw())),
            Some(CpuId(255))
        );
        assert_eq!(crossing_cpu(IpcError::from_raw(2)), None);
    }
}
