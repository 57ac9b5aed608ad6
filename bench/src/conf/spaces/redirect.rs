//! Redirectors (ref 5.5).

use crate::harness::ctx::{kip_area, utcb_area};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::tag::TagFlags;
use l4abi::utcb::word;
use libl4::{IpcCode, ThreadId, Time, sys, thread};

tests! {
    sp_redirector_gets_all, OtherSpace, "with a redirector what leaves the space goes to it: r is set, IntendedReceiver and from are right";
    sp_redirector_later_threads, OtherSpace, "threads that join the space later are redirected too";
    sp_redirector_exceptions, OtherSpace, "messages inside the space and to the redirector's own space go straight";
    sp_redirector_forwards, OtherSpace, "the redirector forwards by propagation, and the reply reaches the caller";
    sp_redirector_removed, OtherSpace, "anythread removes the redirector, nil leaves it";
    sp_redirector_gone, OtherSpace, "nothing leaves a space whose redirector was deleted: no partner";
}

fn set(space: &Puppet, redirector: ThreadId) -> TestResult {
    need!(sys::space_control(space.id, 0, kip_area(), utcb_area(), redirector));
    Ok(())
}

/// What a puppet that was sent a message by `from` says of it; `intended` is 0 if it must not be redirected.
fn check_got(taker: &Puppet, from: &Puppet, intended: u64) -> TestResult<Outcome> {
    let got = taker.finish()?;
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!(got.from, from.id, "from");
    let redirected = got.tag.flags().contains(TagFlags::REDIRECTED);
    check_eq!(redirected, intended != 0, "r");
    if intended != 0 {
        let told = taker.run(Op::ReadTcr, &[word::INTENDED_RECEIVER as u64])?.results[0];
        check_eq!(told, intended, "IntendedReceiver");
    }
    Ok(got)
}

fn sp_redirector_gets_all(ctx: &mut Ctx) -> TestResult {
    let (sender, redirector, dest) = (ctx.puppet()?, ctx.puppet()?, ctx.puppet()?);
    // The sender waits for its next command, ready for the fast path, when this happens.
    ctx.settle();
    set(&sender, redirector.id)?;
    for redirector_first in [true, false, true] {
        if redirector_first {
            redirector.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
            ctx.settle();
        }
        sender.start_ipc(&IpcCmd::send(dest.id).words(3, &[7, 8]))?;
        if !redirector_first {
            ctx.settle();
            redirector.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
        }
        let got = check_got(&redirector, &sender, dest.id.raw())?;
        check_eq!((got.tag.label(), got.mr[1], got.mr[2]), (3, 7, 8));
        check!(!sender.finish()?.tag.is_error(), "the send");
    }
    Ok(())
}

fn sp_redirector_later_threads(ctx: &mut Ctx) -> TestResult {
    let (first, redirector, dest) = (ctx.puppet()?, ctx.puppet()?, ctx.puppet()?);
    set(&first, redirector.id)?;
    let later = ctx.puppet_beside(&first)?;
    redirector.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    later.start_ipc(&IpcCmd::call(dest.id).timeouts(Time::NEVER, Time::ZERO))?;
    check_got(&redirector, &later, dest.id.raw())?;
    Ok(())
}

fn sp_redirector_exceptions(ctx: &mut Ctx) -> TestResult {
    let (sender, redirector) = (ctx.puppet()?, ctx.puppet()?);
    let sibling = ctx.puppet_beside(&redirector)?;
    let neighbour = ctx.puppet_beside(&sender)?;
    set(&sender, redirector.id)?;
    for taker in [&redirector, &sibling] {
        taker.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
        sender.start_ipc(&IpcCmd::send(taker.id))?;
        check_got(taker, &sender, 0)?;
        sender.finish()?;
    }
    neighbour.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    sender.start_ipc(&IpcCmd::send(neighbour.id))?;
    let got = neighbour.finish()?;
    check_eq!(got.from, sender.local_id(), "from");
    check!(!got.tag.flags().contains(TagFlags::REDIRECTED), "r inside the space");
    Ok(())
}

fn sp_redirector_forwards(ctx: &mut Ctx) -> TestResult {
    let (client, redirector, server) = (ctx.puppet()?, ctx.puppet()?, ctx.puppet()?);
    set(&client, redirector.id)?;
    redirector.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    server.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    client.start_ipc(&IpcCmd::call(server.id).words(4, &[1]))?;
    check_got(&redirector, &client, server.id.raw())?;
    let forward = IpcCmd::send(server.id).words(4, &[1]).propagate(client.id);
    redirector.start_ipc(&forward)?;
    let got = server.finish()?;
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!((got.from, got.tag.is_propagated()), (client.id, true), "from, p");
    server.start_ipc(&IpcCmd::send(client.id).words(5, &[2]))?;
    let reply = client.finish()?;
    check!(!reply.tag.is_error(), "{:?}", reply.ipc_error());
    check_eq!((reply.from, reply.mr[1]), (server.id, 2), "the reply");
    Ok(())
}

fn sp_redirector_removed(ctx: &mut Ctx) -> TestResult {
    let (sender, redirector, dest) = (ctx.puppet()?, ctx.puppet()?, ctx.puppet()?);
    set(&sender, redirector.id)?;
    set(&sender, ThreadId::NIL)?;
    redirector.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    sender.start_ipc(&IpcCmd::send(dest.id))?;
    check_got(&redirector, &sender, dest.id.raw())?;
    sender.finish()?;
    set(&sender, ThreadId::ANY)?;
    dest.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    sender.start_ipc(&IpcCmd::send(dest.id))?;
    check_got(&dest, &sender, 0)?;
    Ok(())
}

fn sp_redirector_gone(ctx: &mut Ctx) -> TestResult {
    let (sender, redirector, dest) = (ctx.puppet()?, ctx.puppet()?, ctx.puppet()?);
    set(&sender, redirector.id)?;
    need!(thread::delete(redirector.id));
    sender.start_ipc(&IpcCmd::send(dest.id))?;
    let failed = sender.finish()?.ipc_error();
    check_eq!(failed.map(|e| e.code), Some(IpcCode::NoPartner), "error");
    Ok(())
}
