//! The trace: what the kernel did, as fixed records in a ring per CPU, in that CPU's node's memory.
//!
//! A kernel built with the feature `trace` (`cargo xtask run --trace FILE` builds one) records when the option
//! `trace=on` is given; in any other kernel the trace points are empty and nothing of this exists, so what is measured
//! pays nothing. The short paths in assembly know no trace points: with `trace=on` every system call
//! enters by the complete path, which does the same (`arch::x86_64::fastpath`).
//!
//! A record costs a time stamp and four stores, all to the CPU's own node. A full ring forgets the oldest. Layout and
//! meaning of the records are `l4abi::trace`'s; `docs/design/tracing.md` explains a trace step by step.

mod points;
#[cfg_attr(feature = "trace", path = "built.rs")]
#[cfg_attr(not(feature = "trace"), path = "absent.rs")]
mod ring;

pub use points::*;
pub use ring::{BUILT, Ring, print, start};
