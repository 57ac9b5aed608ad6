//! What belongs to one CPU: its block in the CPU-local window, and how to name another CPU's.
//!
//! The window is at the same virtual address on every CPU (l4-smp 8.8.1: the memory management unit does
//! the indexing), so [`this`] costs nothing and assembly uses absolute addresses. Another CPU's block is
//! reached through the pool window by a table that every node has its own copy of ([`NodePage`]), and
//! only its [`Shared`] part may be touched there.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kcore::cross::mailbox::Mailbox;
use kcore::cross::post::Post;
use kcore::layout::{self, cpu_local};
use kcore::types::{ApicId, CpuId, NodeId, PhysAddr};

use crate::arch::x86_64::clock_sync::Meeting;
use crate::arch::x86_64::selftest::Probe;
use crate::boot::placement::Observed;
use crate::cross::counters::Counters;
use crate::cross::quarantine::Quarantine;
use crate::cross::shootdown::Request;
use crate::kdb::Held;
use crate::measure::Expected;
use crate::memory::home::Magazine;
use crate::sched::percpu::PerCpu;
use crate::trace::Ring;
use crate::util::sealed;

/// The block at the start of the CPU-local window.
///
/// ```text
/// 0x000  scheduling  entry and exit paths, IPC       owner only
///  ...   identity    who this is                     written before the CPU starts
///  ...   local       everything else of this CPU     owner only
///  ...   shared      what other CPUs may touch       atomics, lines of their own
/// ```
#[repr(C, align(64))]
pub struct CpuBlock {
    /// Running thread, queues; the first line is for assembly.
    pub scheduling: PerCpu,
    /// Who this is.
    pub identity: Identity,
    /// Owner-only state.
    pub local: Local,
    /// State that other CPUs may touch.
    pub shared: Shared,
}

/// Who a CPU is; constant while it runs.
#[repr(C, align(64))]
pub struct Identity {
    /// Dense number; the boot processor is 0.
    pub id: CpuId,
    /// The node whose memory the CPU uses: its own, or the nearest with memory.
    pub node: NodeId,
    /// Address for interrupts.
    pub apic_id: ApicId,
    /// Root table of the kernel address space on this CPU; its upper half is what the roots of all spaces
    /// on this CPU share.
    pub kernel_root: PhysAddr,
    /// This block as other CPUs see it, in the pool window.
    pub pool_address: u64,
}

/// Owner-only state.
#[repr(C, align(64))]
pub struct Local {
    /// Timer interrupts taken in kernel mode.
    pub timer_interrupts: Cell<u64>,
    /// Requests and shootdowns taken in kernel mode.
    pub other_interrupts: Cell<u64>,
    /// What a self-test expects to fault, and how it did.
    pub probe: Probe,
    /// Pages of deleted threads.
    pub quarantine: Quarantine,
    /// Free mapping nodes of this node.
    pub magazine: Magazine,
    /// Nodes in whose mappings this CPU has announced changes, a bit each (`cross::shootdown::announce`).
    pub announced: Cell<u64>,
    /// Who waits for an interrupt that is measured.
    pub expected: Expected,
}

/// State that other CPUs may touch.
#[repr(C, align(64))]
pub struct Shared {
    /// The CPU reached the end of its own start-up.
    pub up: AtomicBool,
    /// What it found walking its own page tables.
    pub placement: Observed,
    /// Root table of the kernel address space on the CPU.
    pub kernel_root: u64,
    /// Threads that come to the CPU.
    pub mailbox: Mailbox<AtomicU64>,
    /// CPUs that want this one to forget translations, a bit each.
    pub shootdowns: Post<AtomicU64, { layout::MAX_CPUS / 64 }>,
    /// Interrupt lines whose handler has come here, a bit each.
    pub irq_lines: Post<AtomicU64, { layout::MAX_SYSTEM_BASE as usize / 64 }>,
    /// What this CPU wants others to forget.
    pub request: Request,
    /// How its time-stamp counter was compared with the boot processor's.
    pub clock: Meeting,
    /// Traffic with other CPUs.
    pub counters: Counters,
    /// What the CPU did.
    pub trace: Ring,
    /// Where it was when the debugger stopped it.
    pub held: Held,
}

const _: () = {
    assert!(size_of::<CpuBlock>() as u64 <= cpu_local::BLOCK_SIZE);
    assert!(core::mem::offset_of!(CpuBlock, scheduling) == 0);
};

impl CpuBlock {
    /// A block for a CPU that has not started.
    pub fn new(identity: Identity) -> Self {
        let kernel_root = identity.kernel_root.as_u64();
        CpuBlock {
            scheduling: PerCpu::new(&identity),
            identity,
            local: Local {
                timer_interrupts: Cell::new(0),
                other_interrupts: Cell::new(0),
                probe: Probe::idle(),
                quarantine: Quarantine::new(),
                magazine: Magazine::new(),
                announced: Cell::new(0),
                expected: Expected::new(),
            },
            shared: Shared {
                up: AtomicBool::new(false),
                placement: Observed::new(),
                kernel_root,
                mailbox: Mailbox::new(AtomicU64::new(0), AtomicU64::new(0)),
                shootdowns: Post::new([const { AtomicU64::new(0) }; layout::MAX_CPUS / 64]),
                irq_lines: Post::new(
                    [const { AtomicU64::new(0) }; layout::MAX_SYSTEM_BASE as usize / 64],
                ),
                request: Request::new(),
                clock: Meeting::new(),
                counters: Counters::new(),
                trace: Ring::new(),
                held: Held::new(),
            },
        }
    }
}

