//! Cancelling by ExchangeRegisters before a transfer (ref 4.4, 5.7).

use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::exregs::Control;
use libl4::sys::{self, Exregs, ExregsOld};
use libl4::{IpcCode, Phase, ThreadId, Time};

tests! {
    ipc_cancel_queued_send, All, "S ends a queued send with code 3 in the send phase";
    ipc_cancel_waiting_receive, All, "R ends a waiting receive with code 3 in the receive phase";
    ipc_cancel_call_after_send, All, "R ends the receive phase of a call with code 3, phase 1";
    ipc_cancel_wrong_phase, All, "S has no effect on a receiver, R none on a sender";
    ipc_cancel_tells_state, All, "the control word returned says who was sending and who receiving";
    ipc_cancelled_sender_is_gone, All, "a cancelled sender is no longer queued";
    ipc_cancelled_receiver_is_gone, All, "a cancelled receiver is not found by a sender";
    ipc_cancel_spares_a_running_thread, All, "R and S do nothing to a thread outside of IPC";
    ipc_cancel_many_rounds, All, "a hundred calls cancelled and repeated";
    ipc_cancel_keeps_timeouts_apart, All, "a timeout of a cancelled receive does not strike later";
}

fn abort(partner: &Puppet, control: Control) -> TestResult<ExregsOld> {
    let change = Exregs { control, ..Exregs::default() };
    Ok(need!(sys::exchange_registers(partner.id, change)))
}

fn check_error(got: &Outcome, phase: Phase) -> TestResult {
    let error = got.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(error, Some((phase, IpcCode::Canceled, 0)), "error");
    Ok(())
}

fn ipc_cancel_queued_send(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[1]))?;
    ctx.settle();
    abort(&partner, Control::SEND)?;
    check_error(&partner.finish()?, Phase::Send)
}

fn ipc_cancel_waiting_receive(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for from in [ctx.me(), ThreadId::ANY, partner.id] {
        partner.start_ipc(&IpcCmd::receive(from))?;
        ctx.settle();
        abort(&partner, Control::RECEIVE)?;
        check_error(&partner.finish()?, Phase::Receive)?;
    }
    Ok(())
}

fn ipc_cancel_call_after_send(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[5]))?;
    check_eq!(ctx.ipc(&IpcCmd::receive(partner.id)).mr[1], 5);
    ctx.settle();
    abort(&partner, Control::RECEIVE)?;
    check_error(&partner.finish()?, Phase::Receive)
}

fn ipc_cancel_wrong_phase(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    ctx.settle();
    abort(&partner, Control::SEND)?;
    ctx.settle();
    check!(!partner.is_done(), "S ended a receive");
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[3])).tag.is_error());
    check_eq!(partner.finish()?.mr[1], 3);
    partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[4]))?;
    ctx.settle();
    abort(&partner, Control::RECEIVE)?;
    ctx.settle();
    check!(!partner.is_done(), "R ended a send");
    check_eq!(ctx.ipc(&IpcCmd::receive(partner.id)).mr[1], 4);
    check!(!partner.finish()?.tag.is_error());
    Ok(())
}

fn ipc_cancel_tells_state(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    ctx.settle();
    check_eq!(abort(&partner, Control::RECEIVE)?.state, Control::RECEIVE, "receiver");
    partner.finish()?;
    partner.start_ipc(&IpcCmd::send(ctx.me()))?;
    ctx.settle();
    check_eq!(abort(&partner, Control::SEND)?.state, Control::SEND, "sender");
    partner.finish()?;
    Ok(())
}

fn ipc_cancelled_sender_is_gone(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[1]))?;
    ctx.settle();
    abort(&partner, Control::SEND)?;
    partner.finish()?;
    let none = ctx.ipc(&IpcCmd::receive(ThreadId::ANY).timeouts(Time::NEVER, Time::ZERO));
    check_eq!(none.ipc_error().map(|e| e.code), Some(IpcCode::Timeout));
    Ok(())
}

fn ipc_cancelled_receiver_is_gone(ctx: &mut Ctx) -> TestResult {
    let (partner, sender) = (ctx.puppet()?, ctx.puppet()?);
    partner.start_ipc(&IpcCmd::receive(sender.id))?;
    ctx.settle();
    abort(&partner, Control::RECEIVE)?;
    partner.finish()?;
    // The partner waits for commands of the runner only.
    let send = IpcCmd::send(partner.id).timeouts(Time::ZERO, Time::NEVER);
    let got = sender.run_ipc(&send)?;
    check_eq!(got.ipc_error().map(|e| e.code), Some(IpcCode::Timeout));
    Ok(())
}

fn ipc_cancel_spares_a_running_thread(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    ctx.settle();
    let old = abort(&partner, Control::ABORT_IPC)?;
    check!(old.state.is_empty(), "state {:?}", old.state);
    let before = partner.peek_result(0);
    ctx.settle();
    check!(partner.peek_result(0) > before, "it stopped spinning");
    partner.set_arg(7, 1);
    partner.finish()?;
    Ok(())
}

fn ipc_cancel_many_rounds(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for round in 0..100u64 {
        partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[round]))?;
        if round % 2 == 0 {
            check_eq!(ctx.ipc(&IpcCmd::receive(partner.id)).mr[1], round);
        }
        ctx.wait_in(&partner, if round % 2 == 0 { Control::RECEIVE } else { Control::SEND })?;
        abort(&partner, Control::ABORT_IPC)?;
        let phase = if round % 2 == 0 { Phase::Receive } else { Phase::Send };
        check_error(&partner.finish()?, phase)?;
    }
    Ok(())
}

fn ipc_cancel_keeps_timeouts_apart(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    // Long enough that the cancel comes first, however slow the other CPU is.
    let short = IpcCmd::receive(ctx.me()).timeouts(Time::NEVER, Time::period_us(300_000));
    partner.start_ipc(&short)?;
    ctx.wait_in(&partner, Control::RECEIVE)?;
    abort(&partner, Control::RECEIVE)?;
    check_error(&partner.finish()?, Phase::Receive)?;
    let long = IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::period_us(500_000));
    let got = partner.run_ipc(&long)?;
    check_eq!(got.ipc_error().map(|e| e.code), Some(IpcCode::Timeout));
    check!(got.took_us > 450_000, "woke after {} us", got.took_us);
    Ok(())
}
