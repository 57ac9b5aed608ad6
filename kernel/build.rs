//! Links the kernel with its own memory layout.

fn main() {
    let script = std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("kernel.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    // A host build of the package (documentation, `cargo check` by an editor) has no use for it.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
        println!("cargo::rustc-link-arg-bins=--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
