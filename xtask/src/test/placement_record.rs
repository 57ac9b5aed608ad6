//! Checks of the `placement` records: where the kernel found everything when it looked, which is when a program left the
//! machine or asked for it.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a suite expects of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is away.
    Right,
    /// Everything is, because the kernel was told wrong places: shows that the check sees what it counts.
    Wrong,
    /// Control blocks are, and nothing else (`tcb_migration=off`).
    TcbsStay,
}

#[derive(Deserialize)]
struct Placement {
    away: u64,
    seen: BTreeMap<String, u64>,
    misplaced: BTreeMap<String, u64>,
}

/// What every survey of a machine that runs programs sees. Ready threads and free mapping nodes may be missing.
const ALWAYS: [&str; 10] = [
    "cpu",
    "idle",
    "tcb",
    "tcb_table",
    "root",
    "space_root",
    "space",
    "table",
    "mapping_node",
    "utcb",
];
/// What is a control block wherever it is counted.
const TCBS: [&str; 2] = ["tcb", "ready"];

/// What is wrong with the `placement` records among `records`; empty if they pass.
pub fn check(expected: Expected, records: &[Map<String, Value>]) -> Vec<String> {
    let all = records.iter().filter(|record| crate::records::kind(record) == "placement");
    let mut wrong = Vec::new();
    let mut count = 0;
    for record in all {
        count += 1;
        match serde_json::from_value::<Placement>(Value::Object(record.clone())) {
            Ok(record) => wrong.extend(one(expected, &record)),
            Err(error) => wrong.push(format!("a placement record is malformed: {error}")),
        }
    }
    if count == 0 {
        wrong.push("there is no placement record".into());
    }
    wrong
}

fn one(expected: Expected, record: &Placement) -> Vec<String> {
    let mut wrong = Vec::new();
    for kind in ALWAYS.iter().filter(|kind| record.seen.get(**kind).is_none_or(|n| *n == 0)) {
        wrong.push(format!("placement: no {kind} was seen"));
    }
    if record.misplaced.values().sum::<u64>() != record.away {
        wrong.push(format!("placement: {} away is not the sum", record.away));
    }
    let tcbs: u64 = TCBS.iter().filter_map(|kind| record.misplaced.get(*kind)).sum();
    for (kind, away) in &record.misplaced {
        let seen = record.seen.get(kind).copied().unwrap_or(0);
        let bad = match expected {
            Expected::Right => *away > 0,
            Expected::Wrong => *away != seen,
            Expected::TcbsStay => *away > 0 && !TCBS.contains(&kind.as_str()),
        };
        if bad {
            wrong.push(format!("placement: {away} of {seen} {kind} are on another node"));
        }
    }
    if expected == Expected::TcbsStay && tcbs == 0 {
        wrong.push("placement: no control block stayed behind".into());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn records(misplaced: &[(&str, u64)]) -> Vec<Map<String, Value>> {
        let seen: BTreeMap<&str, u64> = ALWAYS.iter().map(|kind| (*kind, 5)).collect();
        let mut away: BTreeMap<&str, u64> = ALWAYS.iter().map(|kind| (*kind, 0)).collect();
        away.extend(misplaced.iter().copied());
        let sum: u64 = away.values().sum();
        let record = json!({"kind": "placement", "away": sum, "seen": seen, "misplaced": away});
        vec![record.as_object().cloned().unwrap()]
    }

    #[test]
    fn nothing_may_be_away() {
        assert_eq!(check(Expected::Right, &records(&[])), [""; 0]);
        assert_eq!(check(Expected::Right, &records(&[("tcb", 1)])).len(), 1);
        assert_eq!(check(Expected::Right, &[]).len(), 1);
    }

    #[test]
    fn a_survey_that_saw_nothing_is_no_survey() {
        let mut all = records(&[]);
        all[0]["seen"]["utcb"] = 0.into();
        assert_eq!(check(Expected::Right, &all).len(), 1);
        let mut all = records(&[("tcb", 1)]);
        all[0]["away"] = 0.into();
        assert_eq!(check(Expected::TcbsStay, &all).len(), 1);
    }

    #[test]
    fn controls_must_show_what_they_are_for() {
        let everything: Vec<(&str, u64)> = ALWAYS.iter().map(|kind| (*kind, 5)).collect();
        assert_eq!(check(Expected::Wrong, &records(&everything)), [""; 0]);
        assert_eq!(check(Expected::Wrong, &records(&everything[1..])).len(), 1);
        assert_eq!(check(Expected::TcbsStay, &records(&[("tcb", 2)])), [""; 0]);
        assert_eq!(check(Expected::TcbsStay, &records(&[])).len(), 1);
        assert_eq!(check(Expected::TcbsStay, &records(&[("tcb", 2), ("root", 1)])).len(), 1);
    }
}
