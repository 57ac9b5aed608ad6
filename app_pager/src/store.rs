//! Where directories are kept: a slot per task in the memory of each node, under a lock.

use crate::directory::{DirConfig, DirError, DirOp, Directory, Outcome, Wakes};
use crate::ids::Caller;
use alloc::boxed::Box;
use l4abi::NodeId;

/// A node's slot for the directory of a task.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Slot {
    /// Nothing: the task does not exist, or never had its directory here.
    #[default]
    Empty,
    /// The directory.
    Here(Box<Directory>),
    /// It went there. Followed as often as it takes: each stub names a later place than itself.
    Moved(NodeId),
}

/// What an operation on a slot gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotOutcome {
    /// The directory's answer.
    Answer(Outcome),
    /// Ask there.
    Moved(NodeId),
    /// Done, and this must be put into the memory of that node before the lock is released.
    Place(NodeId, Box<Directory>),
}

impl Slot {
    /// Performs `op` for `by`; the caller has the slot's lock.
    pub fn apply(
        &mut self,
        config: DirConfig,
        by: Caller,
        op: &DirOp,
        wakes: &mut Wakes,
    ) -> SlotOutcome {
        let directory = match self {
            Self::Empty => return SlotOutcome::Answer(Outcome::Refused(DirError::NoTask)),
            Self::Moved(to) => return SlotOutcome::Moved(*to),
            Self::Here(directory) => directory,
        };
        let to = match *op {
            DirOp::HandOver { to } => Some(to),
            DirOp::Destroy => None,
            _ => return SlotOutcome::Answer(directory.apply(config, by, op, wakes)),
        };
        if directory.members.holder != Some(by) || to.is_none() && !directory.members.dying {
            return SlotOutcome::Answer(Outcome::Refused(DirError::Invalid));
        }
        // All who wait ask again: in the new place, or in vain.
        directory.drain_waiters(wakes);
        let stub = to.map_or(Self::Empty, Self::Moved);
        match (core::mem::replace(self, stub), to) {
            (Self::Here(directory), Some(to)) => SlotOutcome::Place(to, directory),
            _ => SlotOutcome::Answer(Outcome::Done),
        }
    }
}
