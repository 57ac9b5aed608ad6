//! `cargo xtask bench paths`: kernel instructions of every path, with their limits beside them.
//!
//! The guest program `paths` opens a region of interest around each path; the placement instrument counts what
//! runs in kernel mode there, deterministically, one CPU. A second run without the short paths measures the
//! complete one. The instrument counts a repeated string instruction once; the words it moved are added, so that
//! each iteration counts, as the limits ask.

use super::Finding;
use crate::cli::SimArgs;
use crate::{records, say, sim};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Repetitions in a region of the guest program.
const ROUNDS: u64 = 100;
/// Pages in a batch.
const BATCH: u64 = 31;
/// Words in memory of a message of 63: REP iterations less the instruction itself.
const WORDS_MOVED: u64 = 55;
/// Words in memory of a message of 31 map items: REP iterations less the instruction itself.
const ITEMS_MOVED: u64 = 54;
/// 8-byte words in a page: REP iterations of a string less the instruction itself.
const PAGE_MOVED: u64 = 511;

/// The same for a space, counted by single steps: both halves of a root table (2 * 255), a UTCB page (511), the roots in
/// the space object (255), and what is left of smaller ones.
const SPACE_MOVED: u64 = 1373;

/// A row of the table.
struct Row {
    what: &'static str,
    /// Region name in the guest.
    region: &'static str,
    /// Measured without the short paths.
    complete: bool,
    /// Repetitions in one occurrence of the region.
    per: u64,
    /// REP iterations that the instrument does not count.
    moved: u64,
    limit: u64,
    /// What others need, as published or measured beside it.
    others: &'static str,
}

const fn row(
    what: &'static str,
    region: &'static str,
    per: u64,
    limit: u64,
    others: &'static str,
) -> Row {
    Row { what, region, complete: false, per, moved: 0, limit, others }
}

const ROWS: [Row; 17] = [
    row("null system call (SystemClock)", "null", ROUNDS, 40, "Pistachio 77, seL4 89"),
    row("IPC, other space, 0 words, call to call", "ipc 0", 2 * ROUNDS, 52, "Pistachio 73"),
    row("IPC, other space, 7 words, call to call", "ipc 7", 2 * ROUNDS, 52, "seL4 184"),
    row("IPC, call + reply-and-wait, mean", "ipc serve", 2 * ROUNDS, 56, "Pistachio 76, seL4 197"),
    Row {
        moved: WORDS_MOVED,
        ..row("IPC, other space, 63 words", "ipc 63", 2 * ROUNDS, 125, "Pistachio 140")
    },
    Row {
        complete: true,
        ..row("IPC, complete path, 0 words", "ipc 0", 2 * ROUNDS, 200, "Pistachio 218, seL4 700")
    },
    row("page fault, map, resume", "fault", ROUNDS, 650, "Pistachio 4566, seL4 1909"),
    row("page fault, part of a 2 MiB page", "fault in large", ROUNDS, 850, "-"),
    Row {
        moved: ITEMS_MOVED.div_ceil(BATCH),
        ..row("map 4 KiB, per page of 31", "map 31", BATCH, 230, "Pistachio 1055, seL4 702")
    },
    row("unmap 4 KiB, per page of 31", "unmap 31", BATCH, 230, "Pistachio 773, seL4 555"),
    row("ThreadSwitch, other space", "switch", 2 * ROUNDS - 2, 90, "Pistachio 108, seL4 264"),
    row("interrupt to handler, other space", "interrupt", 1, 150, "Pistachio 171, seL4 386"),
    row("exception to handler and back", "exception", ROUNDS, 650, "seL4 1303"),
    Row {
        moved: PAGE_MOVED,
        ..row("string of 4 KiB, other space", "string 4096", 1, 1300, "Pistachio 25174")
    },
    row("thread create and delete", "thread", 1, 500, "Pistachio 577"),
    Row {
        moved: SPACE_MOVED,
        ..row("space create to delete", "space", 1, 8000, "Pistachio 85140")
    },
    Row { complete: true, ..row("null system call, complete path", "null", ROUNDS, 200, "-") },
];

/// The result records alone, for the report. `simulate` counts the guest with such kernel options.
pub fn measure(
    simulate: impl Fn(&str) -> Result<Vec<Map<String, Value>>>,
) -> Result<Vec<Map<String, Value>>> {
    let (short, complete) = (simulate("")?, simulate("fastpath=off")?);
    let record = |row: &Row| -> Result<Map<String, Value>> {
        let lines = if row.complete { &complete } else { &short };
        match record(lines, row, measured(lines, row)?) {
            Value::Object(record) => Ok(record),
            _ => Ok(Map::new()),
        }
    };
    ROWS.iter().map(record).collect()
}

