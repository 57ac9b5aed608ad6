//! The emulator's command line.

use crate::machines::Machine;
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The emulator program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What the emulator boots.
#[derive(Clone, Debug)]
pub enum Media {
    /// Kernel ELF and archive, handed over by the emulator itself (PVH).
    Direct {
        /// The kernel.
        kernel: PathBuf,
        /// The boot archive.
        archive: PathBuf,
        /// The kernel command line.
        append: String,
    },
    /// A disk image with a BIOS boot sector.
    Bios(PathBuf),
    /// A disk image for UEFI, and the firmware file.
    Uefi(PathBuf, PathBuf),
}

/// Where the guest's console goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// The user's terminal, with the emulator's own keys (`Ctrl-A x`).
    Terminal,
    /// Output only.
    Pipe,
    /// Output for us, input from whoever runs the command: a pipe or a file.
    Scripted,
}

/// Everything the command line depends on.
pub struct Launch<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What to boot.
    pub media: &'a Media,
    /// Where the console goes.
    pub console: Console,
    /// Wait for a debugger on port 1234 before the first instruction.
    pub gdb: bool,
    /// Arguments added at the end as they are.
    pub extra: &'a [String],
}

/// Arguments for [`PROGRAM`].
pub fn arguments(launch: &Launch<'_>) -> Vec<String> {
    let mut args: Vec<String> = ["-M", "q35", "-accel", "tcg", "-cpu", "max", "-display", "none"]
        .into_iter()
        .chain(["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial"])
        .map(String::from)
        .collect();
    match launch.console {
        Console::Terminal => args.push("mon:stdio".into()),
        Console::Pipe | Console::Scripted => {
            args.extend(["stdio".into(), "-monitor".into(), "none".into()])
        }
    }
    args.extend(machine_arguments(launch.machine));
    match launch.media {
        Media::Direct { kernel, archive, append } => {
            args.extend(["-kernel".into(), kernel.display().to_string()]);
            args.extend(["-initrd".into(), archive.display().to_string()]);
            args.extend(["-append".into(), append.clone()]);
        }
        Media::Bios(image) => args.extend(disk(image)),
        Media::Uefi(image, firmware) => {
            args.extend(["-bios".into(), firmware.display().to_string()]);
            args.extend(disk(image));
        }
    }
    if launch.gdb {
        args.extend(["-s".into(), "-S".into()]);
    }
    args.extend(launch.extra.iter().cloned());
    args
}

/// The image is opened as a snapshot: firmware may write to it, and runs may share it.
fn disk(image: &Path) -> [String; 2] {
    ["-drive".into(), format!("format=raw,snapshot=on,file={}", image.display())]
}

/// CPU sockets: as the machine says, or one for each node with CPUs, or one for each CPU.
pub fn sockets(machine: &Machine) -> u32 {
    machine.sockets.unwrap_or_else(|| {
        let cpus = machine.cpu_count();
        let with_cpus = machine.nodes.iter().filter(|node| !node.cpus.is_empty()).count() as u32;
        if cpus.is_multiple_of(with_cpus) { with_cpus } else { cpus }
    })
}

/// Memory, CPUs, nodes and distances.
pub fn machine_arguments(machine: &Machine) -> Vec<String> {
    let cpus = machine.cpu_count();
    let sockets = sockets(machine);
    let cores = cpus / sockets;
    let mut args = vec![
        "-m".to_string(),
        format!("{}M", machine.memory_mib()),
        "-smp".into(),
        format!("{cpus},sockets={sockets},cores={cores},threads=1"),
    ];
    if !machine.numa {
        if machine.memory_files.is_some() {
            let memory = machine.memory_mib();
            args.extend(["-object".into(), backend(machine, 0, memory)]);
            args.extend(["-machine".into(), "memory-backend=m0".into()]);
        }
        return args;
    }
    for (id, node) in machine.nodes.iter().enumerate() {
        let mut numa = format!("node,nodeid={id}");
        if node.memory_mib > 0 {
            args.extend(["-object".into(), backend(machine, id, node.memory_mib)]);
            numa += &format!(",memdev=m{id}");
        }
        for (first, last) in ranges(&node.cpus) {
            numa += &if first == last {
                format!(",cpus={first}")
            } else {
                format!(",cpus={first}-{last}")
            };
        }
        args.extend(["-numa".into(), numa]);
    }
    for (src, row) in machine.distances.iter().enumerate() {
        for (dst, val) in row.iter().enumerate().filter(|(dst, _)| *dst != src) {
            args.extend(["-numa".into(), format!("dist,src={src},dst={dst},val={val}")]);
        }
    }
    args
}

