//! Thread ids of a node: its pager gives them to the threads it creates.

use crate::config::ThreadNumbers;
use alloc::vec::Vec;
use l4abi::{NodeId, ThreadId, ThreadNo};

/// Free thread ids. A number comes back with another version, so an old id never names a new thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IdPool {
    next: u32,
    end: u32,
    freed: Vec<ThreadId>,
}

impl IdPool {
    /// The ids of `node`.
    #[must_use]
    pub fn new(numbers: ThreadNumbers, node: NodeId) -> Self {
        let next = numbers.base + u32::from(node.0) * numbers.per_node;
        Self { next, end: next + numbers.per_node, freed: Vec::new() }
    }

    /// An id that no thread has.
    pub fn take(&mut self) -> Option<ThreadId> {
        if let Some(old) = self.freed.pop() {
            // The low six bits of a version must not all be zero (X.2 thread ids).
            let version = old.version().wrapping_add(1);
            let version = if version & 0x3F == 0 { version + 1 } else { version };
            return Some(ThreadId::global(old.number(), version));
        }
        (self.next < self.end).then(|| {
            self.next += 1;
            ThreadId::global(ThreadNo(self.next - 1), 1)
        })
    }

    /// Takes back the number of a thread that is gone.
    pub fn give_back(&mut self, thread: ThreadId) {
        self.freed.push(thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_with_another_version() {
        let numbers = ThreadNumbers { base: 100, per_node: 2 };
        let mut ids = IdPool::new(numbers, NodeId(1));
        let a = ids.take().unwrap();
        assert_eq!((a.number(), numbers.owner(a)), (ThreadNo(102), Some(NodeId(1))));
        assert!(ids.take().is_some() && ids.take().is_none());
        let mut last = a;
        for _ in 0..200 {
            ids.give_back(last);
            let next = ids.take().unwrap();
            assert!(next != last && next.is_well_formed_global());
            assert_eq!(next.number(), a.number());
            last = next;
        }
    }
}
