//! Console output by the kernel's debugger calls (architecture 6). One call prints one line.

use crate::arch;
use core::fmt::{self, Write};

/// Longest piece of a line that is printed as a unit, in bytes.
pub const LINE_SIZE: usize = 1024;

/// A line buffer on the caller's stack; it prints at each newline and when it is full.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: [u8; LINE_SIZE + 1],
    len: usize,
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl LineBuffer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; LINE_SIZE + 1], len: 0 }
    }

    /// Prints what is there.
    pub fn flush(&mut self) {
        if self.len > 0 {
            self.bytes[self.len] = 0;
            arch::print_cstr(&self.bytes[..=self.len]);
            self.len = 0;
        }
    }
}

impl Write for LineBuffer {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for &byte in s.as_bytes() {
            if self.len == LINE_SIZE {
                self.flush();
            }
            // A NUL would end the string for the kernel.
            self.bytes[self.len] = if byte == 0 { b'?' } else { byte };
            self.len += 1;
            if byte == b'\n' {
                self.flush();
            }
        }
        Ok(())
    }
}

/// Prints formatted text; the back end of [`crate::print!`].
pub fn print(args: fmt::Arguments<'_>) {
    let mut line = LineBuffer::new();
    // The buffer never fails; a failing `Display` loses the rest of its own text only.
    let _ = line.write_fmt(args);
    line.flush();
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Prints without a newline.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Writes one record line (`l4abi::record`) to the console.
pub fn record(write: impl FnOnce(&mut LineBuffer) -> fmt::Result) {
    let mut line = LineBuffer::new();
    // As in `print`.
    let _ = write(&mut line);
    line.flush();
}
