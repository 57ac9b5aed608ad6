//! Aborts and deletions while a string transfer waits for a fault reply (ref 5.7).

use super::{Way, buffer, string};
use crate::harness::pager::{self, Mode};
use crate::harness::{Ctx, IpcCmd, Puppet, TestResult, arena};
use crate::{check, check_eq, need, tests};
use l4abi::exregs::Control;
use libl4::sys::{self, Exregs};
use libl4::{IpcCode, MsgTag, Phase, Rights, ThreadId, thread};

tests! {
    strf_abort_sender_at_its_fault, All, "aborting a sender that waits for its fault: code 7 for both, each its phase";
    strf_abort_sender_at_partners_fault, All, "aborting the sender while the receiver's fault is served";
    strf_abort_receiver_at_its_fault, All, "aborting a receiver that waits for its fault: code 7 for both";
    strf_abort_receiver_at_partners_fault, All, "aborting the receiver while the sender's fault is served";
    strf_delete_sender_in_transfer, All, "deleting the sender during a transfer ends the receiver's IPC";
    strf_delete_receiver_in_transfer, All, "deleting the receiver during a transfer ends the sender's IPC";
    strf_late_reply_is_harmless, All, "a fault reply after the abort does nothing";
}

const LEN: u64 = 8192;

/// A transfer between two puppets that hangs at the second page of one side.
pub(super) struct Stuck {
    pub(super) sender: Puppet,
    pub(super) receiver: Puppet,
}

/// A transfer between two puppets in the same place.
fn stuck(ctx: &mut Ctx, way: Way) -> TestResult<Stuck> {
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
    hang(ctx, way, sender, receiver)
}

/// Starts the transfer; the side that faults is the sender's if the way is to the runner.
pub(super) fn hang(ctx: &Ctx, way: Way, sender: Puppet, receiver: Puppet) -> TestResult<Stuck> {
    pager::open(0, arena::page(64), LEN, Rights::RWX, Mode::Map);
    let faulter = if way == Way::ToRunner { &sender } else { &receiver };
    faulter.run(crate::harness::puppet::Op::Write, &[arena::window(0), 0])?;
    pager::set_mode(0, Mode::Hold);
    let (from, to) = match way {
        Way::ToRunner => (arena::window(0), arena::page(32)),
        Way::ToPuppet => (arena::page(32), arena::window(0)),
    };
    let brs = buffer(to, LEN);
    let typed = string(from, LEN);
    let before = pager::seen(0).faults;
    let forever = libl4::Time::NEVER;
    let receive = IpcCmd::receive(sender.id).brs(&brs).timeouts(forever, forever);
    receiver.start_ipc(&receive)?;
    let send = IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed);
    sender.start_ipc(&send.timeouts(forever, forever))?;
    ctx.settle_all();
    check_eq!(pager::seen(0).faults, before + 1, "the transfer waits at its fault");
    check!(!sender.is_done() && !receiver.is_done(), "already over");
    Ok(Stuck { sender, receiver })
}

pub(super) fn abort(id: ThreadId) -> TestResult {
    let change = Exregs { control: Control::ABORT_IPC, ..Exregs::default() };
    need!(sys::exchange_registers(id, change));
    Ok(())
}

pub(super) fn check_aborted(stuck: &Stuck) -> TestResult {
    let sent = stuck.sender.finish()?.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(sent, Some((Phase::Send, IpcCode::Aborted, 4096)), "sender");
    let got = stuck.receiver.finish()?.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(got, Some((Phase::Receive, IpcCode::Aborted, 4096)), "receiver");
    Ok(())
}

fn strf_abort_sender_at_its_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToRunner)?;
    abort(stuck.sender.id)?;
    check_aborted(&stuck)
}

fn strf_abort_sender_at_partners_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToPuppet)?;
    abort(stuck.sender.id)?;
    check_aborted(&stuck)
}

fn strf_abort_receiver_at_its_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToPuppet)?;
    abort(stuck.receiver.id)?;
    check_aborted(&stuck)
}

fn strf_abort_receiver_at_partners_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToRunner)?;
    abort(stuck.receiver.id)?;
    check_aborted(&stuck)
}

fn strf_delete_sender_in_transfer(ctx: &mut Ctx) -> TestResult {
    for way in [Way::ToRunner, Way::ToPuppet] {
        let stuck = stuck(ctx, way)?;
        need!(thread::delete(stuck.sender.id));
        let error = stuck.receiver.finish()?.ipc_error();
        check_eq!(error.map(|e| e.phase), Some(Phase::Receive), "{way:?}");
        pager::reset();
    }
    Ok(())
}

fn strf_delete_receiver_in_transfer(ctx: &mut Ctx) -> TestResult {
    for way in [Way::ToRunner, Way::ToPuppet] {
        let stuck = stuck(ctx, way)?;
        need!(thread::delete(stuck.receiver.id));
        let error = stuck.sender.finish()?.ipc_error();
        check_eq!(error.map(|e| e.phase), Some(Phase::Send), "{way:?}");
        pager::reset();
    }
    Ok(())
}

fn strf_late_reply_is_harmless(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToRunner)?;
    abort(stuck.sender.id)?;
    check_aborted(&stuck)?;
    // The sender is idle and waits for commands; a message from its pager must not reach it.
    pager::set_mode(0, Mode::Map);
    let (sender, receiver) = (stuck.sender, stuck.receiver);
    let typed = string(arena::window(0), LEN);
    let brs = buffer(arena::page(32), LEN);
    receiver.start_ipc(&IpcCmd::receive(sender.id).brs(&brs))?;
    sender.start_ipc(&IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed))?;
    check!(!sender.finish()?.tag.is_error());
    check!(!receiver.finish()?.tag.is_error());
    Ok(())
}
