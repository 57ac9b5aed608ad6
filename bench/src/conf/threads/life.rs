//! What works.

use super::{code, control, pager};
use crate::harness::ctx::arena_stack;
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, PATIENCE, Place, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::utcb::word;
use libl4::pager::start_message;
use libl4::sys::{self, Exregs, ThreadControl};
use libl4::{ErrorCode, IpcCode, Phase, ThreadId, Time, arch, ipc, thread};

tests! {
    thr_create_then_activate, Once, "a thread is created inactive and activated by a second call";
    thr_create_active, Once, "creation and activation in one call";
    thr_start_message, Once, "the start-up message from the pager gives IP and SP";
    thr_start_message_only_from_pager, Once, "another thread's message does not start it";
    thr_start_by_exregs, Once, "ExchangeRegisters starts a thread without a message";
    thr_initial_utcb, All, "initial TCRs: id, processor, pager set, everything else zero";
    thr_utcb_is_fresh_after_reuse, Once, "a new thread in a used UTCB slot finds initial values";
    thr_set_pager, All, "ThreadControl of an active thread sets the pager TCR";
    thr_new_version, Once, "a new version replaces the old one at once, also in the UTCB";
    thr_new_version_aborts_ipc, Once, "a version change aborts an ongoing IPC";
    thr_space_by_local_id, Once, "the space specifier may be a local id";
    thr_delete_unknown, Once, "deleting a thread that does not exist succeeds";
    thr_delete_running, All, "deleting a spinning thread stops it";
    thr_delete_waiting, All, "deleting a waiting thread; its number can be used again";
    thr_delete_at_fault, All, "deleting a thread that waits for a fault reply";
    thr_delete_many, Once, "two hundred threads created and deleted";
    thr_migrate_inactive, Once, "an inactive thread moves to another space";
    thr_migrate_active, Once, "an active thread moves to another space and takes its UTCB along";
}

/// Sends its argument to the runner and sleeps.
extern "C" fn report(arg: u64) -> ! {
    let runner = crate::harness::ids::of_slot(crate::harness::ids::RUNNER);
    let mut message = libl4::msg::Writer::here();
    message.word(arg);
    let _ = ipc::send(runner, PATIENCE, message.tag(0x4E));
    thread::sleep_forever()
}

fn check_reported(ctx: &Ctx, id: ThreadId, arg: u64) -> TestResult {
    let got = ctx.ipc(&IpcCmd::receive(id));
    check!(!got.tag.is_error(), "no report: {:?}", got.ipc_error());
    check_eq!((got.tag.label(), got.mr[1]), (0x4E, arg));
    Ok(())
}

fn thr_create_then_activate(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(sys::thread_control(control(ctx, id)));
    check_eq!(
        code(sys::exchange_registers(id, Exregs::default())),
        Some(ErrorCode::InvalidThread),
        "still inactive"
    );
    need!(sys::thread_control(ThreadControl { pager: pager(), utcb: None, ..control(ctx, id) }));
    need!(thread::start(id, arch::trampoline_ip(), arena_stack(0, report, 1)));
    check_reported(ctx, id, 1)
}

fn thr_create_active(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(thread::create_local(id, ctx.spare_utcb(id), pager()));
    need!(thread::start(id, arch::trampoline_ip(), arena_stack(0, report, 2)));
    check_reported(ctx, id, 2)
}

fn thr_start_message(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(thread::create_local(id, ctx.spare_utcb(id), ctx.me()));
    need!(start_message(id, arch::trampoline_ip(), arena_stack(0, report, 3)));
    check_reported(ctx, id, 3)
}

fn thr_start_message_only_from_pager(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(thread::create_local(id, ctx.spare_utcb(id), pager()));
    let words = [arch::trampoline_ip(), arena_stack(0, report, 4)];
    let send = IpcCmd::send(id).words(0, &words);
    let got = ctx.ipc(&send.timeouts(Time::period_us(5_000), Time::NEVER));
    let error = got.ipc_error().map(|e| (e.phase, e.code));
    check_eq!(error, Some((Phase::Send, IpcCode::Timeout)), "from the runner");
    need!(crate::harness::pager::start(id, words[0], words[1]));
    check_reported(ctx, id, 4)
}

