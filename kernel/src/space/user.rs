//! User memory as the kernel reaches it: by walking the space's tables in software, page by page, through the
//! copy window. A missing page is a value, never a fault.

#![expect(unsafe_code, reason = "page-table entries are pool words")]

use core::sync::atomic::{AtomicU64, Ordering};

use kcore::layout::{PAGE_SIZE, USER_END};
use kcore::types::PhysAddr;

use crate::arch::x86_64::copy_window;
use crate::space::Space;

/// The side whose page is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is read.
    Source,
    /// What is written.
    Target,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// The entry of `table` for `va` at `level` (1 = 4 KiB pages).
#[inline(always)]
fn entry(table: u64, va: u64, level: u32) -> &'static AtomicU64 {
    let index = va >> (12 + 9 * (level - 1)) & 511;
    let at = PhysAddr::new(table).window().as_u64() + index * 8;
    // SAFETY: `table` is the top table of a space or was found in a present entry above it, so it is a table in a
    // pool; tables are freed only after the space's CPUs were told, which this CPU answers between operations.
    unsafe { &*(at as *const AtomicU64) }
}

/// Physical address behind user address `va` if `needed` access bits are there; marks the page as used.
#[inline(always)]
fn translate(space: &Space, va: u64, needed: u64) -> Option<PhysAddr> {
    if va >= USER_END.as_u64() {
        return None;
    }
    let mut table = space.top().as_u64();
    macro_rules! table_at {
        ($level:literal) => {
            let word = entry(table, va, $level);
            let raw = word.load(Ordering::Relaxed);
            if raw & PRESENT == 0 {
                return None;
            }
            if $level < 4 && raw & LARGE != 0 {
                return in_page(word, raw, $level, va, needed);
            }
            table = raw & ADDRESS;
        };
    }
    table_at!(4);
    table_at!(3);
    table_at!(2);
    let word = entry(table, va, 1);
    in_page(word, word.load(Ordering::Relaxed), 1, va, needed)
}

/// The end of a walk: `raw` of the page entry `word` of `level`.
#[inline(always)]
fn in_page(word: &AtomicU64, raw: u64, level: u32, va: u64, needed: u64) -> Option<PhysAddr> {
    if raw & (needed | PRESENT) != needed | PRESENT {
        return None;
    }
    let mark = if needed & WRITABLE != 0 { ACCESSED | DIRTY } else { ACCESSED };
    if raw & mark != mark {
        word.fetch_or(mark, Ordering::Relaxed);
    }
    let low = (1u64 << (12 + 9 * (level - 1))) - 1;
    Some(PhysAddr::new(raw & ADDRESS & !low | va & low))
}

/// Physical address behind `va`, whatever the rights.
pub fn walk(space: &Space, va: u64) -> Option<PhysAddr> {
    translate(space, va, PRESENT)
}

/// Copies up to `wanted` bytes from one space to another, as far as one page on both sides goes. Answers how
/// many, at least one.
#[inline]
pub fn copy(from: &Space, source: u64, to: &Space, target: u64, wanted: u64) -> Result<u64, Side> {
    let left = |va: u64| PAGE_SIZE - (va & (PAGE_SIZE - 1));
    let length = wanted.min(left(source)).min(left(target));
    let frame = translate(from, source, PRESENT | USER).ok_or(Side::Source)?;
    let into = translate(to, target, PRESENT | USER | WRITABLE).ok_or(Side::Target)?;
    copy_window::copy(frame, into, length);
    Ok(length)
}

/// Whether the two bytes at `va` are `code`. False if a page is missing.
#[inline]
pub fn has_code(space: &Space, va: u64, code: [u8; 2]) -> bool {
    if va & (PAGE_SIZE - 1) == PAGE_SIZE - 1 {
        let mut found = [0; 2];
        return read(space, va, &mut found) && found == code;
    }
    translate(space, va, PRESENT | USER).is_some_and(|at| copy_window::read_pair(at) == code)
}

/// Reads `into.len()` bytes at `va`. False if a page is missing.
pub fn read(space: &Space, va: u64, into: &mut [u8]) -> bool {
    read_some(space, va, into) == into.len()
}

/// Reads bytes at `va` up to the first missing page; answers how many.
pub fn read_some(space: &Space, va: u64, into: &mut [u8]) -> usize {
    let mut done = 0;
    while done < into.len() {
        let at = va.wrapping_add(done as u64);
        let Some(frame) = translate(space, at, PRESENT | USER) else { break };
        let piece = (into.len() - done).min((PAGE_SIZE - frame.page_offset()) as usize);
        copy_window::read(frame, &mut into[done..done + piece]);
        done += piece;
    }
    done
}
