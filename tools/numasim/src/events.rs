//! What happens when watched instructions execute.

use crate::{
    State, fatal,
    guest::{APIC_ICR, control_of},
    qemu::{self, Access},
    translate::{Event, read_virtual},
    with_state,
};
use l4abi::marker::Op;
use numasim_model::sim::Recipients;

/// A CPU begins to execute a watched block.
pub fn block(cpu: usize, index: usize) {
    with_state(|s| {
        if !s.armed {
            return early(s, cpu);
        }
        s.guest.set_event(cpu, None);
        s.guest.learn_apic_id(cpu);
        let block = s.watch.block(index);
        if s.sim.fetch(cpu, &block, &s.guest) {
            s.guest.cpu(cpu).leave_slice();
        }
    });
}

/// Before the model takes over, CPUs take turns every quantum of instructions: with instruction
/// counting, QEMU 7.2 would otherwise let one that waits for another spin for ever.
fn early(s: &mut State, cpu: usize) {
    s.guest.learn_apic_id(cpu);
    let [kernel, user] = qemu::counts();
    let now = kernel + user;
    if s.early.0 != cpu {
        s.early = (cpu, now);
    } else if now - s.early.1 > s.sim.config().quantum {
        s.early.1 = now;
        s.guest.cpu(cpu).leave_slice();
    }
}

/// A CPU has loaded or stored.
pub fn access(cpu: usize, vaddr: u64, access: Access) {
    with_state(|s| {
        if !s.armed {
            return;
        }
        s.guest.set_event(cpu, Some(access));
        let shape = s.shapes.of(access);
        let device = s.sim.data(cpu, vaddr, shape.size, shape.store, &s.guest);
        if shape.store && device == Some(APIC_ICR) {
            interrupt_sent(s, cpu);
        }
    });
}

/// A CPU executes an instruction of interest or a marker.
pub fn event(cpu: usize, index: usize) {
    with_state(|s| {
        let event = s.watch.event(index);
        if let Event::Marker(Op::Hello, ..) = event
            && !s.sim.finished()
        {
            s.armed = true;
        }
        if !s.armed {
            return;
        }
        s.guest.set_event(cpu, None);
        match event {
            Event::Count(count) => s.sim.special(cpu, count, &s.guest),
            Event::Invlpg(operand) => s.sim.invlpg(cpu, operand, &s.guest),
            Event::Repeated(pc) => s.sim.repeated(cpu, pc, &s.guest),
            Event::Marker(op, id, first) => {
                s.sim.marker(cpu, op, id, first, &s.guest);
                if s.sim.finished() {
                    finish(s);
                }
            }
        }
    });
}

/// A CPU loads its interrupt descriptor table register: two bytes of limit, then the address.
pub fn lidt(cpu: usize, vaddr: u64, access: Access) {
    with_state(|s| {
        if s.shapes.of(access).size == 8 {
            let control = control_of(s.guest.cpu(cpu));
            if let Some(table) = read_virtual(&s.guest, control, vaddr) {
                s.watch.tables.set(cpu, table);
            }
        }
    });
}

/// Looks at the interrupt command register after a store to it (SDM 3A 11.6.1). Only fixed
/// interrupts are followed; start-up and non-maskable ones are not part of any measurement.
fn interrupt_sent(s: &mut State, cpu: usize) {
    let (low, high) = s.guest.interrupt_command(cpu);
    let (mode, logical, shorthand) = (low >> 8 & 7, low >> 11 & 1, low >> 18 & 3);
    if mode != 0 {
        return;
    }
    let to = match shorthand {
        0 if logical == 0 => match s.guest.by_apic_id(high >> 24) {
            Some(target) => Recipients::One(target),
            None => return,
        },
        1 => Recipients::One(cpu),
        2 => Recipients::All,
        // Logical destinations are not resolved: whoever takes the vector first is meant.
        _ => Recipients::Others,
    };
    s.sim.ipi(cpu, (low & 0xFF) as u8, to, &s.guest);
}

fn finish(s: &mut State) {
    s.armed = false;
    let out = &s.sim.config().out;
    if let Err(error) = std::fs::write(out, s.sim.report()) {
        fatal(&format!("{out}: {error}"));
    }
}
