//! Tests that run on the host: cargo's own, models that explore every history, `miri`.

use super::{Failure, Report};
use crate::{
    doctor, guest, paths,
    workspace::{Package, Workspace},
};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// A host suite may take this long, building included.
const LIMIT: Duration = Duration::from_secs(900);

/// Tests that take many minutes each in the interpreter, because their tables have thousands of
/// entries or because they count their operations in millions. They reach no code that the other
/// tests do not reach.
const TOO_SLOW_FOR_MIRI: [&str; 3] =
    ["tables_longer_than_64_kib", "more_domains_than_nodes", "mapdb::tests::random"];

/// Names of tests that explore every history of something, by `loom` or state by state. In a package that
/// depends on `loom` they are a suite of their own, which runs beside everything else.
const MODELS: [&str; 2] = ["loom_tests::", "model::"];

/// What a model prints begins so: how many states or interleavings it has seen.
const MODEL_LINE: &str = "model ";

/// How a suite is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `cargo test`.
    Plain,
    /// The same without its models.
    WithoutModels,
    /// `cargo test --lib`: the programs are for the guest.
    Library,
    /// `cargo test` of its models.
    Models,
    /// Under the interpreter that finds undefined behaviour.
    Miri,
}

/// One host suite.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Name on the command line.
    pub name: String,
    package: String,
    kind: Kind,
}

impl Suite {
    /// Takes minutes, on one CPU.
    pub fn is_slow(&self) -> bool {
        matches!(self.kind, Kind::Models | Kind::Miri)
    }

    /// One line about it.
    pub fn about(&self) -> String {
        match self.kind {
            Kind::Plain => format!("cargo test of {}", self.package),
            Kind::WithoutModels => format!("cargo test of {} without its models", self.package),
            Kind::Library => format!("cargo test of the library of {}", self.package),
            Kind::Models => {
                format!("every state and interleaving of the models of {}", self.package)
            }
            Kind::Miri => format!("{} under miri (needs a nightly tool chain)", self.package),
        }
    }
}

/// All host suites: every package for the host, the libraries of guest packages, models of
/// what depends on `loom`, miri for `kcore`.
pub fn suites() -> Result<Vec<Suite>> {
    let workspace = Workspace::read()?;
    let mut out = Vec::new();
    let mut add = |prefix: &str, package: &Package, kind: Kind| {
        let name = format!("{prefix}{}", package.name);
        out.push(Suite { name, package: package.name.clone(), kind });
    };
    for package in workspace.packages().filter(|package| workspace.is_for_host(package)) {
        let kind = if package.depends_on("loom") { Kind::WithoutModels } else { Kind::Plain };
        add("", package, kind);
    }
    for package in workspace.tested_libraries() {
        add("", package, Kind::Library);
    }
    for package in workspace.packages() {
        if package.has_library() && package.depends_on("loom") {
            add("models-", package, Kind::Models);
        }
        if package.name == "kcore" {
            add("miri-", package, Kind::Miri);
        }
    }
    Ok(out)
}

/// Runs one suite.
pub fn run(suite: &Suite) -> Result<Report> {
    let started = Instant::now();
    let repeat = format!("cargo xtask test {}", suite.name);
    let mut report =
        Report { place: "host", title: suite.name.clone(), repeat, ..Report::default() };
    if suite.kind == Kind::Miri && !doctor::has_miri() {
        report.skipped = Some("no nightly tool chain with miri on this host".into());
        return Ok(report);
    }
    let (ended_well, output) = capture(command(suite), LIMIT)?;
    let results = parse(&output);
    report.notes = models(&output);
    report.passed = results.iter().filter(|(_, ok)| *ok).count();
    for (name, ok) in &results {
        if !ok {
            report.failed.push(Failure { name: name.clone(), detail: detail(&output, name) });
        }
        report.records.push(record(&suite.name, name, *ok));
    }
    for note in &report.notes {
        report.records.push(model_record(&suite.name, note));
    }
    if !ended_well && report.failed.is_empty() {
        // Did not build, was stopped by the time limit, or died in the middle: that is one failure more.
        let tail: Vec<&str> = output.lines().rev().take(25).collect();
        let detail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        report.failed.push(Failure { name: "did not run to its end".into(), detail });
    }
    report.time = started.elapsed();
    Ok(report)
}

fn command(suite: &Suite) -> Command {
    let mut command = match suite.kind {
        Kind::Plain | Kind::WithoutModels => guest::cargo("test"),
        Kind::Library | Kind::Models => {
            let mut command = guest::cargo("test");
            command.arg("--lib");
            command
        }
        Kind::Miri => {
            let mut command = Command::new("cargo");
            command.args(["+nightly", "miri", "test", "--lib", "--target-dir"]);
            command.arg(paths::target().join("lokal/miri"));
            command.current_dir(paths::root()).stdin(Stdio::null());
            for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTFLAGS"] {
                command.env_remove(name);
            }
            command.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-ignore-leaks");
            command
        }
    };
    command.args(["--package", &suite.package, "--no-fail-fast", "--color", "never"]);
    command.env("RUST_BACKTRACE", "0");
    command.args(["--", "--show-output"]);
    match suite.kind {
        Kind::Plain | Kind::Library => &mut command,
        Kind::Models => command.args(MODELS),
        Kind::WithoutModels => command.args(MODELS.iter().flat_map(|name| ["--skip", name])),
        Kind::Miri => command.args(TOO_SLOW_FOR_MIRI.iter().flat_map(|name| ["--skip", name])),
    };
    command
}

