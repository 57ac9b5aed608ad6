//! The words of each message (the numbers are the interface: never reuse one).

use crate::directory::{Census, DirError, DirOp, Filter, MemberChange, Outcome, Update};
use crate::ids::{Caller, TaskId};
use crate::members::{HoldMembers, MemberView};
use crate::message::{ClientCall, Confirm, Reply, Request};
use crate::page::{Mode, PageState};
use crate::region::{Policy, Region};
use crate::wire::{labels, wire_enum, wire_struct};

wire_enum!(Policy {
    0 => FirstTouch {}
    1 => Interleave {}
    2 => OnNode { 0: node }
    3 => Replicate {}
    4 => NextTouch {}
    5 => NodeLocal {}
});
wire_struct!(Region { rights, policy });

wire_enum!(Mode {
    0 => Global {}
    1 => Replicated {}
});
wire_struct!(PageState { mode, frames, mapped, status, next_touch });
wire_struct!(MemberView { at, peer, dest_peer, first, active, visited });
wire_struct!(Census { global, replicas, mapped, threads });
wire_struct!(HoldMembers { thread, dest, dying });

wire_enum!(DirError {
    1 => NoTask {}
    2 => NoRegion {}
    3 => NoRight {}
    4 => InUse {}
    5 => NoThread {}
    6 => Unsupported {}
    7 => NoMemory {}
    8 => NotAllowed {}
    9 => Invalid {}
});

wire_enum!(Filter {
    0 => Existing {}
    1 => MappedAt { 0: node }
    2 => Exact {}
});

wire_enum!(Update {
    0 => Keep {}
    1 => Set { 0: state }
    2 => Remove {}
});

wire_enum!(MemberChange {
    0 => Keep {}
    1 => Put { 0: thread, 1: node }
    2 => Remove { 0: thread }
});

wire_enum!(DirOp {
    1 => Resolve { page: page, access: access, offer: offer }
    2 => Hold { range: range, filter: filter }
    3 => Commit { page: page, update: update }
    4 => HoldMembers { 0: ask }
    5 => CommitMembers { change: change, release: release }
    6 => SetRegion { range: range, region: region }
    7 => SetPolicy { range: range, policy: policy }
    8 => Query { page: page }
    9 => HandOver { to: to }
    10 => Destroy {}
    11 => Census { node: node }
    12 => HoldSome { range: range }
    13 => CommitSome { pages: pages, remove: remove }
});

wire_enum!(Outcome {
    1 => Map { frame: frame, rights: rights, offered: offered }
    2 => Held { page: page, state: state, home: home, region: region }
    3 => Local { range: range, rights: rights }
    4 => NoPage {}
    5 => Members { 0: view }
    6 => Done {}
    7 => Page { frames: frames, frame: frame, mapped: mapped, replicated: replicated }
    8 => Queued {}
    9 => Refused { 0: error }
    10 => Census { 0: census }
    11 => HeldSome { pages: pages, frames: frames, mapped: mapped, status: status }
});

wire_enum!(Request {
    2 => Alloc { clean: clean }
    4 => Dir { task: task, op: op }
    5 => Enter { task: task, master: master, thread: thread, new_space: new_space }
    6 => Depart { task: task, thread: thread, keep: keep }
    7 => DropDummy { task: task }
    8 => Leave { task: task }
    9 => Forget { task: task }
    10 => FreeThread { thread: thread }
    11 => Revoke { task: task, pages: pages, free: free }
    12 => Free { frames: frames }
});

wire_enum!(Confirm {
    1 => Revoked { 0: status }
    2 => Frame { 0: frame }
    3 => Done {}
    4 => Entered { 0: thread }
    5 => Failed {}
    6 => Dir { 0: outcome }
    7 => Moved { 0: to }
});

wire_enum!(ClientCall {
    1 => AddRegion { 0: range, 1: region }
    2 => MakeLocal { 0: range }
    3 => SetPolicy { 0: range, 1: policy }
    4 => AllocOn { 0: range, 1: node }
    5 => Unmap { 0: range }
    6 => Discard { 0: range }
    7 => MigratePages { 0: range, 1: node }
    8 => Replicate { 0: range }
    9 => Query { 0: page }
    10 => CreateThread { ip: ip, sp: sp }
    11 => DeleteThread { 0: thread }
    12 => MigrateThread { thread: thread, node: node, cpu: cpu }
    13 => EndTask {}
    14 => Census { 0: node }
});

wire_enum!(Reply {
    1 => Pages { count: count, status: status }
    2 => Thread { 0: thread }
    3 => Placement {
        frames: frames, frame: frame, mapped: mapped, replicated: replicated, local: local
    }
    4 => Done {}
    5 => Again {}
    6 => Refused { 0: error }
    7 => Census { 0: census }
    8 => Part { count: count, status: status, next: next }
});

/// A request with who waits for the confirmation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PagerRequest {
    /// Who waits.
    pub from: Caller,
    /// It is one of several that the sender waits for together: confirm at its
    /// [`Barrier`](crate::barrier::Barrier). Otherwise answer with a note.
    pub together: bool,
    /// The request.
    pub request: Request,
}
wire_struct!(PagerRequest { from, together, request });

