//! Slices, waking up, interrupts: who executes, and what time it is for them.

use super::Sim;
use crate::{
    counters::{Count, KERNEL, USER},
    cpu::Stamp,
    walk::Guest,
};

/// A CPU that is alone has to look for others this many quanta apart.
const ALONE: u64 = 20;

/// Whom an inter-processor interrupt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// One CPU.
    One(usize),
    /// All but the sender.
    Others,
    /// All, with the sender.
    All,
}

impl Sim {
    /// Books what was executed since the last event, and notices a change of CPU.
    pub(super) fn enter(&mut self, cpu: usize, guest: &impl Guest) {
        self.sync(guest);
        if self.running == Some(cpu) {
            return;
        }
        self.running = Some(cpu);
        self.slice = self.slice.wrapping_add(1);
        let c = &mut self.cpus[cpu];
        // Others may have taken lines away meanwhile.
        c.reset_filters();
        self.set_limit(cpu);
    }

    /// Adds the instructions executed since the last event to the CPU that executed them.
    pub(super) fn sync(&mut self, guest: &impl Guest) {
        let now = guest.counts();
        if now == self.seen {
            return;
        }
        if let Some(running) = self.running {
            let c = &mut self.cpus[running];
            for bank in [KERNEL, USER] {
                let n = now[bank].wrapping_sub(self.seen[bank]);
                if n > 0 {
                    c.counters.add(bank, Count::Instructions, n);
                    c.clock += n;
                }
            }
        }
        self.seen = now;
    }

    /// A CPU that was halted, or had not started, executes again: its clock jumps to the present.
    /// (An interrupt that woke it then moves the clock to its own arrival.)
    pub(super) fn wake(&mut self, cpu: usize, vector: Option<u8>) {
        if self.cpus[cpu].runnable {
            return;
        }
        let others = || self.cpus.iter().enumerate().filter(|&(i, _)| i != cpu).map(|(_, c)| c);
        let awake = others().filter(|c| c.runnable).map(|c| c.clock).min();
        let expected = vector.is_some_and(|v| self.cpus[cpu].mail.iter().any(|m| m.0 == v));
        let now = match awake {
            Some(now) => now,
            None => others().map(|c| c.clock).max().unwrap_or(0),
        };
        let c = &mut self.cpus[cpu];
        c.runnable = true;
        if !expected && now > c.clock {
            c.waited += now - c.clock;
            c.clock = now;
        }
        self.set_limit(cpu);
    }

    /// The first block of an interrupt handler: counts it, and if another CPU sent the interrupt,
    /// the handler continues the sender's chain and begins no earlier than the interrupt arrives.
    pub(super) fn interrupted(&mut self, cpu: usize, vector: u8, guest: &impl Guest) {
        const PAGE_FAULT: u8 = 14;
        let c = &mut self.cpus[cpu];
        c.counters.interrupt(vector);
        c.counters.add(KERNEL, Count::Interrupts, 1);
        if let Some(at) = c.mail.iter().position(|m| m.0 == vector) {
            let (_, stamp) = c.mail.remove(at);
            c.continue_from(stamp.path, stamp.time + self.config.latency.ipi);
        }
        if vector == PAGE_FAULT {
            self.faulting_walk(cpu, guest.fault_address(), guest);
        }
    }

    /// A CPU has sent an interrupt (the store to its interrupt command register is done).
    pub fn ipi(&mut self, cpu: usize, vector: u8, to: Recipients, guest: &impl Guest) {
        self.enter(cpu, guest);
        let c = &mut self.cpus[cpu];
        c.counters.add(c.mode, Count::IpiSent, 1);
        let stamp =
            Stamp { time: c.clock, path: c.path(), slice: self.slice, writer: cpu as u8 + 1 };
        for target in 0..self.cpus.len() {
            let meant = match to {
                Recipients::One(one) => one == target,
                Recipients::Others => target != cpu,
                Recipients::All => true,
            };
            let mail = &mut self.cpus[target].mail;
            // A second one before the first is taken is merged with it, as in the hardware.
            if meant && !mail.iter().any(|m| m.0 == vector) {
                mail.push((vector, stamp));
            }
        }
        let arrival = stamp.time + self.config.latency.ipi + self.config.quantum;
        self.limit = self.limit.min(arrival);
    }

    /// How far the CPU may go before it has to let others run.
    pub(super) fn set_limit(&mut self, cpu: usize) {
        let others = self.cpus.iter().enumerate();
        let slowest = others.filter(|&(i, c)| i != cpu && c.runnable).map(|(_, c)| c.clock).min();
        let alone = self.cpus[cpu].clock + ALONE * self.config.quantum;
        self.limit = slowest.map_or(alone, |s| (s + self.config.quantum).min(alone));
    }
}
