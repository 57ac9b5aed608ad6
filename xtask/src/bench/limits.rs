//! `cargo xtask bench xcpu migrate shootdown`: what CPUs cost each other, with limits beside.
//!
//! The guest programs run in the placement instrument, which counts instructions on the latency path and lines that
//! several CPUs touch; interrupts come from the kernel's own counters, as the programs report them.

use super::Finding;
use crate::{
    cli::{BenchArgs, SimArgs},
    records, say, sim,
};
use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

type Line = Map<String, Value>;

/// Pages of control blocks that a CPU gives back at once (`kernel/src/cross/quarantine.rs`).
const BLOCKS_AT_ONCE: f64 = 16.0;

/// Most accesses to shared lines that are named.
const MOST_SHARED: usize = 20;

/// A row: what was measured, and what it may be at most.
struct Row {
    bench: &'static str,
    what: String,
    unit: &'static str,
    value: f64,
    limit: Option<f64>,
    others: &'static str,
}

/// Prints rows as a table, and makes them a finding.
fn conclude(title: &str, rows: &[Row], lines: &[Line]) -> Finding {
    println!("{title:52} {:>10} {:>8}  for comparison", "measured", "limit");
    let condition =
        |key: &str| lines.first().and_then(|line| line.get(key)).cloned().unwrap_or(Value::Null);
    let mut finding = Finding { records: Vec::new(), kept: true };
    for row in rows {
        let kept = row.limit.is_none_or(|limit| row.value <= limit);
        finding.kept &= kept;
        let limit = row.limit.map_or("-".into(), |limit| format!("{limit}"));
        let mark = if kept { " " } else { "!" };
        println!("{:52} {:>10.2} {limit:>8}{mark} {}", row.what, row.value, row.others);
        finding.records.push(json!({
            "kind": "result", "bench": row.bench, "variant": row.what, "metric": row.unit,
            "unit": row.unit, "value": row.value, "limit": row.limit,
            "git": condition("git"), "machine": condition("machine"),
            "emulator": condition("emulator"), "profile": condition("profile"),
        }));
    }
    finding
}

/// Everything that a program and the instrument report; `traced`: which lines are shared, too.
fn measure(args: &BenchArgs, program: &str, machine: &str, traced: bool) -> Result<Vec<Line>> {
    let machine = args.machine.as_deref().unwrap_or(machine);
    say::step("Measuring", &format!("{program} on {machine}"));
    sim::measure_all(&SimArgs { remote: traced, ..SimArgs::counting(program, machine, "") })
}

fn text<'a>(line: &'a Line, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or("")
}

