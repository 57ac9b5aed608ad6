//! Pages under everything at once: writers on all nodes count up in their own words, readers check that
//! nothing ever goes back, while the first thread replicates, another migrates and a third unmaps.
//!
//! Arguments: `rounds=N` of each (60), `single=1` where a task has one space (nothing is replicated).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use app_pager::client;
use app_pager::region::Policy;
use bench::experiment::{Args, Report, pause};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::thread::Stack;
use libl4::{CpuId, NodeId, Rights, arch, program, thread, topology};

libl4::program!(main);

const AT: u64 = 0x1_0000_0000;
const PAGE: u64 = 4096;
const PAGES: u64 = 2;
const MOST: usize = 8;
/// Two threads beside the writers: one migrates, one unmaps.
const HELPERS: usize = 2;

static STACKS: [Stack<{ 16 * 1024 }>; MOST + HELPERS] = [const { Stack::new() }; MOST + HELPERS];
static WRITTEN: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static WRONG: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

const fn word(page: u64, writer: u64) -> u64 {
    AT + page * PAGE + 64 * writer
}

fn end() -> ! {
    ENDED.fetch_add(1, Ordering::Release);
    thread::sleep_forever()
}

extern "C" fn writer(arg: u64) -> ! {
    program::report_exceptions();
    let (index, cpu) = (arg & 0xFF, CpuId((arg >> 8) as u16));
    let _ = client::migrate_thread(thread::my_global_id(), cpu);
    let mut seen = [[0; MOST]; PAGES as usize];
    let mut value = 0;
    while STOP.load(Ordering::Relaxed) == 0 {
        // Reading goes on between writes, so that replicas live for a while.
        for turn in 0..8 {
            for page in 0..PAGES {
                for (other, last) in seen[page as usize].iter_mut().enumerate() {
                    let now = arch::peek(word(page, other as u64));
                    WRONG.fetch_add(u64::from(now < *last), Ordering::Relaxed);
                    *last = now;
                }
                if turn == 0 {
                    let own = arch::peek(word(page, index));
                    WRONG.fetch_add(u64::from(own != value), Ordering::Relaxed);
                    arch::poke(word(page, index), value + 1);
                }
            }
            if turn % 4 == 3 {
                pause();
            }
        }
        value += 1;
        WRITTEN[index as usize].store(value, Ordering::Relaxed);
    }
    end()
}

fn pages() -> app_pager::ids::PageRange {
    client::pages(AT, PAGES * PAGE)
}

extern "C" fn mover(_: u64) -> ! {
    program::report_exceptions();
    let nodes = topology::node_count() as u64;
    for round in 0..ROUNDS.load(Ordering::Relaxed) {
        let moved = client::migrate_pages(pages(), NodeId((round % nodes) as u8));
        REFUSED.fetch_add(u64::from(moved.is_err()), Ordering::Relaxed);
        pause();
    }
    end()
}

extern "C" fn unmapper(_: u64) -> ! {
    program::report_exceptions();
    for _ in 0..ROUNDS.load(Ordering::Relaxed) {
        let unmapped = client::unmap(pages());
        REFUSED.fetch_add(u64::from(unmapped.is_err()), Ordering::Relaxed);
        pause();
    }
    end()
}

fn main() {
    let args = Args::of_program();
    let single = args.flag("single");
    let mut report = Report::default();
    let region = client::add_region(pages(), Rights::RW, Policy::FirstTouch);
    report.check("os_race_region", region.is_ok(), format_args!("{region:?}"));
    let rounds = args.number("rounds", 60);
    ROUNDS.store(rounds, Ordering::Relaxed);
    let writers = topology::cpu_count().min(MOST);
    let mut threads = Vec::new();
    for (i, stack) in STACKS.iter().enumerate().take(writers + HELPERS) {
        let stack = stack.take().expect("taken once");
        let made = match i.checked_sub(writers) {
            None => client::create_thread(&stack, writer, (i | i << 8) as u64),
            Some(0) => client::create_thread(&stack, mover, 0),
            Some(_) => client::create_thread(&stack, unmapper, 0),
        };
        report.check("os_race_thread", made.is_ok(), format_args!("{made:?}"));
        threads.extend(made);
    }
    let mut replicated = 0;
    for _ in 0..rounds {
        match client::replicate(pages()) {
            Ok(count) => replicated += count,
            Err(_) if single => {}
            Err(_) => _ = REFUSED.fetch_add(1, Ordering::Relaxed),
        }
        pause();
    }
    while ENDED.load(Ordering::Acquire) < HELPERS as u64 {
        pause();
    }
    // Everything lies where it should, writers at work and all (kernel option `placement_check`).
    let _ = arch::check_placement();
    STOP.store(1, Ordering::Relaxed);
    while ENDED.load(Ordering::Acquire) < (writers + HELPERS) as u64 {
        pause();
    }
    let written: Vec<u64> = WRITTEN[..writers].iter().map(|w| w.load(Ordering::Relaxed)).collect();
    let mut lost = 0;
    for (i, &value) in written.iter().enumerate() {
        lost += (0..PAGES).filter(|&page| arch::peek(word(page, i as u64)) != value).count();
    }
    let (wrong, refused) = (WRONG.load(Ordering::Relaxed), REFUSED.load(Ordering::Relaxed));
    let text = format_args!("{wrong} wrong, {lost} lost, {refused} refused, written {written:?}");
    let busy = written.iter().all(|&value| value > 0);
    report.check("os_race", wrong == 0 && lost == 0 && refused == 0 && busy, text);
    let text = format_args!("{replicated} pages");
    report.check("os_race_replicated", single || replicated > 0, text);
    for thread in threads {
        let gone = client::delete_thread(thread);
        report.check("os_race_gone", gone.is_ok(), format_args!("{gone:?}"));
    }
    report.end();
}
