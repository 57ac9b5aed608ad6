//! What each marker does.

use super::Sim;
use crate::{
    counters::{Count, KERNEL, USER},
    walk::{Guest, walk},
};
use l4abi::marker::Op;

/// Longest name a region can be given, in bytes.
const MAX_NAME: u64 = 64;

/// RDI and RSI in hardware numbering: the arguments of markers.
const RDI: u8 = 7;
const RSI: u8 = 6;

impl Sim {
    /// A CPU executes a marker. `at_start`: it is the first instruction of its translation block, so
    /// registers can be read.
    pub fn marker(&mut self, cpu: usize, op: Op, id: u16, at_start: bool, guest: &impl Guest) {
        self.enter(cpu, guest);
        if self.finished {
            return;
        }
        if op.takes_registers() && !at_start {
            let name = op.name();
            return self.regions.mistake(format!("{name} {id} is not the target of a jump"));
        }
        match op {
            Op::Begin => self.regions.begin(&mut self.cpus, cpu, id),
            Op::End => self.regions.end(&mut self.cpus, cpu, id),
            Op::BeginAll => self.regions.begin_all(&mut self.cpus, cpu, id),
            Op::EndAll => self.regions.end_all(&mut self.cpus, cpu, id),
            Op::Probe => {
                let c = &self.cpus[cpu];
                let done = [KERNEL, USER].map(|b| c.counters.get(b, Count::Instructions));
                self.probes.push((id, cpu, c.clock, done));
            }
            Op::Hello => self.hello(cpu, guest.register(RDI)),
            Op::Place => self.place_check = Some((cpu, guest.register(RDI) as usize)),
            Op::Flush => self.flush(),
            Op::Name => self.name(cpu, id, guest),
            Op::Value => self.regions.value(id, guest.register(RDI), self.cpus.len()),
            Op::SimEnd => self.finished = true,
        }
    }

    fn hello(&mut self, cpu: usize, number: u64) {
        self.checks.hellos += 1;
        let changed = self.cpus[cpu].guest_number.is_some_and(|n| n != number);
        let taken =
            (0..self.cpus.len()).any(|i| i != cpu && self.cpus[i].guest_number == Some(number));
        if changed || taken {
            self.checks.hellos_wrong += 1;
        } else {
            self.cpus[cpu].guest_number = Some(number);
        }
    }

    fn flush(&mut self) {
        self.caches.flush();
        for c in &mut self.cpus {
            c.reset_filters();
            c.itlb.flush(false);
            c.dtlb.flush(false);
            c.walk_cache.clear();
        }
    }

    /// Reads the string at RDI; the guest's memory is looked at, nothing is modelled.
    fn name(&mut self, cpu: usize, id: u16, guest: &impl Guest) {
        let (start, len) = (guest.register(RDI), guest.register(RSI).min(MAX_NAME));
        let control = guest.control(cpu);
        let byte = |vaddr: u64| {
            let gpa = walk(guest, control, vaddr, None)?.mapping?.translate(vaddr);
            let word = guest.read(gpa & !7)?;
            Some(word.to_le_bytes()[(gpa & 7) as usize])
        };
        let bytes: Option<Vec<u8>> = (0..len).map(|i| byte(start.wrapping_add(i))).collect();
        match bytes.map(String::from_utf8) {
            Some(Ok(name)) => self.regions.name(id, name, self.cpus.len()),
            _ => self.regions.mistake(format!("NAME {id}: no readable string at {start:#x}")),
        }
    }
}
