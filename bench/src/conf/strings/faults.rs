//! Page faults during a string copy, and transfer timeouts.

use super::{WAYS, Way, buffer, string};
use crate::harness::pager::{self, Mode};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, TestResult, arena};
use crate::{check, check_eq, tests};
use libl4::{IpcCode, MsgTag, Phase, Rights, Time, Timeouts};

tests! {
    strf_sender_faults_are_served, All, "faults in the sender's string are served by its pager and the copy goes on";
    strf_receiver_faults_are_served, All, "faults in the receiver's buffer likewise; its fault IP is all ones";
    strf_both_sides_fault, All, "faults on both sides in one transfer";
    strf_many_pages, All, "a string over sixteen absent pages on each side";
    strf_empty_replies_retry, All, "a pager that answers with nothing is asked again";
    strf_read_only_buffer, All, "a write fault in a buffer that is mapped read-only";
    strf_fault_address, All, "the fault is at the first byte of the absent page";
    strf_present_pages_cost_nothing, All, "with transfer timeout zero a present string succeeds";
    strf_zero_timeout_sender, All, "the sender's zero transfer timeout fails at the first fault, offset exact";
    strf_zero_timeout_receiver, All, "the receiver's zero transfer timeout likewise";
    strf_timeout_expires, All, "a transfer timeout of 20 ms expires while the pager is silent";
    strf_shorter_timeout_decides, All, "who gets code 5 and who 6 follows from whose timeout is shorter";
    strf_usable_after_timeout, All, "after a failed transfer both partners work as before";
}

/// Length of the string of most tests: two pages.
const LEN: u64 = 8192;

/// What a transfer needs to know.
struct Plan {
    way: Way,
    sender_xfer: Time,
    receiver_xfer: Time,
    /// Addresses on both sides.
    from: u64,
    to: u64,
    len: u64,
}

/// The partner's side is in window 0, the runner's in the arena. Pages of the window are backed by
/// arena pages 64 and following. Returns the plan with infinite transfer timeouts.
fn plan(way: Way, len: u64) -> Plan {
    let (near, far) = (arena::page(0), arena::window(0));
    arena::fill(near, len, 21);
    arena::fill(arena::page(64), len, 21);
    match way {
        Way::ToRunner => {
            arena::wipe(near, len, 0);
            Plan {
                way,
                sender_xfer: Time::NEVER,
                receiver_xfer: Time::NEVER,
                from: far,
                to: near,
                len,
            }
        }
        Way::ToPuppet => {
            arena::wipe(arena::page(64), len, 0);
            Plan {
                way,
                sender_xfer: Time::NEVER,
                receiver_xfer: Time::NEVER,
                from: near,
                to: far,
                len,
            }
        }
    }
}

/// Where the string arrives, as the runner sees it.
fn arrival(plan: &Plan) -> u64 {
    match plan.way {
        Way::ToRunner => plan.to,
        Way::ToPuppet => arena::page(64),
    }
}

fn run(ctx: &Ctx, partner: &Puppet, plan: &Plan) -> TestResult<(Outcome, Outcome)> {
    let typed = string(plan.from, plan.len);
    let brs = buffer(plan.to, plan.len);
    let tag = MsgTag::new(1, 0, 2);
    let (sender, receiver) = match plan.way {
        Way::ToRunner => (ctx.me(), partner.id),
        Way::ToPuppet => (partner.id, ctx.me()),
    };
    let mut send = IpcCmd::send(sender).message(tag, &typed);
    let mut receive = IpcCmd::receive(receiver).brs(&brs);
    send.xfer = Timeouts::new(plan.sender_xfer, Time::NEVER);
    receive.xfer = Timeouts::new(Time::NEVER, plan.receiver_xfer);
    match plan.way {
        Way::ToRunner => {
            partner.start_ipc(&send)?;
            let got = ctx.ipc(&receive);
            Ok((partner.finish()?, got))
        }
        Way::ToPuppet => {
            partner.start_ipc(&receive)?;
            let sent = ctx.ipc(&send);
            Ok((sent, partner.finish()?))
        }
    }
}

fn check_ok(sent: &Outcome, got: &Outcome) -> TestResult {
    check!(!sent.tag.is_error(), "sender: {:?}", sent.ipc_error());
    check!(!got.tag.is_error(), "receiver: {:?}", got.ipc_error());
    Ok(())
}

