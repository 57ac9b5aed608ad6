// Shared by the build scripts of user programs (`include!`): writes the linker script for one link
// address and passes it to the linker for one binary of the package.

/// Links binary `bin` of the package at `base`.
fn link_at(bin: &str, base: u64) {
    let root = std::path::PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let template = root
        .ancestors()
        .map(|above| above.join("libl4/link.ld.in"))
        .find(|path| path.exists())
        .expect("the template is in the checkout");
    println!("cargo:rerun-if-changed={}", template.display());
    let text = std::fs::read_to_string(&template).expect("the template exists");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").expect("set by cargo"));
    let script = out.join(format!("{bin}.ld"));
    std::fs::write(&script, text.replace("@BASE@", &format!("{base:#x}"))).expect("writable");
    println!("cargo:rustc-link-arg-bin={bin}=-T{}", script.display());
}
