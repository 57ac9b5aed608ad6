//! Experiments as data (`docs/experiments.md`): what is run, which numbers are looked at, and by which rules
//! they are judged. A file in `xtask/experiments/` is an experiment; nothing here runs anything.

pub mod check;
pub mod figure;
pub mod observe;
pub mod spec;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A JSON object.
pub type Object = Map<String, Value>;

/// Parameters of a point or an observation, by name.
pub type Params = BTreeMap<String, String>;

/// One boot and what it printed: a line of the results file.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub struct Run {
    /// Always `run`.
    pub kind: String,
    /// What identifies the point, apart from the builds ([`spec::Point::key`]).
    pub point: String,
    /// Checksum of all that determines the outcome: point, kernel, archive, instrument, emulator.
    pub inputs: String,
    /// Whether the guest ended well and the instrument's self-checks held.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Host time it took.
    pub seconds: f64,
    /// Under which conditions: revision, profile, machine, caches, emulator...
    pub conditions: Params,
    /// Records of the guest and the instrument.
    pub records: Vec<Object>,
}