fn number(line: &Line, key: &str) -> f64 {
    line.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn regions<'a>(lines: &'a [Line], prefix: &'a str) -> impl Iterator<Item = &'a Line> {
    let is = |line: &&Line| records::kind(line) == "roi";
    lines.iter().filter(is).filter(move |line| text(line, "name").starts_with(prefix))
}

fn results<'a>(lines: &'a [Line], metric: &'a str) -> impl Iterator<Item = &'a Line> {
    let is = |line: &&Line| records::kind(line) == "result";
    lines.iter().filter(is).filter(move |line| text(line, "metric") == metric)
}

/// Mean kernel instructions on the latency path of a region, where it has one.
fn path(roi: &Line) -> Option<f64> {
    let path = roi.get("path")?;
    let n = path["n"].as_f64().filter(|n| *n > 0.0)?;
    Some(path["kernel"]["sum"].as_f64()? / n)
}

/// Says which code touches lines that CPUs share in `region`; nothing if there are none.
fn name_shared(lines: &[Line], region: &str) {
    let shared = |line: &&Line| records::kind(line) == "shared" && text(line, "name") == region;
    for line in lines.iter().filter(shared).take(MOST_SHARED) {
        let [how, address, pc] = ["how", "address", "pc"].map(|key| text(line, key));
        say::note(&format!("CPU {}: {how} {address} by the code at {pc}", line["cpu"]));
    }
}

/// IPC across CPUs.
pub fn xcpu(args: &BenchArgs) -> Result<Finding> {
    let lines = measure(args, "xcpu", "4n8c", true)?;
    let mut rows = Vec::new();
    for roi in regions(&lines, "one way ") {
        let Some(value) = path(roi) else { continue };
        let name = text(roi, "name");
        let idle = !name.contains("busy");
        rows.push(Row {
            bench: "xcpu",
            what: name.into(),
            unit: "kernel instructions",
            value: value.ceil(),
            limit: idle.then_some(250.0),
            others: if idle { "Pistachio 469, seL4 about 1390" } else { "" },
        });
    }
    for result in results(&lines, "interrupts per round trip") {
        let polling = text(result, "variant").contains("polling");
        rows.push(Row {
            bench: "xcpu",
            what: format!(
                "round trip {}, {} words",
                text(result, "variant"),
                number(result, "words")
            ),
            unit: "interrupts",
            value: number(result, "value") / 100.0,
            limit: Some(if polling { 0.0 } else { 2.0 }),
            others: "Pistachio 2, its mailbox variant 6",
        });
    }
    let at_once: Vec<&Line> =
        lines.iter().filter(|line| text(line, "name").ends_with("CPUs at once")).collect();
    let shared: f64 =
        at_once.iter().map(|roi| roi["lines"]["shared_written"].as_f64().unwrap_or(f64::NAN)).sum();
    if let Some(roi) = at_once.first() {
        rows.push(Row {
            bench: "xcpu",
            what: format!("IPC on one CPU each, {}", text(roi, "name")),
            unit: "shared lines written",
            value: shared,
            limit: Some(0.0),
            others: "",
        });
        name_shared(&lines, text(roi, "name"));
    }
    ensure!(rows.len() > 2 && !at_once.is_empty(), "the guest measured nothing");
    Ok(conclude("IPC across CPUs", &rows, &lines))
}

/// Migration by a third CPU.
pub fn migrate(args: &BenchArgs) -> Result<Finding> {
    let lines = measure(args, "migrate", "2n4c", false)?;
    let mut rows = Vec::new();
    for roi in regions(&lines, "migrate ") {
        let Some(value) = path(roi) else { continue };
        rows.push(Row {
            bench: "migrate",
            what: text(roi, "name").into(),
            unit: "kernel instructions",
            value: value.ceil(),
            limit: None,
            others: "until Schedule returns",
        });
    }
    let far = |line: &Line| number(line, "from_node") != number(line, "to_node");
    for result in results(&lines, "interrupts per migration") {
        let place = if far(result) { "other node" } else { "same node" };
        rows.push(Row {
            bench: "migrate",
            what: format!("migrate {}, {place}", text(result, "variant")),
            unit: "interrupts",
            value: number(result, "value") / 100.0,
            // The caller comes to the thread, the thread to its new CPU.
            limit: Some(2.0),
            others: "all CPUs asleep or busy",
        });
    }
    let total = |metric: &str| results(&lines, metric).map(|line| number(line, "value")).sum();
    let (flushes, blocks): (f64, f64) = (total("flush interrupts"), total("control blocks moved"));
    if results(&lines, "control blocks moved").any(far) {
        let cpus = lines.iter().find_map(|line| line.get("cpu_node")?.as_array().map(Vec::len));
        rows.push(Row {
            bench: "migrate",
            what: "for a control block that moves along".into(),
            unit: "interrupts",
            value: flushes / blocks,
            // One request to all others for each page, and one for 16 pages that are given back.
            limit: cpus.map(|cpus| (cpus - 1) as f64 * (1.0 + 1.0 / BLOCKS_AT_ONCE)),
            others: "a broadcast: all CPUs but one",
        });
    }
    ensure!(!rows.is_empty(), "the guest measured nothing");
    Ok(conclude("migration by a third CPU", &rows, &lines))
}

/// Shootdowns.
pub fn shootdown(args: &BenchArgs) -> Result<Finding> {
    let lines = measure(args, "shootdown", "4n8c", false)?;
    let row = |result: &Line| -> Option<Row> {
        let active = result.get("active")?.as_f64()?;
        Some(Row {
            bench: "shootdown",
            what: format!(
                "unmap {}, active on {active} of {}",
                text(result, "variant"),
                result["cpus"]
            ),
            unit: "interrupts",
            value: number(result, "value"),
            limit: Some(active - 1.0),
            others: "a broadcast: all CPUs but one",
        })
    };
    let rows: Vec<Row> = results(&lines, "interrupts per unmap").filter_map(row).collect();
    ensure!(!rows.is_empty(), "the guest measured nothing");
    let exact = rows.iter().all(|row| row.limit.is_some_and(|limit| row.value >= limit));
    let mut finding = conclude("interrupts of an unmap", &rows, &lines);
    if !exact {
        say::error("a CPU on which the space is active was not interrupted");
        finding.kept = false;
    }
    Ok(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64, limit: Option<f64>) -> Row {
        Row { bench: "b", what: "w".into(), unit: "u", value, limit, others: "" }
    }

    #[test]
    fn limits_are_kept_or_not() {
        assert!(conclude("t", &[row(2.0, Some(2.0)), row(9.0, None)], &[]).kept);
        assert!(!conclude("t", &[row(2.1, Some(2.0))], &[]).kept);
        assert!(
            !conclude("t", &[row(f64::NAN, Some(2.0))], &[]).kept,
            "what is missing is no success"
        );
        assert_eq!(conclude("t", &[row(1.0, None)], &[]).records.len(), 1);
    }

    #[test]
    fn paths_are_means_of_those_that_have_one() {
        let line = |path: Value| json!({"path": path}).as_object().cloned().unwrap_or_default();
        assert_eq!(path(&line(json!({"n": 4, "kernel": {"sum": 10}}))), Some(2.5));
        assert_eq!(path(&line(json!({"n": 0, "kernel": {"sum": 0}}))), None);
        assert_eq!(path(&Line::new()), None);
    }
}
