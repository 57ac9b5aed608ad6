//! Waiting until a CPU has nothing left to do.
//!
//! A test that gives a partner time by sleeping believes that the partner's CPU runs meanwhile. In an emulator on a
//! busy host a CPU may stand still for longer than any sleep. So there is a thread of lowest priority on every CPU that
//! tests use: when it answers, everybody else there has run until he blocked.

use super::{Place, ctx, ids};
use libl4::sys::{self, Schedule};
use libl4::thread::{self, Stack};
use libl4::{CpuId, MsgTag, ThreadId, Time, Timeouts, ipc};

/// The places whose CPUs differ.
const PLACES: [Place; 3] = [Place::Local, Place::LocalFar, Place::RemoteNode];
static STACKS: [Stack<4096>; PLACES.len()] = [const { Stack::new() }; PLACES.len()];
/// Lower than everybody's in a test.
const PRIORITY: u8 = 1;
/// How long to wait for the answer: the CPU may be kept busy on purpose.
const PATIENCE: Time = Time::period_us(60_000);

fn id(n: usize) -> ThreadId {
    ThreadId::global(ids::number(ids::SLOTS + n as u32), 1)
}

/// Makes the threads; they stay for all tests.
pub(super) fn set_up() {
    for (n, place) in PLACES.iter().enumerate() {
        let Some(cpu) = place.cpu() else { continue };
        let slot = ids::SLOTS + n as u32;
        thread::create_local(id(n), ids::root_utcb(slot), ids::pager()).expect("a settler");
        let processor = (!place.same_cpu()).then_some(cpu);
        let schedule = Schedule { priority: Some(PRIORITY), processor, ..Schedule::default() };
        sys::schedule(id(n), schedule).expect("its place");
        let stack = STACKS[n].take().expect("taken once");
        thread::start_on(id(n), &stack, answer, 0).expect("its start");
    }
}

extern "C" fn answer(_: u64) -> ! {
    let mut got = ipc::wait();
    loop {
        // A message switches to its receiver whatever the priorities: step back behind everybody once more.
        libl4::arch::thread_switch(ThreadId::NIL.raw());
        got = match got {
            Ok(received) => ipc::reply_wait(received.from, MsgTag::NIL),
            Err(_) => ipc::wait(),
        };
    }
}

/// Waits until everybody on `cpu` has blocked. False if somebody there does not.
pub(super) fn wait_for(cpu: CpuId) -> bool {
    const { assert!(ctx::PUPPET_PRIORITY > PRIORITY) };
    let place = PLACES.iter().position(|place| place.cpu() == Some(cpu));
    place.is_some_and(|n| ipc::call(id(n), Timeouts::new(PATIENCE, PATIENCE), MsgTag::NIL).is_ok())
}
