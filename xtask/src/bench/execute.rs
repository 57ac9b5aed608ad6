//! Runs the boots of experiments: several at a time, each in the instrument or in the emulator alone.

use super::{paths as kernel_paths, progress::Progress, store::Store};
use crate::{
    cli::SimArgs,
    emulator::End,
    experiment::{
        Object, Params, Run,
        spec::{Place, Point, With},
    },
    guest::{self, Profile, Program, Programs},
    machines::Machine,
    pack, paths,
    qemu::{self, Console, Media},
    records,
    run::{Guest, Outcome},
    sim,
};
use anyhow::{Context, Result, bail};
use l4abi::archive::crc32;
use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

/// A boot that is ready to run.
pub struct Job {
    /// What it is.
    pub point: Point,
    /// [`Point::key`].
    pub key: String,
    /// Checksum of all that determines its outcome.
    pub inputs: String,
    machine: Machine,
    media: Media,
}

/// What all boots have in common.
pub struct Bench {
    programs: Programs,
    plugin: PathBuf,
    emulator: String,
    git: String,
}

impl Bench {
    /// Builds what is needed.
    pub fn new() -> Result<Bench> {
        sim::ensure_tried()?;
        let plugin = sim::build_plugin()?;
        let programs = guest::build(Profile::Release)?;
        let (emulator, git) = (qemu::version()?, records::git_revision());
        Ok(Bench { programs, plugin, emulator, git })
    }

    fn kernel(&self) -> Result<&Program> {
        guest::kernel(&self.programs)
    }

    /// Gets a boot ready. An error is a reason why it cannot be run.
    pub fn prepare(&self, point: &Point) -> Result<Job> {
        let machine = Machine::load(&point.machine)?;
        let mut options = pack::Options::default();
        let Some(program) = self.programs.get(&point.program) else {
            bail!("there is no guest program named '{}'", point.program);
        };
        match (&point.place, &point.manifest) {
            (Place::Task, Some(text)) => {
                let directory = paths::target().join("lokal/bench");
                fs::create_dir_all(&directory)?;
                let file = directory.join(format!("{:08x}.toml", crc32(text.as_bytes())));
                fs::write(&file, text)?;
                options.manifest = Some(file);
            }
            _ => options.roottask = Some(program.stripped.clone()),
        }
        let archive = pack::pack_quietly(Profile::Release, &self.programs, &options)?;
        let kernel = self.kernel()?.stripped.clone();
        let key = point.key();
        let mut inputs = Vec::new();
        let shape = crate::machines::directory().join(format!("{}.toml", point.machine));
        for file in [&kernel, &archive, &shape, &self.plugin] {
            let bytes =
                fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            inputs.extend(crc32(&bytes).to_le_bytes());
        }
        inputs.extend(self.emulator.bytes());
        let inputs = format!("{key} #{:08x}", crc32(&inputs));
        let media = Media::Direct { kernel, archive, append: point.options.clone() };
        Ok(Job { point: point.clone(), key, inputs, machine, media })
    }

