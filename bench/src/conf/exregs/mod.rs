//! ExchangeRegisters (ref 4.4).

use crate::harness::ctx::arena_stack;
use crate::harness::pager::{self, Mode};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, PATIENCE, Place, Test, TestResult, arena, ids};
use crate::{check, check_eq, need, tests};
use l4abi::exregs::{Control, USER_FLAGS};
use l4abi::utcb::word;
use libl4::sys::{self, Exregs, ExregsOld, SysError};
use libl4::{ErrorCode, IpcCode, Phase, Rights, ThreadId, Time, arch, thread};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[TESTS];

tests! {
    exr_translates_ids, All, "control 0 returns the other form of the id, both ways";
    exr_reads_registers, All, "SP and IP of a blocked thread lie in its stack and code";
    exr_handle, All, "UserDefinedHandle is set, returned, and seen in the UTCB";
    exr_pager, All, "the pager is set, returned, and seen in the UTCB";
    exr_old_values_precede_change, All, "the values returned are those before the change";
    exr_halt_and_resume, All, "a halted thread does not run until it is resumed; H tells";
    exr_halt_in_ipc, All, "a thread halted in an IPC finishes it and then stops";
    exr_new_ip_of_running, All, "a spinning thread continues at a new IP and SP";
    exr_new_ip_of_sleeping, All, "a thread aborted with new IP and SP continues there, not after its call";
    exr_repeated_ip, All, "the last of several new IPs counts";
    exr_start_control_word, Once, "the library's start word 0x11E starts a fresh thread";
    exr_start_variants, Once, "0x9E and 0x19E start a thread that waits for its start-up message";
    exr_flags_are_masked, All, "only the arithmetic flags can be changed";
    exr_oneself, Once, "the call works on the caller itself";
    exr_abort_of_fault, All, "aborting a thread at its page fault makes it fault again; its registers survive";
    exr_upper_control_bits, Once, "control bits from 9 on are ignored";
    exr_err_unknown, Once, "an unknown destination: nilthread and error 2";
    exr_err_inactive, Once, "an inactive destination: error 2";
    exr_err_other_space, OtherSpace, "a thread of another space, not paged from here: error 2";
    exr_pager_space_may, OtherSpace, "a thread whose pager lives in the caller's space may be changed";
}

fn read(id: ThreadId) -> TestResult<ExregsOld> {
    Ok(need!(sys::exchange_registers(id, Exregs::default())))
}

fn change(id: ThreadId, change: Exregs) -> TestResult<ExregsOld> {
    Ok(need!(sys::exchange_registers(id, change)))
}

fn exr_translates_ids(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    check_eq!(read(partner.id)?.id, partner.local_id(), "global to local");
    if ctx.place().is_local() {
        check_eq!(read(partner.local_id())?.id, partner.id, "local to global");
    }
    check_eq!(read(ctx.me())?.id, thread::my_local_id(), "own");
    check_eq!(read(thread::my_local_id())?.id, ctx.me(), "own, back");
    Ok(())
}

fn exr_reads_registers(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    ctx.settle();
    let old = read(partner.id)?;
    let (first, last) = arch::image_range();
    check!((first..=last).contains(&old.sp), "SP {:#x}", old.sp);
    check_eq!(old.state, Control::RECEIVE, "state");
    check_eq!(old.pager, ids::pager());
    Ok(())
}

fn exr_handle(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let set = |handle| change(partner.id, Exregs { handle: Some(handle), ..Exregs::default() });
    check_eq!(set(0x1111)?.handle, 0, "initial");
    check_eq!(set(0x2222)?.handle, 0x1111, "old");
    check_eq!(read(partner.id)?.handle, 0x2222, "unchanged by a read");
    let tcr = partner.run(Op::ReadTcr, &[word::USER_DEFINED_HANDLE as u64])?;
    check_eq!(tcr.results[0], 0x2222, "UTCB");
    Ok(())
}

fn exr_pager(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    // Its first faults are for the harness.
    ctx.settle();
    let old = change(partner.id, Exregs { pager: Some(ctx.me()), ..Exregs::default() })?;
    check_eq!(old.pager, ids::pager(), "old");
    let tcr = partner.run(Op::ReadTcr, &[word::PAGER as u64])?;
    check_eq!(tcr.results[0], ctx.me().raw(), "UTCB");
    // And it is effective: the fault comes to the runner.
    partner.start(Op::Read, &[arena::window(0)])?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check_eq!(got.mr[1], arena::window(0), "fault address");
    Ok(())
}

