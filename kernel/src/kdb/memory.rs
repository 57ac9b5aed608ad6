//! Reading memory that may not be there.

use core::fmt::{self, Write};

use kcore::kdb::Thread;
use kcore::layout::{PAGE_SIZE, USER_END};
use kcore::mapdb::pte;
use kcore::types::PhysAddr;

use super::threads;
use crate::arch::x86_64::{copy_window, selftest};
use crate::memory::{self, frames};
use crate::space::Space;

/// A word of pool memory; none if `at` lies elsewhere.
pub fn word(at: u64) -> Option<u64> {
    let phys = PhysAddr::new(at);
    let inside = at.is_multiple_of(8) && memory::is_pool(phys);
    inside.then(|| selftest::peek(phys.window().as_u64())).flatten()
}

/// Where an address of a space leads, as the processor finds it.
#[derive(Clone, Copy)]
pub struct Place {
    /// The entry at the end: of a page, or one that is not present.
    pub entry: u64,
    /// Level of the table it is in.
    pub level: u8,
}

impl Place {
    /// Whether there is a page.
    pub fn is_page(self) -> bool {
        pte::is_page(self.entry, self.level)
    }

    /// The byte of memory behind `va`.
    pub fn phys(self, va: u64) -> u64 {
        pte::frame(self.entry, self.level) + (va & (pte::size(self.level) - 1))
    }
}

/// Walks to `va` from the table at `top`; `step` sees each table with its entry. None if a table is none.
pub fn walk(top: u64, va: u64, step: &mut dyn FnMut(u8, u64, u64)) -> Option<Place> {
    let mut table = top;
    for level in (1..=4).rev() {
        let entry = word(table + (va >> pte::bits(level) & 511) * 8)?;
        step(level, table, entry);
        let ends = level == 1 || (level < 4 && pte::is_page(entry, level));
        if entry & pte::P == 0 || ends {
            return Some(Place { entry, level });
        }
        table = entry & pte::ADDRESS;
    }
    None
}

/// Bytes of user memory from `va` on, as far as there are any; device registers are not read.
pub fn read_user(space: &Space, va: u64, into: &mut [u8]) -> usize {
    let mut done = 0;
    while done < into.len() {
        let at = va.wrapping_add(done as u64);
        if at >= USER_END.as_u64() {
            break;
        }
        let place = walk(space.top().as_u64(), at, &mut |_, _, _| {}).filter(|p| p.is_page());
        let Some(phys) = place.map(|p| PhysAddr::new(p.phys(at))) else { break };
        let info = frames::info(phys);
        if !memory::is_pool(phys) && (!info.usable || info.cache != 0) {
            break;
        }
        let piece = (into.len() - done).min((PAGE_SIZE - phys.page_offset()) as usize);
        copy_window::read(phys, &mut into[done..done + piece]);
        done += piece;
    }
    done
}

/// Bytes of a thread's space.
pub fn dump_space(out: &mut impl Write, t: Thread, at: u64, count: u64) -> fmt::Result {
    let Some(space) = threads::space_of(out, t)? else { return Ok(()) };
    dump(out, at, count, |at, line| read_user(space, at, line))
}

/// Bytes of the kernel. Reading device registers may have effects; whoever asks for their address wants that.
pub fn dump_kernel(out: &mut impl Write, at: u64, count: u64) -> fmt::Result {
    dump(out, at, count, |at, line| {
        let mut done = 0;
        while done < line.len() {
            // The word around the byte, so that no read crosses into a page that is not there.
            let byte = at.wrapping_add(done as u64);
            let Some(word) = selftest::peek(byte & !7) else { break };
            line[done] = word.to_le_bytes()[(byte & 7) as usize];
            done += 1;
        }
        done
    })
}

fn dump(
    out: &mut impl Write,
    start: u64,
    count: u64,
    read: impl Fn(u64, &mut [u8]) -> usize,
) -> fmt::Result {
    const ACROSS: u64 = 16;
    let mut done = 0;
    while done < count {
        let at = start.wrapping_add(done);
        let mut line = [0; ACROSS as usize];
        let wanted = (count - done).min(ACROSS) as usize;
        let there = read(at, &mut line[..wanted]);
        write!(out, "{at:#018x} ")?;
        line[..there].iter().try_for_each(|byte| write!(out, " {byte:02x}"))?;
        if there < wanted {
            return writeln!(out, " nothing there");
        }
        out.write_str("  ")?;
        for &byte in &line[..there] {
            out.write_char(if (32..127).contains(&byte) { byte as char } else { '.' })?;
        }
        out.write_char('\n')?;
        done += ACROSS;
    }
    Ok(())
}
