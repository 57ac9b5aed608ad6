//! Leaving the machine through the debug-exit port (architecture 3), and what a panic does.

use crate::arch;
use core::sync::atomic::{AtomicBool, Ordering};
use l4abi::syscall::debug_exit;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything went well.
    Success,
    /// A test failed.
    Failed,
}

static EXIT_ON_PANIC: AtomicBool = AtomicBool::new(false);

/// Makes a panic end the run. For programs in the root task's position only: others report and
/// sleep, and their root task decides.
pub fn exit_on_panic() {
    EXIT_ON_PANIC.store(true, Ordering::Relaxed);
}

/// Ends the run. The port comes by I/O fault from the pager (for the root task: sigma0). On a
/// machine without the device the thread sleeps for ever.
pub fn exit(outcome: Outcome) -> ! {
    let code = match outcome {
        Outcome::Success => debug_exit::SUCCESS,
        Outcome::Failed => debug_exit::FAILED,
    };
    crate::roi::finish();
    arch::announce_leaving();
    arch::port_write(debug_exit::PORT, code as u8);
    crate::thread::sleep_forever()
}

/// The panic handler's body.
#[cfg(target_os = "none")]
pub(crate) fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::println!("{} of thread {}", info, crate::thread::my_global_id());
    if EXIT_ON_PANIC.load(Ordering::Relaxed) {
        exit(Outcome::Failed);
    }
    let supervisor = crate::program::supervisor();
    if !supervisor.is_nil() {
        // The root task decides; whatever comes back, this thread has nothing left to do.
        let _ = crate::program::SupervisorClient::new(supervisor).panicked();
    }
    crate::thread::sleep_forever()
}
