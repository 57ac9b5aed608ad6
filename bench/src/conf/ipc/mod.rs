//! IPC of untyped words: phases, ids, timeouts, errors, propagation, cancelling (ref 5).

mod basic;
mod cancel;
mod errors;
mod ids;
mod propagation;
mod third;
mod timeouts;

use crate::harness::Test;

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[
    basic::TESTS,
    ids::TESTS,
    timeouts::TESTS,
    errors::TESTS,
    cancel::TESTS,
    propagation::TESTS,
    third::TESTS,
];
