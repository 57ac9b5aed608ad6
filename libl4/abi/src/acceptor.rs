//! The acceptor, BR0 (ref 1.7).

use crate::fpage::{Fpage, Region};

/// Number of buffer registers, BR0 included.
pub const NUM_BRS: usize = 33;

/// The acceptor: what a receiver lets in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Acceptor(u64);

impl Acceptor {
    /// Untyped words only.
    pub const NONE: Self = Self(0);
    /// Map and grant items anywhere, no strings.
    pub const COMPLETE: Self = Self(0x10);
    /// Strings only; the buffers are described from BR1 on.
    pub const STRINGS: Self = Self(1);

    /// The acceptor with exactly these bits.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Map and grant items into `window`, no strings.
    #[must_use]
    pub const fn window(window: Fpage) -> Self {
        Self(window.raw() & !0xF)
    }

    /// The same acceptor, strings accepted too.
    #[must_use]
    pub const fn and_strings(self) -> Self {
        Self(self.0 | 1)
    }

    /// s: whether string items are accepted.
    #[must_use]
    pub const fn accepts_strings(self) -> bool {
        self.0 & 1 != 0
    }

    /// The receive window as an fpage.
    #[must_use]
    pub const fn window_fpage(self) -> Fpage {
        Fpage::from_raw(self.0 & !0xF)
    }

    /// The memory receive window; `None` means that map and grant items are refused. A window that
    /// is too small for a page, or an I/O fpage, is no window.
    #[must_use]
    pub const fn window_region(self) -> Option<Region> {
        self.window_fpage().memory_region()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fpage::Rights;

    #[test]
    fn windows() {
        assert_eq!(Acceptor::NONE.window_region(), None);
        assert_eq!(Acceptor::COMPLETE.window_region(), Some(Region::EVERYTHING));
        let w = Acceptor::window(Fpage::memory(0x4000, 14, Rights::RWX)).and_strings();
        assert!(w.accepts_strings());
        assert_eq!(w.window_region(), Some(Region::containing(0x4000, 14)));
        assert_eq!(Acceptor::from_raw(0x4000 | 3).window_region(), None);
    }
}
