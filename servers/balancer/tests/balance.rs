//! The balancers' decisions, by example and by random worlds.

use app_pager::control::ThreadInfo;
use app_pager::ids::TaskId;
use app_pager::rng::Rng;
use balancer::{Master, NodeLoad, joined, to_give, within_node};
use l4abi::{CpuId, NodeId, ThreadId, ThreadNo};

fn thread(n: u32, task: u32, cpu: u16, runs: bool) -> ThreadInfo {
    let thread = ThreadId::global(ThreadNo(100 + n), 1);
    ThreadInfo { thread, task: TaskId(task), cpu: CpuId(cpu), runs }
}

#[test]
fn cpus_of_a_node_become_equal() {
    let threads: Vec<_> = (0..7).map(|n| thread(n, 1, 0, true)).collect();
    let moves = within_node(&[CpuId(0), CpuId(1)], &threads);
    assert_eq!(moves.len(), 3);
    assert!(moves.iter().all(|m| m.to == CpuId(1)));
    // Who waits is no load, one thread more is no reason.
    let mixed = [thread(0, 1, 0, true), thread(1, 1, 0, false), thread(2, 1, 0, false)];
    assert_eq!(within_node(&[CpuId(0), CpuId(1)], &mixed), []);
    assert_eq!(within_node(&[], &threads), []);
}

#[test]
fn the_last_thread_of_a_task_stays() {
    let lone = thread(0, 1, 0, true);
    let threads = [lone, thread(1, 2, 0, true), thread(2, 2, 0, true), thread(3, 3, 0, false)];
    let busy = NodeLoad { running: 2, cpus: 2 };
    let given = to_give(&threads, busy, |_| false).unwrap();
    assert_eq!(given.task, TaskId(2));
    // Alone with other lone threads it stays, unless a CPU would idle.
    let lone_ones = [lone, thread(4, 4, 0, true)];
    assert_eq!(to_give(&lone_ones, busy, |_| true), None);
    let idle = NodeLoad { running: 1, cpus: 2 };
    assert!(to_give(&lone_ones, idle, |_| true).is_some());
}

#[test]
fn tasks_that_are_there_already_go_first() {
    let threads = [thread(0, 1, 0, true), thread(1, 1, 0, true), thread(2, 2, 0, true)];
    let threads = [threads.as_slice(), &[thread(3, 2, 0, true)]].concat();
    let given = to_give(&threads, NodeLoad::default(), |task| task == TaskId(1)).unwrap();
    assert_eq!(given.task, TaskId(1));
}

#[test]
fn several_looks_are_joined() {
    let looks = [true, false, true, true].map(|runs| vec![thread(0, 1, 0, runs)]);
    assert!(joined(&looks)[0].runs);
    let looks = [true, false, false, true, false].map(|runs| vec![thread(0, 1, 0, runs)]);
    assert!(!joined(&looks)[0].runs);
    assert!(joined(&[]).is_empty());
}

/// Whatever the start: when all balancers have had their turns often enough nothing moves any more, the
/// CPUs of a node are even, and no node should give.
#[test]
fn random_systems_come_to_rest() {
    let mut rng = Rng::new(77);
    for _ in 0..400 {
        let nodes = 1 + rng.below(5);
        let cpus: Vec<Vec<CpuId>> = (0..nodes)
            .map(|node| (0..1 + rng.below(4)).map(|c| CpuId((node * 8 + c) as u16)).collect())
            .collect();
        let mut world: Vec<(usize, ThreadInfo)> = (0..rng.below(40))
            .map(|n| {
                let node = rng.below(nodes) as usize;
                let cpu = cpus[node][rng.below(cpus[node].len() as u64) as usize];
                // Two threads of a task at least: nobody has to stay.
                (node, thread(n as u32, n as u32 % 3, cpu.0, rng.below(4) > 0))
            })
            .collect();
        let mut master = Master::default();
        let mut quiet = 0;
        for turn in 0..2000 {
            let node = turn % nodes as usize;
            let here = |world: &[(usize, ThreadInfo)]| -> Vec<ThreadInfo> {
                world.iter().filter(|(n, _)| *n == node).map(|(_, t)| *t).collect()
            };
            let moves = within_node(&cpus[node], &here(&world));
            for m in &moves {
                world.iter_mut().find(|(_, t)| t.thread == m.thread).unwrap().1.cpu = m.to;
            }
            let threads = here(&world);
            let load = NodeLoad::of(&threads, cpus[node].len());
            let mut moved = !moves.is_empty();
            if let Some((to, other)) = master.report(NodeId(node as u8), load) {
                let to = usize::from(to.0);
                let active = |task| world.iter().any(|(n, t)| *n == to && t.task == task);
                if let Some(given) = to_give(&threads, other, active) {
                    moved = true;
                    let place = world.iter_mut().find(|(_, t)| t.thread == given.thread).unwrap();
                    place.0 = to;
                    place.1.cpu = cpus[to][0];
                }
            }
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet > 3 * nodes as usize {
                break;
            }
        }
        assert!(quiet > 3 * nodes as usize, "never at rest");
        for cpus in &cpus {
            let on = |cpu: &CpuId| world.iter().filter(|(_, t)| t.runs && t.cpu == *cpu).count();
            let counts: Vec<usize> = cpus.iter().map(on).collect();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
