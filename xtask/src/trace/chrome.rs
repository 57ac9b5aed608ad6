//! A trace in the Chrome format, which ui.perfetto.dev opens.
//!
//! Each CPU is a process with two tracks: the thread that runs, and the kernel's stays, each with its steps inside. A
//! step lasts until the next record of its CPU.

use super::capture::{Capture, Cpu, event};
use super::flows::{Flow, Kind, Point};
use l4abi::ThreadId;
use l4abi::syscall::SyscallNo;
use l4abi::trace::{Event, IDLE, Record};
use serde_json::{Value, json};

const RUNNING: u64 = 1;
const KERNEL: u64 = 2;

/// What a step whose end is not known lasts, in ticks, so that it can be seen.
const LEAST: u64 = 20;

/// Everything as one JSON value. `name` names a thread by its number.
pub fn export(capture: &Capture, flows: &[Flow], name: &mut dyn FnMut(u32) -> String) -> Value {
    let mut events = Vec::new();
    for cpu in &capture.cpus {
        header(cpu, &mut events);
        running(capture, cpu, name, &mut events);
        stays(capture, cpu, name, &mut events);
    }
    for (id, flow) in flows.iter().enumerate() {
        arrows(capture, id, flow, &mut events);
    }
    let lost: u64 = capture.cpus.iter().map(|cpu| cpu.lost).sum();
    json!({
        "displayTimeUnit": "ns",
        "otherData": {
            "source": "Lokal kernel trace",
            "clock": "time-stamp counter, microseconds since boot; under emulation this is emulated time",
            "records_lost": lost,
        },
        "traceEvents": events,
    })
}

fn header(cpu: &Cpu, events: &mut Vec<Value>) {
    let pid = cpu.number;
    let meta = |name: &str, tid: u64, args: Value| json!({"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args});
    let title = format!("CPU {pid} (node {})", cpu.node);
    events.push(meta("process_name", 0, json!({"name": title})));
    events.push(meta("process_sort_index", 0, json!({"sort_index": pid})));
    events.push(meta("thread_name", RUNNING, json!({"name": "running"})));
    events.push(meta("thread_name", KERNEL, json!({"name": "kernel"})));
}

/// A slice on a track of `cpu`, from one time to another.
struct Slice<'a> {
    capture: &'a Capture,
    cpu: &'a Cpu,
    track: u64,
    times: (u64, u64),
}

impl Slice<'_> {
    fn event(self, name: &str, args: Value) -> Value {
        let (start, end) = (self.capture.us(self.times.0), self.capture.us(self.times.1));
        let dur = ((end - start) * 1e3).round() / 1e3;
        json!({"ph": "X", "name": name, "pid": self.cpu.number, "tid": self.track, "ts": start, "dur": dur, "args": args})
    }
}

/// The threads that ran, from switch to switch.
fn running(
    capture: &Capture,
    cpu: &Cpu,
    name: &mut dyn FnMut(u32) -> String,
    events: &mut Vec<Value>,
) {
    let switches: Vec<_> = cpu.records.iter().filter(|r| event(r) == Event::Switch).collect();
    let end = cpu.records.last().map_or(0, |r| r.time);
    for (at, switch) in switches.iter().enumerate().filter(|(_, s)| s.thread() != IDLE) {
        let until = switches.get(at + 1).map_or(end, |next| next.time);
        let slice = Slice { capture, cpu, track: RUNNING, times: (switch.time, until) };
        let args = json!({"thread": switch.thread(), "root": format!("{:#x}", switch.b)});
        events.push(slice.event(&name(switch.thread()), args));
    }
}

/// Whether a stay in the kernel begins with this record although the last one has not ended: what happened while the
/// CPU was idle.
fn begins(record: &Record) -> bool {
    matches!(event(record), Event::Enter | Event::PageFault | Event::Exception | Event::Interrupt)
}

/// Length of the first stay in `records`. It ends with the way to user level, or when the CPU sleeps: behind the switch
/// to the idle thread only what belongs to a departure may follow.
fn stay(records: &[Record]) -> usize {
    let mut idle = false;
    for (at, record) in records.iter().enumerate() {
        let follows = matches!(event(record), Event::Depart | Event::IpiSent);
        if at > 0 && (begins(record) || (idle && !follows)) {
            return at;
        }
        match event(record) {
            Event::Leave => return at + 1,
            Event::Switch => idle = record.thread() == IDLE,
            _ => {}
        }
    }
    records.len()
}

