//! Looking at queues without changing them sees everybody once.

use std::collections::BTreeSet;

use super::list::{Link, Linked};
use super::runqueue::Ready;
use super::{RunQueue, WakeLink, WakeNode, WakeQueue};

#[derive(Default)]
struct Thread {
    number: usize,
    ready: Link<&'static Thread>,
    wake: WakeLink<&'static Thread>,
}

impl PartialEq for Thread {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

impl Linked<Ready> for &'static Thread {
    fn link(&self) -> &Link<Self> {
        &self.ready
    }
}

impl WakeNode for &'static Thread {
    fn wake(&self) -> &WakeLink<Self> {
        &self.wake
    }
}

#[test]
fn queues_are_seen_whole_and_stay_as_they_are() {
    const COUNT: usize = 40;
    let threads: Vec<Thread> =
        (0..COUNT).map(|number| Thread { number, ..Thread::default() }).collect();
    let threads: &'static [Thread] = Vec::leak(threads);
    let (ready, wakeups) = (RunQueue::new(), WakeQueue::new());
    let (mut queued, mut timed) = (BTreeSet::new(), BTreeSet::new());
    let mut state = 0x1234_5678_9ABC_DEF1u64;
    for _ in 0..crate::testing::rounds(20_000) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let t = &threads[(state >> 8) as usize % COUNT];
        let at = state >> 20 & 63;
        match state & 7 {
            0..3 => {
                wakeups.insert(t, at);
                timed.retain(|&(n, _)| n != t.number);
                timed.insert((t.number, at));
            }
            3 => {
                wakeups.remove(t);
                timed.retain(|&(n, _)| n != t.number);
            }
            4 => {
                if let Some(due) = wakeups.pop_due(at) {
                    timed.retain(|&(n, _)| n != due.number);
                }
            }
            5 => {
                ready.enqueue(t, (t.number % 5) as u8);
                queued.insert(t.number);
            }
            _ => {
                ready.dequeue(t, (t.number % 5) as u8);
                queued.remove(&t.number);
            }
        }
        let mut seen = Vec::new();
        wakeups.visit(1000, &mut |t, at| seen.push((t.number, at)));
        assert_eq!(seen.len(), timed.len());
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), timed);
        let mut seen = Vec::new();
        ready.visit(1000, &mut |t, priority| {
            assert_eq!(t.number % 5, usize::from(priority));
            seen.push(t.number);
        });
        assert_eq!(seen.len(), queued.len());
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), queued);
    }
    let mut seen = 0;
    wakeups.visit(3, &mut |_, _| seen += 1);
    assert!(seen <= 3);
}
