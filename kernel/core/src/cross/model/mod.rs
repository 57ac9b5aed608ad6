//! Every history of small machines, state by state. The rules are the kernel's own (`cross`, `cross::transfer`), what they are
//! applied to is as much of a kernel as they see: threads with their states, mailboxes, clocks.
//!
//! Every state is checked, and every end; and from every state an end can be reached, so nothing stands still or goes round for
//! ever if every CPU goes on now and then.

mod calls;
mod forward;
mod lines;
mod pages;
mod transfer;

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::rc::Rc;

/// CPUs of the machines.
const CPUS: usize = 3;

/// A machine in a state.
trait Histories: Clone + Eq + Hash + Debug {
    /// What can come next.
    fn successors(&self) -> Vec<Self>;
    /// Panics if something is wrong.
    fn check(&self);
    /// Panics if something is wrong although nothing is left to happen.
    fn check_end(&self);
}

/// Explores everything; answers the number of states.
fn explore<W: Histories>(start: W) -> usize {
    let start = Rc::new(start);
    let mut ids = HashMap::from([(start.clone(), 0usize)]);
    let mut before: Vec<Vec<usize>> = vec![vec![]];
    let mut queue = VecDeque::from([(start, 0)]);
    let mut ends = vec![];
    while let Some((w, id)) = queue.pop_front() {
        let next = w.successors();
        if next.is_empty() {
            w.check_end();
            ends.push(id);
        }
        for n in next {
            n.check();
            let n = Rc::new(n);
            let fresh = ids.len();
            let to = *ids.entry(n.clone()).or_insert(fresh);
            if to == fresh {
                before.push(vec![]);
                queue.push_back((n, to));
            }
            before[to].push(id);
        }
    }
    // Progress: every state is before some end.
    let mut ending = vec![false; ids.len()];
    while let Some(id) = ends.pop() {
        if !std::mem::replace(&mut ending[id], true) {
            ends.extend(&before[id]);
        }
    }
    if let Some(stuck) = ending.iter().position(|&e| !e) {
        let state = ids.iter().find(|(_, id)| **id == stuck).map(|(w, _)| w);
        panic!("a state from which nothing ends: {state:?}");
    }
    ids.len()
}

/// Whether something is wrong in one of the machines: what a model says of a protocol that is broken on purpose.
fn is_caught<W: Histories>(starts: impl IntoIterator<Item = W>) -> bool {
    let quiet =
        |start: W| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| explore(start)));
    starts.into_iter().any(|start| quiet(start).is_err())
}
