//! Checks of the `clock` record: what the kernel measured of its CPUs' time-stamp counters, against what is known of the
//! emulator's, which agree, and against the offsets that the kernel was told to make up.

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Clock {
    tsc_khz: u64,
    disagreement_us: u64,
    cpus: Vec<Cpu>,
}

#[derive(Deserialize)]
struct Cpu {
    cpu: u64,
    offset_ticks: i64,
    bound_ticks: u64,
    round_trip_ticks: u64,
    rounds: u64,
    steady: bool,
    made_up_ticks: i64,
}

/// What is wrong with the `clock` record among `records`; empty if it passes. `skew_us`: the option `clock_skew`.
pub fn check(skew_us: u64, records: &[Map<String, Value>]) -> Vec<String> {
    let one = |kind: &str| records.iter().find(|record| crate::records::kind(record) == kind);
    let (Some(record), Some(boot)) = (one("clock"), one("boot")) else {
        return vec!["there is no clock record, or no boot record".into()];
    };
    let clock: Clock = match serde_json::from_value(Value::Object(record.clone())) {
        Ok(clock) => clock,
        Err(error) => return vec![format!("the clock record is malformed: {error}")],
    };
    let mut wrong = Vec::new();
    if boot.get("cpus_up").and_then(Value::as_u64) != Some(clock.cpus.len() as u64) {
        wrong.push(format!("{} CPUs in the clock record", clock.cpus.len()));
    }
    for cpu in &clock.cpus {
        let number = cpu.cpu as i64;
        let asked = i128::from(if number % 2 == 1 { number } else { -number })
            * i128::from(skew_us)
            * i128::from(clock.tsc_khz)
            / 1000;
        // The record cuts the rate to kHz.
        let blur = u128::from(skew_us) * u128::from(cpu.cpu) / 1000 + 1;
        if (i128::from(cpu.made_up_ticks) - asked).unsigned_abs() > blur {
            wrong.push(format!("cpu {number} makes up {} ticks, not {asked}", cpu.made_up_ticks));
        }
        if cpu.offset_ticks.abs_diff(cpu.made_up_ticks) > cpu.bound_ticks {
            wrong.push(format!(
                "cpu {number}: measured {} ticks of {}, bound {}",
                cpu.offset_ticks, cpu.made_up_ticks, cpu.bound_ticks
            ));
        }
        if cpu.bound_ticks > cpu.round_trip_ticks || !cpu.steady {
            wrong.push(format!("cpu {number}: the bound is no bound"));
        }
        if (cpu.rounds == 0) != (number == 0) {
            wrong.push(format!("cpu {number}: {} exchanges", cpu.rounds));
        }
    }
    let mut bounds: Vec<u64> = clock.cpus.iter().map(|cpu| cpu.bound_ticks).collect();
    bounds.sort_unstable_by(|a, b| b.cmp(a));
    let most: u64 = bounds.iter().take(2).sum();
    if bounds.len() > 1 && clock.disagreement_us * clock.tsc_khz < most * 1000 {
        wrong.push(format!("{} us apart are less than {most} ticks", clock.disagreement_us));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn records(change: impl FnOnce(&mut Value)) -> Vec<Map<String, Value>> {
        let cpu = |n: u64, offset: i64, bound: u64, made_up: i64| {
            json!({"cpu": n, "offset_ticks": offset, "bound_ticks": bound, "round_trip_ticks": 2 * bound,
                   "rounds": n * 50, "steady": true, "made_up_ticks": made_up, "adjust_ticks": 0})
        };
        let mut clock = json!({"kind": "clock", "tsc_khz": 1_000_000, "disagreement_us": 2,
            "cpus": [cpu(0, 0, 0, 0), cpu(1, 5_000_100, 200, 5_000_000), cpu(2, -9_999_900, 100, -10_000_000)]});
        change(&mut clock);
        [json!({"kind": "boot", "cpus_up": 3}), clock]
            .into_iter()
            .map(|v| v.as_object().cloned().unwrap())
            .collect()
    }

    #[test]
    fn a_right_record_passes() {
        assert_eq!(check(5_000, &records(|_| ())), Vec::<String>::new());
        assert!(!check(0, &records(|_| ())).is_empty());
        assert!(!check(5_000, &[]).is_empty());
    }

    #[test]
    fn mistakes_are_found() {
        let changes: [fn(&mut Value); 6] = [
            |c| c["cpus"][1]["offset_ticks"] = 5_000_201.into(),
            |c| c["cpus"][2]["offset_ticks"] = 0.into(),
            |c| c["cpus"][2]["rounds"] = 0.into(),
            |c| c["cpus"][2]["steady"] = false.into(),
            |c| c["disagreement_us"] = 0.into(),
            |c| {
                c["cpus"].as_array_mut().unwrap().pop();
            },
        ];
        for (n, change) in changes.into_iter().enumerate() {
            assert_eq!(check(5_000, &records(change)).len(), 1, "change {n}");
        }
    }
}
