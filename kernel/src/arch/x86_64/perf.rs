//! The processor's own counters of memory accesses, for programs that measure (`measure=on`).
//!
//! Every CPU sets its counters up once, as `kcore::perf` says, and lets RDPMC read them at user level (CR4.PCE). They count
//! from then on; a program reads before and after. Nothing is programmed at run time, so there is nothing that a program could
//! set wrongly, and the counters never interrupt.

use kcore::perf::{Plan, Processor, Scope, plan};
use kcore::types::CpuId;
use l4abi::ext::{HardwareCounter, NoCounter, hardware_counter_word};
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use crate::machine;

/// What this CPU can count; all CPUs of the machine are taken to be alike.
fn known() -> Result<Plan, NoCounter> {
    if !machine::get().options.measure {
        return Err(NoCounter::Off);
    }
    plan(&Processor::read(|leaf| {
        let found = core::arch::x86_64::__cpuid_count(leaf, 0);
        [found.eax, found.ebx, found.ecx, found.edx]
    }))
}

/// Whether `cpu` is the one that counts for its node.
fn counts_for_node(cpu: CpuId) -> bool {
    let topology = machine::get().topology;
    let node = topology.cpu(cpu).map(|cpu| cpu.node);
    node.is_some_and(|node| topology.cpus_of(node).next() == Some(cpu))
}

/// Sets the counters of this CPU up, if it has any and programs may read them.
pub fn init(cpu: CpuId) {
    let Ok(plan) = known() else { return };
    let mine = |scope| scope == Scope::Cpu || counts_for_node(cpu);
    for counting in plan.all().filter(|counting| mine(counting.scope)) {
        for (register, value) in counting.response.into_iter().chain([counting.select]) {
            // SAFETY: `plan` names counter registers of exactly this family and model; counting changes nothing else.
            unsafe { Msr::new(register).write(value) };
        }
    }
    if let Some((register, value)) = plan.enable {
        // SAFETY: as above.
        unsafe { Msr::new(register).write(value) };
    }
    // SAFETY: RDPMC at user level reads counters and nothing else.
    unsafe { Cr4::update(|cr4| cr4.insert(Cr4Flags::PERFORMANCE_MONITOR_COUNTER)) };
}

/// How CPU `cpu` reads counter `which`, as a word of the interface.
pub fn answer(cpu: u64, which: u64) -> u64 {
    let counter = u32::try_from(which).ok().and_then(HardwareCounter::from_raw);
    let cpu = u16::try_from(cpu).ok().map(CpuId::new);
    let (Some(counter), Some(cpu)) =
        (counter, cpu.filter(|cpu| crate::cpu::shared_of(*cpu).is_some()))
    else {
        return hardware_counter_word(Err(NoCounter::Unknown));
    };
    let number = known().and_then(|plan| match plan.of(counter) {
        None => Err(NoCounter::Unsupported),
        Some(counting) if counting.scope == Scope::Node && !counts_for_node(cpu) => {
            Err(NoCounter::OtherProcessor)
        }
        Some(counting) => Ok(counting.number),
    });
    hardware_counter_word(number)
}

/// In a word, for the boot record: what it counts, or why it does not.
pub fn describe() -> &'static str {
    match known() {
        Ok(Plan { local: Some(_), .. }) => "remote and local accesses",
        Ok(_) => "remote accesses",
        Err(why) => why.name(),
    }
}
