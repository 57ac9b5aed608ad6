//! Regions of interest: what the placement instrument (`cargo xtask sim`) counts and reports by name.
//!
//! ```ignore
//! roi::name::<7>("pingpong other node");
//! for _ in 0..100 {
//!     roi::begin::<7>();
//!     // what is measured
//!     roi::end::<7>();
//! }
//! ```
//!
//! Each call is one instruction that does nothing (`l4abi::marker`), so programs keep them on hardware.
//! Ids go up to `l4abi::marker::MAX_ID`; giving an id another name begins another region, so a loop over
//! parameters needs one id only. `docs/design/instrument.md` explains what is counted.

use crate::arch::marker as mark;

/// Opens region `ID` on this CPU.
#[inline(always)]
pub fn begin<const ID: u16>() {
    mark::begin::<ID>();
}

/// Closes region `ID` on this CPU.
#[inline(always)]
pub fn end<const ID: u16>() {
    mark::end::<ID>();
}

/// Opens region `ID` on all CPUs. Its latency path begins here.
#[inline(always)]
pub fn begin_all<const ID: u16>() {
    mark::begin_all::<ID>();
}

/// Closes region `ID` on all CPUs. Its latency path ends here, whichever CPU opened it.
#[inline(always)]
pub fn end_all<const ID: u16>() {
    mark::end_all::<ID>();
}

/// Records this CPU's modelled clock and instruction counts.
#[inline(always)]
pub fn probe<const ID: u16>() {
    mark::probe::<ID>();
}

/// Calls region `ID` by a name of at most 64 bytes.
pub fn name<const ID: u16>(name: &str) {
    mark::name::<ID>(name);
}

/// Attaches a parameter of the experiment to region `ID`.
pub fn value<const ID: u16>(value: u64) {
    mark::value::<ID>(value);
}

/// Empties the modelled caches and TLBs: what follows starts cold.
pub fn flush_model() {
    mark::flush::<0>();
}

/// Says that this program's next store goes to memory of `node`; the instrument checks it.
pub fn place(node: u64) {
    mark::place::<0>(node);
}

/// The measurement is over: the instrument writes its results. [`crate::exit::exit`] does it, too.
pub fn finish() {
    mark::sim_end::<0>();
}

#[cfg(test)]
mod tests {
    /// Markers are no-ops: on the host, too.
    #[test]
    fn markers_do_nothing() {
        super::name::<7>("x");
        super::begin::<7>();
        super::value::<7>(3);
        super::probe::<7>();
        super::end::<7>();
        super::begin_all::<8>();
        super::end_all::<8>();
        super::flush_model();
        super::place(1);
        super::finish();
    }
}
