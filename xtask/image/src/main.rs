//! Makes a bootable disk image: `lokal-image bios|uefi KERNEL RAMDISK IMAGE`.
//!
//! Called by `cargo xtask image`, which checks the arguments and builds the inputs.
#![forbid(unsafe_code)]

use bootloader::DiskImageBuilder;
use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [firmware, kernel, ramdisk, image] = args.as_slice() else {
        eprintln!("usage: lokal-image bios|uefi KERNEL RAMDISK IMAGE");
        return ExitCode::FAILURE;
    };
    let mut builder = DiskImageBuilder::new(PathBuf::from(kernel));
    builder.set_ramdisk(PathBuf::from(ramdisk));
    let result = match firmware.as_str() {
        "bios" => builder.create_bios_image(image.as_ref()),
        "uefi" => builder.create_uefi_image(image.as_ref()),
        other => {
            eprintln!("'{other}' is neither bios nor uefi");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
