//! A task on all nodes that shows what pagers do: threads on every CPU write and check shared pages
//! while pages are moved, replicated and unmapped and threads change nodes; with a table of what
//! lies where.
//!
//! Arguments: `rounds=N` of moving everything, `die=1` to panic in the middle of it, `single=1` where
//! a task has one space, `prompt=1` to be asked instead.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use app_pager::client::{self, TaskError};
use app_pager::directory::DirError;
use app_pager::region::Policy;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use l4abi::record::Test;
use libl4::exit::Outcome;
use libl4::thread::Stack;
use libl4::{
    CpuId, NodeId, Rights, ThreadId, Time, arch, ipc, print, println, program, thread, topology,
};

libl4::program!(main);

const SHARED: u64 = 0x1_0000_0000;
const SHARED_PAGES: u64 = 4;
const TEXT: u64 = 0x2_0000_0000;
const PAGE: u64 = 4096;
const MOST: usize = 8;

static STACKS: [Stack<{ 16 * 1024 }>; MOST] = [const { Stack::new() }; MOST];
/// How often each writer has written, what it found wrong, and the CPU it runs on.
static WRITTEN: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static WRONG: AtomicU64 = AtomicU64::new(0);
static CPUS: [AtomicU64; MOST] = [const { AtomicU64::new(u64::MAX) }; MOST];
static STOP: AtomicU64 = AtomicU64::new(0);
static STOPPED: AtomicU64 = AtomicU64::new(0);

struct Report {
    failed: u32,
}

impl Report {
    fn check(&mut self, name: &str, ok: bool, detail: fmt::Arguments<'_>) {
        libl4::console::record(|out| Test { name, ok, detail }.write(out));
        self.failed += u32::from(!ok);
    }
}

const fn word(page: u64, writer: u64) -> u64 {
    SHARED + page * PAGE + 8 * writer
}

/// Writes its own words and checks them; words of others must never go back.
extern "C" fn writer(index: u64) -> ! {
    program::report_exceptions();
    let mut seen = [[0; MOST]; SHARED_PAGES as usize];
    let mut value = 0;
    while STOP.load(Ordering::Relaxed) == 0 {
        value += 1;
        for page in 0..SHARED_PAGES {
            arch::poke(word(page, index), value);
            let mut wrong = u64::from(arch::peek(word(page, index)) != value);
            for (other, last) in seen[page as usize].iter_mut().enumerate() {
                let now = arch::peek(word(page, other as u64));
                wrong += u64::from(now < *last);
                *last = now;
            }
            WRONG.fetch_add(wrong, Ordering::Relaxed);
        }
        WRITTEN[index as usize].store(value, Ordering::Relaxed);
        CPUS[index as usize].store(u64::from(thread::my_cpu().0), Ordering::Relaxed);
        if value % 16 == 0 {
            pause();
        }
    }
    STOPPED.fetch_add(1, Ordering::Release);
    thread::sleep_forever()
}

/// Waits a little, so that other threads of the CPU run.
fn pause() {
    let wait = libl4::Timeouts::new(Time::NEVER, Time::period_us(500));
    let _ = ipc::receive(thread::my_local_id(), wait);
}

fn table(title: &str) {
    println!("{title}\n  node  threads  pages  replicas  mapped");
    for node in (0..topology::node_count() as u8).map(NodeId) {
        match client::census(node) {
            Ok(c) => println!(
                "  {:4} {:8} {:6} {:9} {:7}",
                node.0, c.threads, c.global, c.replicas, c.mapped
            ),
            Err(error) => println!("  {:4} {error:?}", node.0),
        }
    }
}

fn start_writers(report: &mut Report) -> Vec<ThreadId> {
    let cpus = topology::cpu_count();
    let mut threads = Vec::new();
    for (i, stack) in STACKS.iter().enumerate().take(cpus.min(MOST)) {
        let stack = stack.take().expect("taken once");
        match client::create_thread(&stack, writer, i as u64) {
            Ok(thread) => {
                let moved = client::migrate_thread(thread, CpuId(i as u16));
                report.check("os_spread", moved.is_ok(), format_args!("to CPU {i}: {moved:?}"));
                threads.push(thread);
            }
            Err(error) => report.check("os_writer", false, format_args!("{error:?}")),
        }
    }
    threads
}

/// Moves pages and threads, replicates and unmaps, all while the writers write.
fn disturb(report: &mut Report, threads: &[ThreadId], rounds: u64, single: bool) {
    let (nodes, cpus) = (topology::node_count() as u64, topology::cpu_count() as u64);
    let shared = client::pages(SHARED, SHARED_PAGES * PAGE);
    let (mut moved, mut failures) = (0, 0);
    for round in 0..rounds {
        let node = NodeId((round % nodes) as u8);
        match client::migrate_pages(shared, node) {
            Ok(count) => moved += count,
            Err(TaskError::Refused(DirError::NoMemory)) if !has_memory(node) => {}
            Err(_) => failures += 1,
        }
        failures += u64::from(client::unmap(shared).is_err());
        failures += u64::from(!replicate_answers(client::replicate(shared), single));
        let (index, to) = (round % threads.len().max(1) as u64, CpuId((round * 3 % cpus) as u16));
        if let Some(&thread) = threads.get(index as usize) {
            failures += u64::from(client::migrate_thread(thread, to).is_err());
        }
        pause();
    }
    let text = format_args!("{rounds} rounds, {moved} pages moved, {failures} failures");
    report.check("os_disturb", failures == 0 && (moved > 0 || nodes < 2), text);
}

/// Whether pages can go there: not to a node that has no memory.
fn has_memory(node: NodeId) -> bool {
    libl4::kip().numa().is_none_or(|numa| numa.ranges().any(|range| range.node == node))
}

