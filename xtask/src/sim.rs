//! `cargo xtask sim`: one guest in the placement instrument (`docs/design/instrument.md`).
//!
//! Builds the plugin, describes the machine to it, gives every node's memory a fresh file (the plugin
//! reads page tables there; old contents would be a hidden input), runs the emulator with everything
//! pinned that could differ between two runs, and believes the result only if the plugin's self-checks
//! hold.

pub mod gate;
mod model;
mod selftest;
mod table;

use crate::{
    bench::compare,
    cli::{SimArgs, SimCaches},
    doctor,
    emulator::End,
    guest::{self, Profile},
    machines::{self, Machine},
    pack, paths,
    qemu::{self, Console, Media},
    records::Conditions,
    run::{Guest, Outcome},
    say,
    symbols::Symbols,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Emulator versions that were tried (`major.minor`). The plugin uses symbols without a stable interface.
const TRIED: [&str; 1] = ["7.2"];

/// Refuses an emulator whose insides the plugin does not know.
pub fn ensure_tried() -> Result<()> {
    doctor::ensure_emulator(false)?;
    let version = qemu::version()?;
    let number = version.trim_start_matches("qemu ");
    ensure!(
        TRIED.iter().any(|tried| number.starts_with(&format!("{tried}."))),
        "{version} was not tried with the placement instrument; it works with {}",
        TRIED.join(", ")
    );
    Ok(())
}

/// Runs one guest in the instrument and gives the plugin's lines, for other commands.
pub fn measure(args: &SimArgs) -> Result<Vec<Map<String, Value>>> {
    Ok(measured(args)?.lines)
}

/// The same with the guest's own records behind them.
pub fn measure_all(args: &SimArgs) -> Result<Vec<Map<String, Value>>> {
    let results = measured(args)?;
    Ok(results.lines.into_iter().chain(results.outcome.seen.records).collect())
}

fn measured(args: &SimArgs) -> Result<Results> {
    ensure_tried()?;
    let plugin = build_plugin()?;
    let machine = Machine::load(&args.machine)?;
    let programs = guest::build(Profile::Release)?;
    let media = media(args, &programs)?;
    let kernel = guest::kernel(&programs)?;
    let job = Job { plugin: &plugin, machine: &machine, media: &media, kernel: &kernel.full, args };
    let results = job.run()?;
    ensure!(results.outcome.end == End::Success, "{}: {}", args.name, results.outcome.end);
    Ok(results)
}

/// Runs a guest that is ready: how it went, and the plugin's lines.
pub fn run_media(
    args: &SimArgs,
    machine: &Machine,
    media: &Media,
    kernel: &Path,
    plugin: &Path,
) -> Result<(Outcome, Vec<Map<String, Value>>)> {
    let results = Job { plugin, machine, media, kernel, args }.run()?;
    Ok((results.outcome, results.lines))
}

/// `cargo xtask sim`.
pub fn command(args: &SimArgs) -> Result<u8> {
    ensure_tried()?;
    if args.name == "selftest" {
        return selftest::command(args);
    }
    if let Some(experiments) = compare::wanted(args) {
        return compare::command(args, experiments);
    }
    let plugin = build_plugin()?;
    let machine = Machine::load(&args.machine)?;
    let programs = guest::build(Profile::Release)?;
    let media = media(args, &programs)?;
    let kernel = guest::kernel(&programs)?;
    say::step("Simulating", &format!("{} on {}", args.name, machine.name));
    let job = Job { plugin: &plugin, machine: &machine, media: &media, kernel: &kernel.full, args };
    let results = job.run()?;
    let mut symbols = Symbols::new(&kernel.full);
    print!("{}", table::text(&results.lines, &mut symbols));
    if let Some(path) = &args.json {
        let text: String = results.all().map(|record| format!("{record}\n")).collect();
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say::step("Log", &paths::show(&results.outcome.log));
    if results.outcome.end != End::Success {
        say::error(&results.outcome.end.to_string());
    }
    if let Some(whose) = args.demand_local {
        let strayed: Vec<String> =
            gate::judge(&results.lines, whose).into_iter().filter_map(Result::err).collect();
        ensure!(strayed.is_empty(), "remote accesses in {}", strayed.join("; "));
    }
    Ok(results.outcome.end.code())
}

/// Makes sure that [`gate::run`] can run: the emulator is known, the plugin is built.
pub fn prepare() -> Result<()> {
    ensure_tried()?;
    build_plugin().map(drop)
}

fn plugin_path() -> PathBuf {
    paths::target().join("release/libnumasim.so")
}

/// Builds the plugin and gives its path.
pub fn build_plugin() -> Result<PathBuf> {
    say::step("Building", "numasim");
    let mut cargo = guest::cargo("build");
    cargo.args(["--release", "--quiet", "--package", "numasim"]);
    ensure!(cargo.status()?.success(), "the instrument does not build; see above");
    Ok(plugin_path())
}

fn media(args: &SimArgs, programs: &guest::Programs) -> Result<Media> {
    let mut options = pack::Options::default();
    let mut append = args.append.clone();
    let manifest = paths::root().join(format!("xtask/manifests/{}.toml", args.name));
    if args.name == "boot" {
        append = format!("exit=boot {append}");
    } else if manifest.exists() {
        options.manifest = Some(manifest);
    } else if let Some(program) = programs.get(&args.name) {
        options.roottask = Some(program.stripped.clone());
    } else {
        let names: Vec<&str> = programs.keys().map(String::as_str).collect();
        bail!("no guest program named '{}'; there are boot, {}", args.name, names.join(", "));
    }
    let archive = pack::pack(Profile::Release, programs, &options)?;
    let kernel = guest::kernel(programs)?.stripped.clone();
    Ok(Media::Direct { kernel, archive, append: append.trim().into() })
}

/// One run.
struct Job<'a> {
    plugin: &'a Path,
    machine: &'a Machine,
    media: &'a Media,
    kernel: &'a Path,
    args: &'a SimArgs,
}

/// What came of it.
struct Results {
    outcome: Outcome,
    /// The plugin's lines, with conditions.
    lines: Vec<Map<String, Value>>,
}

impl Results {
    /// The guest's records, then the plugin's.
    fn all(&self) -> impl Iterator<Item = Value> {
        self.outcome.seen.records.iter().chain(&self.lines).cloned().map(Value::Object)
    }
}

impl Job<'_> {
    fn run(&self) -> Result<Results> {
        let scratch = Scratch::new()?;
        let mut machine = self.machine.clone();
        machine.memory_files = Some(scratch.0.clone());
        let out = scratch.0.join("out");
        let config = scratch.0.join("config");
        let model = model::Model::load(&machine)?;
        fs::write(&config, model.describe(&machine, &scratch.0, &out, self.args)?)?;
        let caches = caches_name(self.args.caches);
        let outcome = Guest {
            label: &format!("sim-{}-{}-{caches}-{}", self.args.name, machine.name, scratch.1),
            machine: &machine,
            media: self.media,
            kernel: self.kernel,
            profile: Profile::Release,
            console: Console::Pipe,
            echo: self.args.console,
            gdb: false,
            limit: Some(Duration::from_secs(self.args.timeout)),
            json: None,
            extra: &pinned(self.plugin, &config),
        }
        .run()?;
        let text = fs::read_to_string(&out).ok();
        if !matches!(outcome.end, End::Success | End::TestsFailed) {
            if !outcome.complaint.is_empty() {
                eprintln!("{}", outcome.complaint);
            }
            bail!("{}; log: {}", outcome.end, paths::show(&outcome.log));
        }
        let text = text.context(
            "the guest left without a SIMEND marker, or never said HELLO: nothing was measured",
        )?;
        let lines = parse(&text, &outcome, self.machine)?;
        believe(&lines, self.machine)?;
        Ok(Results { outcome, lines })
    }
}

