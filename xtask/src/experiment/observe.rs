//! From records to numbers with parameters.
//!
//! A region's name, and a result's variant, is read as words and `key=value` pairs (`call place=same-cpu
//! words=0 per=100`): the words are the region, the pairs parameters. `per` is the number of repetitions in an
//! occurrence; everything is given for one repetition.

use super::{Object, Params, Run};
use crate::records;
use serde_json::Value;
use std::collections::BTreeMap;

/// Interrupt and exception vectors below this one are exceptions.
const FIRST_INTERRUPT: u64 = 32;
/// The page fault's.
const PAGE_FAULT: u64 = 14;

/// Units of the program's own clock. What is given in them stands for the region's cycles where there is no model.
const CLOCKS: [&str; 2] = ["cycles", "TSC ticks"];

/// What was seen in one place of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The point's parameters, those in the region's name, and `region`, `cpu`, `machine`, `caches`.
    pub params: Params,
    /// Numbers by name.
    pub metrics: BTreeMap<String, f64>,
}

/// All observations of a run.
pub fn observations(run: &Run, point: &Params) -> Vec<Observation> {
    let mut base = point.clone();
    for name in ["machine", "caches", "program"] {
        if let Some(value) = run.conditions.get(name) {
            base.entry(name.into()).or_insert_with(|| value.clone());
        }
    }
    let mut all = Vec::new();
    for record in run.records.iter().filter(|record| records::kind(record) == "roi") {
        all.extend(region(record, &base));
    }
    // The program's own clock counts instructions in the instrument; the model's cycles win.
    let modelled = !all.is_empty();
    for record in run.records.iter().filter(|record| records::kind(record) == "result") {
        let unit = record.get("unit").and_then(Value::as_str);
        let cycles = unit.is_some_and(|unit| CLOCKS.contains(&unit));
        if !(modelled && cycles) {
            all.push(result(record, &base));
        }
    }
    all
}

