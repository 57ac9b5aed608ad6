//! Unmap (reference 4.9), in bounded steps.
//!
//! The call's progress lies in the caller's message registers: fpages that are done have been replaced by their
//! status. So after every fpage the call can be left for an interrupt and be resumed.

use kcore::layout::PAGE_SIZE;
use kcore::mapdb::{FlushSet, Progress, Session, SpaceRef as DbSpace, UnmapOp};
use l4abi::control::UnmapControl;
use l4abi::fpage::{Fpage, FpageKind, Rights};

use crate::cross::shootdown;
use crate::sched::Next;
use crate::sched::percpu::PerCpu;
use crate::space::env::{Kernel, name};
use crate::space::io;
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::utcb;

/// Entries and nodes per step.
const STEP: i32 = 256;

/// Every node.
const ALL_NODES: u64 = u64::MAX;

/// log2 of the small page.
const SMALL: u8 = 12;

/// The system call. All its fpages are one stay in the database, flushed once.
#[inline(never)]
pub fn syscall(cpu: &PerCpu, me: TcbRef) -> Next {
    let control = UnmapControl::parse(me.reg(reg::RDX));
    let Some(own) = me.space.get() else { return Next::Schedule };
    let source = if own.is_sigma0() { DbSpace::PHYSICAL } else { name(own) };
    let mut flush = FlushSet::new();
    let mut session = Session::new(&Kernel, &mut flush);
    session.guess(cpu.map_hint.get());
    let mut budget = STEP;
    // Whether every page was found, so that only changes on the nodes of their frames matter.
    let mut found = true;
    for i in 0..control.count {
        let fpage = Fpage::from_raw(mr(me, i));
        let mut status = 0;
        crate::trace::unmap(me, fpage, control.flush);
        if fpage.size_field() == SMALL
            && fpage.rights() == Rights::RWX
            && let Some(short) =
                session.unmap_page(source, fpage.raw() & !(PAGE_SIZE - 1), control.flush)
        {
            status = short;
        } else if let FpageKind::Io(ports) = fpage.kind() {
            io::unmap(own, ports, control.flush);
        } else if let Some(region) = fpage.memory_region() {
            found = false;
            let len = 1u64.checked_shl(u32::from(region.size_log2())).unwrap_or(0);
            let rights = fpage.rights().bits();
            let mut op = UnmapOp::new(source, region.base(), len, rights, control.flush);
            while op.step(&mut session, &mut budget) == Progress::More {
                // The locks are let go of; what is to be forgotten waits for the end, announced as it is.
                drop(session);
                session = Session::new(&Kernel, &mut flush);
                budget = STEP;
            }
            status = op.status();
        }
        set_mr(me, i, fpage.with_rights(Rights::from_bits_truncate(status)).raw());
    }
    cpu.map_hint.set(session.hint());
    drop(session);
    let nodes = if found { shootdown::announced() } else { ALL_NODES };
    shootdown::flush(&mut flush);
    shootdown::wait_for_others(nodes);
    me.set_reg(reg::RDI, me.local_id.get());
    Next::Thread(me)
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
