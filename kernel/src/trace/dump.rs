//! The trace leaves the machine: lines on the console (`l4abi::trace` has their form), when a program says that it is
//! about to leave, or at the end of a panic. Works over any serial line.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use kcore::types::CpuId;
use l4abi::record::Line;
use l4abi::trace::{self, PREFIX, RECORD_BYTES, RECORDS_PER_LINE, VERSION};

use super::Ring;
use crate::arch::x86_64::{clock, tcb_area};
use crate::space::user;
use crate::thread::tcb::TcbRef;
use crate::thread::{self, program};
use crate::{console, cpu, machine};

/// The console, one line as a unit, also after a panic.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::print_forced(format_args!("{text}"));
        Ok(())
    }
}

/// A line under construction: others may print, too.
struct Buffered {
    text: [u8; 512],
    len: usize,
}

impl Write for Buffered {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let bytes = text.as_bytes();
        let room = self.text.get_mut(self.len..self.len + bytes.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }
}

/// Prints one line of kind `kind`. A line that does not fit is left out: the decoder misses it.
fn line(kind: &str, fill: impl FnOnce(&mut Line<'_, Buffered>)) {
    let mut out = Buffered { text: [0; 512], len: 0 };
    let mut line = Line::begin_with(&mut out, PREFIX, kind);
    fill(&mut line);
    if line.end().is_ok()
        && let Ok(text) = core::str::from_utf8(&out.text[..out.len])
    {
        let _ = Console.write_str(text);
    }
}

/// The trace was printed, or is being printed.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Ends the recording on all CPUs and prints what there is, once. Nothing if the option was not given.
pub fn print() {
    if !machine::get().options.trace || PRINTED.swap(true, Ordering::AcqRel) {
        return;
    }
    rings().for_each(|(_, ring)| ring.switch(false));
    line("trace", |l| {
        l.num("version", VERSION).num("cpus", rings().count() as u64);
        l.num("tsc_hz", clock::tsc_hz()).num("tsc_zero", 0);
    });
    tcb_area::present().filter_map(thread::present).for_each(print_thread);
    rings().for_each(|(number, ring)| print_ring(number, ring));
    line("trace-end", |_| {});
}

fn rings() -> impl Iterator<Item = (usize, &'static Ring)> {
    (0..cpu::count()).filter_map(|n| Some((n, &cpu::shared_of(CpuId::new(n as u16))?.trace)))
}

/// What is needed to name a thread: where it is and what code lies there, which says whose program it is.
fn print_thread(t: TcbRef) {
    let at = program::whereabouts(t, user::read_some);
    line("trace-thread", |l| {
        l.num("number", t.number().get().into()).num("id", t.id.get());
        l.num("cpu", t.travel.home().into()).num("priority", t.priority.get().into());
        l.num("space", crate::ipc::space_token(t)).num("ip", at.ip);
        l.display("code", at.code());
    });
}

fn print_ring(number: usize, ring: &Ring) {
    let kept = ring.kept();
    let node = cpu::node_page().nodes[number];
    line("trace-cpu", |l| {
        l.num("cpu", number as u64).num("node", node.into());
        l.num("written", ring.written()).num("kept", kept.end - kept.start);
    });
    let mut next = kept.start;
    while next < kept.end {
        let mut bytes = [0; RECORD_BYTES * RECORDS_PER_LINE];
        let count = RECORDS_PER_LINE.min((kept.end - next) as usize);
        for (place, n) in bytes.as_chunks_mut::<RECORD_BYTES>().0.iter_mut().zip(next..kept.end) {
            *place = ring.record(n).to_bytes();
        }
        line("trace-data", |l| {
            l.display("data", Base64(&bytes[..count * RECORD_BYTES]));
        });
        next += count as u64;
    }
}

struct Base64<'a>(&'a [u8]);

impl fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        trace::encode(f, self.0)
    }
}
