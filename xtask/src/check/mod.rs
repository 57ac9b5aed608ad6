//! `cargo xtask check`: the house rules, enforced.

mod docs;
mod lints;
mod source;
mod tree;

use crate::{doctor, say};
use anyhow::Result;
use tree::Tree;

/// Something that breaks a rule; printed as one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File relative to the checkout; may be empty.
    pub path: String,
    /// Line, from 1; 0 where it is about the whole file.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl Finding {
    /// A finding about a line.
    pub fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.into(), line, message: message.into() }
    }

    /// A finding about a whole file.
    pub fn in_file(path: &str, message: impl Into<String>) -> Self {
        Self::at(path, 0, message)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.path.as_str(), self.line) {
            ("", _) => write!(f, "{}", self.message),
            (path, 0) => write!(f, "{path}: {}", self.message),
            (path, line) => write!(f, "{path}:{line}: {}", self.message),
        }
    }
}

/// One check: its name and what finds offences.
type Check = (&'static str, fn(&Tree) -> Result<Vec<Finding>>);

/// Quick ones first.
const CHECKS: [Check; 8] = [
    ("formatting", |_| lints::format()),
    ("file sizes", source::sizes),
    ("words that must not be", source::words),
    ("assembly, ports and registers in their place", source::hardware),
    ("unsafe code in its place", source::unsafe_code),
    ("what the documents name", docs::check),
    ("clippy on the host", |_| lints::host()),
    ("clippy in the guest", |_| lints::guest()),
];

/// `cargo xtask check`.
pub fn command() -> Result<u8> {
    doctor::ensure(&doctor::FOR_CHECKS)?;
    let tree = Tree::read()?;
    let mut total = 0;
    for (name, check) in CHECKS {
        let mut findings = check(&tree)?;
        findings.sort();
        findings.dedup();
        let state = match findings.len() {
            0 => "ok".to_string(),
            n => say::paint("1;31", &format!("{n} found")),
        };
        println!("{name:<46} {state}");
        for finding in &findings {
            println!("    {finding}");
        }
        total += findings.len();
    }
    if total > 0 {
        say::error(&format!("{total} offences against the house rules"));
    }
    Ok(u8::from(total > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_single_lines() {
        assert_eq!(Finding::at("a.rs", 3, "bad").to_string(), "a.rs:3: bad");
        assert_eq!(Finding::in_file("a.rs", "bad").to_string(), "a.rs: bad");
        assert_eq!(Finding::in_file("", "bad").to_string(), "bad");
    }
}
