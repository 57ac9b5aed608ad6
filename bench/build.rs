//! Links every guest program of the package at its address.

include!("../libl4/build_link.rs");

/// Programs that run in the root task's position.
const ROOT_BASE: u64 = 36 << 20;

fn main() {
    for bin in [
        "hello",
        "conf_ipc",
        "conf_strings",
        "conf_threads",
        "conf_spaces",
        "conf_exregs",
        "conf_mapping",
        "conf_faults",
        "conf_sched",
        "conf_sigma0",
        "conf_hostile",
    ] {
        link_at(bin, ROOT_BASE);
    }
}
