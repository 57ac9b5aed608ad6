//! ExchangeRegisters (ref 4.4).

bitflags::bitflags! {
    /// The control word: what to change. On return only [`Self::HALT`], [`Self::RECEIVE`] and
    /// [`Self::SEND`] are set, and tell the state before the call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Control: u64 {
        /// H: desired halt state, used only with [`Self::SET_HALT`]; out: was halted.
        const HALT = 1 << 0;
        /// R: abort an ongoing receive; out: was receiving.
        const RECEIVE = 1 << 1;
        /// S: abort an ongoing send; out: was sending.
        const SEND = 1 << 2;
        /// s: set SP.
        const SET_SP = 1 << 3;
        /// i: set IP.
        const SET_IP = 1 << 4;
        /// f: set FLAGS.
        const SET_FLAGS = 1 << 5;
        /// u: set UserDefinedHandle.
        const SET_HANDLE = 1 << 6;
        /// p: set the pager.
        const SET_PAGER = 1 << 7;
        /// h: apply H.
        const SET_HALT = 1 << 8;
        /// d: deliver the old values (Lokal always does).
        const DELIVER = 1 << 9;
        const _ = !0;
    }
}

impl Control {
    /// Starts a thread at a new IP and SP without a start-up message: 0x11E (ref 4.4).
    pub const START: Self = Self::RECEIVE
        .union(Self::SEND)
        .union(Self::SET_SP)
        .union(Self::SET_IP)
        .union(Self::SET_HALT);

    /// Halts a thread.
    pub const STOP: Self = Self::HALT.union(Self::SET_HALT);

    /// Resumes a halted thread.
    pub const RESUME: Self = Self::SET_HALT;

    /// Aborts whatever IPC the thread is in.
    pub const ABORT_IPC: Self = Self::RECEIVE.union(Self::SEND);
}

/// The RFLAGS bits a user may change: CF, PF, AF, ZF, SF, OF (ref 4.4).
pub const USER_FLAGS: u64 = 0x8D5;

const _: () = assert!(Control::START.bits() == 0x11E);
