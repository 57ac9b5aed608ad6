//! What the kernel's memory is used for, in numbers that programs can ask for (`l4abi::ext::MemoryCounter`).

use kcore::layout::MAX_NODES;
use kcore::types::NodeId;
use l4abi::ext::{MemoryCounter, NO_COUNTER};

use crate::cross::quarantine;
use crate::memory::{self, home};

/// The value of a counter of node `node`; [`NO_COUNTER`] if there is no such counter or the node has no pool.
pub fn read(node: u64, which: u64) -> u64 {
    let counter = u32::try_from(which).ok().and_then(MemoryCounter::from_raw);
    let Some(counter) = counter.filter(|_| node < MAX_NODES as u64) else { return NO_COUNTER };
    let node = NodeId::new(node as u8);
    if counter == MemoryCounter::Used {
        // What waits to be used again is not used.
        quarantine::release();
        home::trim();
    }
    let Some(pool) = memory::pools().counters(node) else { return NO_COUNTER };
    let slab = home::slab_counters(node);
    match counter {
        MemoryCounter::Total => pool.total_pages,
        MemoryCounter::Used => pool.used_pages(),
        MemoryCounter::Peak => pool.peak_pages,
        MemoryCounter::Allocations => pool.allocs,
        MemoryCounter::Frees => pool.frees,
        MemoryCounter::Failures => pool.failures,
        MemoryCounter::SlabPages => slab.pages,
        MemoryCounter::SlabObjects => slab.in_use(),
    }
}
