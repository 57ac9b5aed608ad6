//! Which records of different CPUs belong together.
//!
//! A thread that travels leaves one `Depart` and one `Arrive`; it cannot depart again before it has arrived, so in the
//! order of time they alternate and pair up. Around such a pair the records of the same stay in the kernel tell the rest:
//! the send that made the thread travel, the interrupt that was sent for it, its receipt, and whom it woke.
//! Clocks of different CPUs agree to less than an interrupt takes (docs/design/cross-cpu.md).

use super::capture::{Capture, Cpu, event};
use l4abi::ThreadId;
use l4abi::trace::{Event, Record, send};
use std::collections::BTreeMap;

/// A record: index of the CPU, index of the record.
pub type Point = (usize, usize);

/// What a flow is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A send to a thread on another CPU, up to that thread's waking.
    Message,
    /// Any other travel: a thread goes home with its reply, or migrates, or has its system call done elsewhere.
    Travel,
    /// A request to forget translations, up to the answer.
    Shootdown,
}

/// Points in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// What it is about.
    pub kind: Kind,
    /// First the cause, last the effect.
    pub points: Vec<Point>,
}

/// All flows of a trace, in the order of their beginnings.
pub fn find(capture: &Capture) -> Vec<Flow> {
    let mut flows: Vec<Flow> =
        travels(capture).into_iter().map(|(from, to)| travel(capture, from, to)).collect();
    flows.extend(shootdowns(capture));
    flows.sort_by_key(|flow| time(capture, flow.points[0]));
    flows
}

fn record(capture: &Capture, (cpu, index): Point) -> &Record {
    &capture.cpus[cpu].records[index]
}

fn time(capture: &Capture, point: Point) -> u64 {
    record(capture, point).time
}

/// All points with one of these events, by time.
fn points(capture: &Capture, wanted: &[Event]) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for (cpu, trace) in capture.cpus.iter().enumerate() {
        let fits =
            |(index, r): (usize, &Record)| wanted.contains(&event(r)).then_some((cpu, index));
        points.extend(trace.records.iter().enumerate().filter_map(fits));
    }
    points.sort_by_key(|&point| time(capture, point));
    points
}

/// Departures with their arrivals.
fn travels(capture: &Capture) -> Vec<(Point, Point)> {
    let mut under_way: BTreeMap<u32, Point> = BTreeMap::new();
    let mut pairs = Vec::new();
    for point in points(capture, &[Event::Depart, Event::Arrive]) {
        let r = record(capture, point);
        if event(r) == Event::Depart {
            under_way.insert(r.thread(), point);
        } else if let Some(from) = under_way.remove(&r.thread())
            && record(capture, from).a == capture.cpus[point.0].number
        {
            pairs.push((from, point));
        }
    }
    pairs
}

/// The whole way of a thread that departs at `from` and arrives at `to`.
fn travel(capture: &Capture, from: Point, to: Point) -> Flow {
    let thread = record(capture, from).thread();
    let (source, target) = (&capture.cpus[from.0], &capture.cpus[to.0]);
    let mut points = Vec::new();
    let mut kind = Kind::Travel;
    if let Some(index) = cause(source, from.1, thread) {
        let sent = &source.records[index];
        if sent.thread() == thread && sent.detail() & send::CROSS != 0 {
            kind = Kind::Message;
        }
        points.push((from.0, index));
    }
    points.push(from);
    let rung = interrupt_sent(source, from.1, target.number);
    points.extend(rung.map(|index| (from.0, index)));
    if let Some(rung) = rung {
        let sent = source.records[rung].time;
        points.extend(interrupt_taken(target, to.1, sent).map(|index| (to.0, index)));
    }
    points.push(to);
    let last = effects(target, to.1, thread);
    points.extend(last.into_iter().map(|index| (to.0, index)));
    Flow { kind, points }
}

/// The send before a departure, in the same stay in the kernel: by the traveller, or to it.
fn cause(cpu: &Cpu, depart: usize, thread: u32) -> Option<usize> {
    let before = cpu.records[..depart].iter().enumerate().rev();
    before
        .take_while(|(_, r)| event(r) != Event::Leave)
        .find(|(_, r)| {
            let to = ThreadId::from_raw(r.a).number().0;
            event(r) == Event::IpcSend && (r.thread() == thread || to == thread)
        })
        .map(|(index, _)| index)
}

/// The interrupt that was sent for a departure, if there was one: before anything else departs.
fn interrupt_sent(cpu: &Cpu, depart: usize, target: u64) -> Option<usize> {
    let behind = cpu.records.iter().enumerate().skip(depart + 1);
    behind
        .take_while(|(_, r)| !matches!(event(r), Event::Depart | Event::Leave))
        .find(|(_, r)| event(r) == Event::IpiSent && r.a == target)
        .map(|(index, _)| index)
}

/// The interrupt of another CPU that came last before an arrival, if it came after `sent`.
fn interrupt_taken(cpu: &Cpu, arrive: usize, sent: u64) -> Option<usize> {
    let before = cpu.records[..arrive].iter().enumerate().rev();
    before
        .take_while(|(_, r)| r.time >= sent)
        .find(|(_, r)| event(r) == Event::IpiReceived)
        .map(|(index, _)| index)
}

