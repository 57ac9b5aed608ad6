//! The stages of the boot processor.

use kcore::fixed::FixedVec;
use kcore::layout::{self, PAGE_SIZE};
use kcore::options::{self, Options};
use kcore::pool::{PoolOptions, PoolPlan};
use kcore::topology::Topology;
use kcore::topology::ranges::{self, RangeList};
use kcore::types::{CpuId, PhysAddr, PhysRange};
use l4abi::archive::{Archive, COMMAND_LINE_NAME};
use spin::{Mutex, MutexGuard};

use super::acpi::Firmware;
use super::fatal;
use super::handoff::{Handoff, MemoryKind};
use crate::arch::x86_64::bootmem::BootWindow;
use crate::arch::x86_64::paging;
use crate::arch::x86_64::regs::Features;
use crate::arch::x86_64::{
    apic, clock, clock_sync, cpu_start, fpu, image, ioapic, perf, regs, tables, trampoline,
};
use crate::cpu;
use crate::machine::{self, Machine};
use crate::util::sealed;
use crate::{memory, println, time};

/// Lines can be printed.
pub struct Console(());

/// The console was opened by the front; exceptions are caught from here on.
pub fn console(handoff: &Handoff) -> Console {
    cpu_start::load_early_traps();
    println!("Lokal {} ({} boot)", env!("CARGO_PKG_VERSION"), handoff.path);
    Console(())
}

/// The command line: the loader's, or the archive's where the loader has none.
pub fn options(_: &Console, handoff: &Handoff, window: &BootWindow) -> Options {
    let archive = handoff.archive.map(|(start, len)| window.bytes(start, len as usize));
    let packed = archive
        .and_then(|bytes| Archive::parse(bytes).ok())
        .and_then(|archive| archive.find(COMMAND_LINE_NAME))
        .and_then(|module| core::str::from_utf8(module.data).ok());
    let own = handoff.command_line();
    let line = if own.trim().is_empty() { packed.unwrap_or("") } else { own };
    if handoff.command_line_cut {
        fatal(format_args!("the kernel command line is too long"));
    }
    let options = options::parse(line).unwrap_or_else(|error| fatal(format_args!("{error}")));
    if options.trace && !crate::trace::BUILT {
        fatal(format_args!(
            "trace=on: this kernel has no trace buffer; `cargo xtask run --trace` does"
        ));
    }
    options
}

/// The firmware's memory, sorted.
pub struct MemoryMap {
    options: Options,
    /// All memory, whoever uses it.
    usable: RangeList,
    /// Memory in use for ever.
    kept: RangeList,
    /// Memory in use until the kernel runs on its own tables: what the loader keeps, the image as loaded.
    until_switch: RangeList,
    archive: Option<PhysRange>,
    /// The low pages that starting other CPUs needs are free.
    can_start_cpus: bool,
}

/// Sorts the loader's memory map.
pub fn memory_map(options: Options, handoff: &Handoff, window: &BootWindow) -> MemoryMap {
    let mut map = MemoryMap {
        options,
        usable: ranges::EMPTY,
        kept: ranges::EMPTY,
        until_switch: ranges::EMPTY,
        archive: None,
        can_start_cpus: false,
    };
    let clipped = |start: u64, end: u64| {
        PhysRange::new(PhysAddr::new(start), PhysAddr::new(end.min(window.limit())))
    };
    let mut lost = handoff.dropped_ranges;
    for range in handoff.ranges().iter().filter(|r| r.kind != MemoryKind::Reserved) {
        if range.end > window.limit() {
            println!("memory above {:#x} is out of the boot tables' reach", window.limit());
        }
        let bytes = clipped(range.start, range.end);
        lost += usize::from(ranges::insert(&mut map.usable, bytes).is_err());
        if range.kind == MemoryKind::Loader {
            keep(&mut map.until_switch, bytes);
        }
    }
    // Where two entries overlap, the stricter one counts.
    for range in handoff.ranges().iter().filter(|r| r.kind == MemoryKind::Reserved) {
        let _ = ranges::subtract(&mut map.usable, clipped(range.start, range.end));
    }
    if lost > 0 {
        println!("memory map: {lost} ranges did not fit and are not used");
    }
    map.archive = handoff.archive.map(|(start, len)| PhysRange::from_len(start, len));
    let image = [image::text(), image::rodata(), image::writable()];
    for virt in image.into_iter().flat_map(|range| range.step_by(PAGE_SIZE as usize)) {
        if let Some(phys) = tables::walk_boot(window, virt).phys() {
            keep(&mut map.until_switch, PhysRange::from_len(phys.as_u64(), PAGE_SIZE));
        }
    }
    if let Some(archive) = map.archive {
        keep(&mut map.kept, archive);
    }
    let trampoline = handoff.ranges().iter().filter(|r| r.start < trampoline::PAGES.end.as_u64());
    map.can_start_cpus = trampoline
        .filter(|r| r.end > trampoline::PAGES.start.as_u64())
        .all(|r| r.kind == MemoryKind::Usable)
        && ranges_contain(&map.usable, trampoline::PAGES);
    // The first page has the firmware's interrupt table; the trampoline's pages start the other CPUs.
    keep(&mut map.kept, PhysRange::from_len(0, PAGE_SIZE));
    keep(&mut map.kept, trampoline::PAGES);
    for &range in map.kept.iter() {
        keep(&mut map.until_switch, range);
    }
    map
}

