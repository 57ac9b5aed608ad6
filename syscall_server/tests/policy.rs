//! Rules by example, then liars: random requests against a small kernel, where each permitted call
//! must stay inside the caller's tasks.
#![forbid(unsafe_code)]

use l4abi::{ErrorCode, Fpage, Rights, ThreadId, ThreadNo};
use std::collections::{BTreeMap, BTreeSet};
use syscall_server::{Call, PagerNo, Policy, Request, SpaceControl, TaskNo, ThreadControl};

const A: TaskNo = TaskNo(1);
const B: TaskNo = TaskNo(2);

fn id(number: u32) -> ThreadId {
    ThreadId::global(ThreadNo(number), 1)
}

/// Pager n has threads 10n+100 and 10n+101 and may give out numbers 1000n+1000 and so on.
fn policy() -> Policy {
    let mut policy = Policy::new();
    for n in 0..3 {
        let threads = [id(100 + 10 * n), id(101 + 10 * n)];
        let first = 1000 + 1000 * n;
        policy.add_pager(PagerNo(n as u16), threads, first..first + 100).unwrap();
    }
    policy
}

fn thread(task: TaskNo, dest: u32, space: Option<u32>) -> ThreadControl {
    let space = space.map_or(ThreadId::NIL, id);
    let (scheduler, pager) = (id(100), id(110));
    ThreadControl { task, dest: id(dest), space, scheduler, pager, utcb: u64::MAX }
}

fn ask(policy: &mut Policy, caller: u32, request: Request) -> Result<(), ErrorCode> {
    let permit = policy.check(id(caller), &request)?;
    policy.apply(permit);
    Ok(())
}

fn control(policy: &mut Policy, caller: u32, t: ThreadControl) -> Result<(), ErrorCode> {
    ask(policy, caller, Request::Thread(t))
}

#[test]
fn only_pagers_get_in() {
    let mut p = policy();
    let create = thread(A, 1000, Some(1000));
    for stranger in [1, 99, 102, 1000] {
        assert_eq!(control(&mut p, stranger, create), Err(ErrorCode::NoPrivilege));
    }
    // The right number in another version is another thread.
    let forged = ThreadId::global(ThreadNo(100), 3);
    assert!(matches!(p.check(forged, &Request::Thread(create)), Err(ErrorCode::NoPrivilege)));
    assert_eq!(control(&mut p, 101, create), Ok(()));
    assert!(p.space_of(id(1000)).is_some());
}

#[test]
fn numbers_are_the_pagers_own() {
    let mut p = policy();
    for number in [0, 1, 50, 100, 110, 999, 1100, 2000, 0x3_FFFF] {
        let create = thread(A, number, Some(number));
        assert_eq!(control(&mut p, 100, create), Err(ErrorCode::NoPrivilege), "number {number}");
    }
}

#[test]
fn a_pager_cannot_touch_foreign_tasks() {
    let mut p = policy();
    control(&mut p, 100, thread(A, 1000, Some(1000))).unwrap();
    control(&mut p, 110, thread(B, 2000, Some(2000))).unwrap();
    let no = Err(ErrorCode::NoPrivilege);
    // Delete, move, rename, claim for the own task, put a thread into the foreign space.
    assert_eq!(control(&mut p, 110, thread(A, 1000, None)), no);
    assert_eq!(control(&mut p, 110, thread(B, 1000, None)), no);
    assert_eq!(control(&mut p, 110, thread(B, 1000, Some(2000))), no);
    assert_eq!(control(&mut p, 110, thread(B, 2001, Some(1000))), no);
    assert_eq!(control(&mut p, 110, thread(A, 2001, Some(1000))), no);
    assert_eq!(control(&mut p, 110, thread(A, 2001, Some(2001))), no);
    assert_eq!(ask(&mut p, 110, Request::Share { task: A, with: PagerNo(1) }), no);
    // After the pager that serves the task has shared it, all that concerns it is allowed.
    ask(&mut p, 100, Request::Share { task: A, with: PagerNo(1) }).unwrap();
    control(&mut p, 110, thread(A, 2001, Some(2001))).unwrap();
    control(&mut p, 110, thread(A, 1000, Some(2001))).unwrap();
    assert_eq!(p.space_of(id(1000)), p.space_of(id(2001)));
    control(&mut p, 110, thread(A, 1000, None)).unwrap();
    assert!(p.space_of(id(1000)).is_none());
}

#[test]
fn arguments_are_checked() {
    let mut p = policy();
    let good = thread(A, 1000, Some(1000));
    let nil = ThreadId::NIL;
    let local = ThreadId::local(0x1000);
    let cases = [
        (ThreadControl { pager: id(5), ..good }, ErrorCode::InvalidThread),
        (ThreadControl { scheduler: id(5), ..good }, ErrorCode::InvalidScheduler),
        (ThreadControl { scheduler: nil, ..good }, ErrorCode::InvalidScheduler),
        (ThreadControl { dest: local, space: local, ..good }, ErrorCode::InvalidSpace),
        (ThreadControl { dest: nil, ..good }, ErrorCode::InvalidSpace),
        (ThreadControl { space: nil, ..good }, ErrorCode::InvalidThread),
        (ThreadControl { space: id(1001), ..good }, ErrorCode::InvalidSpace),
    ];
    for (bad, why) in cases {
        assert_eq!(control(&mut p, 100, bad), Err(why), "{bad:?}");
    }
    control(&mut p, 100, good).unwrap();
    // Another version of an existing thread would rename it.
    let renamed = ThreadControl { dest: ThreadId::global(ThreadNo(1000), 2), ..good };
    assert_eq!(control(&mut p, 100, renamed), Err(ErrorCode::NoPrivilege));
}

