//! Numbers that the experiments rely on: faults (A7, A8) and messages (A12), exactly.

use crate::check::{touch, touch_counting};
use crate::faults::{messages, numa};
use crate::world::{Do, World};
use app_pager::config::{PagerConfig, UnmapVariant};
use app_pager::directory::Census;
use app_pager::ids::{PageNo, PageRange};
use app_pager::message::{ClientCall, Reply};
use app_pager::region::Policy;
use l4abi::{NodeId, Rights};

const PAGES: u64 = 6;

fn two_threads(configs: Vec<PagerConfig>, policy: Policy) -> World {
    let second = configs.len() as u8 - 1;
    World::new(roomy(configs), policy, &[(0, &[]), (second, &[])])
}

fn roomy(mut configs: Vec<PagerConfig>) -> Vec<PagerConfig> {
    configs.iter_mut().for_each(|c| c.frames = 64);
    configs
}

/// Faults of two threads that write all pages, one upwards and one downwards, twice.
fn walk(mut world: World, overlap: bool) -> (World, usize) {
    let mut total = 0;
    for client in [0, 1, 0, 1] {
        for i in 0..PAGES {
            let page = match (client, overlap) {
                (0, true) => i,
                (_, true) => PAGES - 1 - i,
                (0, false) => i / 2,
                (_, false) => 4 + i / 2,
            };
            let (next, faults, _) = touch_counting(world, client, Do::Write(page));
            (world, total) = (next, total + faults);
        }
    }
    (world, total)
}

#[test]
fn fault_counts_are_those_of_the_thesis() {
    let pages = PAGES as usize;
    // Full overlap: every page faults once per node; one space: once (thesis 5.4).
    for configs in [numa(2), messages(2)] {
        assert_eq!(walk(two_threads(configs, Policy::FirstTouch), true).1, 2 * pages);
    }
    let flat = || vec![PagerConfig::flat(2, 64)];
    assert_eq!(walk(two_threads(flat(), Policy::FirstTouch), true).1, pages);
    let single = numa(2).into_iter().map(PagerConfig::single_space).collect();
    assert_eq!(walk(two_threads(single, Policy::FirstTouch), true).1, pages);
    // No overlap: the same number in both.
    assert_eq!(walk(two_threads(numa(2), Policy::FirstTouch), false).1, pages);
    assert_eq!(walk(two_threads(flat(), Policy::FirstTouch), false).1, pages);
}

#[test]
fn pages_lie_where_the_policy_says() {
    let cases = [
        (Policy::FirstTouch, [0, 0, 0, 0]),
        (Policy::Interleave, [0, 1, 0, 1]),
        (Policy::OnNode(NodeId(1)), [1, 1, 1, 1]),
    ];
    for (policy, nodes) in cases {
        let (mut world, _) = walk(two_threads(numa(2), policy), true);
        for (page, node) in nodes.into_iter().enumerate() {
            let query = ClientCall::Query(PageNo(page as u64));
            world = touch(world, 1, Do::Call(query));
            let Some(Reply::Placement { frame: Some(frame), mapped, .. }) =
                world.clients[1].results.pop()
            else {
                panic!("no placement")
            };
            assert_eq!((frame.node, mapped.len()), (NodeId(node), 2));
        }
    }
}

#[test]
fn an_unmap_tells_exactly_the_pagers_concerned() {
    let four = |c: Vec<PagerConfig>| {
        let clients: [(u8, &[Do]); 4] = [(0, &[]), (1, &[]), (2, &[]), (3, &[])];
        let mut world = World::new(roomy(c), Policy::FirstTouch, &clients);
        for client in [0, 1, 3] {
            world = touch(world, client, Do::Write(0));
        }
        world
    };
    let unmap = Do::Call(ClientCall::Unmap(PageRange::new(0, 1)));
    let all = |f: fn(PagerConfig) -> PagerConfig| numa(4).into_iter().map(f).collect::<Vec<_>>();
    let cases = [
        (numa(4), 2),
        (all(PagerConfig::notifying_active), 3),
        (all(|c| c.with_unmap(UnmapVariant::OneByOne)), 2),
        (all(|c| c.with_unmap(UnmapVariant::Root)), 0),
    ];
    for (configs, messages) in cases {
        let (world, _, sends) = touch_counting(four(configs), 0, unmap);
        assert_eq!(sends, messages);
        let status = Rights::RW;
        assert_eq!(world.clients[0].results, [Reply::Pages { count: 1, status }]);
        // The second unmap finds nothing mapped, and nothing written since.
        let (world, _, sends) = touch_counting(world, 0, unmap);
        assert_eq!(sends, if messages == 3 { 3 } else { 0 });
        let status = Rights::empty();
        assert_eq!(world.clients[0].results[1], Reply::Pages { count: 1, status });
    }
}

#[test]
fn preloaded_text_is_replicated_where_it_is_read() {
    let mut world = World::new(roomy(numa(2)), Policy::Replicate, &[(0, &[]), (1, &[])]);
    let frame = world.pager(NodeId(0)).take_frame().unwrap();
    world.hw.memory.insert(frame, 77);
    world.flat.insert((crate::world::TASK, PageNo(3), None), 77);
    assert!(world.preload(PageNo(3), frame));
    assert!(!world.preload(PageNo(3), frame) && !world.preload(PageNo(9), frame));
    for client in [0, 1, 0, 1] {
        // Each read is compared with the flat memory.
        world = touch(world, client, Do::Read(3));
    }
    let census = |world, node| {
        let mut world = touch(world, 0, Do::Call(ClientCall::Census(NodeId(node))));
        let Some(Reply::Census(census)) = world.clients[0].results.pop() else { panic!() };
        (world, census)
    };
    for node in [0, 1] {
        let (next, seen) = census(world, node);
        assert_eq!(seen, Census { global: 0, replicas: 1, mapped: 1, threads: 1 });
        world = next;
    }
    world = touch(world, 1, Do::Write(3));
    let (world, seen) = census(world, 0);
    assert_eq!(seen, Census { global: 0, replicas: 0, mapped: 0, threads: 1 });
    let (_, seen) = census(world, 1);
    assert_eq!(seen, Census { global: 1, replicas: 0, mapped: 1, threads: 1 });
}
