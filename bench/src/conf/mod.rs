//! The conformance suite: one module per area of the API, against the ABI reference.

pub mod exregs;
pub mod faults;
pub mod hostile;
pub mod ipc;
pub mod mapping;
pub mod sched;
pub mod sigma0;
pub mod spaces;
pub mod strings;
pub mod threads;

use crate::harness::Test;

/// An area: its name and its groups of tests.
pub type Area = (&'static str, &'static [&'static [Test]]);

/// Every area, in the order of the layers they build on.
pub const AREAS: &[Area] = &[
    ("ipc", ipc::GROUPS),
    ("strings", strings::GROUPS),
    ("threads", threads::GROUPS),
    ("spaces", spaces::GROUPS),
    ("exregs", exregs::GROUPS),
    ("mapping", mapping::GROUPS),
    ("faults", faults::GROUPS),
    ("sched", sched::GROUPS),
    ("sigma0", sigma0::GROUPS),
    ("hostile", hostile::GROUPS),
];

/// The groups of an area.
#[must_use]
pub fn groups(name: &str) -> &'static [&'static [Test]] {
    AREAS.iter().find(|(area, _)| *area == name).map_or(&[], |(_, groups)| groups)
}

/// Passes a little time, so that what races with others meets them at another moment.
fn spin(rounds: u64) {
    (0..rounds).for_each(|_| core::hint::spin_loop());
}

#[cfg(test)]
mod table;
