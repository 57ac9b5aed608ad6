//! `cargo xtask bench arraywalk unmap`: what the thesis derives and counts (numa-l4 5.4), in both systems.
//!
//! `arraywalk`: page faults of two threads that touch parts of an array that overlap fully or not at all.
//! `unmap`: pagers that are told of the unmap of a page. The numbers are derived, so any other is a
//! failure, as is any failed test of the guest (placement, faults of pagers, frames that do not return).

use super::Finding;
use crate::{
    cli::BenchArgs,
    doctor,
    emulator::End,
    guest::{self, Profile, Programs},
    machines::Machine,
    pack, paths,
    qemu::{Console, Media},
    records,
    run::Guest,
    say,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use std::time::Duration;

/// A manifest, what it shows, and what a result of it must be.
struct Run {
    manifest: &'static str,
    system: &'static str,
    derived: fn(&Map<String, Value>) -> Option<u64>,
}

fn field(record: &Map<String, Value>, name: &str) -> Option<u64> {
    record.get(name)?.as_u64()
}

/// One space for each node: each thread faults on each of its pages (numa-l4 5.4.1).
fn faults_of_two_spaces(record: &Map<String, Value>) -> Option<u64> {
    Some(2 * field(record, "pages")?)
}

/// One space: a page faults once.
fn faults_of_one_space(record: &Map<String, Value>) -> Option<u64> {
    let pages = field(record, "pages")?;
    Some(2 * pages - pages * field(record, "overlap")? / 100)
}

/// All other pagers are told.
fn all_others(record: &Map<String, Value>) -> Option<u64> {
    field(record, "nodes")?.checked_sub(1)
}

/// There is nobody to tell.
const fn nobody(_: &Map<String, Value>) -> Option<u64> {
    Some(0)
}

const WALKS: [Run; 3] = [
    Run { manifest: "arraywalk", system: "numa", derived: faults_of_two_spaces },
    Run { manifest: "arraywalk-flat", system: "flat", derived: faults_of_one_space },
    Run { manifest: "arraywalk-single", system: "numa, one space", derived: faults_of_one_space },
];

const UNMAPS: [Run; 5] = [
    Run { manifest: "unmap-parallel", system: "numa, all at once", derived: all_others },
    Run { manifest: "unmap-one-by-one", system: "numa, one by one", derived: all_others },
    Run { manifest: "unmap-active", system: "numa, all active told", derived: all_others },
    Run { manifest: "unmap-root", system: "numa, root task", derived: nobody },
    Run { manifest: "unmap-flat", system: "flat", derived: nobody },
];

/// Page faults.
pub fn walk(args: &BenchArgs) -> Result<Finding> {
    run(args, "page faults of the array walk", "faults", &WALKS)
}

/// Pagers told of an unmap.
pub fn unmap(args: &BenchArgs) -> Result<Finding> {
    run(args, "pagers told of an unmap", "notifications", &UNMAPS)
}

fn run(args: &BenchArgs, title: &str, metric: &str, runs: &[Run]) -> Result<Finding> {
    let machine = Machine::load(args.machine.as_deref().unwrap_or("2n2c"))?;
    doctor::ensure_emulator(false)?;
    let programs = guest::build(Profile::Release)?;
    say::step("Measuring", &format!("{title} on {}", machine.name));
    println!("{title:44} {:>8} {:>8}", "measured", "derived");
    let mut finding = Finding { records: Vec::new(), kept: true };
    for run in runs {
        let all = measure(run, &machine, &programs)?;
        let mut counted = 0;
        for record in &all {
            if record.get("metric").is_none_or(|m| m != metric) {
                continue;
            }
            counted += 1;
            let of = |name| field(record, name).context("a result without values");
            let derived = (run.derived)(record).context("a result without parameters")?;
            // Every single repetition, not just the mean.
            let exact = [of("value")?, of("min")?, of("max")?].iter().all(|&v| v == derived);
            finding.kept &= exact;
            let (value, mark) = (of("value")?, if exact { " " } else { "!" });
            let what = match (field(record, "overlap"), field(record, "nodes")) {
                (Some(overlap), _) => format!("{}, overlap {overlap} %", run.system),
                (_, Some(nodes)) => format!("{}, {nodes} nodes", run.system),
                _ => run.system.into(),
            };
            println!("{what:44} {value:>8} {derived:>8}{mark}");
        }
        ensure!(counted > 0, "{} printed no {metric}", run.manifest);
        finding.records.extend(all.into_iter().map(|record| {
            let mut record = record;
            record.insert("system".into(), run.system.into());
            Value::Object(record)
        }));
    }
    Ok(finding)
}

/// Boots one system; its results.
fn measure(run: &Run, machine: &Machine, programs: &Programs) -> Result<Vec<Map<String, Value>>> {
    let manifest = paths::root().join(format!("xtask/manifests/{}.toml", run.manifest));
    let options = pack::Options { manifest: Some(manifest), ..pack::Options::default() };
    let archive = pack::pack_quietly(Profile::Release, programs, &options)?;
    let kernel = guest::kernel(programs)?;
    let media = Media::Direct { kernel: kernel.stripped.clone(), archive, append: String::new() };
    let outcome = Guest {
        label: &format!("bench-{}", run.manifest),
        machine,
        media: &media,
        kernel: &kernel.full,
        profile: Profile::Release,
        console: Console::Pipe,
        echo: false,
        gdb: false,
        limit: Some(Duration::from_secs(120)),
        json: None,
        extra: &[],
    }
    .run()?;
    ensure!(
        outcome.end == End::Success,
        "{} ended with: {}; see {}",
        run.manifest,
        outcome.end,
        outcome.log.display()
    );
    let is_result = |record: &Map<String, Value>| records::kind(record) == "result";
    Ok(outcome.seen.records.into_iter().filter(is_result).collect())
}
