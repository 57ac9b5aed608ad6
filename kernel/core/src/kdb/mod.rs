//! The pure part of the kernel debugger: reading a line that is typed, and understanding it.
//!
//! Whatever is typed gives a command or a message that says what was expected; nothing is guessed.

mod editor;

pub use editor::{Editor, Feed, LINE};

use core::fmt;

/// A thread as it is typed: its number, or its global id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(pub u64);

impl Thread {
    /// The thread number that is meant: a value too large for a number is taken for a global id.
    #[must_use]
    pub const fn number(self) -> u32 {
        if self.0 < crate::layout::NR_THREADS { self.0 as u32 } else { (self.0 >> 32) as u32 }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing was typed.
    Nothing,
    /// The list of commands.
    Help,
    /// All threads, or those of a CPU.
    Threads(Option<u16>),
    /// Everything about a thread.
    Tcb(Thread),
    /// All address spaces.
    Spaces,
    /// The walk to an address in a thread's space.
    Walk(Thread, u64),
    /// What is mapped in a thread's space from an address on.
    Tables(Thread, u64),
    /// Who has the frame at a physical address from whom.
    Frame(u64),
    /// Ready threads of a CPU, or of all.
    Ready(Option<u16>),
    /// Threads with a timeout of a CPU, or of all.
    Wakeups(Option<u16>),
    /// Kernel memory per node.
    Memory,
    /// The last records of the trace on every CPU: how many.
    Trace(u64),
    /// What each CPU does and has counted.
    Cpus,
    /// Bytes of a thread's space: address, count.
    Dump(Thread, u64, u64),
    /// Bytes of the kernel: address, count.
    Peek(u64, u64),
    /// The machine goes on.
    Go,
    /// The machine is left.
    Quit,
    /// The machine is reset.
    Reset,
}

/// Records shown without a number.
const DEFAULT_RECORDS: u64 = 20;
/// Bytes shown without a number.
const DEFAULT_BYTES: u64 = 64;
/// Bytes shown at most.
pub const MOST_BYTES: u64 = 4096;

/// The commands: names, what they take, what they do.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    ("help", "", "this list"),
    ("threads", "[CPU]", "all threads, or those of a CPU"),
    ("tcb", "THREAD", "everything about a thread"),
    ("spaces", "", "all address spaces"),
    ("walk", "THREAD ADDRESS", "the page tables on the way to an address"),
    ("tables", "THREAD [ADDRESS]", "what is mapped in its space, from an address on"),
    ("frame", "PHYSICAL", "who has a frame from whom"),
    ("ready", "[CPU]", "ready queues"),
    ("wakeups", "[CPU]", "threads that wait for a time"),
    ("memory", "", "kernel memory of each node"),
    ("trace", "[N]", "the last N records of each CPU"),
    ("cpus", "", "what each CPU does and has counted"),
    ("dump", "THREAD ADDRESS [BYTES]", "memory of a space"),
    ("peek", "ADDRESS [BYTES]", "memory of the kernel"),
    ("go", "", "lets the machine go on"),
    ("quit", "", "leaves the machine"),
    ("reset", "", "resets the machine"),
];

/// Why a line was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem<'a> {
    /// No command begins like this.
    Unknown(&'a str),
    /// Several commands do.
    Ambiguous(&'a str),
    /// Not a number, or too large for what it stands for.
    Number(&'a str),
    /// The command takes something else.
    Arguments(&'static str, &'static str),
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unknown(word) => write!(f, "no command '{word}'; 'help' lists them"),
            Problem::Ambiguous(word) => write!(f, "'{word}' is short for several commands"),
            Problem::Number(word) => write!(f, "'{word}' is no number that fits here"),
            Problem::Arguments(name, takes) => write!(f, "usage: {name} {takes}"),
        }
    }
}

/// Understands a line. A command may be shortened as far as it stays unique; `?` is `help`.
///
/// # Errors
/// What is wrong with the line.
pub fn parse(line: &str) -> Result<Command, Problem<'_>> {
    let mut words = line.split_ascii_whitespace();
    let Some(word) = words.next() else { return Ok(Command::Nothing) };
    let (name, takes) = find(word)?;
    let mut args = Arguments { words, name, takes };
    let command = match name {
        "help" => Command::Help,
        "threads" => Command::Threads(args.cpu()?),
        "tcb" => Command::Tcb(args.thread()?),
        "spaces" => Command::Spaces,
        "walk" => Command::Walk(args.thread()?, args.number()?),
        "tables" => Command::Tables(args.thread()?, args.optional()?.unwrap_or(0)),
        "frame" => Command::Frame(args.number()?),
        "ready" => Command::Ready(args.cpu()?),
        "wakeups" => Command::Wakeups(args.cpu()?),
        "memory" => Command::Memory,
        "trace" => Command::Trace(args.optional()?.unwrap_or(DEFAULT_RECORDS)),
        "cpus" => Command::Cpus,
        "dump" => Command::Dump(args.thread()?, args.number()?, args.bytes()?),
        "peek" => Command::Peek(args.number()?, args.bytes()?),
        "go" => Command::Go,
        "quit" => Command::Quit,
        _ => Command::Reset,
    };
    args.end()?;
    Ok(command)
}

/// The one command that `word` names or begins.
fn find(word: &str) -> Result<(&'static str, &'static str), Problem<'_>> {
    let word_or_help = if word == "?" { "help" } else { word };
    let exact = COMMANDS.iter().find(|c| c.0 == word_or_help);
    let mut fitting = COMMANDS.iter().filter(|c| c.0.starts_with(word_or_help));
    match (exact, fitting.next(), fitting.next()) {
        (Some(c), _, _) | (None, Some(c), None) => Ok((c.0, c.1)),
        (None, Some(_), Some(_)) => Err(Problem::Ambiguous(word)),
        _ => Err(Problem::Unknown(word)),
    }
}

