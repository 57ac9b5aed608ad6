//! The kernel interface page: built once at boot, mapped read-only into every space (reference 3).

#![expect(unsafe_code, reason = "the page is pool memory")]

use kcore::fixed::FixedVec;
use kcore::layout::{MAX_CPUS, PAGE_SIZE, USER_END};
use kcore::types::{NodeId, PhysAddr};
use l4abi::kip::build::{KipParams, NumaParams};
use l4abi::kip::memory::boot_subtype;
use l4abi::kip::numa::NodeRange;
use l4abi::kip::{self, MemoryDesc, MemoryType, ProcessorDesc, ServerImage};
use l4abi::syscall::SyscallNo;
use l4abi::{ThreadId, id::ThreadRanges};
use spin::Once;

use crate::arch::x86_64::clock;
use crate::machine::Machine;
use crate::memory::{self, frames};
use crate::space::{SpaceRef, mapping};
use crate::syscall::stub_address;

/// Where the page lies and how large it is.
struct Page {
    phys: PhysAddr,
    log2: u8,
}

static PAGE: Once<Page> = Once::new();

/// What `lock; nop` answers besides the address.
pub struct Facts {
    /// ApiVersion word.
    pub api_version: u64,
    /// ApiFlags word.
    pub api_flags: u64,
    /// KernelId word.
    pub kernel_id: u64,
}

/// The facts of this kernel.
pub const fn facts() -> Facts {
    Facts { api_version: kip::API_VERSION, api_flags: kip::API_FLAGS, kernel_id: kip::KERNEL_ID }
}

/// log2 of the size of the page's area.
pub fn area_log2() -> u8 {
    PAGE.get().map_or(kip::KIP_AREA_MIN_LOG2, |p| p.log2)
}

/// What user level is told about boot.
pub struct Servers {
    /// sigma0's image.
    pub sigma0: ServerImage,
    /// The root task's image.
    pub root: ServerImage,
    /// Boot info, physical.
    pub boot_info: u64,
    /// Memory that is dedicated to something: subtype, first and last byte.
    pub dedicated: FixedVec<(u8, u64, u64), 16>,
}

const MAX_DESCRIPTORS: usize = 128;

/// Builds the page on the first node with memory.
pub fn init(machine: &Machine, servers: &Servers) -> Result<(), &'static str> {
    let descriptors = descriptors(servers);
    let topology = machine.topology;
    let nodes = topology.nr_nodes();
    let mut distances = FixedVec::<u8, 4096>::new(0);
    for from in topology.nodes() {
        for to in topology.nodes() {
            let _ = distances.push(topology.distance(from, to));
        }
    }
    let mut cpu_nodes = FixedVec::<NodeId, MAX_CPUS>::new(NodeId::new(0));
    let mut processors = FixedVec::<ProcessorDesc, MAX_CPUS>::new(PROCESSOR);
    let khz = clock::tsc_hz() / 1000;
    for cpu in topology.cpus() {
        let _ = cpu_nodes.push(cpu.node);
        let _ = processors.push(ProcessorDesc { external_khz: khz, internal_khz: khz });
    }
    let mut ranges = FixedVec::<NodeRange, MAX_DESCRIPTORS>::new(NODE_RANGE);
    for run in topology.ranges() {
        let (low, end) = (run.range.start.as_u64(), run.range.end.as_u64());
        let _ = ranges.push(NodeRange { node: run.node, low, last: end - 1 });
    }
    let params = KipParams {
        threads: ThreadRanges::with_irq_lines(crate::irq::system_base()),
        links: core::array::from_fn(|i| stub_address(SyscallNo::ALL[i])),
        sigma0: servers.sigma0,
        root: servers.root,
        boot_info: servers.boot_info,
        version_string: concat!("Lokal ", env!("CARGO_PKG_VERSION")),
        processors: &processors,
        memory: &descriptors,
        numa: Some(NumaParams {
            nodes,
            distances: &distances,
            cpu_nodes: &cpu_nodes,
            ranges: &ranges,
        }),
        ..KipParams::default()
    };
    let log2 = params.area_log2();
    let pages = (1u64 << log2) / PAGE_SIZE;
    let phys = memory::alloc_pages(memory::home_of(NodeId::new(0)), pages)
        .map_err(|_| "no memory for the kernel interface page")?;
    // SAFETY: fresh pool pages, mapped at their window, known to nobody else yet.
    let area =
        unsafe { core::slice::from_raw_parts_mut(phys.window().as_u64() as *mut u8, 1 << log2) };
    params.build(area).map_err(|_| "the kernel interface page does not fit")?;
    PAGE.call_once(|| Page { phys, log2 });
    Ok(())
}

const PROCESSOR: ProcessorDesc = ProcessorDesc { external_khz: 0, internal_khz: 0 };
const NODE_RANGE: NodeRange = NodeRange { node: NodeId::new(0), low: 0, last: 0 };

/// Memory descriptors; later ones override earlier ones (reference 3.2).
fn descriptors(servers: &Servers) -> FixedVec<MemoryDesc, MAX_DESCRIPTORS> {
    let user_last = USER_END.as_u64() - 1;
    let mut all = FixedVec::new(MemoryDesc::virtual_user(0, user_last));
    let mut push = |descriptor| {
        // What does not fit is not offered to anybody: memory is lost, nothing breaks.
        let _ = all.push(descriptor);
    };
    push(MemoryDesc::physical(MemoryType::Shared, 0, !0));
    for run in frames::all() {
        let (low, last) = (run.range.start.as_u64(), run.range.end.as_u64() - 1);
        match (run.usable, run.cache) {
            (true, 0) => push(MemoryDesc::physical(MemoryType::Conventional, low, last)),
            (false, _) => push(MemoryDesc::physical(MemoryType::Reserved, low, last)),
            _ => {}
        }
    }
    push(MemoryDesc::physical(MemoryType::Reserved, 0, frames::FIRST_PAGE_END.as_u64() - 1));
    for &(subtype, low, last) in servers.dedicated.iter() {
        push(MemoryDesc::with_subtype(MemoryType::BootLoader, subtype, low, last));
    }
    for image in [servers.sigma0, servers.root] {
        if image.high > image.low {
            let subtype = boot_subtype::INIT_SERVER;
            let last = image.high - 1;
            push(MemoryDesc::with_subtype(MemoryType::BootLoader, subtype, image.low, last));
        }
    }
    push(MemoryDesc::virtual_user(0, user_last));
    all
}

/// Maps the page at `va` of `space`. False if there is no memory for the tables.
pub fn map_into(space: SpaceRef, va: u64) -> bool {
    let Some(page) = PAGE.get() else { return false };
    (0..(1u64 << page.log2) / PAGE_SIZE).all(|n| {
        let frame = page.phys.offset(n * PAGE_SIZE);
        mapping::enter_kernel_page(space, va + n * PAGE_SIZE, frame, false)
    })
}

/// Global ids of the initial servers.
pub fn server_ids() -> (ThreadId, ThreadId) {
    let ranges = ThreadRanges::with_irq_lines(crate::irq::system_base());
    (ranges.sigma0(), ranges.root_task())
}