/// The stays in the kernel with their steps.
fn stays(
    capture: &Capture,
    cpu: &Cpu,
    name: &mut dyn FnMut(u32) -> String,
    events: &mut Vec<Value>,
) {
    let records = &cpu.records;
    let mut first = 0;
    while first < records.len() {
        let stay = &records[first..first + stay(&records[first..])];
        let end = (stay[stay.len() - 1].time).max(stay[0].time + LEAST);
        let slice = Slice { capture, cpu, track: KERNEL, times: (stay[0].time, end) };
        events.push(slice.event(&title(&stay[0]), arguments(&stay[0], name)));
        let inner = if begins(&stay[0]) { 1 } else { 0 };
        for (at, step) in stay.iter().enumerate().skip(inner) {
            if event(step) != Event::Leave {
                let until = stay.get(at + 1).map_or(end, |next| next.time);
                let slice = Slice { capture, cpu, track: KERNEL, times: (step.time, until) };
                events.push(slice.event(&title(step), arguments(step, name)));
            }
        }
        first += stay.len();
    }
}

/// What a step is called.
fn title(record: &Record) -> String {
    let detail = record.detail();
    match event(record) {
        Event::Enter => {
            SyscallNo::from_raw(detail.into()).map_or("system call", SyscallNo::name).into()
        }
        Event::Interrupt => format!("interrupt {detail:#x}"),
        Event::Exception => format!("exception {detail}"),
        other => other.name().into(),
    }
}

/// A global id, or what stands for one.
fn partner(id: u64, name: &mut dyn FnMut(u32) -> String) -> String {
    match ThreadId::from_raw(id) {
        ThreadId::NIL => "nobody".into(),
        ThreadId::ANY => "anybody".into(),
        ThreadId::ANY_LOCAL => "anybody local".into(),
        local if local.is_local() => format!("local id {id:#x}"),
        global => name(global.number().0),
    }
}

/// What a step is about.
fn arguments(r: &Record, name: &mut dyn FnMut(u32) -> String) -> Value {
    let mut args = match event(r) {
        Event::Enter if r.detail() == SyscallNo::Ipc.raw() as u16 => {
            json!({"to": partner(r.a, name), "from": partner(r.b, name)})
        }
        Event::Enter => json!({"rsi": format!("{:#x}", r.a), "rdx": format!("{:#x}", r.b)}),
        Event::Switch => {
            json!({"before": if r.a as u32 == IDLE { "idle".into() } else { name(r.a as u32) }})
        }
        Event::IpcSend => {
            let kernel = r.detail() & l4abi::trace::send::KERNEL != 0;
            let cross = r.detail() & l4abi::trace::send::CROSS != 0;
            json!({"to": partner(r.a, name), "tag": format!("{:#x}", r.b), "kernel": kernel, "other CPU": cross})
        }
        Event::IpcReceive => json!({"from": partner(r.a, name), "tag": format!("{:#x}", r.b)}),
        Event::IpcWait => json!({"for": partner(r.a, name)}),
        Event::IpcError => json!({"error": format!("{:#x}", r.a)}),
        Event::PageFault => {
            json!({"address": format!("{:#x}", r.a), "ip": format!("{:#x}", r.b), "access": r.detail()})
        }
        Event::Exception => json!({"ip": format!("{:#x}", r.a), "error": format!("{:#x}", r.b)}),
        Event::Map => json!({"to": name(r.a as u32), "fpage": format!("{:#x}", r.b)}),
        Event::Unmap => json!({"fpage": format!("{:#x}", r.a), "flush": r.detail() != 0}),
        Event::IpiSent => json!({"vector": format!("{:#x}", r.detail()), "cpu": r.a}),
        Event::IpiReceived => json!({"vector": format!("{:#x}", r.detail())}),
        Event::ShootdownRequest => json!({"kind": r.detail()}),
        Event::ShootdownDone => json!({"cpus": r.a}),
        Event::ShootdownServed | Event::Depart => json!({"cpu": r.a}),
        Event::Migrate => json!({"from": r.a, "to": r.b}),
        Event::Start => json!({"ip": format!("{:#x}", r.a)}),
        Event::Leave | Event::Interrupt | Event::Wake | Event::Timeout | Event::Arrive => json!({}),
    };
    if r.thread() != IDLE {
        args["thread"] = name(r.thread()).into();
    }
    args
}

