//! The root task's own pages by node: for images, start pages and plain programs.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use l4abi::NodeId;
use libl4::{arch, sigma0};

/// Size of a page.
pub const PAGE: u64 = 4096;
/// log2 of what is taken from sigma0 at once.
const CHUNK_LOG2: u8 = 18;

/// Free pages by node, mapped one to one.
#[derive(Debug, Default)]
pub struct Memory {
    free: BTreeMap<u8, Vec<u64>>,
    used: usize,
}

impl Memory {
    /// A cleared page on `node`, or anywhere if that node has none. Returns its address.
    pub fn page(&mut self, node: NodeId) -> Option<u64> {
        let free = self.free.entry(node.0).or_default();
        if free.is_empty() {
            let chunk = sigma0::any_page_on(node, CHUNK_LOG2)
                .or_else(|_| sigma0::any_page(CHUNK_LOG2))
                .ok()?;
            free.extend((0..1 << (CHUNK_LOG2 - 12)).rev().map(|i| chunk + i * PAGE));
        }
        let page = free.pop()?;
        arch::clear_memory(page, PAGE);
        self.used += 1;
        Some(page)
    }

    /// Number of pages in use.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Takes pages back for `node`.
    pub fn give_back(&mut self, node: NodeId, pages: impl IntoIterator<Item = u64>) {
        let free = self.free.entry(node.0).or_default();
        let before = free.len();
        free.extend(pages);
        self.used -= free.len() - before;
    }

    /// A naturally aligned block of `node`, the largest there is from `2^most` down to `2^least`
    /// bytes. Returns address and log2 of the size.
    pub fn block(node: NodeId, most: u8, least: u8) -> Option<(u64, u8)> {
        (least..=most).rev().find_map(|log2| Some((sigma0::any_page_on(node, log2).ok()?, log2)))
    }
}
