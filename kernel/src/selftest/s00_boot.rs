//! Layer 0: the machine is up and its clocks run.

use super::{Verdict, check, seen};
use crate::arch::x86_64::{apic, clock, cpu_ops, selftest as probe};
use crate::boot::placement;
use crate::{cpu, machine};
use kcore::types::CpuId;
use spin::Mutex;

/// Every CPU of the topology is up (or was not wanted).
pub fn all_cpus() -> Verdict {
    let machine = machine::get();
    let all = machine.topology.nr_cpus();
    let wanted = machine.options.max_cpus.map_or(all, |n| all.min(n as usize));
    let up = (0..all).filter(|&n| cpu::shared_of(CpuId::new(n as u16)).is_some()).count();
    check!(up == wanted, "{up} of {wanted} CPUs are up");
    seen!("{up} CPUs on {} nodes", machine.topology.nr_nodes())
}

/// Every CPU found its things where the options say they should be.
pub fn placement() -> Verdict {
    let machine = machine::get();
    let mut checked = 0;
    for n in 0..machine.topology.nr_cpus() {
        let id = CpuId::new(n as u16);
        let Some(shared) = cpu::shared_of(id) else { continue };
        let node = kcore::types::NodeId::new(cpu::node_page().nodes[n]);
        let fits = placement::as_intended(machine, node, &shared.placement);
        check!(fits, "cpu {id} has something on another node than {node}");
        checked += 1;
    }
    seen!("{checked} CPUs, {} things each", placement::Observed::ITEMS)
}

/// A second calibration agrees with the first.
pub fn clocks() -> Verdict {
    let (tsc, timer) = (clock::tsc_hz(), clock::apic_timer_hz());
    let Some(again) = clock::calibrate(machine::get().pm_timer) else {
        return Err(super::Text::new(format_args!("no reference clock any more")));
    };
    for (name, first, second) in [("TSC", tsc, again.tsc_hz), ("APIC timer", timer, again.apic_hz)]
    {
        let off = first.abs_diff(second) * 1000 / first.max(1);
        check!(off <= 30, "{name}: {first} Hz, then {second} Hz");
        check!((1_000_000..20_000_000_000).contains(&first), "{name}: {first} Hz");
    }
    seen!("TSC {} kHz, APIC timer {} kHz", tsc / 1000, timer / 1000)
}

/// The CPU was woken by an interrupt of the boot processor and is here.
pub fn answers() -> Verdict {
    seen!("every CPU took the request")
}

/// The CPU is who its block says.
pub fn identity() -> Verdict {
    let identity = &cpu::this().identity;
    let described = machine::get().topology.cpu(identity.id);
    let own = apic::id();
    check!(own == identity.apic_id, "APIC id {own}, block says {}", identity.apic_id);
    check!(
        described.is_some_and(|cpu| cpu.apic == own),
        "the topology has another CPU under number {}",
        identity.id
    );
    check!(cpu::apic_id_of(identity.id) == Some(own), "the node's CPU table has another APIC id");
    seen!("APIC id, block, topology and CPU table agree")
}

/// The time-stamp counter advances as calibrated, against the APIC timer.
pub fn time_runs() -> Verdict {
    const US: u64 = 2_000;
    apic::arm_timer(u32::MAX);
    clock::delay_us(US);
    let ticks = u64::from(u32::MAX - apic::timer_left());
    apic::arm_timer(0);
    let us = ticks * 1_000_000 / clock::apic_timer_hz().max(1);
    // Only the lower bound is sharp: an emulated CPU can lose its processor at any moment.
    check!(us >= US * 95 / 100, "the TSC waited {US} us, the APIC timer counted {us}");
    seen!("{US} us by the TSC are {us} us by the APIC timer")
}

/// The one-shot timer wakes the CPU, not too early and not much too late.
pub fn timer_fires() -> Verdict {
    const US: u64 = 2_000;
    const LATEST_US: u64 = 1_000_000;
    let ticks = clock::apic_timer_hz() * US / 1_000_000;
    let start = cpu_ops::rdtsc();
    apic::arm_timer(ticks as u32);
    while apic::timer_left() > 0 {
        // Wakes for other interrupts as well; hangs if the timer never fires, which the time limit of the
        // run turns into a failure.
        probe::wait_for_interrupt();
    }
    let us = clock::tsc_to_us(cpu_ops::rdtsc().wrapping_sub(start));
    check!(us >= US * 95 / 100, "fired after {us} us instead of {US}");
    check!(us < LATEST_US, "fired after {us} us instead of {US}");
    seen!("asked for {US} us, took {us}")
}

/// The latest time that any CPU has read, ticks, and by which CPU.
static LATEST: Mutex<(i64, u16)> = Mutex::new((0, 0));

/// Clocks agree: what one CPU reads after another is later, whichever they are, or earlier by no more than the measured
/// bounds of both.
pub fn clocks_agree() -> Verdict {
    const READINGS: u32 = 300;
    let me = cpu::this().identity.id;
    let bound = |cpu: u16| crate::time::bound_ticks(CpuId::new(cpu)).unwrap_or(0);
    let (mut behind, mut most) = (0, 0);
    for _ in 0..READINGS {
        let mut latest = LATEST.lock();
        let now = crate::time::ticks_in_order() as i64;
        let late = latest.0.saturating_sub(now).max(0) as u64;
        let allowed = if latest.1 == me.get() { 0 } else { bound(me.get()) + bound(latest.1) };
        check!(late <= allowed, "{late} ticks behind cpu {}, {allowed} allowed", latest.1);
        (behind, most) = (behind.max(late), most.max(allowed));
        *latest = (now.max(latest.0), if now >= latest.0 { me.get() } else { latest.1 });
        drop(latest);
        core::hint::spin_loop();
    }
    seen!("{READINGS} readings on every CPU, at most {behind} ticks behind; {most} allowed")
}

/// The measurement of a made-up offset (`clock_skew`) found it, and no other, within its bound; where none is made up,
/// the counters of an emulator agree within theirs.
pub fn offsets_found() -> Verdict {
    let machine = machine::get();
    let mut widest = 0;
    for n in 0..machine.topology.nr_cpus() {
        let id = CpuId::new(n as u16);
        let Some(shared) = cpu::shared_of(id) else { continue };
        let (found, truth) = (shared.clock.estimate(), shared.clock.made_up());
        check!(n == 0 || found.rounds > 0, "cpu {id} was not measured");
        if machine.features.hypervisor {
            let (off, bound) = (found.offset.abs_diff(truth), found.bound);
            check!(found.steady, "cpu {id}: the measurements contradict each other");
            check!(off <= bound, "cpu {id}: {off} ticks off, {bound} allowed");
        }
        widest = widest.max(found.bound);
    }
    seen!("every CPU within its bound, at most {widest} ticks")
}
