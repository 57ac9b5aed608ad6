//! Who may meet whom (reference 5.1, 5.4).

/// A thread as its partners may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Global id.
    pub global: u64,
    /// The space, as an opaque non-zero token.
    pub space: u64,
}

/// What a waiting thread waits for. Local ids are resolved to global ones when the wait begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited(pub u64);

impl Awaited {
    /// Waits for nobody: matches no thread (global ids are never 0).
    pub const NOBODY: Self = Self(0);
    /// Open wait.
    pub const ANY: Self = Self(u64::MAX);
    /// Any thread of the own space.
    pub const ANY_LOCAL: Self = Self(0xFFFF_FFFF_FFFF_FFC0);
}

/// Whether a thread in `receiver_space` that waits for `awaited` takes a message of `sender`, which may
/// speak for `virtual_sender` (propagation).
#[inline]
pub fn accepts(
    awaited: Awaited,
    receiver_space: u64,
    sender: Identity,
    virtual_sender: Option<Identity>,
) -> bool {
    match awaited {
        Awaited::ANY => true,
        Awaited::ANY_LOCAL => virtual_sender.unwrap_or(sender).space == receiver_space,
        Awaited(id) => id == sender.global || virtual_sender.is_some_and(|v| v.global == id),
    }
}

/// Whether `sender` may speak for `virtual_sender` towards a receiver in `receiver_space`; `redirector` says
/// that the sender is the redirector of the virtual sender's space.
#[inline]
pub fn may_propagate(
    sender: Identity,
    virtual_sender: Identity,
    receiver_space: u64,
    redirector: bool,
) -> bool {
    virtual_sender.space == sender.space || receiver_space == sender.space || redirector
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Identity = Identity { global: 0x10_0000_0001, space: 1 };
    const B: Identity = Identity { global: 0x11_0000_0001, space: 1 };
    const C: Identity = Identity { global: 0x12_0000_0001, space: 2 };

    #[test]
    fn closed_waits_take_only_the_named_one() {
        assert!(accepts(Awaited(A.global), 1, A, None));
        assert!(!accepts(Awaited(A.global), 1, B, None));
        assert!(accepts(Awaited(A.global), 1, B, Some(A)), "B speaks for A");
        assert!(accepts(Awaited(B.global), 1, B, Some(A)), "the real sender matches as well");
        assert!(!accepts(Awaited::NOBODY, 1, A, None));
    }

    #[test]
    fn open_waits() {
        assert!(accepts(Awaited::ANY, 9, C, None));
        assert!(accepts(Awaited::ANY_LOCAL, 1, B, None));
        assert!(!accepts(Awaited::ANY_LOCAL, 1, C, None));
        assert!(accepts(Awaited::ANY_LOCAL, 2, B, Some(C)), "the virtual sender's space counts");
    }

    #[test]
    fn propagation_needs_a_common_space_or_the_redirector() {
        assert!(may_propagate(A, B, 7, false));
        assert!(!may_propagate(A, C, 7, false));
        assert!(may_propagate(A, C, 1, false), "receiver in the sender's space");
        assert!(may_propagate(A, C, 7, true));
    }
}
