//! Links the root task at its address.

include!("../libl4/build_link.rs");

fn main() {
    link_at("roottask", 36 << 20);
}
