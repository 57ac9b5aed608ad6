//! Records that the guest prints: lines of the form `@json {...}`.

use serde_json::{Map, Value};
use std::process::Command;

/// What every record of a run gets added.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Revision of the checkout, with `-dirty` if it has changes.
    pub git: String,
    /// `release` or `debug`.
    pub profile: String,
    /// Name of the machine.
    pub machine: String,
    /// What executes the guest's instructions.
    pub accel: String,
    /// Emulator and version.
    pub emulator: String,
}

impl Conditions {
    /// `record` with the conditions added behind its own fields.
    pub fn add_to(&self, mut record: Map<String, Value>) -> Map<String, Value> {
        let fields = [
            ("git", &self.git),
            ("profile", &self.profile),
            ("machine", &self.machine),
            ("accel", &self.accel),
            ("emulator", &self.emulator),
        ];
        for (name, value) in fields {
            record.insert(name.into(), Value::String(value.clone()));
        }
        record
    }
}

/// A line of the guest: nothing special, a record, or something that should have been a record.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// Ordinary output.
    Text,
    /// A record.
    Record(Map<String, Value>),
    /// Begins like a record and is none; the reason.
    Broken(String),
}

/// Takes a console line apart.
pub fn parse(line: &str) -> Line {
    let Some(json) = line.trim_end().strip_prefix("@json ") else { return Line::Text };
    match serde_json::from_str(json) {
        Ok(Value::Object(record)) => match record.get("kind") {
            Some(Value::String(_)) => Line::Record(record),
            _ => Line::Broken("it has no kind".into()),
        },
        Ok(_) => Line::Broken("it is no object".into()),
        Err(error) => Line::Broken(error.to_string()),
    }
}

/// The `kind` of a record.
pub fn kind(record: &Map<String, Value>) -> &str {
    record.get("kind").and_then(Value::as_str).unwrap_or("")
}

/// Revision of the checkout; `unknown` outside of git.
pub fn git_revision() -> String {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").args(args).current_dir(crate::paths::root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => format!("{revision}-dirty"),
        _ => revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(parse("hello"), Line::Text);
        assert_eq!(parse("say @json {}"), Line::Text);
        assert!(
            matches!(parse("@json {\"kind\":\"boot\"}\r"), Line::Record(r) if kind(&r) == "boot")
        );
        assert!(matches!(parse("@json {\"kind\":"), Line::Broken(_)));
        assert!(matches!(parse("@json {}"), Line::Broken(_)));
        assert!(matches!(parse("@json 7"), Line::Broken(_)));
    }

    #[test]
    fn conditions_are_added() {
        let conditions = Conditions {
            git: "abc".into(),
            profile: "release".into(),
            machine: "2n4c".into(),
            accel: "tcg".into(),
            emulator: "qemu 7".into(),
        };
        let Line::Record(record) = parse("@json {\"kind\":\"boot\",\"n\":1}") else { panic!() };
        let text = serde_json::to_string(&conditions.add_to(record)).unwrap();
        assert_eq!(
            text,
            "{\"kind\":\"boot\",\"n\":1,\"git\":\"abc\",\"profile\":\"release\",\"machine\":\"2n4c\",\
             \"accel\":\"tcg\",\"emulator\":\"qemu 7\"}"
        );
    }
}
