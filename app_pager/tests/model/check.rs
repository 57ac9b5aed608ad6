//! The guarantees, checked in every state, and the explorer that checks progress.

use crate::world::{Do, Move, World};
use app_pager::event::Action;
use app_pager::ids::{Frame, PageNo, TaskId};
use app_pager::page::Mode;
use app_pager::rng::Rng;
use l4abi::{NodeId, Rights};
use stateright::{Checker, Model, Property};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

impl World {
    /// Records the first broken guarantee.
    pub fn check(&mut self) {
        if let Err(error) = self.verdict() {
            self.fail(error);
        }
    }

    fn verdict(&self) -> Result<(), &'static str> {
        let mut frames: BTreeMap<(TaskId, PageNo), BTreeSet<Frame>> = BTreeMap::new();
        let mut writable: BTreeSet<(TaskId, PageNo)> = BTreeSet::new();
        let mut owner: BTreeMap<Frame, (TaskId, PageNo)> = BTreeMap::new();
        for (&((task, _), page), m) in &self.hw.maps {
            let key = (task, page);
            if !self.pagers[m.frame.node.index()].owns(m.frame) {
                return Err("a free frame is mapped");
            }
            if owner.insert(m.frame, key).is_some_and(|k| k != key) {
                return Err("one frame at two pages");
            }
            if self.local.is_some_and(|r| r.contains(page)) {
                continue;
            }
            frames.entry(key).or_default().insert(m.frame);
            if m.rights.contains(Rights::W) {
                writable.insert(key);
            }
            if !m.by.iter().all(|node| self.is_recorded(task, page, node)) {
                return Err("a mapping survived its unmap");
            }
        }
        if writable.iter().any(|key| frames[key].len() > 1) {
            return Err("a writable page has two frames");
        }
        if self.is_done() { self.final_verdict() } else { Ok(()) }
    }

    /// Whether the directory knows that `node` may map the page, or the page is held.
    fn is_recorded(&self, task: TaskId, page: PageNo, node: NodeId) -> bool {
        let Some(directory) = self.directory(task) else { return false };
        directory.entries.get(page).is_some_and(|e| {
            e.holder.is_some() || e.state.as_ref().is_some_and(|s| s.mapped.contains(node))
        })
    }

    /// When all is quiet: no frame is lost, no written bit is lost, nothing is held.
    fn final_verdict(&self) -> Result<(), &'static str> {
        let mut known: BTreeSet<Frame> = BTreeSet::new();
        for pager in &self.pagers {
            known.extend(pager.local_frames());
        }
        for (&(node, _), slot) in &self.slots {
            let app_pager::store::Slot::Here(directory) = slot else { continue };
            let members = &directory.members;
            let left = members.visited.contains(node) && !members.active().contains(node);
            if left && !self.hw.single_space {
                return Err("the directory stayed where the task left");
            }
            if directory.members.holder.is_some() || !directory.members.waiters.is_empty() {
                return Err("the membership is held for ever");
            }
            for entry in directory.entries.values() {
                let Some(state) = &entry.state else { return Err("an empty entry is left") };
                if entry.holder.is_some() || !entry.waiters.is_empty() {
                    return Err("a page is held for ever");
                }
                if state.frames.is_empty() || state.mode == Mode::Global && state.frames.len() > 1 {
                    return Err("a page has a wrong number of frames");
                }
                known.extend(state.frames.iter());
            }
        }
        if self.pagers.iter().map(|p| p.frames_used()).sum::<usize>() != known.len() {
            return Err("a frame is lost, or free and in use");
        }
        for &(task, page) in self.written.keys() {
            let mapped =
                self.hw.maps.iter().any(|(&((t, _), p), m)| {
                    (t, p) == (task, page) && m.status.contains(Rights::W)
                });
            let entry = self.directory(task).and_then(|d| d.entries.get(page));
            let state = entry.and_then(|e| e.state.as_ref());
            if !mapped && !state.is_some_and(|s| s.status.contains(Rights::W)) {
                return Err("a written bit is lost");
            }
        }
        let spaces = self.hw.spaces.iter().filter(|((t, _), _)| self.directory(*t).is_some());
        if spaces.flat_map(|(_, s)| s).any(|t| self.clients.iter().all(|c| c.thread != *t)) {
            return Err("a dummy thread is left");
        }
        Ok(())
    }
}

pub struct Check(pub World);

impl Model for Check {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        vec![self.0.clone()]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        world.moves(moves);
    }

    fn next_state(&self, world: &World, m: Move) -> Option<World> {
        let mut next = world.clone();
        next.perform(m);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no guarantee is broken", |_, w: &World| w.error.is_none()),
            Property::always("no deadlock", |_, w: &World| {
                let mut moves = Vec::new();
                w.moves(&mut moves);
                !moves.is_empty() || w.is_done()
            }),
            Property::sometimes("everybody gets done", |_, w: &World| w.is_done()),
        ]
    }
}

