//! An interrupt line that gets another handler while it fires and is acknowledged: the device ends as the line's word says.

use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::{broken, model};
use crate::cross::line::Line;

const OLD: u64 = 5 << 32 | 1;
const NEW: u64 = 6 << 32 | 1;

/// A line and the mask of its device, which has a lock.
struct Machine {
    line: Line<AtomicU64>,
    masked: Mutex<bool>,
}

impl Machine {
    fn new(is_level: bool) -> Self {
        let line = Line::new(AtomicU64::new(0));
        line.attach(OLD, is_level);
        Self { line, masked: Mutex::new(false) }
    }

    fn settle(&self) {
        let mut masked = self.masked.lock().unwrap_or_else(|e| e.into_inner());
        *masked = self.line.is_masked();
    }

    /// What is wrong with a device that asks the line before it has its lock.
    fn settle_by_the_past(&self) {
        let past = self.line.is_masked();
        *self.masked.lock().unwrap_or_else(|e| e.into_inner()) = past;
    }

    /// An interrupt on the CPU of the old handler, which takes it and acknowledges it. Whether it received it.
    fn interrupt(&self, settle: impl Fn(&Self)) -> bool {
        let fired = self.line.fire();
        if fired.settle {
            settle(self);
        }
        let taken = fired.deliver && self.line.take(OLD);
        if self.line.acknowledge(OLD, false).is_some_and(|done| done.settle) {
            settle(self);
        }
        taken
    }
}

/// The line gets its new handler on one CPU while it fires on two others. Whether it is unmasked and closed at the end, once the
/// new handler has taken what is its own.
fn race(is_level: bool, settle: impl Fn(&Machine) + Copy + Send + 'static) -> bool {
    let machine = Arc::new(Machine::new(is_level));
    let interrupted = {
        let machine = machine.clone();
        thread::spawn(move || machine.interrupt(settle))
    };
    let fired = {
        let machine = machine.clone();
        thread::spawn(move || {
            let fired = machine.line.fire();
            if fired.settle {
                settle(&machine);
            }
            fired.deliver
        })
    };
    machine.line.attach(NEW, is_level);
    settle(&machine);
    let (Ok(_), Ok(_)) = (interrupted.join(), fired.join()) else { return false };
    assert!(!machine.line.take(OLD) && !machine.line.stands(OLD), "the old handler has lost it");
    // What is under way is the new handler's; it answers until nothing is left.
    let _ = machine.line.take(NEW);
    while machine.line.stands(NEW) {
        if machine.line.acknowledge(NEW, false).is_some_and(|done| done.settle) {
            settle(&machine);
        }
    }
    let masked = *machine.masked.lock().unwrap_or_else(|e| e.into_inner());
    !masked && !machine.line.is_masked()
}

#[test]
fn a_line_that_is_attached_while_it_fires_ends_unmasked() {
    for is_level in [false, true] {
        model("interrupt line, attached while it fires", move || {
            assert!(race(is_level, Machine::settle));
        });
    }
}

#[test]
fn a_device_that_looks_before_its_lock_stays_masked() {
    let found =
        broken("interrupt line, settled by the past", || !race(true, Machine::settle_by_the_past));
    assert!(found > 0);
}
