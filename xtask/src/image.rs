//! Disk images: kernel and boot archive behind a BIOS or UEFI boot loader.
//!
//! The work is done by the package `xtask/image`, which stands apart because its `bootloader`
//! dependency needs unstable features of the compiler and minutes to build the first time.

use crate::{
    cli::{Firmware, ImageArgs},
    doctor, guest,
    guest::{Profile, Program},
    pack, paths, say,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Kernel and modules together beyond which the BIOS boot stage gets slow, in bytes.
const COMFORTABLE_SIZE: u64 = 8 << 20;

/// `cargo xtask image`.
pub fn command(args: &ImageArgs) -> Result<u8> {
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    let programs = guest::build(profile)?;
    let options = pack::Options {
        manifest: args.manifest.clone(),
        sigma0: args.sigma0.clone(),
        roottask: args.roottask.clone(),
        command_line: Some(args.append.clone()),
    };
    let archive = pack::pack(profile, &programs, &options)?;
    let output = match &args.output {
        Some(path) => path.clone(),
        None => paths::output(profile)?.join(format!("lokal-{}.img", name(args.boot))),
    };
    make(args.boot, guest::kernel(&programs)?, &archive, &output)?;
    println!("{}", paths::show(&output));
    Ok(0)
}

/// Makes an image beside its archive.
pub fn beside(firmware: Firmware, kernel: &Program, archive: &Path) -> Result<PathBuf> {
    let disk = archive.with_extension(format!("{}.img", name(firmware)));
    make(firmware, kernel, archive, &disk)?;
    Ok(disk)
}

/// Makes an image of the kernel and the archive.
pub fn make(firmware: Firmware, kernel: &Program, archive: &Path, output: &Path) -> Result<()> {
    let tool = build_tool()?;
    let size = fs::metadata(&kernel.stripped)?.len() + fs::metadata(archive)?.len();
    if firmware == Firmware::Bios && size > COMFORTABLE_SIZE {
        let mib = size >> 20;
        say::note(&format!("{mib} MiB of kernel and modules: the BIOS boot stage will take long"));
    }
    // Written beside and renamed, so that a run that reads the old image keeps it whole.
    let draft = output.with_extension(format!("{}.tmp", std::process::id()));
    let result = Command::new(tool)
        .arg(name(firmware))
        .args([&kernel.stripped, &archive.to_path_buf(), &draft])
        .stdin(Stdio::null())
        .output()
        .context("cannot run the image maker")?;
    if !result.status.success() {
        let message = String::from_utf8_lossy(&result.stderr);
        bail!("cannot make the image: {}", message.trim().replace('\n', "; "));
    }
    fs::rename(&draft, output).with_context(|| format!("cannot write {}", output.display()))?;
    let size = fs::metadata(output)?.len().div_ceil(1 << 20);
    say::step("Image", &format!("{} ({size} MiB, {})", paths::show(output), name(firmware)));
    Ok(())
}

/// The firmware's name on command lines.
pub fn name(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi => "uefi",
    }
}

/// Builds `xtask/image` and returns its program.
fn build_tool() -> Result<PathBuf> {
    doctor::ensure(&doctor::FOR_IMAGES)?;
    let target = paths::target().join("lokal/image");
    let program = target.join("debug/lokal-image");
    if !program.exists() {
        say::step("Building", "the image maker (2 to 5 minutes, once)");
    }
    let status = guest::cargo("build")
        .args(["--quiet", "--locked"])
        .current_dir(paths::root().join("xtask/image"))
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the image maker does not build; the compiler's messages are above");
    }
    Ok(program)
}
