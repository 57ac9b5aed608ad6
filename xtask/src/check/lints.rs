//! rustfmt and clippy, with one line for each finding.

use super::Finding;
use crate::{guest, paths, workspace::Workspace};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::process::{Command, Stdio};

/// Packages outside of the workspace.
const APART: [&str; 1] = ["xtask/image"];

/// Files that `cargo fmt` would change.
pub fn format() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for directory in std::iter::once("").chain(APART) {
        let output = guest::cargo("fmt")
            .args(["--all", "--check", "--", "--files-with-diff"])
            .current_dir(paths::root().join(directory))
            .output()
            .context("cannot run cargo fmt")?;
        let root = paths::root();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let file = line.strip_prefix(&*root.to_string_lossy()).unwrap_or(line);
            let file = file.trim_start_matches('/');
            findings.push(Finding::in_file(file, "not formatted; type: cargo fmt --all"));
        }
        if !output.status.success() && findings.is_empty() {
            let message = String::from_utf8_lossy(&output.stderr);
            findings.push(Finding::in_file("", format!("cargo fmt: {}", first_line(&message))));
        }
    }
    Ok(findings)
}

/// Clippy on everything that builds for the host.
pub fn host() -> Result<Vec<Finding>> {
    let mut command = guest::cargo("clippy");
    command.arg("--all-targets");
    let mut findings = clippy(command)?;
    // Libraries of guest packages, for the sake of their tests.
    let mut command = guest::cargo("clippy");
    for package in Workspace::read()?.tested_libraries() {
        command.args(["--package", &package.name]);
    }
    command.args(["--lib", "--tests"]);
    findings.extend(clippy(command)?);
    Ok(findings)
}

/// Clippy on the guest packages, and once more on the kernel with what measured kernels do not have.
pub fn guest() -> Result<Vec<Finding>> {
    let mut command = guest::cargo("clippy");
    command.args(["--target", guest::TARGET]);
    guest::select_packages(&mut command)?;
    let mut findings = clippy(command)?;
    let mut command = guest::cargo("clippy");
    command.args(["--target", guest::TARGET, "--package", "kernel", "--all-features"]);
    findings.extend(clippy(command)?);
    Ok(findings)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    message: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Diagnostic {
    message: String,
    level: String,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    line_start: usize,
    is_primary: bool,
}

fn clippy(mut command: Command) -> Result<Vec<Finding>> {
    let output = command
        .args(["--message-format", "json", "--quiet"])
        .stderr(Stdio::piped())
        .output()
        .context("cannot run cargo clippy")?;
    let mut findings = parse(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() && findings.is_empty() {
        let message = String::from_utf8_lossy(&output.stderr);
        findings.push(Finding::in_file("", format!("cargo clippy: {}", first_line(&message))));
    }
    Ok(findings)
}

fn parse(output: &str) -> Vec<Finding> {
    output
        .lines()
        .filter_map(|line| {
            let message: Message = serde_json::from_str(line).ok()?;
            let diagnostic = message.message.filter(|_| message.reason == "compiler-message")?;
            if !matches!(diagnostic.level.as_str(), "warning" | "error") {
                return None;
            }
            let text = first_line(&diagnostic.message).to_string();
            match diagnostic.spans.iter().find(|span| span.is_primary) {
                Some(span) => Some(Finding::at(&span.file_name, span.line_start, text)),
                // "2 warnings emitted", "aborting due to ...": said already.
                None if text.contains(" emitted") || text.contains("aborting due") => None,
                None => Some(Finding::in_file("", text)),
            }
        })
        .collect()
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("failed without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_become_lines() {
        let output = r#"{"reason":"compiler-artifact"}
{"reason":"compiler-message","message":{"message":"unused\nmore","level":"warning","spans":[{"file_name":"a.rs","line_start":4,"is_primary":true}]}}
{"reason":"compiler-message","message":{"message":"1 warning emitted","level":"warning","spans":[]}}
{"reason":"compiler-message","message":{"message":"see","level":"note","spans":[]}}
not json"#;
        assert_eq!(parse(output), [Finding::at("a.rs", 4, "unused")]);
    }
}
