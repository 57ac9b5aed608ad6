//! Mapping nodes: one per page that a space holds, 64 bytes, in the memory of that space's home
//! node (numa-l4 3.3.3).
//!
//! ```text
//!  0 PARENT   node of the page this one was mapped from; 0: comes from physical memory
//!  8 CHILD    first child of the same page size
//! 16 INDEX    index page of smaller children, with their number of used slots in the low bits
//! 24 NEXT     next sibling
//! 32 PPREV    address of the word that points to this node
//! 40 SPACE    the space the page is mapped in
//! 48 INFO     pins(63..48) virtual page(47..12) status, flags, level(11..0)
//! 56 WHERE    address of the page-table entry; of a broken node: frame and live 4 KiB pages
//! ```
//!
//! A *broken* node is no longer (one) entry of a page table: a large page whose table entry was
//! split, or (live = 0: *hollow*) a page that is gone from the tables while the node still has
//! children or is pinned. A hollow node without children and pins is disposed of at once by
//! whoever takes the last one away.
//!
//! A node of 2 MiB keeps its 4 KiB children in an index page, one list per frame. A node of 1 GiB
//! has a pair of pages: lists of 2 MiB children, and pointers to index pages of 4 KiB children.
//! Slots are found by physical address bits, because pages are naturally aligned.

use super::env::{Env, SpaceRef};
use super::pte;
use crate::types::NodeId;

pub const PARENT: u64 = 0;
pub const CHILD: u64 = 8;
pub const INDEX: u64 = 16;
pub const NEXT: u64 = 24;
pub const PPREV: u64 = 32;
pub const SPACE: u64 = 40;
pub const INFO: u64 = 48;
pub const WHERE: u64 = 56;

/// Bits of INFO.
pub const LEVEL: u64 = 3;
/// WHERE is not the address of an entry (see the module head).
pub const BROKEN: u64 = 1 << 2;
/// The node hangs in an index slot of a parent with larger pages.
pub const MIXED: u64 = 1 << 3;
/// Status of descendants that no longer carry it, not yet read by this node's space.
pub const DUE: u32 = 4;
/// Status that this node's space has read and its ancestors have not.
pub const SEEN: u32 = 7;
const VA: u64 = 0x0000_FFFF_FFFF_F000;
const PIN_ONE: u64 = 1 << 48;
const PINS: u64 = 0xFFFF << 48;

/// Low bits of INDEX and of a pointer to an index page: slots in use.
pub const COUNT: u64 = 0xFFF;

pub fn level(info: u64) -> u8 {
    (info & LEVEL) as u8
}

pub fn va(info: u64) -> u64 {
    info & VA
}

/// The node does not lie on the home node of its space: it was granted with its children.
pub const ABROAD: u64 = 1 << 10;

/// Status bits that wait in the node itself.
pub fn waiting(info: u64) -> u8 {
    ((info >> DUE | info >> SEEN) & 7) as u8
}

pub fn due(info: u64) -> u8 {
    (info >> DUE & 7) as u8
}

pub fn pinned(info: u64) -> bool {
    info & PINS != 0
}

/// Forgets the status bits that wait in the node.
pub const NOT_WAITING: u64 = !(7 << DUE | 7 << SEEN);

/// Live 4 KiB pages in WHERE of a broken node.
pub fn live_mask(level: u8) -> u64 {
    if level == 1 { 0xFFF } else { 0x1F_FFFF }
}

/// WHERE of a broken node.
pub fn broken(frame: u64, pages: u64) -> u64 {
    frame | pages
}

/// Live 4 KiB pages of a broken node.
pub fn live<E: Env>(env: &E, node: u64, info: u64) -> u64 {
    env.read(node + WHERE) & live_mask(level(info))
}

/// First byte of the memory that the node stands for.
pub fn frame<E: Env>(env: &E, node: u64, info: u64) -> u64 {
    let place = env.read(node + WHERE);
    if info & BROKEN != 0 {
        place & !live_mask(level(info))
    } else {
        pte::frame(env.read(place), level(info))
    }
}

/// Whether the node has neither pages nor children nor pins.
pub fn is_dead<E: Env>(env: &E, node: u64, info: u64) -> bool {
    info & BROKEN != 0
        && !pinned(info)
        && live(env, node, info) == 0
        && env.read(node + CHILD) == 0
        && env.read(node + INDEX) == 0
}

/// Adds a pin: the node stays where it is in the tree until it is unpinned. False if there are
/// too many.
pub fn pin<E: Env>(env: &E, node: u64) -> bool {
    let info = env.read(node + INFO);
    if info & PINS == PINS {
        return false;
    }
    env.write(node + INFO, info + PIN_ONE);
    true
}

