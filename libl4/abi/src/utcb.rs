//! The user-level thread control block (ref 2).
//!
//! ```text
//! block + 0    unused                              128 bytes
//!       + 128  BR32 .. BR0, descending             264 bytes
//!       + 392  TCRs                                120 bytes
//!       + 512  MR0 .. MR63   <- local id, %gs:0    512 bytes
//! ```
//! Words are atomics because a UTCB is shared between the kernel, its thread and every other thread
//! of the space: each side must read a word once and treat what it got as untrusted input.

use crate::acceptor::NUM_BRS;
use crate::tag::NUM_MRS;
use core::mem::{align_of, offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering};

/// Size and alignment of a UTCB block in bytes.
pub const UTCB_SIZE: usize = 1024;
/// log2 of [`UTCB_SIZE`]; alignment field of the KIP's UtcbAreaInfo.
pub const UTCB_ALIGN_LOG2: u8 = 10;
/// log2 of the smallest UTCB area.
pub const UTCB_AREA_MIN_LOG2: u8 = 12;
/// Byte offset of MR0 in the block.
pub const MR0_OFFSET: usize = 512;
/// UTCB area of the root servers (ref 7.1): base and log2 of the size.
pub const ROOT_UTCB_AREA: (u64, u8) = (0xBF00_0000, 18);
/// KIP area of the root servers (ref 7.1).
pub const ROOT_KIP_AREA: u64 = 0xBFF0_0000;

/// One UTCB block.
#[repr(C, align(1024))]
#[derive(Debug)]
pub struct Utcb {
    /// Unused by user level: place for the kernel's own use.
    pub kernel: [AtomicU64; 16],
    /// Buffer registers, BR32 first: use [`Utcb::br`].
    pub brs: [AtomicU64; NUM_BRS],
    /// MyGlobalId.
    pub my_global_id: AtomicU64,
    /// ProcessorNo.
    pub processor_no: AtomicU64,
    /// UserDefinedHandle.
    pub user_defined_handle: AtomicU64,
    /// Pager (global id).
    pub pager: AtomicU64,
    /// ExceptionHandler (global id).
    pub exception_handler: AtomicU64,
    /// Byte 0 PreemptFlags, byte 1 CopFlags, byte 2 Lokal's IpcFlags (`ext`).
    pub flags: AtomicU64,
    /// ErrorCode.
    pub error_code: AtomicU64,
    /// XferTimeouts.
    pub xfer_timeouts: AtomicU64,
    /// IntendedReceiver.
    pub intended_receiver: AtomicU64,
    /// ActualSender after a receive, VirtualSender before a send.
    pub sender: AtomicU64,
    /// ThreadWord1: the kernel never touches it.
    pub thread_word1: AtomicU64,
    /// ThreadWord0: the kernel never touches it.
    pub thread_word0: AtomicU64,
    /// Reserved.
    pub reserved: [AtomicU64; 2],
    /// Compatibility mode only; the kernel never writes it after activation (ref 2.1).
    pub word_size_mask: AtomicU64,
    /// Message registers.
    pub mr: [AtomicU64; NUM_MRS],
}

/// Word indices relative to MR0 (ref 2.1), for code that holds the address of MR0.
pub mod word {
    /// BR0; BRi is `BR0 - i`.
    pub const BR0: isize = -16;
    /// MyGlobalId.
    pub const MY_GLOBAL_ID: isize = -15;
    /// ProcessorNo.
    pub const PROCESSOR_NO: isize = -14;
    /// UserDefinedHandle.
    pub const USER_DEFINED_HANDLE: isize = -13;
    /// Pager.
    pub const PAGER: isize = -12;
    /// ExceptionHandler.
    pub const EXCEPTION_HANDLER: isize = -11;
    /// PreemptFlags, CopFlags, IpcFlags.
    pub const FLAGS: isize = -10;
    /// ErrorCode.
    pub const ERROR_CODE: isize = -9;
    /// XferTimeouts.
    pub const XFER_TIMEOUTS: isize = -8;
    /// IntendedReceiver.
    pub const INTENDED_RECEIVER: isize = -7;
    /// ActualSender / VirtualSender.
    pub const SENDER: isize = -6;
    /// ThreadWord1.
    pub const THREAD_WORD1: isize = -5;
    /// ThreadWord0.
    pub const THREAD_WORD0: isize = -4;
    /// WordSizeMask.
    pub const WORD_SIZE_MASK: isize = -1;
}

macro_rules! assert_word {
    ($field:ident, $word:expr) => {
        assert!(offset_of!(Utcb, $field) as isize == MR0_OFFSET as isize + 8 * $word);
    };
}

