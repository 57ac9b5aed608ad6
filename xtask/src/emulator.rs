//! Runs the emulator until the guest leaves or the time is over.

use crate::{
    console::{Follower, Seen},
    qemu::{self, Console},
    script::Script,
};
use anyhow::{Context, Result};
use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How a guest ended. The codes are those of the debug-exit device: the guest writes `v`, the
/// emulator exits with `2 v + 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest wrote 0x10.
    Success,
    /// The guest wrote 0x11: some tests failed.
    TestsFailed,
    /// The guest wrote 0x12: kernel panic.
    Panic,
    /// The time limit passed.
    TimedOut,
    /// The user left the emulator.
    Left,
    /// Anything else; what happened.
    Other(String),
}

impl End {
    /// Exit code for xtask.
    pub fn code(&self) -> u8 {
        match self {
            Self::Success | Self::Left => 0,
            Self::TestsFailed | Self::Other(_) => 1,
            Self::Panic => 101,
            Self::TimedOut => 124,
        }
    }

    fn from_status(status: ExitStatus, console: Console) -> Self {
        match status.code() {
            Some(33) => Self::Success,
            Some(35) => Self::TestsFailed,
            Some(37) => Self::Panic,
            Some(0) if console == Console::Terminal => Self::Left,
            // With -no-reboot a triple fault ends the emulator as if all were well.
            Some(0) => Self::Other("the guest reset or powered off without an exit code".into()),
            Some(1) => Self::Other("the emulator refused its command line or stopped".into()),
            Some(code) => {
                Self::Other(format!("the guest left with the unknown exit status {code}"))
            }
            None => Self::Other(format!("the emulator died: {status}")),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Success => write!(f, "the guest is done"),
            Self::TestsFailed => write!(f, "tests failed in the guest"),
            Self::Panic => write!(f, "the kernel panicked"),
            Self::TimedOut => write!(f, "the time limit passed"),
            Self::Left => write!(f, "the emulator was left"),
            Self::Other(what) => write!(f, "{what}"),
        }
    }
}

/// Runs the emulator; its messages on standard error go to `messages`.
pub fn run(
    args: &[String],
    console: Console,
    limit: Option<Duration>,
    messages: &PathBuf,
    mut follower: Follower,
    script: Option<Script>,
) -> Result<(End, Seen)> {
    let mut command = emulator_command();
    command.args(args).stdout(Stdio::piped());
    match console {
        Console::Terminal => command.stdin(Stdio::inherit()),
        Console::Pipe | Console::Scripted => {
            let file = std::fs::File::create(messages).context("cannot write the log directory")?;
            let input = match console {
                _ if script.is_some() => Stdio::piped(),
                Console::Scripted => Stdio::inherit(),
                _ => Stdio::null(),
            };
            command.stdin(input).stderr(file)
        }
    };
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", qemu::PROGRAM))?;
    let in_time = follow(&mut child, deadline, &mut follower, script.unwrap_or_default());
    if !matches!(in_time, Ok(true)) {
        child.kill().context("cannot stop the emulator")?;
    }
    let status = child.wait().context("cannot wait for the emulator")?;
    let end = if in_time? { End::from_status(status, console) } else { End::TimedOut };
    Ok((end, follower.finish()?))
}

/// The emulator, ended by the system when xtask dies first (where the host has `setpriv`).
fn emulator_command() -> Command {
    if std::path::Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--", qemu::PROGRAM]);
        command
    } else {
        Command::new(qemu::PROGRAM)
    }
}

/// Feeds the console to the follower until it is closed (`true`) or the deadline passes (`false`).
///
/// What the script has to say to that is typed.
fn follow(
    child: &mut Child,
    deadline: Option<Instant>,
    follower: &mut Follower,
    mut script: Script,
) -> Result<bool> {
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take().context("the emulator has no output")?;
    let (sender, receiver) = mpsc::channel();
    // The reader ends when the emulator does, or when the receiver is gone.
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count) = stdout.read(&mut buffer) {
            if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    loop {
        let wait = deadline.map_or(Duration::from_secs(3600), |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        match receiver.recv_timeout(wait) {
            Ok(bytes) => {
                follower.feed(&bytes)?;
                let typed = script.feed(&bytes);
                if let Some(stdin) = stdin.as_mut().filter(|_| !typed.is_empty()) {
                    // An emulator that has ended takes nothing; its end is seen next.
                    let _ = stdin.write_all(&typed).and_then(|()| stdin.flush());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn exit_codes_follow_the_protocol() {
        let end = |code: i32| End::from_status(ExitStatus::from_raw(code << 8), Console::Pipe);
        assert_eq!((end(33), end(33).code()), (End::Success, 0));
        assert_eq!((end(35), end(35).code()), (End::TestsFailed, 1));
        assert_eq!((end(37), end(37).code()), (End::Panic, 101));
        assert_eq!(End::TimedOut.code(), 124);
        for code in [0, 1, 2, 31, 34, 36, 38, 255] {
            assert!(matches!(end(code), End::Other(_)) && end(code).code() == 1, "{code}");
        }
        assert!(matches!(End::from_status(ExitStatus::from_raw(9), Console::Pipe), End::Other(_)));
        assert_eq!(End::from_status(ExitStatus::from_raw(0), Console::Terminal), End::Left);
    }
}
