//! Links every guest program of the package at its address.

include!("../libl4/build_link.rs");

/// Programs that run in the root task's position.
const ROOT_BASE: u64 = 36 << 20;

/// Programs that the root task starts from a manifest.
const PROGRAM_BASE: u64 = 4 << 20;
const PROGRAMS: [&str; 10] =
    ["greet", "arraywalk", "numademo", "unmap", "busy", "racer", "spill", "liar", "crew", "applib"];

fn main() {
    println!("cargo::rerun-if-changed=src/bin");
    for entry in std::fs::read_dir("src/bin").into_iter().flatten().flatten() {
        if let Some(bin) = entry.path().file_stem().and_then(|stem| stem.to_str()) {
            let base = if PROGRAMS.contains(&bin) { PROGRAM_BASE } else { ROOT_BASE };
            link_at(bin, base);
        }
    }
}
