//! The transfer timeout runs as long as the transfer, and no longer; faults that nobody can serve.

use super::{buffer, string};
use crate::harness::pager::{self, Mode};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, TestResult, arena};
use crate::{check, check_eq, need, tests};
use libl4::sys::{self, Exregs};
use libl4::{IpcCode, MsgTag, Phase, Rights, ThreadId, Time, time};

tests! {
    strt_outlasts_answers, All, "a transfer timeout ends a transfer whose pager answers again and again with nothing";
    strt_outlasts_a_served_fault, All, "a transfer timeout runs on after one fault was served";
    strt_ends_with_the_transfer, All, "the timeout of a transfer that is over does not strike a later receive";
    strt_unknown_pager, All, "a fault in a string of a thread whose pager does not exist ends the transfer for both";
}

const LEN: u64 = 8192;
const SHORT: Time = Time::period_us(20_000);

/// A string from one puppet to another; `sender_faults` says on whose side it is in window 0.
fn transfer(
    ends: (&Puppet, &Puppet),
    sender_faults: bool,
    xfer: Time,
) -> TestResult<(Outcome, Outcome)> {
    let (sender, receiver) = ends;
    let (from, to) = match sender_faults {
        true => (arena::window(0), arena::page(32)),
        false => (arena::page(32), arena::window(0)),
    };
    let (typed, brs) = (string(from, LEN), buffer(to, LEN));
    let receive = IpcCmd::receive(sender.id).brs(&brs).timeouts(Time::NEVER, Time::NEVER);
    receiver.start_ipc(&receive)?;
    let send = IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed);
    sender.start_ipc(&send.xfer(xfer).timeouts(Time::NEVER, Time::NEVER))?;
    Ok((sender.finish()?, receiver.finish()?))
}

fn open(mode: Mode) {
    pager::open(0, arena::page(64), LEN, Rights::RWX, mode);
}

fn check_ends(ends: &(Outcome, Outcome), codes: (IpcCode, IpcCode), what: &str) -> TestResult {
    let error = |o: &Outcome| o.ipc_error().map(|e| (e.phase, e.code));
    check_eq!(error(&ends.0), Some((Phase::Send, codes.0)), "sender, {what}");
    check_eq!(error(&ends.1), Some((Phase::Receive, codes.1)), "receiver, {what}");
    Ok(())
}

const TIMEOUT: (IpcCode, IpcCode) = (IpcCode::XferTimeoutOwn, IpcCode::XferTimeoutPartner);

fn strt_outlasts_answers(ctx: &mut Ctx) -> TestResult {
    for sender_faults in [true, false] {
        let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
        open(Mode::EmptyFirst(1 << 40));
        let ends = transfer((&sender, &receiver), sender_faults, SHORT)?;
        check_ends(&ends, TIMEOUT, if sender_faults { "its fault" } else { "the other's" })?;
        pager::reset();
    }
    Ok(())
}

fn strt_outlasts_a_served_fault(ctx: &mut Ctx) -> TestResult {
    for sender_faults in [true, false] {
        let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
        // The first page, then silence at the second.
        open(Mode::MapFirst(1));
        let ends = transfer((&sender, &receiver), sender_faults, SHORT)?;
        check_ends(&ends, TIMEOUT, if sender_faults { "its fault" } else { "the other's" })?;
        check_eq!(ends.0.ipc_error().map(|e| e.offset), Some(4096), "one page has come");
        pager::reset();
    }
    Ok(())
}

fn strt_ends_with_the_transfer(ctx: &mut Ctx) -> TestResult {
    for sender_faults in [true, false] {
        let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
        open(Mode::Map);
        // Long enough for two faults on a slow host.
        let ends = transfer((&sender, &receiver), sender_faults, Time::period_us(400_000))?;
        check!(!ends.0.tag.is_error(), "sender: {:?}", ends.0.ipc_error());
        check!(!ends.1.tag.is_error(), "receiver: {:?}", ends.1.ipc_error());
        let forever = IpcCmd::receive(sender.id).timeouts(Time::NEVER, Time::NEVER);
        receiver.start_ipc(&forever)?;
        time::sleep_us(500_000);
        check!(!receiver.is_done(), "it was struck");
        check!(!sender.run_ipc(&IpcCmd::send(receiver.id).words(1, &[6]))?.tag.is_error());
        check_eq!(receiver.finish()?.mr[1], 6);
        pager::reset();
    }
    Ok(())
}

fn strt_unknown_pager(ctx: &mut Ctx) -> TestResult {
    let nobody = ctx.spare_id()?;
    for (sender_faults, pager) in [(true, nobody), (false, nobody), (true, ThreadId::NIL)] {
        let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
        open(Mode::Map);
        // What both touch besides the window must be there.
        for puppet in [&sender, &receiver] {
            for page in [32, 33] {
                puppet.run(Op::Read, &[arena::page(page)])?;
                puppet.run(Op::Write, &[arena::page(page), 0])?;
            }
            puppet.run_ipc(&IpcCmd::receive(puppet.id).timeouts(Time::NEVER, Time::ZERO))?;
        }
        let faulter = if sender_faults { sender.id } else { receiver.id };
        let change = Exregs { pager: Some(pager), ..Exregs::default() };
        need!(sys::exchange_registers(faulter, change));
        let ends = transfer((&sender, &receiver), sender_faults, Time::NEVER)?;
        check_ends(&ends, (IpcCode::Aborted, IpcCode::Aborted), "no pager")?;
        pager::reset();
    }
    Ok(())
}
