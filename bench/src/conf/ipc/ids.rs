//! How partners are named: local and global ids, specifiers, reuse of numbers.

use crate::harness::{Ctx, IpcCmd, Place, TestResult};
use crate::{check, check_eq, tests};
use libl4::{IpcCode, Phase, ThreadId, ThreadNo, Time};

tests! {
    ipc_from_is_local_inside_a_space, Once, "from is the local id of a sender in the own space, however it was named";
    ipc_from_is_global_across_spaces, Once, "from is the global id of a sender in another space";
    ipc_destination_by_local_id, Once, "a destination may be named by local id";
    ipc_closed_receive_by_local_id, Once, "a closed receive may name its partner by local id";
    ipc_closed_receive_by_global_id, All, "a closed receive may name its partner by global id";
    ipc_closed_receive_ignores_others, All, "a closed receive leaves other senders queued";
    ipc_any_local_takes_local, Once, "anylocalthread matches a sender of the own space";
    ipc_any_local_ignores_others, Once, "anylocalthread leaves senders of other spaces queued";
    ipc_wrong_version_is_no_partner, All, "an id with another version names nobody";
    ipc_reused_number_is_another_thread, Once, "after deletion and re-creation the old id names nobody";
    ipc_own_id_in_utcb, All, "MyGlobalId and ProcessorNo in the partner's UTCB are right";
    ipc_special_destinations_fail, Once, "anythread and anylocalthread as destinations name nobody";
}

fn ipc_from_is_local_inside_a_space(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    for specifier in [partner.id, partner.local_id(), ThreadId::ANY, ThreadId::ANY_LOCAL] {
        partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[1]))?;
        let got = ctx.ipc(&IpcCmd::receive(specifier));
        check!(!got.tag.is_error(), "{specifier}: {:?}", got.ipc_error());
        check_eq!(got.from, partner.local_id(), "from for {specifier}");
        check!(!ctx.ipc(&IpcCmd::send(partner.id)).tag.is_error());
        check_eq!(partner.finish()?.from, libl4::thread::my_local_id(), "from of the reply");
    }
    Ok(())
}

fn ipc_from_is_global_across_spaces(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Remote)?;
    for specifier in [partner.id, ThreadId::ANY] {
        partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[1]))?;
        let got = ctx.ipc(&IpcCmd::receive(specifier));
        check!(!got.tag.is_error(), "{specifier}: {:?}", got.ipc_error());
        check_eq!(got.from, partner.id, "from for {specifier}");
        check!(!ctx.ipc(&IpcCmd::send(partner.id)).tag.is_error());
        check_eq!(partner.finish()?.from, ctx.me(), "from of the reply");
    }
    Ok(())
}

fn ipc_destination_by_local_id(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    partner.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    let sent = ctx.ipc(&IpcCmd::send(partner.local_id()).words(1, &[7]));
    check!(!sent.tag.is_error(), "{:?}", sent.ipc_error());
    let got = partner.finish()?;
    check_eq!((got.mr[1], got.from), (7, libl4::thread::my_local_id()));
    Ok(())
}

fn ipc_closed_receive_by_local_id(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    // Waiting before the sender comes, and the sender first.
    partner.start_ipc(&IpcCmd::receive(libl4::thread::my_local_id()))?;
    ctx.settle();
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[8])).tag.is_error());
    check_eq!(partner.finish()?.mr[1], 8);
    partner.start_ipc(&IpcCmd::send(libl4::thread::my_local_id()).words(1, &[9]))?;
    ctx.settle();
    let got = ctx.ipc(&IpcCmd::receive(partner.local_id()));
    check_eq!(got.mr[1], 9);
    partner.finish()?;
    Ok(())
}

fn ipc_closed_receive_by_global_id(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    ctx.settle();
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[8])).tag.is_error());
    let got = partner.finish()?;
    check_eq!((got.mr[1], got.from), (8, ctx.me_seen_by_partner()));
    Ok(())
}

fn ipc_closed_receive_ignores_others(ctx: &mut Ctx) -> TestResult {
    let (wanted, other) = (ctx.puppet()?, ctx.puppet()?);
    other.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[1]))?;
    ctx.settle();
    let none = ctx.ipc(&IpcCmd::receive(wanted.id).timeouts(Time::NEVER, Time::period_us(5_000)));
    let error = none.ipc_error().map(|e| (e.phase, e.code));
    check_eq!(error, Some((Phase::Receive, IpcCode::Timeout)));
    wanted.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[2]))?;
    ctx.settle();
    check_eq!(ctx.ipc(&IpcCmd::receive(wanted.id)).mr[1], 2, "from the wanted one");
    check_eq!(ctx.ipc(&IpcCmd::receive(ThreadId::ANY)).mr[1], 1, "the other one afterwards");
    Ok(())
}

