//! Forgetting translations of all kinds at once.

use x86_64::registers::control::{Cr4, Cr4Flags};

use super::cpulocal;
use super::regs;

/// Forgets every translation of this CPU, global ones included (SDM 3A 4.10.4.1).
pub fn forget_all() {
    let cr4 = Cr4::read();
    if cr4.contains(Cr4Flags::PAGE_GLOBAL) {
        // SAFETY: global pages off and on again: only cached translations are affected.
        unsafe {
            Cr4::write(cr4 - Cr4Flags::PAGE_GLOBAL);
            Cr4::write(cr4);
        }
    } else {
        cpulocal::load_root(regs::cr3().as_u64());
    }
}