/// The words behind a command.
struct Arguments<'a> {
    words: core::str::SplitAsciiWhitespace<'a>,
    name: &'static str,
    takes: &'static str,
}

impl<'a> Arguments<'a> {
    fn usage(&self) -> Problem<'a> {
        Problem::Arguments(self.name, self.takes)
    }

    fn optional(&mut self) -> Result<Option<u64>, Problem<'a>> {
        let Some(word) = self.words.next() else { return Ok(None) };
        number(word).map(Some).ok_or(Problem::Number(word))
    }

    fn number(&mut self) -> Result<u64, Problem<'a>> {
        self.optional()?.ok_or(self.usage())
    }

    fn thread(&mut self) -> Result<Thread, Problem<'a>> {
        self.number().map(Thread)
    }

    fn cpu(&mut self) -> Result<Option<u16>, Problem<'a>> {
        let Some(word) = self.words.next() else { return Ok(None) };
        let cpu = number(word).filter(|&n| n < crate::layout::MAX_CPUS as u64);
        cpu.map(|n| Some(n as u16)).ok_or(Problem::Number(word))
    }

    fn bytes(&mut self) -> Result<u64, Problem<'a>> {
        Ok(self.optional()?.unwrap_or(DEFAULT_BYTES).min(MOST_BYTES))
    }

    fn end(mut self) -> Result<(), Problem<'a>> {
        match self.words.next() {
            None => Ok(()),
            Some(_) => Err(self.usage()),
        }
    }
}

/// A number: decimal, or hexadecimal with `0x` in front; `_` between digits is skipped.
fn number(word: &str) -> Option<u64> {
    let (digits, radix) = match word.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    let mut value: Option<u64> = None;
    for c in digits.chars().filter(|&c| c != '_') {
        let digit = u64::from(c.to_digit(radix)?);
        value = Some(value.unwrap_or(0).checked_mul(u64::from(radix))?.checked_add(digit)?);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_understood_and_can_be_shortened() {
        for (line, command) in [
            ("", Command::Nothing),
            ("   ", Command::Nothing),
            ("?", Command::Help),
            ("h", Command::Help),
            ("threads", Command::Threads(None)),
            ("th 3", Command::Threads(Some(3))),
            ("tcb 58", Command::Tcb(Thread(58))),
            ("tcb 0x3a00000001", Command::Tcb(Thread(0x3a_0000_0001))),
            ("sp", Command::Spaces),
            ("walk 58 0x40_0000", Command::Walk(Thread(58), 0x40_0000)),
            ("tables 58", Command::Tables(Thread(58), 0)),
            ("ta 58 4096", Command::Tables(Thread(58), 4096)),
            ("f 0x1000", Command::Frame(0x1000)),
            ("rea", Command::Ready(None)),
            ("ready 0", Command::Ready(Some(0))),
            ("wak 1", Command::Wakeups(Some(1))),
            ("m", Command::Memory),
            ("tr", Command::Trace(20)),
            ("trace 5", Command::Trace(5)),
            ("c", Command::Cpus),
            ("d 1 2", Command::Dump(Thread(1), 2, 64)),
            ("dump 1 2 99999999", Command::Dump(Thread(1), 2, MOST_BYTES)),
            ("p 0xffffffffffffffff 1", Command::Peek(u64::MAX, 1)),
            ("g", Command::Go),
            ("q", Command::Quit),
            ("res", Command::Reset),
        ] {
            assert_eq!(parse(line), Ok(command), "{line}");
        }
        for (name, takes, _) in COMMANDS {
            let parsed = parse(name);
            let needs = takes.split_ascii_whitespace().any(|word| !word.starts_with('['));
            assert_eq!(parsed.is_err(), needs, "{name}: {parsed:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, message) in [
            ("foo", "no command 'foo'; 'help' lists them"),
            ("t", "'t' is short for several commands"),
            ("re", "'re' is short for several commands"),
            ("tcb", "usage: tcb THREAD"),
            ("tcb x", "'x' is no number that fits here"),
            ("tcb 0x", "'0x' is no number that fits here"),
            ("tcb -1", "'-1' is no number that fits here"),
            ("tcb 99999999999999999999", "'99999999999999999999' is no number that fits here"),
            ("tcb 0x10000000000000000", "'0x10000000000000000' is no number that fits here"),
            ("tcb 1 2", "usage: tcb THREAD"),
            ("threads 70000", "'70000' is no number that fits here"),
            ("threads 256", "'256' is no number that fits here"),
            ("walk 1", "usage: walk THREAD ADDRESS"),
            ("go away", "usage: go "),
            ("frame \u{e4}", "'\u{e4}' is no number that fits here"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), message, "{line}");
        }
    }

    #[test]
    fn ids_and_numbers_name_threads() {
        assert_eq!(Thread(58).number(), 58);
        assert_eq!(Thread(58 << 32 | 1).number(), 58);
        assert_eq!(Thread(u64::MAX).number(), u32::MAX);
    }

    /// Any line gives a command or a problem, and a problem can be printed.
    #[test]
    fn random_lines_never_panic() {
        let mut rng = crate::testing::Rng::new(1);
        let parts = ["tcb", "walk", "0x", "_", "-", " ", "9", "f", "dump", "\t", "\u{fffd}", "?"];
        for _ in 0..crate::testing::rounds(100_000) {
            let mut line = String::new();
            for _ in 0..rng.below(9) {
                line.push_str(parts[rng.below(parts.len() as u64) as usize]);
            }
            if let Err(problem) = parse(&line) {
                assert!(!problem.to_string().is_empty());
            }
        }
    }
}