const _: () = {
    assert!(size_of::<Utcb>() == UTCB_SIZE);
    assert!(align_of::<Utcb>() == UTCB_SIZE);
    assert!(offset_of!(Utcb, mr) == MR0_OFFSET);
    assert!(offset_of!(Utcb, brs) == 128);
    assert!(offset_of!(Utcb, brs) + 8 * (NUM_BRS - 1) == MR0_OFFSET - 8 * 16);
    assert!(offset_of!(Utcb, my_global_id) == 392);
    assert_word!(my_global_id, word::MY_GLOBAL_ID);
    assert_word!(processor_no, word::PROCESSOR_NO);
    assert_word!(user_defined_handle, word::USER_DEFINED_HANDLE);
    assert_word!(pager, word::PAGER);
    assert_word!(exception_handler, word::EXCEPTION_HANDLER);
    assert_word!(flags, word::FLAGS);
    assert_word!(error_code, word::ERROR_CODE);
    assert_word!(xfer_timeouts, word::XFER_TIMEOUTS);
    assert_word!(intended_receiver, word::INTENDED_RECEIVER);
    assert_word!(sender, word::SENDER);
    assert_word!(thread_word1, word::THREAD_WORD1);
    assert_word!(thread_word0, word::THREAD_WORD0);
    assert_word!(word_size_mask, word::WORD_SIZE_MASK);
};

bitflags::bitflags! {
    /// Byte 0 of the flags TCR (ref 2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PreemptFlags: u8 {
        /// s: raise a preemption fault.
        const SIGNAL = 1 << 5;
        /// d: delay preemption.
        const DELAY = 1 << 6;
        /// I: a preemption was pending; the reader clears it.
        const PENDING = 1 << 7;
    }
}

impl Utcb {
    /// A block of zeroes (for tests and for building an image of one).
    #[must_use]
    pub const fn zeroed() -> Self {
        Self {
            kernel: [const { AtomicU64::new(0) }; 16],
            brs: [const { AtomicU64::new(0) }; NUM_BRS],
            my_global_id: AtomicU64::new(0),
            processor_no: AtomicU64::new(0),
            user_defined_handle: AtomicU64::new(0),
            pager: AtomicU64::new(0),
            exception_handler: AtomicU64::new(0),
            flags: AtomicU64::new(0),
            error_code: AtomicU64::new(0),
            xfer_timeouts: AtomicU64::new(0),
            intended_receiver: AtomicU64::new(0),
            sender: AtomicU64::new(0),
            thread_word1: AtomicU64::new(0),
            thread_word0: AtomicU64::new(0),
            reserved: [const { AtomicU64::new(0) }; 2],
            word_size_mask: AtomicU64::new(0),
            mr: [const { AtomicU64::new(0) }; NUM_MRS],
        }
    }

    /// Buffer register `i` (0 to 32).
    ///
    /// # Panics
    /// If `i` is above 32.
    #[must_use]
    pub fn br(&self, i: usize) -> &AtomicU64 {
        &self.brs[NUM_BRS - 1 - i]
    }

    /// Reads message register `i` (0 to 63; cut to six bits).
    #[must_use]
    pub fn load_mr(&self, i: usize) -> u64 {
        self.mr[i % NUM_MRS].load(Ordering::Relaxed)
    }

    /// Writes message register `i` (0 to 63; cut to six bits).
    pub fn store_mr(&self, i: usize, value: u64) {
        self.mr[i % NUM_MRS].store(value, Ordering::Relaxed);
    }
}

/// Whether a UTCB may lie at `location` in an area that starts at `base` and has size
/// `2^size_log2` (ref 2.2).
#[must_use]
pub const fn location_is_valid(location: u64, area: crate::fpage::Region) -> bool {
    location.is_multiple_of(UTCB_SIZE as u64)
        && area.size_log2() >= UTCB_ALIGN_LOG2
        && area.contains(location)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fpage::Region;

    #[test]
    fn buffer_registers_descend() {
        let u = Utcb::zeroed();
        u.br(0).store(7, Ordering::Relaxed);
        u.br(32).store(9, Ordering::Relaxed);
        assert_eq!(u.brs[32].load(Ordering::Relaxed), 7);
        assert_eq!(u.brs[0].load(Ordering::Relaxed), 9);
    }

    #[test]
    fn locations() {
        let area = Region::containing(ROOT_UTCB_AREA.0, ROOT_UTCB_AREA.1);
        assert!(location_is_valid(0xBF00_0000, area));
        assert!(location_is_valid(0xBF03_FC00, area));
        assert!(!location_is_valid(0xBF04_0000, area));
        assert!(!location_is_valid(0xBF00_0200, area));
        assert!(!location_is_valid(u64::MAX, area));
    }
}
