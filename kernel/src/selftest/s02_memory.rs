//! Layer 2: pools and the kernel address space.

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use kcore::ipc::Key;
use kcore::layout::{self, CPU_LOCAL, PAGE_SIZE, cpu_local};
use kcore::paging::Flags;
use kcore::pool::{FreeError, OutOfMemory};
use kcore::types::{CpuId, NodeId, PhysAddr};

use super::tables::{self, Found};
use super::{Text, Verdict, check, seen};
use crate::arch::x86_64::selftest::{self as probe, Leaf};
use crate::arch::x86_64::tables::walk_live;
use crate::arch::x86_64::{image, paging, regs};
use crate::boot::placement::Item;
use crate::memory::home;
use crate::thread::tcb::Tcb;
use crate::{cpu, machine, memory};

/// Every mapping of this CPU obeys the rules of the kernel address space.
pub fn mappings() -> Verdict {
    let machine = machine::get();
    let node = cpu::this().identity.node;
    let table_node =
        if machine.options.page_table_replication { node } else { memory::home_of(NodeId::new(0)) };
    let (mut nr_tables, mut pages, mut large) = (0u64, 0u64, 0u64);
    tables::visit(&mut |found| match found {
        Found::Foreign(at) => Err(Text::new(format_args!("a table at {at} is in no pool"))),
        Found::Table(at) => {
            let home = machine.topology.node_of(at);
            check!(home == Some(table_node), "a table at {at} is on node {home:?}");
            nr_tables += 1;
            Ok(())
        }
        Found::Leaf(leaf) => {
            if leaf.size > PAGE_SIZE {
                large += 1
            } else {
                pages += 1
            }
            obeys(&leaf)
        }
    })?;
    seen!("{nr_tables} tables, {pages} pages of 4 KiB, {large} of 2 MiB")
}

/// The rules for one mapping.
fn obeys(leaf: &Leaf) -> Result<(), Text> {
    let at = leaf.virt.as_u64();
    let has = |flag| leaf.flags.contains(flag);
    check!(at >= layout::PHYS_OFFSET, "{at:#x} is below the kernel");
    check!(has(Flags::GLOBAL), "{at:#x} is not global");
    check!(!has(Flags::WRITABLE) || has(Flags::NO_EXECUTE), "{at:#x} is writable and executable");
    let user_word = CPU_LOCAL.as_u64() + cpu_local::USER_WORD;
    let for_user = at == layout::STUB_PAGE.as_u64() || at == user_word;
    check!(
        has(Flags::USER_ACCESSIBLE) == for_user,
        "{at:#x}: user level may {}reach it",
        not(!has(Flags::USER_ACCESSIBLE))
    );
    let executable = image::text().contains(&at) || at == layout::STUB_PAGE.as_u64();
    check!(has(Flags::NO_EXECUTE) != executable, "{at:#x} may {}be executed", not(!executable));
    let device = (layout::DEVICE_AREA.as_u64()..layout::DEVICE_AREA_END.as_u64()).contains(&at);
    check!(has(Flags::NO_CACHE) == device, "{at:#x} is {}cached", not(device));
    if at < layout::KERNEL_BASE.as_u64() {
        let same = leaf.phys.window() == leaf.virt;
        check!(same, "{at:#x} shows {}, not its own address", leaf.phys);
        let last = leaf.phys.offset(leaf.size - 1);
        let pool = memory::is_pool(leaf.phys) && memory::is_pool(last);
        check!(pool, "{at:#x} shows memory outside the pools");
    }
    Ok(())
}

fn not(no: bool) -> &'static str {
    if no { "not " } else { "" }
}

/// This CPU has the page attribute table that page entries are made for.
pub fn attributes() -> Verdict {
    check!(regs::pat_is_right(), "the page attribute table is another");
    seen!("the same table on every CPU")
}

/// The CPU block is the same memory in the local window and in the pool window, and so is the user word in
/// its two places, of which user level gets the read-only one.
pub fn windows() -> Verdict {
    let identity = &cpu::this().identity;
    let at = |offset: u64| walk_live(CPU_LOCAL.offset(offset));
    let block = at(cpu_local::BLOCK).phys().map(|phys| phys.window().as_u64());
    check!(block == Some(identity.pool_address), "the CPU block is at {block:x?}");
    let pages = cpu_local::BLOCK_SIZE / PAGE_SIZE;
    for page in 0..pages {
        let here = at(page * PAGE_SIZE).phys().map(|phys| phys.window().as_u64());
        let want = identity.pool_address + page * PAGE_SIZE;
        check!(here == Some(want), "page {page} of the CPU block is at {here:x?}");
    }
    let (alias, word) = (at(cpu_local::USER_WORD_ALIAS), at(cpu_local::USER_WORD));
    let (Some(here), Some(there)) = (alias.phys(), word.phys()) else {
        return Err(Text::new(format_args!("the user word is not mapped")));
    };
    check!(here == there, "the user word is at {here} and {there}");
    check!(!word.rights.write, "user level may write the user word");
    check!(alias.rights.write, "the kernel may not write the user word");
    check!(cpu::node_page().node == u32::from(identity.node.get()), "another node's CPU table");
    seen!("{pages} pages of the block")
}

