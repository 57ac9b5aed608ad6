//! What the benchmark programs share: copies of themselves on chosen nodes ([`place`]), threads that can be
//! told what to do ([`crew`]), numbers with their spread ([`measure`]), the hardware's counters ([`traffic`]) and their records
//! ([`report`]).
//!
//! A benchmark program stands in the root task's place, so it has all of sigma0's memory and the privileged
//! calls, and runs unchanged on hardware. docs/benchmarks.md describes the programs.

pub mod crew;
pub mod measure;
pub mod name;
pub mod place;
pub mod report;
pub mod traffic;