fn ipc_any_local_takes_local(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]))?;
    ctx.settle();
    check_eq!(ctx.ipc(&IpcCmd::receive(ThreadId::ANY_LOCAL)).mr[1], 5, "sender first");
    partner.finish()?;
    partner.start_ipc(&IpcCmd::receive(ThreadId::ANY_LOCAL))?;
    ctx.settle();
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[6])).tag.is_error());
    check_eq!(partner.finish()?.mr[1], 6, "receiver first");
    Ok(())
}

fn ipc_any_local_ignores_others(ctx: &mut Ctx) -> TestResult {
    let far = ctx.puppet_at(Place::Remote)?;
    far.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[5]))?;
    ctx.settle();
    let wait = IpcCmd::receive(ThreadId::ANY_LOCAL).timeouts(Time::NEVER, Time::period_us(5_000));
    check!(ctx.ipc(&wait).tag.is_error(), "a foreign sender matched, sender first");
    check_eq!(ctx.ipc(&IpcCmd::receive(ThreadId::ANY)).mr[1], 5);
    far.finish()?;
    far.start_ipc(&IpcCmd::receive(ThreadId::ANY_LOCAL))?;
    ctx.settle();
    let send = IpcCmd::send(far.id).timeouts(Time::period_us(5_000), Time::NEVER);
    check!(ctx.ipc(&send).tag.is_error(), "a foreign sender matched, receiver first");
    Ok(())
}

fn ipc_wrong_version_is_no_partner(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    let wrong = ThreadId::global(partner.id.number(), partner.id.version() + 2);
    let sent = ctx.ipc(&IpcCmd::send(wrong).words(1, &[1]));
    let error = sent.ipc_error().map(|e| (e.phase, e.code));
    check_eq!(error, Some((Phase::Send, IpcCode::NoPartner)));
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(1, &[2])).tag.is_error());
    check_eq!(partner.finish()?.mr[1], 2);
    Ok(())
}

fn ipc_reused_number_is_another_thread(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let utcb = ctx.spare_utcb(id);
    let renewed = ThreadId::global(id.number(), id.version() + 2);
    check!(libl4::thread::create_local(id, utcb, ctx.me()).is_ok());
    check!(libl4::thread::delete(id).is_ok());
    check!(libl4::thread::create_local(renewed, utcb, ctx.me()).is_ok());
    let sent = ctx.ipc(&IpcCmd::send(id).timeouts(Time::ZERO, Time::NEVER));
    check_eq!(sent.ipc_error().map(|e| e.code), Some(IpcCode::NoPartner), "old id");
    // The new thread waits for its start-up message from us.
    let stack_top = crate::harness::arena::page(4);
    let words = [0x1000, stack_top];
    let start = IpcCmd::send(renewed).words(0, &words).timeouts(Time::ZERO, Time::NEVER);
    check!(!ctx.ipc(&start).tag.is_error(), "new id");
    check!(libl4::thread::delete(renewed).is_ok());
    Ok(())
}

fn ipc_own_id_in_utcb(ctx: &mut Ctx) -> TestResult {
    use crate::harness::puppet::Op;
    let partner = ctx.puppet()?;
    let id = partner.run(Op::ReadTcr, &[l4abi::utcb::word::MY_GLOBAL_ID as u64])?;
    check_eq!(id.results[0], partner.id.raw(), "MyGlobalId");
    let cpu = partner.run(Op::ReadTcr, &[l4abi::utcb::word::PROCESSOR_NO as u64])?;
    let want = ctx.place().cpu().map(|cpu| u64::from(cpu.0));
    check_eq!(Some(cpu.results[0]), want, "ProcessorNo");
    Ok(())
}

fn ipc_special_destinations_fail(ctx: &mut Ctx) -> TestResult {
    let free = ThreadId::global(ThreadNo((1 << 18) - 1), 1);
    for to in [ThreadId::ANY, ThreadId::ANY_LOCAL, free] {
        let sent = ctx.ipc(&IpcCmd::send(to).words(1, &[1]));
        let error = sent.ipc_error().map(|e| (e.phase, e.code));
        check_eq!(error, Some((Phase::Send, IpcCode::NoPartner)), "{to}");
    }
    Ok(())
}