pub fn unpin<E: Env>(env: &E, node: u64) {
    let info = env.read(node + INFO);
    env.write(node + INFO, info - PIN_ONE);
}

/// What a new node says of itself.
#[derive(Clone, Copy)]
pub struct Fresh {
    pub space: SpaceRef,
    pub va: u64,
    pub level: u8,
    pub entry: u64,
}

/// Fills a node and links it below `parent` at `head` (from [`child_head`]); the memory it stands
/// for starts at `frame`.
#[inline]
pub fn init<E: Env>(
    env: &E,
    node: u64,
    (parent, mixed): (u64, bool),
    head: u64,
    frame: u64,
    fresh: Fresh,
) {
    env.write(node + PARENT, parent);
    env.write(node + CHILD, 0);
    env.write(node + INDEX, 0);
    env.write(node + SPACE, fresh.space.0);
    let flag = if mixed { MIXED } else { 0 };
    env.write(node + INFO, fresh.va | flag | fresh.level as u64);
    env.write(node + WHERE, fresh.entry);
    let next = env.read(head);
    env.write(node + NEXT, next);
    env.write(node + PPREV, head);
    env.write(head, node);
    if next != 0 {
        env.write(next + PPREV, node + NEXT);
    } else if mixed {
        enter_slot(env, parent, fresh.level, frame);
    }
}

/// Fills a node that has no parent: memory as it comes from the machine.
pub fn init_root<E: Env>(env: &E, node: u64, fresh: Fresh) {
    for field in [PARENT, CHILD, INDEX, NEXT, PPREV] {
        env.write(node + field, 0);
    }
    env.write(node + SPACE, fresh.space.0);
    env.write(node + INFO, fresh.va | fresh.level as u64);
    env.write(node + WHERE, fresh.entry);
}

/// Counts a slot of an index page of `parent` that has become used.
#[inline(never)]
fn enter_slot<E: Env>(env: &E, parent: u64, child_level: u8, frame: u64) {
    let word = env.read(parent + INDEX);
    let counter = if level(env.read(parent + INFO)) == 3 && child_level == 1 {
        sub_pointer(word & !COUNT, frame)
    } else {
        parent + INDEX
    };
    env.write(counter, env.read(counter) + 1);
}

/// Puts `node` into the place of `old` in the tree (same parent, same list); `old` is out of it.
pub fn replace<E: Env>(env: &E, old: u64, node: u64, fresh: Fresh) {
    let info = env.read(old + INFO);
    let next = env.read(old + NEXT);
    let pprev = env.read(old + PPREV);
    env.write(node + PARENT, env.read(old + PARENT));
    env.write(node + CHILD, 0);
    env.write(node + INDEX, 0);
    env.write(node + NEXT, next);
    env.write(node + PPREV, pprev);
    env.write(node + SPACE, fresh.space.0);
    let kept = info & (MIXED | !NOT_WAITING);
    env.write(node + INFO, fresh.va | kept | fresh.level as u64);
    env.write(node + WHERE, fresh.entry);
    env.write(pprev, node);
    if next != 0 {
        env.write(next + PPREV, node + NEXT);
    }
}

fn sub_pointer(index: u64, frame: u64) -> u64 {
    index + pte::SHADOW + (frame >> 21 & 511) * 8
}

/// Head of the list for a child of `child_level` at `frame` below `parent`. Index pages are made
/// as needed; `None` if there is no memory (then nothing has changed).
#[inline]
pub fn child_head<E: Env>(
    env: &E,
    parent: u64,
    parent_level: u8,
    child_level: u8,
    frame: u64,
    home: impl Fn() -> NodeId,
) -> Option<u64> {
    if parent_level == child_level {
        return Some(parent + CHILD);
    }
    index_head(env, parent, parent_level, child_level, frame, home())
}

#[inline(never)]
fn index_head<E: Env>(
    env: &E,
    parent: u64,
    parent_level: u8,
    child_level: u8,
    frame: u64,
    home: NodeId,
) -> Option<u64> {
    let mut index = env.read(parent + INDEX) & !COUNT;
    let fresh = index == 0;
    if fresh {
        index = env.alloc_index(home, parent_level == 3)?;
    }
    let head = if parent_level == 2 || child_level == 2 {
        index + (frame >> pte::bits(child_level) & 511) * 8
    } else {
        let pointer = sub_pointer(index, frame);
        let mut sub = env.read(pointer) & !COUNT;
        if sub == 0 {
            let Some(page) = env.alloc_index(home, false) else {
                if fresh {
                    env.free_index(index, true);
                }
                return None;
            };
            sub = page;
            env.write(pointer, sub);
            // The pointer itself is a used slot of the pair.
            let count = if fresh { 0 } else { env.read(parent + INDEX) & COUNT };
            env.write(parent + INDEX, index | (count + 1));
            return Some(sub + (frame >> 12 & 511) * 8);
        }
        sub + (frame >> 12 & 511) * 8
    };
    if fresh {
        env.write(parent + INDEX, index);
    }
    Some(head)
}

