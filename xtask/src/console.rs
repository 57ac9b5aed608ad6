//! Follows the guest's console: shows it, keeps it, explains backtraces, collects records.

use crate::{
    records::{self, Conditions, Line},
    symbols::Symbols,
};
use anyhow::{Context, Result};
use l4abi::trace;
use serde_json::{Map, Value};
use std::{
    fs::File,
    io::{Write, stdout},
    path::Path,
    time::{Duration, Instant},
};

/// A line that never ends is cut here, so that a guest gone mad cannot fill the host's memory.
const LONGEST_LINE: usize = 1 << 20;

/// Where console output goes and what is made of it.
pub struct Follower {
    echo: bool,
    log: File,
    json: Option<File>,
    conditions: Conditions,
    symbols: Symbols,
    started: Instant,
    pending: Vec<u8>,
    /// What has been collected so far.
    pub seen: Seen,
}

/// What a run's console has shown.
#[derive(Debug, Default)]
pub struct Seen {
    /// Records with their conditions.
    pub records: Vec<Map<String, Value>>,
    /// Lines that began like records and were none.
    pub broken: Vec<String>,
    /// From the emulator's start to the `boot` record.
    pub boot_time: Option<Duration>,
    /// Lines of an epitaph, with the explanations.
    pub epitaph: Vec<String>,
    /// The last lines of ordinary output.
    pub tail: Vec<String>,
    /// Lines of a kernel trace, without their prefix. They go to the log, but are not shown.
    pub trace: Vec<String>,
}

impl Follower {
    /// Begins to follow; the clock for the boot time starts now.
    pub fn new(
        echo: bool,
        log: &Path,
        json: Option<File>,
        conditions: Conditions,
        symbols: Symbols,
    ) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self {
            echo,
            log,
            json,
            conditions,
            symbols,
            started: Instant::now(),
            pending: Vec::new(),
            seen: Seen::default(),
        })
    }

    /// Takes the next bytes of the console.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        // Shown byte by byte as it comes, so that prompts and echoes work; explanations follow
        // after the end of the line that they explain.
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(part);
            self.show_pending(part.len())?;
            if part.ends_with(b"\n") || self.pending.len() > LONGEST_LINE {
                let line = std::mem::take(&mut self.pending);
                self.line(&String::from_utf8_lossy(&line))?;
            }
        }
        Ok(())
    }

    /// The console is closed: what is left is the last line.
    pub fn finish(mut self) -> Result<Seen> {
        if !self.pending.is_empty() {
            let line = std::mem::take(&mut self.pending);
            self.line(&String::from_utf8_lossy(&line))?;
        }
        Ok(self.seen)
    }

    /// Shows the last `fresh` bytes of the pending line, unless it is or may become a line of a trace.
    fn show_pending(&mut self, fresh: usize) -> Result<()> {
        let prefix = trace::PREFIX.as_bytes();
        let length = self.pending.len();
        let held =
            |length: usize| length <= prefix.len() && prefix.starts_with(&self.pending[..length]);
        let hidden = self.pending.starts_with(prefix) || held(length);
        // What was held back because it might have become such a line is shown now.
        let before = length - fresh;
        let from = if held(before) { 0 } else { before };
        let bytes = self.pending[from..].to_vec();
        self.write(&bytes[bytes.len() - fresh..], if hidden { &[] } else { &bytes })
    }

    fn show(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes, bytes)
    }

    fn write(&mut self, to_log: &[u8], bytes: &[u8]) -> Result<()> {
        self.log.write_all(to_log).context("cannot write the serial log")?;
        if self.echo && !bytes.is_empty() {
            let mut out = stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush()).context("cannot write the console")?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(line) = line.strip_prefix(trace::PREFIX) {
            self.seen.trace.push(line.to_string());
            return Ok(());
        }
        match records::parse(line) {
            Line::Record(record) => self.record(record)?,
            Line::Broken(reason) => self.seen.broken.push(format!("{reason}: {line}")),
            Line::Text => self.text(line)?,
        }
        Ok(())
    }

    fn record(&mut self, record: Map<String, Value>) -> Result<()> {
        if records::kind(&record) == "boot" && self.seen.boot_time.is_none() {
            self.seen.boot_time = Some(self.started.elapsed());
        }
        let record = self.conditions.add_to(record);
        if let Some(json) = &mut self.json {
            writeln!(json, "{}", serde_json::to_string(&record)?)
                .context("cannot write the record file")?;
        }
        self.seen.records.push(record);
        Ok(())
    }

    fn text(&mut self, line: &str) -> Result<()> {
        let explanation = self.symbols.explain(line);
        for text in &explanation {
            self.show(format!("{text}\n").as_bytes())?;
        }
        if line.starts_with("epitaph:") || line.starts_with("  #") {
            self.seen.epitaph.push(line.to_string());
            self.seen.epitaph.extend(explanation);
        }
        if self.seen.tail.len() == 20 {
            self.seen.tail.remove(0);
        }
        self.seen.tail.push(line.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(chunks: &[&[u8]]) -> (Seen, String) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("lokal-log-{}-{number}", std::process::id()));
        let conditions = Conditions {
            git: String::new(),
            profile: String::new(),
            machine: "m".into(),
            accel: String::new(),
            emulator: String::new(),
        };
        let symbols = Symbols::new(Path::new("/nonexistent"));
        let mut follower = Follower::new(false, &log, None, conditions, symbols).unwrap();
        for chunk in chunks {
            follower.feed(chunk).unwrap();
        }
        let seen = follower.finish().unwrap();
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
        std::fs::remove_file(log).unwrap();
        (seen, text)
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let (seen, log) = follow(&[b"hello\r\n@js", b"on {\"kind\":\"boot\"", b"}\r\nlast"]);
        assert_eq!(seen.records.len(), 1);
        assert_eq!(seen.records[0]["machine"], "m");
        assert!(seen.boot_time.is_some());
        assert_eq!(seen.tail, ["hello", "last"]);
        assert_eq!(log, "hello\r\n@json {\"kind\":\"boot\"}\r\nlast");
    }

    #[test]
    fn broken_records_and_epitaphs_are_kept() {
        let (seen, _) = follow(&[b"@json {oops\nepitaph: cpu 3\n  #0 0xffffffff80200000\n\xff\n"]);
        assert_eq!((seen.broken.len(), seen.records.len()), (1, 0));
        assert_eq!(seen.epitaph, ["epitaph: cpu 3", "  #0 0xffffffff80200000"]);
        assert!(seen.boot_time.is_none());
    }
}
