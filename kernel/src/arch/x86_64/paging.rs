//! The kernel address space: per node what all its CPUs share, per CPU the rest.
//!
//! For every node a *node space* is built in the node's memory: pool windows, kernel image with the
//! node's replicas of text and read-only data, stub page, interrupt table, CPU table, device registers
//! and the array of thread control blocks, all of whose slots show one page of nobody's. A CPU's root then is a
//! copy of the node space's root with own tables on the way to its CPU-local window: three tables more.
//! Everything below is shared with the other CPUs of the node (docs/design/architecture.md, section 1).
//!
//! Invariants: no page is writable and executable; only the stub page and the user word are reachable
//! from user level; everything is global; nothing but pool memory is in the windows.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kcore::fixed::FixedVec;
use kcore::ipc::Key;
use kcore::layout::{self, PAGE_SIZE, cpu_local};
use kcore::paging::{Flags, MapError, Mapper, PageSize, TableMemory};
use kcore::pool::Pools;
use kcore::topology::NodeRange;
use kcore::types::{CpuId, NodeId, PhysAddr, PhysRange, VirtAddr};
use spin::Once;

use super::tables::PoolTables;
use super::{entry, gdt, idt, image, ioapic};
use crate::cpu::{CpuBlock, Identity, NodePage};
use crate::syscall::STUB_STRIDE;
use crate::thread::tcb::Tcb;
use crate::util::sealed;
use l4abi::syscall::SyscallNo;

/// The interrupt descriptor table of the node, next to the stub page.
pub const IDT_PAGE: u64 = layout::STUB_PAGE.as_u64() + PAGE_SIZE;
/// The node's copy of the CPU table.
pub const NODE_PAGE: u64 = IDT_PAGE + PAGE_SIZE;
/// The node's copy of the directory of pools.
pub const NODE_POOLS: u64 = NODE_PAGE + PAGE_SIZE;
const NODE_POOLS_SIZE: u64 = (size_of::<Pools>() as u64).next_multiple_of(PAGE_SIZE);

sealed! {
    /// The boot processor runs on the kernel address space.
    static LIVE: AtomicBool = AtomicBool::new(false);
}

/// The kernel address space is in use (it never goes away again).
pub fn kernel_space_live() -> bool {
    LIVE.load(Ordering::Acquire)
}

/// See [`kernel_space_live`].
pub fn kernel_space_is_live() {
    LIVE.store(true, Ordering::Release);
}

/// Where the parts of the kernel image lie that one node uses: replicas of its own, and the shared data.
#[derive(Clone, Copy, Debug)]
pub struct ImageHome {
    /// First page of the text.
    pub text: PhysAddr,
    /// First page of the read-only data.
    pub rodata: PhysAddr,
    /// First page of the data that is constant after boot.
    pub sealed: PhysAddr,
    /// First page of the data, the same for all nodes.
    pub data: PhysAddr,
}

impl ImageHome {
    /// The sealed data are the ones that boot writes, not a copy of them.
    fn is_master(&self) -> bool {
        self.sealed.offset(image::sealed().end - image::sealed().start) == self.data
    }
}

/// What one node's CPUs share.
#[derive(Clone, Copy, Debug)]
pub struct NodeSpace {
    /// Root table from which roots of CPUs are copied; never in CR3.
    pub root: PhysAddr,
    /// The node's interrupt table, CPU table and page of denied ports.
    pub node_page: PhysAddr,
    /// I/O bitmap page that denies every port.
    pub no_ports: PhysAddr,
    /// The kernel image as the node sees it.
    pub image: ImageHome,
}

/// Device registers that the kernel uses.
pub struct Devices<'a> {
    /// Local APIC, in xAPIC mode.
    pub local_apic: Option<u64>,
    /// I/O APICs.
    pub io_apics: &'a [ioapic::IoApicInfo],
}

const KERNEL_RX: Flags = Flags::PRESENT.union(Flags::GLOBAL).union(Flags::ACCESSED);
const KERNEL_R: Flags = KERNEL_RX.union(Flags::NO_EXECUTE);
/// What the kernel writes: status bits are set from the start, so that the processor never has to write the entry.
pub const KERNEL_RW: Flags = KERNEL_R.union(Flags::WRITABLE).union(Flags::DIRTY);
const USER_R: Flags = KERNEL_R.union(Flags::USER_ACCESSIBLE);
const USER_RX: Flags = KERNEL_RX.union(Flags::USER_ACCESSIBLE);
const DEVICE: Flags = KERNEL_RW.union(Flags::NO_CACHE).union(Flags::WRITE_THROUGH);

