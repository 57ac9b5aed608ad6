//! Replication, migration, next touch, exhaustion.

use crate::check::{prove, prove_progress};
use crate::faults::{P0, messages, numa};
use crate::world::{Do, World};
use app_pager::config::{Exhausted, PagerConfig};
use app_pager::directory::DirError;
use app_pager::ids::PageRange;
use app_pager::message::{ClientCall, Reply};
use app_pager::region::Policy;
use l4abi::NodeId;

const UNMAP: Do = Do::Call(ClientCall::Unmap(P0));
const REPLICATE: Do = Do::Call(ClientCall::Replicate(P0));
const fn to(node: u8) -> Do {
    Do::Call(ClientCall::MigratePages(P0, NodeId(node)))
}

fn both(name: &str, policy: Policy, clients: &[(u8, &[Do])]) {
    for (kind, configs) in [("shared", numa(2)), ("messages", messages(2))] {
        let world = World::new(configs, policy, clients);
        prove(&format!("{name}, {kind}"), world.clone());
        prove_progress(&format!("{name}, {kind}"), world);
    }
}

#[test]
fn a_writer_races_a_replicator() {
    both(
        "writer against replicator",
        Policy::FirstTouch,
        &[(0, &[Do::Write(0), REPLICATE, Do::Read(0)]), (1, &[Do::Read(0), Do::Write(0)])],
    );
}

#[test]
fn replicated_code_is_written() {
    both(
        "replicated, two writers",
        Policy::Replicate,
        &[(0, &[Do::Read(0), Do::Write(0), Do::Read(0)]), (1, &[Do::Read(0), Do::Write(0)])],
    );
}

#[test]
fn opposite_migrations() {
    both(
        "opposite migrations",
        Policy::FirstTouch,
        &[(0, &[Do::Write(0), to(1), Do::Read(0)]), (1, &[Do::Read(0), to(0), Do::Write(0)])],
    );
}

#[test]
fn migration_against_unmap_and_replication() {
    both(
        "migration against unmap",
        Policy::Interleave,
        &[(0, &[Do::Write(0), to(1), Do::Write(0)]), (1, &[Do::Write(0), UNMAP, REPLICATE])],
    );
}

#[test]
fn next_touch() {
    let mark = Do::Call(ClientCall::SetPolicy(P0, Policy::NextTouch));
    both(
        "next touch",
        Policy::FirstTouch,
        &[(0, &[Do::Write(0), mark, Do::Read(0)]), (1, &[Do::Write(0), Do::Read(0)])],
    );
}

#[test]
fn discard_and_alloc_on() {
    let discard = Do::Call(ClientCall::Discard(P0));
    let alloc = Do::Call(ClientCall::AllocOn(P0, NodeId(1)));
    both(
        "discard against alloc_on",
        Policy::FirstTouch,
        &[(0, &[Do::Write(0), discard, Do::Read(0)]), (1, &[alloc, Do::Write(0)])],
    );
}

#[test]
fn an_exhausted_node() {
    let few = |n, exhausted| PagerConfig { exhausted, ..PagerConfig::numa(NodeId(n), 2, 1) };
    for exhausted in [Exhausted::OtherNode, Exhausted::Error] {
        let configs = vec![few(0, exhausted), few(1, exhausted)];
        let script: &[Do] = &[Do::Write(0), Do::Write(1), Do::Read(0)];
        let clients: &[(u8, &[Do])] = &[(0, script), (1, &[to(0), to(1), Do::Write(2)])];
        let world = World::new(configs, Policy::FirstTouch, clients);
        prove(&format!("exhaustion, {exhausted:?}"), world.clone());
        prove_progress(&format!("exhaustion, {exhausted:?}"), world);
    }
}

#[test]
fn replicas_without_memory_share_a_frame() {
    let configs = vec![PagerConfig::numa(NodeId(0), 2, 1), PagerConfig::numa(NodeId(1), 2, 0)];
    let clients: &[(u8, &[Do])] =
        &[(0, &[Do::Read(0), Do::Write(0)]), (1, &[Do::Read(0), Do::Read(0), Do::Write(0)])];
    let world = World::new(configs, Policy::Replicate, clients);
    prove("replicas without memory", world.clone());
    prove_progress("replicas without memory", world);
}

#[test]
fn refusals_reach_the_client() {
    let bad = Do::Call(ClientCall::MigratePages(P0, NodeId(9)));
    let nowhere = Do::Call(ClientCall::Query(app_pager::ids::PageNo(99)));
    let taken = Do::Call(ClientCall::MakeLocal(PageRange::new(0, 2)));
    let backwards = Do::Call(ClientCall::Discard(PageRange::new(3, 1)));
    let script: &[Do] = &[Do::Write(0), bad, nowhere, taken, backwards, Do::Read(50)];
    let world = World::new(numa(2), Policy::FirstTouch, &[(0, script)]);
    let end = crate::check::run(world, 1);
    let why = [
        DirError::Invalid,
        DirError::NoRegion,
        DirError::InUse,
        DirError::Invalid,
        DirError::NoRegion,
    ];
    assert_eq!(end.clients[0].results, why.map(Reply::Refused));
}

#[test]
fn ranges_that_overlap() {
    let pages = |first, end| PageRange::new(first, end);
    let discard = Do::Call(ClientCall::Discard(pages(0, 3)));
    let unmap = Do::Call(ClientCall::Unmap(pages(1, 4)));
    let ready = |configs| {
        let mut world = World::new(
            configs,
            Policy::FirstTouch,
            &[(0, &[discard, Do::Write(1)]), (1, &[unmap, Do::Read(2)])],
        );
        // Page 1 is mapped on both nodes, page 2 on the other's, page 0 and 3 nowhere.
        for (client, page) in [(0, 1), (1, 1), (1, 2)] {
            world = crate::check::touch(world, client, Do::Write(page));
        }
        world
    };
    for (kind, configs) in [("shared", numa(2)), ("messages", messages(2))] {
        for part in [1, 256] {
            let with = |mut c: PagerConfig| {
                c.part = part;
                c
            };
            let world = ready(configs.clone().into_iter().map(with).collect());
            prove(&format!("ranges overlap, {kind}, parts of {part}"), world.clone());
            prove_progress(&format!("ranges overlap, {kind}, parts of {part}"), world);
        }
    }
}
