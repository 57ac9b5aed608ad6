//! The nodes' pools: taken from sigma0 once, mapped into all pagers, and unmapped from everybody when
//! the manifest says `unmap = "root"` (numa-l4 3.2.3, possibility 2).
//!
//! A pool is a run of frames in the pagers' view; behind it are one or more blocks of memory, the
//! largest first, so each lies at a multiple of its size in the run.

use crate::memory::{Memory, PAGE};
use alloc::vec::Vec;
use app_pager::ids::Frame;
use l4abi::{ErrorCode, Fpage, NodeId, Rights};
use libl4::msg::Writer;
use libl4::sync::Mutex;
use libl4::{arch, sys};

/// log2 of the size of a block, at least.
const LEAST_LOG2: u8 = 20;

/// A piece of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Where it starts in the pool.
    pub offset: u64,
    /// Its address in the root task.
    pub at: u64,
    /// log2 of its size.
    pub log2: u8,
}

/// The blocks of each node's pool.
static POOLS: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());

/// Takes the pool of the next node, at most `size` bytes, and clears it: pagers count on it that a
/// fresh frame is clean.
pub fn take(node: NodeId, size: u64) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut offset, mut most) = (0, size.ilog2() as u8);
    while offset < size {
        most = most.min((size - offset).ilog2() as u8);
        let Some((at, log2)) = Memory::block(node, most, LEAST_LOG2) else { break };
        arch::clear_memory(at, 1 << log2);
        // The clearing is not a task's writing: the status bits start from here.
        let _ = sys::unmap_one(Fpage::memory(at, log2, Rights::empty()), false);
        blocks.push(Block { offset, at, log2 });
        (offset, most) = (offset + (1 << log2), log2);
    }
    POOLS.lock().push(blocks.clone());
    blocks
}

/// Clears all pools. Nobody has them mapped any more.
pub fn clear() {
    for block in POOLS.lock().iter().flatten() {
        arch::clear_memory(block.at, 1 << block.log2);
        let _ = sys::unmap_one(Fpage::memory(block.at, block.log2, Rights::empty()), false);
    }
}

/// Where a frame is in the root task.
fn address(frame: Frame) -> Option<u64> {
    let offset = u64::from(frame.index) * PAGE;
    let pools = POOLS.lock();
    let blocks = pools.get(frame.node.index())?;
    let block = blocks.iter().find(|b| (b.offset..b.offset + (1 << b.log2)).contains(&offset))?;
    Some(block.at + offset - block.offset)
}

/// Unmaps frames from everybody, pagers included. Returns the status bits.
///
/// # Errors
/// One of them is no frame of a pool; nothing has changed then.
pub fn unmap(frames: &[Frame]) -> Result<Rights, ErrorCode> {
    let at: Option<Vec<u64>> = frames.iter().map(|&frame| address(frame)).collect();
    let at = at.ok_or(ErrorCode::InvalidParameter)?;
    let mut fpages: Vec<Fpage> =
        at.into_iter().map(|at| Fpage::memory(at, 12, Rights::RWX)).collect();
    sys::unmap(&mut fpages, false);
    Ok(fpages.iter().fold(Rights::empty(), |bits, fpage| bits.union(fpage.rights())))
}

/// Adds map items for frames that the receiver has lost in [`unmap`], at the addresses they had.
///
/// # Errors
/// As [`unmap`].
pub fn give_back(frames: &[Frame], message: &mut Writer<'_>) -> Result<(), ErrorCode> {
    for &frame in frames {
        let at = address(frame).ok_or(ErrorCode::InvalidParameter)?;
        let base = app_pager::layout::frame_address(frame);
        message.map(base, Fpage::memory(at, 12, Rights::RWX));
    }
    Ok(())
}
