//! Every path, command and flag that a document names exists.
//!
//! Looked at is what stands in backticks, in fenced blocks, and in links. A word counts as a path if
//! it begins with a directory of the checkout or ends like a source file; a command is what follows
//! `cargo xtask`, and is parsed by the definition that xtask itself uses.

use super::{Finding, tree::Tree};
use crate::{cli::Cli, machines};
use anyhow::Result;
use clap::{CommandFactory, Parser, error::ErrorKind};
use std::collections::BTreeSet;

/// Endings that make a word without a slash a file name.
const ENDINGS: [&str; 4] = [".md", ".rs", ".toml", ".ld"];

/// Names that look like files of the checkout and are none.
const NO_FILES: [&str; 2] = ["boot.toml", "Cargo.lock"];

/// Flags of other programs that the documents may name.
const OTHER_FLAGS: [&str; 2] = ["--cfg", "--target"];

/// Checks `README.md` and everything below `docs/`.
pub fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let flags = known_flags();
    let mut findings = Vec::new();
    for (path, text) in tree.with_ending(&["md"]) {
        if path != "README.md" && !path.starts_with("docs/") {
            continue;
        }
        for (line, code) in code_spans(text) {
            for message in check_code(&code, path, tree, &flags) {
                findings.push(Finding::at(path, line, message));
            }
        }
        for (line, target) in links(text) {
            if !target.contains("://") && !target.starts_with('#') {
                let file = target.split('#').next().unwrap_or(&target);
                if !exists(tree, path, file) {
                    findings.push(Finding::at(
                        path,
                        line,
                        format!("link to '{target}' leads nowhere"),
                    ));
                }
            }
        }
    }
    Ok(findings)
}

/// What is wrong with a piece of code in a document.
fn check_code(code: &str, document: &str, tree: &Tree, flags: &BTreeSet<String>) -> Vec<String> {
    let code = code.trim().trim_start_matches("$ ");
    if let Some(rest) = code.strip_prefix("cargo xtask") {
        return check_command(rest.split('#').next().unwrap_or(rest)).into_iter().collect();
    }
    let mut wrong = Vec::new();
    for word in code.split_whitespace() {
        let word = word.trim_matches(|c: char| ",;:()'\"".contains(c));
        let flag = word.split('=').next().unwrap_or(word);
        // A flag alone in backticks is one of xtask's; other programs' flags stand behind their name.
        if code.starts_with("--") && flag.starts_with("--") {
            if !flags.contains(flag) && !OTHER_FLAGS.contains(&flag) {
                wrong.push(format!("no command of xtask has the flag {flag}"));
            }
        } else if looks_like_path(word, tree) && !exists(tree, document, word) {
            wrong.push(format!("'{word}' does not exist"));
        }
    }
    wrong
}

/// Parses what follows `cargo xtask`. Words in capitals and in brackets stand for something else.
fn check_command(rest: &str) -> Option<String> {
    let rest = rest.split(" && ").next().unwrap_or(rest).split(" | ").next().unwrap_or(rest);
    if rest.contains(['[', '<', '…']) || rest.contains("...") {
        return None; // a synopsis, not a command
    }
    let words = shell_words(rest);
    if words.is_empty() {
        return None;
    }
    match Cli::try_parse_from(std::iter::once("cargo xtask".to_string()).chain(words.clone())) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp) => {}
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or("wrong").trim_start_matches("error: ");
            return Some(format!("`cargo xtask{rest}`: {line}"));
        }
    }
    let machine = words.iter().zip(words.iter().skip(1)).find(|(word, _)| *word == "--machine");
    let unknown =
        machine.filter(|(_, name)| !is_placeholder(name) && !machines::known().contains(name));
    unknown.map(|(_, name)| format!("no machine named '{name}'"))
}

fn is_placeholder(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_uppercase() || c == '_') || word == "nonsense"
}

/// Words of a command line, with double and single quotes taken off.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn looks_like_path(word: &str, tree: &Tree) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if word.is_empty() || !word.chars().all(plain) || NO_FILES.contains(&word) {
        return false;
    }
    if let Some((first, _)) = word.split_once('/') {
        let inside = format!("{first}/");
        return !first.is_empty() && tree.files.keys().any(|path| path.starts_with(&inside));
    }
    ENDINGS.iter().any(|ending| word.ends_with(ending) && word.len() > ending.len())
}

/// Whether a file or directory exists: from the top, beside the document, or, for a bare file name,
/// anywhere.
fn exists(tree: &Tree, document: &str, word: &str) -> bool {
    let word = word.trim_end_matches('/').trim_start_matches("./");
    let beside = document.rsplit_once('/').map_or("", |(directory, _)| directory);
    let candidates = [word.to_string(), normal(&format!("{beside}/{word}"))];
    let within = |path: &str, name: &str| {
        path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
    };
    tree.files.keys().any(|path| {
        candidates.iter().any(|name| !name.is_empty() && within(path, name))
            || (!word.contains('/') && path.rsplit('/').next() == Some(word))
    })
}

/// `a/b/../c` to `a/c`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// All long flags of all subcommands.
fn known_flags() -> BTreeSet<String> {
    let command = Cli::command();
    let subcommands = command.get_subcommands();
    let long = subcommands.flat_map(|sub| sub.get_arguments()).filter_map(|arg| arg.get_long());
    long.chain(["help"]).map(|name| format!("--{name}")).collect()
}

/// Code in backticks and lines of fenced blocks, with line numbers.
fn code_spans(text: &str) -> Vec<(usize, String)> {
    let mut spans = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            spans.push((number, line.to_string()));
        } else {
            spans.extend(line.split('`').skip(1).step_by(2).map(|code| (number, code.to_string())));
        }
    }
    spans
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                out.push((number, target.to_string()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let tree = Tree::of(&[("README.md", text), ("xtask/src/main.rs", ""), ("docs/a.md", "")]);
        check(&tree).unwrap().into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn what_exists_passes() {
        let text = "See `xtask/src/main.rs`, `xtask/`, `a.md`, `main.rs`, [this](docs/a.md#top), `target/x`,\n\
            `cargo xtask run --machine 2n4c --append \"exit=boot x\"`, `--json`, `gdb --args`, `boot.toml`.\n\
            ```\n$ cargo xtask test host   # quick\ncargo xtask run [--nodes N]\n```\n";
        assert_eq!(findings(text), [""; 0]);
    }

    #[test]
    fn what_does_not_exist_is_found() {
        for text in [
            "`xtask/src/gone.rs`",
            "`gone.md`",
            "`--gone`",
            "`cargo xtask gone`",
            "`cargo xtask run --gone`",
            "`cargo xtask run --machine 9n9c`",
            "[x](docs/gone.md)",
            "```\n$ cargo xtask test --gone\n```",
        ] {
            assert_eq!(findings(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn words_are_taken_apart_like_in_a_shell() {
        assert_eq!(
            shell_words(" run  --append \"a b\" 'c d' ''"),
            ["run", "--append", "a b", "c d", ""]
        );
    }
}
