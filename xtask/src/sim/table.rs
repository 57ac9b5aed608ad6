//! The results as a table for people.

use crate::symbols::Symbols;
use serde_json::{Map, Value};
use std::fmt::Write;

/// Most remote accesses listed.
const MOST_REMOTE: usize = 40;

/// One line per region and CPU, then the remote accesses if they were traced.
pub fn text(lines: &[Map<String, Value>], symbols: &mut Symbols) -> String {
    let mut out = format!(
        "{:<28} {:>3} {:>7} {:>10} {:>10} {:>11} {:>10} {:>9} {:>10}\n",
        "region (per occurrence)",
        "cpu",
        "n",
        "kernel in.",
        "user in.",
        "cycles",
        "local",
        "remote",
        "path k.in."
    );
    let active = |roi: &&Map<String, Value>| roi["cycles"]["sum"].as_u64() != Some(0);
    for roi in of_kind(lines, "roi").filter(active) {
        let n = roi["n"].as_u64().unwrap_or(1).max(1);
        let mean = |value: &Value| format!("{:.1}", value.as_f64().unwrap_or(0.0) / n as f64);
        let sum = |name: &str| mean(&roi[name]["sum"]);
        let path = match roi.get("path") {
            Some(path) if path["n"].as_u64() > Some(0) => {
                let n = path["n"].as_f64().unwrap_or(1.0);
                format!("{:.1}", path["kernel"]["sum"].as_f64().unwrap_or(0.0) / n)
            }
            _ => "-".into(),
        };
        let name = match roi["name"].as_str() {
            Some(name) if !name.is_empty() => name.to_string(),
            _ => format!("region {}", roi["id"]),
        };
        let _ = writeln!(
            out,
            "{name:<28} {:>3} {n:>7} {:>10} {:>10} {:>11} {:>10} {:>9} {path:>10}",
            roi["cpu"].to_string(),
            sum("instr_kernel"),
            sum("instr_user"),
            sum("cycles"),
            mean(&roi["local"]),
            mean(&roi["remote"]),
        );
    }
    out.push_str(&remote(lines, symbols));
    out
}

/// The remote accesses that were traced, most frequent first; empty if there are none.
pub fn remote(lines: &[Map<String, Value>], symbols: &mut Symbols) -> String {
    let mut out = String::new();
    let mut remote: Vec<_> = of_kind(lines, "remote").collect();
    remote.sort_by_key(|r| std::cmp::Reverse(r["count"].as_u64()));
    if !remote.is_empty() {
        let _ = writeln!(
            out,
            "\nremote accesses: count, class, code, address, what, home, CPU, region, function"
        );
    }
    for r in remote.iter().take(MOST_REMOTE) {
        let word = |name: &str| r[name].as_str().unwrap_or("").to_string();
        let (pc, address) = (hex(&word("pc")), hex(&word("address")));
        let place = match word("class").as_str() {
            "walk" => "page table".to_string(),
            _ => symbols.data(address).unwrap_or_else(|| area(address).to_string()),
        };
        let function = symbols.explain(&format!("  #0 {pc:#x}")).pop().unwrap_or_default();
        let _ = writeln!(
            out,
            "{:>9} {:<5} {pc:>#18x} {address:>#18x} {place:<12} node {} cpu {} {} {}",
            r["count"].to_string(),
            word("class"),
            r["home"],
            r["cpu"],
            word("name"),
            function.trim(),
        );
    }
    if remote.len() > MOST_REMOTE {
        let _ = writeln!(out, "          and {} more", remote.len() - MOST_REMOTE);
    }
    out
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// What lies at a virtual address (docs/design/architecture.md, section 1).
fn area(address: u64) -> &'static str {
    match address {
        0xFFFF_FFFF_C000_0000.. => "TCB",
        0xFFFF_FFFF_B000_0000.. => "device",
        0xFFFF_FFFF_A020_0000.. => "stubs",
        0xFFFF_FFFF_A000_0000.. => "CPU-local",
        0xFFFF_FFFF_8000_0000.. => "kernel image",
        0xFFFF_8000_0000_0000.. => "pool",
        _ => "user",
    }
}

fn of_kind<'a>(
    lines: &'a [Map<String, Value>],
    kind: &'a str,
) -> impl Iterator<Item = &'a Map<String, Value>> {
    lines.iter().filter(move |line| crate::records::kind(line) == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_region_is_a_line_of_means() {
        let roi = json!({"kind": "roi", "id": 3, "name": "walk", "cpu": 1, "n": 4,
            "instr_kernel": {"sum": 40}, "instr_user": {"sum": 2}, "cycles": {"sum": 100},
            "local": 8, "remote": 1, "path": {"n": 2, "kernel": {"sum": 7}}});
        let mut symbols = Symbols::new(std::path::Path::new("/nonexistent"));
        let text = text(&[roi.as_object().unwrap().clone()], &mut symbols);
        let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["walk", "1", "4", "10.0", "0.5", "25.0", "2.0", "0.2", "3.5"]);
    }
}
