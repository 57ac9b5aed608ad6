//! Kernel traces: from the lines that the guest prints to a file for Perfetto (docs/design/tracing.md).

mod capture;
mod chrome;
pub mod flows;
mod names;

use crate::say;
use anyhow::{Context, Result};
pub use capture::{Capture, hex};
use flows::Kind;
pub use names::Names;
use std::{fs, path::Path};

/// What a trace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records.
    pub records: usize,
    /// Messages to another CPU, followed from the send to the waking of the receiver.
    pub messages: usize,
    /// Those of them for which an interrupt was sent and is found on the other CPU.
    pub by_interrupt: usize,
    /// Other travels and shootdowns that could be followed.
    pub others: usize,
}

/// Decodes the trace in `lines`, writes it to `file` in the Chrome format and says what is in it.
pub fn write(lines: &[String], names: &mut Names, file: &Path) -> Result<Summary> {
    let capture = Capture::parse(lines)?;
    let flows = flows::find(&capture);
    names.learn(&capture);
    let value = chrome::export(&capture, &flows, &mut |number| names.thread(number));
    fs::write(file, serde_json::to_string(&value)? + "\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(summary(&capture, &flows))
}

fn summary(capture: &Capture, flows: &[flows::Flow]) -> Summary {
    let records = capture.cpus.iter().map(|cpu| cpu.records.len()).sum();
    let mut summary = Summary { records, ..Summary::default() };
    for flow in flows {
        if flow.kind != Kind::Message {
            summary.others += 1;
            continue;
        }
        let first_cpu = flow.points[0].0;
        summary.messages += 1;
        let has = |wanted: l4abi::trace::Event, away: bool| {
            flow.points.iter().any(|&(cpu, index)| {
                (cpu != first_cpu) == away
                    && capture.cpus[cpu].records[index].event() == Some(wanted)
            })
        };
        let whole = has(l4abi::trace::Event::IpiSent, false)
            && has(l4abi::trace::Event::IpiReceived, true)
            && has(l4abi::trace::Event::Switch, true);
        summary.by_interrupt += usize::from(whole);
    }
    summary
}

/// Tells the user what was written.
pub fn tell(summary: &Summary, file: &Path) {
    say::step(
        "Traced",
        &format!(
            "{}: {} records, {} messages to other CPUs ({} by interrupt), {} other flows",
            file.display(),
            summary.records,
            summary.messages,
            summary.by_interrupt,
            summary.others
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_summed_up() {
        let capture = flows::tests::call();
        let summary = summary(&capture, &flows::find(&capture));
        assert_eq!(summary, Summary { records: 23, messages: 1, by_interrupt: 1, others: 1 });
    }
}
