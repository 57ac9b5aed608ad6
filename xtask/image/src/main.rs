//! Makes a bootable disk image: `lokal-image bios|uefi KERNEL RAMDISK IMAGE`.
//!
//! Called by `cargo xtask image`, which checks the arguments and builds the inputs.
#![forbid(unsafe_code)]

use bootloader::{BootConfig, DiskImageBuilder};
use bootloader_boot_config::LevelFilter;
use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [firmware, kernel, ramdisk, image] = args.as_slice() else {
        eprintln!("usage: lokal-image bios|uefi KERNEL RAMDISK IMAGE");
        return ExitCode::FAILURE;
    };
    let mut builder = DiskImageBuilder::new(PathBuf::from(kernel));
    // The serial console belongs to the kernel; errors of the boot stages still show.
    let mut config = BootConfig::default();
    config.log_level = LevelFilter::Error;
    builder.set_boot_config(&config);
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