fn thr_start_by_exregs(ctx: &mut Ctx) -> TestResult {
    for (n, arg) in [(0u64, 10u64), (1, 11)] {
        let id = ctx.spare_id()?;
        need!(thread::create_local(id, ctx.spare_utcb(id), pager()));
        need!(thread::start(id, arch::trampoline_ip(), arena_stack(n, report, arg)));
        check_reported(ctx, id, arg)?;
    }
    Ok(())
}

fn thr_initial_utcb(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let read = |index: isize| partner.run(Op::ReadTcr, &[index as u64]).map(|o| o.results[0]);
    check_eq!(read(word::MY_GLOBAL_ID)?, partner.id.raw(), "MyGlobalId");
    check_eq!(read(word::PAGER)?, pager().raw(), "Pager");
    for (index, name) in [
        (word::EXCEPTION_HANDLER, "ExceptionHandler"),
        (word::USER_DEFINED_HANDLE, "UserDefinedHandle"),
        (word::FLAGS, "flags"),
        (word::XFER_TIMEOUTS, "XferTimeouts"),
        (word::THREAD_WORD0, "ThreadWord0"),
        (word::THREAD_WORD1, "ThreadWord1"),
    ] {
        check_eq!(read(index)?, 0, "{name}");
    }
    Ok(())
}

fn thr_utcb_is_fresh_after_reuse(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let location = ctx.spare_utcb(id);
    need!(thread::create_local(id, location, pager()));
    // Words of the slot, written from outside as the space may.
    let tcr = |index: isize| (location + 512).wrapping_add_signed(8 * index as i64);
    for index in [word::EXCEPTION_HANDLER, word::XFER_TIMEOUTS, word::THREAD_WORD0, word::FLAGS] {
        arch::poke(tcr(index), 0x5555);
    }
    need!(thread::delete(id));
    let renewed = ThreadId::global(id.number(), id.version() + 2);
    need!(thread::create_local(renewed, location, pager()));
    for index in [word::EXCEPTION_HANDLER, word::XFER_TIMEOUTS, word::FLAGS] {
        check_eq!(arch::peek(tcr(index)), 0, "word {index}");
    }
    check_eq!(arch::peek(tcr(word::MY_GLOBAL_ID)), renewed.raw());
    need!(thread::delete(renewed));
    Ok(())
}

fn thr_set_pager(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    // Its first faults are for the harness.
    ctx.settle();
    need!(sys::thread_control(ThreadControl {
        dest: partner.id,
        space: partner.id,
        scheduler: ThreadId::NIL,
        pager: ctx.me(),
        utcb: None,
    }));
    let pager = partner.run(Op::ReadTcr, &[word::PAGER as u64])?;
    check_eq!(pager.results[0], ctx.me().raw());
    Ok(())
}

/// Gives a thread of the runner's space the next version.
fn renew(ctx: &Ctx, id: ThreadId) -> TestResult<ThreadId> {
    let renewed = ThreadId::global(id.number(), id.version() + 2);
    need!(sys::thread_control(ThreadControl {
        dest: renewed,
        space: ctx.me(),
        scheduler: ThreadId::NIL,
        pager: ThreadId::NIL,
        utcb: None,
    }));
    Ok(renewed)
}

fn thr_new_version(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let location = ctx.spare_utcb(id);
    need!(thread::create_local(id, location, pager()));
    let renewed = renew(ctx, id)?;
    check!(sys::exchange_registers(id, Exregs::default()).is_err(), "the old id still works");
    let old = need!(sys::exchange_registers(renewed, Exregs::default()));
    check_eq!(old.id, ThreadId::local(location + 512), "local id");
    let back = need!(sys::exchange_registers(old.id, Exregs::default()));
    check_eq!(back.id, renewed, "global id");
    check_eq!(arch::peek(location + 392), renewed.raw(), "MyGlobalId");
    need!(thread::delete(renewed));
    Ok(())
}

fn thr_new_version_aborts_ipc(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    partner.start_ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::NEVER))?;
    ctx.settle();
    let renewed = renew(ctx, partner.id)?;
    let error = partner.finish()?.ipc_error().map(|e| (e.phase, e.code));
    check_eq!(error, Some((Phase::Receive, IpcCode::Canceled)));
    need!(thread::delete(renewed));
    Ok(())
}

fn thr_space_by_local_id(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let space = thread::my_local_id();
    need!(sys::thread_control(ThreadControl { space, pager: pager(), ..control(ctx, id) }));
    need!(thread::start(id, arch::trampoline_ip(), arena_stack(0, report, 5)));
    check_reported(ctx, id, 5)
}

