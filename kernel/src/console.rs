//! The kernel console: lines on the first serial port.
//!
//! One call prints one line as a unit, from any CPU. The lock is a leaf: nothing is acquired while it is
//! held, and kernel code runs with interrupts off, so it is held for one line only. A CPU that panics
//! takes the lock by force after a while, because its holder may be stopped.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

use crate::arch::x86_64::serial::SerialPort;

static PORT: Mutex<Option<SerialPort>> = Mutex::new(None);

/// How often a panicking CPU looks whether the lock is free before it breaks it.
const FORCE_AFTER: u32 = 2_000_000;

/// Opens the serial port. A machine without one runs silently.
pub fn init() {
    *PORT.lock() = SerialPort::open();
}

/// Prints formatted text as a unit.
pub fn print(args: fmt::Arguments<'_>) {
    if let Some(port) = PORT.lock().as_mut() {
        // The port cannot fail; a failing `Display` cuts its own text only.
        let _ = port.write_fmt(args);
    }
}

/// Lets `write` print a line of its own making as a unit; not called where there is no console.
pub fn with(write: impl FnOnce(&mut SerialPort)) {
    if let Some(port) = PORT.lock().as_mut() {
        write(port);
    }
}

/// A character that arrived on the serial port, if any.
pub fn read_byte() -> Option<u8> {
    let mut port = PORT.lock();
    crate::kdb::kept().or_else(|| port.as_mut()?.receive().and_then(crate::kdb::typed))
}

/// Prints bytes of a user program as they are, as one unit; not necessarily UTF-8.
pub fn print_bytes(bytes: &[u8]) {
    if let Some(port) = PORT.lock().as_mut() {
        port.send(bytes);
    }
}

/// The lock's holder was stopped; it is not waited for again.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// Prints although another CPU may have been stopped while it held the lock. For panics only.
pub fn print_forced(args: fmt::Arguments<'_>) {
    let patience = if BROKEN.load(Ordering::Relaxed) { 0 } else { FORCE_AFTER };
    for _ in 0..=patience {
        if let Some(mut guard) = PORT.try_lock() {
            if let Some(port) = guard.as_mut() {
                let _ = port.write_fmt(args);
            }
            return;
        }
        core::hint::spin_loop();
    }
    BROKEN.store(true, Ordering::Relaxed);
    if let Some(mut port) = SerialPort::reopen() {
        let _ = port.write_fmt(args);
    }
}

/// Prints a line on the kernel console, as a unit.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(format_args!("\n")) };
    ($($arg:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($arg)*)))
    };
}
