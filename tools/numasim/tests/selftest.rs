//! The whole instrument with the real emulator: `cargo xtask sim selftest` has to pass.

use std::process::Command;

#[test]
fn the_instrument_counts_what_its_guest_does() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--package", "xtask", "--", "sim", "selftest"])
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{messages}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.ends_with("passed, 0 failed") && !last.starts_with("0 "), "{text}\n{messages}");
}
