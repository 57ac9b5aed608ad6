//! The controller: runs a list of tests and survives those that hang.

use super::{Ctx, Place, Test, TestResult, arena, ctx, ids, pager, report, settle};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::exit::{self, Outcome};
use libl4::sys::{self, Schedule};
use libl4::thread::{self, Stack};
use libl4::{MsgTag, ThreadId, Time, Timeouts, arch, ipc, println};
use spin::Mutex;

/// A test that takes longer has hung.
const LIMIT: Time = Time::period_us(20_000_000);
/// Label of the order to run a test.
const RUN: u64 = 0x71;
/// Label of its result.
const DONE: u64 = 0x72;

const STACK_SIZE: usize = 48 * 1024;
static PAGER_STACK: Stack<{ 16 * 1024 }> = Stack::new();
static RUNNER_STACK: Stack<STACK_SIZE> = Stack::new();

/// The test that the runner shall run.
static CURRENT: Mutex<Option<(Test, Place)>> = Mutex::new(None);
/// Its result: 1 passed, 2 failed.
static RESULT: AtomicU64 = AtomicU64::new(0);

/// Runs the tests in every place the machine has, prints a record for each and a summary, and
/// leaves the machine.
pub fn run(area: &str, groups: &[&[Test]]) -> ! {
    exit::exit_on_panic();
    set_up();
    let (mut passed, mut failed) = (0u64, 0u64);
    for test in groups.iter().copied().flatten() {
        for place in test.places.list().filter(|place| place.cpu().is_some()) {
            let result = run_one(*test, place);
            let suffix = (test.places != super::Places::Once).then(|| place.name());
            if report::record(test.name, suffix, result) {
                passed += 1;
            } else {
                failed += 1;
            }
        }
    }
    println!("{area}: {passed} passed, {failed} failed");
    libl4::console::record(|out| {
        let mut line = l4abi::record::Line::begin(out, "suite");
        line.str("area", area).num("passed", passed).num("failed", failed);
        line.end()
    });
    exit::exit(if failed == 0 { Outcome::Success } else { Outcome::Failed })
}

fn set_up() {
    ids::init();
    // Everything that others will be mapped must be here first.
    let (first, last) = arch::image_range();
    for page in (first & !(arena::PAGE - 1)..=last).step_by(arena::PAGE as usize) {
        let _ = arch::touch_read(page);
    }
    arena::take();
    for page in 0..arena::ARENA_SIZE / arena::PAGE {
        let _ = arch::touch_read(arena::page(page));
    }
    let stack = PAGER_STACK.take().expect("unused");
    start_thread(ids::pager(), ids::PAGER, ctx::PAGER_PRIORITY, &stack, pager::main);
    settle::set_up();
    start_runner();
}

fn start_thread(
    id: ThreadId,
    slot: u32,
    priority: u8,
    stack: &arch::StackTop,
    entry: extern "C" fn(u64) -> !,
) {
    let pager = if slot == ids::PAGER { libl4::sigma0::id() } else { ids::pager() };
    thread::create_local(id, ids::root_utcb(slot), pager).expect("a thread of the harness");
    let schedule = Schedule { priority: Some(priority), ..Schedule::default() };
    sys::schedule(id, schedule).expect("a priority");
    thread::start_on(id, stack, entry, 0).expect("a start");
}

fn start_runner() {
    RUNNER_STACK.release();
    let stack = RUNNER_STACK.take().expect("released");
    start_thread(ids::of_slot(ids::RUNNER), ids::RUNNER, ctx::RUNNER_PRIORITY, &stack, runner_main);
}

/// Runs one test; `None` if it hung.
fn run_one(test: Test, place: Place) -> Option<TestResult> {
    *CURRENT.lock() = Some((test, place));
    RESULT.store(0, Ordering::Relaxed);
    let runner = ids::of_slot(ids::RUNNER);
    let order = MsgTag::new(RUN, 0, 0);
    let answer = ipc::call(runner, Timeouts::new(super::PATIENCE, LIMIT), order);
    let result = match (answer, RESULT.load(Ordering::Acquire)) {
        (Ok(_), 1) => Some(Ok(())),
        (Ok(_), _) => Some(Err(report::Failed)),
        (Err(_), _) => None,
    };
    let clean = clean_up();
    if clean { result } else { Some(Err(report::fail(0, format_args!("threads left behind")))) }
}

/// Deletes everything but the pager and starts over with new ids. Returns whether that worked.
fn clean_up() -> bool {
    let mut clean = true;
    for slot in (ids::RUNNER..ids::SLOTS).rev() {
        clean &= thread::delete(ids::of_slot(slot)).is_ok();
    }
    ctx::release_stacks();
    pager::reset();
    ids::next_version();
    start_runner();
    clean
}

/// The runner's code: one test per life.
extern "C" fn runner_main(_: u64) -> ! {
    if ipc::receive(ids::controller(), Timeouts::NEVER).is_ok() {
        let order = CURRENT.lock().take();
        let passed = order.is_some_and(|(test, place)| (test.run)(&mut Ctx::new(place)).is_ok());
        RESULT.store(if passed { 1 } else { 2 }, Ordering::Release);
        let _ = ipc::send(ids::controller(), super::PATIENCE, MsgTag::new(DONE, 0, 0));
    }
    thread::sleep_forever()
}
