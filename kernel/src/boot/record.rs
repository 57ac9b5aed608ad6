//! The `boot` record: what the machine is and where the kernel put itself, as one line.

use core::fmt::{self, Write};

use kcore::layout;
use kcore::types::{CpuId, NodeId};
use l4abi::record::Line;

use super::placement::{self, Item, Observed};
use super::stages::AllUp;
use crate::arch::x86_64::{apic, clock, cpu_ops, perf};
use crate::machine::Machine;
use crate::{console, cpu, memory, println, time};

/// Prints the record. Returns the verdict: all CPUs are up and everything lies where it should.
pub fn print(machine: &Machine, all: &AllUp) -> bool {
    let us = clock::tsc_to_us(cpu_ops::rdtsc().wrapping_sub(machine.entry_tsc));
    let wanted = machine.options.max_cpus.map_or(usize::MAX, |n| n as usize);
    let unasked = machine.topology.nr_cpus().saturating_sub(wanted);
    let ok = all.missing.len() == unasked
        && up(machine).all(|(id, found)| placement::as_intended(machine, node_of(id), found));
    console::with(|out| {
        // The port cannot fail.
        let _ = write(out, machine, all, us, ok);
    });
    ok
}

/// Prints how far the CPUs' clocks can be apart: one record, kind `clock`. Times are of the boot processor's
/// time-stamp counter.
pub fn print_clocks(machine: &Machine) {
    let up = || (0..machine.topology.nr_cpus()).map(|n| CpuId::new(n as u16));
    let clocks = || up().filter_map(|id| cpu::shared_of(id).map(|shared| (id, &shared.clock)));
    let adjusts = || clocks().map(|(_, clock)| clock.adjust());
    if adjusts().any(|adjust| Some(adjust) != adjusts().next()) {
        println!(
            "clocks: firmware adjusted the TSC of some CPUs; the measured offsets take care of it"
        );
    }
    if let Some((id, _)) = clocks().find(|(_, clock)| !clock.estimate().steady) {
        println!(
            "clocks: the TSC of cpu {id} runs at another rate or jumped while it was compared"
        );
    }
    let apart = up().flat_map(|a| up().map(move |b| (a, b))).filter(|(a, b)| a != b);
    let most_us = apart.filter_map(|(a, b)| time::disagreement_us(a, b)).max().unwrap_or(0);
    console::with(|out| {
        let mut line = Line::begin(out, "clock");
        line.num("tsc_khz", clock::tsc_hz() / 1000)
            .flag("invariant_tsc", machine.features.invariant_tsc)
            .flag("tsc_adjust", machine.features.tsc_adjust)
            .flag("corrected", machine.options.clock_sync)
            .num("disagreement_us", most_us);
        line.array("cpus", |line| {
            for (id, clock) in clocks() {
                let found = clock.estimate();
                line.object(|line| {
                    line.num("cpu", u64::from(id.get()))
                        .int("offset_ticks", found.offset)
                        .num("bound_ticks", found.bound)
                        .num("round_trip_ticks", found.round_trip)
                        .num("rounds", u64::from(found.rounds))
                        .flag("steady", found.steady)
                        .int("made_up_ticks", clock.made_up())
                        .int("adjust_ticks", clock.adjust());
                });
            }
        });
        // The port cannot fail.
        let _ = line.end();
    });
}

