//! Unmap (reference 4.9), in bounded steps.
//!
//! The call's progress lies in the caller's message registers: fpages that are done have been replaced by their
//! status. So after every fpage the call can be left for an interrupt and be resumed.

use core::ops::ControlFlow;

use kcore::mapdb::{FlushSet, Progress, Session, SpaceRef as DbSpace, UnmapOp};
use l4abi::control::UnmapControl;
use l4abi::fpage::{Fpage, FpageKind, Rights};

use crate::cross::shootdown;
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::env::{Kernel, name};
use crate::space::{self, io};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::utcb;

/// Entries and nodes per step.
const STEP: i32 = 256;

/// The system call.
pub fn syscall(_cpu: &PerCpu, me: TcbRef) -> Next {
    let control = UnmapControl::parse(me.reg(reg::RDX));
    let mut flush = FlushSet::new();
    for i in 0..control.count {
        let fpage = Fpage::from_raw(mr(me, i));
        if let ControlFlow::Continue(status) = unmap(me, fpage, control.flush, &mut flush) {
            set_mr(me, i, fpage.with_rights(Rights::from_bits_truncate(status)).raw());
        }
    }
    shootdown::flush(&mut flush);
    me.set_reg(reg::RDI, me.local_id.get());
    Next::Thread(me)
}

/// One fpage; answers the status bits, or breaks if there is nothing to say.
fn unmap(me: TcbRef, fpage: Fpage, flush_own: bool, flush: &mut FlushSet) -> ControlFlow<(), u8> {
    let Some(own) = me.space.get() else { return ControlFlow::Break(()) };
    if let FpageKind::Io(_) = fpage.kind() {
        io::unmap(own, fpage, flush_own);
        return ControlFlow::Continue(0);
    }
    let Some(region) = fpage.memory_region() else { return ControlFlow::Continue(0) };
    let source = if space::is_sigma0(me) { DbSpace::PHYSICAL } else { name(own) };
    let len = 1u64.checked_shl(u32::from(region.size_log2())).unwrap_or(0);
    let mut op = UnmapOp::new(source, region.base(), len, fpage.rights().bits(), flush_own);
    loop {
        let mut budget = STEP;
        let progress = op.step(&mut Session::new(&Kernel, flush), &mut budget);
        if progress == Progress::Done {
            return ControlFlow::Continue(op.status());
        }
        shootdown::flush(flush);
    }
}

fn mr(t: TcbRef, i: usize) -> u64 {
    if i < 8 { t.reg(reg::R9 + i) } else { utcb::mr(t, i) }
}

fn set_mr(t: TcbRef, i: usize, value: u64) {
    if i < 8 { t.set_reg(reg::R9 + i, value) } else { utcb::set_mr(t, i, value) }
}

/// Nothing of an Unmap outlives the call.
pub fn resume(_cpu: &PerCpu, t: TcbRef) -> Next {
    Next::Thread(t)
}
