//! The placement instrument's self-test guest: two CPUs on two nodes of 64 MiB, no kernel. Everything
//! it does between markers has a known number of instructions, lines or transfers;
//! `cargo xtask sim selftest` runs it twice and compares the instrument's report with these numbers.
//!
//! | region | what is done | by |
//! | --- | --- | --- |
//! | 1 `count` | sequences of 107 instructions of known kinds | CPU 0 |
//! | 2 `walk-local`, 3 `walk-remote` | one pass over 8 MiB in 4-byte steps, on the own and on the other node | both at once |
//! | 4 `ping-pong` | 1000 rounds on one line | both |
//! | 5 `interrupt` | 10 interrupts to the halted CPU 1 | both |
//! | 6 `user` | user mode, system call, return | CPU 0 |
//! | 7 `walk-tables` | 64 loads in 64 small pages after loading CR3, and after INVLPG of one | CPU 0 |
//! | 8 `fault` | 10 page faults whose handler steps over the load | CPU 0 |
//! | 9 `visits` | three lines of code, and nine jumps within one of them | CPU 0 |
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "a guest without a kernel under it touches memory and registers itself"
)]

mod boot;

use core::{
    arch::asm,
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering},
};
use l4abi::marker::{Op, imm};

/// Where nodes and buffers lie on the self-test's machine.
const NODE_SIZE: usize = 64 << 20;
const BUFFER: usize = 16 << 20;
const BUFFER_SIZE: usize = 8 << 20;
const APIC: usize = 0xFEE0_0000;
const VECTOR: u32 = 0x40;
const ROUNDS: u64 = 1000;

unsafe extern "C" {
    fn counted(n: u64, page: *mut u64);
    fn send(icr: u32, apic: usize);
    fn handler();
    fn wait_for_interrupt();
    fn excursion();
    fn faulting(n: u64, address: usize);
    fn page_fault();
    fn visits();
    static mut pt: [u64; 512];
    static mut idt: [[u64; 2]; 256];
    static taken: AtomicU64;
}

/// Emits a marker.
macro_rules! mark {
    ($op:expr, $id:expr) => {
        // SAFETY: a no-op for the CPU.
        unsafe {
            asm!(".byte 0x0f,0x1f,0x80", ".long {}", const imm($op, $id),
                 options(nostack, preserves_flags))
        }
    };
}

/// Emits a marker with arguments, as the target of a jump.
macro_rules! mark_with {
    ($op:expr, $id:expr, $a:expr, $b:expr) => {
        // SAFETY: a no-op for the CPU; a string, if it is one, is readable.
        unsafe {
            asm!("jmp 2f", "2: .byte 0x0f,0x1f,0x80", ".long {}", const imm($op, $id),
                 in("rdi") $a, in("rsi") $b, options(nostack, preserves_flags))
        }
    };
}

macro_rules! name {
    ($id:expr, $name:literal) => {
        mark_with!(Op::Name, $id, $name.as_ptr(), $name.len())
    };
}

/// One line of its own for each flag.
#[repr(align(64))]
struct Line(AtomicU64);

static STEP: Line = Line(AtomicU64::new(0));
static DONE: Line = Line(AtomicU64::new(0));
static BALL: Line = Line(AtomicU64::new(0));

/// Both CPUs begin here.
#[unsafe(no_mangle)]
extern "C" fn main(cpu: u64) -> ! {
    apic_write(0xF0, 0x1FF);
    if cpu == 0 {
        first();
    }
    mark_with!(Op::Hello, 0, 1u64, 0);
    STEP.0.store(1, Ordering::Release);
    wait(&STEP, 2);
    walk(1);
    DONE.0.store(1, Ordering::Release);
    ball(1);
    for n in 1..=10 {
        STEP.0.store(10 + n, Ordering::Release);
        // SAFETY: the interrupt table is set up; the handler returns.
        unsafe { wait_for_interrupt() };
    }
    loop {
        // SAFETY: halts for good, interrupts are off.
        unsafe { asm!("hlt") };
    }
}

