//! `cargo xtask test`: host tests, then guests on every machine shape.
//!
//! What there is to run is data: the host packages are the workspace's default members, the guest
//! suites stand in `xtask/suites.toml`. Every suite ends as a [`Report`]; the last line printed is
//! `N passed, N failed` over all of them.

mod boot_record;
mod clock_record;
mod guest;
mod host;
mod placement_record;
mod suites;

use crate::{cli::TestArgs, machines::Machine, say};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::{fs::File, io::Write, thread, time::Duration};

/// One failed test.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Name of the test.
    pub name: String,
    /// What went wrong; may have several lines.
    pub detail: String,
}

/// How a suite went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// `host` or `guest`.
    pub place: &'static str,
    /// The suite, with the machine for guests.
    pub title: String,
    /// Number of tests that passed.
    pub passed: usize,
    /// Those that did not.
    pub failed: Vec<Failure>,
    /// Why nothing ran, if that is no failure.
    pub skipped: Option<String>,
    /// How long it took.
    pub time: Duration,
    /// Command that runs it again.
    pub repeat: String,
    /// What its models have seen, a line each.
    pub notes: Vec<String>,
    /// One record per test.
    pub records: Vec<Map<String, Value>>,
}

impl Report {
    /// The line that tells how the suite went.
    fn line(&self) -> String {
        let state = match (&self.skipped, self.failed.len()) {
            (Some(reason), _) => say::paint("1;33", &format!("skipped: {reason}")),
            (None, 0) => format!("{} passed", self.passed),
            (None, n) => say::paint("1;31", &format!("{} passed, {n} FAILED", self.passed)),
        };
        format!("{:>6}  {:<34} {:>6.1} s  {state}", self.place, self.title, self.time.as_secs_f64())
    }

    fn show_failures(&self) {
        for failure in &self.failed {
            println!("\n{} {}: {}", say::paint("1;31", "FAILED"), self.title, failure.name);
            for line in failure.detail.lines() {
                println!("    {line}");
            }
            println!("    repeat: {}", self.repeat);
        }
    }
}

/// What the names on the command line select.
struct Selection {
    names: Vec<String>,
}

impl Selection {
    /// All of a place is wanted: nothing was named, or the place itself.
    fn whole(&self, place: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name == place)
    }

    /// The suite is wanted by its own name.
    fn by_name(&self, suite: &str) -> bool {
        self.names.iter().any(|name| name == suite)
    }

    fn has(&self, place: &str, suite: &str) -> bool {
        self.whole(place) || self.by_name(suite)
    }
}

/// `cargo xtask test`. Whatever happens, the last line is the one that counts.
pub fn command(args: &TestArgs) -> Result<u8> {
    run(args).or_else(|error| {
        say::error(&format!("{error:#}"));
        println!("0 passed, 1 failed");
        Ok(1)
    })
}

fn run(args: &TestArgs) -> Result<u8> {
    let mut suites = suites::load()?;
    suites.iter_mut().for_each(|suite| suite.set_stress(args.seconds, args.seed));
    let hosts = host::suites()?;
    if args.list {
        list(&hosts, &suites);
        return Ok(0);
    }
    let selection = Selection { names: args.names.clone() };
    check_names(&selection, &hosts, &suites)?;
    let machine = args.machine.as_deref().map(Machine::load).transpose()?;
    let mut json = match &args.json {
        Some(path) => {
            let file = File::create(path);
            Some(file.with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => None,
    };
    let mut reports = Vec::new();
    let mut done = |report: Report| -> Result<()> {
        println!("{}", report.line());
        report.notes.iter().for_each(|note| println!("            {note}"));
        if let Some(json) = &mut json {
            for record in &report.records {
                writeln!(json, "{}", serde_json::to_string(record)?).context("cannot write")?;
            }
        }
        reports.push(report);
        Ok(())
    };
    // A machine was named: only guests have one.
    let with_host = machine.is_none() || selection.names.iter().any(|name| name == "host");
    let wanted = |suite: &&host::Suite| with_host && selection.has("host", &suite.name);
    let (slow, quick): (Vec<_>, Vec<_>) =
        hosts.iter().filter(wanted).partition(|suite| suite.is_slow());
    let runs = guest::plan(
        &suites,
        |name| selection.whole("guest") || selection.by_name(name),
        |name| selection.by_name(name),
        machine.as_ref(),
    )?;
    thread::scope(|scope| {
        // Single-threaded interpreters and model checkers run beside everything else.
        let slow = scope.spawn(|| slow.into_iter().map(host::run).collect::<Vec<_>>());
        if !quick.is_empty() {
            say::step("Testing", &format!("{} suites on the host, building first", quick.len()));
        }
        for suite in quick {
            done(host::run(suite)?)?;
        }
        guest::announce(&runs);
        guest::run_all(runs, &mut done)?;
        for report in slow.join().map_err(|_| anyhow::anyhow!("a host suite died"))? {
            done(report?)?;
        }
        anyhow::Ok(())
    })?;
    Ok(summary(&reports))
}

/// Prints the failures and the last line; gives the exit code.
fn summary(reports: &[Report]) -> u8 {
    for report in reports {
        report.show_failures();
    }
    let passed: usize = reports.iter().map(|report| report.passed).sum();
    let failed: usize = reports.iter().map(|report| report.failed.len()).sum();
    if passed + failed == 0 {
        say::error("nothing ran");
    }
    println!("{passed} passed, {failed} failed");
    u8::from(failed > 0 || passed == 0)
}

fn check_names(
    selection: &Selection,
    hosts: &[host::Suite],
    suites: &[suites::Suite],
) -> Result<()> {
    for name in &selection.names {
        let known = name == "host"
            || name == "guest"
            || hosts.iter().any(|suite| suite.name == *name)
            || suites.iter().any(|suite| suite.name == *name);
        if !known {
            bail!("no suite named '{name}'; `cargo xtask test --list` shows what there is");
        }
    }
    ensure!(!hosts.is_empty(), "the workspace has no default members to test");
    Ok(())
}

fn list(hosts: &[host::Suite], suites: &[suites::Suite]) {
    for suite in hosts {
        println!("{:>6}  {:<20} {}", "host", suite.name, suite.about());
    }
    for suite in suites {
        println!("{:>6}  {:<20} {}", "guest", suite.name, suite.about);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(passed: usize, failed: usize) -> Report {
        let failure = Failure { name: "x".into(), detail: "why".into() };
        Report { passed, failed: vec![failure; failed], ..Report::default() }
    }

    #[test]
    fn only_passed_tests_make_a_success() {
        assert_eq!(summary(&[report(2, 0), report(1, 0)]), 0);
        assert_eq!(summary(&[report(2, 1)]), 1);
        assert_eq!(summary(&[]), 1);
        assert_eq!(summary(&[report(0, 0)]), 1);
    }

    #[test]
    fn names_select() {
        let selection =
            |names: &[&str]| Selection { names: names.iter().map(|n| n.to_string()).collect() };
        assert!(selection(&[]).has("host", "kcore") && selection(&[]).has("guest", "boot"));
        assert!(selection(&["host"]).has("host", "kcore"));
        assert!(!selection(&["host"]).has("guest", "boot"));
        assert!(
            selection(&["boot"]).has("guest", "boot") && !selection(&["boot"]).has("guest", "ipc")
        );
    }
}