/// Explores all states; every guarantee must hold. Prints how many there were.
pub fn prove(name: &str, world: World) {
    let start = std::time::Instant::now();
    let checker = Check(world).checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    println!(
        "model {name}: {states} states, depth {}, {:.1?}",
        checker.max_depth(),
        start.elapsed()
    );
    if let Some(path) =
        checker.discovery("no guarantee is broken").or(checker.discovery("no deadlock"))
    {
        for m in path.clone().into_actions() {
            println!("  {m:?}");
        }
        let last = path.last_state();
        println!("clients {:#?}", last.clients);
        println!("todo {:?}\ninbox {:?}\nslots {:#?}", last.todo, last.inbox, last.slots);
        panic!("{name}: {:?}", last.error.unwrap_or("deadlock"));
    }
    checker.assert_any_discovery("everybody gets done");
}

/// Whether some schedule ends in a deadlock.
pub fn finds_deadlock(name: &str, world: World) -> bool {
    let checker = Check(world).checker().spawn_bfs().join();
    let found = checker.discovery("no deadlock");
    println!(
        "model {name}: {} states, deadlock {}",
        checker.unique_state_count(),
        found.as_ref().map_or("not found".into(), |p| format!(
            "after {} moves",
            p.clone().into_actions().len()
        ))
    );
    found.is_some()
}

fn print_of(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Proves progress: from every state that can be reached, a state can be reached in which all
/// requests are answered. With fair scheduling, every request is then answered eventually: there
/// is neither a deadlock nor a set of states that the system goes round in for ever.
pub fn prove_progress(name: &str, world: World) {
    let start = std::time::Instant::now();
    let mut index: HashMap<u64, usize> = HashMap::new();
    let mut parents: Vec<Vec<usize>> = vec![Vec::new()];
    let mut done: Vec<usize> = Vec::new();
    let mut queue = vec![(0, world)];
    index.insert(print_of(&queue[0].1), 0);
    while let Some((i, state)) = queue.pop() {
        if state.is_done() {
            done.push(i);
        }
        let mut moves = Vec::new();
        state.moves(&mut moves);
        for m in moves {
            let mut next = state.clone();
            next.perform(m);
            assert_eq!(next.error, None, "{name}");
            let fresh = parents.len();
            let j = *index.entry(print_of(&next)).or_insert(fresh);
            if j == fresh {
                parents.push(Vec::new());
                queue.push((j, next));
            }
            parents[j].push(i);
        }
    }
    let mut good = vec![false; parents.len()];
    let mut open = done;
    while let Some(i) = open.pop() {
        if !std::mem::replace(&mut good[i], true) {
            open.extend(&parents[i]);
        }
    }
    let stuck = good.iter().filter(|g| !**g).count();
    println!(
        "model {name}, progress: {} states, {stuck} stuck, {:.1?}",
        good.len(),
        start.elapsed()
    );
    assert_eq!(stuck, 0, "{name}: some states cannot reach the end");
}

/// Runs one random schedule to the end.
pub fn run(mut world: World, seed: u64) -> World {
    let mut rng = Rng::new(seed);
    let mut moves = Vec::new();
    loop {
        moves.clear();
        world.moves(&mut moves);
        if moves.is_empty() {
            assert!(world.is_done(), "deadlock: {world:#?}");
            return world;
        }
        world.perform(moves[rng.below(moves.len() as u64) as usize]);
        assert_eq!(world.error, None, "{world:#?}");
    }
}

/// Lets one client do one thing, alone.
pub fn touch(world: World, client: usize, what: Do) -> World {
    touch_counting(world, client, what).0
}

/// The same, with the number of faults served and of requests sent to other pagers.
pub fn touch_counting(mut world: World, client: usize, what: Do) -> (World, usize, usize) {
    let rest: Vec<_> = world.clients.iter_mut().map(|c| std::mem::take(&mut c.script)).collect();
    world.clients[client].script = vec![what];
    let (mut faults, mut sends) = (0, 0);
    loop {
        let mut moves = Vec::new();
        world.moves(&mut moves);
        let Some(&m) = moves.first() else { break };
        match m {
            Move::Serve(_) if matches!(what, Do::Read(_) | Do::Write(_)) => faults += 1,
            Move::Step(node, who) => {
                let first = world.todo[&(node, who)].front();
                sends += usize::from(matches!(first, Some(Action::Send { .. })));
            }
            _ => {}
        }
        world.perform(m);
        assert_eq!(world.error, None);
    }
    assert!(world.is_done());
    for (c, script) in world.clients.iter_mut().zip(rest) {
        c.script = script;
        c.pc = 0;
    }
    (world, faults, sends)
}
