//! Timeouts of both phases (ref 1.8, 5.2).

use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::exregs::Control;
use libl4::sys::{self, Exregs};
use libl4::{IpcCode, MsgTag, Phase, ThreadId, Time, time};

tests! {
    ipc_send_zero_not_ready, All, "a zero-timeout send to a busy thread fails at once; the tag is E alone";
    ipc_send_zero_ready, All, "a zero-timeout send to a waiting thread succeeds";
    ipc_send_timeout_expires, All, "a finite send timeout expires, not early; the tag is the own one with E";
    ipc_receive_zero_nobody, Once, "a zero-timeout receive without a sender fails at once";
    ipc_receive_zero_queued, All, "a zero-timeout receive takes a queued sender";
    ipc_receive_timeout_expires, All, "a finite receive timeout expires, not early; the tag is E alone";
    ipc_receive_timeout_met, All, "a message before the timeout ends it";
    ipc_call_receive_timeout, All, "a call whose reply does not come fails in the receive phase";
    ipc_send_failure_skips_receive, All, "a failed send phase skips the receive phase";
    ipc_sleep_on_oneself, Once, "a receive from oneself blocks and times out, by both kinds of id";
    ipc_point_in_time, Once, "an absolute receive timeout expires at its point";
    ipc_point_in_the_past, Once, "a point that has passed expires at once";
    ipc_short_timeouts_in_a_row, Once, "fifty short sleeps last as long as they should";
    ipc_timeouts_of_two_threads, All, "two threads with different timeouts each wake at their own";
    ipc_expired_sender_is_gone, All, "a sender whose timeout expired is no longer in the queue";
    ipc_expired_receiver_is_gone, All, "a receiver whose timeout expired is not found by a sender";
    ipc_upper_timeout_bits_ignored, Once, "bits 63..32 of the timeouts word do not matter";
}

/// Longer than any test.
const LONG: Time = Time::period_us(5_000_000);

fn check_error(got: &Outcome, phase: Phase, code: IpcCode) -> TestResult {
    let error = got.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(error, Some((phase, code, 0)), "error");
    Ok(())
}

fn check_time(got: &Outcome, low_us: u64) -> TestResult {
    // A period has ten significant bits and is rounded down. The upper limit only catches what is
    // clearly wrong: the host may be busy.
    check!(
        got.took_us + 2 + low_us / 512 >= low_us && got.took_us < low_us + 500_000,
        "took {} us instead of {low_us}",
        got.took_us
    );
    Ok(())
}

/// `partner` waits for longer than the test: its receive is cancelled.
fn end_wait(partner: &Puppet) -> TestResult {
    let change = Exregs { control: Control::RECEIVE, ..Exregs::default() };
    need!(sys::exchange_registers(partner.id, change));
    check_error(&partner.finish()?, Phase::Receive, IpcCode::Canceled)
}

fn ipc_send_zero_not_ready(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    // It waits for someone else.
    partner.start_ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, LONG))?;
    ctx.settle();
    let send = IpcCmd::send(partner.id).words(7, &[1]).timeouts(Time::ZERO, Time::NEVER);
    let got = ctx.ipc(&send);
    check_error(&got, Phase::Send, IpcCode::Timeout)?;
    check_eq!(got.tag, MsgTag::ERROR, "tag");
    end_wait(&partner)
}

fn ipc_send_zero_ready(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for round in 0..50 {
        partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
        ctx.settle();
        let words = [round];
        let send = IpcCmd::send(partner.id).words(7, &words).timeouts(Time::ZERO, Time::NEVER);
        let got = ctx.ipc(&send);
        check!(!got.tag.is_error(), "round {round}: {:?}", got.ipc_error());
        check_eq!(partner.finish()?.mr[1], round);
    }
    Ok(())
}

