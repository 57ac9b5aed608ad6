//! Strings between two CPUs, and a third CPU that aborts, deletes and moves the partners while one of them waits for its
//! pager (ref 5.7; l4-smp 8.5 to 8.7).

use super::abort::{Stuck, abort, check_aborted, hang};
use super::{WAYS, Way, buffer, string};
use crate::harness::pager::{self, Mode};
use crate::harness::{Ctx, IpcCmd, TestResult, arena};
use crate::{check, check_eq, need, tests};
use libl4::sys::{self, Schedule};
use libl4::{IpcCode, MsgTag, Phase, Rights, Time, thread};

tests! {
    strx_faults_on_both_sides, ThirdCpu, "a string between two CPUs with faults on both sides arrives, whoever comes first";
    strx_abort_sender_at_its_fault, ThirdCpu, "a third CPU aborts a sender that waits for its fault: code 7 for both";
    strx_abort_sender_at_partners_fault, ThirdCpu, "the sender while the receiver's fault is served";
    strx_abort_receiver_at_its_fault, ThirdCpu, "a receiver that waits for its fault";
    strx_abort_receiver_at_partners_fault, ThirdCpu, "the receiver while the sender's fault is served";
    strx_delete_sender_in_transfer, ThirdCpu, "a third CPU deletes the sender: the receiver's IPC ends";
    strx_delete_receiver_in_transfer, ThirdCpu, "a third CPU deletes the receiver: the sender's IPC ends";
    strx_timeout_expires, ThirdCpu, "a transfer timeout ends both, on whichever side the page is missing";
    strx_partners_are_moved, ThirdCpu, "a partner is moved while one waits for its pager, then the transfer aborted: both learn it, and then it works";
}

const LEN: u64 = 8192;

/// A transfer between two CPUs that hangs at one side's second page.
fn stuck(ctx: &mut Ctx, way: Way) -> TestResult<Stuck> {
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet_on_third()?);
    hang(ctx, way, sender, receiver)
}

fn strx_faults_on_both_sides(ctx: &mut Ctx) -> TestResult {
    const PAGES: u64 = 6;
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet_on_third()?);
    let len = PAGES * arena::PAGE;
    arena::fill(arena::page(64), len, 33);
    for sender_first in [true, false] {
        pager::reset();
        // Pages that a side has already do not fault again: another part of the window each time.
        let skip = if sender_first { 0 } else { PAGES };
        arena::fill(arena::page(64 + skip), len, 33);
        arena::wipe(arena::page(32 + skip), len, 0);
        pager::open(0, arena::page(64), 2 * len, Rights::RWX, Mode::Map);
        pager::open(1, arena::page(32), 2 * len, Rights::RWX, Mode::Map);
        let typed = string(arena::window(0) + skip * arena::PAGE, len);
        let brs = buffer(arena::window(1) + skip * arena::PAGE, len);
        let send = IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed);
        let receive = IpcCmd::receive(sender.id).brs(&brs);
        if sender_first {
            sender.start_ipc(&send)?;
            ctx.settle_all();
            receiver.start_ipc(&receive)?;
        } else {
            receiver.start_ipc(&receive)?;
            ctx.settle_all();
            sender.start_ipc(&send)?;
        }
        let (sent, got) = (sender.finish()?, receiver.finish()?);
        check!(!sent.tag.is_error(), "sender: {:?}", sent.ipc_error());
        check!(!got.tag.is_error(), "receiver: {:?}", got.ipc_error());
        check_eq!(arena::mismatch(arena::page(32 + skip), len, 33), None, "content");
        check!(pager::seen(0).faults >= PAGES, "{} faults of the sender", pager::seen(0).faults);
        check!(pager::seen(1).faults >= PAGES, "{} faults of the receiver", pager::seen(1).faults);
    }
    Ok(())
}

fn strx_abort_sender_at_its_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToRunner)?;
    abort(stuck.sender.id)?;
    check_aborted(&stuck)
}

fn strx_abort_sender_at_partners_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToPuppet)?;
    abort(stuck.sender.id)?;
    check_aborted(&stuck)
}

