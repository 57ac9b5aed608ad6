//! Kernel memory of each node.

use core::fmt::{self, Write};

use crate::memory::home;
use crate::{machine, memory};

/// A line per node.
pub fn list(out: &mut impl Write) -> fmt::Result {
    for node in machine::get().topology.nodes() {
        let Some(pool) = memory::pools().pool(node) else {
            writeln!(out, "node {node}: no pool; draws from node {}", memory::home_of(node))?;
            continue;
        };
        let Some(c) = pool.try_counters() else {
            writeln!(out, "node {node}: somebody has the pool's lock")?;
            continue;
        };
        write!(
            out,
            "node {node}: {} of {} pages used, peak {}",
            c.used_pages(),
            c.total_pages,
            c.peak_pages
        )?;
        write!(out, ", {} allocations, {} frees, {} failures", c.allocs, c.frees, c.failures)?;
        match home::try_slab_counters(node) {
            Some(s) => writeln!(out, "; {} mapping nodes in {} pages", s.in_use(), s.pages)?,
            None => writeln!(out, "; somebody has the slab's lock")?,
        }
    }
    Ok(())
}
