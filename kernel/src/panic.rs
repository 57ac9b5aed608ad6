//! The end: a panic on any CPU stops the others, says what happened and leaves the machine.
//!
//! The epitaph is a block of lines that begin with `epitaph:`, followed by a backtrace of lines
//! `  #N ADDRESS`, which xtask turns into names and lines. Nothing here allocates, and memory is read
//! only where [`arch::stack_contains`](crate::arch::x86_64::backtrace) says there is a stack.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::x86_64::backtrace::Frames;
use crate::arch::x86_64::cpu_ops::{self, ExitCode};
use crate::arch::x86_64::traps::TrapFrame;
use crate::{console, cpu};

/// 0, or one more than the CPU that panicked first.
static PANICKING: AtomicU32 = AtomicU32::new(0);

/// Some CPU panicked; the others are to stop (asked by the NMI handler).
pub fn in_progress() -> bool {
    PANICKING.load(Ordering::Relaxed) != 0
}

macro_rules! epitaph {
    ($($arg:tt)*) => {
        console::print_forced(format_args!("epitaph: {}\n", format_args!($($arg)*)))
    };
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let registers = TrapFrame::here();
    begin();
    let place = Here::now();
    epitaph!("panic on {place}: {}", info.message());
    if let Some(location) = info.location() {
        epitaph!("at {location}");
    }
    registers.print(|args| epitaph!("{args}"));
    finish(Frames::from_pointer(cpu_ops::frame_pointer()))
}

/// Ends the machine because of a trap that the kernel must not cause.
pub fn trap(frame: &TrapFrame) -> ! {
    begin();
    epitaph!("{} in kernel mode on {}", frame.what(), Here::now());
    frame.print(|args| epitaph!("{args}"));
    finish(Frames::from_trap(frame.rip, frame.rbp))
}

/// Ends the machine because it cannot be booted: one line, no epitaph.
pub fn fatal(args: fmt::Arguments<'_>) -> ! {
    console::print_forced(format_args!("error: {args}\n"));
    cpu_ops::exit(ExitCode::Panic)
}

/// Makes this CPU the only one; returns only on the CPU that panicked first, for the first time.
fn begin() {
    x86_64::instructions::interrupts::disable();
    let me = cpu::current_number() + 1;
    match PANICKING.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => crate::arch::x86_64::apic::stop_others(),
        Err(first) if first == me => {
            epitaph!("panic while panicking on {}", Here::now());
            cpu_ops::exit(ExitCode::Panic)
        }
        Err(_) => cpu_ops::halt(),
    }
}

fn finish(frames: Frames) -> ! {
    epitaph!("backtrace");
    for (n, address) in frames.enumerate() {
        console::print_forced(format_args!("  #{n} {address:#018x}\n"));
    }
    epitaph!("end");
    crate::kdb::panicked();
    if crate::arch::x86_64::paging::kernel_space_live() {
        crate::trace::print();
    }
    cpu_ops::exit(ExitCode::Panic)
}

/// CPU and node, as far as they are known.
struct Here {
    cpu: u32,
    node: Option<u32>,
}

impl Here {
    fn now() -> Self {
        Here { cpu: cpu::current_number(), node: cpu::current_node() }
    }
}

impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.cpu)?;
        match self.node {
            Some(node) => write!(f, " node{node}"),
            None => write!(f, " (node not known yet)"),
        }
    }
}
