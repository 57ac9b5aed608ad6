//! The one table of thread states and the transitions between them (reference 4.4, 4.8, 5.7).

/// What a thread is doing, as the kernel sees it. The numbers are internal; `Schedule` reports
/// [`State::x2`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// The number has no thread.
    Absent = 0,
    /// Created, not activated.
    Inactive = 1,
    /// Running or ready to run.
    Ready = 2,
    /// Waits for a message, no partner yet.
    Waiting = 3,
    /// Wants to send, queued at a partner that is not ready for it.
    Polling = 4,
    /// Sending: a transfer has begun and is not finished.
    Sending = 5,
    /// Receiving: a transfer has begun and is not finished. The transfer itself runs in this thread's name.
    Receiving = 6,
    /// A request of this thread is under way on another CPU.
    Remote = 7,
    /// Stopped by an unhandled fault or by ExchangeRegisters; only an abort or deletion moves it on.
    Stopped = 8,
}

/// All states, for tables and tests.
pub const STATES: [State; 9] = [
    State::Absent,
    State::Inactive,
    State::Ready,
    State::Waiting,
    State::Polling,
    State::Sending,
    State::Receiving,
    State::Remote,
    State::Stopped,
];

impl State {
    /// The state of a key's low byte; anything unknown is [`State::Absent`].
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Inactive,
            2 => Self::Ready,
            3 => Self::Waiting,
            4 => Self::Polling,
            5 => Self::Sending,
            6 => Self::Receiving,
            7 => Self::Remote,
            8 => Self::Stopped,
            _ => Self::Absent,
        }
    }

    /// The states that may follow, one bit each (`1 << state as u8`). Deletion leads to `Absent` from
    /// everywhere.
    pub const fn successors(self) -> u16 {
        const fn bits(states: &[State]) -> u16 {
            let mut set = 1 << State::Absent as u16;
            let mut i = 0;
            while i < states.len() {
                set |= 1 << states[i] as u16;
                i += 1;
            }
            set
        }
        use State::{
            Absent, Inactive, Polling, Ready, Receiving, Remote, Sending, Stopped, Waiting,
        };
        match self {
            Absent => bits(&[Inactive, Waiting]),
            // Activation: the thread waits for its start message.
            Inactive => bits(&[Waiting]),
            Ready => bits(&[Waiting, Polling, Sending, Receiving, Remote, Stopped]),
            // A partner came (Receiving: with typed items; Ready: complete), a timeout, or a cancel.
            Waiting => bits(&[Ready, Receiving, Polling, Stopped]),
            // The partner came, the send phase is done (Waiting: second phase), a timeout, or a cancel.
            // Remote: the partner moves to another CPU and this thread follows.
            Polling => bits(&[Ready, Sending, Waiting, Remote]),
            // Done, failed, or a fault of this thread's own memory asks its pager.
            Sending => bits(&[Ready, Waiting, Polling, Remote]),
            Receiving => bits(&[Ready, Waiting, Polling, Remote]),
            Remote => bits(&[Ready, Waiting, Polling, Sending, Receiving]),
            Stopped => bits(&[Ready]),
        }
    }

    /// Whether `next` may follow.
    #[inline]
    pub const fn may_become(self, next: Self) -> bool {
        self.successors() & (1 << next as u16) != 0
    }

    /// The state number that `Schedule` returns (reference 4.8): dead 1, inactive 2, running 3, pending
    /// send 4, sending 5, waiting 6, receiving 7.
    pub const fn x2(self) -> u64 {
        match self {
            Self::Absent => 1,
            Self::Inactive => 2,
            Self::Ready | Self::Stopped => 3,
            Self::Polling | Self::Remote => 4,
            Self::Sending => 5,
            Self::Waiting => 6,
            Self::Receiving => 7,
        }
    }
}

/// State, CPU and everything that is not simple about a thread in one word, so that the fast path needs one
/// compare: bits 7..0 the state, 31..16 the CPU, 63..32 flags of which none may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(pub u64);

impl Key {
    /// The thread's wait has a timeout queued.
    pub const TIMED: u64 = 1 << 32;
    /// The thread waits for the reply to a message that the kernel made in its name.
    pub const KERNEL_IPC: u64 = 1 << 33;
    /// Halted by ExchangeRegisters: runs no further at user level.
    pub const HALTED: u64 = 1 << 34;
    /// The thread's space has a redirector.
    pub const REDIRECTED: u64 = 1 << 35;
    /// FPU registers belong to the thread or its I/O bitmap is loaded: leaving it needs work.
    pub const LOADED: u64 = 1 << 36;
    /// Kernel work is to be done before the thread runs at user level again.
    pub const WORK: u64 = 1 << 37;
    /// Preemption control, quantum accounting: the scheduler must see every switch.
    pub const SCHED: u64 = 1 << 38;
    /// User registers were changed from outside while the thread was in IPC: it must leave by IRETQ.
    pub const CHANGED: u64 = 1 << 39;
    /// An interrupt that the thread handles is pending.
    pub const INTERRUPT: u64 = 1 << 40;
    /// The thread is on a CPU that is not the one it runs on at user level (`crate::cross`).
    pub const VISITING: u64 = 1 << 41;
    /// What a slot without a thread shows: no CPU owns it. Whoever has just found a thread there by its id, and compares
    /// CPUs next, must not take it for his own when it was deleted in between.
    pub const ABSENT: Self = Self::new(State::Absent, u16::MAX);
    /// Never equal to a thread's key: expected key of a CPU whose current thread is special.
    pub const NEVER: Self = Self(u64::MAX);

    /// A key without flags.
    #[inline]
    pub const fn new(state: State, cpu: u16) -> Self {
        Self(state as u64 | (cpu as u64) << 16)
    }

    /// The state.
    #[inline]
    pub const fn state(self) -> State {
        State::from_bits(self.0 as u8)
    }

    /// The CPU that owns the thread.
    #[inline]
    pub const fn cpu(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The same with another state.
    #[inline]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !0xFF | state as u64)
    }

    /// The same on another CPU.
    #[inline]
    pub const fn with_cpu(self, cpu: u16) -> Self {
        Self(self.0 & !0xFFFF_0000 | (cpu as u64) << 16)
    }

    /// Whether the thread belongs to `cpu` and runs there at user level.
    #[inline(always)]
    pub const fn lives_on(self, cpu: u16) -> bool {
        self.0 & (0xFFFF_0000 | Self::VISITING) == (cpu as u64) << 16
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_round_trips_and_can_be_deleted() {
        for state in STATES {
            assert_eq!(State::from_bits(state as u8), state);
            assert!(state.may_become(State::Absent));
            let key = Key::new(state, 0xABCD);
            assert_eq!((key.state(), key.cpu()), (state, 0xABCD));
            assert_eq!(key.with_cpu(3).with_state(State::Ready), Key::new(State::Ready, 3));
        }
    }

    #[test]
    fn every_state_but_the_unborn_can_reach_ready() {
        for start in STATES {
            let mut reached = 1u16 << start as u16;
            for _ in 0..STATES.len() {
                for s in STATES {
                    if reached & (1 << s as u16) != 0 {
                        reached |= s.successors();
                    }
                }
            }
            assert_ne!(reached & (1 << State::Ready as u16), 0, "{start:?} is a dead end");
        }
    }

    #[test]
    fn nobody_is_activated_twice_and_only_new_threads_are_inactive() {
        for s in STATES {
            assert_eq!(s.may_become(State::Inactive), s == State::Absent, "{s:?}");
        }
    }
}
