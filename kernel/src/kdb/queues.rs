//! Ready queues and wake-up queues.

use core::fmt::{self, Write};

use super::{cpus, scheduling, threads};
use crate::time;

/// Threads shown at most, of a priority or of a CPU.
const MOST: usize = 100;

/// Queued threads, highest priority first. Those that have blocked since are still there until the scheduler meets them.
pub fn ready(out: &mut impl Write, cpu: Option<u16>) -> fmt::Result {
    for number in cpus(cpu) {
        let Some(scheduling) = scheduling(number) else { continue };
        let current = scheduling.current.get();
        if current == scheduling.idle.get() {
            writeln!(out, "cpu{number}: idle")?;
        } else {
            writeln!(out, "cpu{number}: {} runs", current.number().get())?;
        }
        let (mut result, mut count) = (Ok(()), 0);
        scheduling.ready.visit(MOST, &mut |t, _| {
            count += 1;
            if result.is_ok() {
                result = threads::line(out, t);
            }
        });
        result?;
        writeln!(out, "cpu{number}: {count} queued")?;
    }
    Ok(())
}

/// Threads that wait for a time, in no order.
pub fn wakeups(out: &mut impl Write, cpu: Option<u16>) -> fmt::Result {
    let now = time::now_us();
    for number in cpus(cpu) {
        let Some(scheduling) = scheduling(number) else { continue };
        let (mut result, mut count) = (Ok(()), 0);
        scheduling.wakeups.visit(MOST, &mut |t, at| {
            count += 1;
            let wait = at as i64 - now as i64;
            let line = writeln!(out, "{:6} at {at} us, in {wait} us", t.number().get());
            result = result.and(line);
        });
        result?;
        writeln!(out, "cpu{number}: {count} wait for a time; the clock says {now} us")?;
    }
    Ok(())
}