fn ipc_send_timeout_expires(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, LONG))?;
    ctx.settle();
    let patience = Time::period_us(20_000);
    let send = IpcCmd::send(partner.id).words(7, &[1]).timeouts(patience, Time::NEVER);
    let got = ctx.ipc(&send);
    check_error(&got, Phase::Send, IpcCode::Timeout)?;
    check_time(&got, patience.as_period_us().unwrap_or(0))?;
    check_eq!(got.tag.raw(), MsgTag::new(7, 1, 0).raw() | 0x8000, "tag");
    end_wait(&partner)
}

fn ipc_receive_zero_nobody(ctx: &mut Ctx) -> TestResult {
    for from in [ThreadId::ANY, ThreadId::ANY_LOCAL, crate::harness::ids::pager()] {
        let got = ctx.ipc(&IpcCmd::receive(from).timeouts(Time::NEVER, Time::ZERO));
        check_error(&got, Phase::Receive, IpcCode::Timeout)?;
        check_eq!(got.tag, MsgTag::ERROR, "tag for {from}");
    }
    Ok(())
}

fn ipc_receive_zero_queued(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::send(ctx.me()).words(7, &[3]))?;
    ctx.settle();
    let got = ctx.ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::ZERO));
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!(got.mr[1], 3);
    Ok(())
}

fn ipc_receive_timeout_expires(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for us in [1_000u64, 10_000, 50_000] {
        let period = Time::period_us(us);
        for from in [partner.id, ThreadId::ANY] {
            let got = ctx.ipc(&IpcCmd::receive(from).timeouts(Time::NEVER, period));
            check_error(&got, Phase::Receive, IpcCode::Timeout)?;
            check_time(&got, period.as_period_us().unwrap_or(0))?;
            check_eq!(got.tag, MsgTag::ERROR, "tag");
        }
    }
    Ok(())
}

fn ipc_receive_timeout_met(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner
        .start_ipc(&IpcCmd::receive(ctx.me()).timeouts(Time::NEVER, Time::period_us(1_000_000)))?;
    ctx.settle();
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[4])).tag.is_error());
    let got = partner.finish()?;
    check_eq!(got.mr[1], 4);
    check!(got.took_us < 900_000, "took {} us", got.took_us);
    // The timeout must not strike later.
    let sleep = partner
        .run_ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::period_us(20_000)))?;
    check_time(&sleep, 20_000)
}

fn ipc_call_receive_timeout(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    let call = IpcCmd::call(partner.id).words(1, &[4]);
    let got = ctx.ipc(&call.timeouts(Time::NEVER, Time::period_us(10_000)));
    check_error(&got, Phase::Receive, IpcCode::Timeout)?;
    check_eq!(partner.finish()?.mr[1], 4, "the send phase had its effect");
    Ok(())
}

fn ipc_send_failure_skips_receive(ctx: &mut Ctx) -> TestResult {
    let (busy, sender) = (ctx.puppet()?, ctx.puppet()?);
    busy.start_ipc(&IpcCmd::receive(busy.id).timeouts(Time::NEVER, LONG))?;
    sender.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[6]))?;
    ctx.settle();
    let both = IpcCmd::new(busy.id, ThreadId::ANY).words(1, &[5]);
    let got = ctx.ipc(&both.timeouts(Time::ZERO, Time::NEVER));
    check_error(&got, Phase::Send, IpcCode::Timeout)?;
    check!(!sender.is_done(), "the queued message was taken");
    check_eq!(ctx.ipc(&IpcCmd::receive(sender.id)).mr[1], 6);
    Ok(())
}

fn ipc_sleep_on_oneself(ctx: &mut Ctx) -> TestResult {
    for me in [ctx.me(), libl4::thread::my_local_id()] {
        let got = ctx.ipc(&IpcCmd::receive(me).timeouts(Time::NEVER, Time::period_us(10_000)));
        check_error(&got, Phase::Receive, IpcCode::Timeout)?;
        check_time(&got, 10_000)?;
    }
    Ok(())
}