fn exr_old_values_precede_change(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    ctx.settle();
    let before = read(partner.id)?;
    let new = Exregs { sp: Some(before.sp), handle: Some(5), ..Exregs::default() };
    let old = change(partner.id, new)?;
    check_eq!((old.handle, old.pager), (0, ids::pager()));
    check_eq!(old.state, Control::empty(), "state");
    check_eq!(read(partner.id)?.handle, 5);
    partner.set_arg(7, 1);
    partner.finish()?;
    Ok(())
}

fn exr_halt_and_resume(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    ctx.settle();
    let halt = Exregs { control: Control::STOP, ..Exregs::default() };
    check_eq!(change(partner.id, halt)?.state, Control::empty(), "before");
    let count = partner.peek_result(0);
    ctx.settle();
    check_eq!(partner.peek_result(0), count, "it runs while halted");
    check_eq!(read(partner.id)?.state, Control::HALT, "halted");
    let resume = Exregs { control: Control::RESUME, ..Exregs::default() };
    check_eq!(change(partner.id, resume)?.state, Control::HALT, "before resuming");
    ctx.settle();
    check!(partner.peek_result(0) > count, "it does not run again");
    check_eq!(read(partner.id)?.state, Control::empty(), "resumed");
    partner.set_arg(7, 1);
    partner.finish()?;
    Ok(())
}

fn exr_halt_in_ipc(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    ctx.settle();
    change(partner.id, Exregs { control: Control::STOP, ..Exregs::default() })?;
    let sent = ctx.ipc(&IpcCmd::send(partner.id).words(1, &[8]));
    check!(!sent.tag.is_error(), "the IPC does not end: {:?}", sent.ipc_error());
    ctx.settle();
    check!(!partner.is_done(), "it went on to user level");
    change(partner.id, Exregs { control: Control::RESUME, ..Exregs::default() })?;
    check_eq!(partner.finish()?.mr[1], 8);
    Ok(())
}

/// Sends its argument to the runner for ever.
extern "C" fn beacon(arg: u64) -> ! {
    loop {
        let mut message = libl4::msg::Writer::here();
        message.word(arg);
        let _ = libl4::ipc::send(ids::of_slot(ids::RUNNER), PATIENCE, message.tag(0xBE));
    }
}

fn jump(id: ThreadId, n: u64, arg: u64, control: Control) -> TestResult {
    let sp = Some(arena_stack(n, beacon, arg));
    let ip = Some(arch::trampoline_ip());
    change(id, Exregs { control, sp, ip, ..Exregs::default() })?;
    Ok(())
}

fn check_beacon(ctx: &Ctx, id: ThreadId, arg: u64) -> TestResult {
    let got = ctx.ipc(&IpcCmd::receive(id));
    check!(!got.tag.is_error(), "no beacon: {:?}", got.ipc_error());
    check_eq!((got.tag.label(), got.mr[1]), (0xBE, arg));
    Ok(())
}

fn exr_new_ip_of_running(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    ctx.settle();
    jump(partner.id, 0, 31, Control::empty())?;
    check_beacon(ctx, partner.id, 31)
}

fn exr_new_ip_of_sleeping(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let forever = IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::NEVER);
    partner.start_ipc(&forever)?;
    ctx.settle();
    jump(partner.id, 0, 32, Control::ABORT_IPC)?;
    check_beacon(ctx, partner.id, 32)?;
    check!(!partner.is_done(), "it continued after its call");
    Ok(())
}

fn exr_repeated_ip(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let forever = IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::NEVER);
    partner.start_ipc(&forever)?;
    ctx.settle();
    for n in 0..4 {
        jump(partner.id, n, 40 + n, Control::empty())?;
    }
    ctx.settle();
    jump(partner.id, 4, 44, Control::ABORT_IPC)?;
    check_beacon(ctx, partner.id, 44)
}

fn exr_start_control_word(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(thread::create_local(id, ctx.spare_utcb(id), ids::pager()));
    check_eq!(read(id)?.state, Control::RECEIVE, "fresh: receiving from its pager");
    need!(thread::start(id, arch::trampoline_ip(), arena_stack(0, beacon, 50)));
    check_beacon(ctx, id, 50)
}

fn exr_start_variants(ctx: &mut Ctx) -> TestResult {
    for (n, raw) in [(0u64, 0x9E_u64), (1, 0x19E)] {
        let id = ctx.spare_id()?;
        need!(thread::create_local(id, ctx.spare_utcb(id), ids::pager()));
        let control = Control::from_bits_retain(raw);
        let sp = Some(arena_stack(n, beacon, 60 + n));
        let ip = Some(arch::trampoline_ip());
        let pager = Some(ids::pager());
        change(id, Exregs { control, sp, ip, pager, ..Exregs::default() })?;
        check_beacon(ctx, id, 60 + n)?;
        need!(thread::delete(id));
    }
    Ok(())
}

