//! Faults, unmaps and placement, two nodes.

use crate::check::{prove, prove_progress};
use crate::world::{Do, World};
use app_pager::config::{Establish, PagerConfig};
use app_pager::ids::PageRange;
use app_pager::message::ClientCall;
use app_pager::region::Policy;
use l4abi::NodeId;

pub fn numa(nodes: u8) -> Vec<PagerConfig> {
    (0..nodes).map(|n| PagerConfig::numa(NodeId(n), nodes, 4)).collect()
}

pub fn messages(nodes: u8) -> Vec<PagerConfig> {
    numa(nodes).into_iter().map(|c| c.with_establish(Establish::Messages)).collect()
}

pub const P0: PageRange = PageRange::new(0, 1);

#[test]
fn two_nodes_touch_one_page() {
    let script: &[Do] = &[Do::Write(0), Do::Read(0)];
    let world = World::new(numa(2), Policy::FirstTouch, &[(0, script), (1, script)]);
    prove("first touch, shared directory", world.clone());
    prove_progress("first touch, shared directory", world);
    let world = World::new(messages(2), Policy::FirstTouch, &[(0, script), (1, script)]);
    prove("first touch, messages", world.clone());
    prove_progress("first touch, messages", world);
}

#[test]
fn simultaneous_unmaps() {
    let script: &[Do] = &[Do::Write(0), Do::Call(ClientCall::Unmap(P0)), Do::Read(0)];
    for (name, configs) in [("shared", numa(2)), ("messages", messages(2))] {
        let world = World::new(configs, Policy::FirstTouch, &[(0, script), (1, script)]);
        prove(&format!("simultaneous unmaps, {name}"), world.clone());
        prove_progress(&format!("simultaneous unmaps, {name}"), world);
    }
}
