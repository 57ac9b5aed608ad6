//! Map, grant, unmap and cache attributes (ref 1.2, 4.9, 4.12, 5.6).

mod attributes;
mod grant;
mod map;
mod unmap;

use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, Test, TestResult, arena};
use crate::{check, check_eq};
use libl4::{Acceptor, Fpage, MsgTag, Rights};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[map::TESTS, grant::TESTS, unmap::TESTS, attributes::TESTS];

/// Sends typed words from the runner to a puppet that accepts `window`.
fn give(ctx: &Ctx, to: &Puppet, window: Acceptor, typed: &[u64]) -> TestResult<Outcome> {
    to.start_ipc(&IpcCmd::receive(ctx.me()).brs(&[window.raw()]))?;
    let tag = MsgTag::new(1, 0, typed.len());
    let sent = ctx.ipc(&IpcCmd::send(to.id).message(tag, typed));
    check!(!sent.tag.is_error(), "send: {:?}", sent.ipc_error());
    let got = to.finish()?;
    check!(!got.tag.is_error(), "receive: {:?}", got.ipc_error());
    Ok(got)
}

/// Maps one arena page of the runner to an address of a puppet.
fn map_page(ctx: &Ctx, to: &Puppet, page: u64, at: u64, rights: Rights) -> TestResult {
    let item = l4abi::item::map_item(at, Fpage::memory(arena::page(page), 12, rights));
    give(ctx, to, Acceptor::COMPLETE, &item).map(|_| ())
}

/// Sends typed words from one puppet to another.
fn pass(from: &Puppet, to: &Puppet, window: Acceptor, typed: &[u64]) -> TestResult {
    to.start_ipc(&IpcCmd::receive(from.id).brs(&[window.raw()]))?;
    let tag = MsgTag::new(1, 0, typed.len());
    let sent = from.run_ipc(&IpcCmd::send(to.id).message(tag, typed))?;
    check!(!sent.tag.is_error(), "send: {:?}", sent.ipc_error());
    let got = to.finish()?;
    check!(!got.tag.is_error(), "receive: {:?}", got.ipc_error());
    Ok(())
}

/// What a puppet reads.
fn read(puppet: &Puppet, addr: u64) -> TestResult<u64> {
    Ok(puppet.run(Op::Read, &[addr])?.results[0])
}

/// Checks that a puppet sees a byte without a fault. (Window 3 is closed: a fault there would hang.)
fn check_sees(puppet: &Puppet, addr: u64, want: u8) -> TestResult {
    check_eq!(read(puppet, addr)?, u64::from(want), "at {addr:#x}");
    Ok(())
}

/// Checks that a puppet faults on an access; the puppet is stuck afterwards.
fn check_faults(ctx: &Ctx, puppet: &Puppet, op: Op, addr: u64) -> TestResult {
    puppet.start(op, &[addr, 0])?;
    ctx.settle();
    check!(!puppet.is_done(), "{op:?} at {addr:#x} went through");
    Ok(())
}

/// Somewhere in the closed window 3: only what tests map is there.
fn spot(n: u64) -> u64 {
    arena::window(3) + n * arena::PAGE
}

/// Marks an arena page with a byte.
fn mark(page: u64, byte: u8) {
    arena::wipe(arena::page(page), 64, byte);
}
