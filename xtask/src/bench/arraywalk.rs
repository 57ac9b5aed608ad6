//! `cargo xtask bench arraywalk unmap`: the thesis' array walk in both systems (numa-l4 5.3).
//!
//! Two threads touch parts of an array that overlap fully or not at all, in the NUMA system and in the
//! control system. Counted are page faults, and the pagers told of an unmap. The numbers are derived, so any other is a failure.

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
use serde_json::Value;
use std::time::Duration;

/// Pages of each thread's part, as in the manifests.
const PAGES: u64 = 64;

/// A run: manifest, how it is called, page faults and notifications that must come out.
struct Walk {
    manifest: &'static str,
    what: &'static str,
    faults: u64,
    notified: u64,
}

const WALKS: [Walk; 4] = [
    Walk { manifest: "arraywalk", what: "numa, full overlap", faults: 2 * PAGES, notified: PAGES },
    Walk { manifest: "arraywalk-flat", what: "flat, full overlap", faults: PAGES, notified: 0 },
    Walk { manifest: "arraywalk-apart", what: "numa, no overlap", faults: 2 * PAGES, notified: 0 },
    Walk {
        manifest: "arraywalk-flat-apart",
        what: "flat, no overlap",
        faults: 2 * PAGES,
        notified: 0,
    },
];

/// Page faults.
pub fn walk(args: &BenchArgs) -> Result<Finding> {
    run(args, "page faults", "faults", |walk| walk.faults)
}

/// Notifications of an unmap of the first thread's part.
pub fn unmap(args: &BenchArgs) -> Result<Finding> {
    run(args, "unmap notifications", "notifications", |walk| walk.notified)
}

fn run(
    args: &BenchArgs,
    title: &str,
    metric: &str,
    wanted: impl Fn(&Walk) -> u64,
) -> Result<Finding> {
    let machine = Machine::load(args.machine.as_deref().unwrap_or("2n2c"))?;
    doctor::ensure_emulator(false)?;
    let programs = guest::build(Profile::Release)?;
    say::step("Measuring", &format!("{title} of the array walk on {}", machine.name));
    println!("{title:40} {:>8} {:>8}", "measured", "derived");
    let mut finding = Finding { records: Vec::new(), kept: true };
    for walk in &WALKS {
        let record = measure(walk, &machine, &programs, metric)?;
        let value = record["value"].as_u64().context("a result without a value")?;
        finding.kept &= value == wanted(walk);
        let mark = if value == wanted(walk) { " " } else { "!" };
        println!("{:40} {value:>8} {:>8}{mark}", walk.what, wanted(walk));
        finding.records.push(record);
    }
    Ok(finding)
}

/// Boots one system; its result for `metric`.
fn measure(walk: &Walk, machine: &Machine, programs: &Programs, metric: &str) -> Result<Value> {
    let manifest = paths::root().join(format!("xtask/manifests/{}.toml", walk.manifest));
    let options = pack::Options { manifest: Some(manifest), ..pack::Options::default() };
    let archive = pack::pack_quietly(Profile::Release, programs, &options)?;
    let kernel = guest::kernel(programs)?;
    let media = Media::Direct { kernel: kernel.stripped.clone(), archive, append: String::new() };
    let outcome = Guest {
        label: &format!("bench-{}", walk.manifest),
        machine,
        media: &media,
        kernel: &kernel.full,
        profile: Profile::Release,
        console: Console::Pipe,
        echo: false,
        gdb: false,
        limit: Some(Duration::from_secs(60)),
        json: None,
        extra: &[],
    }
    .run()?;
    ensure!(
        outcome.end == End::Success,
        "{} ended with: {}; see {}",
        walk.manifest,
        outcome.end,
        outcome.log.display()
    );
    let found = outcome.seen.records.into_iter().find(|record| {
        records::kind(record) == "result" && record.get("metric").is_some_and(|m| m == metric)
    });
    let mut record = found.context("the guest printed no such result")?;
    let bench = if metric == "faults" { "arraywalk" } else { "unmap" };
    record.insert("bench".into(), bench.into());
    record.insert("variant".into(), walk.what.into());
    record.insert("pages".into(), PAGES.into());
    Ok(Value::Object(record))
}