fn first() -> ! {
    mark_with!(Op::Hello, 0, 0u64, 0);
    name!(1, "count");
    name!(2, "walk-local");
    name!(3, "walk-remote");
    name!(4, "ping-pong");
    name!(5, "interrupt");
    name!(6, "user");
    name!(7, "walk-tables");
    name!(8, "fault");
    name!(9, "visits");
    mark_with!(Op::Value, 4, ROUNDS, 0);
    place();
    // SAFETY: a page of memory nobody else uses.
    unsafe { counted(10, BUFFER as *mut u64) };
    // SAFETY: changes two registers that a call may change.
    unsafe { visits() };
    set_gates();
    start_other();
    wait(&STEP, 1);
    mark_with!(Op::Hello, 0, 0u64, 0);
    STEP.0.store(2, Ordering::Release);
    walk(0);
    wait(&DONE, 1);
    ball(0);
    for n in 1..=10 {
        wait(&STEP, 10 + n);
        // Give the other time to halt.
        for _ in 0..2000 {
            spin_loop();
        }
        // SAFETY: sends a fixed interrupt to APIC id 1; APIC registers are identity-mapped.
        unsafe {
            ((APIC + 0x310) as *mut u32).write_volatile(1 << 24);
            send(VECTOR, APIC);
            while taken.load(Ordering::Acquire) < n {
                spin_loop();
            }
        }
    }
    // SAFETY: goes to user mode and comes back.
    unsafe { excursion() };
    tables();
    faults();
    mark!(Op::SimEnd, 0);
    // SAFETY: the debug-exit device; the machine ends here.
    unsafe { asm!("out 0xf4, eax", in("eax") 0x10, options(noreturn)) };
}

/// A store to each node, announced.
fn place() {
    for round in 0..4 {
        if round % 2 == 0 {
            mark_with!(Op::Place, 0, 0u64, 0);
            store(0x10_0000 + round * 64);
        } else {
            mark_with!(Op::Place, 0, 1u64, 0);
            store(NODE_SIZE + 0x10_0000 + round * 64);
        }
    }
}

fn store(address: usize) {
    // SAFETY: memory of the machine that nothing else uses.
    unsafe { (address as *mut u32).write_volatile(7) };
}

/// One pass over a buffer on the own node, one over a buffer on the other.
fn walk(cpu: usize) {
    mark!(Op::Begin, 2);
    pass(cpu * NODE_SIZE + BUFFER);
    mark!(Op::End, 2);
    mark!(Op::Begin, 3);
    pass((1 - cpu) * NODE_SIZE + BUFFER + BUFFER_SIZE);
    mark!(Op::End, 3);
}

fn pass(start: usize) {
    for address in (start..start + BUFFER_SIZE).step_by(4) {
        // SAFETY: inside a node's memory, away from the program.
        unsafe { (address as *const u32).read_volatile() };
    }
}

/// Rounds on one line: each CPU waits for its turn, then writes.
fn ball(cpu: u64) {
    if cpu == 0 {
        mark!(Op::Begin, 4);
    }
    for n in 0..ROUNDS {
        wait(&BALL, 2 * n + cpu);
        BALL.0.store(2 * n + cpu + 1, Ordering::Release);
    }
    if cpu == 0 {
        wait(&BALL, 2 * ROUNDS);
        mark!(Op::End, 4);
    }
}

fn wait(line: &Line, value: u64) {
    while line.0.load(Ordering::Acquire) < value {
        spin_loop();
    }
}

/// 64 loads from 64 pages of 4 KiB: after a CR3 load each needs a walk; then one more after INVLPG.
fn tables() {
    let read = |page: usize| {
        // SAFETY: memory of the first 2 MiB, away from the program.
        unsafe { ((0x10_0000 + page * 4096) as *const u32).read_volatile() };
    };
    let root: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root) };
    mark!(Op::Begin, 7);
    // SAFETY: reloads CR3 with its own value.
    unsafe { asm!("mov cr3, {}", in(reg) root) };
    (0..64).for_each(read);
    // SAFETY: drops a translation.
    unsafe { asm!("invlpg [{}]", in(reg) 0x10_0000u64 + 4096 * 5 + 8) };
    (0..64).for_each(read);
    mark!(Op::End, 7);
}

/// Loads from a page of the first 2 MiB that is made absent.
fn faults() {
    const PAGE: usize = 0x1F0;
    // SAFETY: nothing lies in that page; its translation is dropped at once.
    unsafe {
        pt[PAGE] = 0;
        asm!("invlpg [{}]", in(reg) PAGE << 12);
        faulting(10, PAGE << 12);
    }
}

fn set_gates() {
    set_gate(VECTOR as usize, handler as *const () as u64);
    set_gate(14, page_fault as *const () as u64);
}

fn set_gate(vector: usize, at: u64) {
    // SAFETY: before any interrupt can come; both CPUs use this table.
    unsafe {
        idt[vector] = [at & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (at >> 16 & 0xFFFF) << 48, at >> 32];
    }
}

/// INIT, then start-up at 0x8000 (SDM 3A 9.4.4.1).
fn start_other() {
    apic_write(0x310, 1 << 24);
    apic_write(0x300, 0x4500);
    for _ in 0..1000 {
        spin_loop();
    }
    apic_write(0x310, 1 << 24);
    apic_write(0x300, 0x4608);
}

fn apic_write(register: usize, value: u32) {
    // SAFETY: the local APIC, identity-mapped.
    unsafe { ((APIC + register) as *mut u32).write_volatile(value) };
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the debug-exit device: the self-test sees the code.
    unsafe { asm!("out 0xf4, eax", in("eax") 0x12, options(noreturn)) };
}
