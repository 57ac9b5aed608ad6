//! `cargo xtask run`, and the one way in which every other command runs a guest.

use crate::{
    cli::{Boot, Firmware, RunArgs},
    console::{Follower, Seen},
    doctor,
    emulator::{self, End},
    guest::{self, Profile},
    image,
    machines::{self, Machine},
    pack, paths,
    qemu::{self, Console, Launch, Media},
    records::{self, Conditions},
    say,
    script::Script,
    symbols::Symbols,
    trace,
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::{IsTerminal, stdin},
    path::PathBuf,
    time::Duration,
};

/// Time limit of a run that nobody watches and that sets no other, in seconds.
const DEFAULT_LIMIT: f64 = 120.0;

/// A guest ready to run.
pub struct Guest<'a> {
    /// Names the log: letters, digits, `-`, `_`, `.`.
    pub label: &'a str,
    /// The machine.
    pub machine: &'a Machine,
    /// What to boot.
    pub media: &'a Media,
    /// The kernel with its symbols.
    pub kernel: &'a std::path::Path,
    /// The build, for the records.
    pub profile: Profile,
    /// Where the console goes.
    pub console: Console,
    /// Whether the console is shown.
    pub echo: bool,
    /// Wait for a debugger.
    pub gdb: bool,
    /// Time limit.
    pub limit: Option<Duration>,
    /// Where records go besides the result.
    pub json: Option<File>,
    /// More arguments for the emulator.
    pub extra: &'a [String],
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What its console showed.
    pub seen: Seen,
    /// The serial log.
    pub log: PathBuf,
    /// The emulator's command line.
    pub command: String,
    /// What the emulator itself had to say.
    pub complaint: String,
}

impl Guest<'_> {
    /// Runs the guest to its end.
    pub fn run(self) -> Result<Outcome> {
        self.run_with(None, trace::Names::default())
    }

    /// The same, with `script` typed at it, and with names for addresses of programs that its debugger shows.
    pub fn run_with(self, script: Option<Script>, names: trace::Names) -> Result<Outcome> {
        let launch = Launch {
            machine: self.machine,
            media: self.media,
            console: self.console,
            gdb: self.gdb,
            extra: self.extra,
        };
        let args = qemu::arguments(&launch);
        let command = qemu::shell_line(qemu::PROGRAM, &args);
        let base = paths::logs()?.join(self.label);
        let with = |ending: &str| PathBuf::from(format!("{}.{ending}", base.display()));
        let (log, messages) = (with("log"), with("emulator"));
        fs::write(with("sh"), format!("{command}\n")).context("cannot write the log directory")?;
        let conditions = Conditions {
            git: records::git_revision(),
            profile: self.profile.name().into(),
            machine: self.machine.name.clone(),
            accel: "tcg".into(),
            emulator: qemu::version()?,
        };
        let symbols = Symbols::new(self.kernel).with_programs(names);
        let follower = Follower::new(self.echo, &log, self.json, conditions, symbols)?;
        let (end, seen) =
            emulator::run(&args, self.console, self.limit, &messages, follower, script)?;
        let complaint = fs::read_to_string(&messages).unwrap_or_default().trim().to_string();
        let _ = fs::remove_file(&messages); // exists only where the emulator's output was kept
        Ok(Outcome { end, seen, log, command, complaint })
    }
}