#[test]
fn spaces_are_configured_by_their_pagers() {
    let mut p = policy();
    control(&mut p, 100, thread(A, 1000, Some(1000))).unwrap();
    let kip = Fpage::memory(0x1_0000, 12, Rights::empty());
    let utcb_area = Fpage::memory(0x2_0000, 14, Rights::empty());
    let redirector = ThreadId::NIL;
    let s = SpaceControl { task: A, space: id(1000), control: 0, kip, utcb_area, redirector };
    assert_eq!(ask(&mut p, 100, Request::Space(s)), Ok(()));
    assert_eq!(ask(&mut p, 110, Request::Space(s)), Err(ErrorCode::NoPrivilege));
    let other = SpaceControl { space: id(1001), ..s };
    assert_eq!(ask(&mut p, 100, Request::Space(other)), Err(ErrorCode::InvalidSpace));
    let stranger = SpaceControl { redirector: id(7), ..s };
    assert_eq!(ask(&mut p, 100, Request::Space(stranger)), Err(ErrorCode::InvalidThread));
}

#[test]
fn a_failed_call_changes_nothing() {
    let p = policy();
    let request = Request::Thread(thread(A, 1000, Some(1000)));
    drop(p.check(id(100), &request).unwrap());
    assert!(p.space_of(id(1000)).is_none());
    assert_eq!(p.threads_of(A).count(), 0);
}

#[test]
fn pagers_that_share_a_task_delete_its_threads() {
    let mut p = policy();
    control(&mut p, 100, thread(B, 1001, Some(1001))).unwrap();
    let strange = ThreadControl { scheduler: id(500), ..thread(B, 1001, None) };
    assert_eq!(control(&mut p, 100, strange), Err(ErrorCode::InvalidScheduler));
    ask(&mut p, 100, Request::Share { task: B, with: PagerNo(2) }).unwrap();
    let delete =
        ThreadControl { scheduler: ThreadId::NIL, pager: id(120), ..thread(B, 1001, None) };
    assert_eq!(control(&mut p, 120, delete), Ok(()));
    assert_eq!(p.threads_of(B).count(), 0);
    assert_eq!(
        p.add_pager(PagerNo(5), [id(500)], 1099..1200),
        Err(ErrorCode::InvalidParameter),
        "numbers overlap"
    );
}

/// The kernel as far as it matters: threads and the task that each space was made for.
#[derive(Default)]
struct Kernel {
    threads: BTreeMap<u32, (ThreadId, u32)>,
    space_task: BTreeMap<u32, TaskNo>,
}

impl Kernel {
    fn thread_control(&mut self, t: ThreadControl, serial: u32) {
        let number = t.dest.number().0;
        if t.space.is_nil() {
            assert!(self.threads.remove(&number).is_some());
            return;
        }
        let space = match self.threads.get(&t.space.number().0) {
            Some(&(_, space)) => space,
            None => {
                assert_eq!(t.space, t.dest);
                self.space_task.insert(serial, t.task);
                serial
            }
        };
        assert_eq!(self.space_task[&space], t.task, "a thread in a space of another task");
        self.threads.insert(number, (t.dest, space));
    }
}

#[test]
fn liars_stay_in_their_tasks() {
    let mut state = 1u64;
    let mut random = |n: u32| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(n)) as u32
    };
    let mut p = policy();
    let mut kernel = Kernel::default();
    // The oracle: which pagers serve a task, and the task of each thread.
    let mut serves: BTreeSet<(TaskNo, u16)> = BTreeSet::new();
    let mut task_of: BTreeMap<u32, TaskNo> = BTreeMap::new();
    let (mut granted, mut refused) = (0, 0);
    for serial in 0..50_000 {
        let caller = [100, 101, 110, 111, 120, 121, 5, 1000][random(8) as usize];
        let by = ((caller.max(100) - 100) / 10) as u16;
        let task = TaskNo(random(4));
        let some = |r: u32| 1000 + 1000 * (r % 3) + (r / 3) % 4;
        let dest = some(random(12));
        let request = match random(8) {
            0 => Request::Share { task, with: PagerNo(random(4) as u16) },
            1 | 2 => Request::Thread(thread(task, dest, None)),
            3..=5 => Request::Thread(thread(task, dest, Some(dest))),
            _ => Request::Thread(thread(task, dest, Some(some(random(12))))),
        };
        let Ok(permit) = p.check(id(caller), &request) else {
            refused += 1;
            continue;
        };
        granted += 1;
        assert!((100..1000).contains(&caller), "a stranger got in");
        match (permit.call, request) {
            (Call::Thread(t), _) => {
                let exists = task_of.get(&dest).copied();
                let known = serves.iter().any(|&(s, _)| s == task);
                assert!(exists.is_none_or(|owner| owner == task), "a foreign thread");
                assert!(serves.contains(&(task, by)) || !known, "a foreign task");
                kernel.thread_control(t, serial);
                if t.space.is_nil() {
                    task_of.remove(&dest);
                } else {
                    task_of.insert(dest, task);
                    serves.insert((task, by));
                }
                if task_of.values().all(|&t| t != task) {
                    serves.retain(|&(t, _)| t != task);
                }
            }
            (Call::Nothing, Request::Share { task, with }) => {
                assert!(serves.contains(&(task, by)));
                serves.insert((task, with.0));
            }
            other => panic!("unexpected {other:?}"),
        }
        p.apply(permit);
        for (&number, &(thread, space)) in &kernel.threads {
            assert!(p.space_of(thread).is_some(), "the policy lost {number} in {space}");
        }
    }
    println!("{granted} granted, {refused} refused");
    assert!(granted > 5_000 && refused > 5_000);
}
