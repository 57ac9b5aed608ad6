//! Guest suites: boots, two at a time, and what came of them.

use super::{
    Failure, Report, boot_record, clock_record,
    placement_record::{self, Expected},
    suites::{BootPath, Check, Expect, Suite},
};
use crate::{
    cli::{Boot, Firmware, SimCaches, Whose},
    doctor,
    emulator::End,
    guest::{self, Profile, Programs},
    image,
    machines::Machine,
    pack,
    qemu::{self, Console, Media},
    run::{Guest, Outcome},
    say,
    script::Script,
    sim::{self, gate},
    trace,
};
use anyhow::{Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Guests that run at the same time.
const JOBS: usize = 2;

/// One boot.
pub struct Run {
    suite: Suite,
    machine: Machine,
    boot: BootPath,
}

impl Run {
    /// Name of the run in lines, records and log files.
    fn title(&self) -> String {
        let boot = match self.boot {
            BootPath::Direct => "",
            BootPath::Bios => " (bios)",
            BootPath::Uefi => " (uefi)",
        };
        format!("{} on {}{boot}", self.suite.name, self.machine.name)
    }
}

/// The boots that are wanted. `named` tells that a suite was asked for by its own name: such a suite
/// also runs on a machine that is not in its list.
pub fn plan(
    suites: &[Suite],
    wanted: impl Fn(&str) -> bool,
    named: impl Fn(&str) -> bool,
    only: Option<&Machine>,
) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for suite in suites.iter().filter(|suite| wanted(&suite.name)) {
        let machines = match only {
            None => {
                let names = suite.machine_names();
                names.iter().map(|name| Machine::load(name)).collect::<Result<Vec<_>>>()?
            }
            Some(machine) => {
                let fits = suite.machine_names().contains(&machine.name) || named(&suite.name);
                if fits { vec![machine.clone()] } else { Vec::new() }
            }
        };
        for machine in machines {
            for boot in suite.boot_paths() {
                runs.push(Run { suite: suite.clone(), machine: machine.clone(), boot });
            }
        }
    }
    Ok(runs)
}

/// Builds the guest and runs everything; `done` takes the reports as they come.
pub fn run_all(runs: Vec<Run>, done: &mut dyn FnMut(Report) -> Result<()>) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let builds = match prepare(&runs) {
        Ok(builds) => builds,
        Err(error) => return done(unprepared(&error)),
    };
    // Media are made one after the other: runs of one suite share archives and images.
    let queue: Mutex<VecDeque<(Run, Result<Media>)>> = Mutex::default();
    for run in runs {
        let media = media(&run, &builds[&run.suite.profile]);
        queue.lock().unwrap_or_else(|e| e.into_inner()).push_back((run, media));
    }
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..JOBS {
            let (queue, sender, builds) = (&queue, sender.clone(), &builds);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(|e| e.into_inner()).pop_front();
                    let Some((run, media)) = next else { break };
                    let report = one(&run, media, &builds[&run.suite.profile]);
                    if sender.send(report).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        receiver.iter().try_for_each(done)
    })
}

/// Every build that some run needs.
fn prepare(runs: &[Run]) -> Result<BTreeMap<Profile, Programs>> {
    doctor::ensure_emulator(runs.iter().any(|run| run.boot == BootPath::Uefi))?;
    if runs.iter().any(|run| run.suite.is_measured()) {
        sim::prepare()?;
    }
    let profiles: BTreeSet<_> = runs.iter().map(|run| run.suite.profile).collect();
    profiles.into_iter().map(|profile| Ok((profile, guest::build(profile)?))).collect()
}

/// A guest that cannot be built is a failed test, so that the last line still comes.
fn unprepared(error: &anyhow::Error) -> Report {
    let failure = Failure { name: "cannot prepare".into(), detail: format!("{error:#}") };
    Report {
        place: "guest",
        title: "build".into(),
        failed: vec![failure],
        repeat: "cargo xtask build".into(),
        ..Report::default()
    }
}