fn open(mode: Mode, pages: u64) {
    pager::open(0, arena::page(64), pages * arena::PAGE, Rights::RWX, mode);
}

fn served(ctx: &mut Ctx, way: Way, pages: u64) -> TestResult<pager::Seen> {
    let partner = ctx.puppet()?;
    open(Mode::Map, pages);
    let plan = plan(way, pages * arena::PAGE);
    let (sent, got) = run(ctx, &partner, &plan)?;
    check_ok(&sent, &got)?;
    check_eq!(arena::mismatch(arrival(&plan), plan.len, 21), None, "content");
    let seen = pager::seen(0);
    check!(seen.faults >= pages, "{} faults", seen.faults);
    Ok(seen)
}

fn strf_sender_faults_are_served(ctx: &mut Ctx) -> TestResult {
    let seen = served(ctx, Way::ToRunner, 2)?;
    check!(seen.access.contains(Rights::R), "access {:?}", seen.access);
    Ok(())
}

fn strf_receiver_faults_are_served(ctx: &mut Ctx) -> TestResult {
    let seen = served(ctx, Way::ToPuppet, 2)?;
    check!(seen.access.contains(Rights::W), "access {:?}", seen.access);
    check_eq!(seen.ip, u64::MAX, "fault IP");
    Ok(())
}

fn strf_both_sides_fault(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
    open(Mode::Map, 3);
    pager::open(1, arena::page(96), 3 * arena::PAGE, Rights::RWX, Mode::Map);
    arena::fill(arena::page(64), 3 * arena::PAGE, 5);
    arena::wipe(arena::page(96), 3 * arena::PAGE, 0);
    let len = 2 * arena::PAGE;
    // Different offsets in the pages, so that the faults alternate.
    let typed = string(arena::window(0) + 1000, len);
    let brs = buffer(arena::window(1) + 3000, len);
    receiver.start_ipc(&IpcCmd::receive(sender.id).brs(&brs))?;
    sender.start_ipc(&IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed))?;
    check_ok(&sender.finish()?, &receiver.finish()?)?;
    for i in 0..len {
        let got = arena::byte(arena::page(96) + 3000 + i);
        check_eq!(got, arena::pattern(5, 1000 + i), "byte {i}");
    }
    check_eq!((pager::seen(0).faults, pager::seen(1).faults), (3, 3), "faults");
    Ok(())
}

fn strf_many_pages(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
    open(Mode::Map, 16);
    pager::open(1, arena::page(96), 16 * arena::PAGE, Rights::RWX, Mode::Map);
    let len = 16 * arena::PAGE;
    arena::fill(arena::page(64), len, 5);
    arena::wipe(arena::page(96), len, 0);
    let (typed, brs) = (string(arena::window(0), len), buffer(arena::window(1), len));
    sender.start_ipc(&IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed))?;
    receiver.start_ipc(&IpcCmd::receive(sender.id).brs(&brs))?;
    check_ok(&sender.finish()?, &receiver.finish()?)?;
    check_eq!(arena::mismatch(arena::page(96), len, 5), None);
    Ok(())
}

fn strf_empty_replies_retry(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        let partner = ctx.puppet()?;
        open(Mode::EmptyFirst(3), 2);
        let plan = plan(way, LEN);
        let (sent, got) = run(ctx, &partner, &plan)?;
        check_ok(&sent, &got)?;
        check!(pager::seen(0).faults >= 5, "{} faults", pager::seen(0).faults);
        // The next way starts with an empty window.
        pager::reset();
    }
    Ok(())
}

fn strf_read_only_buffer(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    pager::open(0, arena::page(64), LEN, Rights::R, Mode::Map);
    for page in 0..2 {
        partner.run(Op::Read, &[arena::window(0) + page * arena::PAGE])?;
    }
    pager::open(0, arena::page(64), LEN, Rights::RW, Mode::Map);
    let plan = plan(Way::ToPuppet, LEN);
    let (sent, got) = run(ctx, &partner, &plan)?;
    check_ok(&sent, &got)?;
    check_eq!(arena::mismatch(arrival(&plan), LEN, 21), None);
    check_eq!(pager::seen(0).faults, 2, "write faults");
    Ok(())
}

