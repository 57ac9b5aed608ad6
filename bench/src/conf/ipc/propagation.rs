//! Propagation (ref 5.4).

use crate::harness::{Ctx, IpcCmd, Outcome, Place, TestResult};
use crate::{check, check_eq, tests};
use core::sync::atomic::Ordering;
use libl4::{ThreadId, Time, arch::utcb};

tests! {
    prop_virtual_sender_of_same_space, OtherSpace, "a message in the name of a thread of the sender's space arrives as that thread's";
    prop_inside_one_space, Once, "sender, virtual sender and receiver in one space: from is the local id of the virtual sender";
    prop_receiver_in_senders_space, Once, "a thread may speak for a foreign one to a receiver of its own space";
    prop_not_allowed_is_dropped, OtherSpace, "a virtual sender of a third space is ignored: the message comes as the sender's own";
    prop_unknown_virtual_sender, All, "an unknown virtual sender is ignored";
    prop_actual_sender, OtherSpace, "ActualSender is the real sender's global id";
    prop_closed_receive_matches_virtual, OtherSpace, "a closed receive from the virtual sender matches";
    prop_queued_matches_virtual, OtherSpace, "a queued propagated message matches a closed receive from the virtual sender";
    prop_reply_goes_to_virtual_sender, Once, "a virtual sender that waits for the real one gets the receiver's reply";
    prop_reply_across_spaces, Once, "the same with the receiver in another space";
}

fn check_from(got: &Outcome, from: ThreadId, propagated: bool) -> TestResult {
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!(got.from, from, "from");
    check_eq!(got.tag.is_propagated(), propagated, "p");
    Ok(())
}

fn prop_virtual_sender_of_same_space(ctx: &mut Ctx) -> TestResult {
    let sender = ctx.puppet()?;
    let named = ctx.puppet_beside(&sender)?;
    for sender_first in [true, false] {
        let send = IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named.id);
        sender.start_ipc(&send)?;
        if sender_first {
            ctx.settle();
        }
        let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
        check_from(&got, named.id, true)?;
        check_eq!(got.mr[1], 5);
        check!(!sender.finish()?.tag.is_error());
    }
    Ok(())
}

fn prop_inside_one_space(ctx: &mut Ctx) -> TestResult {
    let (sender, named) = (ctx.puppet_at(Place::Local)?, ctx.puppet_at(Place::Local)?);
    sender.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named.id))?;
    let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
    check_from(&got, named.local_id(), true)
}

fn prop_receiver_in_senders_space(ctx: &mut Ctx) -> TestResult {
    let (sender, named) = (ctx.puppet_at(Place::Local)?, ctx.puppet_at(Place::Remote)?);
    sender.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named.id))?;
    let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
    check_from(&got, named.id, true)
}

fn prop_not_allowed_is_dropped(ctx: &mut Ctx) -> TestResult {
    let (sender, third) = (ctx.puppet()?, ctx.puppet()?);
    for named in [third.id, crate::harness::ids::pager(), ctx.me()] {
        sender.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named))?;
        let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
        check_from(&got, sender.id, false)?;
        check_eq!(got.mr[1], 5);
        sender.finish()?;
    }
    Ok(())
}

fn prop_unknown_virtual_sender(ctx: &mut Ctx) -> TestResult {
    let sender = ctx.puppet()?;
    let nobody = ctx.spare_id()?;
    for named in [nobody, ThreadId::NIL, ThreadId::ANY] {
        sender.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named))?;
        let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
        check_from(&got, ctx.seen(&sender), false)?;
        sender.finish()?;
    }
    Ok(())
}

fn prop_actual_sender(ctx: &mut Ctx) -> TestResult {
    let sender = ctx.puppet()?;
    let named = ctx.puppet_beside(&sender)?;
    sender.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named.id))?;
    let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
    check_from(&got, named.id, true)?;
    check_eq!(utcb().sender.load(Ordering::Relaxed), sender.id.raw(), "ActualSender");
    Ok(())
}

fn prop_closed_receive_matches_virtual(ctx: &mut Ctx) -> TestResult {
    let sender = ctx.puppet()?;
    let named = ctx.puppet_beside(&sender)?;
    // The runner waits before the sender starts: a third puppet starts it late.
    let send = IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named.id);
    sender.start_ipc(&send)?;
    let got = ctx.ipc(&IpcCmd::receive(named.id));
    check_from(&got, named.id, true)
}

fn prop_queued_matches_virtual(ctx: &mut Ctx) -> TestResult {
    let sender = ctx.puppet()?;
    let named = ctx.puppet_beside(&sender)?;
    sender.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]).propagate(named.id))?;
    ctx.settle();
    let got = ctx.ipc(&IpcCmd::receive(named.id).timeouts(Time::NEVER, Time::period_us(50_000)));
    check_from(&got, named.id, true)
}

/// The runner forwards a request of `client` (in its space) to a server, which answers the client.
fn forwarded(ctx: &mut Ctx, server_place: Place) -> TestResult {
    let client = ctx.puppet_at(Place::Local)?;
    let server = ctx.puppet_at(server_place)?;
    client.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[11]))?;
    let request = ctx.ipc(&IpcCmd::receive(client.id));
    check_eq!(request.mr[1], 11);
    server.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    let forward = IpcCmd::send(server.id).words(2, &[12]).propagate(client.id);
    let sent = ctx.ipc(&forward);
    check!(!sent.tag.is_error(), "forward: {:?}", sent.ipc_error());
    let got = server.finish()?;
    let seen = if server_place.is_local() { client.local_id() } else { client.id };
    check_from(&got, seen, true)?;
    let reply = IpcCmd::send(seen).words(3, &[13]).timeouts(Time::ZERO, Time::NEVER);
    let replied = server.run_ipc(&reply)?;
    check!(!replied.tag.is_error(), "reply: {:?}", replied.ipc_error());
    let answer = client.finish()?;
    check!(!answer.tag.is_error(), "client: {:?}", answer.ipc_error());
    check_eq!(answer.mr[1], 13);
    let server_seen = if server_place.is_local() { server.local_id() } else { server.id };
    check_eq!(answer.from, server_seen, "from of the reply");
    Ok(())
}

fn prop_reply_goes_to_virtual_sender(ctx: &mut Ctx) -> TestResult {
    forwarded(ctx, Place::Local)
}

fn prop_reply_across_spaces(ctx: &mut Ctx) -> TestResult {
    forwarded(ctx, Place::Remote)
}
