//! Links sigma0 at its address.

include!("../libl4/build_link.rs");

fn main() {
    link_at("sigma0", 32 << 20);
}
