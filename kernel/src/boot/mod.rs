//! Boot: from a [`handoff::Handoff`] to [`crate::start`] on every CPU.
//!
//! Stages are functions that take what the stage before returned, so their order is a type error to break
//! (docs/design/boot.md). Up to [`space::address_space`] the boot processor runs on the loader's tables and stack;
//! the stage ends by jumping to [`on_kernel_space`] on the final ones.

#[expect(unsafe_code, reason = "the acpi crate asks for a trait with unsafe functions")]
pub mod acpi;
mod describe;
pub mod handoff;
pub mod placement;
mod record;
pub mod servers;
mod space;
mod stages;

use core::sync::atomic::{AtomicBool, Ordering};

use handoff::Handoff;
use kcore::fixed::FixedVec;
use kcore::options::{Exit, Failure};
use kcore::types::{CpuId, PhysAddr};

use crate::arch::x86_64::apic;
use crate::arch::x86_64::bootmem::BootWindow;
use crate::arch::x86_64::cpu_ops::{self, ExitCode};
use crate::arch::x86_64::paging;
use crate::arch::x86_64::selftest as probe;
pub use crate::panic::fatal;
use crate::{cpu, machine, selftest};

/// First half, on the loader's page tables.
pub fn run(handoff: &Handoff, window: BootWindow) -> ! {
    let console = stages::console(handoff);
    let options = stages::options(&console, handoff, &window);
    let memory = stages::memory_map(options, handoff, &window);
    let topology = stages::topology(memory, handoff, &window);
    let pools = stages::pools(topology, &window);
    space::address_space(pools, window)
}

/// Boot is over: the record is printed.
static DONE: AtomicBool = AtomicBool::new(false);

/// Second half, on the kernel address space and the boot processor's own stack.
pub extern "C" fn on_kernel_space() -> ! {
    let processor = stages::boot_processor();
    let clocks = stages::clocks(processor);
    // Before any other CPU runs: each takes its copy of the factors, and of its offset, as it starts.
    crate::time::init();
    if machine::get().options.verbose {
        describe::print(machine::get());
    }
    let all = stages::application_processors(clocks);
    cpu_ops::announce(cpu::current_number());
    finish(&all);
    services();
    crate::start(true)
}

/// The record, and what the options want done after it.
fn finish(all: &stages::AllUp) {
    let machine = machine::get();
    let options = &machine.options;
    let ok = record::print(machine, all);
    record::print_clocks(machine);
    DONE.store(true, Ordering::Release);
    provoke_failure();
    if let Some((cpu, _)) = options.panic {
        let number = u16::try_from(cpu).ok();
        if number.and_then(|n| cpu::shared_of(CpuId::new(n))).is_none() {
            fatal(format_args!("panic=cpu{cpu}: there is no such CPU"));
        }
        // The other CPU ends the machine; this one waits for it.
        cpu_ops::halt();
    }
    if options.test.is_some() {
        let passed = selftest::run();
        cpu_ops::exit(if passed && ok { ExitCode::Success } else { ExitCode::TestsFailed });
    }
    if options.exit == Some(Exit::Boot) {
        cpu_ops::exit(if ok { ExitCode::Success } else { ExitCode::TestsFailed });
    }
}

/// All of a CPU's start-up that is not the boot processor.
pub fn on_application_processor() -> ! {
    stages::application_processor();
    cpu_ops::announce(cpu::current_number());
    provoke_failure();
    if machine::get().options.test.is_some() {
        selftest::serve();
    }
    crate::start(false)
}

/// `panic=cpuN`: shows what a failure on that CPU looks like.
fn provoke_failure() {
    let me = u32::from(cpu::this().identity.id.get());
    let Some((_, kind)) = machine::get().options.panic.filter(|(cpu, _)| *cpu == me) else {
        return;
    };
    while !DONE.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    match kind {
        Failure::Panic => panic!("provoked by panic=cpu{me}"),
        Failure::Fault => probe::wild_read(),
        Failure::Stack => {
            core::hint::black_box(probe::overflow_stack(0));
        }
    }
    panic!("panic=cpu{me}: the provoked failure did not happen");
}

/// What threads need before the first of them runs.
fn services() {
    let machine = machine::get();
    let mut registers = FixedVec::<PhysAddr, 16>::new(PhysAddr::ZERO);
    let _ = registers.push(PhysAddr::new(apic::physical_base()));
    for chip in machine.io_apics.iter() {
        let _ = registers.push(PhysAddr::new(chip.phys));
    }
    crate::memory::frames::init(machine, &registers);
    crate::irq::init(crate::arch::x86_64::ioapic::lines());
    if crate::space::env::init().is_err() {
        fatal(format_args!("no memory for the mapping database"));
    }
    paging::seal();
}
