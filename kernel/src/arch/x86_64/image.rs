//! Where the linker put the parts of the kernel (kernel.ld).

use core::ops::Range;

macro_rules! section {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident) => {
        $(#[$doc])*
        pub fn $name() -> Range<u64> {
            unsafe extern "C" {
                static $start: u8;
                static $end: u8;
            }
            // Only the addresses are taken.
            (&raw const $start as u64)..(&raw const $end as u64)
        }
    };
}

section!(
    /// Code; page-aligned, replicated per node.
    text, __text_start, __text_end
);
section!(
    /// Read-only data; page-aligned, replicated per node.
    rodata, __rodata_start, __rodata_end
);
section!(
    /// Data that boot writes and nobody after it; page-aligned, replicated per node ([`super::sealed`]).
    sealed, __sealed_start, __sealed_end
);
section!(
    /// Data and zero-initialized data; page-aligned, shared by all nodes.
    data, __data_start, __data_end
);

/// All that can be written before boot is over: [`sealed`] and, directly behind it, [`data`].
pub fn writable() -> Range<u64> {
    sealed().start..data().end
}
