//! What a pager may ask, and the words it is sent as.

use crate::policy::{PagerNo, TaskNo};
use l4abi::tag::MsgTag;
use l4abi::{Fpage, ThreadId};

/// Arguments of ThreadControl (ref 4.5), with the task that the thread belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ThreadControl {
    /// The task.
    pub task: TaskNo,
    /// The thread.
    pub dest: ThreadId,
    /// Names the space: nil deletes, `dest` itself makes a new one.
    pub space: ThreadId,
    /// The scheduler, or nil.
    pub scheduler: ThreadId,
    /// The pager, or nil.
    pub pager: ThreadId,
    /// UTCB location; `u64::MAX` leaves it.
    pub utcb: u64,
}

/// Arguments of SpaceControl (ref 4.9), with the task that the space belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpaceControl {
    /// The task.
    pub task: TaskNo,
    /// A thread of the space.
    pub space: ThreadId,
    /// Control word.
    pub control: u64,
    /// Place of the kernel interface page.
    pub kip: Fpage,
    /// Place of the UTCBs.
    pub utcb_area: Fpage,
    /// The redirector, or nil.
    pub redirector: ThreadId,
}

/// A request to a system call server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// ThreadControl.
    Thread(ThreadControl),
    /// SpaceControl.
    Space(SpaceControl),
    /// Let another pager serve the task too: threads move to its node.
    Share {
        /// The task.
        task: TaskNo,
        /// The other pager.
        with: PagerNo,
    },
}

/// Label of the request to move a thread to a CPU: task, thread, CPU. It is allowed to those who may
/// change the thread.
pub const SCHEDULE: u64 = 0x5023;

/// Label of a pager's report that a thread of a task faults where it must not: thread, address. The
/// supervisor ends the task.
pub const REPORT: u64 = 0x5024;

/// Label of a pager's request to unmap frames from everybody, pagers included: a word for each frame,
/// node and index. The answer is an error code and the status bits (numa-l4 3.2.3, possibility 2).
pub const UNMAP_FRAMES: u64 = 0x5025;

/// Label of a pager's request for frames that it lost so: the same words. The answer is as above, with
/// the mappings.
pub const REGAIN_FRAMES: u64 = 0x5026;

/// Most frames of such a request: as many map items as a message holds beside two words.
pub const MAX_FRAMES: usize = 30;

/// Labels of the requests; the answer has the same label and one word: 0, or an error code (ref 4.1).
const THREAD: u64 = 0x5020;
const SPACE: u64 = 0x5021;
const SHARE: u64 = 0x5022;

impl Request {
    /// The request as a message: tag and MR1 to MR6.
    #[must_use]
    pub const fn encode(self) -> (MsgTag, [u64; 6]) {
        match self {
            Self::Thread(t) => {
                let (dest, space) = (t.dest.raw(), t.space.raw());
                let words =
                    [t.task.0 as u64, dest, space, t.scheduler.raw(), t.pager.raw(), t.utcb];
                (MsgTag::new(THREAD, 6, 0), words)
            }
            Self::Space(s) => {
                let (kip, utcbs) = (s.kip.raw(), s.utcb_area.raw());
                let redirector = s.redirector.raw();
                let words = [s.task.0 as u64, s.space.raw(), s.control, kip, utcbs, redirector];
                (MsgTag::new(SPACE, 6, 0), words)
            }
            Self::Share { task, with } => {
                (MsgTag::new(SHARE, 2, 0), [task.0 as u64, with.0 as u64, 0, 0, 0, 0])
            }
        }
    }

    /// The request that was received: tag and MR1 to MR6. `None` for anything else.
    #[must_use]
    pub fn parse(tag: MsgTag, mr: [u64; 6]) -> Option<Self> {
        if tag.typed() != 0 {
            return None;
        }
        let task = TaskNo(u32::try_from(mr[0]).ok()?);
        let id = ThreadId::from_raw;
        match (tag.label(), tag.untyped()) {
            (THREAD, 6) => Some(Self::Thread(ThreadControl {
                task,
                dest: id(mr[1]),
                space: id(mr[2]),
                scheduler: id(mr[3]),
                pager: id(mr[4]),
                utcb: mr[5],
            })),
            (SPACE, 6) => Some(Self::Space(SpaceControl {
                task,
                space: id(mr[1]),
                control: mr[2],
                kip: Fpage::from_raw(mr[3]),
                utcb_area: Fpage::from_raw(mr[4]),
                redirector: id(mr[5]),
            })),
            (SHARE, 2) => Some(Self::Share { task, with: PagerNo(u16::try_from(mr[1]).ok()?) }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use l4abi::{Rights, ThreadNo};

    #[test]
    fn requests_round_trip() {
        let id = |n| ThreadId::global(ThreadNo(n), 1);
        let thread = ThreadControl {
            task: TaskNo(1),
            dest: id(2),
            space: id(3),
            scheduler: id(4),
            pager: id(5),
            utcb: 6,
        };
        let space = SpaceControl {
            task: TaskNo(u32::MAX),
            space: id(2),
            control: 3,
            kip: Fpage::memory(0x4000, 12, Rights::empty()),
            utcb_area: Fpage::memory(0x8000, 14, Rights::empty()),
            redirector: ThreadId::NIL,
        };
        let share = Request::Share { task: TaskNo(9), with: PagerNo(7) };
        for request in [Request::Thread(thread), Request::Space(space), share] {
            let (tag, mr) = request.encode();
            assert_eq!(Request::parse(tag, mr), Some(request));
            assert_eq!(Request::parse(MsgTag::new(tag.label(), 3, 0), mr), None);
            assert_eq!(Request::parse(MsgTag::new(tag.label(), tag.untyped(), 2), mr), None);
            assert_eq!(Request::parse(MsgTag::new(1, tag.untyped(), 0), mr), None);
        }
        let (tag, mut mr) = share.encode();
        mr[0] = 1 << 32;
        assert_eq!(Request::parse(tag, mr), None);
    }
}
