//! Thread identifiers, thread numbers, processor and node numbers (ref 1.1).

use core::fmt;

/// Valid bits of a thread number (KIP ThreadInfo.t, architecture 3).
pub const THREAD_NO_BITS: u32 = 18;

/// Distance between SystemBase and UserBase (architecture 3).
pub const KERNEL_THREADS: u32 = 32;

/// Most nodes that the kernel runs with.
pub const MAX_NODES: usize = 64;
/// Most processors that the kernel runs with.
pub const MAX_CPUS: usize = 256;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            /// Wraps a number.
            #[must_use]
            pub const fn new(number: $repr) -> Self {
                Self(number)
            }

            /// The plain number.
            #[must_use]
            pub const fn get(self) -> $repr {
                self.0
            }

            /// The number as an index.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A thread number: the upper half of a global thread id. What a user program wrote there may
    /// have more than the valid bits: see [`Self::is_valid`].
    ThreadNo(u32)
}
number! {
    /// A processor number, 0 to n-1 (ref 1.8); the bootstrap processor is 0.
    CpuId(u16)
}
number! {
    /// A node number. Nodes are numbered densely from 0 in the order of their firmware ids
    /// (proximity domains).
    NodeId(u8)
}

impl ThreadNo {
    /// Whether the number fits into the valid bits.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 < 1 << THREAD_NO_BITS
    }
}

/// A thread identifier: global, local, or one of the special values (ref 1.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct ThreadId(u64);

/// What a [`ThreadId`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdKind {
    /// No thread.
    Nil,
    /// Any thread, as a from-specifier.
    Any,
    /// Any thread of the caller's space, as a from-specifier.
    AnyLocal,
    /// A local id: the address of MR0 in the thread's UTCB.
    Local(u64),
    /// A global id.
    Global {
        /// Thread number.
        number: ThreadNo,
        /// Version; its low six bits are not all zero.
        version: u32,
    },
}

impl ThreadId {
    /// nilthread.
    pub const NIL: Self = Self(0);
    /// anythread.
    pub const ANY: Self = Self(u64::MAX);
    /// anylocalthread.
    pub const ANY_LOCAL: Self = Self(!LOCAL_MASK);

    /// The id with exactly these bits.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A global id. `version` should have one of its low six bits set: otherwise the word reads as
    /// a local id, see [`Self::is_well_formed_global`].
    #[must_use]
    pub const fn global(number: ThreadNo, version: u32) -> Self {
        Self(((number.0 as u64) << 32) | version as u64)
    }

    /// The local id of the thread whose MR0 lies at `mr0_addr` (64-aligned).
    #[must_use]
    pub const fn local(mr0_addr: u64) -> Self {
        Self(mr0_addr & !LOCAL_MASK)
    }

    /// The interrupt thread of line `line`.
    #[must_use]
    pub const fn irq(line: u32) -> Self {
        Self::global(ThreadNo(line), 1)
    }

    /// What this id is.
    #[must_use]
    pub const fn kind(self) -> IdKind {
        match self.0 {
            0 => IdKind::Nil,
            u64::MAX => IdKind::Any,
            raw if raw == Self::ANY_LOCAL.0 => IdKind::AnyLocal,
            raw if raw & LOCAL_MASK == 0 => IdKind::Local(raw),
            raw => IdKind::Global { number: ThreadNo((raw >> 32) as u32), version: raw as u32 },
        }
    }

    /// Whether this is nilthread.
    #[must_use]
    pub const fn is_nil(self) -> bool {
        self.0 == 0
    }

    /// Whether this is anythread.
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.0 == u64::MAX
    }

    /// Whether this is anylocalthread.
    #[must_use]
    pub const fn is_any_local(self) -> bool {
        self.0 == Self::ANY_LOCAL.0
    }

    /// Whether the word names a thread by local id (nil and anylocalthread do not).
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self.kind(), IdKind::Local(_))
    }

    /// Whether the word names a thread by global id (anythread does not).
    #[must_use]
    pub const fn is_global(self) -> bool {
        matches!(self.kind(), IdKind::Global { .. })
    }

    /// The bit test of user programs: low six bits not all zero (true for anythread too).
    #[must_use]
    pub const fn is_well_formed_global(self) -> bool {
        self.0 & LOCAL_MASK != 0
    }

    /// Thread number of a global id (meaningless for the other kinds).
    #[must_use]
    pub const fn number(self) -> ThreadNo {
        ThreadNo((self.0 >> 32) as u32)
    }

    /// Version of a global id (meaningless for the other kinds).
    #[must_use]
    pub const fn version(self) -> u32 {
        self.0 as u32
    }
}