/// A root under construction, and where its tables come from.
struct Builder<'a> {
    mapper: Mapper,
    tables: PoolTables<'a>,
}

impl<'a> Builder<'a> {
    /// An empty root.
    fn new(tables: &'a mut dyn FnMut() -> Option<PhysAddr>) -> Result<Self, MapError> {
        let mut tables = PoolTables::new(tables);
        Ok(Builder { mapper: Mapper::new(tables.alloc()?), tables })
    }

    /// A CPU's root: the node's, with tables of its own for its window.
    fn copy_of(
        node: &NodeSpace,
        tables: &'a mut dyn FnMut() -> Option<PhysAddr>,
    ) -> Result<Self, MapError> {
        let mut tables = PoolTables::new(tables);
        let template = Mapper::new(node.root);
        Ok(Builder { mapper: Mapper::copy_of(&mut tables, template, layout::CPU_LOCAL)?, tables })
    }

    fn page(&mut self, virt: VirtAddr, phys: PhysAddr, flags: Flags) -> Result<(), MapError> {
        self.mapper.map(&mut self.tables, virt, phys, PageSize::Small, flags)
    }

    fn range(
        &mut self,
        virt: VirtAddr,
        range: PhysRange,
        largest: PageSize,
        flags: Flags,
    ) -> Result<(), MapError> {
        self.mapper.map_range(&mut self.tables, virt, range, largest, flags)
    }
}

/// What a node space is made of.
pub struct NodeParts<'a> {
    /// The kernel image.
    pub image: ImageHome,
    /// The directory of pools, of which the node gets a copy.
    pub pools: &'a Pools,
    /// The extents of all pools.
    pub extents: &'a [NodeRange],
    /// Device registers.
    pub devices: Devices<'a>,
}

/// Builds a node space. `pages(n)` gives `n` contiguous zeroed pages of the node, `tables` one for a table.
pub fn build_node_space(
    pages: &mut dyn FnMut(u64) -> Option<PhysAddr>,
    tables: &mut dyn FnMut() -> Option<PhysAddr>,
    parts: &NodeParts<'_>,
) -> Result<NodeSpace, MapError> {
    let directory = pages(NODE_POOLS_SIZE / PAGE_SIZE).ok_or(MapError::OutOfMemory)?;
    let mut page = || pages(1).ok_or(MapError::OutOfMemory);
    let node_page = page()?;
    let no_ports = page()?;
    let nobody = page()?;
    let idt = page()?;
    let stubs = page()?;
    let mut space = Builder::new(tables)?;
    for extent in parts.extents {
        space.range(extent.range.start.window(), extent.range, PageSize::Large, KERNEL_RW)?;
    }
    map_image(&mut space, parts.image)?;
    space.page(layout::STUB_PAGE, stubs, USER_RX)?;
    space.page(VirtAddr::new(IDT_PAGE), idt, KERNEL_R)?;
    space.page(VirtAddr::new(NODE_PAGE), node_page, KERNEL_R)?;
    let copy = PhysRange::from_len(directory.as_u64(), NODE_POOLS_SIZE);
    space.range(VirtAddr::new(NODE_POOLS), copy, PageSize::Small, KERNEL_R)?;
    if let Some(phys) = parts.devices.local_apic {
        let virt = VirtAddr::new(super::apic::XAPIC_VIRT);
        space.page(virt, PhysAddr::new(phys), DEVICE)?;
    }
    for (n, chip) in parts.devices.io_apics.iter().enumerate() {
        let virt = VirtAddr::new(ioapic::virt(n));
        space.page(virt, PhysAddr::new(chip.phys).page_base(), DEVICE)?;
    }
    map_tcb_array(&mut space, nobody)?;
    // SAFETY: fresh pages of the pool, reached through its window; nobody else knows them.
    unsafe {
        window(idt).write_bytes(0, PAGE_SIZE as usize);
        idt::write_table(window(idt));
        window(directory).cast::<Pools>().write(parts.pools.clone());
        window(no_ports).write_bytes(0xff, PAGE_SIZE as usize);
        window(nobody).add(offset_of!(Tcb, key)).cast::<u64>().write(Key::ABSENT.0);
        // What is not a stub is `int3`.
        window(stubs).write_bytes(0xcc, PAGE_SIZE as usize);
        for &call in SyscallNo::ALL {
            let at = call as usize * STUB_STRIDE as usize;
            let code = entry::stub_code(call);
            window(stubs).add(at).copy_from_nonoverlapping(code.as_ptr(), code.len());
        }
    }
    Ok(NodeSpace { root: space.mapper.root(), node_page, no_ports, image: parts.image })
}

