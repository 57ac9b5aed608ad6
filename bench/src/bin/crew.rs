//! A program of several threads without application pager: the root task makes them.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::experiment::Report;
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::sync::{Barrier, Mutex};
use libl4::thread::Stack;
use libl4::{CpuId, program, thread, topology};

libl4::program!(main);

const THREADS: usize = 3;
const ROUNDS: u64 = 20;

static STACKS: [Stack<{ 8 * 1024 }>; THREADS] = [const { Stack::new() }; THREADS];
static MEETING: Barrier = Barrier::new(THREADS as u32 + 1);
static SUM: Mutex<u64> = Mutex::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static CPUS: [AtomicU64; THREADS] = [const { AtomicU64::new(u64::MAX) }; THREADS];

fn work() {
    for _ in 0..ROUNDS {
        *SUM.lock() += 1;
        LAST.fetch_add(u64::from(MEETING.wait()), Ordering::Relaxed);
    }
}

extern "C" fn member(index: u64) -> ! {
    program::report_exceptions();
    CPUS[index as usize].store(u64::from(thread::my_cpu().0), Ordering::Relaxed);
    work();
    thread::sleep_forever()
}

fn main() {
    let mut report = Report::default();
    let cpus = topology::cpu_count() as u64;
    // Twice, so that numbers and stacks are used again.
    for turn in 1..=2 {
        let mut ids = [libl4::ThreadId::NIL; THREADS];
        for (i, stack) in STACKS.iter().enumerate() {
            let top = stack.take().expect("free again");
            let cpu = CpuId((i as u64 % cpus) as u16);
            let made = program::create_thread(&top, member, i as u64, cpu);
            report.check("crew_create", made.is_ok(), format_args!("{made:?}"));
            ids[i] = made.unwrap_or_default();
        }
        work();
        let (sum, last) = (*SUM.lock(), LAST.load(Ordering::Relaxed));
        let want = (turn * ROUNDS * (THREADS as u64 + 1), turn * ROUNDS);
        report.check("crew_meets", (sum, last) == want, format_args!("{sum} {last} of {want:?}"));
        let right = |(i, cpu): (usize, &AtomicU64)| cpu.load(Ordering::Relaxed) == i as u64 % cpus;
        let placed = CPUS.iter().enumerate().all(right);
        report.check("crew_cpus", placed, format_args!("{CPUS:?}"));
        for (id, stack) in ids.into_iter().zip(&STACKS) {
            let gone = program::delete_thread(id);
            report.check("crew_delete", gone.is_ok(), format_args!("{gone:?}"));
            stack.release();
        }
    }
    let me = program::delete_thread(thread::my_global_id());
    report.check("crew_first_stays", me.is_err(), format_args!("{me:?}"));
    let root = program::delete_thread(program::supervisor());
    report.check("crew_stranger", root.is_err(), format_args!("{root:?}"));
    report.end();
}