/// Replication works, or is refused where a task has one space only: a page cannot differ there.
fn replicate_answers(result: Result<u64, TaskError>, single: bool) -> bool {
    match result {
        Ok(_) => !single,
        Err(error) => single && error == TaskError::Refused(DirError::Unsupported),
    }
}

fn single_steps(report: &mut Report, single: bool) {
    let last = NodeId(topology::node_count() as u8 - 1);
    let text = client::pages(TEXT, PAGE);
    let region = client::add_region(text, Rights::RW, Policy::FirstTouch);
    report.check("os_region", region.is_ok(), format_args!("{region:?}"));
    arch::poke(TEXT, 77);
    let moved = client::migrate_pages(text, last);
    let at = client::query(TEXT);
    let there = at.is_ok_and(|p| p.frames.contains(last) && p.frames.len() == 1);
    let kept = arch::peek(TEXT) == 77;
    report.check("os_page_moves", there && kept, format_args!("{moved:?} {at:?}"));
    let replicated = client::replicate(text);
    let before = client::query(TEXT).is_ok_and(|p| p.replicated);
    arch::poke(TEXT, 78);
    let after = client::query(TEXT).is_ok_and(|p| !p.replicated && p.frames.len() == 1);
    let ok = before != single && after && arch::peek(TEXT) == 78;
    let ok = ok && replicate_answers(replicated, single);
    report.check("os_write_ends_replicas", ok, format_args!("{replicated:?} {before} {after}"));
    let stranger = client::delete_thread(program::supervisor());
    report.check("os_stranger_refused", stranger.is_err(), format_args!("{stranger:?}"));
    let nowhere = client::unmap(client::pages(0x7000_0000_0000, PAGE));
    println!("unmap of nothing: {nowhere:?}");
}

fn finish_writers(report: &mut Report, threads: &[ThreadId]) {
    STOP.store(1, Ordering::Relaxed);
    while STOPPED.load(Ordering::Acquire) < threads.len() as u64 {
        pause();
    }
    let mut lost = 0;
    for (writer, written) in WRITTEN.iter().enumerate().take(threads.len()) {
        let written = written.load(Ordering::Relaxed);
        for page in 0..SHARED_PAGES {
            lost += u64::from(arch::peek(word(page, writer as u64)) != written);
        }
    }
    let least = WRITTEN[..threads.len()].iter().map(|w| w.load(Ordering::Relaxed)).min();
    let wrong = WRONG.load(Ordering::Relaxed);
    let text = format_args!("{wrong} wrong, {lost} lost, least writes {least:?}");
    report.check("os_coherent", wrong == 0 && lost == 0 && least.unwrap_or(0) > 0, text);
    for &thread in threads {
        let deleted = client::delete_thread(thread);
        if deleted.is_err() {
            report.check("os_delete", false, format_args!("{deleted:?}"));
        }
    }
}

fn main() {
    let args = program::args();
    let value = |name: &str| {
        args.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    let mut report = Report { failed: 0 };
    let shared = client::pages(SHARED, SHARED_PAGES * PAGE);
    let region = client::add_region(shared, Rights::RW, Policy::FirstTouch);
    report.check("os_shared_region", region.is_ok(), format_args!("{region:?}"));
    let threads = start_writers(&mut report);
    table("after start");
    if value("prompt").is_some_and(|v| v != 0) {
        prompt(&threads);
    } else {
        let single = value("single").is_some_and(|v| v != 0);
        single_steps(&mut report, single);
        disturb(&mut report, &threads, value("rounds").unwrap_or(20), single);
        assert!(value("die").is_none_or(|die| die == 0), "as asked, with all threads running");
        table("after moving everything about");
        // Everything lies where it should, writers at work and all (kernel option `placement_check`).
        let _ = arch::check_placement();
    }
    finish_writers(&mut report, &threads);
    table("at the end");
    if report.failed > 0 {
        program::exit(Outcome::Failed);
    }
}

/// Reads a line from the console.
fn line() -> String {
    let mut text = String::new();
    loop {
        match arch::read_char() {
            None => pause(),
            Some(b'\r' | b'\n') => {
                println!();
                return text;
            }
            Some(byte) => {
                print!("{}", char::from(byte));
                text.push(char::from(byte));
            }
        }
    }
}

fn prompt(threads: &[ThreadId]) {
    println!("t: table   p PAGE NODE: move a shared page   m THREAD CPU: move a writer   q: end");
    loop {
        print!("> ");
        let text = line();
        let mut words = text.split_whitespace();
        let command = words.next();
        let numbers: Vec<u64> = words.filter_map(|w| w.parse().ok()).collect();
        match (command, numbers.as_slice()) {
            (Some("t"), _) => {
                table("now");
                for (i, cpu) in CPUS.iter().enumerate().take(threads.len()) {
                    println!("  writer {i} on CPU {}", cpu.load(Ordering::Relaxed));
                }
                for page in 0..SHARED_PAGES {
                    println!("  page {page}: {:?}", client::query(SHARED + page * PAGE));
                }
            }
            (Some("p"), &[page, node]) => {
                let range = client::pages(SHARED + page * PAGE, PAGE);
                println!("{:?}", client::migrate_pages(range, NodeId(node as u8)));
            }
            (Some("m"), &[thread, cpu]) => match threads.get(thread as usize) {
                Some(&id) => println!("{:?}", client::migrate_thread(id, CpuId(cpu as u16))),
                None => println!("there are {} writers", threads.len()),
            },
            (Some("q"), _) => return,
            _ => println!("?"),
        }
    }
}
