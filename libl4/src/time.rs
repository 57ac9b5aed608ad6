//! The clock.

use crate::ipc;
use l4abi::{Time, Timeouts};

/// Microseconds since boot.
#[must_use]
pub fn now_us() -> u64 {
    crate::arch::system_clock()
}

/// Sleeps about `us` microseconds (rounded down to ten significant bits): a receive from oneself.
pub fn sleep_us(us: u64) {
    let timeouts = Timeouts::new(Time::NEVER, Time::period_us(us));
    // A sleep ends with a timeout; when it is cancelled it has ended, too.
    let _ = ipc::receive(crate::thread::my_global_id(), timeouts);
}
