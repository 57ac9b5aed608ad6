//! Three nodes, everything at once.

use crate::check::{prove, prove_progress};
use crate::faults::{P0, messages, numa};
use crate::world::{Do, World};
use app_pager::message::ClientCall;
use app_pager::region::Policy;
use l4abi::NodeId;

const UNMAP: Do = Do::Call(ClientCall::Unmap(P0));
const REPLICATE: Do = Do::Call(ClientCall::Replicate(P0));
const MIGRATE: Do = Do::Call(ClientCall::MigratePages(P0, NodeId(2)));

/// With messages there are many more states: one pass over them, which checks the guarantees and
/// the absence of deadlocks as well as progress.
fn both(name: &str, policy: Policy, clients: &[(u8, &[Do])]) {
    let world = World::new(numa(3), policy, clients);
    prove(&format!("3 nodes, {name}, shared"), world.clone());
    prove_progress(&format!("3 nodes, {name}, shared"), world);
    let world = World::new(messages(3), policy, clients);
    prove_progress(&format!("3 nodes, {name}, messages"), world);
}

#[test]
fn three_users_of_one_page() {
    both(
        "unmap, migrate, replicate",
        Policy::FirstTouch,
        &[
            (0, &[Do::Write(0), UNMAP]),
            (1, &[Do::Read(0), MIGRATE]),
            (2, &[Do::Write(0), REPLICATE]),
        ],
    );
}

#[test]
fn three_replicas_and_two_writers() {
    both(
        "replicas and writers",
        Policy::Replicate,
        &[
            (0, &[Do::Read(0), Do::Write(0)]),
            (1, &[Do::Read(0)]),
            (2, &[Do::Read(0), Do::Write(0)]),
        ],
    );
}

#[test]
fn mastership_moves_among_users() {
    both(
        "mastership",
        Policy::FirstTouch,
        &[(0, &[Do::Write(0), Do::Go(1)]), (1, &[Do::Go(2), Do::Read(0)]), (2, &[UNMAP])],
    );
}

#[test]
fn interleaved_pages_and_a_mover() {
    // Page 1 belongs on node 1, whoever touches it first: remote allocation, and a moving thread.
    both(
        "interleave and mover",
        Policy::Interleave,
        &[(0, &[Do::Write(1), Do::Go(2)]), (1, &[Do::Write(1)]), (2, &[Do::Write(1)])],
    );
}
