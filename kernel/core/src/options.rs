//! Options on the kernel command line.
//!
//! `name=value` words separated by white space. Each locality mechanism has a switch, so that an
//! experiment compares like with like on one binary. An option the kernel does not know, or
//! a value it does not understand, is an error that lists what there is: a misspelt switch would make a
//! measurement silently wrong.
//!
//! Words after `--` are the root task's: it finds them behind its name in the boot information.

use core::fmt;

/// Where to leave the machine after boot, instead of starting programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// After the boot record (`exit=boot`).
    Boot,
}

/// Kernel self-tests to run after boot (`test=...`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfTest {
    /// The layers up to memory: `s00_boot`, `s01_traps`, `s02_memory`.
    Boot,
}

/// Whether and how it is looked where everything lies (`placement_check=...`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementCheck {
    /// Not.
    Off,
    /// When a program leaves the machine or asks for it.
    Exit,
    /// The same, and everything is expected on the next node: shows that the check is not blind.
    Wrong,
}

/// How a CPU is to fail (`panic=cpuN`, `panic=cpuN:fault`, ...).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A panic.
    Panic,
    /// A page fault in kernel mode (`:fault`).
    Fault,
    /// An overflow of the kernel stack, which ends in a double fault (`:stack`).
    Stack,
}

/// What the command line has for the root task: the text after `--`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arguments {
    text: [u8; Self::MOST],
    len: usize,
}

impl Arguments {
    /// Bytes at most.
    pub const MOST: usize = 120;

    const NONE: Self = Self { text: [0; Self::MOST], len: 0 };

    fn of(text: &str) -> Option<Self> {
        let mut new = Self::NONE;
        new.text.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        new.len = text.len();
        Some(new)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.text[..self.len]).unwrap_or("")
    }
}

/// The options, with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Leave instead of starting programs.
    pub exit: Option<Exit>,
    /// Run kernel self-tests, then leave.
    pub test: Option<SelfTest>,
    /// Fail on this CPU after boot, to show the epitaph.
    pub panic: Option<(u32, Failure)>,
    /// Each node has its own copy of kernel text and read-only data; off: all use the first node's.
    pub text_replication: bool,
    /// A thread that migrates to another node takes its control block along.
    pub tcb_migration: bool,
    /// Allocations come from the node they name; off (`flat`): all from the first node's pool.
    pub node_pools: bool,
    /// Kernel page tables are replicated per node; off: all nodes walk the first node's.
    pub page_table_replication: bool,
    /// Processor caches are on.
    pub cache: bool,
    /// The hand-written IPC path is used.
    pub fastpath: bool,
    /// Bytes of each node's kernel pool; `None`: a share of the node's memory.
    pub pool_size: Option<u64>,
    /// Start at most this many CPUs.
    pub max_cpus: Option<u32>,
    /// Treat this CPU as if it did not answer when it is started.
    pub silent_cpu: Option<u32>,
    /// What is measured of the CPUs' time-stamp counters is applied; off: they are taken to be equal.
    pub clock_sync: bool,
    /// Treat the time-stamp counter of CPU n as if it were n times so many microseconds ahead, or behind if n is even:
    /// tries the correction on machines whose counters agree.
    pub clock_skew_us: Option<u64>,
    /// Look where everything lies while programs run.
    pub placement_check: PlacementCheck,
    /// Print what the boot stages find.
    pub verbose: bool,
    /// Programs may read hardware counters and send interrupts to measure them.
    pub measure: bool,
    /// Record what the kernel does; only in a kernel that was built for it.
    pub trace: bool,
    /// Bytes of each CPU's trace.
    pub trace_size: u64,
    /// A kernel that has the debugger enters it; off: as if it had none.
    pub kdb: bool,
    /// What the root task is told.
    pub arguments: Arguments,
}

impl Options {
    /// What an empty command line means.
    pub const DEFAULT: Self = Options {
        exit: None,
        test: None,
        panic: None,
        text_replication: true,
        tcb_migration: true,
        node_pools: true,
        page_table_replication: true,
        cache: true,
        fastpath: true,
        pool_size: None,
        max_cpus: None,
        silent_cpu: None,
        clock_sync: true,
        clock_skew_us: None,
        placement_check: PlacementCheck::Off,
        verbose: false,
        measure: false,
        trace: false,
        trace_size: 128 << 10,
        kdb: true,
        arguments: Arguments::NONE,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a command line was refused. Displays as one line that says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// No option has this name.
    Unknown(&'a str),
    /// The value is none of those the option takes.
    BadValue {
        /// The option.
        name: &'static str,
        /// What was given.
        value: &'a str,
        /// What it takes.
        takes: &'static str,
    },
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Unknown(name) => {
                write!(f, "unknown kernel option `{name}`; known:")?;
                for known in KNOWN {
                    write!(f, " {}={}", known.name, known.takes)?;
                }
                Ok(())
            }
            OptionError::BadValue { name, value, takes } => {
                write!(f, "kernel option `{name}` takes {takes}, not `{value}`")
            }
        }
    }
}

