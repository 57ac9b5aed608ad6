//! SpaceControl (reference 4.10): fixes the areas of a new space, sets its redirector.

use l4abi::error::ErrorCode;
use l4abi::fpage::{Fpage, Region};
use l4abi::id::ThreadId;
use l4abi::kip::KIP_AREA_MIN_LOG2;
use l4abi::syscall::SyscallNo;
use l4abi::utcb::UTCB_AREA_MIN_LOG2;

use kcore::ipc::Key;
use kcore::layout::USER_END;

use crate::arch::x86_64::tcb_area;
use crate::cross::{self, quarantine};
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::{self, SpaceRef};
use crate::thread::{self, tcb::TcbRef, tcb::reg};

/// The system call.
#[inline(never)]
pub fn syscall(cpu: &PerCpu, me: TcbRef) -> Next {
    let result = space_of(me).and_then(|space| {
        let done = control(cpu, me, space);
        space::left(cpu, space);
        done
    });
    if let Ok(Some(other)) = result {
        // Each thread's marks are its owner's to write: the call is repeated there, which changes nothing else.
        return cross::forward(cpu, me, other, SyscallNo::SpaceControl);
    }
    // There is no compatibility mode: old control is 0.
    me.set_reg(reg::RDX, 0);
    crate::syscall::set_result(me, result.map(|_| 1));
    Next::Thread(me)
}

/// The space that `me` names, with a reference to it: its last thread may be deleted on another CPU meanwhile.
fn space_of(me: TcbRef) -> Result<SpaceRef, ErrorCode> {
    if !thread::is_privileged(me) {
        return Err(ErrorCode::NoPrivilege);
    }
    let specifier = ThreadId::from_raw(me.reg(reg::RDI));
    if specifier.is_local() {
        return Err(ErrorCode::InvalidSpace);
    }
    space::hold(me, specifier.raw()).ok_or(ErrorCode::InvalidSpace)
}

/// Changes `space` as `me` asks. Answers a thread whose CPU has to go on with it, if there is one.
fn control(cpu: &PerCpu, me: TcbRef, space: SpaceRef) -> Result<Option<TcbRef>, ErrorCode> {
    let change = decode(me, space)?;
    let redirects = change.redirector.is_some();
    commit(space, change)?;
    Ok(if redirects { settle_threads(cpu, space) } else { None })
}

/// Marks the threads of `space` on this CPU according to its redirector. Answers one on another CPU that is not
/// marked so.
fn settle_threads(cpu: &PerCpu, space: SpaceRef) -> Option<TcbRef> {
    let wanted = space.redirector() != 0;
    let mut elsewhere = None;
    for t in tcb_area::present().filter_map(thread::present) {
        if t.space.get() != Some(space) || t.key().has(Key::REDIRECTED) == wanted {
            continue;
        }
        if t.key().cpu() == cpu.number() {
            space::settle_redirection(space, t);
            if t == cpu.current.get() {
                crate::sched::settle_expected(cpu, t);
            }
        } else {
            elsewhere = Some(t);
        }
    }
    elsewhere
}

/// Checked arguments.
struct Change {
    areas: Option<(Region, Region)>,
    redirector: Option<u64>,
}

fn decode(me: TcbRef, space: SpaceRef) -> Result<Change, ErrorCode> {
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
    Ok(Change { areas, redirector })
}

/// An area in user memory of at least 2^`smallest` bytes.
fn area(raw: u64, smallest: u8) -> Option<Region> {
    let region = Fpage::from_raw(raw).memory_region()?;
    (region.size_log2() >= smallest && region.last() < USER_END.as_u64()).then_some(region)
}

fn commit(space: SpaceRef, change: Change) -> Result<(), ErrorCode> {
    if let Some((kip, utcbs)) = change.areas {
        let map = || crate::kip::map_into(space, kip.base());
        let mapped = map() || quarantine::release() && map();
        if !mapped {
            return Err(ErrorCode::OutOfMemory);
        }
        space.initialise(kip, utcbs);
    }
    if let Some(id) = change.redirector {
        space.set_redirector(id);
    }
    Ok(())
}
