//! Interrupts that programs send to measure interrupts (l4-smp 3.3.1), with the option `measure=on`.
//!
//! As in the source, the interrupted thread learns of it by its carry flag, which the handler sets in the saved flags: a loop
//! that reads the clock until then knows when it stopped and when it went on. Only a thread that has asked for it
//! ([`expect`]) gets its flag set, once. The handler writes down when it began, and marks regions for the placement instrument.

use core::cell::Cell;

use kcore::types::CpuId;
use l4abi::ext::NO_COUNTER;
use l4abi::marker::interrupt::AtHandler;
use l4abi::syscall::debugger;
use x86_64::registers::rflags::RFlags;

use crate::arch::x86_64::{apic, cpu_ops, vectors};
use crate::cross::counters::{self, Counter};
use crate::sched::percpu::PerCpu;
use crate::thread::tcb::{TcbRef, reg};
use crate::{cpu, machine};

/// The thread that waits for an interrupt on this CPU, by its global id; 0 for none; and what the handler is to mark.
pub struct Expected {
    thread: Cell<u64>,
    mark: Cell<AtHandler>,
}

impl Expected {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { thread: Cell::new(0), mark: Cell::new(AtHandler::Nothing) }
    }
}

/// Length of the instruction that names a debugger call.
const COMPARISON: u64 = debugger::EXPECT_INTERRUPT.len() as u64;

/// Interrupts CPU `to`. Answers the time-stamp counter just before; [`NO_COUNTER`] if it is not to be.
pub fn send(to: u64, region: u64) -> u64 {
    let to = u16::try_from(to).ok().map(CpuId::new).filter(|cpu| cpu::shared_of(*cpu).is_some());
    let Some(id) = to.filter(|_| machine::get().options.measure).and_then(cpu::apic_id_of) else {
        return NO_COUNTER;
    };
    cpu_ops::mark_sent(region);
    let now = cpu_ops::rdtsc();
    apic::send(vectors::PROBE, id);
    now
}

/// The next such interrupt that finds `me` running on this CPU sets its carry flag.
pub fn expect(me: TcbRef, mark: u64) {
    let expected = &cpu::this().local.expected;
    let mark = u32::try_from(mark).ok().and_then(AtHandler::from_raw);
    expected.mark.set(mark.unwrap_or(AtHandler::Nothing));
    expected.thread.set(me.id.get());
    // The comparison behind the breakpoint would change the flag, and lose an interrupt that comes before it.
    me.set_reg(reg::RFLAGS, me.reg(reg::RFLAGS) & !RFlags::CARRY_FLAG.bits());
    me.set_reg(reg::RIP, me.reg(reg::RIP) + COMPARISON);
}

/// The interrupt has come.
pub fn taken(cpu: &PerCpu) {
    let now = cpu_ops::rdtsc();
    let expected = &cpu::this().local.expected;
    let current = cpu.current.get();
    if expected.thread.get() == current.id.get() && current != cpu.idle.get() {
        cpu_ops::mark_handled(expected.mark.get());
        expected.thread.set(0);
        current.set_reg(reg::RFLAGS, current.reg(reg::RFLAGS) | RFlags::CARRY_FLAG.bits());
    }
    counters::count(Counter::Probes);
    counters::set(Counter::ProbeTime, now);
}