fn ranges_contain(list: &RangeList, wanted: PhysRange) -> bool {
    list.iter().any(|range| range.contains_range(wanted))
}

/// Ranges to keep are few and mostly adjacent; if they do not fit, memory in use would be handed out.
fn keep(kept: &mut RangeList, range: PhysRange) {
    if ranges::insert(kept, range).is_err() {
        fatal(format_args!("memory map: no room to remember that {range} is in use"));
    }
}

/// The machine is described.
pub struct Described {
    map: MemoryMap,
    topology: &'static Topology,
    io_apics: FixedVec<ioapic::IoApicInfo, { ioapic::MAX_IO_APICS }>,
    overrides: FixedVec<ioapic::Override, { ioapic::MAX_OVERRIDES }>,
    pm_timer: Option<u16>,
    path: &'static str,
    entry_tsc: u64,
    features: Features,
}

sealed! {
    static TOPOLOGY: Mutex<Topology> = Mutex::new(Topology::EMPTY);
}

/// Firmware tables to nodes, CPUs and distances.
pub fn topology(map: MemoryMap, handoff: &Handoff, window: &BootWindow) -> Described {
    let (firmware, problem) = Firmware::read(window, handoff.rsdp);
    if let Some(problem) = problem {
        println!("firmware: {problem}; taking the machine for one node with one CPU");
    }
    let mut topology = TOPOLOGY.lock();
    let cpus = firmware.cpus.iter().copied();
    let bsp = cpu_start::initial_apic_id();
    if let Err(error) = topology.discover(firmware.tables, &map.usable, cpus, bsp) {
        fatal(format_args!("{error}"));
    }
    for warning in topology.warnings() {
        println!("topology: {warning}");
    }
    let map_cache = map.options.cache;
    // Constant from here on: the lock is never needed again.
    let topology: &'static Topology = MutexGuard::leak(topology);
    Described {
        map,
        topology,
        io_apics: firmware.io_apics,
        overrides: firmware.overrides,
        pm_timer: firmware.pm_timer,
        path: handoff.path,
        entry_tsc: handoff.entry_tsc,
        features: regs::init(map_cache),
    }
}

/// Every node with memory has a pool.
pub struct Pools {
    pub(super) machine: &'static Machine,
}

static FREE: Mutex<RangeList> = Mutex::new(ranges::EMPTY);
static PLAN: Mutex<Option<PoolPlan>> = Mutex::new(None);
static KEPT: Mutex<RangeList> = Mutex::new(ranges::EMPTY);

