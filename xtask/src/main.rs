//! `cargo xtask`: the only door to Lokal. See `cargo xtask --help`.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod cli;
mod console;
mod doctor;
mod elf;
mod emulator;
mod experiment;
mod guest;
mod image;
mod machines;
mod manifest;
mod pack;
mod paths;
mod qemu;
mod records;
mod report;
mod run;
mod say;
mod script;
mod sim;
mod symbols;
mod test;
mod trace;
mod workspace;

use clap::Parser;
use cli::{Cli, Task};
use manifest::Manifest;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked; the result is the exit code.
fn dispatch(command: Task) -> anyhow::Result<u8> {
    // Before anything is built.
    let (outputs, manifest) = command.named_files();
    outputs.into_iter().try_for_each(paths::ensure_writable)?;
    manifest.map(Manifest::load).transpose()?;
    match command {
        Task::Build(args) => {
            let programs = guest::build(args.profile())?;
            pack::pack(args.profile(), &programs, &pack::Options::default())?;
            Ok(0)
        }
        Task::Run(args) => run::command(&args),
        Task::Image(args) => image::command(&args),
        Task::Doctor(args) => doctor::command(args),
        Task::Test(args) => test::command(&args),
        Task::Bench(args) => bench::command(&args),
        Task::Sim(args) => sim::command(&args),
        Task::Report(args) => report::command(&args),
        Task::Check => check::command(),
    }
}

/// A TOML error in one line.
fn toml_error(text: &str, error: &toml::de::Error) -> String {
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let place = error.span().map(|span| format!("line {}: ", line(span.start)));
    format!("{}{}", place.unwrap_or_default(), error.message().replace('\n', " "))
}