fn exr_flags_are_masked(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    ctx.settle();
    let before = read(partner.id)?.flags;
    change(partner.id, Exregs { flags: Some(u64::MAX), ..Exregs::default() })?;
    let all = read(partner.id)?.flags;
    check_eq!(all & USER_FLAGS, USER_FLAGS, "set");
    check_eq!(all & !USER_FLAGS, before & !USER_FLAGS, "the others stay");
    change(partner.id, Exregs { flags: Some(0), ..Exregs::default() })?;
    let none = read(partner.id)?.flags;
    check_eq!(none & USER_FLAGS, 0, "cleared");
    check_eq!(none & !USER_FLAGS, before & !USER_FLAGS, "the others stay");
    // The thread still works, so interrupts are on for it.
    check_eq!(partner.run(Op::ReadTcr, &[word::MY_GLOBAL_ID as u64])?.results[0], partner.id.raw());
    Ok(())
}

fn exr_oneself(ctx: &mut Ctx) -> TestResult {
    for id in [ctx.me(), thread::my_local_id()] {
        let old = change(id, Exregs { handle: Some(0x77), ..Exregs::default() })?;
        check_eq!(old.state, Control::empty(), "state");
        check_eq!(read(id)?.handle, 0x77);
        change(id, Exregs { handle: Some(0), ..Exregs::default() })?;
    }
    Ok(())
}

fn exr_abort_of_fault(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    pager::open(0, arena::page(64), 4096, Rights::RWX, Mode::Hold);
    arena::wipe(arena::page(64), 4096, 0x3A);
    partner.start(Op::Read, &[arena::window(0) + 5])?;
    ctx.settle();
    check_eq!(pager::seen(0).faults, 1);
    pager::set_mode(0, Mode::Map);
    change(partner.id, Exregs { control: Control::ABORT_IPC, ..Exregs::default() })?;
    let got = partner.finish()?;
    check_eq!(got.results[0], 0x3A, "the byte");
    check_eq!(pager::seen(0).faults, 2, "faults");
    Ok(())
}

fn exr_upper_control_bits(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    let control = Control::from_bits_retain(!0x1FF);
    let before = read(partner.id)?;
    let old = change(partner.id, Exregs { control, ..Exregs::default() })?;
    check_eq!((old.sp, old.pager), (before.sp, before.pager));
    check_eq!(read(partner.id)?.sp, before.sp, "nothing changed");
    Ok(())
}

fn error(id: ThreadId) -> Option<ErrorCode> {
    sys::exchange_registers(id, Exregs::default()).err().and_then(SysError::code)
}

fn exr_err_unknown(ctx: &mut Ctx) -> TestResult {
    let nobody = ctx.spare_id()?;
    let free = ThreadId::local(l4abi::utcb::ROOT_UTCB_AREA.0 + 200 * 1024 + 512);
    let me = ctx.me();
    let wrong = ThreadId::global(me.number(), me.version() + 2);
    for id in [nobody, free, wrong, ThreadId::NIL, ThreadId::ANY, ThreadId::ANY_LOCAL] {
        check_eq!(error(id), Some(ErrorCode::InvalidThread), "{id}");
    }
    Ok(())
}

fn exr_err_inactive(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(sys::thread_control(sys::ThreadControl {
        dest: id,
        space: ctx.me(),
        scheduler: ctx.me(),
        pager: ThreadId::NIL,
        utcb: Some(ctx.spare_utcb(id)),
    }));
    check_eq!(error(id), Some(ErrorCode::InvalidThread));
    Ok(())
}

fn exr_err_other_space(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    for target in [two.id, ctx.me(), ids::pager(), libl4::sigma0::id()] {
        let got = one.run(Op::Exregs, &[target.raw(), Control::ABORT_IPC.bits()])?;
        check_eq!(got.results[0], 0, "{target}");
        check_eq!(got.results[7], ErrorCode::InvalidThread.raw(), "{target}");
    }
    check_eq!(two.run(Op::ReadTcr, &[word::MY_GLOBAL_ID as u64])?.results[0], two.id.raw());
    Ok(())
}

fn exr_pager_space_may(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::NEVER))?;
    ctx.settle();
    change(partner.id, Exregs { control: Control::ABORT_IPC, ..Exregs::default() })?;
    let error = partner.finish()?.ipc_error().map(|e| (e.phase, e.code));
    check_eq!(error, Some((Phase::Receive, IpcCode::Canceled)));
    Ok(())
}