fn map_image(space: &mut Builder<'_>, home: ImageHome) -> Result<(), MapError> {
    for (part, phys, flags) in [
        (image::text(), home.text, KERNEL_RX),
        (image::rodata(), home.rodata, KERNEL_R),
        (image::sealed(), home.sealed, if home.is_master() { KERNEL_RW } else { KERNEL_R }),
        (image::data(), home.data, KERNEL_RW),
    ] {
        let range = PhysRange::from_len(phys.as_u64(), part.end - part.start);
        space.range(VirtAddr::new(part.start), range, PageSize::Small, flags)?;
    }
    Ok(())
}

/// Brings the copies of the sealed data up to date with what boot has written. Called before other CPUs start and
/// again when boot is over; from then on the data are constant (`crate::sealed!`).
///
/// Between the two, other CPUs read only what does not change any more.
pub fn publish_sealed() {
    let from = image::sealed();
    for (_, space) in node_spaces().iter().filter(|(_, space)| !space.image.is_master()) {
        copy_image(from.clone(), space.image.sealed);
    }
}

/// Boot is over: a write to sealed data by anyone is a fault from now on. Other CPUs of this node may still have the
/// right to write in their translations; that only delays their fault.
pub fn seal() {
    publish_sealed();
    for (_, space) in node_spaces().iter().filter(|(_, space)| space.image.is_master()) {
        for at in image::sealed().step_by(PAGE_SIZE as usize).map(VirtAddr::new) {
            // All of the image is mapped.
            let _ = Mapper::new(space.root).forbid_writing(&mut PoolTables::existing(), at);
            super::cpulocal::forget_page(at);
        }
    }
}

/// Every slot shows the page of nobody, all zero but for its key, through one leaf table for the whole array.
fn map_tcb_array(space: &mut Builder<'_>, nobody: PhysAddr) -> Result<(), MapError> {
    const SLOTS_PER_TABLE: u64 = layout::TABLE_ENTRIES as u64;
    for slot in 0..SLOTS_PER_TABLE {
        let virt = layout::TCB_AREA.offset(slot * layout::TCB_SIZE);
        space.page(virt, nobody, KERNEL_R)?;
    }
    let way = space.mapper.walk(&space.tables, layout::TCB_AREA);
    let leaf = way.table_of_level(1).ok_or(MapError::NotMapped)?;
    for table in 1..layout::NR_THREADS / SLOTS_PER_TABLE {
        let virt = layout::TCB_AREA.offset(table * SLOTS_PER_TABLE * layout::TCB_SIZE);
        space.mapper.link(&mut space.tables, virt, 1, leaf)?;
    }
    Ok(())
}

/// What one CPU has for itself.
#[derive(Clone, Copy, Debug)]
pub struct CpuSpace {
    /// Its kernel root table.
    pub root: PhysAddr,
    /// Its block; the block's pages are contiguous.
    pub block: PhysAddr,
}

