//! The mapping database: who has a frame from whom.

use core::fmt::{self, Write};

use kcore::mapdb::SpaceRef;
use kcore::mapdb::view::{self, Holder, Seen};
use kcore::types::PhysAddr;

use super::memory::word;
use crate::memory;
use crate::memory::frames;
use crate::space::env;

/// The tree of a frame.
pub fn tree(out: &mut impl Write, at: u64) -> fmt::Result {
    let phys = PhysAddr::new(at).page_base();
    let info = frames::info(phys);
    let what = match () {
        () if memory::is_pool(phys) => "the kernel's own",
        () if !info.usable => "nobody's to have",
        () if info.cache != 0 => "device registers",
        () => "memory",
    };
    writeln!(out, "frame {phys:#x}: {what}, node {}", info.node)?;
    let mut result = Ok(());
    let seen = view::tree(env::physical_top(), phys.as_u64(), &word, &mut |holder| {
        let line = show(out, &holder);
        result = result.and(line);
    });
    result?;
    match seen {
        Seen::All => Ok(()),
        Seen::Nobody => writeln!(out, "nobody ever had it"),
        Seen::Part => writeln!(out, "there is more than could be read"),
    }
}

fn show(out: &mut impl Write, h: &Holder) -> fmt::Result {
    let letter = |bits: u8, bit: u8, c: char| if bits & bit != 0 { c } else { '-' };
    let rights = |bits: u8| [letter(bits, 4, 'r'), letter(bits, 2, 'w'), letter(bits, 1, 'x')];
    write!(out, "  {:1$}", "", 2 * h.depth)?;
    match h.space {
        SpaceRef::PHYSICAL => out.write_str("physical memory")?,
        space => write!(out, "space {:#x} at {:#x}", space.0, h.va)?,
    }
    write!(out, " level {} ", h.level)?;
    rights(h.rights).into_iter().try_for_each(|c| out.write_char(c))?;
    out.write_str(" status ")?;
    rights(h.status).into_iter().try_for_each(|c| out.write_char(c))?;
    writeln!(out, " node {:#x}", h.node)
}