/// Everything that could differ between two runs is pinned: time is the number of instructions, there
/// is no source of randomness, CPUs take turns on one thread. Without ERMS and FSRM the emulated CPU's
/// string instructions are not the recommended way to copy, which saves a callback per byte.
fn pinned(plugin: &Path, config: &Path) -> Vec<String> {
    let plugin = format!("{},config={}", plugin.display(), config.display());
    ["-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01,clock=vm", "-seed", "1"]
        .into_iter()
        .chain(["-cpu", "max,-rdrand,-rdseed,-erms,-fsrm", "-plugin", &plugin])
        .map(String::from)
        .collect()
}

fn caches_name(caches: SimCaches) -> &'static str {
    match caches {
        SimCaches::On => "on",
        SimCaches::Off => "off",
        SimCaches::Ideal => "ideal",
    }
}

fn parse(text: &str, outcome: &Outcome, machine: &Machine) -> Result<Vec<Map<String, Value>>> {
    let conditions = Conditions {
        git: crate::records::git_revision(),
        profile: Profile::Release.name().into(),
        machine: machine.name.clone(),
        accel: "tcg".into(),
        emulator: qemu::version()?,
    };
    let parse = |line: &str| -> Result<Map<String, Value>> {
        let value: Value = serde_json::from_str(line)
            .with_context(|| format!("the plugin wrote a malformed line: {line}"))?;
        match value {
            Value::Object(record) => Ok(conditions.add_to(record)),
            _ => bail!("the plugin wrote no record: {line}"),
        }
    };
    let lines: Result<Vec<_>> = text.lines().map(parse).collect();
    lines.with_context(|| format!("log: {}", paths::show(&outcome.log)))
}

/// Refuses results whose self-checks failed.
fn believe(lines: &[Map<String, Value>], machine: &Machine) -> Result<()> {
    let run = lines.first().context("the plugin wrote nothing")?;
    let check = |name: &str| run["checks"][name].as_u64().unwrap_or(u64::MAX);
    for wrong in ["hellos_wrong", "places_wrong", "walks_wrong", "fetch_unknown"] {
        ensure!(check(wrong) == 0, "self-check: {wrong} is {}", check(wrong));
    }
    let hellos = check("hellos");
    ensure!(
        hellos >= u64::from(machine.cpu_count()),
        "only {hellos} of {} CPUs said HELLO",
        machine.cpu_count()
    );
    ensure!(check("walks") > 0, "self-check: no page walk was compared with the emulator");
    // A translation may be gone before it is looked up, but not often.
    let untranslated = check("untranslated");
    ensure!(untranslated * 100 <= check("walks"), "self-check: {untranslated} walks found nothing");
    let mistakes = run["mistakes"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(mistakes.is_empty(), "the guest's markers are wrong: {}", Value::from(mistakes));
    Ok(())
}

/// A directory in memory, removed when dropped, and a name that tells runs apart.
struct Scratch(PathBuf, String);

impl Scratch {
    fn new() -> Result<Scratch> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let id = match RUNS.fetch_add(1, Ordering::Relaxed) {
            0 => std::process::id().to_string(),
            n => format!("{}.{n}", std::process::id()),
        };
        let base = Path::new("/dev/shm");
        ensure!(
            base.is_dir(),
            "/dev/shm is missing: the instrument keeps the guest's memory there"
        );
        let path = base.join(format!("lokal-sim-{id}"));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path, id))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to be done about a failure here; the next run of this process number cleans up.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The text of a machine's file, if it has one.
fn machine_text(machine: &Machine) -> Option<String> {
    fs::read_to_string(machines::directory().join(format!("{}.toml", machine.name))).ok()
}
