//! What a tracing kernel printed, taken apart and checked.

use anyhow::{Context, Result, bail, ensure};
use l4abi::trace::{self, Event, RECORD_BYTES, RECORDS_PER_LINE, Record};
use serde_json::{Map, Value};

/// The trace of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capture {
    /// Ticks of the time-stamp counter per second.
    pub tsc_hz: u64,
    /// Its value at clock zero.
    pub tsc_zero: u64,
    /// Threads that existed at the end.
    pub threads: Vec<Thread>,
    /// One entry per CPU.
    pub cpus: Vec<Cpu>,
}

/// A thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Thread {
    /// Its number.
    pub number: u32,
    /// Where it is in its program.
    pub ip: u64,
    /// The code bytes there.
    pub code: Vec<u8>,
}

/// What one CPU recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpu {
    /// Its number.
    pub number: u64,
    /// Its node.
    pub node: u64,
    /// Records that the ring forgot before the first of these.
    pub lost: u64,
    /// Oldest first; times never decrease.
    pub records: Vec<Record>,
}

impl Capture {
    /// Takes the lines of a trace (without their prefix) apart.
    ///
    /// # Errors
    /// The first thing that is missing, malformed or impossible.
    pub fn parse(lines: &[String]) -> Result<Self> {
        let mut capture = Self::default();
        let mut wanted = Vec::new();
        let mut cpus = None;
        let mut ended = false;
        for line in lines {
            let object: Map<String, Value> =
                serde_json::from_str(line).context("a line of the trace is damaged")?;
            ensure!(!ended, "the trace goes on behind its end");
            match object.get("kind").and_then(Value::as_str) {
                Some("trace") => {
                    let version = number(&object, "version")?;
                    ensure!(version == trace::VERSION, "the trace has format {version}");
                    capture.tsc_hz = number(&object, "tsc_hz")?;
                    capture.tsc_zero = number(&object, "tsc_zero")?;
                    cpus = Some(number(&object, "cpus")? as usize);
                }
                Some("trace-thread") => capture.threads.push(thread(&object)?),
                Some("trace-cpu") => {
                    let (cpu, kept) = cpu(&object)?;
                    wanted.push(kept);
                    capture.cpus.push(cpu);
                }
                Some("trace-data") => {
                    let cpu = capture.cpus.last_mut().context("records before the first CPU")?;
                    records(text(&object, "data")?, &mut cpu.records)?;
                }
                Some("trace-end") => ended = true,
                kind => bail!("the trace has a line of the unknown kind {kind:?}"),
            }
        }
        ensure!(cpus.is_some(), "the guest printed no trace");
        ensure!(ended, "the trace is cut short");
        ensure!(cpus == Some(capture.cpus.len()), "the trace lacks CPUs");
        ensure!(capture.tsc_hz > 0, "the trace has no clock rate");
        for (cpu, wanted) in capture.cpus.iter().zip(wanted) {
            check(cpu, wanted)?;
        }
        Ok(capture)
    }

    /// Microseconds since clock zero.
    pub fn us(&self, time: u64) -> f64 {
        // Before the clock was started: negative.
        let ticks = time.wrapping_sub(self.tsc_zero) as i64;
        (ticks as f64 * 1e9 / self.tsc_hz as f64).round() / 1e3
    }
}

fn check(cpu: &Cpu, wanted: u64) -> Result<()> {
    let (number, found) = (cpu.number, cpu.records.len());
    ensure!(found as u64 == wanted, "CPU {number}: {found} of {wanted} records arrived");
    for pair in cpu.records.windows(2) {
        ensure!(pair[0].time <= pair[1].time, "CPU {number}: time runs backwards");
    }
    match cpu.records.iter().find(|r| r.event().is_none()) {
        Some(record) => bail!("CPU {number}: unknown event {:#x}", record.head),
        None => Ok(()),
    }
}

fn number(object: &Map<String, Value>, key: &str) -> Result<u64> {
    object.get(key).and_then(Value::as_u64).with_context(|| format!("the trace lacks '{key}'"))
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    object.get(key).and_then(Value::as_str).with_context(|| format!("the trace lacks '{key}'"))
}

fn thread(object: &Map<String, Value>) -> Result<Thread> {
    let code = text(object, "code")?;
    Ok(Thread {
        number: number(object, "number")? as u32,
        ip: number(object, "ip")?,
        code: hex(code).with_context(|| format!("code bytes '{code}'"))?,
    })
}

