//! Threads that come, go and move; spaces and mastership that follow them.

use crate::check::{prove, prove_progress};
use crate::faults::{P0, messages, numa};
use crate::world::{Do, World};
use app_pager::message::ClientCall;
use app_pager::region::Policy;

const UNMAP: Do = Do::Call(ClientCall::Unmap(P0));
const END: Do = Do::Call(ClientCall::EndTask);
const CREATE: Do = Do::Call(ClientCall::CreateThread { ip: 1, sp: 2 });

fn both(name: &str, clients: &[(u8, &[Do])], spawn: &[Do]) {
    for (kind, configs) in [("shared", numa(2)), ("messages", messages(2))] {
        let mut world = World::new(configs, Policy::FirstTouch, clients);
        world.spawn.push(spawn.to_vec());
        prove(&format!("{name}, {kind}"), world.clone());
        prove_progress(&format!("{name}, {kind}"), world);
    }
}

#[test]
fn a_lone_thread_moves_there_and_back() {
    // The master's last thread leaves: space, mappings and mastership follow; written bits stay.
    both(
        "lone thread moves",
        &[(0, &[Do::Write(0), Do::Go(1), Do::Read(0), Do::Go(0), UNMAP, Do::Read(0)])],
        &[],
    );
}

#[test]
fn a_mover_against_an_unmapper() {
    both(
        "mover against unmapper",
        &[(0, &[Do::Write(0), Do::Go(1), Do::Write(0)]), (1, &[Do::Read(0), UNMAP])],
        &[],
    );
}

#[test]
fn two_threads_swap_nodes() {
    both(
        "swap",
        &[(0, &[Do::Write(0), Do::Go(1), Do::Read(0)]), (1, &[Do::Write(0), Do::Go(0)])],
        &[],
    );
}

#[test]
fn node_local_pages_survive_absence() {
    both(
        "node-local pages",
        &[
            (0, &[Do::Write(8), Do::Go(1), Do::Write(8), Do::Go(0), Do::Read(8)]),
            (1, &[Do::Read(8)]),
        ],
        &[],
    );
}

#[test]
fn created_threads_work() {
    both(
        "create",
        &[(0, &[CREATE, Do::Write(0), Do::Go(1)]), (1, &[Do::Read(0), UNMAP])],
        &[Do::Write(0)],
    );
}

#[test]
fn a_task_ends_in_the_middle_of_everything() {
    both(
        "end of task",
        &[(0, &[Do::Write(0), Do::Write(8), END]), (1, &[Do::Write(8), Do::Write(0), UNMAP])],
        &[],
    );
}

#[test]
fn a_thread_is_deleted_while_it_works() {
    let mut world = World::new(
        numa(2),
        Policy::FirstTouch,
        // Nobody else writes page 1: the space that dies must give its written bit away first.
        &[(0, &[Do::Write(0)]), (1, &[Do::Write(1), Do::Write(0), UNMAP])],
    );
    let victim = world.clients[1].thread;
    world.clients[0].script.push(Do::Call(ClientCall::DeleteThread(victim)));
    world.clients[0].script.push(Do::Read(0));
    prove("delete", world.clone());
    prove_progress("delete", world);
}

#[test]
fn a_balancer_moves_a_thread_that_works() {
    for (kind, configs) in [("shared", numa(2)), ("messages", messages(2))] {
        let mut world = World::new(
            configs,
            Policy::FirstTouch,
            &[(0, &[Do::Write(0), Do::Read(0)]), (1, &[Do::Write(0), UNMAP])],
        );
        world.add_balancer(0, &[(0, 1), (1, 0)]);
        prove(&format!("balancer, {kind}"), world.clone());
        prove_progress(&format!("balancer, {kind}"), world);
    }
}

#[test]
fn a_supervisor_ends_a_task_from_elsewhere() {
    let worker: &[Do] = &[Do::Write(0), Do::Write(8), Do::Go(1)];
    for (kind, configs) in [("shared", numa(3)), ("messages", messages(3))] {
        let clients: [(u8, &[Do]); 2] = [(0, worker), (1, &[Do::Write(0)])];
        let mut world = World::new(configs, Policy::FirstTouch, &clients);
        world.add_balancer(2, &[]);
        world.clients[2].script.push(Do::CallFor(crate::world::TASK, ClientCall::EndTask));
        prove(&format!("3 nodes, supervisor ends a task, {kind}"), world.clone());
        let end = crate::check::run(world.clone(), 3);
        assert_eq!(end.pagers.iter().map(|p| p.frames_used()).sum::<usize>(), 0);
        prove_progress(&format!("3 nodes, supervisor ends a task, {kind}"), world);
    }
}