fn media(run: &Run, programs: &Programs) -> Result<Media> {
    let boot = run.boot.boot();
    let append = run.suite.append.clone();
    let options = pack::Options {
        manifest: run.suite.manifest_path(),
        roottask: run.suite.roottask.clone(),
        command_line: (boot != Boot::Direct).then(|| append.clone()),
        ..pack::Options::default()
    };
    let archive = pack::pack_quietly(run.suite.profile, programs, &options)?;
    let kernel = guest::kernel(programs)?;
    let disk = |firmware| image::beside(firmware, kernel, &archive);
    Ok(match boot {
        Boot::Direct => Media::Direct { kernel: kernel.stripped.clone(), archive, append },
        Boot::Bios => Media::Bios(disk(Firmware::Bios)?),
        Boot::Uefi => Media::Uefi(disk(Firmware::Uefi)?, qemu::firmware()?),
    })
}

/// The command that runs it again; a stress test with the same length and seed.
fn repeat(run: &Run) -> String {
    let mut command = format!("cargo xtask test {} --machine {}", run.suite.name, run.machine.name);
    let arguments = run.suite.append.split_once("-- ").filter(|_| run.suite.stress);
    for word in arguments.map_or("", |(_, own)| own).split(' ') {
        if let Some((name, value)) = word.split_once('=') {
            command.push_str(&format!(" --{name} {value}"));
        }
    }
    command
}

/// Runs one guest and judges it.
fn one(run: &Run, media: Result<Media>, programs: &Programs) -> Report {
    let started = Instant::now();
    let mut report =
        Report { place: "guest", title: run.title(), repeat: repeat(run), ..Report::default() };
    let went = media.and_then(|media| match (run.suite.demand_local, run.suite.twice) {
        (Some(whose), _) => measure(run, &media, programs, whose, &mut report),
        (None, Some(caches)) => measure_twice(run, &media, programs, caches, &mut report),
        (None, None) => boot(run, &media, programs),
    });
    match went {
        Ok(outcome) => {
            let traced = run.suite.checks.contains(&Check::Trace);
            let fault = traced.then(|| follow(&outcome, programs)).transpose();
            judge(run, &outcome, fault.err().map(|error| format!("{error:#}")), &mut report);
        }
        Err(error) => {
            let detail = format!("{error:#}");
            report.failed.push(Failure { name: "cannot run".into(), detail });
        }
    }
    report.time = started.elapsed();
    report
}

fn boot(run: &Run, media: &Media, programs: &Programs) -> Result<Outcome> {
    let input = run.suite.input_path();
    Guest {
        label: &format!("test-{}", run.title().replace([' ', '(', ')'], "-")),
        machine: &run.machine,
        media,
        kernel: &guest::kernel(programs)?.full,
        profile: run.suite.profile,
        console: Console::Pipe,
        echo: false,
        gdb: false,
        limit: Some(Duration::from_secs_f64(run.suite.timeout)),
        json: None,
        extra: &[],
    }
    .run_with(input.as_deref().map(Script::load).transpose()?, trace::Names::of(programs))
}

/// Runs a guest in the placement instrument; every region that makes a remote access is a failure.
fn measure(
    run: &Run,
    media: &Media,
    programs: &Programs,
    whose: Whose,
    report: &mut Report,
) -> Result<Outcome> {
    let kernel = &guest::kernel(programs)?.full;
    let limit = run.suite.timeout as u64;
    let verdict = gate::run(&run.suite.name, &run.machine, media, kernel, whose, limit)?;
    // What was touched where, of all regions together: once.
    let mut strays = verdict.strays;
    for region in verdict.regions {
        match region {
            Ok(_) => report.passed += 1,
            Err(stray) => {
                let name = format!("remote accesses in {stray}");
                report.failed.push(Failure { name, detail: std::mem::take(&mut strays) });
            }
        }
    }
    Ok(verdict.outcome)
}