/// `cargo xtask run`.
pub fn command(args: &RunArgs) -> Result<u8> {
    let machine = machine(args)?;
    let limit = limit(args)?;
    doctor::ensure_emulator(args.boot == Boot::Uefi)?;
    let profile = match (args.debug, &args.trace) {
        (true, _) => Profile::Debug,
        (false, Some(_)) => Profile::Traced,
        (false, None) => Profile::Release,
    };
    let programs = guest::build(profile)?;
    let kernel = guest::kernel(&programs)?;
    let media = media(args, profile, &programs)?;
    let json = match &args.json {
        Some(path) => {
            let file = File::create(path);
            Some(file.with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => None,
    };
    let script = args.input.as_deref().map(Script::load).transpose()?;
    let console = match (&script, stdin().is_terminal()) {
        (Some(_), _) => Console::Pipe,
        (None, true) => Console::Terminal,
        (None, false) => Console::Scripted,
    };
    let leave = if console == Console::Terminal { "; Ctrl-A x leaves" } else { "" };
    say::step("Booting", &format!("{} ({}){leave}", machine.name, machine.about));
    if args.gdb {
        let kernel = paths::show(&kernel.full);
        say::note(&format!("waiting for: gdb {kernel} -ex 'target remote :1234'"));
    }
    let outcome = Guest {
        label: &label(args, &machine),
        machine: &machine,
        media: &media,
        kernel: &kernel.full,
        profile,
        console,
        echo: true,
        gdb: args.gdb,
        limit,
        json,
        extra: &[],
    }
    .run_with(script, names(args, &programs))?;
    let code = conclude(&outcome, args.verbose)?;
    if let Some(file) = &args.trace {
        let mut names = names(args, &programs);
        let summary = trace::write(&outcome.seen.trace, &mut names, file)?;
        trace::tell(&summary, file);
    }
    Ok(code)
}

/// The programs that may run in the guest. The user's own come first.
fn names(args: &RunArgs, programs: &guest::Programs) -> trace::Names {
    let mut names = trace::Names::default();
    for (name, file) in [("sigma0", &args.sigma0), ("roottask", &args.roottask)] {
        if let Some(file) = file.as_ref().filter(|file| file.exists()) {
            names.add(file.file_stem().and_then(|stem| stem.to_str()).unwrap_or(name), file);
        }
    }
    names.add_all(programs);
    names
}

/// Tells how the run went and gives the exit code.
fn conclude(outcome: &Outcome, verbose: bool) -> Result<u8> {
    if let Some(time) = outcome.seen.boot_time {
        say::step(
            "Booted",
            &format!("boot record {:.2} s after emulator start", time.as_secs_f64()),
        );
    }
    let code = outcome.end.code();
    if code != 0 && !outcome.complaint.is_empty() {
        eprintln!("{}", outcome.complaint);
    }
    say::step("Log", &paths::show(&outcome.log));
    let refusal = refusal(&outcome.seen).filter(|_| code != 0);
    if verbose || (code != 0 && refusal.is_none()) {
        say::step("Repeat", &outcome.command);
    }
    if code != 0 {
        say::error(&refusal.map_or_else(|| outcome.end.to_string(), str::to_string));
        return Ok(code);
    }
    if let Some(broken) = outcome.seen.broken.first() {
        bail!("the guest printed a malformed record: {broken}");
    }
    Ok(0)
}

/// The guest's own reason why it does not go on: a last line that is an error, without an epitaph.
fn refusal(seen: &Seen) -> Option<&str> {
    let last = seen.tail.last().filter(|_| seen.epitaph.is_empty())?;
    last.strip_prefix("error: ")
}

/// The machine that the arguments describe.
fn machine(args: &RunArgs) -> Result<Machine> {
    let made_up = args.nodes.is_some()
        || args.cpus.is_some()
        || args.mem_per_node.is_some()
        || args.distance.is_some();
    if !made_up {
        return Machine::load(&args.machine);
    }
    let nodes = args.nodes.unwrap_or(2);
    let memory = machines::parse_mib(args.mem_per_node.as_deref().unwrap_or("256M"))?;
    Machine::regular(nodes, args.cpus.unwrap_or(nodes), memory, args.distance.unwrap_or(20))
}

fn limit(args: &RunArgs) -> Result<Option<Duration>> {
    let seconds = match args.timeout {
        Some(seconds) => seconds,
        None if args.gdb || stdin().is_terminal() => return Ok(None),
        None => DEFAULT_LIMIT,
    };
    let limit = Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero());
    Ok(Some(limit.context("--timeout takes seconds, more than 0")?))
}

fn media(args: &RunArgs, profile: Profile, programs: &guest::Programs) -> Result<Media> {
    let traced = if args.trace.is_some() { "trace=on " } else { "" };
    // Nobody could answer the debugger's prompt.
    let alone = args.debug && args.input.is_none() && !stdin().is_terminal();
    let alone = if alone { "kdb=off " } else { "" };
    let append = format!("{traced}{alone}{}", args.append);
    let mut options = pack::Options {
        manifest: args.manifest.clone(),
        sigma0: args.sigma0.clone(),
        roottask: args.roottask.clone(),
        command_line: None,
    };
    if args.boot == Boot::Direct {
        let archive = pack::pack(profile, programs, &options)?;
        let kernel = guest::kernel(programs)?.stripped.clone();
        return Ok(Media::Direct { kernel, archive, append });
    }
    options.command_line = Some(append);
    let archive = pack::pack(profile, programs, &options)?;
    let kernel = guest::kernel(programs)?;
    Ok(if args.boot == Boot::Bios {
        Media::Bios(image::beside(Firmware::Bios, kernel, &archive)?)
    } else {
        Media::Uefi(image::beside(Firmware::Uefi, kernel, &archive)?, qemu::firmware()?)
    })
}

/// Name of the log: what tells runs apart, and the process, so that runs side by side do not mix.
fn label(args: &RunArgs, machine: &Machine) -> String {
    let boot = match args.boot {
        Boot::Direct => "direct",
        Boot::Bios => "bios",
        Boot::Uefi => "uefi",
    };
    format!("run-{}-{boot}-{}", machine.name, std::process::id())
}