/// CPUs that are up, with what they found.
fn up(machine: &Machine) -> impl Iterator<Item = (CpuId, &'static Observed)> + use<'_> {
    let all = (0..machine.topology.nr_cpus()).map(|n| CpuId::new(n as u16));
    all.filter_map(|id| cpu::shared_of(id).map(|shared| (id, &shared.placement)))
}

/// The node whose memory a CPU uses.
fn node_of(cpu: CpuId) -> NodeId {
    NodeId::new(cpu::node_page().nodes[cpu.index() % layout::MAX_CPUS])
}

fn write(out: &mut impl Write, machine: &Machine, all: &AllUp, us: u64, ok: bool) -> fmt::Result {
    let topology = machine.topology;
    let mut line = Line::begin(out, "boot");
    line.str("boot", machine.path)
        .num("us", us)
        .num("ms", us / 1000)
        .num("tsc_khz", clock::tsc_hz() / 1000)
        .num("apic_timer_khz", clock::apic_timer_hz() / 1000)
        .flag("x2apic", apic::is_x2apic())
        .num("nr_nodes", topology.nr_nodes() as u64)
        .num("nr_cpus", topology.nr_cpus() as u64)
        .num("cpus_up", up(machine).count() as u64)
        .nums("cpus_missing", all.missing.iter().map(|id| u64::from(id.get())))
        .num("topology_warnings", topology.warnings().len() as u64)
        .flag("text_replication", machine.options.text_replication)
        .flag("page_table_replication", machine.options.page_table_replication)
        .flag("node_pools", machine.options.node_pools)
        .flag("tcb_migration", machine.options.tcb_migration)
        .flag("cache", machine.options.cache)
        .str("hardware_counters", perf::describe());
    line.array("nodes", |line| {
        for node in topology.nodes() {
            line.object(|line| write_node(line, machine, node));
        }
    });
    line.array("cpus", |line| {
        for (id, found) in up(machine) {
            line.object(|line| write_cpu(line, machine, id, found));
        }
    });
    line.flag("ok", ok);
    line.end()
}

fn write_node<W: Write>(line: &mut Line<'_, W>, machine: &Machine, node: NodeId) {
    let topology = machine.topology;
    line.num("node", u64::from(node.get()))
        .num("domain", u64::from(topology.proximity_domain(node).unwrap_or(0)))
        .num("memory", topology.memory_of(node))
        .num("memory_node", u64::from(memory::home_of(node).get()))
        .nums("distances", topology.nodes().map(|to| u64::from(topology.distance(node, to))))
        .nums("cpus", topology.cpus_of(node).map(|id| u64::from(id.get())));
    let ranges = |line: &mut Line<'_, W>, ranges: &mut dyn Iterator<Item = _>| {
        for range in ranges {
            let range: kcore::types::PhysRange = range;
            line.object(|line| {
                line.num("start", range.start.as_u64()).num("end", range.end.as_u64());
            });
        }
    };
    line.array("ranges", |line| ranges(line, &mut topology.ranges_of(node)));
    line.array("pool", |line| ranges(line, &mut machine.pools.extents_of(node)));
    // The replica that the node's own CPUs execute, as the first of them found it.
    let first = up(machine).find(|(id, _)| topology.cpu(*id).is_some_and(|cpu| cpu.node == node));
    if let Some((_, found)) = first {
        let text = found.phys(Item::Text);
        line.num("text", text.as_u64());
        if let Some(home) = topology.node_of(text) {
            line.num("text_node", u64::from(home.get()));
        }
    }
}

fn write_cpu<W: Write>(line: &mut Line<'_, W>, machine: &Machine, id: CpuId, found: &Observed) {
    let topology = machine.topology;
    let home = node_of(id);
    let own = topology.cpu(id).map_or(home, |cpu| cpu.node);
    line.num("cpu", u64::from(id.get()))
        .num("apic", u64::from(found.apic_id()))
        .num("node", u64::from(own.get()))
        .num("memory_node", u64::from(home.get()));
    let mut all_local = true;
    for (item, name, phys) in found.items() {
        line.num(name, phys.as_u64());
        all_local &= item == Item::Data || topology.node_of(phys) == Some(home);
    }
    let (tables, local_tables) = found.tables();
    line.num("tables", u64::from(tables))
        .num("local_tables", u64::from(local_tables))
        .flag("local", all_local && tables == local_tables && home == own)
        .flag("as_intended", placement::as_intended(machine, home, found));
}
