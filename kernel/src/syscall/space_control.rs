//! SpaceControl (reference 4.10): fixes the areas of a new space, sets its redirector.

use l4abi::error::ErrorCode;
use l4abi::fpage::{Fpage, Region};
use l4abi::id::ThreadId;
use l4abi::kip::KIP_AREA_MIN_LOG2;
use l4abi::utcb::UTCB_AREA_MIN_LOG2;

use kcore::layout::USER_END;

use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::SpaceRef;
use crate::thread::{self, tcb::TcbRef, tcb::reg};

/// The system call.
pub fn syscall(_cpu: &PerCpu, me: TcbRef) -> Next {
    let result = decode(me).and_then(commit);
    // There is no compatibility mode: old control is 0.
    me.set_reg(reg::RDX, 0);
    crate::syscall::set_result(me, result.map(|()| 1));
    Next::Thread(me)
}

/// Checked arguments.
struct Change {
    space: SpaceRef,
    areas: Option<(Region, Region)>,
    redirector: Option<u64>,
}

fn decode(me: TcbRef) -> Result<Change, ErrorCode> {
    if !thread::is_privileged(me) {
        return Err(ErrorCode::NoPrivilege);
    }
    let specifier = ThreadId::from_raw(me.reg(reg::RDI));
    if specifier.is_local() {
        return Err(ErrorCode::InvalidSpace);
    }
    let space = thread::lookup(specifier.raw())
        .and_then(|t| t.space.get())
        .ok_or(ErrorCode::InvalidSpace)?;
    let areas = if space.is_initialised() {
        None
    } else {
        let kip = area(me.reg(reg::RDX), crate::kip::area_log2().max(KIP_AREA_MIN_LOG2));
        let utcbs = area(me.reg(reg::R8), UTCB_AREA_MIN_LOG2).ok_or(ErrorCode::UtcbArea)?;
        let kip = kip.filter(|k| !k.overlaps(utcbs)).ok_or(ErrorCode::KipArea)?;
        Some((kip, utcbs))
    };
    let redirector = match ThreadId::from_raw(me.reg(reg::R9)) {
        id if id.is_nil() => None,
        id if id.is_any() => Some(0),
        id => Some(thread::resolve(me, id.raw()).ok_or(ErrorCode::InvalidThread)?.id.get()),
    };
    Ok(Change { space, areas, redirector })
}

/// An area in user memory of at least 2^`smallest` bytes.
fn area(raw: u64, smallest: u8) -> Option<Region> {
    let region = Fpage::from_raw(raw).memory_region()?;
    (region.size_log2() >= smallest && region.last() < USER_END.as_u64()).then_some(region)
}

fn commit(change: Change) -> Result<(), ErrorCode> {
    if let Some((kip, utcbs)) = change.areas {
        if !crate::kip::map_into(change.space, kip.base()) {
            return Err(ErrorCode::OutOfMemory);
        }
        change.space.initialise(kip, utcbs);
    }
    if let Some(id) = change.redirector {
        change.space.set_redirector(id);
    }
    Ok(())
}