/// Runs a guest in the placement instrument two times; a record that differs is a failure.
fn measure_twice(
    run: &Run,
    media: &Media,
    programs: &Programs,
    caches: SimCaches,
    report: &mut Report,
) -> Result<Outcome> {
    let kernel = &guest::kernel(programs)?.full;
    let limit = run.suite.timeout as u64;
    let (outcome, same) = gate::twice(&run.suite.name, &run.machine, media, kernel, caches, limit)?;
    match same {
        Ok(records) => report.passed += records,
        Err(detail) => {
            report.failed.push(Failure { name: "two runs differ".into(), detail });
        }
    }
    Ok(outcome)
}

/// Decodes the trace of a run into a file beside its log and follows a message in it.
fn follow(outcome: &Outcome, programs: &Programs) -> Result<()> {
    let mut names = trace::Names::of(programs);
    let file = outcome.log.with_extension("trace.json");
    let summary = trace::write(&outcome.seen.trace, &mut names, &file)?;
    ensure!(summary.by_interrupt > 0, "no message to another CPU can be followed: {summary:?}");
    Ok(())
}

/// What the records and the end of a guest mean; `fault`: what else is known to be wrong.
fn judge(run: &Run, outcome: &Outcome, fault: Option<String>, report: &mut Report) {
    let mut wrong = Vec::from_iter(fault);
    for record in &outcome.seen.records {
        if record.get("kind").and_then(|kind| kind.as_str()) != Some("test") {
            continue;
        }
        let text = |key: &str| record.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_string();
        if record.get("ok").and_then(serde_json::Value::as_bool) == Some(true) {
            report.passed += 1;
        } else {
            report.failed.push(Failure { name: text("name"), detail: text("detail") });
        }
        let mut record = record.clone();
        record.insert("suite".into(), run.suite.name.clone().into());
        report.records.push(record);
    }
    let tests = report.passed + report.failed.len();
    let as_expected = match run.suite.expect {
        Expect::Success => outcome.end == End::Success,
        Expect::Panic => outcome.end == End::Panic,
        Expect::Failure => matches!(outcome.end, End::Panic | End::TestsFailed),
    };
    // Failed tests explain the exit code that tells of them.
    let explained = outcome.end == End::TestsFailed && !report.failed.is_empty();
    if !as_expected && !explained {
        wrong.push(format!("ended with: {}", outcome.end));
    }
    if run.suite.tests && tests == 0 {
        wrong.push("no test record was printed".into());
    }
    wrong.extend(outcome.seen.broken.iter().map(|line| format!("malformed record: {line}")));
    let console = std::fs::read(&outcome.log).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    for text in run.suite.prints.iter().filter(|text| !console.contains(*text)) {
        wrong.push(format!("the console never shows '{text}'"));
    }
    if let (Some(limit), Some(time)) = (run.suite.boot_within, outcome.seen.boot_time)
        && time.as_secs_f64() > limit
    {
        wrong.push(format!("the boot record took {:.2} s, at most {limit} s", time.as_secs_f64()));
    }
    for check in &run.suite.checks {
        wrong.extend(boot_record::check(*check, &run.machine, &outcome.seen.records));
        let records = &outcome.seen.records;
        wrong.extend(match check {
            Check::Clocks => clock_record::check(run.suite.clock_skew_us(), records),
            Check::Placement => placement_record::check(Expected::Right, records),
            Check::PlacementBlind => placement_record::check(Expected::Wrong, records),
            Check::TcbsStay => placement_record::check(Expected::TcbsStay, records),
            _ => Vec::new(),
        });
    }
    if wrong.is_empty() {
        // Without test records, to boot and to leave as expected is the test.
        report.passed += usize::from(tests == 0);
        return;
    }
    wrong.extend(explanation(outcome));
    report.failed.push(Failure { name: "the run as a whole".into(), detail: wrong.join("\n") });
}

