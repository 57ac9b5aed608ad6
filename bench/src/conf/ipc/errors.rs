//! Partners that do not exist and messages that do not fit.

use crate::harness::{Ctx, IpcCmd, Place, TestResult};
use crate::{check, check_eq, tests};
use l4abi::item;
use libl4::{Fpage, IpcCode, MsgTag, Phase, Rights, ThreadId, Time, thread};

tests! {
    ipc_send_to_unknown, Once, "a send to a thread that does not exist fails with code 2; the tag is E alone";
    ipc_receive_from_unknown, Once, "a closed receive from a thread that does not exist fails with code 2, phase 1";
    ipc_send_to_inactive_waits, Once, "a send to an inactive thread waits until its timeout";
    ipc_too_many_words, All, "u + t above 63 is overflow for both partners";
    ipc_truncated_item, All, "an item cut off by t is overflow for both partners";
    ipc_unknown_item_type, All, "an item of unknown type is overflow for both partners";
    ipc_map_without_window, All, "a map item to a receiver without a window is overflow for both";
    ipc_string_without_acceptor, All, "a string to a receiver that accepts none is overflow for both, offset 0";
    ipc_words_arrive_before_overflow, All, "untyped words in front of a bad item have arrived";
    ipc_error_leaves_partners_usable, All, "after an overflow both partners exchange messages as before";
    ipc_deleted_receiver_fails_sender, All, "deleting a thread fails the senders in its queue with code 2";
    ipc_deleted_sender_leaves_queue, All, "deleting a queued sender removes it from the queue";
    ipc_local_id_of_nobody, Once, "a local id of a free UTCB slot names nobody";
    ipc_stay_on_cpu_same, Once, "the option not to cross has no effect on the same CPU";
    ipc_stay_on_cpu_other, OtherCpu, "the option not to cross fails the send and tells the partner's CPU";
    ipc_cross_flag, OtherCpu, "X is set in a tag from another CPU";
}

fn error_of(got: &crate::harness::Outcome) -> Option<(Phase, IpcCode, u64)> {
    got.ipc_error().map(|e| (e.phase, e.code, e.offset))
}

fn ipc_send_to_unknown(ctx: &mut Ctx) -> TestResult {
    let nobody = ctx.spare_id()?;
    let got = ctx.ipc(&IpcCmd::send(nobody).words(3, &[1]));
    check_eq!(error_of(&got), Some((Phase::Send, IpcCode::NoPartner, 0)));
    check_eq!(got.tag, MsgTag::ERROR, "tag");
    Ok(())
}

fn ipc_receive_from_unknown(ctx: &mut Ctx) -> TestResult {
    let nobody = ctx.spare_id()?;
    let got = ctx.ipc(&IpcCmd::receive(nobody));
    check_eq!(error_of(&got), Some((Phase::Receive, IpcCode::NoPartner, 0)));
    check_eq!(got.tag, MsgTag::ERROR, "tag");
    Ok(())
}

fn ipc_send_to_inactive_waits(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let create = libl4::sys::ThreadControl {
        dest: id,
        space: ctx.me(),
        scheduler: ctx.me(),
        pager: ThreadId::NIL,
        utcb: Some(ctx.spare_utcb(id)),
    };
    check!(libl4::sys::thread_control(create).is_ok());
    let got = ctx.ipc(&IpcCmd::send(id).timeouts(Time::period_us(5_000), Time::NEVER));
    check_eq!(error_of(&got), Some((Phase::Send, IpcCode::Timeout, 0)));
    check!(thread::delete(id).is_ok());
    Ok(())
}

/// Sends a bad message from partner to runner and checks that both get overflow at offset 0.
fn overflow(ctx: &mut Ctx, tag: MsgTag, words: &[u64], brs: &[u64]) -> TestResult {
    let partner = ctx.puppet()?;
    for receiver_first in [false, true] {
        if receiver_first {
            // The partner receives what the runner sends.
            partner.start_ipc(&IpcCmd::receive(ctx.me()).brs(brs))?;
            ctx.settle();
            let sent = ctx.ipc(&IpcCmd::send(partner.id).message(tag, words));
            check_eq!(error_of(&sent), Some((Phase::Send, IpcCode::Overflow, 0)), "runner sends");
            let got = partner.finish()?;
            check_eq!(error_of(&got), Some((Phase::Receive, IpcCode::Overflow, 0)), "partner");
        } else {
            partner.start_ipc(&IpcCmd::send(ctx.me()).message(tag, words))?;
            ctx.settle();
            let got = ctx.ipc(&IpcCmd::receive(partner.id).brs(brs));
            check_eq!(error_of(&got), Some((Phase::Receive, IpcCode::Overflow, 0)), "runner");
            let sent = partner.finish()?;
            check_eq!(error_of(&sent), Some((Phase::Send, IpcCode::Overflow, 0)), "partner sends");
        }
    }
    Ok(())
}

fn ipc_too_many_words(ctx: &mut Ctx) -> TestResult {
    overflow(ctx, MsgTag::new(1, 40, 40), &[0; 63], &[0x10])
}

fn ipc_truncated_item(ctx: &mut Ctx) -> TestResult {
    overflow(ctx, MsgTag::new(1, 0, 1), &item::map_item(0, Fpage::NIL), &[0x10])
}

fn ipc_unknown_item_type(ctx: &mut Ctx) -> TestResult {
    overflow(ctx, MsgTag::new(1, 0, 2), &[0xC, 0], &[0x11, 0])
}