fn cpu(object: &Map<String, Value>) -> Result<(Cpu, u64)> {
    let (written, kept) = (number(object, "written")?, number(object, "kept")?);
    ensure!(kept <= written, "a CPU kept more records than it wrote");
    let cpu = Cpu {
        number: number(object, "cpu")?,
        node: number(object, "node")?,
        lost: written - kept,
        records: Vec::new(),
    };
    Ok((cpu, kept))
}

fn records(data: &str, into: &mut Vec<Record>) -> Result<()> {
    let mut bytes = [0; RECORD_BYTES * RECORDS_PER_LINE];
    let length = trace::decode(data, &mut bytes).context("records are damaged")?;
    let (whole, rest) = bytes[..length].as_chunks::<RECORD_BYTES>();
    ensure!(rest.is_empty(), "a record is cut short");
    into.extend(whole.iter().map(Record::from_bytes));
    Ok(())
}

/// Bytes written in hexadecimal.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

/// The event of a record that [`Capture::parse`] has checked.
pub fn event(record: &Record) -> Event {
    record.event().unwrap_or(Event::Leave)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The lines that a kernel with these records prints.
    pub fn lines(cpus: &[&[Record]]) -> Vec<String> {
        let mut lines = vec![
            format!(r#"{{"kind":"trace","version":1,"cpus":{},"tsc_hz":1000000000,"tsc_zero":1000}}"#, cpus.len()),
            r#"{"kind":"trace-thread","number":60,"id":983041,"cpu":0,"priority":100,"space":1,"ip":4194304,"code":"0f05c3"}"#.into(),
        ];
        for (number, records) in cpus.iter().enumerate() {
            let kept = records.len();
            lines.push(format!(
                r#"{{"kind":"trace-cpu","cpu":{number},"node":{number},"written":{},"kept":{kept}}}"#,
                kept + 5
            ));
            for group in records.chunks(RECORDS_PER_LINE) {
                let bytes: Vec<u8> = group.iter().flat_map(Record::to_bytes).collect();
                let mut data = String::new();
                trace::encode(&mut data, &bytes).unwrap();
                lines.push(format!(r#"{{"kind":"trace-data","data":"{data}"}}"#));
            }
        }
        lines.push(r#"{"kind":"trace-end"}"#.into());
        lines
    }

    fn some(count: u64) -> Vec<Record> {
        (0..count).map(|i| Record::new(2000 + i, Event::Wake, 0, i as u32, 0, 0)).collect()
    }

    #[test]
    fn lines_become_records() {
        let (a, b) = (some(13), some(1));
        let capture = Capture::parse(&lines(&[&a, &b, &[]])).unwrap();
        assert_eq!(capture.cpus[0].records, a);
        assert_eq!((capture.cpus[1].records.len(), capture.cpus[1].lost), (1, 5));
        assert!(capture.cpus[2].records.is_empty());
        assert_eq!(capture.threads[0].code, [0x0f, 5, 0xc3]);
        assert_eq!(capture.us(2500), 1.5);
        assert_eq!(capture.us(500), -0.5);
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let good = lines(&[&some(13)]);
        let broken = |change: &dyn Fn(&mut Vec<String>)| {
            let mut lines = good.clone();
            change(&mut lines);
            format!("{:#}", Capture::parse(&lines).unwrap_err())
        };
        assert!(broken(&|l| l.clear()).contains("no trace"));
        assert!(broken(&|l| drop(l.pop())).contains("cut short"));
        assert!(broken(&|l| drop(l.remove(4))).contains("7 of 13"));
        assert!(broken(&|l| drop(l.remove(2))).contains("before the first CPU"));
        assert!(broken(&|l| l.swap(3, 4)).contains("backwards"));
        assert!(broken(&|l| l[3] = l[3].replace("data\":\"", "data\":\"!")).contains("damaged"));
        assert!(broken(&|l| l[0] = l[0].replace("\"version\":1", "\"version\":9")).contains("9"));
        assert!(broken(&|l| l[1].truncate(9)).contains("damaged"));
        assert!(broken(&|l| l.push("{}".into())).contains("behind its end"));
        let strange = Record { head: 0xFFFF, ..Record::default() };
        assert!(
            format!("{}", Capture::parse(&lines(&[&[strange]])).unwrap_err()).contains("unknown")
        );
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(hex("00ff7A"), Some(vec![0, 255, 0x7a]));
        assert_eq!(hex(""), Some(vec![]));
        assert_eq!((hex("0"), hex("0g"), hex("é")), (None, None, None));
    }
}
