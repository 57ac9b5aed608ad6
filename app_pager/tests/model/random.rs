//! Long random runs on more nodes than can be explored: every read is compared with a flat memory,
//! every guarantee is checked after every step, and at the end no frame is missing.

use crate::check::run;
use crate::faults::{messages, numa};
use crate::world::{Do, Stage, World};
use app_pager::config::{Exhausted, PagerConfig, UnmapVariant};
use app_pager::ids::{PageNo, PageRange, TaskId};
use app_pager::message::ClientCall;
use app_pager::region::Policy;
use app_pager::rng::Rng;
use l4abi::{NodeId, ThreadId, ThreadNo};

fn policy(rng: &mut Rng, nodes: u64) -> Policy {
    match rng.below(5) {
        0 => Policy::FirstTouch,
        1 => Policy::Interleave,
        2 => Policy::OnNode(NodeId(rng.below(nodes) as u8)),
        3 => Policy::Replicate,
        _ => Policy::NextTouch,
    }
}

fn operation(rng: &mut Rng, nodes: u64) -> Do {
    let first = rng.below(8);
    let range = PageRange::new(first, first + 1 + rng.below(3).min(7 - first));
    let node = NodeId(rng.below(nodes) as u8);
    match rng.below(34) {
        0..=8 => Do::Read(first),
        9..=16 => Do::Write(first),
        17 => Do::Read(8 + rng.below(4)),
        18 => Do::Write(8 + rng.below(4)),
        19 | 20 => Do::Call(ClientCall::Unmap(range)),
        21 => Do::Call(ClientCall::Discard(range)),
        22 => Do::Call(ClientCall::MigratePages(range, node)),
        23 => Do::Call(ClientCall::Replicate(range)),
        24 => Do::Call(ClientCall::AllocOn(range, node)),
        25 => Do::Call(ClientCall::SetPolicy(range, policy(rng, nodes))),
        26 => Do::Call(ClientCall::CreateThread { ip: 0, sp: 0 }),
        27 => Do::Call(ClientCall::Query(PageNo(first))),
        // A lie: the task of somebody else.
        28 => Do::CallFor(TaskId(0xDEAD), ClientCall::EndTask),
        // A thread that may exist, or be a dummy, or be the caller itself.
        29 => {
            let number = 1024 + 256 * u32::from(node.0) + rng.below(3) as u32;
            Do::Call(ClientCall::DeleteThread(ThreadId::global(ThreadNo(number), 1)))
        }
        _ => Do::Go(node.0),
    }
}

fn random_world(rng: &mut Rng, configs: Vec<PagerConfig>, threads: u64, length: u64) -> World {
    let nodes = configs.len() as u64;
    let script = |rng: &mut Rng| (0..length).map(|_| operation(rng, nodes)).collect::<Vec<_>>();
    let scripts: Vec<_> = (0..threads).map(|_| (rng.below(nodes) as u8, script(rng))).collect();
    let clients: Vec<(u8, &[Do])> = scripts.iter().map(|(n, s)| (*n, s.as_slice())).collect();
    let mut world = World::new(configs, policy(rng, nodes), &clients);
    world.spawn = (0..4).map(|_| script(rng)).collect();
    world
}

fn many(name: &str, runs: u64, configs: impl Fn(&mut Rng) -> Vec<PagerConfig>) {
    let (mut faults, mut results) = (0, 0);
    for seed in 0..runs {
        let mut rng = Rng::new(seed);
        let mut configs = configs(&mut rng);
        if seed % 2 == 0 {
            configs.iter_mut().for_each(|c| c.part = 1 + seed % 3);
        }
        let threads = 2 + rng.below(5);
        let mut world = random_world(&mut rng, configs, threads, 25);
        if seed % 3 == 0 {
            // One thread ends the task, when it comes to it.
            world.clients[0].script.push(Do::Call(ClientCall::EndTask));
        }
        let end = run(world, seed);
        results += end.clients.iter().map(|c| c.results.len()).sum::<usize>();
        faults += end.clients.iter().map(|c| c.script.len()).sum::<usize>();
        if end.clients.iter().all(|c| c.stage == Stage::Dead) {
            assert_eq!(end.pagers.iter().map(|p| p.frames_used()).sum::<usize>(), 0);
        }
    }
    println!("random {name}: {runs} runs, {faults} operations, {results} calls answered");
}

#[test]
fn random_shared() {
    many("shared", 150, |rng| numa(2 + rng.below(6) as u8));
}

#[test]
fn random_messages() {
    many("messages", 150, |rng| messages(2 + rng.below(6) as u8));
}

#[test]
fn random_short_of_memory() {
    many("short of memory", 200, |rng| {
        let nodes = 2 + rng.below(3) as u8;
        let mut configs = numa(nodes);
        for c in &mut configs {
            c.frames = rng.below(4) as u32;
            c.exhausted = if rng.below(2) == 0 { Exhausted::Error } else { Exhausted::OtherNode };
        }
        configs
    });
}

#[test]
fn random_variants() {
    let with = |rng: &mut Rng, v| {
        let nodes = 2 + rng.below(3) as u8;
        let configs = if rng.below(2) == 0 { numa(nodes) } else { messages(nodes) };
        configs.into_iter().map(|c| c.with_unmap(v)).collect::<Vec<_>>()
    };
    many("one by one", 80, |rng| with(rng, UnmapVariant::OneByOne));
    many("root pager", 80, |rng| with(rng, UnmapVariant::Root));
    many("single space", 80, |rng| {
        numa(2 + rng.below(3) as u8).into_iter().map(PagerConfig::single_space).collect()
    });
    many("flat", 80, |rng| vec![PagerConfig::flat(1 + rng.below(4) as u8, 8)]);
    many("several lanes", 80, |rng| {
        let mut configs = if rng.below(2) == 0 { numa(3) } else { messages(3) };
        configs.iter_mut().for_each(|c| c.lanes = 1 + rng.below(3) as u8);
        configs
    });
}