/// Slots without a thread show zeros but for a key of no CPU, all over the array.
pub fn absent_threads() -> Verdict {
    let places = [0, 1, 511, 512, 513, 100_000, layout::NR_THREADS - 1];
    for slot in places {
        let start = layout::TCB_AREA.offset(slot * layout::TCB_SIZE);
        for word in 0..layout::TCB_SIZE / 8 {
            let value = probe::tcb_word(start.offset(8 * word));
            let is_key = 8 * word == offset_of!(Tcb, key) as u64;
            let expected = if is_key { Key::ABSENT.0 } else { 0 };
            check!(value == expected, "slot {slot}: word {word} is {value:#x}");
        }
    }
    seen!("{} slots", places.len())
}

/// Bytes of one node's copy of a part of the image, through the pool window.
fn replica(phys: PhysAddr, part: &core::ops::Range<u64>) -> Result<&'static [u8], Text> {
    probe::pool_bytes(phys, part.end - part.start)
        .ok_or_else(|| Text::new(format_args!("a replica at {phys} is in no pool")))
}

/// All replicas of text and read-only data have the same content, and lie apart where they should.
pub fn replicas() -> Verdict {
    let machine = machine::get();
    let mut distinct = 0;
    for (item, part) in [(Item::Text, image::text()), (Item::Rodata, image::rodata())] {
        let of = |n: usize| {
            cpu::shared_of(CpuId::new(n as u16)).map(|shared| shared.placement.phys(item))
        };
        let Some(first) = of(0) else {
            return Err(Text::new(format_args!("the boot processor reported nothing")));
        };
        let original = replica(first, &part)?;
        for n in 1..machine.topology.nr_cpus() {
            let Some(phys) = of(n) else { continue };
            check!(replica(phys, &part)? == original, "cpu {n}: its replica at {phys} differs");
        }
        let spaces = paging::node_spaces();
        for (i, (_, space)) in spaces.iter().enumerate().filter(|_| item == Item::Text) {
            let text = space.image.text;
            let shared = spaces[..i].iter().any(|(_, other)| other.image.text == text);
            distinct += usize::from(!shared);
        }
    }
    let nodes = paging::node_spaces().len();
    let wanted = if machine.options.text_replication { nodes } else { 1 };
    check!(distinct == wanted, "{distinct} replicas instead of {wanted}");
    seen!("{distinct} replicas for {nodes} nodes")
}

/// An allocation of every size lands on the node it names, is usable, and comes back.
pub fn pools() -> Verdict {
    let topology = machine::get().topology;
    let pools = memory::pools();
    let mut blocks = 0u64;
    for node in topology.nodes() {
        let Some(before) = pools.counters(node) else { continue };
        for order in 0..=9u8 {
            let Ok(phys) = memory::alloc_pages(node, 1 << order) else {
                check!(order > 6, "node {node}: no block of 2^{order} pages");
                continue;
            };
            let last = phys.offset((PAGE_SIZE << order) - PAGE_SIZE);
            let ends = if order == 0 { &[phys][..] } else { &[phys, last] };
            for &end in ends {
                let home = topology.node_of(end);
                check!(home == Some(node), "node {node}: got {end} of node {home:?}");
                let word = probe::pool_word(end);
                check!(word.load(Ordering::Relaxed) == 0, "node {node}: {end} is not zeroed");
                word.store(!end.as_u64(), Ordering::Relaxed);
                check!(word.load(Ordering::Relaxed) == !end.as_u64(), "{end} does not keep a word");
            }
            check!(pools.free_at(phys) == Ok(order), "node {node}: {phys} cannot be freed");
            let twice = pools.free_at(phys);
            check!(twice == Err(FreeError::NotAllocated), "{phys} freed twice: {twice:?}");
            blocks += 1;
        }
        let after = pools.counters(node).unwrap_or_default();
        check!(after.free_pages == before.free_pages, "node {node} lost pages");
    }
    let foreign = pools.free_at(layout::TRAMPOLINE);
    check!(foreign == Err(FreeError::Foreign), "freed memory of no pool: {foreign:?}");
    seen!("{blocks} blocks")
}

/// A pool that runs out says so, takes nothing from elsewhere, and is whole again afterwards.
pub fn exhaustion() -> Verdict {
    let topology = machine::get().topology;
    let pools = memory::pools();
    let Some(node) = topology.nodes().filter(|&node| pools.pool(node).is_some()).last() else {
        return Err(Text::new(format_args!("no node has a pool")));
    };
    let before = pools.counters(node).unwrap_or_default();
    // The pages taken are a list through their own first words.
    let (mut list, mut taken) = (0u64, 0u64);
    let mut stray = None;
    let ended = loop {
        match memory::alloc_page(node) {
            Ok(page) => {
                if topology.node_of(page) != Some(node) {
                    stray = Some(page);
                }
                probe::pool_word(page).store(list, Ordering::Relaxed);
                list = page.as_u64();
                taken += 1;
            }
            Err(error) => break error,
        }
    };
    while list != 0 {
        let page = PhysAddr::new(list);
        list = probe::pool_word(page).load(Ordering::Relaxed);
        check!(pools.free_at(page).is_ok(), "{page} cannot be freed");
    }
    let after = pools.counters(node).unwrap_or_default();
    check!(ended == OutOfMemory, "ended by {ended}");
    check!(stray.is_none(), "got {stray:?} of another node");
    check!(taken == before.free_pages, "{taken} pages out of {} free ones", before.free_pages);
    check!(after.free_pages == before.free_pages, "{} pages free afterwards", after.free_pages);
    check!(after.failures > before.failures, "the failure was not counted");
    seen!("node {node}: {taken} pages, then an error, then all back")
}