/// Builds a CPU's root and window. `pages(n)` gives `n` contiguous zeroed pages of the CPU's node.
pub fn build_cpu_space(
    node: &NodeSpace,
    pages: &mut dyn FnMut(u64) -> Option<PhysAddr>,
    tables: &mut dyn FnMut() -> Option<PhysAddr>,
    identity: impl FnOnce(PhysAddr, PhysAddr) -> Identity,
) -> Result<CpuSpace, MapError> {
    let mut space = Builder::copy_of(node, tables)?;
    let mut map = |offset: u64, size: u64, flags| -> Result<PhysAddr, MapError> {
        let phys = pages(size / PAGE_SIZE).ok_or(MapError::OutOfMemory)?;
        let range = PhysRange::from_len(phys.as_u64(), size);
        space.range(layout::CPU_LOCAL.offset(offset), range, PageSize::Small, flags)?;
        Ok(phys)
    };
    let block = map(cpu_local::BLOCK, cpu_local::BLOCK_SIZE, KERNEL_RW)?;
    let word = map(cpu_local::USER_WORD_ALIAS, PAGE_SIZE, KERNEL_RW)?;
    let tss = map(cpu_local::TSS_PAGE, PAGE_SIZE, KERNEL_RW)?;
    let gdt = map(cpu_local::GDT_PAGE, PAGE_SIZE, KERNEL_RW)?;
    map(cpu_local::KERNEL_STACK, cpu_local::KERNEL_STACK_SIZE, KERNEL_RW)?;
    for stack in
        [cpu_local::NMI_STACK, cpu_local::DOUBLE_FAULT_STACK, cpu_local::MACHINE_CHECK_STACK]
    {
        map(stack, cpu_local::EXCEPTION_STACK_SIZE, KERNEL_RW)?;
    }
    space.page(layout::CPU_LOCAL.offset(cpu_local::USER_WORD), word, USER_R)?;
    for page in 0..cpu_local::IO_BITMAP_SIZE / PAGE_SIZE {
        let virt = layout::CPU_LOCAL.offset(cpu_local::IO_BITMAP + page * PAGE_SIZE);
        space.page(virt, node.no_ports, KERNEL_R)?;
    }
    // SAFETY: fresh pages of the pool, reached through its window; nobody else knows them.
    unsafe {
        window(block).cast::<CpuBlock>().write(CpuBlock::new(identity(space.mapper.root(), block)));
        gdt::write_tables(window(tss), window(gdt));
    }
    Ok(CpuSpace { root: space.mapper.root(), block })
}

sealed! {
    /// Physical addresses of the copies of the CPU table.
    static NODE_PAGES: [AtomicU64; layout::MAX_NODES] =
        [const { AtomicU64::new(0) }; layout::MAX_NODES];
}

/// A node and its space.
pub type NodeSpaces = FixedVec<(NodeId, NodeSpace), { layout::MAX_NODES }>;

sealed! {
    static NODE_SPACES: Once<NodeSpaces> = Once::new();
}

/// Keeps the node spaces for what changes in them later: the array of thread control blocks.
pub fn keep_node_spaces(spaces: NodeSpaces) {
    NODE_SPACES.call_once(|| spaces);
}

/// The spaces of all nodes that have one, ascending.
pub fn node_spaces() -> &'static [(NodeId, NodeSpace)] {
    NODE_SPACES.get().map_or(&[], |spaces| spaces)
}

/// Writes a node's copy of the CPU table.
pub fn write_node_page(node: NodeId, space: &NodeSpace, page: &NodePage) {
    NODE_PAGES[node.index()].store(space.node_page.as_u64(), Ordering::Relaxed);
    // SAFETY: the page belongs to the node space; CPUs read single words of it, and the words that change
    // while others run change from 0 to their final value or back.
    unsafe { window(space.node_page).cast::<NodePage>().copy_from(page, 1) };
}

/// Enters a CPU that is up into every node's copy of the CPU table.
pub fn announce(cpu: CpuId, block: PhysAddr) {
    for page in &NODE_PAGES {
        let phys = page.load(Ordering::Relaxed);
        if phys != 0 {
            let table = window(PhysAddr::new(phys)).cast::<NodePage>();
            // SAFETY: a node's copy of the table, in its pool; one aligned word that other CPUs read is
            // changed once, from 0 to its final value.
            unsafe {
                (&raw mut (*table).blocks[cpu.index()]).write_volatile(block.window().as_u64());
            }
        }
    }
}

/// Pool memory as the kernel sees it.
pub fn window(phys: PhysAddr) -> *mut u8 {
    phys.window().as_u64() as *mut u8
}

/// Copies a page-aligned part of the running image to pool memory, a word at a time: others may read the sealed data
/// there, of which no word changes that they read.
pub fn copy_image(virt: core::ops::Range<u64>, to: PhysAddr) {
    let words = (virt.end - virt.start) / 8;
    // SAFETY: the source is text, read-only data or sealed data, which nobody else writes; the target is memory of a
    // pool for that part of the image, which other CPUs only read.
    unsafe {
        asm!("rep movsq", inout("rcx") words => _, inout("rsi") virt.start => _,
             inout("rdi") window(to) => _, options(nostack, preserves_flags));
    }
}
