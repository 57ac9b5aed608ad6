//! String items: forms, cuts, overflow, page faults on both sides, timeouts and aborts (ref 1.6, 5.6).

mod abort;
mod clocks;
mod cuts;
mod faults;
mod forms;
mod third;

use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, Test, TestResult, arena};
use l4abi::item::StringHead;
use libl4::MsgTag;

/// The groups of this area.
pub const GROUPS: &[&[Test]] =
    &[forms::TESTS, cuts::TESTS, faults::TESTS, abort::TESTS, third::TESTS, clocks::TESTS];

/// Which way a string goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToRunner,
    ToPuppet,
}

const WAYS: [Way; 2] = [Way::ToRunner, Way::ToPuppet];

/// Both ends of a transfer.
struct Ends {
    sent: Outcome,
    got: Outcome,
}

/// Where tests send from.
fn source() -> u64 {
    arena::page(0)
}

/// Where tests receive.
fn target() -> u64 {
    arena::page(512)
}

/// The words of one compound string (or buffer) with a descriptor per piece.
fn compound(pieces: &[(u64, u64)], words: &mut [u64]) -> usize {
    for (i, &(addr, len)) in pieces.iter().enumerate() {
        words[2 * i] = StringHead::new(len, 1, i + 1 < pieces.len()).raw();
        words[2 * i + 1] = addr;
    }
    2 * pieces.len()
}

/// BR0 and a simple buffer.
fn buffer(addr: u64, len: u64) -> [u64; 3] {
    [1, StringHead::new(len, 1, false).raw(), addr]
}

/// A simple string item.
fn string(addr: u64, len: u64) -> [u64; 2] {
    [StringHead::new(len, 1, false).raw(), addr]
}

/// Sends one message of typed words.
fn transfer(ctx: &Ctx, partner: &Puppet, way: Way, typed: &[u64], brs: &[u64]) -> TestResult<Ends> {
    let tag = MsgTag::new(0x5A, 0, typed.len());
    match way {
        Way::ToRunner => {
            partner.start_ipc(&IpcCmd::send(ctx.me()).message(tag, typed))?;
            let got = ctx.ipc(&IpcCmd::receive(partner.id).brs(brs));
            Ok(Ends { sent: partner.finish()?, got })
        }
        Way::ToPuppet => {
            partner.start_ipc(&IpcCmd::receive(ctx.me()).brs(brs))?;
            let sent = ctx.ipc(&IpcCmd::send(partner.id).message(tag, typed));
            Ok(Ends { sent, got: partner.finish()? })
        }
    }
}
