//! Why there is a worker, and why confirmations must not block: the checker finds the deadlocks of
//! the other designs, and none in ours.

use crate::check::{finds_deadlock, prove, prove_progress};
use crate::faults::{P0, messages, numa};
use crate::world::{Do, Ipc, World};
use app_pager::config::{PagerConfig, UnmapVariant};
use app_pager::ids::PageRange;
use app_pager::message::ClientCall;
use app_pager::region::Policy;
use l4abi::NodeId;

/// Each node has touched page 0 and 1; then each unmaps a page.
fn unmappers(configs: Vec<PagerConfig>, ipc: Ipc) -> World {
    let nodes = configs.len() as u8;
    let scripts: Vec<Vec<Do>> = (0..nodes)
        .map(|n| {
            let page = u64::from(n);
            vec![Do::Call(ClientCall::Unmap(PageRange::new(page, page + 1)))]
        })
        .collect();
    let clients: Vec<(u8, &[Do])> =
        (0..nodes).map(|n| (n, scripts[usize::from(n)].as_slice())).collect();
    let mut world = World::new(configs, Policy::FirstTouch, &clients);
    // All pages are mapped on all nodes to begin with.
    for page in 0..u64::from(nodes) {
        for client in 0..usize::from(nodes) {
            world = crate::check::touch(world, client, Do::Write(page));
        }
    }
    world.ipc = ipc;
    world
}

#[test]
fn without_a_worker_two_unmaps_deadlock() {
    // numa-l4 4.2.1: "each of these pagers will ... wait for the remote call to complete".
    assert!(finds_deadlock("no worker, 2 nodes", unmappers(numa(2), Ipc::NoWorker)));
    let one_by_one: Vec<_> =
        numa(2).into_iter().map(|c| c.with_unmap(UnmapVariant::OneByOne)).collect();
    assert!(finds_deadlock("no worker, one by one", unmappers(one_by_one, Ipc::NoWorker)));
}

#[test]
fn three_simultaneous_unmaps() {
    prove("3 unmaps on 3 nodes, parallel", unmappers(numa(3), Ipc::Barrier));
    prove_progress("3 unmaps on 3 nodes, parallel", unmappers(numa(3), Ipc::Barrier));
    prove("3 unmaps on 3 nodes, bits joined", unmappers(numa(3), Ipc::Joined));
    prove_progress("3 unmaps on 3 nodes, bits joined", unmappers(numa(3), Ipc::Joined));
    prove("3 unmaps on 3 nodes, messages", unmappers(messages(3), Ipc::Barrier));
    let with = |v| numa(3).into_iter().map(|c| c.with_unmap(v)).collect::<Vec<_>>();
    prove("3 unmaps on 3 nodes, one by one", unmappers(with(UnmapVariant::OneByOne), Ipc::Barrier));
    prove("3 unmaps on 3 nodes, root", unmappers(with(UnmapVariant::Root), Ipc::Barrier));
}

#[test]
fn blocking_confirmations() {
    // A worker that blocks until its confirmation is received makes a cycle if each pager starts
    // with its next neighbour: worker 1 waits for pager 0, which sends to worker 2, which waits for
    // pager 1, and so on. Sending in ascending order of nodes, as we do, avoids just this cycle;
    // the barrier needs no order.
    assert!(finds_deadlock("blocking, rotated", unmappers(numa(3), Ipc::BlockingRotated)));
    assert!(!finds_deadlock("blocking, ascending", unmappers(numa(3), Ipc::BlockingConfirm)));
}

#[test]
fn the_root_pager_variant() {
    let configs =
        |n| numa(n).into_iter().map(|c| c.with_unmap(UnmapVariant::Root)).collect::<Vec<_>>();
    let script: &[Do] = &[Do::Write(0), Do::Call(ClientCall::Unmap(P0)), Do::Write(0)];
    let world = World::new(configs(2), Policy::FirstTouch, &[(0, script), (1, script)]);
    prove("root pager", world.clone());
    prove_progress("root pager", world);
    let mover: &[Do] = &[Do::Write(0), Do::Go(1), Do::Read(0)];
    let world =
        World::new(configs(2), Policy::Replicate, &[(0, mover), (1, &[Do::Read(0), Do::Write(0)])]);
    prove("root pager, mover and replicas", world.clone());
    prove_progress("root pager, mover and replicas", world);
}

#[test]
fn one_logical_pager() {
    // `numa=flat`: two pager threads, one space.
    let script: &[Do] = &[Do::Write(0), Do::Call(ClientCall::Unmap(P0)), Do::Read(0)];
    let world =
        World::new(vec![PagerConfig::flat(2, 4)], Policy::FirstTouch, &[(0, script), (0, script)]);
    prove("flat", world.clone());
    prove_progress("flat", world);
    let world = World::new(
        vec![PagerConfig::flat(2, 4)],
        Policy::FirstTouch,
        &[(0, &[Do::Write(8), Do::Read(0), Do::Write(8)]), (0, &[Do::Write(8), Do::Write(0)])],
    );
    prove("flat, two faults on a local page", world);
}

#[test]
fn one_space_for_all_nodes() {
    // `spaces=single` (A11).
    let configs = || numa(2).into_iter().map(PagerConfig::single_space).collect::<Vec<_>>();
    let unmap = Do::Call(ClientCall::Unmap(P0));
    let script: &[Do] = &[Do::Write(0), unmap, Do::Read(0)];
    let world = World::new(configs(), Policy::FirstTouch, &[(0, script), (1, script)]);
    prove("single space", world.clone());
    prove_progress("single space", world);
    let migrate = Do::Call(ClientCall::MigratePages(P0, NodeId(1)));
    let world = World::new(
        configs(),
        Policy::Replicate,
        &[(0, &[Do::Write(0), Do::Go(1), Do::Write(0)]), (1, &[Do::Read(0), migrate, unmap])],
    );
    prove("single space, mover and migration", world.clone());
    prove_progress("single space, mover and migration", world);
}

#[test]
fn telling_all_active_pagers() {
    // The thesis' rule: also pagers that have not mapped the page are told, and those that come and go.
    let configs = || numa(2).into_iter().map(PagerConfig::notifying_active).collect::<Vec<_>>();
    let unmap = Do::Call(ClientCall::Unmap(P0));
    let mover: &[Do] = &[Do::Write(0), Do::Go(1), unmap];
    let world =
        World::new(configs(), Policy::FirstTouch, &[(0, mover), (1, &[Do::Read(0), unmap])]);
    prove("all active told", world.clone());
    prove_progress("all active told", world);
}
