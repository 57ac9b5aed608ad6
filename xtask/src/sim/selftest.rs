//! `cargo xtask sim selftest`: a guest without a kernel whose every count is known
//! (`tools/numasim/testguest`), run in all modes, once of them twice.

use super::{Job, Results, build_plugin};
use crate::{
    cli::{SimArgs, SimCaches},
    emulator::End,
    guest,
    machines::Machine,
    paths,
    qemu::Media,
    say,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use std::fs;

/// Lines of the buffer that the guest walks over.
const LINES: f64 = (8 << 20) as f64 / 64.0;

/// Rounds of the guest's ping-pong.
const ROUNDS: f64 = 1000.0;

/// What was compared.
struct Verdicts {
    records: Vec<Value>,
    failed: usize,
}

impl Verdicts {
    /// Demands `found` within a fraction of `wanted`.
    fn near(&mut self, name: &str, found: f64, wanted: f64, tolerance: f64) {
        let ok = (found - wanted).abs() <= tolerance * wanted;
        let detail = format!("{found}, expected {wanted} within {} %", tolerance * 100.0);
        self.add(name, ok, &detail);
    }

    fn add(&mut self, name: &str, ok: bool, detail: &str) {
        self.failed += usize::from(!ok);
        println!("{} {name}: {detail}", if ok { "ok    " } else { "FAILED" });
        let record = serde_json::json!({"kind": "test", "name": name, "ok": ok, "detail": detail});
        self.records.push(record);
    }
}

/// Runs it.
pub fn command(args: &SimArgs) -> Result<u8> {
    let plugin = build_plugin()?;
    let kernel = build_guest()?;
    let machine = Machine::regular(2, 2, 64, 14)?;
    let media =
        Media::Direct { kernel: kernel.clone(), archive: kernel.clone(), append: String::new() };
    let run = |caches| -> Result<Results> {
        let args = SimArgs { caches, name: "selftest".into(), ..args.clone() };
        say::step("Simulating", &format!("caches {}", super::caches_name(caches)));
        let results =
            Job { plugin: &plugin, machine: &machine, media: &media, kernel: &kernel, args: &args }
                .run()?;
        ensure!(results.outcome.end == End::Success, "{}", results.outcome.end);
        Ok(results)
    };
    let mut verdicts = Verdicts { records: Vec::new(), failed: 0 };
    let on = run(SimCaches::On)?;
    let again = run(SimCaches::On)?;
    verdicts.add("two runs", on.lines == again.lines, "identical in every count");
    cached(&on.lines, &mut verdicts);
    exact(&on.lines, &mut verdicts);
    uncached(&run(SimCaches::Off)?.lines, &mut verdicts);
    let ideal = run(SimCaches::Ideal)?;
    exact(&ideal.lines, &mut verdicts);
    if let Some(path) = &args.json {
        let text: String = verdicts.records.iter().map(|r| format!("{r}\n")).collect();
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{} passed, {} failed", verdicts.records.len() - verdicts.failed, verdicts.failed);
    Ok(u8::from(verdicts.failed > 0))
}

fn build_guest() -> Result<std::path::PathBuf> {
    let mut cargo = guest::cargo("build");
    cargo.args(["--release", "--quiet", "--package", "numasim-testguest"]);
    cargo.args(["--target", guest::TARGET]);
    ensure!(cargo.status()?.success(), "the self-test's guest does not build; see above");
    Ok(paths::target().join(guest::TARGET).join("release/numasim-testguest"))
}

/// A number in the line of region `name` on `cpu`; NaN (which no comparison accepts) if it is missing.
fn number(lines: &[Map<String, Value>], name: &str, cpu: u64, path: &str) -> f64 {
    let roi = lines.iter().find(|l| {
        crate::records::kind(l) == "roi"
            && l["name"].as_str() == Some(name)
            && l["cpu"].as_u64() == Some(cpu)
    });
    let roi = roi.map(|l| Value::Object(l.clone()));
    roi.and_then(|l| l.pointer(path)?.as_f64()).unwrap_or(f64::NAN)
}

/// What does not depend on caches.
fn exact(lines: &[Map<String, Value>], v: &mut Verdicts) {
    for (what, region, cpu, path, wanted) in [
        ("instructions, least", "count", 0, "/instr_kernel/min", 107.0),
        ("instructions, most", "count", 0, "/instr_kernel/max", 107.0),
        ("loads", "count", 0, "/kernel/loads", 110.0),
        ("stores", "count", 0, "/kernel/stores", 700.0),
        ("locked instructions", "count", 0, "/kernel/locked", 10.0),
        ("pauses", "count", 0, "/kernel/pause", 10.0),
        ("user instructions", "user", 0, "/instr_user/sum", 30.0),
        ("kernel instructions", "user", 0, "/instr_kernel/sum", 31.0),
        ("system calls", "user", 0, "/user/syscall", 1.0),
        ("returns", "user", 0, "/kernel/sysret", 1.0),
        ("interrupts sent", "interrupt", 0, "/kernel/ipi_sent", 10.0),
        ("interrupts taken", "interrupt", 1, "/irq/64", 10.0),
        ("path instructions, least", "interrupt", 1, "/path/kernel/min", 10.0),
        ("path instructions, most", "interrupt", 1, "/path/kernel/max", 10.0),
        ("path changes of CPU", "interrupt", 1, "/path/hops/sum", 10.0),
        ("broken paths", "interrupt", 1, "/path/broken", 0.0),
        // 64 pages after CR3 and one after INVLPG; their code is one more.
        ("walks", "walk-tables", 0, "/kernel/walks", 66.0),
        ("page faults", "fault", 0, "/irq/14", 10.0),
        ("walks that find nothing", "fault", 0, "/kernel/walks", 10.0),
        ("instructions, least", "fault", 0, "/instr_kernel/min", 4.0),
        ("instructions, most", "fault", 0, "/instr_kernel/max", 4.0),
        ("CR3 loads", "walk-tables", 0, "/kernel/cr3_write", 1.0),
    ] {
        v.near(&format!("{region}: {what}"), number(lines, region, cpu, path), wanted, 0.0);
    }
}

/// Caches on: lines, transfers, latencies.
fn cached(lines: &[Map<String, Value>], v: &mut Verdicts) {
    for cpu in [0, 1] {
        let local = number(lines, "walk-local", cpu, "/kernel/data/local");
        v.near(&format!("walk-local cpu {cpu}: local lines"), local, LINES, 0.01);
        let remote = number(lines, "walk-remote", cpu, "/kernel/data/remote");
        v.near(&format!("walk-remote cpu {cpu}: remote lines"), remote, LINES, 0.01);
        let own = number(lines, "walk-local", cpu, "/cycles/sum");
        let far = number(lines, "walk-remote", cpu, "/cycles/sum");
        v.near(&format!("cpu {cpu}: remote pass costs more"), far - own, LINES * 80.0, 0.01);
    }
    let strayed = number(lines, "walk-local", 0, "/remote");
    v.near("walk-local cpu 0: remote accesses", strayed, 0.0, 0.0);
    let latency = |name: &str| lines[0]["latency"][name].as_f64().unwrap_or(f64::NAN);
    let predicted = 2.0 * (latency("c2c_far") + latency("upgrade"));
    let round = number(lines, "ping-pong", 0, "/cycles/sum") / ROUNDS;
    v.near("ping-pong: cycles per round", round, predicted, 0.05);
    let transfers = number(lines, "ping-pong", 0, "/kernel/data/far");
    v.near("ping-pong: transfers", transfers, ROUNDS, 0.01);
}

/// Caches off: every access counts.
fn uncached(lines: &[Map<String, Value>], v: &mut Verdicts) {
    let loads = LINES * 16.0;
    for (region, cpu, path) in [
        ("walk-local", 0, "/kernel/data/local"),
        ("walk-local", 1, "/kernel/data/local"),
        ("walk-remote", 0, "/kernel/data/remote"),
        ("walk-remote", 1, "/kernel/data/remote"),
    ] {
        let found = number(lines, region, cpu, path);
        v.near(&format!("no caches, {region} cpu {cpu}: accesses"), found, loads, 0.0);
    }
    // A branch that is not taken goes on in the line; a jump fetches its line again.
    let visits = number(lines, "visits", 0, "/kernel/fetch/local");
    v.near("no caches: fetches of three lines and nine jumps", visits, 12.0, 0.0);
    let code = number(lines, "walk-local", 1, "/kernel/fetch/remote");
    v.add("no caches: code lies on node 0", code > 100_000.0, &format!("{code} remote fetches"));
}
