//! Links the application pager at its address.

include!("../libl4/build_link.rs");

fn main() {
    // Only the guest program has a linker script; the library is built for the host, too.
    if std::env::var_os("CARGO_FEATURE_PROGRAM").is_some() {
        link_at("app_pager", 4 << 20);
    }
}
