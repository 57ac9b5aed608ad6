//! I/O fpages: handing ports on and taking them back (ref 1.3, 4.9, 6.2).

use super::paged_by_runner;
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Puppet, TestResult};
use crate::{check, check_eq, need, tests};
use core::sync::atomic::{AtomicU16, Ordering};
use l4abi::proto::IoFault;
use libl4::{Fpage, IpcCode, MsgTag, sys};

tests! {
    io_unmap_revokes, OtherSpace, "ports that the mapper unmaps are closed for the receiver at once, others stay open";
    io_unmap_revokes_recursively, OtherSpace, "unmapping ports takes them from those they were handed on to";
    io_flush_gives_up, OtherSpace, "flush closes ports for the space itself and for those below it";
    io_window, OtherSpace, "ports arrive only through a receive window for ports; without any window the message fails";
    io_deletion_revokes, OtherSpace, "what a deleted space handed on is taken back";
}

/// Ports that no device of the emulated machine answers on. sigma0 gives a port to one thread ever, and each test
/// runs in a thread of its own: every run takes the next ports.
static NEXT: AtomicU16 = AtomicU16::new(0x9000);
/// log2 of their number.
const PORTS_LOG2: u8 = 4;

/// Fresh ports from sigma0.
fn fresh() -> TestResult<u16> {
    let base = NEXT.fetch_add(1 << PORTS_LOG2, Ordering::Relaxed);
    need!(libl4::sigma0::io_ports(base, PORTS_LOG2));
    Ok(base)
}

fn ports(base: u16) -> Fpage {
    Fpage::io(base, PORTS_LOG2)
}

/// Sends `ports` to `partner`, which receives from the runner with `window`.
fn hand(ctx: &Ctx, partner: &Puppet, base: u16, window: u64) -> TestResult<Option<IpcCode>> {
    partner.start_ipc(&IpcCmd::receive(ctx.me()).brs(&[window]))?;
    let item = l4abi::item::map_item(0, ports(base));
    let sent = ctx.ipc(&IpcCmd::send(partner.id).message(MsgTag::new(1, 0, 2), &item));
    partner.finish()?;
    Ok(sent.ipc_error().map(|e| e.code))
}

/// The complete I/O space as window.
const ALL_PORTS: u64 = 0x4020;

fn holder(ctx: &mut Ctx) -> TestResult<(Puppet, u16)> {
    let base = fresh()?;
    let partner = paged_by_runner(ctx)?;
    check_eq!(hand(ctx, &partner, base, ALL_PORTS)?, None);
    check_open(&partner, base)?;
    Ok((partner, base))
}

fn check_open(puppet: &Puppet, port: u16) -> TestResult {
    puppet.run(Op::PortIn, &[u64::from(port)])?;
    Ok(())
}

/// The puppet, whose pager the runner is, faults on the port.
fn check_closed(ctx: &Ctx, puppet: &Puppet, port: u16) -> TestResult {
    puppet.start(Op::PortIn, &[u64::from(port)])?;
    let got = ctx.ipc(&IpcCmd::receive(puppet.id));
    check!(!got.tag.is_error(), "no fault on {port:#x}: {:?}", got.ipc_error());
    let fault = IoFault::parse(got.tag, got.mr[1], got.mr[2]);
    let kind = fault.map(|f| f.ports.kind());
    check_eq!(kind, Some(Fpage::io(port, 0).kind()), "fault");
    Ok(())
}

fn io_unmap_revokes(ctx: &mut Ctx) -> TestResult {
    let (partner, base) = holder(ctx)?;
    sys::unmap_one(Fpage::io(base + 4, 2), false);
    check_open(&partner, base + 3)?;
    check_open(&partner, base + 8)?;
    check_closed(ctx, &partner, base + 5)
}

/// A second space that has the ports from the first.
fn second(ctx: &mut Ctx, first: &Puppet, base: u16) -> TestResult<Puppet> {
    let other = paged_by_runner(ctx)?;
    other.start_ipc(&IpcCmd::receive(first.id).brs(&[ALL_PORTS]))?;
    let item = l4abi::item::map_item(0, ports(base));
    first.start_ipc(&IpcCmd::send(other.id).message(MsgTag::new(1, 0, 2), &item))?;
    check!(!first.finish()?.tag.is_error(), "sending the ports on");
    check!(!other.finish()?.tag.is_error(), "receiving the ports");
    check_open(&other, base)?;
    Ok(other)
}

fn io_unmap_revokes_recursively(ctx: &mut Ctx) -> TestResult {
    let (first, base) = holder(ctx)?;
    let other = second(ctx, &first, base)?;
    sys::unmap_one(Fpage::io(base, 0), false);
    check_open(&other, base + 1)?;
    check_closed(ctx, &other, base)?;
    check_closed(ctx, &first, base)
}

fn io_flush_gives_up(ctx: &mut Ctx) -> TestResult {
    let (first, base) = holder(ctx)?;
    let other = second(ctx, &first, base)?;
    // MR0 of the puppet is what it unmaps.
    first.set_mrs(&[Fpage::io(base, 2).raw()]);
    first.run(Op::Unmap, &[1 << 6])?;
    check_open(&first, base + 4)?;
    check_open(&other, base + 4)?;
    check_closed(ctx, &other, base + 1)?;
    check_closed(ctx, &first, base + 2)
}

fn io_window(ctx: &mut Ctx) -> TestResult {
    let base = fresh()?;
    let partner = paged_by_runner(ctx)?;
    check_eq!(hand(ctx, &partner, base, 0)?, Some(IpcCode::Overflow), "no window");
    let memory = Fpage::memory(0x4000_0000, 20, libl4::Rights::empty());
    check_eq!(hand(ctx, &partner, base, memory.raw())?, None, "a window for memory");
    check_eq!(hand(ctx, &partner, base, Fpage::io(base, 1).raw() & !0xF)?, None, "two ports");
    check_open(&partner, base + 1)?;
    check_closed(ctx, &partner, base + 2)
}

fn io_deletion_revokes(ctx: &mut Ctx) -> TestResult {
    let (first, base) = holder(ctx)?;
    let other = second(ctx, &first, base)?;
    need!(libl4::thread::delete(first.id));
    check_closed(ctx, &other, base + 7)
}