/// Splits a name into its words and its pairs, and adds them.
fn add_name(name: &str, params: &mut Params) {
    let mut words = Vec::new();
    for word in name.split_whitespace() {
        match word.split_once('=') {
            Some((key, value)) => drop(params.insert(key.into(), value.into())),
            None => words.push(word),
        }
    }
    params.insert("region".into(), words.join(" "));
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// A line of the guest. Fields that are no part of the result proper are parameters.
fn result(record: &Object, base: &Params) -> Observation {
    const FIELDS: [&str; 15] = [
        "kind", "bench", "variant", "metric", "unit", "value", "min", "max", "n", "git", "profile",
        "machine", "accel", "emulator", "limit",
    ];
    let mut params = base.clone();
    for (name, value) in record.iter().filter(|(name, _)| !FIELDS.contains(&name.as_str())) {
        params.insert(name.clone(), text(value));
    }
    add_name(record.get("variant").and_then(Value::as_str).unwrap_or(""), &mut params);
    if let Some(bench) = record.get("bench").and_then(Value::as_str) {
        params.insert("bench".into(), bench.into());
    }
    let per = params.remove("per").and_then(|per| per.parse::<f64>().ok()).filter(|p| *p > 0.0);
    let word = |name: &str| record.get(name).and_then(Value::as_str);
    let clock = word("unit").is_some_and(|unit| CLOCKS.contains(&unit));
    let metric = if clock { "cycles" } else { word("metric").unwrap_or("value") };
    let mut metrics = BTreeMap::new();
    for (field, suffix) in [("value", ""), ("min", "_min"), ("max", "_max")] {
        if let Some(number) = record.get(field).and_then(Value::as_f64) {
            metrics.insert(format!("{metric}{suffix}"), number / per.unwrap_or(1.0));
            if clock {
                // A program times what it waits for: that is the path.
                metrics.insert(format!("path_{metric}{suffix}"), number / per.unwrap_or(1.0));
            }
        }
    }
    if let Some(limit) = record.get("limit").and_then(Value::as_f64) {
        metrics.insert("limit".into(), limit);
    }
    Observation { params, metrics }
}

/// A region on a CPU; none if it never occurred there.
fn region(record: &Object, base: &Params) -> Option<Observation> {
    let n = record.get("n").and_then(Value::as_f64).filter(|n| *n > 0.0)?;
    let mut params = base.clone();
    let mut name = record.get("name").and_then(Value::as_str).unwrap_or("");
    // A last part such as `, 63 words` or `, active on 2 of 4 CPUs` is a parameter, too.
    if let Some((front, last)) = name.rsplit_once(", ") {
        let words: Vec<&str> = last.split(' ').collect();
        let pair = match words[..] {
            [count, unit] if count.parse::<u64>().is_ok() => Some((unit, count)),
            [what, "on", count, "of", ..] => Some((what, count)),
            _ => None,
        };
        if let Some((key, value)) = pair {
            params.insert(key.into(), value.into());
            name = front;
        }
    }
    add_name(name, &mut params);
    for name in ["cpu", "node"] {
        if let Some(value) = record.get(name) {
            // A parameter in the region's name wins: the instrument's own node is that of the CPU.
            params.entry(name.into()).or_insert_with(|| text(value));
        }
    }
    let per = params.remove("per").and_then(|per| per.parse::<f64>().ok()).filter(|p| *p > 0.0);
    let scale = 1.0 / (n * per.unwrap_or(1.0));
    let whole = Value::Object(record.clone());
    let number = |path: &str| whole.pointer(path).and_then(Value::as_f64);
    let mut metrics = BTreeMap::new();
    let mut put = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            metrics.insert(name.to_string(), value * scale);
        }
    };
    for (name, path) in [
        ("cycles", "/cycles/sum"),
        ("instr_kernel", "/instr_kernel/sum"),
        ("instr_user", "/instr_user/sum"),
        ("waited", "/waited"),
        ("local", "/local"),
        ("remote", "/remote"),
    ] {
        put(name, number(path));
    }
    for bank in ["kernel", "user"] {
        for (name, path) in [("ipi_sent", "ipi_sent"), ("walks", "walks"), ("locked", "locked")] {
            put(&format!("{name}_{bank}"), Some(number(&format!("/{bank}/{path}")).unwrap_or(0.0)));
        }
    }
    for (name, banks, classes) in [
        ("remote_kernel", &["kernel"][..], &["fetch", "data", "walk"][..]),
        ("remote_user", &["user"], &["fetch", "data", "walk"]),
        ("remote_fetch", &["kernel", "user"], &["fetch"]),
        ("remote_data", &["kernel", "user"], &["data"]),
        ("remote_walk", &["kernel", "user"], &["walk"]),
    ] {
        let paths =
            banks.iter().flat_map(|b| classes.iter().map(move |c| format!("/{b}/{c}/remote")));
        put(name, paths.map(|path| number(&path)).sum());
    }
    put("interrupts", Some(interrupts(record, |vector| vector >= FIRST_INTERRUPT)));
    put("page_faults", Some(interrupts(record, |vector| vector == PAGE_FAULT)));
    path(&whole, per.unwrap_or(1.0), &mut metrics);
    Some(Observation { params, metrics })
}

/// The latency path's numbers, where the region has one.
fn path(whole: &Value, per: f64, metrics: &mut BTreeMap<String, f64>) {
    let number = |path: &str| whole.pointer(path).and_then(Value::as_f64);
    let Some(n) = number("/path/n").filter(|n| *n > 0.0) else { return };
    for (name, path) in [("path_cycles", "/path/cycles/sum"), ("path_kernel", "/path/kernel/sum")] {
        if let Some(sum) = number(path) {
            metrics.insert(name.into(), sum / (n * per));
        }
    }
}

/// Number of interrupts and exceptions with such a vector.
fn interrupts(record: &Object, wanted: impl Fn(u64) -> bool) -> f64 {
    let Some(Value::Object(irq)) = record.get("irq") else { return 0.0 };
    let taken = irq.iter().filter(|(vector, _)| vector.parse().is_ok_and(&wanted));
    taken.filter_map(|(_, count)| count.as_f64()).sum()
}
