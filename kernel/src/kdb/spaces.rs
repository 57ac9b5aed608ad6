//! Address spaces, found by their threads.

use core::fmt::{self, Write};

use kcore::layout::MAX_CPUS;

use crate::arch::x86_64::tcb_area;
use crate::space::SpaceRef;
use crate::thread;

/// Spaces shown at most.
const MOST: usize = 64;

/// A line or two per space.
pub fn list(out: &mut impl Write) -> fmt::Result {
    let mut known: [Option<SpaceRef>; MOST] = [None; MOST];
    let mut count = 0;
    for t in tcb_area::present().filter_map(thread::present) {
        let Some(space) = t.space.get() else { continue };
        if known[..count].iter().flatten().any(|&s| s == space) {
            continue;
        }
        if count == MOST {
            return writeln!(out, "and more");
        }
        known[count] = Some(space);
        count += 1;
        one(out, space, t.number().get())?;
    }
    writeln!(out, "{count} spaces")
}

fn one(out: &mut impl Write, space: SpaceRef, first: u32) -> fmt::Result {
    let at = core::ptr::from_ref(space) as u64;
    write!(
        out,
        "{at:#x} node {} threads {} (first {first}) top {:#x}",
        space.home(),
        space.thread_count(),
        space.top().as_u64()
    )?;
    write!(out, " kip {:#x} utcbs {:#x}", space.kip_address(), space.utcb_area().base())?;
    if space.is_sigma0() {
        out.write_str(" sigma0")?;
    } else if space.is_privileged() {
        out.write_str(" privileged")?;
    }
    if space.redirector() != 0 {
        write!(out, " redirector {:#x}", space.redirector())?;
    }
    out.write_str("\n    roots:")?;
    for number in (0..MAX_CPUS).filter(|&n| space.root_on(n) != 0) {
        write!(out, " cpu{number} {:#x}", space.root_on(number))?;
    }
    out.write_char('\n')
}