/// What comes of an arrival, in the same stay: a message is received, and who received it, or the traveller itself,
/// begins to run.
fn effects(cpu: &Cpu, arrive: usize, thread: u32) -> Vec<usize> {
    let mut runs = thread;
    let mut effects = Vec::new();
    for (index, r) in cpu.records.iter().enumerate().skip(arrive + 1) {
        match event(r) {
            Event::Leave | Event::Depart => break,
            Event::IpcReceive if ThreadId::from_raw(r.a).number().0 == thread => {
                runs = r.thread();
                effects.push(index);
            }
            Event::Switch if r.thread() == runs => {
                effects.push(index);
                break;
            }
            _ => {}
        }
    }
    effects
}

/// Requests to forget translations with their answers, one flow per answer.
fn shootdowns(capture: &Capture) -> Vec<Flow> {
    let mut asking: BTreeMap<u64, Point> = BTreeMap::new();
    let mut flows = Vec::new();
    let events = [Event::ShootdownRequest, Event::ShootdownServed];
    for point in points(capture, &events) {
        let r = record(capture, point);
        if event(r) == Event::ShootdownRequest {
            asking.insert(capture.cpus[point.0].number, point);
        } else if let Some(&from) = asking.get(&r.a) {
            flows.push(Flow { kind: Kind::Shootdown, points: vec![from, point] });
        }
    }
    flows
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::trace::capture::tests::lines;

    const CLIENT: u32 = 60;
    const SERVER: u32 = 61;

    fn id(number: u32) -> u64 {
        ThreadId::global(l4abi::ThreadNo(number), 1).raw()
    }

    /// A call from CPU 0 to CPU 1, which is idle, and its reply.
    pub fn call() -> Capture {
        use Event::*;
        let r = Record::new;
        let idle = l4abi::trace::IDLE;
        let client = [
            r(2000, Enter, 4, CLIENT, id(SERVER), id(SERVER)),
            r(2010, IpcSend, send::CROSS, CLIENT, id(SERVER), 1),
            r(2020, Depart, 0, CLIENT, 1, 0),
            r(2030, IpiSent, 0xf1, idle, 1, 0),
            r(2040, Switch, 0, idle, u64::from(CLIENT), 0),
            r(4000, Interrupt, 0xf1, idle, 0, 0),
            r(4010, IpiReceived, 0xf1, idle, 0, 0),
            r(4020, Arrive, 0, CLIENT, 0, 0),
            r(4030, Wake, 0, CLIENT, 0, 0),
            r(4040, Switch, 0, CLIENT, u64::from(idle), 0),
            r(4050, Leave, 0, CLIENT, 0, 0),
        ];
        let server = [
            r(3000, Interrupt, 0xf1, idle, 0, 0),
            r(3010, IpiReceived, 0xf1, idle, 0, 0),
            r(3020, Arrive, 0, CLIENT, 0, 0),
            r(3030, IpcReceive, 0, SERVER, id(CLIENT), 1),
            r(3040, Switch, 0, SERVER, u64::from(idle), 0),
            r(3050, Leave, 0, SERVER, 0, 0),
            r(3500, Enter, 4, SERVER, id(CLIENT), !0),
            r(3510, IpcSend, 0, SERVER, id(CLIENT), 1),
            r(3520, IpcReceive, 0, CLIENT, id(SERVER), 1),
            r(3530, Depart, 0, CLIENT, 0, 0),
            r(3540, IpiSent, 0xf1, idle, 0, 0),
            r(3550, Switch, 0, idle, u64::from(SERVER), 0),
        ];
        Capture::parse(&lines(&[&client, &server])).unwrap()
    }

    #[test]
    fn a_call_and_its_reply_are_two_flows() {
        let flows = find(&call());
        assert_eq!(flows.len(), 2);
        assert_eq!(flows[0].kind, Kind::Message);
        let request = [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4)];
        assert_eq!(flows[0].points, request);
        assert_eq!(flows[1].kind, Kind::Travel);
        let reply = [(1, 7), (1, 9), (1, 10), (0, 6), (0, 7), (0, 9)];
        assert_eq!(flows[1].points, reply);
    }

    #[test]
    fn halves_make_no_flow() {
        // The ring of CPU 1 has forgotten everything; or CPU 0's has.
        for lost in [0, 1] {
            let mut capture = call();
            capture.cpus[lost].records.clear();
            assert_eq!(find(&capture), []);
        }
    }

    #[test]
    fn an_interrupt_before_the_departure_is_not_its_own() {
        let mut capture = call();
        // The interrupt came for something else, long before.
        capture.cpus[1].records[0].time = 1900;
        capture.cpus[1].records[1].time = 1900;
        let flows = find(&capture);
        assert!(!flows[0].points.contains(&(1, 1)) && flows[0].points.contains(&(1, 2)));
    }

    #[test]
    fn shootdowns_end_with_their_answers() {
        use Event::*;
        let idle = l4abi::trace::IDLE;
        let r = |time, event, a| Record::new(time, event, 0, idle, a, 0);
        let capture = Capture::parse(&lines(&[
            &[r(1, ShootdownRequest, 0), r(9, ShootdownDone, 2)],
            &[r(5, ShootdownServed, 0)],
            &[r(6, ShootdownServed, 0)],
        ]));
        let flows = find(&capture.unwrap());
        assert_eq!(flows.len(), 2);
        assert!(flows.iter().all(|f| f.kind == Kind::Shootdown && f.points[0] == (0, 0)));
        assert_eq!((flows[0].points[1], flows[1].points[1]), ((1, 0), (2, 0)));
    }
}