/// Runs a command with the time limit; both outputs, in the order of their lines' arrival.
fn capture(mut command: Command, limit: Duration) -> Result<(bool, String)> {
    let (mut reader, writer) = std::io::pipe().context("no pipe")?;
    command.stdout(writer.try_clone()?).stderr(writer);
    // A group of its own, so that the limit ends what cargo started, too.
    command.process_group(0);
    let mut child = command.spawn().context("cannot run cargo")?;
    drop(command); // closes our ends of the pipe, so that the reader sees its end
    let collected = Arc::new(Mutex::new(Vec::new()));
    let sink = collected.clone();
    let reading = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            sink.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(&buffer[..count]);
        }
    });
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() >= deadline => {
                let group = format!("-{}", child.id());
                Command::new("kill").args(["-KILL", "--", &group]).status().context("no kill")?;
                child.wait()?;
                break None;
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    if reading.join().is_err() {
        bail!("the output of a host suite cannot be read");
    }
    let bytes = collected.lock().unwrap_or_else(|e| e.into_inner());
    let mut output = String::from_utf8_lossy(&bytes).into_owned();
    if status.is_none() {
        output.push_str(&format!("\nstopped after {} s\n", limit.as_secs_f64()));
    }
    Ok((status.is_some_and(|status| status.success()), output))
}

/// `(name, passed)` of every `test NAME ... ok|FAILED` line.
fn parse(output: &str) -> Vec<(String, bool)> {
    output
        .lines()
        .filter_map(|line| {
            let (name, state) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
            match state.split_whitespace().next()? {
                "ok" => Some((name.to_string(), true)),
                "FAILED" => Some((name.to_string(), false)),
                _ => None, // ignored
            }
        })
        .collect()
}

/// What models printed about how much they have seen, in the order of their names.
fn models(output: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        output.lines().filter(|line| line.starts_with(MODEL_LINE)).map(str::to_string).collect();
    lines.sort();
    lines
}

/// What a failed test printed.
fn detail(output: &str, name: &str) -> String {
    let head = format!("---- {name} stdout ----");
    let Some((_, rest)) = output.split_once(&head) else { return "no output".into() };
    let own = rest.split("\n---- ").next().unwrap_or(rest);
    let own = own.split("\nfailures:").next().unwrap_or(own);
    own.trim().lines().take(30).collect::<Vec<_>>().join("\n")
}

fn record(suite: &str, name: &str, ok: bool) -> Map<String, Value> {
    fields([
        ("kind", Value::from("test")),
        ("suite", Value::from(suite)),
        ("name", Value::from(name)),
        ("ok", Value::from(ok)),
    ])
}

/// `line` is `model NAME: what it has seen`.
fn model_record(suite: &str, line: &str) -> Map<String, Value> {
    let line = line.strip_prefix(MODEL_LINE).unwrap_or(line);
    let (name, seen) = line.split_once(": ").unwrap_or((line, ""));
    fields([
        ("kind", Value::from("model")),
        ("suite", Value::from(suite)),
        ("name", Value::from(name)),
        ("seen", Value::from(seen)),
    ])
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a::good ... ok
test a::bad ... FAILED
test a::later ... ignored, slow
test src/lib.rs - f (line 3) ... ok

failures:

---- a::bad stdout ----
thread 'a::bad' panicked at src/lib.rs:1:1:
left is not right

failures:
    a::bad

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn results_are_read() {
        let results = parse(OUTPUT);
        let names: Vec<_> = results.iter().map(|(name, ok)| (name.as_str(), *ok)).collect();
        assert_eq!(
            names,
            [("a::good", true), ("a::bad", false), ("src/lib.rs - f (line 3)", true)]
        );
    }

    #[test]
    fn details_are_found() {
        let text = detail(OUTPUT, "a::bad");
        assert!(text.ends_with("left is not right") && text.starts_with("thread"), "{text}");
        assert_eq!(detail(OUTPUT, "a::none"), "no output");
    }

    #[test]
    fn a_command_that_fails_is_seen() {
        let long = Duration::from_secs(60);
        let (ok, output) = capture(Command::new("false"), long).unwrap();
        assert!(!ok && output.is_empty());
        let mut echo = Command::new("sh");
        echo.args(["-c", "echo out; echo err >&2"]);
        assert_eq!(capture(echo, long).unwrap(), (true, "out\nerr\n".to_string()));
    }

    #[test]
    fn the_limit_ends_a_command_and_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 60; echo never"]);
        let started = Instant::now();
        let (ok, output) = capture(command, Duration::from_millis(300)).unwrap();
        assert!(!ok && started.elapsed() < Duration::from_secs(30));
        assert!(output.starts_with("begun") && output.contains("stopped after 0.3 s"), "{output}");
    }

    #[test]
    fn there_are_host_suites() {
        let suites = suites().unwrap();
        assert!(suites.iter().any(|suite| suite.name == "xtask"));
        assert!(suites.iter().any(|suite| suite.name == "miri-kcore"));
        let kind = |name: &str| suites.iter().find(|s| s.name == name).map(|s| s.kind);
        assert_eq!(kind("kcore"), Some(Kind::WithoutModels), "no model runs twice");
        assert_eq!(kind("models-kcore"), Some(Kind::Models));
    }

    #[test]
    fn what_models_have_seen_is_found() {
        let output = "test a::model::x ... ok\nmodel b: 7 states\nmodel a: 9 states\nmodels\n";
        assert_eq!(models(output), ["model a: 9 states", "model b: 7 states"]);
        let record = model_record("kcore", "model mailbox: 7 interleavings");
        assert_eq!(record["name"], "mailbox");
        assert_eq!(record["seen"], "7 interleavings");
    }
}
