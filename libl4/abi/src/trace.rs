//! Trace records: what a tracing kernel writes and the host tools decode (docs/design/tracing.md).
//!
//! Each CPU has a ring of [`Record`]s in its own node's memory. When the run ends the kernel prints lines that begin with
//! [`PREFIX`], each a JSON object: one of kind `trace` (machine-wide facts), one of kind `trace-thread` per thread, then
//! per CPU one of kind `trace-cpu` followed by its records, oldest first, in lines of kind `trace-data` (base64 of
//! little-endian records), and one of kind `trace-end`.

use core::fmt::{self, Write};

/// What every line of a trace starts with.
pub const PREFIX: &str = "@trace ";

/// Version of this format.
pub const VERSION: u64 = 1;

/// Size of a record in memory and in the lines.
pub const RECORD_BYTES: usize = 32;

/// Records in one `trace-data` line.
pub const RECORDS_PER_LINE: usize = 6;

/// Thread number in a record that is about no thread: the idle thread.
pub const IDLE: u32 = u32::MAX;

/// One event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// Time-stamp counter of the CPU.
    pub time: u64,
    /// [`Event`] in bits 15:0, its detail in bits 31:16, number of the thread in bits 63:32.
    pub head: u64,
    /// First argument; see [`Event`].
    pub a: u64,
    /// Second argument.
    pub b: u64,
}

const _: () = {
    assert!(size_of::<Record>() == RECORD_BYTES);
    assert!(align_of::<Record>() == 8);
    assert!(core::mem::offset_of!(Record, time) == 0);
    assert!(core::mem::offset_of!(Record, head) == 8);
    assert!(core::mem::offset_of!(Record, a) == 16);
    assert!(core::mem::offset_of!(Record, b) == 24);
    // Lines carry whole groups of base64, so that only the last one of a CPU may be padded.
    assert!((RECORD_BYTES * RECORDS_PER_LINE).is_multiple_of(3));
    assert!(Event::ALL.len() < 1 << 16);
};

abi_enum! {
    /// What happened. `thread` is the record's thread; `detail`, `a` and `b` are said with each.
    pub enum Event: u16 {
        /// `thread` made system call `detail`; `a`, `b`: its RSI and RDX (for Ipc: to, from).
        Enter = 1 => "system call",
        /// `thread` goes on at user level.
        Leave = 2 => "leave",
        /// `thread` becomes the running one; `a`: number of the thread before, `b`: root table.
        Switch = 3 => "switch",
        /// `thread` sends to the thread with global id `a`, tag `b`; `detail`: [`send`].
        IpcSend = 4 => "ipc send",
        /// `thread` has received the message of the thread with global id `a`, tag `b`.
        IpcReceive = 5 => "ipc receive",
        /// `thread` waits for a message of `a` (a global id or a wildcard).
        IpcWait = 6 => "ipc wait",
        /// The IPC of `thread` ends with error word `a`.
        IpcError = 7 => "ipc error",
        /// Page fault of `thread` at address `a`, instruction `b`; `detail`: access (r 4, w 2, x 1).
        PageFault = 8 => "page fault",
        /// Exception `detail` of `thread` at `a`, error code `b`.
        Exception = 9 => "exception",
        /// Interrupt vector `detail` while `thread` ran.
        Interrupt = 10 => "interrupt",
        /// `thread` maps or grants fpage `b` to the thread with number `a`.
        Map = 11 => "map",
        /// `thread` unmaps fpage `a`; `detail`: 1 = from itself, too.
        Unmap = 12 => "unmap",
        /// This CPU asks others to forget translations; `detail`: kind of request.
        ShootdownRequest = 13 => "shootdown request",
        /// The `a` CPUs that were asked have answered.
        ShootdownDone = 14 => "shootdown done",
        /// This CPU has done what CPU `a` asked for.
        ShootdownServed = 15 => "shootdown ack",
        /// Interrupt vector `detail` sent to CPU `a`.
        IpiSent = 16 => "IPI sent",
        /// Interrupt vector `detail` of another CPU arrived.
        IpiReceived = 17 => "IPI received",
        /// `thread` becomes runnable.
        Wake = 18 => "wake-up",
        /// The time for which `thread` waited has come.
        Timeout = 19 => "timeout",
        /// `thread` is given CPU `b` as home instead of `a`.
        Migrate = 20 => "migrate",
        /// `thread` leaves for the mailbox of CPU `a`.
        Depart = 21 => "depart",
        /// `thread` is taken out of this CPU's mailbox.
        Arrive = 22 => "arrive",
        /// `thread` begins at instruction `a`; `b`: the code bytes there, 0 if the page is not there.
        Start = 23 => "start",
    }
}

