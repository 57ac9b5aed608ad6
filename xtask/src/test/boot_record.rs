//! Checks of the `boot` record against the machine that was asked for.
//!
//! The kernel reports what it found in its live page tables; here the host, which knows what the
//! emulator was told, draws the conclusions again from the addresses.

use super::suites::Check;
use crate::machines::Machine;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct Boot {
    nodes: Vec<Node>,
    cpus: Vec<Cpu>,
}

#[derive(Deserialize)]
struct Node {
    node: u64,
    domain: u64,
    memory: u64,
    memory_node: u64,
    distances: Vec<u64>,
    ranges: Vec<Range>,
    pool: Vec<Range>,
    text: Option<u64>,
}

#[derive(Deserialize)]
struct Range {
    start: u64,
    end: u64,
}

#[derive(Deserialize)]
struct Cpu {
    cpu: u64,
    apic: u64,
    node: u64,
    memory_node: u64,
    tables: u64,
    local_tables: u64,
    /// Everything else; the physical addresses are among it.
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// Physical addresses that a CPU reports about itself.
const PLACES: [&str; 15] = [
    "root",
    "text",
    "rodata",
    "sealed",
    "block",
    "stack",
    "nmi_stack",
    "double_fault_stack",
    "machine_check_stack",
    "gdt",
    "user_word",
    "idt",
    "node_page",
    "stubs",
    "absent_tcb",
];

/// What is wrong with the `boot` record among `records`; empty if it passes.
pub fn check(check: Check, machine: &Machine, records: &[Map<String, Value>]) -> Vec<String> {
    let record = records.iter().find(|record| crate::records::kind(record) == "boot");
    let Some(record) = record else { return vec!["there is no boot record".into()] };
    let boot: Boot = match serde_json::from_value(Value::Object(record.clone())) {
        Ok(boot) => boot,
        Err(error) => return vec![format!("the boot record is malformed: {error}")],
    };
    match check {
        Check::Topology => topology(&boot, machine),
        Check::Local => local(&boot),
        Check::SharedText => shared_text(&boot),
        // Not in the record.
        Check::Trace
        | Check::Clocks
        | Check::Placement
        | Check::PlacementBlind
        | Check::TcbsStay => Vec::new(),
    }
}

fn topology(boot: &Boot, machine: &Machine) -> Vec<String> {
    let mut wrong = Vec::new();
    if boot.nodes.len() != machine.nodes.len() {
        wrong.push(format!("{} nodes, not {}", boot.nodes.len(), machine.nodes.len()));
        return wrong;
    }
    for found in &boot.nodes {
        let Some(asked) = machine.nodes.get(found.domain as usize) else {
            wrong.push(format!("node {} claims the unknown domain {}", found.node, found.domain));
            continue;
        };
        let apics: BTreeSet<u64> =
            boot.cpus.iter().filter(|cpu| cpu.node == found.node).map(|cpu| cpu.apic).collect();
        let wanted: BTreeSet<u64> = asked.cpus.iter().map(|cpu| apic_id(machine, *cpu)).collect();
        if apics != wanted {
            wrong.push(format!("node {} has APIC ids {apics:?}, not {wanted:?}", found.node));
        }
        // Firmware keeps some of it for itself, or describes memory with the holes in it.
        let (memory, wanted) = (found.memory >> 20, asked.memory_mib);
        if memory.abs_diff(wanted) > 16 && machine.numa {
            wrong.push(format!("node {} has {memory} MiB, not {wanted}", found.node));
        }
        if let Some(row) = machine.distances.get(found.domain as usize) {
            let row: Vec<u64> = row.iter().map(|d| u64::from(*d)).collect();
            if found.distances != row {
                wrong.push(format!(
                    "node {}: distances {:?}, not {row:?}",
                    found.node, found.distances
                ));
            }
        }
    }
    if boot.cpus.len() != machine.cpu_count() as usize {
        wrong.push(format!("{} CPUs are up, not {}", boot.cpus.len(), machine.cpu_count()));
    }
    wrong
}

/// The APIC id that the emulator gives to a CPU: socket and core number in bit fields.
fn apic_id(machine: &Machine, cpu: u32) -> u64 {
    let cores = machine.cpu_count() / crate::qemu::sockets(machine);
    let bits = cores.next_power_of_two().trailing_zeros();
    u64::from((cpu / cores) << bits | (cpu % cores))
}

fn inside(ranges: &[Range], address: u64) -> bool {
    ranges.iter().any(|range| (range.start..range.end).contains(&address))
}

fn local(boot: &Boot) -> Vec<String> {
    let mut wrong = Vec::new();
    let find = |id: u64| boot.nodes.iter().find(|node| node.node == id);
    for node in &boot.nodes {
        for pool in &node.pool {
            if pool.end <= pool.start
                || !inside(&node.ranges, pool.start)
                || !inside(&node.ranges, pool.end - 1)
            {
                let Range { start, end } = pool;
                wrong.push(format!("pool {start:#x}..{end:#x} is not on its node {}", node.node));
            }
        }
        if !node.ranges.is_empty() && (node.memory_node != node.node || node.pool.is_empty()) {
            wrong.push(format!("node {} has memory and does not use it", node.node));
        }
    }
    for cpu in &boot.cpus {
        let Some(home) = find(cpu.memory_node) else {
            wrong.push(format!("cpu {} uses the unknown node {}", cpu.cpu, cpu.memory_node));
            continue;
        };
        if find(cpu.node).is_some_and(|node| node.memory_node != cpu.memory_node) {
            wrong.push(format!("cpu {} does not use its node's memory", cpu.cpu));
        }
        for place in PLACES {
            let address = cpu.other.get(place).and_then(Value::as_u64);
            if !address.is_some_and(|address| inside(&home.ranges, address)) {
                wrong.push(format!(
                    "cpu {}: {place} at {:#x} is not on node {}",
                    cpu.cpu,
                    address.unwrap_or(0),
                    home.node
                ));
            }
        }
        if cpu.tables == 0 || cpu.tables != cpu.local_tables {
            let (all, own) = (cpu.tables, cpu.local_tables);
            wrong.push(format!("cpu {}: {own} of {all} page tables are local", cpu.cpu));
        }
    }
    if boot.cpus.is_empty() {
        wrong.push("no CPU is up".into());
    }
    wrong
}

fn shared_text(boot: &Boot) -> Vec<String> {
    let texts: BTreeSet<u64> =
        boot.cpus.iter().filter_map(|cpu| cpu.other.get("text")?.as_u64()).collect();
    let first = boot.nodes.iter().find(|node| node.node == 0);
    let on_first = first.is_some_and(|node| texts.iter().all(|text| inside(&node.ranges, *text)));
    let per_node: BTreeSet<u64> = boot.nodes.iter().filter_map(|node| node.text).collect();
    if texts.len() == 1 && on_first && per_node.is_subset(&texts) {
        Vec::new()
    } else {
        vec![format!("kernel text at {texts:x?}, not once on node 0")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record() -> Map<String, Value> {
        let cpu = |cpu: u64, node: u64| {
            let mut value = json!({"cpu": cpu, "apic": cpu, "node": node, "memory_node": node,
                                   "tables": 5, "local_tables": 5});
            for place in PLACES {
                value[place] = json!(node * 0x1000_0000 + 0x20_0000);
            }
            value
        };
        let node = |node: u64| {
            let start = node * 0x1000_0000;
            json!({"node": node, "domain": node, "memory": 0x1000_0000u64, "memory_node": node,
                   "distances": if node == 0 { [10, 20] } else { [20, 10] },
                   "ranges": [{"start": start, "end": start + 0x1000_0000}],
                   "pool": [{"start": start + 0x10_0000, "end": start + 0x1000_0000}],
                   "text": start + 0x20_0000})
        };
        let value = json!({"kind": "boot", "nodes": [node(0), node(1)],
                           "cpus": [cpu(0, 0), cpu(1, 0), cpu(2, 1), cpu(3, 1)]});
        value.as_object().unwrap().clone()
    }

    fn verdict(what: Check, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut value = Value::Object(record());
        change(&mut value);
        let machine = Machine::load("2n4c").unwrap();
        check(what, &machine, &[value.as_object().unwrap().clone()])
    }

    #[test]
    fn a_right_record_passes() {
        assert_eq!(verdict(Check::Topology, |_| ()), [""; 0]);
        assert_eq!(verdict(Check::Local, |_| ()), [""; 0]);
    }

    #[test]
    fn what_lies_elsewhere_is_found() {
        for place in PLACES {
            let wrong = verdict(Check::Local, |r| r["cpus"][3][place] = json!(0x20_0000));
            assert_eq!(wrong.len(), 1, "{place}");
            let absent = |r: &mut Value| drop(r["cpus"][3].as_object_mut().unwrap().remove(place));
            assert_eq!(verdict(Check::Local, absent).len(), 1, "{place}");
        }
        assert_eq!(verdict(Check::Local, |r| r["cpus"][0]["local_tables"] = json!(4)).len(), 1);
        assert_eq!(verdict(Check::Local, |r| r["nodes"][1]["pool"] = json!([])).len(), 1);
        let moved = json!([{"start": 0, "end": 0x1000}]);
        assert_eq!(verdict(Check::Local, |r| r["nodes"][1]["pool"] = moved).len(), 1);
        assert!(!verdict(Check::Local, |r| r["cpus"] = json!([])).is_empty());
        assert!(!verdict(Check::Local, |r| r["kind"] = json!("other")).is_empty());
    }

    #[test]
    fn another_machine_is_found() {
        assert_eq!(
            verdict(Check::Topology, |r| r["nodes"][0]["distances"] = json!([10, 21])).len(),
            1
        );
        assert_eq!(verdict(Check::Topology, |r| r["cpus"][0]["node"] = json!(1)).len(), 2);
        assert_eq!(verdict(Check::Topology, |r| r["nodes"][1]["memory"] = json!(0)).len(), 1);
        assert!(
            !verdict(Check::Topology, |r| drop(r["cpus"].as_array_mut().unwrap().pop())).is_empty()
        );
    }

    #[test]
    fn shared_text_is_told_from_replicas() {
        assert_eq!(verdict(Check::SharedText, |_| ()).len(), 1);
        let share = |r: &mut Value| {
            for i in 0..4 {
                r["cpus"][i]["text"] = json!(0x20_0000);
            }
            r["nodes"][1]["text"] = json!(0x20_0000);
        };
        assert_eq!(verdict(Check::SharedText, share), [""; 0]);
    }

    #[test]
    fn apic_ids_have_gaps_where_sockets_are_odd() {
        let machine = Machine::load("odd-unequal").unwrap();
        let ids: Vec<u64> = (0..9).map(|cpu| apic_id(&machine, cpu)).collect();
        assert_eq!(ids, [0, 1, 2, 4, 5, 6, 8, 9, 10]);
    }
}
