//! What every frame of physical memory is: user memory of a node, the kernel's, or device registers.

use kcore::fixed::FixedVec;
use kcore::layout::{MAX_RANGES, PAGE_SIZE, PHYS_LIMIT};
use kcore::mapdb::FrameInfo;
use kcore::topology::Topology;
use kcore::types::{NodeId, PhysAddr, PhysRange};
use spin::{Mutex, MutexGuard, Once};

use crate::machine::Machine;
use crate::sched::this_cpu;
use crate::util::sealed;

/// The page that is kept because of the firmware's interrupt table.
pub const FIRST_PAGE_END: PhysAddr = PhysAddr::new(PAGE_SIZE);

/// Page-table cache attribute of device registers: PWT and PCD, uncached (`regs::PAT`).
const UNCACHED: u8 = 3;
const CACHED: u8 = 0;

const NOTHING: FrameInfo =
    FrameInfo { range: PhysRange::EMPTY, node: NodeId::new(0), usable: false, cache: CACHED };

/// Runs of like frames, ascending, without gaps from 0 to [`PHYS_LIMIT`].
type Table = FixedVec<FrameInfo, { 2 * MAX_RANGES }>;

/// Too large for the stack, so both are built where they stay.
static KNOWN: Mutex<Table> = Mutex::new(Table::new(NOTHING));
sealed! {
    static RUNS: Mutex<Table> = Mutex::new(Table::new(NOTHING));
    static TABLE: Once<&'static [FrameInfo]> = Once::new();
}

/// What the frame at `frame` is, and the run around it that is alike.
#[inline]
pub fn info(frame: PhysAddr) -> FrameInfo {
    let last = &this_cpu().last_run;
    if let Some(run) = last.get()
        && run.range.contains(frame)
    {
        return *run;
    }
    search(frame)
}

/// The run by binary search, remembered by this CPU.
#[inline(never)]
fn search(frame: PhysAddr) -> FrameInfo {
    let beyond =
        FrameInfo { range: PhysRange::new(PHYS_LIMIT, PhysAddr::new(u64::MAX)), ..NOTHING };
    let Some(&table) = TABLE.get() else { return beyond };
    let after = table.partition_point(|run| run.range.start <= frame);
    match after.checked_sub(1).and_then(|i| table.get(i)) {
        Some(run) if run.range.contains(frame) => {
            this_cpu().last_run.set(Some(run));
            *run
        }
        _ => beyond,
    }
}

/// All runs, ascending.
pub fn all() -> &'static [FrameInfo] {
    TABLE.get().copied().unwrap_or(&[])
}

/// Sorts all of physical memory. `registers` are pages of devices that only the kernel may touch.
pub fn init(machine: &Machine, registers: &[PhysAddr]) {
    let mut known = KNOWN.lock();
    collect(machine, registers, &mut known);
    let mut runs = RUNS.lock();
    fill_gaps(&known, &mut runs);
    // Constant from here on: the lock is never needed again.
    let runs: &'static Table = MutexGuard::leak(runs);
    TABLE.call_once(|| &runs[..]);
}

fn collect(machine: &Machine, registers: &[PhysAddr], known: &mut Table) {
    let mut add = |range: PhysRange, node, usable, cache| {
        if range.is_empty() {
            return;
        }
        let info = FrameInfo { range, node, usable, cache };
        // A machine with more runs than fit loses the last ones: they read as not there.
        let _ = known.push(info);
    };
    for &range in machine.free.iter() {
        for (node, part) in by_node(machine.topology, range) {
            add(part.align_inward(PAGE_SIZE), node, true, CACHED);
        }
    }
    for extent in machine.pools.extents() {
        add(extent.range, extent.node, false, CACHED);
    }
    for &range in machine.kept.iter() {
        let is_archive = machine.archive.is_some_and(|a| range.overlaps(a));
        for (node, part) in by_node(machine.topology, range) {
            if is_archive {
                continue;
            }
            // The firmware's interrupt table is nothing of the kernel's: sigma0 may look at it (an old one reads
            // through null pointers), but nobody is offered it.
            let (first, rest) = part.split_at(FIRST_PAGE_END);
            add(first, node, true, CACHED);
            add(rest, node, false, CACHED);
        }
    }
    if let Some(archive) = machine.archive {
        let end = archive.end.align_up(PAGE_SIZE).unwrap_or(archive.end);
        let whole = PhysRange::new(archive.start.page_base(), end);
        for (node, part) in by_node(machine.topology, whole) {
            add(part, node, true, CACHED);
        }
    }
    for &page in registers {
        add(
            PhysRange::from_len(page.page_base().as_u64(), PAGE_SIZE),
            NodeId::new(0),
            false,
            UNCACHED,
        );
    }
    known.sort_unstable_by_key(|run| (run.range.start, run.range.end));
}

/// The parts of `range` by the node that has them; what no node claims goes to node 0.
fn by_node(
    topology: &Topology,
    range: PhysRange,
) -> impl Iterator<Item = (NodeId, PhysRange)> + '_ {
    let owned = topology
        .nodes()
        .flat_map(move |n| topology.ranges_of(n).map(move |own| (n, own.intersect(range))));
    let claimed = topology.ranges().iter().any(|r| r.range.overlaps(range));
    let rest = (!claimed).then_some((NodeId::new(0), range));
    owned.filter(|(_, part)| !part.is_empty()).chain(rest)
}

/// Everything between the known runs is device memory, or nothing; user level may have it, uncached.
fn fill_gaps(known: &Table, table: &mut Table) {
    let mut at = PhysAddr::ZERO;
    let mut push = |range: PhysRange, info: FrameInfo| {
        if !range.is_empty() {
            let _ = table.push(FrameInfo { range, ..info });
        }
    };
    let device = FrameInfo { usable: true, cache: UNCACHED, ..NOTHING };
    for run in known.iter() {
        let start = run.range.start.max(at);
        let end = run.range.end.max(start);
        push(PhysRange::new(at, start), device);
        push(PhysRange::new(start, end), *run);
        at = end.max(at);
    }
    push(PhysRange::new(at, PHYS_LIMIT), device);
}