fn thr_delete_unknown(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(thread::delete(id));
    need!(thread::delete(id));
    Ok(())
}

fn thr_delete_running(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    ctx.settle();
    check!(partner.peek_result(0) > 0, "it does not run");
    need!(thread::delete(partner.id));
    ctx.settle();
    let count = partner.peek_result(0);
    ctx.settle();
    check_eq!(partner.peek_result(0), count, "it still runs");
    let got = ctx.ipc(&IpcCmd::send(partner.id).timeouts(Time::ZERO, Time::NEVER));
    check_eq!(got.ipc_error().map(|e| e.code), Some(IpcCode::NoPartner));
    Ok(())
}

fn thr_delete_waiting(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ThreadId::ANY))?;
    ctx.settle();
    need!(thread::delete(partner.id));
    let renewed = ThreadId::global(partner.id.number(), partner.id.version() + 2);
    need!(sys::thread_control(ThreadControl {
        dest: renewed,
        space: renewed,
        utcb: None,
        ..control(ctx, renewed)
    }));
    need!(thread::delete(renewed));
    Ok(())
}

fn thr_delete_at_fault(ctx: &mut Ctx) -> TestResult {
    use crate::harness::{arena, pager as policy};
    let partner = ctx.puppet()?;
    policy::open(0, arena::page(64), 4096, libl4::Rights::RWX, policy::Mode::Hold);
    partner.start(Op::Read, &[arena::window(0)])?;
    ctx.settle();
    check_eq!(policy::seen(0).faults, 1, "faults");
    need!(thread::delete(partner.id));
    let got = ctx.ipc(&IpcCmd::send(partner.id).timeouts(Time::ZERO, Time::NEVER));
    check_eq!(got.ipc_error().map(|e| e.code), Some(IpcCode::NoPartner));
    Ok(())
}

fn thr_delete_many(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let location = ctx.spare_utcb(id);
    for round in 0..200u32 {
        let id = ThreadId::global(id.number(), id.version() + 2 * round);
        let result = thread::create_local(id, location, pager());
        check!(result.is_ok(), "round {round}: {result:?}");
        if round % 20 == 0 {
            need!(thread::start(
                id,
                arch::trampoline_ip(),
                arena_stack(0, report, u64::from(round))
            ));
            check_reported(ctx, id, u64::from(round))?;
        }
        need!(thread::delete(id));
    }
    Ok(())
}

fn thr_migrate_inactive(ctx: &mut Ctx) -> TestResult {
    let host = ctx.puppet_at(Place::Remote)?;
    let id = ctx.spare_id()?;
    need!(sys::thread_control(ThreadControl { utcb: None, ..control(ctx, id) }));
    let slot = id.number().0 - crate::harness::ids::number(0).0;
    let location = crate::harness::ids::puppet_utcb(slot);
    need!(sys::thread_control(ThreadControl { space: host.id, utcb: None, ..control(ctx, id) }));
    need!(sys::thread_control(ThreadControl {
        space: host.id,
        pager: pager(),
        utcb: Some(location),
        ..control(ctx, id)
    }));
    need!(crate::harness::pager::start(id, arch::trampoline_ip(), arena_stack(0, report, 6)));
    check_reported(ctx, id, 6)
}

fn thr_migrate_active(ctx: &mut Ctx) -> TestResult {
    let (host, guest) = (ctx.puppet_at(Place::Remote)?, ctx.puppet_at(Place::Remote)?);
    guest.run(Op::WriteTcr, &[word::THREAD_WORD0 as u64, 0x1234])?;
    need!(sys::thread_control(ThreadControl {
        dest: guest.id,
        space: host.id,
        scheduler: ThreadId::NIL,
        pager: pager(),
        utcb: None,
    }));
    // It now is local to the host.
    host.start_ipc(&IpcCmd::receive(ThreadId::ANY_LOCAL))?;
    ctx.settle();
    guest.start_ipc(&IpcCmd::send(host.id).words(1, &[9]))?;
    let got = host.finish()?;
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!((got.mr[1], got.from), (9, guest.local_id()));
    guest.finish()?;
    check_eq!(
        guest.run(Op::ReadTcr, &[word::THREAD_WORD0 as u64])?.results[0],
        0x1234,
        "UTCB content"
    );
    Ok(())
}
