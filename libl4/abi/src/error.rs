//! Error codes of system calls and the error word of IPC (ref 4.1, 5.3).

use core::fmt;

abi_enum! {
    /// Errors of all system calls but IPC, in the ErrorCode TCR (ref 4.1).
    pub enum ErrorCode: u64 {
        /// The caller may not do this.
        NoPrivilege = 1 => "no privilege",
        /// Unavailable or invalid thread.
        InvalidThread = 2 => "invalid thread",
        /// Invalid space.
        InvalidSpace = 3 => "invalid space",
        /// Invalid scheduler.
        InvalidScheduler = 4 => "invalid scheduler",
        /// Invalid parameter.
        InvalidParameter = 5 => "invalid parameter",
        /// Bad UTCB area or UTCB location.
        UtcbArea = 6 => "UTCB area",
        /// Bad KIP area.
        KipArea = 7 => "KIP area",
        /// Out of memory.
        OutOfMemory = 8 => "out of memory",
    }
}

abi_enum! {
    /// What ended an IPC (ref 5.3).
    pub enum IpcCode: u64 {
        /// Lokal: the partner is on another processor and the sender asked not to cross (`ext`).
        WouldCross = 0 => "would cross processors",
        /// Timeout before the transfer.
        Timeout = 1 => "timeout",
        /// The partner does not exist.
        NoPartner = 2 => "non-existing partner",
        /// Canceled by ExchangeRegisters before the transfer.
        Canceled = 3 => "canceled",
        /// Message overflow.
        Overflow = 4 => "message overflow",
        /// The caller's own transfer timeout expired.
        XferTimeoutOwn = 5 => "own transfer timeout",
        /// The partner's transfer timeout expired.
        XferTimeoutPartner = 6 => "partner's transfer timeout",
        /// Aborted by ExchangeRegisters during the transfer.
        Aborted = 7 => "aborted",
    }
}

/// The phase in which an IPC failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Send phase: bit p = 0.
    Send,
    /// Receive phase: bit p = 1.
    Receive,
}

impl Phase {
    /// The partner's phase.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Send => Self::Receive,
            Self::Receive => Self::Send,
        }
    }
}

/// The error of a failed IPC: the ErrorCode TCR decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpcError {
    /// Which phase failed.
    pub phase: Phase,
    /// Why.
    pub code: IpcCode,
    /// Bytes of string data transferred so far (codes 4 to 7); the partner's processor number for
    /// [`IpcCode::WouldCross`]; else 0.
    pub offset: u64,
}

/// Set in the word of [`IpcCode::WouldCross`] so that it never reads as "no error".
const CROSS_MARK: u64 = 1 << 63;

impl IpcError {
    /// An error without an offset.
    #[must_use]
    pub const fn new(phase: Phase, code: IpcCode) -> Self {
        Self { phase, code, offset: 0 }
    }

    /// An error at a string offset.
    #[must_use]
    pub const fn at(phase: Phase, code: IpcCode, offset: u64) -> Self {
        Self { phase, code, offset }
    }

    /// The error word: p in bit 0, code in bits 3..1, offset above.
    #[must_use]
    pub const fn raw(self) -> u64 {
        let mark = if matches!(self.code, IpcCode::WouldCross) { CROSS_MARK } else { 0 };
        mark | (self.offset << 4)
            | (self.code.raw() << 1)
            | matches!(self.phase, Phase::Receive) as u64
    }

    /// Decodes an error word.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        let phase = if raw & 1 == 0 { Phase::Send } else { Phase::Receive };
        let code = match IpcCode::from_raw((raw >> 1) & 7) {
            Some(code) => code,
            None => IpcCode::WouldCross,
        };
        let word = if matches!(code, IpcCode::WouldCross) { raw & !CROSS_MARK } else { raw };
        Self { phase, code, offset: word >> 4 }
    }
}

impl fmt::Display for IpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Send => "send",
            Phase::Receive => "receive",
        };
        write!(f, "{phase}: {}", self.code)?;
        if self.code.raw() >= 4 || self.code.raw() == 0 {
            write!(f, " at {}", self.offset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for &code in IpcCode::ALL {
            for phase in [Phase::Send, Phase::Receive] {
                for offset in [0, 1, 4096, (1 << 59) - 1] {
                    let e = IpcError::at(phase, code, offset);
                    assert_eq!(IpcError::from_raw(e.raw()), e);
                    assert_ne!(e.raw(), 0);
                }
            }
        }
        assert_eq!(IpcError::at(Phase::Receive, IpcCode::Overflow, 4096).raw(), 0x1_0009);
        assert_eq!(IpcError::new(Phase::Send, IpcCode::Timeout).raw(), 2);
    }

    #[test]
    fn enum_round_trip() {
        for &e in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_raw(e.raw()), Some(e));
            assert!(!e.name().is_empty());
        }
        assert_eq!(ErrorCode::from_raw(0), None);
        assert_eq!(ErrorCode::from_raw(9), None);
    }
}