/// All CPUs allocate and free at the same time; what each holds stays its own.
pub fn pool_stress() -> Verdict {
    const HELD: usize = 16;
    const ROUNDS: u64 = 400;
    let identity = &cpu::this().identity;
    let mark = |round: u64, slot: usize| {
        u64::from(identity.id.get()) << 48 | round << 8 | slot as u64 | 1 << 63
    };
    let mut held = [(PhysAddr::ZERO, 0u64); HELD];
    for round in 0..ROUNDS {
        let slot = (round * 7 % HELD as u64) as usize;
        let (page, expected) = held[slot];
        if page != PhysAddr::ZERO {
            let found = probe::pool_word(page).load(Ordering::Relaxed);
            check!(found == expected, "{page} holds {found:#x}, not {expected:#x}");
            check!(memory::pools().free_at(page).is_ok(), "{page} cannot be freed");
        }
        let order = round % 3;
        let Ok(page) = memory::alloc_pages(identity.node, 1 << order) else {
            return Err(Text::new(format_args!("out of memory in round {round}")));
        };
        let value = mark(round, slot);
        probe::pool_word(page).store(value, Ordering::Relaxed);
        held[slot] = (page, value);
    }
    for (page, expected) in held.into_iter().filter(|(page, _)| *page != PhysAddr::ZERO) {
        let found = probe::pool_word(page).load(Ordering::Relaxed);
        check!(found == expected, "{page} holds {found:#x}, not {expected:#x}");
        check!(memory::pools().free_at(page).is_ok(), "{page} cannot be freed");
    }
    seen!("{ROUNDS} rounds on every CPU")
}

/// Mapping nodes of every node, from all CPUs at the same time: each lies on the node it names and belongs to one
/// CPU only.
pub fn slab_stress() -> Verdict {
    const HELD: usize = 150;
    let identity = &cpu::this().identity;
    let mut nodes = 0;
    for node in machine::get().topology.nodes() {
        let mark = |slot: usize| !(u64::from(identity.id.get()) << 32 | slot as u64);
        let mut held = [0u64; HELD];
        for (slot, place) in held.iter_mut().enumerate() {
            let Some(at) = home::alloc_mapping_node(node) else {
                return Err(Text::new(format_args!("node {node}: no mapping node {slot}")));
            };
            let home = memory::pools().node_of(PhysAddr::new(at));
            check!(home == Some(memory::home_of(node)), "node {node}: {at:#x} is of {home:?}");
            probe::pool_word(PhysAddr::new(at)).store(mark(slot), Ordering::Relaxed);
            *place = at;
        }
        for (slot, at) in held.into_iter().enumerate() {
            let found = probe::pool_word(PhysAddr::new(at)).load(Ordering::Relaxed);
            check!(found == mark(slot), "{at:#x} holds {found:#x}");
            home::free_mapping_node(at);
        }
        nodes += HELD;
    }
    home::trim();
    seen!("{nodes} mapping nodes on every CPU")
}

/// What the slabs took from the pools comes back.
pub fn slabs() -> Verdict {
    const HELD: usize = 200;
    let topology = machine::get().topology;
    let pools = memory::pools();
    let mut pages = 0;
    for node in topology.nodes().filter(|&node| pools.pool(node).is_some()) {
        home::shrink(node);
        let used = pools.counters(node).unwrap_or_default().used_pages();
        let before = home::slab_counters(node);
        let mut held = [0u64; HELD];
        for place in &mut held {
            *place = home::alloc_mapping_node(node).unwrap_or(0);
        }
        let full = home::slab_counters(node);
        check!(full.in_use() >= before.in_use() + HELD as u64, "{full:?} after {before:?}");
        check!(full.pages >= before.pages + HELD as u64 / 63, "{full:?} after {before:?}");
        held.into_iter().filter(|&at| at != 0).for_each(home::free_mapping_node);
        home::trim();
        home::shrink(node);
        let after = home::slab_counters(node);
        let same = after.in_use() == before.in_use() && after.pages == before.pages;
        check!(same, "node {node}: {after:?} after {before:?}");
        let now = pools.counters(node).unwrap_or_default().used_pages();
        check!(now == used, "node {node}: {now} pages in use after {used}");
        pages += full.pages;
    }
    seen!("{pages} pages")
}
