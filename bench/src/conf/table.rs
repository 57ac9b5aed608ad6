//! The table of tests in `docs/conformance.md` is what the code says.
//!
//! `UPDATE=1 cargo test -p bench --lib` rewrites the table.

use super::AREAS;
use crate::harness::Places;
use std::fmt::Write;

const BEGIN: &str = "<!-- tests: begin -->";
const END: &str = "<!-- tests: end -->";

fn table() -> String {
    let mut text = String::new();
    for (area, groups) in AREAS {
        let tests: Vec<_> = groups.iter().copied().flatten().collect();
        let _ = writeln!(text, "\n### {area}: {} tests\n\n| test | places | shows |", tests.len());
        text.push_str("| --- | --- | --- |\n");
        for test in tests {
            let places = match test.places {
                Places::Once => "once",
                Places::All => "all",
                Places::OtherSpace => "other space",
                Places::OtherCpu => "other CPU",
                Places::ThirdCpu => "three CPUs",
            };
            let _ = writeln!(text, "| `{}` | {places} | {} |", test.name, test.what);
        }
    }
    text
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = AREAS
        .iter()
        .flat_map(|(_, groups)| groups.iter().copied().flatten())
        .map(|t| t.name)
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn documented_table_is_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");
    let text = std::fs::read_to_string(path).expect("docs/conformance.md");
    let (head, rest) = text.split_once(BEGIN).expect("begin mark");
    let (_, tail) = rest.split_once(END).expect("end mark");
    let total: usize =
        AREAS.iter().flat_map(|(_, groups)| groups.iter()).map(|group| group.len()).sum();
    let new = format!("{head}{BEGIN}\n{total} tests.\n{}\n{END}{tail}", table());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &new).expect("writable");
    } else {
        assert!(text == new, "docs/conformance.md is stale: UPDATE=1 cargo test -p bench --lib");
    }
}

#[test]
fn documented_server_is_the_code() {
    let code = include_str!("../counter.rs").split_once("\n\n").expect("a head").1;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/writing-a-server.md");
    let text = std::fs::read_to_string(path).expect("docs/writing-a-server.md");
    assert!(
        text.contains(code.trim()),
        "docs/writing-a-server.md does not show bench/src/counter.rs"
    );
}
