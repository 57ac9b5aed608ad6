//! Memory for applications by place (numa-l4 3.2.1, 4.2.6), on the pager interface: heaps on a node or
//! spread over all nodes, and variables that every node has for itself.

use crate::client::{self, TaskError, pages};
use crate::region::Policy;
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::{NodeId, Rights};
use libl4::arch;
use libl4::heap::Area;

/// Makes `[base, base + size)` a heap whose pages lie where `policy` says.
fn heap(base: u64, size: u64, policy: Policy) -> Result<Area, TaskError> {
    client::add_region(pages(base, size), Rights::RW, policy)?;
    Area::new(base, size as usize).ok_or(TaskError::BadReply)
}

/// A heap whose pages are memory of `node`, whoever touches them first. All nodes may use its objects.
///
/// # Errors
/// [`TaskError`]; `Refused(InUse)` if something lies there, `BadReply` if it is too small for a heap.
pub fn heap_on(base: u64, size: u64, node: NodeId) -> Result<Area, TaskError> {
    heap(base, size, Policy::OnNode(node))
}

/// A heap whose pages lie on all nodes by turns: for what all nodes use alike.
///
/// # Errors
/// As [`heap_on`].
pub fn interleaved_heap(base: u64, size: u64) -> Result<Area, TaskError> {
    heap(base, size, Policy::Interleave)
}

/// Words that every node has for itself, at the same addresses: a thread uses those of the node it is
/// on, without asking where that is. Where a task has one space there is one word for all
/// (`spaces = "single"`, `numa = "flat"`).
#[derive(Clone, Copy, Debug)]
pub struct PerNode {
    base: u64,
    words: u64,
}

impl PerNode {
    /// `words` words from `base` on, all 0 at first.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn new(base: u64, words: u64) -> Result<Self, TaskError> {
        let range = pages(base, 8 * words);
        client::add_region(range, Rights::RW, Policy::FirstTouch)?;
        client::make_local(range)?;
        Ok(Self { base, words })
    }

    /// Word `index` of the node that the thread is on. A reference means the word of whatever node the
    /// thread is on when it uses it: do not keep it across a migration.
    ///
    /// # Panics
    /// If there is no such word.
    #[must_use]
    pub fn word(&self, index: u64) -> &'static AtomicU64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        arch::shared_word(self.base + 8 * index)
    }

    /// Adds to a word; returns what it was.
    pub fn add(&self, index: u64, value: u64) -> u64 {
        self.word(index).fetch_add(value, Ordering::Relaxed)
    }

    /// Reads a word.
    #[must_use]
    pub fn get(&self, index: u64) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }
}
