//! Links the balancer as a program that the root task starts.

include!("../../libl4/build_link.rs");

fn main() {
    // Only the guest program has a linker script; the library is built for the host, too.
    if std::env::var_os("CARGO_FEATURE_PROGRAM").is_some() {
        link_at("balancer", 4 << 20);
    }
}