fn ipc_point_in_time(ctx: &mut Ctx) -> TestResult {
    for ahead in [3_000u64, 20_000, 100_000] {
        let now = time::now_us();
        let at = now + ahead;
        let Some(point) = Time::point_at(at, now) else { return Ok(()) };
        let got = ctx.ipc(&IpcCmd::receive(ctx.me()).timeouts(Time::NEVER, point));
        let woke = time::now_us();
        check_error(&got, Phase::Receive, IpcCode::Timeout)?;
        // A point is rounded down to its mantissa.
        check!(woke + ahead / 256 + 2 >= at, "woke {} us early", at - woke);
        check!(woke < at + 500_000, "woke {} us late", woke - at);
    }
    Ok(())
}

fn ipc_point_in_the_past(ctx: &mut Ctx) -> TestResult {
    let now = time::now_us();
    // In the present cycle of e = 10 (about a second), mantissa below the clock's.
    let (cycle, m) = ((now >> 20) & 1, (now >> 10) & 0x3FF);
    if m < 2 {
        return Ok(());
    }
    let past = Time::point(10, cycle == 1, (m - 2) as u16);
    let got = ctx.ipc(&IpcCmd::receive(ctx.me()).timeouts(Time::NEVER, past));
    check_error(&got, Phase::Receive, IpcCode::Timeout)?;
    check!(got.took_us < 300_000, "took {} us", got.took_us);
    Ok(())
}

fn ipc_short_timeouts_in_a_row(_: &mut Ctx) -> TestResult {
    let before = time::now_us();
    for _ in 0..50 {
        time::sleep_us(500);
    }
    let took = time::now_us() - before;
    check!((25_000..2_000_000).contains(&took), "took {took} us");
    Ok(())
}

fn ipc_timeouts_of_two_threads(ctx: &mut Ctx) -> TestResult {
    let (early, late) = (ctx.puppet()?, ctx.puppet()?);
    late.start_ipc(&IpcCmd::receive(late.id).timeouts(Time::NEVER, Time::period_us(400_000)))?;
    early.start_ipc(&IpcCmd::receive(early.id).timeouts(Time::NEVER, Time::period_us(15_000)))?;
    let first = early.finish()?;
    check!(!late.is_done() || first.took_us > 350_000, "the later one woke first");
    check_time(&first, 15_000)?;
    check_time(&late.finish()?, 400_000)
}

fn ipc_expired_sender_is_gone(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let send = IpcCmd::send(ctx.me()).words(1, &[1]);
    let got = partner.run_ipc(&send.timeouts(Time::period_us(2_000), Time::NEVER))?;
    check_error(&got, Phase::Send, IpcCode::Timeout)?;
    let none = ctx.ipc(&IpcCmd::receive(ThreadId::ANY).timeouts(Time::NEVER, Time::ZERO));
    check_error(&none, Phase::Receive, IpcCode::Timeout)
}

fn ipc_expired_receiver_is_gone(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let wait = IpcCmd::receive(crate::harness::ids::pager());
    let got = partner.run_ipc(&wait.timeouts(Time::NEVER, Time::period_us(2_000)))?;
    check_error(&got, Phase::Receive, IpcCode::Timeout)?;
    // It is idle now, waiting for commands; a message with another label is dropped by it.
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[1])).tag.is_error());
    check_eq!(
        partner.run_ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::ZERO))?.tag,
        MsgTag::ERROR
    );
    Ok(())
}

fn ipc_upper_timeout_bits_ignored(ctx: &mut Ctx) -> TestResult {
    let mut cmd = IpcCmd::receive(ctx.me());
    cmd.timeouts =
        libl4::Timeouts::from_raw(0xFFFF_FFFF_0000_0000 | u64::from(Time::period_us(5_000).raw()));
    let got = ctx.ipc(&cmd);
    check_error(&got, Phase::Receive, IpcCode::Timeout)?;
    check_time(&got, 4_998)
}
