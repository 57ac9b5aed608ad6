//! The stage that builds every node's and every CPU's address space.

use kcore::layout::PAGE_SIZE;
use kcore::paging::MapError;
use kcore::pool::{OutOfMemory, Pools};
use kcore::types::{CpuId, NodeId, PhysAddr};

use super::{fatal, placement, stages};
use crate::arch::x86_64::bootmem::BootWindow;
use crate::arch::x86_64::paging::{self, Devices, ImageHome, NodeParts, NodeSpace, NodeSpaces};
use crate::arch::x86_64::{apic, cpu_start, image, tcb_area, trampoline};
use crate::cpu::{Identity, NodePage};
use crate::machine::Machine;
use crate::{memory, println};

/// Builds every node's and every CPU's address space and enters the boot processor's.
pub fn address_space(pools: stages::Pools, window: BootWindow) -> ! {
    let machine = pools.machine;
    let topology = machine.topology;
    let directory = memory::boot_pools(&window);
    let first = directory.home_of(NodeId::new(0));
    // Data is shared by all nodes, so it has one home: that of the boot processor, which writes what is sealed later.
    // The copy is made at the switch.
    let boot_node = placement::data_home(directory, topology);
    let data = match alloc(directory, boot_node, image::writable()) {
        Ok(data) => data,
        Err(error) => fatal(format_args!("node {boot_node}: kernel data: {error:?}")),
    };
    let mut spaces = NodeSpaces::new(NO_SPACE);
    for node in topology.nodes().filter(|&node| directory.pool(node).is_some()) {
        let shared = spaces.first().map(|(_, space)| space.image);
        let home = match shared {
            Some(image) if !machine.options.text_replication => Ok(image),
            _ => {
                let home = if machine.options.text_replication { node } else { first };
                let shared = node == boot_node || !machine.options.text_replication;
                replicate(directory, home, data, shared)
            }
        };
        let table_node = if machine.options.page_table_replication { node } else { first };
        let space = home.map_err(MapError::from).and_then(|image| {
            paging::build_node_space(
                &mut |count| memory::alloc_pages_of(directory, node, count).ok(),
                &mut || memory::alloc_pages_of(directory, table_node, 1).ok(),
                &NodeParts {
                    image,
                    pools: directory,
                    extents: machine.pools.extents(),
                    devices: devices(machine),
                },
            )
        });
        match space {
            Ok(space) => spaces.push((node, space)).unwrap_or(()),
            Err(error) => fatal(format_args!("node {node}: kernel address space: {error:?}")),
        }
    }
    let boot_root = cpu_spaces(machine, directory, &spaces);
    paging::keep_node_spaces(spaces);
    if machine.can_start_cpus {
        trampoline::prepare(&window, boot_root);
    }
    cpu_start::enter_kernel_space(window, boot_root, data, super::on_kernel_space)
}

const NO_SPACE: (NodeId, NodeSpace) = (
    NodeId::new(0),
    NodeSpace {
        root: PhysAddr::ZERO,
        node_page: PhysAddr::ZERO,
        no_ports: PhysAddr::ZERO,
        image: ImageHome {
            text: PhysAddr::ZERO,
            rodata: PhysAddr::ZERO,
            sealed: PhysAddr::ZERO,
            data: PhysAddr::ZERO,
        },
    },
);

fn devices(machine: &Machine) -> Devices<'_> {
    let xapic = !machine.features.x2apic;
    Devices { local_apic: xapic.then(apic::physical_base), io_apics: &machine.io_apics }
}

/// Memory on `node` for a part of the image.
fn alloc(
    directory: &Pools,
    node: NodeId,
    part: core::ops::Range<u64>,
) -> Result<PhysAddr, OutOfMemory> {
    let pages = (part.end - part.start) / PAGE_SIZE;
    memory::alloc_pages_of(directory, node, pages)
}

/// Copies the kernel's text and read-only data into a node. `writable` is where the data are that all share; the node
/// shares what is sealed later, too, or gets memory for a copy.
fn replicate(
    directory: &Pools,
    node: NodeId,
    writable: PhysAddr,
    share_sealed: bool,
) -> Result<ImageHome, OutOfMemory> {
    let copy = |part: core::ops::Range<u64>| {
        let phys = alloc(directory, node, part.clone())?;
        paging::copy_image(part, phys);
        Ok(phys)
    };
    let (text, rodata) = (copy(image::text())?, copy(image::rodata())?);
    let part = image::sealed();
    let data = writable.offset(part.end - part.start);
    let sealed = if share_sealed { writable } else { alloc(directory, node, part)? };
    Ok(ImageHome { text, rodata, sealed, data })
}

/// Builds the spaces of all CPUs; returns the boot processor's root.
fn cpu_spaces(machine: &Machine, directory: &Pools, spaces: &[(NodeId, NodeSpace)]) -> PhysAddr {
    let topology = machine.topology;
    let first = directory.home_of(NodeId::new(0));
    let homes = match memory::home::build(directory, topology) {
        Ok(homes) => homes,
        Err(error) => fatal(format_args!("objects of the nodes: {error}")),
    };
    let mut page = NodePage::new(topology.nr_cpus() as u32, homes);
    let mut boot_root = PhysAddr::ZERO;
    for (number, described) in topology.cpus().iter().enumerate() {
        let id = CpuId::new(number as u16);
        let node = directory.home_of(described.node);
        let Some((_, space)) = spaces.iter().find(|(n, _)| *n == node) else {
            fatal(format_args!("cpu {id}: node {node} has no address space"))
        };
        let table_node = if machine.options.page_table_replication { node } else { first };
        let built = paging::build_cpu_space(
            space,
            &mut |count| memory::alloc_pages_of(directory, node, count).ok(),
            &mut || memory::alloc_pages_of(directory, table_node, 1).ok(),
            |kernel_root, block| Identity {
                id,
                node,
                apic_id: described.apic,
                kernel_root,
                pool_address: block.window().as_u64(),
            },
        );
        match built {
            Ok(built) => {
                page.set(id, described.apic, node);
                cpu_start::remember(id, built);
                if number == 0 {
                    boot_root = built.root;
                }
            }
            Err(error) if number == 0 => fatal(format_args!("boot processor: {error:?}")),
            Err(error) => println!("cpu {id}: no memory for it ({error:?}); left out"),
        }
    }
    for (node, space) in spaces {
        page.node = u32::from(node.get());
        paging::write_node_page(*node, space, &page);
        tcb_area::learn(*node, space.root);
    }
    boot_root
}