/// A client's call, with the task it is about if the caller is a balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientRequest {
    /// The task; `None` for the caller's own.
    pub task: Option<TaskId>,
    /// The call.
    pub call: ClientCall,
}
wire_struct!(ClientRequest { task, call });

labels! {
    PagerRequest = 0x5000,
    Confirm = 0x5001,
    ClientRequest = 0x5010,
    Reply = 0x5011,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Frame, NodeSet};
    use crate::page::{Frames, MAX_REPLICAS};
    use crate::rng::Rng;
    use crate::wire::{Message, Reader, Wire};
    use alloc::collections::BTreeSet;
    use core::fmt::Debug;
    use l4abi::tag::MAX_WORDS;
    use l4abi::{MsgTag, NodeId, Rights};

    /// An endless stream of words that often mean something.
    fn stream(rng: &mut Rng) -> impl Iterator<Item = u64> {
        core::iter::from_fn(|| {
            let bits = [1, 2, 4, 8, 31, 38, 64][rng.below(7) as usize];
            Some(rng.next() >> (64 - bits))
        })
    }

    fn round_trips<T: Message + PartialEq + Debug>(
        seed: u64,
        variants: usize,
        variant: fn(&[u64]) -> u64,
    ) {
        let mut rng = Rng::new(seed);
        let mut seen = BTreeSet::new();
        for _ in 0..200_000 {
            let Some(value) = T::get(&mut Reader::new(stream(&mut rng))) else { continue };
            let (tag, words) = value.encode().expect("all fit a message");
            assert_eq!((tag.label(), tag.untyped()), (T::LABEL, words.as_slice().len()));
            assert_eq!(T::decode(tag, words.as_slice()), Some(value));
            seen.insert(variant(words.as_slice()));
            // One word more or less is another message, or none.
            let mut more = words.as_slice().to_vec();
            more.push(0);
            assert_eq!(T::decode(MsgTag::new(T::LABEL, more.len(), 0), &more), None);
            let less = words.as_slice().len() - 1;
            assert_eq!(T::decode(MsgTag::new(T::LABEL, less, 0), words.as_slice()), None);
        }
        assert_eq!(seen.len(), variants, "variants seen: {seen:?}");
    }

    #[test]
    fn requests_round_trip() {
        round_trips::<PagerRequest>(1, 10, |w| w[3]);
    }

    #[test]
    fn confirmations_round_trip() {
        round_trips::<Confirm>(2, 7, |w| w[0]);
    }

    #[test]
    fn replies_round_trip() {
        round_trips::<Reply>(3, 8, |w| w[0]);
    }

    #[test]
    fn calls_round_trip() {
        let mut rng = Rng::new(4);
        let mut seen = BTreeSet::new();
        for _ in 0..100_000 {
            let Some(call) = ClientCall::get(&mut Reader::new(stream(&mut rng))) else { continue };
            let task = (rng.below(2) == 0).then_some(TaskId(7));
            let sent = ClientRequest { task, call };
            let (tag, words) = sent.encode().unwrap();
            assert_eq!(ClientRequest::decode(tag, words.as_slice()), Some(sent));
            seen.insert(words.as_slice()[if task.is_some() { 2 } else { 1 }]);
        }
        assert_eq!(seen.len(), 14);
    }

    #[test]
    fn the_largest_messages_fit() {
        let frames = (0..MAX_REPLICAS as u8).map(|n| Frame { node: NodeId(n), index: u32::MAX });
        let state = PageState {
            mode: Mode::Replicated,
            frames: Frames::from_list(frames.collect()).unwrap(),
            mapped: NodeSet(u64::MAX),
            status: Rights::RWX,
            next_touch: true,
        };
        let policy = Policy::OnNode(NodeId(63));
        let region = Region { rights: Rights::RWX, policy };
        let (page, home) = (crate::ids::PageNo(u64::MAX), NodeId(63));
        let held = Outcome::Held { page, state: Some(state.clone()), home, region };
        let (tag, words) = Confirm::Dir(held.clone()).encode().unwrap();
        assert_eq!(Confirm::decode(tag, words.as_slice()), Some(Confirm::Dir(held)));
        let op = DirOp::Commit { page, update: Update::Set(state) };
        let from = Caller { node: home, lane: crate::ids::LaneId(255) };
        let request = Request::Dir { task: TaskId(u32::MAX), op };
        let (tag, _) = PagerRequest { from, together: true, request }.encode().unwrap();
        assert!(tag.untyped() <= MAX_WORDS);
    }

    #[test]
    fn strangers_are_not_decoded() {
        let words = [3u64; 63];
        assert_eq!(Confirm::decode(MsgTag::new(0x5001, 1, 0), &words), Some(Confirm::Done));
        assert_eq!(Confirm::decode(MsgTag::new(0x5002, 1, 0), &words), None);
        assert_eq!(Confirm::decode(MsgTag::new(0x5001, 1, 2), &words), None);
        assert_eq!(Confirm::decode(MsgTag::new(0x5001, 63, 0), &words[..5]), None);
        assert_eq!(Confirm::decode(MsgTag::new(0x5001, 1, 0), &[99]), None);
    }
}
