//! The placement instrument: a plugin for the emulator (QEMU 7.2, TCG, one host thread for all CPUs).
//!
//! It tells [`numasim_model::sim::Sim`] what the guest's CPUs do and writes the model's report when the
//! guest executes a SIMEND marker. `cargo xtask sim` builds and starts it; `docs/design/instrument.md`
//! explains it. This crate holds no policy and no arithmetic of the model: it is the shim.
//!
//! | module | holds |
//! | --- | --- |
//! | [`qemu`] | the emulator's functions, behind safe wrappers: the only `unsafe` |
//! | `memory` | the guest's RAM, read through the emulator's own mapping of the backing files |
//! | `guest` | what the model asks of the guest |
//! | `translate` | what to watch in a newly translated block |
//! | `events` | what happens when watched instructions execute |
//!
//! *State.* All callbacks come from the one thread that executes CPUs in turn. The state is created on
//! that thread at the first callback and lives in a thread-local, so it needs neither locks nor
//! trust: a callback from a second thread (`thread=multi`) finds no configuration and ends the run.

mod events;
mod guest;
mod memory;
mod qemu;
mod translate;

use numasim_model::{config::Config, sim::Sim};
use std::{
    cell::{Cell, RefCell},
    sync::Mutex,
};

/// The configuration, between loading and the first callback.
static CONFIG: Mutex<Option<Config>> = Mutex::new(None);

thread_local! {
    static STATE: Cell<Option<&'static RefCell<State>>> = const { Cell::new(None) };
}

/// Everything the plugin knows.
pub(crate) struct State {
    pub(crate) sim: Sim,
    pub(crate) guest: guest::Machine,
    pub(crate) watch: translate::Watch,
    pub(crate) shapes: qemu::Shapes,
    /// Set by the first HELLO marker, cleared by SIMEND: the model is fed.
    pub(crate) armed: bool,
    /// Slices before the model takes over: who executes, and since which instruction.
    pub(crate) early: (usize, u64),
}

/// Runs `f` with the state; creates it on the first call.
pub(crate) fn with_state<R>(f: impl FnOnce(&mut State) -> R) -> R {
    let state = STATE.get().unwrap_or_else(create_state);
    f(&mut state.borrow_mut())
}

#[cold]
fn create_state() -> &'static RefCell<State> {
    let config = CONFIG.lock().ok().and_then(|mut c| c.take());
    let Some(config) = config else {
        fatal("a second thread executes CPUs: start the emulator with -accel tcg,thread=single");
    };
    let guest = guest::Machine::new(&config).unwrap_or_else(|e| fatal(&e));
    let state = State {
        sim: Sim::new(config),
        guest,
        watch: translate::Watch::default(),
        shapes: qemu::Shapes::default(),
        armed: false,
        early: (0, 0),
    };
    let state: &'static RefCell<State> = Box::leak(Box::new(RefCell::new(state)));
    STATE.set(Some(state));
    state
}

/// Ends the emulator with a message: a measurement that is wrong must not look like one.
pub(crate) fn fatal(message: &str) -> ! {
    eprintln!("numasim: {message}");
    std::process::exit(97)
}

/// Reads the arguments of `-plugin`; called once by the emulator.
pub(crate) fn install(arguments: &[String], cpus: usize) -> Result<(), String> {
    let path = arguments
        .iter()
        .find_map(|a| a.strip_prefix("config="))
        .ok_or("argument config=FILE is missing")?;
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let config = Config::parse(&text).map_err(|e| format!("{path}: {e}"))?;
    if config.cpu_node.len() != cpus {
        return Err(format!(
            "the machine has {cpus} CPUs, its description {}",
            config.cpu_node.len()
        ));
    }
    qemu::check_symbols()?;
    if let Ok(mut slot) = CONFIG.lock() {
        *slot = Some(config);
    }
    Ok(())
}