    /// Runs a boot to its end, whatever that is.
    fn run(&self, job: &Job) -> Run {
        let start = Instant::now();
        let records = match job.point.with {
            With::Sim => self.simulate(job, &job.media),
            With::Emulator => self.emulate(job),
            With::Paths => kernel_paths::measure(|options| {
                let mut media = job.media.clone();
                if let Media::Direct { append, .. } = &mut media {
                    *append = options.into();
                }
                self.simulate(job, &media)
            }),
        };
        let (records, error) = match records {
            Ok(records) => (records, String::new()),
            Err(error) => (Vec::new(), format!("{error:#}")),
        };
        Run {
            kind: "run".into(),
            point: job.key.clone(),
            inputs: job.inputs.clone(),
            ok: error.is_empty(),
            error,
            seconds: (start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            conditions: self.conditions(job),
            records: records.into_iter().map(slim).collect(),
        }
    }

    fn conditions(&self, job: &Job) -> Params {
        let point = &job.point;
        let sim = point.with != With::Emulator;
        let mut all: Params = [
            ("git", self.git.as_str()),
            ("profile", Profile::Release.name()),
            ("machine", &point.machine),
            ("program", &point.program),
            ("options", &point.options),
            ("emulator", &self.emulator),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
        if sim {
            let checksum = fs::read(&self.plugin).map(|bytes| crc32(&bytes)).unwrap_or(0);
            all.insert("instrument".into(), format!("numasim {checksum:08x}"));
            all.insert("caches".into(), point.caches.clone());
            if let Some(quantum) = point.quantum {
                all.insert("quantum".into(), quantum.to_string());
            }
        }
        if let Some(manifest) = &point.manifest {
            all.insert("manifest".into(), manifest.clone());
        }
        all
    }

    fn simulate(&self, job: &Job, media: &Media) -> Result<Vec<Object>> {
        let mut args =
            SimArgs::counting(&job.point.program, &job.point.machine, &job.point.options);
        args.caches = job.point.caches()?;
        args.timeout = job.point.timeout;
        args.quantum = job.point.quantum;
        let kernel = &self.kernel()?.full;
        let (outcome, lines) = sim::run_media(&args, &job.machine, media, kernel, &self.plugin)?;
        succeeded(&outcome)?;
        Ok(outcome.seen.records.into_iter().chain(lines).collect())
    }

    fn emulate(&self, job: &Job) -> Result<Vec<Object>> {
        let outcome = Guest {
            label: &format!("bench-{:08x}", crc32(job.key.as_bytes())),
            machine: &job.machine,
            media: &job.media,
            kernel: &self.kernel()?.full,
            profile: Profile::Release,
            console: Console::Pipe,
            echo: false,
            gdb: false,
            limit: Some(Duration::from_secs(job.point.timeout)),
            json: None,
            extra: &[],
        }
        .run()?;
        succeeded(&outcome)?;
        Ok(outcome.seen.records)
    }

    /// Runs `jobs`, some at a time, and puts each into the store as it ends.
    pub fn run_all(&self, jobs: Vec<Job>, store: &mut Store) -> Result<usize> {
        let keys: Vec<String> = jobs.iter().map(|job| job.key.clone()).collect();
        let seconds = &store.results.seconds;
        let mut progress = Progress::new(keys.iter().map(String::as_str), seconds, workers());
        progress.draw();
        let mut failed = 0;
        self.run_each(jobs, |run| {
            progress.done(&run.point, run.seconds, &run.error);
            failed += usize::from(!run.ok);
            store.add_run(run)
        })?;
        Ok(failed)
    }

    /// Runs `jobs`, some at a time; `done` takes the runs as they end. Its error ends all that is not begun.
    pub fn run_each(&self, jobs: Vec<Job>, mut done: impl FnMut(Run) -> Result<()>) -> Result<()> {
        let queue = Mutex::new(jobs.into_iter());
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..workers() {
                let sender = sender.clone();
                let queue = &queue;
                scope.spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
                        let Some(job) = next else { return };
                        if sender.send(self.run(&job)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            receiver.into_iter().try_for_each(&mut done)
        })
    }
}

/// Boots at a time.
fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Refuses a run that did not end well, with what the guest said about it.
fn succeeded(outcome: &Outcome) -> Result<()> {
    if outcome.end == End::Success {
        return Ok(());
    }
    let seen = &outcome.seen;
    let failed = seen.records.iter().filter(|r| records::kind(r) == "test" && r["ok"] == false);
    let mut reasons: Vec<String> = failed
        .take(3)
        .map(|r| {
            format!("{} ({})", r["name"].as_str().unwrap_or(""), r["detail"].as_str().unwrap_or(""))
        })
        .collect();
    if reasons.is_empty() {
        reasons.extend(seen.epitaph.first().or(seen.tail.last()).cloned());
    }
    bail!("{}: {}; log: {}", outcome.end, reasons.join(", "), paths::show(&outcome.log))
}

/// A record without what the run's conditions say already.
fn slim(mut record: Object) -> Object {
    for name in ["git", "profile", "accel", "emulator"] {
        record.remove(name);
    }
    record
}
