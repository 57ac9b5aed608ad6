//! MemoryControl (reference 4.12): cache attributes of pages, through the page attribute table.
//!
//! A privileged thread changes the attribute of pages that its own space holds, and of everything derived from them;
//! what is mapped on later inherits it. sigma0 changes physical memory itself, so it can do so before it hands a
//! page out. All fpages and attributes are checked before anything changes.

use kcore::mapdb::{AttributeOp, FlushSet, Progress, Session, SpaceRef as DbSpace};
use l4abi::control::CacheAttribute;
use l4abi::error::ErrorCode;
use l4abi::fpage::{Fpage, FpageKind};

use crate::arch::x86_64::regs;
use crate::cross::shootdown;
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::env::{Kernel, name};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::utcb;
use crate::{syscall, thread};

/// Entries and nodes per step.
const STEP: i32 = 256;
/// Bits of an fpage that select an attribute.
const SELECTOR: u64 = 3;

/// The system call: privileged.
#[inline(never)]
pub fn syscall(_cpu: &PerCpu, me: TcbRef) -> Next {
    let result = match thread::is_privileged(me) {
        true => change_all(me),
        false => Err(ErrorCode::NoPrivilege),
    };
    syscall::set_result(me, result.map(|()| 1));
    me.set_reg(reg::RDX, me.reg(reg::RAX));
    me.set_reg(reg::RDI, me.local_id.get());
    Next::Thread(core::hint::black_box(me))
}

fn change_all(me: TcbRef) -> Result<(), ErrorCode> {
    let count = (me.reg(reg::RDX) & 0x3F) as usize + 1;
    for i in 0..count {
        let ports = matches!(fpage(me, i).kind(), FpageKind::Io(_));
        if ports || attribute(me, i).is_none() {
            return Err(ErrorCode::InvalidParameter);
        }
    }
    let mut result = Ok(());
    for i in 0..count {
        if let Some(cache) = attribute(me, i)
            && !change(me, fpage(me, i), cache)
        {
            result = Err(ErrorCode::OutOfMemory);
        }
    }
    // No CPU has an old translation any more; what was written under the old attribute goes to memory (SDM 3A 12.12.4).
    shootdown::write_back_caches();
    result
}

/// Fpage `i`. The first message register is taken from memory: the interface has another use for its register.
fn fpage(me: TcbRef, i: usize) -> Fpage {
    let word = match i {
        0 => utcb::mr(me, 0),
        1..8 => me.reg(reg::R9 + i),
        _ => utcb::mr(me, i),
    };
    Fpage::from_raw(word)
}

/// The page-table attribute that fpage `i` selects; none: there is no such attribute. The stub moved what SYSCALL takes:
/// attribute 0 from RCX to RDI, attribute 3 from R11 to RBP.
fn attribute(me: TcbRef, i: usize) -> Option<Option<u8>> {
    const ATTRIBUTES: [usize; 4] = [reg::RDI, reg::RSI, reg::R8, reg::RBP];
    let selected = me.reg(ATTRIBUTES[(fpage(me, i).raw() & SELECTOR) as usize]);
    Some(match CacheAttribute::from_raw(selected)? {
        CacheAttribute::Default => None,
        CacheAttribute::Uncacheable => Some(regs::UNCACHED),
        CacheAttribute::WriteCombining => Some(regs::WRITE_COMBINING),
        CacheAttribute::WriteThrough => Some(regs::WRITE_THROUGH),
        CacheAttribute::WriteBack => Some(regs::WRITE_BACK),
    })
}

/// Changes one fpage, in bounded steps; the translations are flushed between them. False if memory ran out: then some
/// pages kept their attribute.
fn change(me: TcbRef, fpage: Fpage, cache: Option<u8>) -> bool {
    let (Some(region), Some(own)) = (fpage.memory_region(), me.space.get()) else { return true };
    let space = if own.is_sigma0() { DbSpace::PHYSICAL } else { name(own) };
    let len = 1u64.checked_shl(u32::from(region.size_log2())).unwrap_or(0);
    let mut op = AttributeOp::new(space, region.base(), len, cache);
    let mut complete = true;
    loop {
        let mut flush = FlushSet::new();
        let mut budget = STEP;
        let progress = op.step(&mut Session::new(&Kernel, &mut flush), &mut budget);
        shootdown::flush(&mut flush);
        match progress {
            Ok(Progress::Done) => return complete,
            Ok(Progress::More) => {}
            Err(_) => complete = false,
        }
    }
}