/// Lines that help to understand a run that went wrong.
fn explanation(outcome: &Outcome) -> Vec<String> {
    let seen = &outcome.seen;
    let mut lines = Vec::new();
    if !outcome.complaint.is_empty() {
        lines.push(outcome.complaint.clone());
    }
    let last = if seen.epitaph.is_empty() { &seen.tail } else { &seen.epitaph };
    lines.extend(last.iter().rev().take(12).rev().map(|line| format!("| {line}")));
    lines.push(format!("log: {}", crate::paths::show(&outcome.log)));
    let script = outcome.log.with_extension("sh");
    lines.push(format!("the emulator alone: sh {}", crate::paths::show(&script)));
    lines
}

/// Says what will run before the long part.
pub fn announce(runs: &[Run]) {
    if !runs.is_empty() {
        say::step("Testing", &format!("{} guest runs, {JOBS} at a time", runs.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{console::Seen, test::suites};
    use serde_json::{Map, json};

    fn run(changes: &str) -> Run {
        let text = format!("name = \"s\"\nabout = \"x\"\ntimeout = 1\n{changes}");
        let suite: Suite = toml::from_str(&text).unwrap();
        Run { suite, machine: Machine::load("2n4c").unwrap(), boot: BootPath::Direct }
    }

    fn judged(run: &Run, end: End, records: &[serde_json::Value]) -> (usize, Vec<Failure>) {
        let records: Vec<Map<_, _>> =
            records.iter().map(|r| r.as_object().unwrap().clone()).collect();
        let outcome = Outcome {
            end,
            seen: Seen { records, ..Seen::default() },
            log: "/nonexistent".into(),
            command: String::new(),
            complaint: String::new(),
        };
        let mut report = Report::default();
        judge(run, &outcome, None, &mut report);
        (report.passed, report.failed)
    }

    #[test]
    fn ends_are_judged() {
        let plain = run("");
        assert_eq!(judged(&plain, End::Success, &[]), (1, vec![]));
        for end in [End::TimedOut, End::Panic, End::TestsFailed, End::Other("x".into()), End::Left]
        {
            let (passed, failed) = judged(&plain, end, &[]);
            assert_eq!((passed, failed.len()), (0, 1));
        }
        let panics = run("expect = \"panic\"");
        assert_eq!(judged(&panics, End::Panic, &[]), (1, vec![]));
        assert_eq!(judged(&panics, End::Success, &[]).1.len(), 1);
        assert_eq!(judged(&run("prints = [\"hello\"]"), End::Success, &[]).1.len(), 1);
    }

    #[test]
    fn test_records_are_counted() {
        let good = json!({"kind": "test", "name": "a", "ok": true, "detail": ""});
        let bad = json!({"kind": "test", "name": "b", "ok": false, "detail": "why"});
        let tests = run("tests = true");
        assert_eq!(judged(&tests, End::Success, std::slice::from_ref(&good)), (1, vec![]));
        assert_eq!(judged(&tests, End::Success, &[]).1.len(), 1);
        let both = [good.clone(), bad];
        let (passed, failed) = judged(&tests, End::TestsFailed, &both);
        assert_eq!((passed, failed.len(), failed[0].name.as_str()), (1, 1, "b"));
        // A guest that dies after its last good test has failed all the same.
        let (passed, failed) = judged(&tests, End::Panic, &[good]);
        assert_eq!((passed, failed.len()), (1, 1));
    }

    #[test]
    fn machines_restrict_the_plan() {
        let suites = suites::load().unwrap();
        let all = plan(&suites, |_| true, |_| false, None).unwrap();
        assert!(all.len() >= suites.len());
        let machine = Machine::load("1n1c").unwrap();
        let some = plan(&suites, |_| true, |_| false, Some(&machine)).unwrap();
        assert!(some.len() < all.len() && some.iter().all(|run| run.machine.name == "1n1c"));
    }
}
