//! Looks at every mapping that this CPU's tables contain.

use kcore::layout::{PAGE_SIZE, TABLE_ENTRIES};
use kcore::paging::{ADDRESS, Flags};
use kcore::types::{PhysAddr, VirtAddr};

use crate::arch::x86_64::regs;
use crate::arch::x86_64::selftest::{Leaf, pool_bytes};

/// What a look at the tables tells of.
pub enum Found {
    /// A table and what an entry of it maps (4 = the root).
    Table(PhysAddr),
    /// A page.
    Leaf(Leaf),
    /// A table outside the pools, which cannot be looked into.
    Foreign(PhysAddr),
}

/// Tells `visit` of everything that the root table in CR3 leads to, depth first; it may stop the walk.
pub fn visit<E>(visit: &mut dyn FnMut(Found) -> Result<(), E>) -> Result<(), E> {
    let all = Flags::WRITABLE | Flags::USER_ACCESSIBLE;
    table(regs::cr3(), 4, 0, all, visit)
}

fn table<E>(
    at: PhysAddr,
    level: u32,
    base: u64,
    allowed: Flags,
    visit: &mut dyn FnMut(Found) -> Result<(), E>,
) -> Result<(), E> {
    let Some(bytes) = pool_bytes(at, PAGE_SIZE) else { return visit(Found::Foreign(at)) };
    visit(Found::Table(at))?;
    let shift = 12 + 9 * (level - 1);
    for (index, raw) in bytes.chunks_exact(8).take(TABLE_ENTRIES).enumerate() {
        let bits = raw.try_into().map_or(0, u64::from_le_bytes);
        let flags = Flags::from_bits_truncate(bits);
        if !flags.contains(Flags::PRESENT) {
            continue;
        }
        let mut virt = base | (index as u64) << shift;
        if level == 4 && index >= TABLE_ENTRIES / 2 {
            virt |= 0xffff_0000_0000_0000;
        }
        let restricting = Flags::WRITABLE | Flags::USER_ACCESSIBLE;
        // Allowed by all levels; forbidden to execute by any.
        let here = (flags.difference(restricting) | flags & restricting & allowed)
            | allowed & Flags::NO_EXECUTE;
        if level > 1 && !flags.contains(Flags::HUGE_PAGE) {
            let next = PhysAddr::new(bits & ADDRESS);
            table(next, level - 1, virt, here & (restricting | Flags::NO_EXECUTE), visit)?;
            continue;
        }
        let size = 1 << shift;
        visit(Found::Leaf(Leaf {
            virt: VirtAddr::new(virt),
            phys: PhysAddr::new(bits & ADDRESS & !(size - 1)),
            size,
            flags: here,
        }))?;
    }
    Ok(())
}
