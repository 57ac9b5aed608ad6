//! Where each CPU's things really lie: every CPU walks the page tables that its own CR3 points to and
//! leaves what it finds in its block, in its own memory; the boot processor collects.
//!
//! Nothing here repeats what was asked for at allocation: an address that is reported came out of a page
//! table entry.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kcore::layout::{self, CPU_LOCAL, cpu_local};
use kcore::pool::Pools;
use kcore::topology::Topology;
use kcore::types::{NodeId, PhysAddr, VirtAddr};

use crate::arch::x86_64::{apic, image, paging, regs, tables};
use crate::cpu;
use crate::machine::Machine;

/// A thing whose place matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Item {
    /// Root table (CR3).
    Root,
    /// Kernel text.
    Text,
    /// Kernel read-only data.
    Rodata,
    /// Kernel data that are constant after boot.
    Sealed,
    /// Kernel data, shared by all nodes.
    Data,
    /// CPU block.
    Block,
    /// Kernel stack.
    Stack,
    /// NMI stack.
    NmiStack,
    /// Double-fault stack.
    DoubleFaultStack,
    /// Machine-check stack.
    MachineCheckStack,
    /// Task state and GDT page.
    Gdt,
    /// User word.
    UserWord,
    /// Interrupt descriptor table.
    Idt,
    /// Table of CPUs.
    NodePage,
    /// Directory of pools.
    Pools,
    /// System call stubs.
    Stubs,
    /// What an absent thread control block shows.
    AbsentTcb,
}

/// Every item with its name in records and its virtual address; the root has none.
const ITEMS: [(Item, &str, u64); Observed::ITEMS] = {
    let local = CPU_LOCAL.as_u64();
    [
        (Item::Root, "root", 0),
        (Item::Text, "text", layout::KERNEL_IMAGE.as_u64()),
        (Item::Rodata, "rodata", 0),
        (Item::Sealed, "sealed", 0),
        (Item::Data, "data", 0),
        (Item::Block, "block", local + cpu_local::BLOCK),
        (Item::Stack, "stack", local + cpu_local::KERNEL_STACK),
        (Item::NmiStack, "nmi_stack", local + cpu_local::NMI_STACK),
        (Item::DoubleFaultStack, "double_fault_stack", local + cpu_local::DOUBLE_FAULT_STACK),
        (Item::MachineCheckStack, "machine_check_stack", local + cpu_local::MACHINE_CHECK_STACK),
        (Item::Gdt, "gdt", local + cpu_local::GDT_PAGE),
        (Item::UserWord, "user_word", local + cpu_local::USER_WORD),
        (Item::Idt, "idt", paging::IDT_PAGE),
        (Item::NodePage, "node_page", paging::NODE_PAGE),
        (Item::Pools, "pools", paging::NODE_POOLS),
        (Item::Stubs, "stubs", layout::STUB_PAGE.as_u64()),
        (Item::AbsentTcb, "absent_tcb", layout::TCB_AREA.as_u64()),
    ]
};

/// What one CPU found. Written by it before it reports itself up, read by others afterwards.
#[repr(C)]
pub struct Observed {
    phys: [AtomicU64; Observed::ITEMS],
    /// Page tables met on the way to all items.
    tables: AtomicU32,
    /// Those of them that lie on the CPU's memory node.
    local_tables: AtomicU32,
    apic_id: AtomicU32,
}

impl Observed {
    /// Number of items.
    pub const ITEMS: usize = 17;

    /// Nothing found yet.
    pub const fn new() -> Self {
        Observed {
            phys: [const { AtomicU64::new(0) }; Self::ITEMS],
            tables: AtomicU32::new(0),
            local_tables: AtomicU32::new(0),
            apic_id: AtomicU32::new(u32::MAX),
        }
    }

    /// Physical address of an item; zero if it is not mapped.
    pub fn phys(&self, item: Item) -> PhysAddr {
        PhysAddr::new(self.phys[item as usize].load(Ordering::Relaxed))
    }

    /// All items with their names.
    pub fn items(&self) -> impl Iterator<Item = (Item, &'static str, PhysAddr)> + '_ {
        ITEMS.iter().map(|&(item, name, _)| (item, name, self.phys(item)))
    }

    /// Page tables met, and how many of them are local.
    pub fn tables(&self) -> (u32, u32) {
        (self.tables.load(Ordering::Relaxed), self.local_tables.load(Ordering::Relaxed))
    }

    /// APIC id that the CPU itself reads.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }
}

/// Walks this CPU's live tables to every item.
pub fn observe() {
    let this = cpu::this();
    let node = this.identity.node;
    let found = &this.shared.placement;
    let topology = crate::machine::get().topology;
    let (mut met, mut local) = (0, 0);
    for (item, _, virt) in ITEMS {
        let virt = match item {
            Item::Rodata => image::rodata().start,
            Item::Sealed => image::sealed().start,
            Item::Data => image::data().start,
            _ => virt,
        };
        let phys = if item == Item::Root {
            regs::cr3()
        } else {
            let walk = tables::walk_live(VirtAddr::new(virt));
            let Some(phys) = walk.phys() else { continue };
            for &table in walk.tables() {
                met += 1;
                local += u32::from(topology.node_of(table) == Some(node));
            }
            phys
        };
        found.phys[item as usize].store(phys.as_u64(), Ordering::Relaxed);
    }
    found.tables.store(met, Ordering::Relaxed);
    found.local_tables.store(local, Ordering::Relaxed);
    found.apic_id.store(apic::id().get(), Ordering::Relaxed);
}

/// The node that shared kernel data lie on: the boot processor's.
pub fn data_home(pools: &Pools, topology: &Topology) -> NodeId {
    pools.home_of(topology.cpus().first().map_or(NodeId::new(0), |cpu| cpu.node))
}

/// Everything of a CPU lies where the options say it should: on `node`, or on the first node for what an
/// option takes off its node.
pub fn as_intended(machine: &Machine, node: NodeId, found: &Observed) -> bool {
    let options = &machine.options;
    let first = crate::memory::home_of(NodeId::new(0));
    let data = data_home(crate::memory::pools(), machine.topology);
    let items_fit = found.items().all(|(item, _, phys)| {
        let home = match item {
            Item::Text | Item::Rodata if !options.text_replication => first,
            Item::Sealed if !options.text_replication => data,
            Item::Data => data,
            Item::Root if !options.page_table_replication => first,
            _ => node,
        };
        machine.topology.node_of(phys) == Some(home)
    });
    let (tables, local) = found.tables();
    let tables_fit =
        if options.page_table_replication || node == first { local == tables } else { local == 0 };
    items_fit && tables_fit
}