/// The arrows of a flow.
fn arrows(capture: &Capture, id: usize, flow: &Flow, events: &mut Vec<Value>) {
    let name = match flow.kind {
        Kind::Message => "message",
        Kind::Travel => "travel",
        Kind::Shootdown => "shootdown",
    };
    let last = flow.points.len() - 1;
    for (at, &(cpu, index)) in flow.points.iter().enumerate() {
        let phase = match at {
            0 => "s",
            n if n == last => "f",
            _ => "t",
        };
        let ts = capture.us(time_inside(capture, (cpu, index)));
        let mut arrow = json!({"ph": phase, "name": name, "cat": "flow", "id": id,
            "pid": capture.cpus[cpu].number, "tid": KERNEL, "ts": ts});
        if phase == "f" {
            arrow["bp"] = "e".into();
        }
        events.push(arrow);
    }
}

fn time_inside(capture: &Capture, (cpu, index): Point) -> u64 {
    capture.cpus[cpu].records[index].time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::flows::{self, tests::call};

    fn exported() -> Vec<Value> {
        let capture = call();
        let flows = flows::find(&capture);
        let value = export(&capture, &flows, &mut |n| format!("t{n}"));
        // What is written can be read again.
        let text = serde_json::to_string(&value).unwrap();
        let back: Value = serde_json::from_str(&text).unwrap();
        back["traceEvents"].as_array().unwrap().clone()
    }

    fn slices(events: &[Value], pid: u64, tid: u64) -> Vec<(String, f64, f64)> {
        let here = |e: &&Value| e["ph"] == "X" && e["pid"] == pid && e["tid"] == tid;
        let slice = |e: &Value| {
            let start = e["ts"].as_f64().unwrap();
            (e["name"].as_str().unwrap().to_string(), start, start + e["dur"].as_f64().unwrap())
        };
        events.iter().filter(here).map(slice).collect()
    }

    #[test]
    fn stays_have_their_steps_inside() {
        let events = exported();
        let kernel = slices(&events, 0, KERNEL);
        let names: Vec<_> = kernel.iter().map(|s| s.0.as_str()).collect();
        let want = [
            "Ipc",
            "ipc send",
            "depart",
            "IPI sent",
            "switch",
            "interrupt 0xf1",
            "IPI received",
            "arrive",
            "wake-up",
            "switch",
        ];
        assert_eq!(names, want);
        for pair in kernel.windows(2) {
            assert!(pair[0].1 <= pair[1].1, "{pair:?}");
            // The next one lies inside, or begins when this one ends or later.
            let inside = pair[1].2 <= pair[0].2 + 1e-9;
            assert!(inside || pair[1].1 + 1e-9 >= pair[0].2, "{pair:?}");
        }
        assert_eq!(slices(&events, 0, RUNNING), [("t60".into(), 3.04, 3.05)]);
    }

    #[test]
    fn every_arrow_begins_and_ends_once_in_a_slice() {
        let events = exported();
        for id in 0..2 {
            let phases: String = events
                .iter()
                .filter(|e| e["cat"] == "flow" && e["id"] == id)
                .map(|e| e["ph"].as_str().unwrap())
                .collect();
            assert!(phases.starts_with('s') && phases.ends_with('f'), "{phases}");
            assert_eq!(phases.matches(['s', 'f']).count(), 2);
        }
        for arrow in events.iter().filter(|e| e["cat"] == "flow") {
            let (pid, ts) = (arrow["pid"].as_u64().unwrap(), arrow["ts"].as_f64().unwrap());
            let on = slices(&events, pid, KERNEL);
            assert!(on.iter().any(|s| s.1 <= ts && ts <= s.2), "{arrow}");
        }
    }

    #[test]
    fn tracks_are_named() {
        let events = exported();
        let named = |kind: &str| events.iter().filter(|e| e["name"] == kind).count();
        assert_eq!((named("process_name"), named("thread_name")), (2, 4));
    }
}