/// One option: its name, what it takes, and how its value is stored (`None`: not understood).
struct Known {
    name: &'static str,
    takes: &'static str,
    set: fn(&mut Options, &str) -> Option<()>,
}

const KNOWN: &[Known] = &[
    Known {
        name: "exit",
        takes: "boot",
        set: |o, v| (v == "boot").then(|| o.exit = Some(Exit::Boot)),
    },
    Known {
        name: "test",
        takes: "boot",
        set: |o, v| (v == "boot").then(|| o.test = Some(SelfTest::Boot)),
    },
    Known {
        name: "panic",
        takes: "cpuN[:fault|:stack]",
        set: |o, v| put(&mut o.panic, failure(v).map(Some)),
    },
    Known {
        name: "text_replication",
        takes: "on|off",
        set: |o, v| put(&mut o.text_replication, switch(v)),
    },
    Known {
        name: "tcb_migration",
        takes: "on|off",
        set: |o, v| put(&mut o.tcb_migration, switch(v)),
    },
    Known {
        name: "node_pools",
        takes: "on|flat",
        set: |o, v| match v {
            "on" => put(&mut o.node_pools, Some(true)),
            "flat" => put(&mut o.node_pools, Some(false)),
            _ => None,
        },
    },
    Known {
        name: "page_table_replication",
        takes: "on|off",
        set: |o, v| put(&mut o.page_table_replication, switch(v)),
    },
    Known { name: "cache", takes: "on|off", set: |o, v| put(&mut o.cache, switch(v)) },
    Known { name: "fastpath", takes: "on|off", set: |o, v| put(&mut o.fastpath, switch(v)) },
    Known {
        name: "pool_size",
        takes: "BYTES[K|M|G]",
        set: |o, v| put(&mut o.pool_size, size(v).map(Some)),
    },
    Known {
        name: "maxcpus",
        takes: "N",
        set: |o, v| put(&mut o.max_cpus, v.parse().ok().filter(|&n| n > 0).map(Some)),
    },
    Known { name: "silent", takes: "cpuN", set: |o, v| put(&mut o.silent_cpu, cpu(v).map(Some)) },
    Known { name: "clock_sync", takes: "on|off", set: |o, v| put(&mut o.clock_sync, switch(v)) },
    Known {
        name: "clock_skew",
        takes: "MICROSECONDS",
        set: |o, v| put(&mut o.clock_skew_us, v.parse::<u32>().ok().map(|us| Some(us.into()))),
    },
    Known {
        name: "placement_check",
        takes: "off|exit|wrong",
        set: |o, v| {
            let modes = [
                ("off", PlacementCheck::Off),
                ("exit", PlacementCheck::Exit),
                ("wrong", PlacementCheck::Wrong),
            ];
            put(&mut o.placement_check, modes.iter().find(|(name, _)| *name == v).map(|m| m.1))
        },
    },
    Known { name: "verbose", takes: "on|off", set: |o, v| put(&mut o.verbose, switch(v)) },
    Known { name: "measure", takes: "on|off", set: |o, v| put(&mut o.measure, switch(v)) },
    Known { name: "kdb", takes: "on|off", set: |o, v| put(&mut o.kdb, switch(v)) },
    Known { name: "trace", takes: "on|off", set: |o, v| put(&mut o.trace, switch(v)) },
    Known {
        name: "trace_size",
        takes: "BYTES[K|M|G]",
        set: |o, v| put(&mut o.trace_size, size(v)),
    },
];

