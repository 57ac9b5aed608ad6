//! What each CPU does, and what it has counted.

use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use super::{cpus, scheduling, shared};
use crate::cpu;
use crate::cross::counters;

/// Some lines per CPU.
pub fn list(out: &mut impl Write) -> fmt::Result {
    for number in cpus(None) {
        let (Some(shared), Some(scheduling)) = (shared(number), scheduling(number)) else {
            continue;
        };
        write!(out, "cpu{number} node {}: ", scheduling.node())?;
        let current = scheduling.current.get();
        if current == scheduling.idle.get() {
            out.write_str("idle")?;
        } else {
            write!(out, "thread {} runs", current.number().get())?;
        }
        write!(out, ", root {:#x}", scheduling.root.get())?;
        if number == cpu::current_number() as usize {
            writeln!(out, ", in the debugger")?;
        } else {
            let rip = shared.held.rip.load(Ordering::Relaxed);
            let rsp = shared.held.rsp.load(Ordering::Relaxed);
            writeln!(out, ", stopped at {rip:#x}, stack {rsp:#x}")?;
            // A kernel address in this form is named by xtask.
            if rip > kcore::layout::USER_END.as_u64() {
                writeln!(out, "  #0 {rip:#018x}")?;
            }
        }
        let mailbox = if shared.mailbox.is_empty() { "empty" } else { "not empty" };
        write!(out, "    mailbox {mailbox}, reschedule {}", scheduling.reschedule.get())?;
        write!(out, ", slice ends {:#x} us", scheduling.slice_end_us.get())?;
        writeln!(out, ", timer for {:#x} us", scheduling.armed_us.get())?;
        out.write_str("   ")?;
        counters::of(&shared.counters).try_for_each(|(name, n)| write!(out, " {name} {n}"))?;
        out.write_char('\n')?;
    }
    Ok(())
}
