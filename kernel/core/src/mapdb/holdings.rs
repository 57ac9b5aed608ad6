//! Everything that a space's tables are made of: the tables, the pages in them and their mapping nodes, found from the top
//! table as a processor finds them. For checks of where things lie; nothing that is read is trusted.

use super::node::{ABROAD, INFO};
use super::pte;

/// A part of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A table and its shadow, at this address.
    Table(u64),
    /// A page.
    Page {
        /// Where, in the space.
        va: u64,
        /// 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.
        level: u8,
        /// What memory it is.
        frame: u64,
        /// Its mapping node; 0 for a page of the kernel's (KIP, UTCBs).
        node: u64,
        /// The node lies elsewhere than its space's, as granting can bring about.
        abroad: bool,
    },
}

/// Visits every part of the space whose top table is at `top`, each table before what is in it. `read` gives a word of a
/// table or node, or nothing if there is none at the address. The caller keeps the tables from being taken away;
/// entries may change meanwhile. False if something could not be read.
pub fn holdings(top: u64, read: &dyn Fn(u64) -> Option<u64>, visit: &mut dyn FnMut(Part)) -> bool {
    table(top, 4, 0, read, visit).is_some()
}

fn table(
    at: u64,
    level: u8,
    base: u64,
    read: &dyn Fn(u64) -> Option<u64>,
    visit: &mut dyn FnMut(Part),
) -> Option<()> {
    visit(Part::Table(at));
    // The user half of the top table.
    let entries = if level == 4 { 256 } else { 512 };
    for slot in 0..entries {
        let place = at + slot * 8;
        let entry = read(place)?;
        if entry & pte::P == 0 {
            continue;
        }
        let va = base + slot * pte::size(level);
        if level == 4 || !pte::is_page(entry, level) {
            table(entry & pte::ADDRESS, level - 1, va, read, visit)?;
            continue;
        }
        let node = read(place + pte::SHADOW)?;
        let info = if node == 0 { Some(0) } else { read(node + INFO) };
        // An entry that is being changed has no node, or another one now.
        if read(place)? & !(pte::A | pte::D) == entry & !(pte::A | pte::D)
            && read(place + pte::SHADOW)? == node
            && let Some(info) = info
        {
            let frame = pte::frame(entry, level);
            visit(Part::Page { va, level, frame, node, abroad: info & ABROAD != 0 });
        }
    }
    Some(())
}
