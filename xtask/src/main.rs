//! Placeholder head; see docs/design.
fn main() {}