/// What holds a node's memory.
fn backend(machine: &Machine, id: usize, mib: u64) -> String {
    match &machine.memory_files {
        None => format!("memory-backend-ram,id=m{id},size={mib}M"),
        Some(directory) => format!(
            "memory-backend-file,id=m{id},size={mib}M,share=on,mem-path={}/m{id}",
            directory.display()
        ),
    }
}

/// Runs of consecutive numbers.
fn ranges(numbers: &[u32]) -> Vec<(u32, u32)> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::new();
    for number in sorted {
        match out.last_mut() {
            Some(last) if last.1 + 1 == number => last.1 = number,
            _ => out.push((number, number)),
        }
    }
    out
}

/// A command line that a shell takes apart again into the same words.
pub fn shell_line(program: &str, args: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+@%".contains(c);
    let mut line = program.to_string();
    for arg in args {
        line.push(' ');
        if !arg.is_empty() && arg.chars().all(plain) {
            line.push_str(arg);
        } else {
            line.push_str(&format!("'{}'", arg.replace('\'', r"'\''")));
        }
    }
    line
}

/// `qemu 7.2.22`, asked for once.
pub fn version() -> Result<String> {
    static VERSION: OnceLock<Option<String>> = OnceLock::new();
    let ask = || {
        let output = Command::new(PROGRAM).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let word = text.split("version ").nth(1)?.split_whitespace().next()?.to_string();
        Some(format!("qemu {word}"))
    };
    VERSION.get_or_init(ask).clone().with_context(|| format!("{PROGRAM} does not tell its version"))
}

/// The UEFI firmware file of the host's `ovmf` package.
pub fn firmware() -> Result<PathBuf> {
    const PLACES: [&str; 5] = [
        "/usr/share/ovmf/OVMF.fd",
        "/usr/share/OVMF/OVMF.fd",
        "/usr/share/edk2/x64/OVMF.4m.fd",
        "/usr/share/edk2/ovmf/OVMF.fd",
        "/usr/share/qemu/OVMF.fd",
    ];
    match PLACES.iter().map(Path::new).find(|path| path.exists()) {
        Some(path) => Ok(path.to_path_buf()),
        None => {
            bail!("no UEFI firmware on this host; install it with `cargo xtask doctor --install`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_line(name: &str) -> String {
        machine_arguments(&Machine::load(name).unwrap()).join(" ")
    }

    #[test]
    fn the_default_machine() {
        assert_eq!(
            machine_line("2n4c"),
            "-m 512M -smp 4,sockets=2,cores=2,threads=1 \
             -object memory-backend-ram,id=m0,size=256M -numa node,nodeid=0,memdev=m0,cpus=0-1 \
             -object memory-backend-ram,id=m1,size=256M -numa node,nodeid=1,memdev=m1,cpus=2-3 \
             -numa dist,src=0,dst=1,val=20 -numa dist,src=1,dst=0,val=20"
        );
    }

    #[test]
    fn odd_machines() {
        assert_eq!(machine_line("odd-nonuma"), "-m 512M -smp 2,sockets=1,cores=2,threads=1");
        assert!(machine_line("odd-memless").contains("-numa node,nodeid=1,cpus=2-3"));
        assert!(machine_line("odd-cpuless").contains("-numa node,nodeid=2,memdev=m2 "));
        assert!(machine_line("odd-shuffle").contains("memdev=m0,cpus=1-2,cpus=5"));
        assert!(machine_line("odd-3n5c").contains("-smp 5,sockets=5,cores=1"));
        assert!(machine_line("odd-unequal").contains("-smp 9,sockets=3,cores=3"));
    }

    #[test]
    fn shell_lines_are_quoted() {
        let args = ["-append".to_string(), "exit=boot a'b".into(), String::new()];
        assert_eq!(shell_line("q", &args), r"q -append 'exit=boot a'\''b' ''");
    }
}