fn strf_fault_address(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        let partner = ctx.puppet()?;
        open(Mode::Map, 2);
        partner.run(Op::Read, &[arena::window(0)])?;
        let mut plan = plan(way, LEN);
        plan.len = LEN - 1000;
        match way {
            Way::ToRunner => plan.from += 500,
            Way::ToPuppet => plan.to += 500,
        }
        let (sent, got) = run(ctx, &partner, &plan)?;
        check_ok(&sent, &got)?;
        check_eq!(pager::seen(0).addr, arena::window(0) + arena::PAGE, "{way:?}");
        pager::reset();
    }
    Ok(())
}

fn strf_present_pages_cost_nothing(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        let partner = ctx.puppet()?;
        open(Mode::Map, 2);
        for page in 0..2 {
            partner.run(Op::Write, &[arena::window(0) + page * arena::PAGE, 0])?;
        }
        let mut plan = plan(way, LEN);
        (plan.sender_xfer, plan.receiver_xfer) = (Time::ZERO, Time::ZERO);
        let (sent, got) = run(ctx, &partner, &plan)?;
        check_ok(&sent, &got)?;
        check_eq!(arena::mismatch(arrival(&plan), LEN, 21), None);
        pager::reset();
    }
    Ok(())
}

/// Runs into an absent second page that nobody serves; checks codes and offset.
fn expires(
    ctx: &mut Ctx,
    way: Way,
    sender: Time,
    receiver: Time,
) -> TestResult<(Outcome, Outcome)> {
    let partner = ctx.puppet()?;
    open(Mode::Map, 2);
    partner.run(Op::Write, &[arena::window(0), 0])?;
    let mut plan = plan(way, LEN);
    pager::set_mode(0, Mode::Hold);
    (plan.sender_xfer, plan.receiver_xfer) = (sender, receiver);
    let ends = run(ctx, &partner, &plan)?;
    let shorter = |a: Time, b: Time| match (a.as_period_us(), b.as_period_us()) {
        (Some(a), Some(b)) => a < b,
        (Some(_), None) => true,
        _ => false,
    };
    let (s, r) = if shorter(receiver, sender) {
        (IpcCode::XferTimeoutPartner, IpcCode::XferTimeoutOwn)
    } else {
        (IpcCode::XferTimeoutOwn, IpcCode::XferTimeoutPartner)
    };
    let sent = ends.0.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(sent, Some((Phase::Send, s, 4096)), "sender, {way:?}");
    let got = ends.1.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(got, Some((Phase::Receive, r, 4096)), "receiver, {way:?}");
    check_eq!(arena::mismatch(arrival(&plan), 4096, 21), None, "what was copied");
    pager::reset();
    Ok(ends)
}

fn strf_zero_timeout_sender(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        expires(ctx, way, Time::ZERO, Time::NEVER)?;
    }
    Ok(())
}

fn strf_zero_timeout_receiver(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        expires(ctx, way, Time::NEVER, Time::ZERO)?;
    }
    Ok(())
}

fn strf_timeout_expires(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        let (sent, _) = expires(ctx, way, Time::period_us(20_000), Time::NEVER)?;
        check!(sent.took_us >= 19_000, "after {} us", sent.took_us);
    }
    Ok(())
}

fn strf_shorter_timeout_decides(ctx: &mut Ctx) -> TestResult {
    let (short, long) = (Time::period_us(10_000), Time::period_us(500_000));
    expires(ctx, Way::ToRunner, short, long)?;
    expires(ctx, Way::ToRunner, long, short)?;
    expires(ctx, Way::ToPuppet, short, long)?;
    expires(ctx, Way::ToPuppet, long, short)?;
    expires(ctx, Way::ToPuppet, short, short)?;
    Ok(())
}

fn strf_usable_after_timeout(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        open(Mode::Hold, 2);
        let mut plan = plan(way, LEN);
        (plan.sender_xfer, plan.receiver_xfer) = (Time::ZERO, Time::ZERO);
        let (sent, got) = run(ctx, &partner, &plan)?;
        check!(sent.tag.is_error() && got.tag.is_error(), "no error");
        partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[77]))?;
        let got = ctx.ipc(&IpcCmd::receive(partner.id));
        check_eq!(got.mr[1], 77);
        check!(!ctx.ipc(&IpcCmd::send(partner.id).words(2, &[78])).tag.is_error());
        check_eq!(partner.finish()?.mr[1], 78);
    }
    Ok(())
}