/// Takes the node, which stands for memory at `frame`, out of its list.
#[inline]
pub fn unlink<E: Env>(env: &E, node: u64, info: u64, frame: u64) {
    let next = env.read(node + NEXT);
    let pprev = env.read(node + PPREV);
    if pprev == 0 {
        return; // A root: physical memory has no list of them.
    }
    env.write(pprev, next);
    if next != 0 {
        env.write(next + PPREV, pprev);
    } else if info & MIXED != 0 {
        leave_slot(env, env.read(node + PARENT), level(info), frame, pprev);
    }
}

/// The last node of a list is gone: was the list an index slot, and is its page empty now?
#[inline(never)]
fn leave_slot<E: Env>(env: &E, parent: u64, child_level: u8, frame: u64, pprev: u64) {
    let parent_level = level(env.read(parent + INFO));
    let word = env.read(parent + INDEX);
    let index = word & !COUNT;
    if parent_level == 2 || child_level == 2 {
        if pprev != index + (frame >> pte::bits(child_level) & 511) * 8 {
            return; // Another node comes before.
        }
    } else {
        let pointer = sub_pointer(index, frame);
        let sub = env.read(pointer);
        if pprev != (sub & !COUNT) + (frame >> 12 & 511) * 8 {
            return;
        }
        env.write(pointer, sub - 1);
        if (sub - 1) & COUNT != 0 {
            return;
        }
        env.write(pointer, 0);
        env.free_index(sub & !COUNT, false);
    }
    if (word - 1) & COUNT != 0 {
        env.write(parent + INDEX, word - 1);
    } else {
        env.write(parent + INDEX, 0);
        env.free_index(index, parent_level == 3);
    }
}

/// First child of `parent` that shares memory with `[lo, hi)`; 0 if there is none.
#[inline]
pub fn first_child<E: Env>(env: &E, parent: u64, lo: u64, hi: u64) -> u64 {
    let child = env.read(parent + CHILD);
    if child != 0 || env.read(parent + INDEX) == 0 {
        return child;
    }
    smaller_child(env, parent, lo, lo, hi, false)
}

/// The child of `parent` after `child` (same order as [`first_child`]); 0 if there is none.
#[inline]
pub fn next_child<E: Env>(env: &E, parent: u64, child: u64, lo: u64, hi: u64) -> u64 {
    let next = env.read(child + NEXT);
    if next != 0 || env.read(parent + INDEX) == 0 {
        return next;
    }
    let info = env.read(child + INFO);
    if info & MIXED == 0 {
        return smaller_child(env, parent, lo, lo, hi, false);
    }
    let at = frame(env, child, info);
    if level(info) == 2 {
        smaller_child(env, parent, at.max(lo), lo, hi, true)
    } else {
        let after = at + 4096;
        smaller_child(env, parent, after, lo, hi, after & (pte::size(2) - 1) != 0)
    }
}

/// First child in an index slot of `parent` at or after `from`; `skip_list` leaves out the list
/// of 2 MiB children that `from` lies in.
#[inline(never)]
fn smaller_child<E: Env>(
    env: &E,
    parent: u64,
    from: u64,
    lo: u64,
    hi: u64,
    skip_list: bool,
) -> u64 {
    let index = env.read(parent + INDEX) & !COUNT;
    let info = env.read(parent + INFO);
    let size = pte::size(level(info));
    let base = frame(env, parent, info);
    let mut at = from.max(lo).max(base);
    let end = hi.min(base + size);
    if level(info) == 2 {
        return scan(env, index, at, end);
    }
    let mut skip = skip_list;
    while at < end {
        let slot = (at >> 21 & 511) * 8;
        if !skip {
            let node = env.read(index + slot);
            if node != 0 {
                return node;
            }
        }
        skip = false;
        let boundary = (at | (pte::size(2) - 1)) + 1;
        let sub = env.read(index + pte::SHADOW + slot) & !COUNT;
        if sub != 0 {
            let node = scan(env, sub, at, end.min(boundary));
            if node != 0 {
                return node;
            }
        }
        at = boundary;
    }
    0
}

/// First node in the slots of an index page of 4 KiB children for `[at, end)`.
fn scan<E: Env>(env: &E, page: u64, at: u64, end: u64) -> u64 {
    let mut at = at;
    while at < end {
        let node = env.read(page + (at >> 12 & 511) * 8);
        if node != 0 {
            return node;
        }
        at += 4096;
    }
    0
}