fn ipc_map_without_window(ctx: &mut Ctx) -> TestResult {
    let page = Fpage::memory(crate::harness::arena::page(0), 12, Rights::RWX);
    overflow(ctx, MsgTag::new(1, 0, 2), &item::map_item(0, page), &[0])
}

fn ipc_string_without_acceptor(ctx: &mut Ctx) -> TestResult {
    let string = item::string_item(crate::harness::arena::page(0), 16);
    overflow(ctx, MsgTag::new(1, 0, 2), &string, &[0x10])
}

fn ipc_words_arrive_before_overflow(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let mut words = [0u64; 12];
    for (i, word) in words.iter_mut().enumerate().take(10) {
        *word = 100 + i as u64;
    }
    words[10] = 0xC;
    partner.start_ipc(&IpcCmd::send(ctx.me()).message(MsgTag::new(1, 10, 2), &words))?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check_eq!(error_of(&got), Some((Phase::Receive, IpcCode::Overflow, 0)));
    check_eq!(got.tag.untyped(), 10, "u of the sender's tag");
    for i in 1..=10 {
        check_eq!(got.mr[i], 99 + i as u64, "MR{i}");
    }
    Ok(())
}

fn ipc_error_leaves_partners_usable(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for round in 0..20 {
        partner.start_ipc(&IpcCmd::call(ctx.me()).message(MsgTag::new(1, 0, 2), &[0xC, 0]))?;
        let bad = ctx.ipc(&IpcCmd::receive(partner.id));
        check_eq!(error_of(&bad), Some((Phase::Receive, IpcCode::Overflow, 0)));
        check_eq!(error_of(&partner.finish()?), Some((Phase::Send, IpcCode::Overflow, 0)));
        partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[round]))?;
        check_eq!(ctx.ipc(&IpcCmd::receive(partner.id)).mr[1], round);
        partner.finish()?;
    }
    Ok(())
}

fn ipc_deleted_receiver_fails_sender(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    check!(thread::create_local(id, ctx.spare_utcb(id), crate::harness::ids::pager()).is_ok());
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    one.start_ipc(&IpcCmd::send(id).words(1, &[1]))?;
    two.start_ipc(&IpcCmd::call(id).words(1, &[1]))?;
    ctx.settle();
    check!(thread::delete(id).is_ok());
    for sender in [one, two] {
        let got = sender.finish()?;
        check_eq!(error_of(&got), Some((Phase::Send, IpcCode::NoPartner, 0)));
        check!(got.took_us < 1_500_000, "it timed out instead");
    }
    Ok(())
}

fn ipc_deleted_sender_leaves_queue(ctx: &mut Ctx) -> TestResult {
    let (first, second) = (ctx.puppet()?, ctx.puppet()?);
    first.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[1]))?;
    ctx.settle();
    second.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[2]))?;
    ctx.settle();
    check!(thread::delete(first.id).is_ok());
    let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
    check_eq!(got.mr[1], 2);
    let none = ctx.ipc(&IpcCmd::receive(ThreadId::ANY).timeouts(Time::NEVER, Time::ZERO));
    check_eq!(error_of(&none), Some((Phase::Receive, IpcCode::Timeout, 0)));
    Ok(())
}

fn ipc_local_id_of_nobody(ctx: &mut Ctx) -> TestResult {
    let free = ThreadId::local(l4abi::utcb::ROOT_UTCB_AREA.0 + 200 * 1024 + 512);
    let got = ctx.ipc(&IpcCmd::send(free).timeouts(Time::ZERO, Time::NEVER));
    check_eq!(error_of(&got), Some((Phase::Send, IpcCode::NoPartner, 0)));
    Ok(())
}

fn ipc_stay_on_cpu_same(ctx: &mut Ctx) -> TestResult {
    for place in [Place::Local, Place::Remote] {
        let partner = ctx.puppet_at(place)?;
        partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
        ctx.settle();
        let sent = libl4::ipc::staying_on_cpu(|| ctx.ipc(&IpcCmd::send(partner.id).words(1, &[3])));
        check!(!sent.tag.is_error(), "{place:?}: {:?}", sent.ipc_error());
        check_eq!(partner.finish()?.mr[1], 3);
    }
    Ok(())
}

fn ipc_stay_on_cpu_other(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let want = ctx.place().cpu();
    for waiting in [false, true] {
        if waiting {
            partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
            ctx.settle();
        }
        let sent = libl4::ipc::staying_on_cpu(|| ctx.ipc(&IpcCmd::send(partner.id).words(1, &[3])));
        let Some(error) = sent.ipc_error() else {
            return Err(crate::harness::fail(line!(), format_args!("the message crossed")));
        };
        check_eq!((error.phase, error.code), (Phase::Send, IpcCode::WouldCross));
        check_eq!(l4abi::ext::crossing_cpu(error), want, "the partner's CPU");
    }
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[4])).tag.is_error());
    check_eq!(partner.finish()?.mr[1], 4, "without the option it arrives");
    Ok(())
}

fn ipc_cross_flag(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for sender_first in [true, false] {
        if sender_first {
            partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[1]))?;
            ctx.settle();
            check!(ctx.ipc(&IpcCmd::receive(partner.id)).tag.is_cross_cpu(), "to the runner");
        } else {
            partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
            ctx.settle();
            check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[1])).tag.is_error());
        }
        let got = partner.finish()?;
        check!(sender_first || got.tag.is_cross_cpu(), "to the partner");
    }
    Ok(())
}
