//! Schedule (ref 4.8).

use crate::id::CpuId;
use crate::time::Time;

/// A parameter of this value leaves its subject unchanged.
pub const UNCHANGED: u64 = u64::MAX;

/// Priority of new threads.
pub const DEFAULT_PRIORITY: u8 = 100;
/// Time slice of new threads, in microseconds.
pub const DEFAULT_TIMESLICE_US: u64 = 10_000;
/// Priority of the root servers (ref 7.1).
pub const ROOT_PRIORITY: u8 = 255;

abi_enum! {
    /// State of the destination before the call: the result of Schedule.
    pub enum ThreadState: u64 {
        /// Failed; see ErrorCode.
        Error = 0 => "error",
        /// Created but never activated, or killed.
        Dead = 1 => "dead",
        /// Halted; also an associated idle interrupt thread.
        Inactive = 2 => "inactive",
        /// Running or ready.
        Running = 3 => "running",
        /// Wants to send, partner not ready.
        PendingSend = 4 => "pending send",
        /// In a transfer, as sender.
        Sending = 5 => "sending",
        /// Receiving, no partner yet.
        Waiting = 6 => "waiting",
        /// In a transfer, as receiver.
        Receiving = 7 => "receiving",
    }
}

/// TimeControl: time slice and total quantum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeControl {
    /// Time slice, bits 31..16.
    pub timeslice: Time,
    /// Total quantum, bits 15..0.
    pub quantum: Time,
}

impl TimeControl {
    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        ((self.timeslice.raw() as u64) << 16) | self.quantum.raw() as u64
    }

    /// Decodes a word; `None` = unchanged.
    #[must_use]
    pub const fn parse(raw: u64) -> Option<Self> {
        if raw == UNCHANGED {
            return None;
        }
        let timeslice = Time::from_raw((raw >> 16) as u16);
        Some(Self { timeslice, quantum: Time::from_raw(raw as u16) })
    }
}

/// PreemptionControl: sensitive priority and maximum delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreemptionControl {
    /// Preemption by priorities up to this may be delayed, bits 23..16.
    pub sensitive_priority: u8,
    /// Longest delay in microseconds, bits 15..0.
    pub max_delay_us: u16,
}

impl PreemptionControl {
    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        ((self.sensitive_priority as u64) << 16) | self.max_delay_us as u64
    }

    /// Decodes a word; `None` = unchanged.
    #[must_use]
    pub const fn parse(raw: u64) -> Option<Self> {
        if raw == UNCHANGED {
            return None;
        }
        Some(Self { sensitive_priority: (raw >> 16) as u8, max_delay_us: raw as u16 })
    }
}

/// The priority in a PrioControl word, bits 7..0; `None` = unchanged.
#[must_use]
pub const fn parse_priority(raw: u64) -> Option<u8> {
    if raw == UNCHANGED { None } else { Some(raw as u8) }
}

/// The processor in a ProcessorControl word, bits 15..0; `None` = unchanged.
#[must_use]
pub const fn parse_processor(raw: u64) -> Option<CpuId> {
    if raw == UNCHANGED { None } else { Some(CpuId(raw as u16)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        let t = TimeControl { timeslice: Time::period_us(10_000), quantum: Time::NEVER };
        assert_eq!(TimeControl::parse(t.raw()), Some(t));
        assert_eq!(TimeControl::parse(UNCHANGED), None);
        let p = PreemptionControl { sensitive_priority: 200, max_delay_us: 1000 };
        assert_eq!(PreemptionControl::parse(p.raw()), Some(p));
        assert_eq!(parse_priority(0xFFFF_0064), Some(100));
        assert_eq!(parse_priority(UNCHANGED), None);
        assert_eq!(parse_processor(0x1_0003), Some(CpuId(3)));
        for &s in ThreadState::ALL {
            assert_eq!(ThreadState::from_raw(s.raw()), Some(s));
        }
    }
}