/// Bits that are zero in a local id.
pub const LOCAL_MASK: u64 = 0x3F;

impl fmt::Debug for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            IdKind::Nil => f.write_str("nil"),
            IdKind::Any => f.write_str("any"),
            IdKind::AnyLocal => f.write_str("anylocal"),
            IdKind::Local(addr) => write!(f, "local:{addr:#x}"),
            IdKind::Global { number, version } => write!(f, "{}.{version}", number.0),
        }
    }
}

/// The thread numbers that the KIP's ThreadInfo fixes (ref 1.1, 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadRanges {
    /// First kernel thread number: the numbers below are interrupt threads.
    pub system_base: u32,
    /// First user thread number: sigma0.
    pub user_base: u32,
}

impl ThreadRanges {
    /// The ranges for `irq_lines` interrupt lines: UserBase is 32 above (ref 6.4).
    #[must_use]
    pub const fn with_irq_lines(irq_lines: u32) -> Self {
        Self { system_base: irq_lines, user_base: irq_lines + KERNEL_THREADS }
    }

    /// sigma0's id.
    #[must_use]
    pub const fn sigma0(self) -> ThreadId {
        ThreadId::global(ThreadNo(self.user_base), 1)
    }

    /// sigma1's id (the slot is reserved, nothing is started there).
    #[must_use]
    pub const fn sigma1(self) -> ThreadId {
        ThreadId::global(ThreadNo(self.user_base + 1), 1)
    }

    /// The root task's id.
    #[must_use]
    pub const fn root_task(self) -> ThreadId {
        ThreadId::global(ThreadNo(self.user_base + 2), 1)
    }

    /// First thread number that the root task may use as it likes.
    #[must_use]
    pub const fn first_free(self) -> ThreadNo {
        ThreadNo(self.user_base + 3)
    }

    /// Whether `number` is an interrupt thread's.
    #[must_use]
    pub const fn is_irq(self, number: ThreadNo) -> bool {
        number.0 < self.system_base
    }

    /// Whether `number` belongs to the kernel and may not be controlled by users.
    #[must_use]
    pub const fn is_kernel(self, number: ThreadNo) -> bool {
        number.0 >= self.system_base && number.0 < self.user_base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(ThreadId::NIL.kind(), IdKind::Nil);
        assert_eq!(ThreadId::ANY.kind(), IdKind::Any);
        assert_eq!(ThreadId::ANY_LOCAL.kind(), IdKind::AnyLocal);
        assert_eq!(ThreadId::ANY_LOCAL.raw(), 0xFFFF_FFFF_FFFF_FFC0);
        assert_eq!(ThreadId::local(0xBF00_0200).kind(), IdKind::Local(0xBF00_0200));
        let g = ThreadId::global(ThreadNo(58), 1);
        assert_eq!(g.raw(), (58 << 32) | 1);
        assert!(g.is_global() && !g.is_local());
        assert_eq!((g.number(), g.version()), (ThreadNo(58), 1));
        assert_eq!(ThreadId::irq(3).raw(), (3 << 32) | 1);
    }

    #[test]
    fn version_with_low_bits_zero_reads_as_local() {
        assert!(ThreadId::global(ThreadNo(5), 64).is_local());
        assert!(!ThreadId::global(ThreadNo(5), 64).is_well_formed_global());
        assert!(ThreadId::global(ThreadNo(5), 65).is_well_formed_global());
    }

    #[test]
    fn ranges() {
        let r = ThreadRanges::with_irq_lines(24);
        assert_eq!(r.user_base, 56);
        assert_eq!(r.sigma0().raw(), (56 << 32) | 1);
        assert_eq!(r.root_task().number(), ThreadNo(58));
        assert!(r.is_irq(ThreadNo(23)) && !r.is_irq(ThreadNo(24)));
        assert!(r.is_kernel(ThreadNo(24)) && r.is_kernel(ThreadNo(55)));
        assert!(!r.is_kernel(ThreadNo(56)));
    }

    #[test]
    fn valid_numbers() {
        assert!(ThreadNo((1 << 18) - 1).is_valid());
        assert!(!ThreadNo(1 << 18).is_valid());
    }
}