/// What every node has a copy of, read-only, at the same virtual address: how to reach the CPUs and what
/// each node has for itself.
#[repr(C)]
pub struct NodePage {
    /// Pool-window addresses of the CPU blocks; 0 for a CPU that is not up.
    pub blocks: [u64; layout::MAX_CPUS],
    /// Local APIC ids.
    pub apic_ids: [u32; layout::MAX_CPUS],
    /// Nodes.
    pub nodes: [u8; layout::MAX_CPUS],
    /// Pool-window addresses of what each node has for itself (`memory::home`).
    pub homes: [u64; layout::MAX_NODES],
    /// The node this copy lies on.
    pub node: u32,
    /// CPU numbers below this are in use; some may not be up.
    pub nr_cpus: u32,
}

const _: () = assert!(size_of::<NodePage>() as u64 <= layout::PAGE_SIZE);

sealed! {
    /// The boot processor runs on its own CPU-local window; from here on every CPU does.
    static LOCAL_WINDOW_LIVE: AtomicBool = AtomicBool::new(false);
}

/// Called once, by the boot processor, after the switch to the kernel address space.
pub fn local_window_is_live() {
    LOCAL_WINDOW_LIVE.store(true, Ordering::Release);
}

/// The CPU-local window can be read.
pub fn local_window_live() -> bool {
    LOCAL_WINDOW_LIVE.load(Ordering::Acquire)
}

/// This CPU's block. Not before the kernel address space exists.
#[inline]
#[expect(unsafe_code, reason = "the CPU-local window is a fixed address")]
pub fn this() -> &'static CpuBlock {
    debug_assert!(local_window_live());
    // SAFETY: the window maps an initialized block of this CPU since the kernel address space exists, and
    // for ever. `CpuBlock` is not `Sync` and kernel code does not move between CPUs, so the reference
    // stays on the CPU it belongs to.
    unsafe { &*(layout::CPU_LOCAL.as_u64() as *const CpuBlock) }
}

/// This node's copy of the CPU table. Not before the kernel address space exists.
#[expect(unsafe_code, reason = "the node page is a fixed address")]
pub fn node_page() -> &'static NodePage {
    debug_assert!(local_window_live());
    // SAFETY: mapped read-only and initialized in every kernel address space. Entries are words that
    // change only while CPUs are started, by the boot processor, to another valid value.
    unsafe { &*(crate::arch::x86_64::paging::NODE_PAGE as *const NodePage) }
}

/// The shared part of another CPU's block; `None` if there is no such CPU or it is not up.
#[expect(unsafe_code, reason = "CPU blocks are reached by address")]
pub fn shared_of(cpu: CpuId) -> Option<&'static Shared> {
    let block = *node_page().blocks.get(cpu.index())?;
    if block == 0 {
        return None;
    }
    // SAFETY: the table holds pool-window addresses of initialized blocks that are never freed; only the
    // `Sync` part of the block is referred to.
    Some(unsafe { &(*(block as *const CpuBlock)).shared })
}

/// The root table that a CPU has loaded or is about to load; `None` if it is not up.
#[expect(unsafe_code, reason = "CPU blocks are reached by address")]
pub fn root_of(cpu: CpuId) -> Option<u64> {
    let block = *node_page().blocks.get(cpu.index())?;
    if block == 0 {
        return None;
    }
    // SAFETY: as in `shared_of`; the root is a `Word`, which anybody may read, and only it is referred to.
    Some(unsafe { (*core::ptr::addr_of!((*(block as *const CpuBlock)).scheduling.root)).get() })
}

/// The queues of a CPU, for the debugger: the CPU stands still, perhaps in the middle of changing them.
#[cfg(feature = "kdb")]
#[expect(unsafe_code, reason = "CPU blocks are reached by address")]
pub fn scheduling_of(cpu: CpuId) -> Option<&'static PerCpu> {
    let block = *node_page().blocks.get(cpu.index())?;
    if block == 0 {
        return None;
    }
    // SAFETY: as in `shared_of`. Nobody writes: all other CPUs are stopped, and every cell holds a whole value.
    Some(unsafe { &(*(block as *const CpuBlock)).scheduling })
}

/// Local APIC id of a CPU.
pub fn apic_id_of(cpu: CpuId) -> Option<ApicId> {
    let page = node_page();
    if cpu.index() >= page.nr_cpus as usize {
        return None;
    }
    page.apic_ids.get(cpu.index()).copied().map(ApicId::new)
}

/// The same of a CPU that is known to be up.
#[inline(always)]
pub fn apic_id_of_known(cpu: CpuId) -> ApicId {
    ApicId::new(node_page().apic_ids[cpu.index() % layout::MAX_CPUS])
}

/// Number of this CPU for messages; 0 while only the boot processor runs.
pub fn current_number() -> u32 {
    if local_window_live() { u32::from(this().identity.id.get()) } else { 0 }
}

/// Node of this CPU for messages, once known.
pub fn current_node() -> Option<u32> {
    local_window_live().then(|| u32::from(this().identity.node.get()))
}

impl NodePage {
    /// A table of `nr_cpus` CPUs, none of which is up.
    pub const fn new(nr_cpus: u32, homes: [u64; layout::MAX_NODES]) -> Self {
        NodePage {
            blocks: [0; layout::MAX_CPUS],
            apic_ids: [0; layout::MAX_CPUS],
            nodes: [0; layout::MAX_CPUS],
            homes,
            node: 0,
            nr_cpus,
        }
    }

    /// Enters a CPU that is not up yet.
    pub fn set(&mut self, id: CpuId, apic_id: ApicId, node: NodeId) {
        self.apic_ids[id.index()] = apic_id.get();
        self.nodes[id.index()] = node.get();
    }
}

/// Number of CPUs that are up or were expected to be: valid numbers are below.
pub fn count() -> usize {
    node_page().nr_cpus as usize
}