/// Runs the experiment and prints the table.
pub fn run(machine: &str) -> Result<Finding> {
    say::step("Measuring", &format!("kernel paths on {machine}"));
    let short = sim::measure(&SimArgs::counting("paths", machine, ""))?;
    let complete = sim::measure(&SimArgs::counting("paths", machine, "fastpath=off"))?;
    println!("{:40} {:>8} {:>6}  for comparison", "kernel instructions", "measured", "limit");
    let mut finding = Finding { records: Vec::new(), kept: true };
    for row in &ROWS {
        let lines = if row.complete { &complete } else { &short };
        let value = measured(lines, row)?;
        let kept = value <= row.limit;
        finding.kept &= kept;
        let mark = if kept { " " } else { "!" };
        println!("{:40} {value:>8} {:>5}{mark}  {}", row.what, row.limit, row.others);
        finding.records.push(record(lines, row, value));
    }
    costs(&short, &complete)?;
    Ok(finding)
}

fn region<'a>(lines: &'a [Map<String, Value>], name: &str) -> Result<&'a Map<String, Value>> {
    lines
        .iter()
        .find(|line| records::kind(line) == "roi" && line["name"] == name)
        .with_context(|| format!("the guest measured no region '{name}'"))
}

/// Kernel instructions of one repetition, rounded up.
fn measured(lines: &[Map<String, Value>], row: &Row) -> Result<u64> {
    let roi = region(lines, row.region)?;
    let sum = roi["instr_kernel"]["sum"].as_u64().context("the region has no instructions")?;
    let occurrences = roi["n"].as_u64().filter(|&n| n > 0).context("the region never occurred")?;
    Ok(sum.div_ceil(occurrences * row.per) + row.moved)
}

/// The result record of a row.
fn record(lines: &[Map<String, Value>], row: &Row, value: u64) -> Value {
    let conditions =
        |key: &str| lines.first().and_then(|line| line.get(key)).cloned().unwrap_or(Value::Null);
    json!({
        "kind": "result", "bench": "paths", "variant": row.what, "metric": "kernel instructions",
        "unit": "instructions", "value": value, "limit": row.limit, "n": row.per,
        "git": conditions("git"), "machine": conditions("machine"),
        "emulator": conditions("emulator"), "profile": conditions("profile"),
    })
}

/// The rows for which [`costs`] are printed: those about messages, and what the kernel makes of messages.
const COSTLY: [&str; 8] =
    ["ipc 0", "ipc 7", "ipc serve", "ipc 63", "fault", "switch", "interrupt", "exception"];

/// Cache lines that the kernel touches and expensive instructions of the rows about messages, per message or round.
/// Lines are counted over a whole region: between the same two threads again and again they stay the same, while a
/// fault or a long message touches others each time.
fn costs(short: &[Map<String, Value>], complete: &[Map<String, Value>]) -> Result<()> {
    println!(
        "\n{:40} {:>5} {:>5} {:>7}  {:>7} {:>7} {:>5} {:>5} {:>6}",
        "kernel, per message",
        "code",
        "read",
        "written",
        "SYSCALL",
        "SYSRET",
        "CR3",
        "MSR",
        "locked"
    );
    for row in ROWS.iter().filter(|row| COSTLY.contains(&row.region)) {
        let roi = region(if row.complete { complete } else { short }, row.region)?;
        let occurrences = roi["n"].as_u64().filter(|&n| n > 0).context("no occurrence")?;
        let times = (occurrences * row.per) as f64;
        let count = |value: &Value| -> u64 {
            match value {
                Value::Array(items) => items.iter().filter_map(Value::as_u64).sum(),
                other => other.as_u64().unwrap_or(0),
            }
        };
        let line = |key: &str| count(&roi["lines"]["kernel"][key]);
        let each = |whose: &str, key: &str| count(&roi[whose][key]) as f64 / times;
        println!(
            "{:40} {:>5} {:>5} {:>7}  {:>7.2} {:>7.2} {:>5.2} {:>5.2} {:>6.2}",
            row.what,
            line("code"),
            line("read"),
            line("written"),
            each("user", "syscall"),
            each("kernel", "sysret"),
            each("kernel", "cr3_write"),
            each("kernel", "wrmsr"),
            each("kernel", "locked"),
        );
    }
    Ok(())
}
