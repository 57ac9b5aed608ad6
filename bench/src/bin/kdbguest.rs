//! A program for the kernel debugger to look at: threads on two CPUs, a page that the root task has from sigma0, a thread
//! that waits for a time. It enters the debugger once, and then works on for the escape key to interrupt.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use libl4::sys::{self, Schedule};
use libl4::thread::{self, Stack};
use libl4::{CpuId, ThreadId, ThreadNo, Timeouts};
use libl4::{arch, exit, ipc, println, sigma0, time, topology};

libl4::entry!(main);

/// How long it works on, in steps.
const STEPS: u64 = 100;
/// A step.
const STEP_US: u64 = 20_000;

static STACKS: [Stack<8192>; 2] = [const { Stack::new() }; 2];

fn main() {
    exit::exit_on_panic();
    // Everything the others need must be here: nobody serves their faults.
    let (first, last) = arch::image_range();
    for page in (first..=last).step_by(4096) {
        let _ = arch::touch_read(page);
    }
    let outcome = match prepare() {
        Ok(page) => {
            println!("the page is at {page:#x}");
            arch::enter_debugger();
            println!("working on");
            (0..STEPS).for_each(|_| time::sleep_us(STEP_US));
            println!("worked on");
            exit::Outcome::Success
        }
        Err(problem) => {
            println!("kdbguest: {problem}");
            exit::Outcome::Failed
        }
    };
    exit::exit(outcome);
}

/// A thread that waits for ever on the last CPU, one that sleeps on this one, a page.
fn prepare() -> Result<u64, &'static str> {
    let page = sigma0::any_page(12).map_err(|_| "no page")?;
    arch::poke(page, 0x6c6f_6b61_6c21);
    let far = CpuId(topology::cpu_count() as u16 - 1);
    start(0, far, wait)?;
    start(1, thread::my_cpu(), sleep)?;
    time::sleep_us(STEP_US);
    Ok(page)
}

fn start(n: u32, cpu: CpuId, entry: extern "C" fn(u64) -> !) -> Result<(), &'static str> {
    let id = ThreadId::global(ThreadNo(thread::my_global_id().number().0 + 1 + n), 1);
    let utcb = thread::my_utcb_location() + 1024 * (1 + u64::from(n));
    thread::create_local(id, utcb, sigma0::id()).map_err(|_| "cannot create a thread")?;
    if cpu != thread::my_cpu() {
        let schedule = Schedule { processor: Some(cpu), ..Schedule::default() };
        sys::schedule(id, schedule).map_err(|_| "cannot move a thread")?;
    }
    let stack = STACKS[n as usize].take().ok_or("no stack")?;
    thread::start_on(id, &stack, entry, 0).map_err(|_| "cannot start a thread")
}

extern "C" fn wait(_: u64) -> ! {
    loop {
        let _ = ipc::receive(ThreadId::ANY, Timeouts::NEVER);
    }
}

extern "C" fn sleep(_: u64) -> ! {
    loop {
        time::sleep_us(STEPS * STEP_US);
    }
}
