//! Start-up: what happens between the entry point and `main`, and the KIP.

use crate::arch;
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::SyscallNo;
use l4abi::kip::Kip;

static KIP_BASE: AtomicU64 = AtomicU64::new(0);

/// Finds the KIP and copies the system call links (ref 3.5). Called by the entry point; harmless
/// when called again.
pub fn init() {
    let base = arch::kernel_interface().kip;
    KIP_BASE.store(base, Ordering::Relaxed);
    if let Some(kip) = Kip::new(arch::kip_words(base)) {
        for &call in SyscallNo::ALL {
            arch::store_link(call.raw() as usize, kip.link(call));
        }
    }
}

/// The kernel interface page.
///
/// # Panics
/// If the kernel's page has no magic, or before [`init`].
#[must_use]
pub fn kip() -> Kip<'static> {
    let base = KIP_BASE.load(Ordering::Relaxed);
    assert!(base != 0, "the start-up code has not run");
    Kip::new(arch::kip_words(base)).expect("KIP without magic")
}

/// Address of the KIP in this space.
#[must_use]
pub fn kip_base() -> u64 {
    KIP_BASE.load(Ordering::Relaxed)
}

/// Names the program's main function, `fn()` or `fn() -> !`. When it returns the first thread
/// sleeps for ever.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[expect(unsafe_code, reason = "the start-up code finds the program by this symbol")]
        #[unsafe(no_mangle)]
        extern "C" fn lokal_main() -> ! {
            $main();
            $crate::thread::sleep_forever()
        }
    };
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::exit::panicked(info)
}
