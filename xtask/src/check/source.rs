//! Rules about source text.

use super::{Finding, tree::Tree};
use anyhow::Result;

/// Lines that a source file may have.
const LONGEST_FILE: usize = 500;

/// Endings of files that people write and read as source.
const SOURCE: [&str; 7] = ["rs", "S", "s", "ld", "sh", "py", "toml"];

/// Words that end no change that is called done. Written in halves, so that this file passes.
const FORBIDDEN: [(&str, &str); 5] = [
    (concat!("to", "do!("), "no stub is called done"),
    (concat!("unimple", "mented!("), "no stub is called done"),
    (concat!("#[ign", "ore"), "no test is switched off"),
    (concat!("#[all", "ow("), "use expect(lint, reason = \"...\") on the item"),
    (concat!("#![all", "ow("), "use expect(lint, reason = \"...\") on the item"),
];

/// Files in which lints may be silenced for good, with the reason.
const MAY_SILENCE: [(&str, &str); 1] =
    [("libl4/src/rpc.rs", "a macro cannot know whether the code it makes is used")];

/// Ways to reach hardware that only some directories may use.
const HARDWARE: [&str; 12] = [
    concat!("as", "m!("),
    concat!("rd", "msr("),
    concat!("wr", "msr("),
    "Msr::new(",
    "Port::new(",
    "PortReadOnly::new(",
    "PortWriteOnly::new(",
    "instructions::port",
    "registers::control",
    "registers::model_specific",
    "Cr3::write(",
    "core::arch::x86_64",
];

/// Where hardware may be reached.
const HARDWARE_HOMES: [&str; 3] = ["kernel/src/arch/x86_64/", "libl4/src/arch/", "tools/"];

/// Packages that may contain unsafe code, with the reason. All others forbid it.
const MAY_BE_UNSAFE: [(&str, &str); 8] = [
    ("kernel/src/", "owns the machine"),
    ("libl4/src/", "system calls, start-up, heap"),
    ("sigma0/src/main.rs", "starts without a runtime"),
    ("roottask/src/main.rs", "starts without a runtime"),
    ("servers/balancer/src/main.rs", "starts without a runtime"),
    ("app_pager/src/main.rs", "finds the data it shares with the other pagers by address"),
    ("bench/", "measures and attacks the system from below"),
    ("tools/", "plugins for the emulator's C interface"),
];

/// No file is longer than it can be understood.
pub fn sizes(tree: &Tree) -> Result<Vec<Finding>> {
    Ok(tree
        .with_ending(&SOURCE)
        .filter_map(|(path, text)| {
            let lines = text.lines().count();
            (lines > LONGEST_FILE)
                .then(|| Finding::in_file(path, format!("{lines} lines, at most {LONGEST_FILE}")))
        })
        .collect())
}

/// Nothing unfinished, switched off, or silenced.
pub fn words(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_ending(&["rs"]) {
        for (number, line) in code_lines(text) {
            for (word, reason) in FORBIDDEN {
                let silenced =
                    word.contains("allow") && MAY_SILENCE.iter().any(|(file, _)| *file == path);
                if line.contains(word) && !silenced {
                    findings.push(Finding::at(path, number, format!("{word}: {reason}")));
                }
            }
        }
    }
    Ok(findings)
}

/// Assembly, ports, model-specific and control registers only where they belong.
pub fn hardware(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_ending(&["rs"]) {
        if HARDWARE_HOMES.iter().any(|home| path.starts_with(home)) || path.starts_with("xtask/") {
            continue;
        }
        for (number, line) in code_lines(text) {
            if let Some(word) = HARDWARE.iter().find(|word| line.contains(*word)) {
                let homes = HARDWARE_HOMES.join(", ");
                findings.push(Finding::at(path, number, format!("'{word}' belongs into {homes}")));
            }
        }
    }
    Ok(findings)
}

/// Every crate root forbids unsafe code, but those that may have it.
pub fn unsafe_code(tree: &Tree) -> Result<Vec<Finding>> {
    let is_root = |path: &str| {
        ["/src/lib.rs", "/src/main.rs"].iter().any(|end| path.ends_with(end))
            || path.contains("/src/bin/")
    };
    let may = |path: &str| MAY_BE_UNSAFE.iter().any(|(home, _)| path.starts_with(home));
    Ok(tree
        .with_ending(&["rs"])
        .filter(|(path, text)| {
            is_root(path) && !may(path) && !text.contains("#![forbid(unsafe_code)]")
        })
        .map(|(path, _)| Finding::in_file(path, "#![forbid(unsafe_code)] is missing"))
        .collect())
}

/// Lines of code with their numbers; comment lines are left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_found() {
        let long = "x\n".repeat(501);
        let fits = "x\n".repeat(500);
        let tree = Tree::of(&[("a.rs", &long), ("b.rs", &fits), ("c.md", &long)]);
        let findings = sizes(&tree).unwrap();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "a.rs");
    }

    #[test]
    fn unfinished_code_is_found_but_not_in_comments() {
        let text = format!("// {}x)\nfn f() {{ {}) }}\n", FORBIDDEN[0].0, FORBIDDEN[0].0);
        let findings = words(&Tree::of(&[("a.rs", &text)])).unwrap();
        assert_eq!((findings.len(), findings[0].line), (1, 2));
        for (word, _) in FORBIDDEN {
            let found = |path: &str| words(&Tree::of(&[(path, word)])).unwrap().len();
            assert_eq!(found("a.rs"), 1);
            assert_eq!(found("libl4/src/rpc.rs"), usize::from(!word.contains("low")));
        }
    }

    #[test]
    fn hardware_has_a_home() {
        let text = format!("{}\"hlt\")", HARDWARE[0]);
        let at = |path: &str| hardware(&Tree::of(&[(path, &text)])).unwrap().len();
        assert_eq!(at("kernel/src/arch/x86_64/cpu.rs"), 0);
        assert_eq!(at("libl4/src/arch/calls.rs"), 0);
        assert_eq!(at("kernel/src/ipc.rs"), 1);
        assert_eq!(at("libl4/src/ipc.rs"), 1);
        assert_eq!(at("sigma0/src/main.rs"), 1);
    }

    #[test]
    fn crate_roots_forbid_unsafe_code() {
        let at = |path: &str, text: &str| unsafe_code(&Tree::of(&[(path, text)])).unwrap().len();
        assert_eq!(at("libl4/abi/src/lib.rs", ""), 1);
        assert_eq!(at("libl4/abi/src/lib.rs", "#![forbid(unsafe_code)]"), 0);
        assert_eq!(at("libl4/src/lib.rs", ""), 0);
        assert_eq!(at("kernel/core/src/lib.rs", ""), 1);
        assert_eq!(at("kernel/core/src/pool.rs", ""), 0);
    }
}