fn strx_abort_receiver_at_its_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToPuppet)?;
    abort(stuck.receiver.id)?;
    check_aborted(&stuck)
}

fn strx_abort_receiver_at_partners_fault(ctx: &mut Ctx) -> TestResult {
    let stuck = stuck(ctx, Way::ToRunner)?;
    abort(stuck.receiver.id)?;
    check_aborted(&stuck)
}

fn strx_delete_sender_in_transfer(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        let stuck = stuck(ctx, way)?;
        need!(thread::delete(stuck.sender.id));
        let error = stuck.receiver.finish()?.ipc_error();
        check_eq!(
            error.map(|e| (e.phase, e.code)),
            Some((Phase::Receive, IpcCode::Aborted)),
            "{way:?}"
        );
        pager::reset();
    }
    Ok(())
}

fn strx_delete_receiver_in_transfer(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        let stuck = stuck(ctx, way)?;
        need!(thread::delete(stuck.receiver.id));
        let error = stuck.sender.finish()?.ipc_error();
        check_eq!(
            error.map(|e| (e.phase, e.code)),
            Some((Phase::Send, IpcCode::Aborted)),
            "{way:?}"
        );
        pager::reset();
    }
    Ok(())
}

fn strx_timeout_expires(ctx: &mut Ctx) -> TestResult {
    for way in WAYS {
        let (sender, receiver) = (ctx.puppet()?, ctx.puppet_on_third()?);
        pager::open(0, arena::page(64), LEN, Rights::RWX, Mode::Hold);
        let (from, to) = match way {
            Way::ToRunner => (arena::window(0), arena::page(32)),
            Way::ToPuppet => (arena::page(32), arena::window(0)),
        };
        let (typed, brs) = (string(from, LEN), buffer(to, LEN));
        receiver.start_ipc(&IpcCmd::receive(sender.id).brs(&brs))?;
        let send = IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed);
        sender.start_ipc(&send.xfer(Time::period_us(20_000)))?;
        let (sent, got) = (sender.finish()?, receiver.finish()?);
        let code = |o: &crate::harness::Outcome| o.ipc_error().map(|e| (e.phase, e.code));
        check_eq!(code(&sent), Some((Phase::Send, IpcCode::XferTimeoutOwn)), "{way:?}");
        check_eq!(code(&got), Some((Phase::Receive, IpcCode::XferTimeoutPartner)), "{way:?}");
        pager::reset();
    }
    Ok(())
}

fn strx_partners_are_moved(ctx: &mut Ctx) -> TestResult {
    let (plain, window) = (arena::page(32), arena::page(64));
    for (way, moves_sender) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let stuck = stuck(ctx, way)?;
        let Stuck { sender, receiver } = &stuck;
        let moved = if moves_sender { sender.id } else { receiver.id };
        let to = Some(thread::my_cpu());
        need!(sys::schedule(moved, Schedule { processor: to, ..Schedule::default() }));
        abort(sender.id)?;
        check_aborted(&stuck)?;
        pager::set_mode(0, Mode::Map);
        let (from, to, source, target) = match way {
            Way::ToRunner => (arena::window(0), plain, window, plain),
            Way::ToPuppet => (plain, arena::window(0), plain, window),
        };
        arena::fill(source, LEN, 77);
        arena::wipe(target, LEN, 0);
        let (typed, brs) = (string(from, LEN), buffer(to, LEN));
        receiver.start_ipc(&IpcCmd::receive(sender.id).brs(&brs))?;
        sender.start_ipc(&IpcCmd::send(receiver.id).message(MsgTag::new(1, 0, 2), &typed))?;
        let (sent, got) = (sender.finish()?, receiver.finish()?);
        check!(!sent.tag.is_error(), "sender: {:?}", sent.ipc_error());
        check!(!got.tag.is_error(), "receiver: {:?}", got.ipc_error());
        check_eq!(arena::mismatch(target, LEN, 77), None, "content");
        pager::reset();
    }
    Ok(())
}