/// Carves the pools out of each node's memory.
pub fn pools(described: Described, window: &BootWindow) -> Pools {
    let Described { map, topology, .. } = described;
    let mut free = FREE.lock();
    for memory in topology.ranges() {
        let _ = ranges::insert(&mut free, memory.range);
    }
    for &range in map.kept.iter() {
        let whole = PhysRange::new(
            range.start.page_base(),
            range.end.align_up(PAGE_SIZE).unwrap_or(range.end),
        );
        let _ = ranges::subtract(&mut free, whole);
    }
    let options = PoolOptions { size: map.options.pool_size, flat: !map.options.node_pools };
    let mut plan = PLAN.lock();
    match PoolPlan::new(topology, &map.until_switch, options) {
        Ok(made) => *plan = Some(made),
        Err(error) => fatal(format_args!("{error}")),
    }
    let Some(plan) = MutexGuard::leak(plan) else { fatal(format_args!("no pool plan")) };
    for extent in plan.extents() {
        let _ = ranges::subtract(&mut free, extent.range);
    }
    memory::build(plan, window);
    let mut kept = KEPT.lock();
    *kept = map.kept;
    Pools {
        machine: machine::set(Machine {
            path: described.path,
            entry_tsc: described.entry_tsc,
            options: map.options,
            topology,
            features: described.features,
            archive: map.archive,
            can_start_cpus: map.can_start_cpus,
            pools: plan,
            free: MutexGuard::leak(free),
            kept: MutexGuard::leak(kept),
            io_apics: described.io_apics,
            overrides: described.overrides,
            pm_timer: described.pm_timer,
        }),
    }
}

/// The boot processor runs on its own tables, stack and window.
pub struct BootProcessor(());

/// Descriptor tables and interrupt controllers of the boot processor.
pub fn boot_processor() -> BootProcessor {
    paging::kernel_space_is_live();
    cpu::local_window_is_live();
    cpu_start::load_tables();
    ioapic::mask_8259();
    apic::init();
    // Again when it becomes ready for threads; what is chosen has to be known before data are sealed.
    fpu::init(machine::get().features.xsave);
    BootProcessor(())
}

/// Measures the clocks.
pub fn clocks(_: BootProcessor) -> Clocks {
    let machine = machine::get();
    match clock::calibrate(machine.pm_timer) {
        Some(rates) => println!(
            "clocks: TSC {} kHz, APIC timer {} kHz (against the {})",
            rates.tsc_hz / 1000,
            rates.apic_hz / 1000,
            rates.reference
        ),
        None => fatal(format_args!("no reference clock to calibrate the timers with")),
    }
    if !machine.features.invariant_tsc && !machine.features.hypervisor {
        println!(
            "clocks: the processor does not promise that the TSC runs at a constant rate and never stops"
        );
    }
    clock_sync::read_adjust();
    ioapic::init(&machine.io_apics, &machine.overrides);
    Clocks(())
}

/// Delays and timers work.
pub struct Clocks(());

/// All CPUs that answer are up.
pub struct AllUp {
    /// CPUs of the topology that are not.
    pub missing: FixedVec<CpuId, { layout::MAX_CPUS }>,
}

/// Starts the other CPUs, one after the other, each on memory of its own node.
pub fn application_processors(_: Clocks) -> AllUp {
    let machine = machine::get();
    let mut all = AllUp { missing: FixedVec::new(CpuId::new(0)) };
    perf::init(CpuId::new(0));
    super::placement::observe();
    paging::publish_sealed();
    paging::announce(CpuId::new(0), cpu_start::block_address(CpuId::new(0)));
    let wanted = if machine.can_start_cpus {
        machine.options.max_cpus.map_or(usize::MAX, |n| n as usize)
    } else {
        println!("the pages at {} are in use; no other CPU can be started", trampoline::PAGES);
        1
    };
    let others = || machine.topology.cpus().iter().enumerate().skip(1);
    for (_, described) in others().take(wanted.saturating_sub(1)) {
        cpu_start::reset(described.apic);
    }
    if wanted > 1 {
        clock::delay_us(10_000);
    }
    for (number, described) in others() {
        let id = CpuId::new(number as u16);
        let silent = machine.options.silent_cpu == Some(number as u32);
        if number < wanted && cpu_start::start(id, described.apic, silent) {
            paging::announce(id, cpu_start::block_address(id));
            continue;
        }
        if number < wanted {
            println!("cpu {id} (APIC id {}) does not answer; left out", described.apic);
        }
        let _ = all.missing.push(id);
    }
    all
}

/// Start-up of a CPU that is not the boot processor: what [`boot_processor`] does, for itself.
pub fn application_processor() {
    regs::init(machine::get().options.cache);
    cpu_start::load_tables();
    apic::init();
    let this = cpu::this();
    if apic::id() != this.identity.apic_id {
        // Not the CPU that was asked: leave the one that was to be reported as missing.
        crate::arch::x86_64::cpu_ops::halt();
    }
    perf::init(this.identity.id);
    super::placement::observe();
    this.shared.up.store(true, core::sync::atomic::Ordering::Release);
    clock_sync::follow();
    time::start_cpu();
}