/// Stores a value that was understood.
fn put<T>(slot: &mut T, value: Option<T>) -> Option<()> {
    *slot = value?;
    Some(())
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// `cpuN`.
fn cpu(value: &str) -> Option<u32> {
    value.strip_prefix("cpu")?.parse().ok()
}

fn failure(value: &str) -> Option<(u32, Failure)> {
    let (number, kind) = match value.split_once(':') {
        None => (value, Failure::Panic),
        Some((number, "fault")) => (number, Failure::Fault),
        Some((number, "stack")) => (number, Failure::Stack),
        Some(_) => return None,
    };
    Some((cpu(number)?, kind))
}

/// A number of bytes, optionally in KiB, MiB or GiB; zero and overflow are refused.
fn size(value: &str) -> Option<u64> {
    let (digits, unit) = match value.as_bytes().last()? {
        b'K' | b'k' => (&value[..value.len() - 1], 1 << 10),
        b'M' | b'm' => (&value[..value.len() - 1], 1 << 20),
        b'G' | b'g' => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    // `parse` takes a sign; a size has none.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// Reads a command line. Later words override earlier ones.
pub fn parse(line: &str) -> Result<Options, OptionError<'_>> {
    let mut options = Options::DEFAULT;
    for word in line.split_ascii_whitespace().take_while(|&word| word != "--") {
        let (name, value) = word.split_once('=').ok_or(OptionError::Unknown(word))?;
        let known =
            KNOWN.iter().find(|known| known.name == name).ok_or(OptionError::Unknown(name))?;
        (known.set)(&mut options, value).ok_or(OptionError::BadValue {
            name: known.name,
            value,
            takes: known.takes,
        })?;
    }
    let rest = line
        .split_once(" -- ")
        .or_else(|| line.split_once("-- ").filter(|(own, _)| own.is_empty()));
    if let Some((_, rest)) = rest {
        options.arguments = Arguments::of(rest.trim()).ok_or(OptionError::BadValue {
            name: "--",
            value: rest,
            takes: "at most 120 bytes for the root task",
        })?;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_the_root_tasks() {
        for (line, wanted) in [
            ("cache=off -- seed=7 bogus=1", "seed=7 bogus=1"),
            ("-- x", "x"),
            ("cache=off --", ""),
            ("", ""),
        ] {
            assert_eq!(parse(line).map(|o| o.arguments.as_str().to_string()), Ok(wanted.into()));
        }
        assert!(parse(&format!("-- {}", "x".repeat(121))).is_err());
    }

    #[test]
    fn nothing_means_defaults() {
        assert_eq!(parse(""), Ok(Options::DEFAULT));
        assert_eq!(parse("  \t "), Ok(Options::DEFAULT));
    }

    #[test]
    fn every_option_is_stored() {
        let line = "exit=boot test=boot panic=cpu3 text_replication=off tcb_migration=off \
                    node_pools=flat page_table_replication=off cache=off fastpath=off \
                    pool_size=16M maxcpus=5 silent=cpu2 clock_sync=off \
                    clock_skew=700 placement_check=wrong verbose=on trace=on trace_size=1M kdb=off \
                    measure=on";
        let want = Options {
            exit: Some(Exit::Boot),
            test: Some(SelfTest::Boot),
            panic: Some((3, Failure::Panic)),
            text_replication: false,
            tcb_migration: false,
            node_pools: false,
            page_table_replication: false,
            cache: false,
            fastpath: false,
            pool_size: Some(16 << 20),
            max_cpus: Some(5),
            silent_cpu: Some(2),
            clock_sync: false,
            clock_skew_us: Some(700),
            placement_check: PlacementCheck::Wrong,
            verbose: true,
            measure: true,
            trace: true,
            trace_size: 1 << 20,
            kdb: false,
            arguments: Arguments::NONE,
        };
        assert_eq!(parse(line), Ok(want));
        assert_eq!(line.split_ascii_whitespace().count(), KNOWN.len());
    }

    #[test]
    fn later_words_win_and_a_double_dash_ends_the_kernels_part() {
        assert_eq!(parse("cache=off cache=on"), Ok(Options::DEFAULT));
        let with = parse("cache=on -- cache=off bogus=1");
        assert_eq!(with.map(|o| Options { arguments: Arguments::NONE, ..o }), Ok(Options::DEFAULT));
    }

    #[test]
    fn an_unknown_option_is_refused_and_the_known_ones_are_listed() {
        let error = parse("cache=on bogus=1").unwrap_err();
        assert_eq!(error, OptionError::Unknown("bogus"));
        // A word without a value is a misspelt option, too.
        assert_eq!(parse("cache=on fastpath off"), Err(OptionError::Unknown("fastpath")));
        let text = error.to_string();
        assert!(!text.contains('\n'));
        for known in KNOWN {
            assert!(text.contains(known.name), "{} is not listed", known.name);
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for word in [
            "exit=later",
            "exit=",
            "panic=3",
            "panic=cpu",
            "panic=cpu-1",
            "cache=maybe",
            "cache=ON",
            "node_pools=off",
            "maxcpus=0",
            "maxcpus=many",
            "clock_skew=-1",
            "clock_skew=fast",
            "placement_check=on",
            "pool_size=",
            "pool_size=M",
            "pool_size=-1",
            "pool_size=+1M",
            "pool_size=0",
            "pool_size=1T",
            "pool_size=99999999999999999999",
            "pool_size=18446744073709551615G",
            "test=all",
        ] {
            let name = word.split_once('=').unwrap().0;
            match parse(word) {
                Err(OptionError::BadValue { name: n, .. }) => assert_eq!(n, name),
                other => panic!("{word}: {other:?}"),
            }
        }
    }

    #[test]
    fn failures_have_kinds() {
        assert_eq!(failure("cpu0"), Some((0, Failure::Panic)));
        assert_eq!(failure("cpu12:fault"), Some((12, Failure::Fault)));
        assert_eq!(failure("cpu1:stack"), Some((1, Failure::Stack)));
        for bad in ["cpu1:", "cpu1:heap", ":fault", "1:stack", "cpu1:stack:stack"] {
            assert_eq!(failure(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1", 1), ("4K", 4096), ("3m", 3 << 20), ("2G", 2 << 30)] {
            assert_eq!(size(text), Some(bytes));
        }
    }
}
