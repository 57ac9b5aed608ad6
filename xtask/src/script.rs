//! What is typed at a guest: `--input FILE`, and the suites with `input`.
//!
//! A line of the file is typed when the guest shows the debugger's prompt. `wait TEXT` lets the next line wait for TEXT
//! instead, `key esc` types the escape key without an end of line, and lines that begin with `#` are for the reader.

use anyhow::{Context, Result, bail};
use std::{collections::VecDeque, fs, path::Path};

/// What the debugger shows when it waits for a command.
const PROMPT: &str = "kdb> ";
/// As much of the console is kept to look for a text in.
const KEPT: usize = 1 << 16;

/// One thing to type.
#[derive(Debug, PartialEq)]
struct Step {
    wait: String,
    send: Vec<u8>,
}

/// What is left to be typed.
#[derive(Debug, Default)]
pub struct Script {
    steps: VecDeque<Step>,
    shown: String,
}

impl Script {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is none of those above.
    pub fn load(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut steps = VecDeque::new();
        let mut wait = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(text) = line.strip_prefix("wait ") {
                wait = Some(text.to_string());
                continue;
            }
            let send = match line.strip_prefix("key ") {
                Some("esc") => vec![0x1b],
                Some(key) => bail!("no key '{key}'; there is esc"),
                None => format!("{line}\r").into_bytes(),
            };
            steps.push_back(Step { wait: wait.take().unwrap_or(PROMPT.into()), send });
        }
        Ok(Self { steps, shown: String::new() })
    }

    /// The guest has shown `bytes`; answers what to type now.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.shown.push_str(&String::from_utf8_lossy(bytes));
        let Some(step) = self.steps.front() else { return Vec::new() };
        let Some(at) = self.shown.find(&step.wait) else {
            let excess = self.shown.len().saturating_sub(KEPT);
            let cut = (excess..self.shown.len()).find(|&i| self.shown.is_char_boundary(i));
            self.shown.drain(..cut.unwrap_or(0));
            return Vec::new();
        };
        // What came before is done with: the same text must come again for the next step.
        self.shown.drain(..at + step.wait.len());
        self.steps.pop_front().map_or_else(Vec::new, |step| step.send)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_typed_when_asked_for() {
        let mut script = Script::parse("# first\nwait hello\nkey esc\nthreads\n\ngo").unwrap();
        assert_eq!(script.feed(b"kdb> hel"), b"");
        assert_eq!(script.feed(b"lo there"), b"\x1b");
        assert_eq!(script.feed(b"\r\nkdb"), b"");
        assert_eq!(script.feed(b"> "), b"threads\r");
        assert_eq!(script.feed(b"threads\r\n"), b"");
        assert_eq!(script.feed(b"1 threads\r\nkdb> "), b"\r");
        assert_eq!(script.feed(b"kdb> "), b"go\r");
        assert_eq!(script.feed(b"kdb> "), b"");
    }

    #[test]
    fn a_long_console_is_forgotten() {
        let mut script = Script::parse("go").unwrap();
        for _ in 0..100 {
            assert_eq!(script.feed(&[0xc3; 4096]), b"");
        }
        assert!(script.shown.len() <= KEPT + 3);
        assert_eq!(script.feed(b"kdb> "), b"go\r");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(Script::parse("key f7").unwrap_err().to_string().contains("f7"));
    }
}
