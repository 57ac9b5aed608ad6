//! `verbose=on`: what the boot stages found, for people.

use kcore::types::PhysRange;

use crate::machine::Machine;
use crate::{memory, println};

/// Prints nodes, memory and who has it.
pub fn print(machine: &Machine) {
    let topology = machine.topology;
    for node in topology.nodes() {
        let domain = topology.proximity_domain(node).unwrap_or(0);
        let home = memory::home_of(node);
        println!(
            "node {node}: domain {domain}, {} MiB, {} CPUs, kernel memory from node {home}",
            topology.memory_of(node) >> 20,
            topology.cpus_of(node).count()
        );
        for range in topology.ranges_of(node) {
            println!("  memory   {}", Sized(range));
        }
        for extent in machine.pools.extents_of(node) {
            println!("  pool     {}", Sized(extent));
        }
    }
    for &range in machine.kept.iter() {
        println!("  in use   {}", Sized(range));
    }
    for &range in machine.free.iter() {
        println!("  free     {}", Sized(range));
    }
    for (n, chip) in machine.io_apics.iter().enumerate() {
        println!("I/O APIC {n} at {:#x}, lines from {}", chip.phys, chip.base);
    }
    println!("processor: {:?}", machine.features);
}

/// A range with its size.
struct Sized(PhysRange);

impl core::fmt::Display for Sized {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} ({} KiB)", self.0, self.0.len() >> 10)
    }
}