/// Bits in the detail of [`Event::IpcSend`].
pub mod send {
    /// The receiver is on another CPU.
    pub const CROSS: u16 = 1;
    /// The message was made by the kernel.
    pub const KERNEL: u16 = 2;
}

impl Record {
    /// A record.
    #[must_use]
    pub const fn new(time: u64, event: Event, detail: u16, thread: u32, a: u64, b: u64) -> Self {
        Self { time, head: head(event, detail, thread), a, b }
    }

    /// What happened; none if the number is unknown.
    #[must_use]
    pub const fn event(&self) -> Option<Event> {
        Event::from_raw(self.head as u16)
    }

    /// The detail.
    #[must_use]
    pub const fn detail(&self) -> u16 {
        (self.head >> 16) as u16
    }

    /// Number of the thread, or [`IDLE`].
    #[must_use]
    pub const fn thread(&self) -> u32 {
        (self.head >> 32) as u32
    }

    /// The bytes that cross the line.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        for (word, at) in [self.time, self.head, self.a, self.b].into_iter().zip([0, 8, 16, 24]) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The record in these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Self { time: word(0), head: word(8), a: word(16), b: word(24) }
    }
}

/// The second word of a record.
#[must_use]
#[inline(always)]
pub const fn head(event: Event, detail: u16, thread: u32) -> u64 {
    event as u64 | (detail as u64) << 16 | (thread as u64) << 32
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes bytes as base64 with padding (RFC 4648 section 4).
///
/// # Errors
/// Those of the writer.
pub fn encode(out: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    for group in bytes.chunks(3) {
        let mut word = 0u32;
        for at in 0..3 {
            word = word << 8 | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize];
            out.write_char(if at <= group.len() { digit as char } else { '=' })?;
        }
    }
    Ok(())
}

/// Reads base64 into `out`; the number of bytes, or none if it is malformed or does not fit.
#[must_use]
pub fn decode(text: &str, out: &mut [u8]) -> Option<usize> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut length = 0;
    for (index, group) in text.chunks(4).enumerate() {
        let last = (index + 1) * 4 == text.len();
        let padding = group.iter().rev().take_while(|&&c| c == b'=').count();
        if padding > 2 || (padding > 0 && !last) {
            return None;
        }
        let mut word = 0u32;
        for (at, &c) in group.iter().enumerate() {
            let value = if at + padding >= 4 { 0 } else { DIGITS.iter().position(|&d| d == c)? };
            word = word << 6 | value as u32;
        }
        for at in 0..3 - padding {
            *out.get_mut(length)? = (word >> (16 - 8 * at)) as u8;
            length += 1;
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        for (i, &event) in Event::ALL.iter().enumerate() {
            let record = Record::new(7 << 40, event, 0xFFFF, 0x1234_5678 + i as u32, !0, 3);
            let back = Record::from_bytes(&record.to_bytes());
            assert_eq!(back, record);
            assert_eq!((back.event(), back.detail()), (Some(event), 0xFFFF));
            assert_eq!(back.thread(), 0x1234_5678 + i as u32);
        }
        assert_eq!(Record::default().event(), None);
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648 section 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut text = String::new();
            encode(&mut text, plain.as_bytes()).unwrap();
            assert_eq!(text, coded);
            let mut bytes = [0; 8];
            assert_eq!(decode(coded, &mut bytes), Some(plain.len()));
            assert_eq!(&bytes[..plain.len()], plain.as_bytes());
        }
    }

    #[test]
    fn damaged_base64_is_refused() {
        let mut bytes = [0; 6];
        for text in ["Zg", "Zg=", "Z===", "====", "Zg==Zm9v", "Zm9\n", "Zm9vZm9vZm9v", "Z=9v"] {
            assert_eq!(decode(text, &mut bytes), None, "{text}");
        }
    }

    #[test]
    fn all_bytes_survive() {
        let plain: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        encode(&mut text, &plain).unwrap();
        let mut back = [0; 256];
        assert_eq!(decode(&text, &mut back), Some(256));
        assert_eq!(&back[..], &plain[..]);
    }
}
