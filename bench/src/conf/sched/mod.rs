//! Schedule, ThreadSwitch, priorities, slices and the clock (ref 4.6 to 4.8).

mod preempt;

use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Place, Puppet, PuppetOptions, Test, TestResult};
use crate::{check, check_eq, need, tests};
use l4abi::schedule::{ThreadState, TimeControl, UNCHANGED};
use libl4::sys::{self, Schedule, SysError};
use libl4::{CpuId, ErrorCode, ThreadId, Time, kip, thread, time};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[TESTS, preempt::TESTS];

tests! {
    sch_state_waiting, All, "Schedule reports a waiting thread as waiting";
    sch_state_pending_send, All, "Schedule reports a queued sender as pending send";
    sch_state_running, All, "Schedule reports a spinning thread as running";
    sch_state_halted, All, "Schedule reports a halted thread as inactive";
    sch_state_dead, Once, "Schedule reports a thread that was never activated as dead";
    sch_higher_priority_runs, Once, "of two spinning threads only the higher one advances";
    sch_equal_priority_shares, Once, "two spinning threads of one priority both advance";
    sch_raise_priority_preempts, Once, "raising a ready thread's priority lets it run";
    sch_runner_preempts_spinner, All, "a wake-up preempts a spinning thread of lower priority";
    sch_thread_switch_donates, Once, "ThreadSwitch to a ready thread of lower priority lets it run";
    sch_thread_switch_is_harmless, Once, "ThreadSwitch to nil, oneself, a waiting thread and nobody returns";
    sch_timeslice, Once, "a shorter time slice still lets both threads advance";
    sch_quantum_ends, Once, "a thread whose total quantum is used up stops, and its scheduler gets the preemption message";
    sch_unchanged, All, "all-ones parameters change nothing and are no error";
    sch_old_time, All, "the old time control comes back";
    sch_err_unknown, Once, "an unknown destination: error 2";
    sch_err_no_permission, OtherSpace, "a thread that is not the scheduler's: error 1";
    sch_err_priority, OtherSpace, "an unprivileged scheduler cannot exceed its own priority: error 1";
    sch_scheduler_may, OtherSpace, "an unprivileged scheduler may lower its thread's priority";
    sch_err_processor, Once, "a processor number that does not exist: error 5";
    sch_err_interrupt, Once, "an interrupt thread without a handler: error 2";
    sch_migrate, OtherCpu, "a migrated thread runs on the other CPU and back";
    sch_migrate_oneself, OtherCpu, "a thread moves to another CPU and back with the help of a second one";
    clock_is_monotonic, Once, "the clock never goes back over ten thousand reads";
    clock_agrees_across_cpus, OtherCpu, "clock values sent from another CPU never lie ahead by more than 50 us";
    clock_counts_microseconds, Once, "the clock and the time stamp counter advance at the KIP's frequency";
    kip_interface_many, Once, "ten thousand KernelInterface calls";
    kip_fields, Once, "the KIP's fields have the values old programs rely on";
}

fn state(id: ThreadId) -> TestResult<ThreadState> {
    Ok(need!(sys::schedule(id, Schedule::default())).0)
}

fn set_priority(id: ThreadId, priority: u8) -> TestResult {
    need!(sys::schedule(id, Schedule { priority: Some(priority), ..Schedule::default() }));
    Ok(())
}

fn sch_state_waiting(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    ctx.settle();
    check_eq!(state(partner.id)?, ThreadState::Waiting);
    Ok(())
}

fn sch_state_pending_send(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::send(ctx.me()))?;
    ctx.settle();
    check_eq!(state(partner.id)?, ThreadState::PendingSend);
    Ok(())
}

fn sch_state_running(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    ctx.settle();
    check_eq!(state(partner.id)?, ThreadState::Running);
    check_eq!(state(ctx.me())?, ThreadState::Running, "the caller");
    Ok(())
}

fn sch_state_halted(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    ctx.settle();
    let control = l4abi::exregs::Control::STOP;
    need!(sys::exchange_registers(partner.id, sys::Exregs { control, ..sys::Exregs::default() }));
    check_eq!(state(partner.id)?, ThreadState::Inactive);
    Ok(())
}

fn sch_state_dead(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    need!(sys::thread_control(sys::ThreadControl {
        dest: id,
        space: ctx.me(),
        scheduler: ctx.me(),
        pager: ThreadId::NIL,
        utcb: Some(ctx.spare_utcb(id)),
    }));
    check_eq!(state(id)?, ThreadState::Dead);
    Ok(())
}

/// Two spinning puppets with these priorities; how far each gets in 60 ms.
fn race(ctx: &mut Ctx, a: u8, b: u8) -> TestResult<(u64, u64)> {
    let make = |priority| PuppetOptions { place: Place::Local, space_of: None, priority };
    let (one, two) = (ctx.puppet_with(make(a))?, ctx.puppet_with(make(b))?);
    one.start(Op::Spin, &[])?;
    two.start(Op::Spin, &[])?;
    let before = (one.peek_result(0), two.peek_result(0));
    time::sleep_us(60_000);
    Ok((one.peek_result(0) - before.0, two.peek_result(0) - before.1))
}

fn sch_higher_priority_runs(ctx: &mut Ctx) -> TestResult {
    let make = |priority| PuppetOptions { place: Place::Local, space_of: None, priority };
    let (low, high) = (ctx.puppet_with(make(90))?, ctx.puppet_with(make(110))?);
    low.start(Op::Spin, &[])?;
    high.start(Op::Spin, &[])?;
    ctx.settle();
    let before = (low.peek_result(0), high.peek_result(0));
    time::sleep_us(40_000);
    check!(high.peek_result(0) > before.1, "the higher one does not run");
    check_eq!(low.peek_result(0), before.0, "the lower one runs");
    Ok(())
}

fn sch_equal_priority_shares(ctx: &mut Ctx) -> TestResult {
    let (one, two) = race(ctx, 100, 100)?;
    check!(one > 0 && two > 0, "{one} {two}");
    check!(one / 4 < two && two / 4 < one, "unfair: {one} {two}");
    Ok(())
}

fn sch_raise_priority_preempts(ctx: &mut Ctx) -> TestResult {
    let make = |priority| PuppetOptions { place: Place::Local, space_of: None, priority };
    let (low, high) = (ctx.puppet_with(make(90))?, ctx.puppet_with(make(110))?);
    low.start(Op::Spin, &[])?;
    high.start(Op::Spin, &[])?;
    ctx.settle();
    set_priority(low.id, 120)?;
    let before = (low.peek_result(0), high.peek_result(0));
    ctx.settle();
    check!(low.peek_result(0) > before.0, "the raised one does not run");
    check_eq!(high.peek_result(0), before.1, "the other one still runs");
    Ok(())
}

fn sch_runner_preempts_spinner(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Spin, &[])?;
    for _ in 0..20 {
        let before = time::now_us();
        time::sleep_us(1_000);
        let took = time::now_us() - before;
        check!(took < 200_000, "woke after {took} us");
    }
    check!(partner.peek_result(0) > 0, "it never ran");
    Ok(())
}

fn sch_thread_switch_donates(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    partner.start(Op::Spin, &[])?;
    let before = partner.peek_result(0);
    for _ in 0..3 {
        sys::thread_switch(partner.id);
    }
    check!(partner.peek_result(0) > before, "it did not run");
    Ok(())
}

fn sch_thread_switch_is_harmless(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    ctx.settle();
    let nobody = ctx.spare_id()?;
    for dest in [ThreadId::NIL, ctx.me(), thread::my_local_id(), partner.id, nobody, ThreadId::ANY]
    {
        sys::thread_switch(dest);
    }
    check_eq!(state(partner.id)?, ThreadState::Waiting);
    Ok(())
}

fn sch_timeslice(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet_at(Place::Local)?, ctx.puppet_at(Place::Local)?);
    for puppet in [&one, &two] {
        let time = TimeControl { timeslice: Time::period_us(1_000), quantum: Time::NEVER };
        need!(sys::schedule(puppet.id, Schedule { time: Some(time), ..Schedule::default() }));
        puppet.start(Op::Spin, &[])?;
    }
    time::sleep_us(30_000);
    check!(one.peek_result(0) > 0 && two.peek_result(0) > 0, "one of them starves");
    Ok(())
}

fn sch_quantum_ends(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    let time = TimeControl { timeslice: Time::period_us(5_000), quantum: Time::period_us(20_000) };
    need!(sys::schedule(partner.id, Schedule { time: Some(time), ..Schedule::default() }));
    partner.start(Op::Spin, &[])?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check!(!got.tag.is_error(), "no preemption message: {:?}", got.ipc_error());
    check_eq!(got.tag.label(), l4abi::proto::PREEMPTION_TAG.label(), "label");
    let count = partner.peek_result(0);
    ctx.settle();
    check_eq!(partner.peek_result(0), count, "it runs without a quantum");
    Ok(())
}

fn sch_unchanged(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for _ in 0..3 {
        need!(sys::schedule_raw(partner.id, UNCHANGED, UNCHANGED, UNCHANGED, UNCHANGED));
    }
    check_eq!(
        partner.run(Op::ReadTcr, &[l4abi::utcb::word::MY_GLOBAL_ID as u64])?.results[0],
        partner.id.raw()
    );
    Ok(())
}

fn sch_old_time(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let time = TimeControl { timeslice: Time::period_us(8_000), quantum: Time::NEVER };
    need!(sys::schedule(partner.id, Schedule { time: Some(time), ..Schedule::default() }));
    let (_, old) = need!(sys::schedule(partner.id, Schedule::default()));
    let slice = Time::from_raw((old >> 16) as u16).as_period_us();
    check!(slice.is_some_and(|us| us <= 8_000), "remaining slice {slice:?}");
    check_eq!(old & 0xFFFF, 0, "an infinite quantum stays infinite");
    Ok(())
}

fn code<T>(result: sys::SysResult<T>) -> Option<ErrorCode> {
    result.err().and_then(SysError::code)
}

fn sch_err_unknown(ctx: &mut Ctx) -> TestResult {
    let nobody = ctx.spare_id()?;
    for id in [nobody, ThreadId::ANY] {
        check_eq!(code(sys::schedule(id, Schedule::default())), Some(ErrorCode::InvalidThread));
    }
    Ok(())
}

fn schedule_by(puppet: &Puppet, dest: ThreadId, priority: u64) -> TestResult<(u64, u64)> {
    let all = u64::MAX;
    let got = puppet.run(Op::Schedule, &[dest.raw(), priority, all, all, all])?;
    Ok((got.results[0], got.results[1]))
}

fn sch_err_no_permission(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    for target in [two.id, ctx.me(), libl4::sigma0::id()] {
        let got = schedule_by(&one, target, 50)?;
        check_eq!(got, (0, ErrorCode::NoPrivilege.raw()), "{target}");
    }
    Ok(())
}

/// Makes `scheduler` the scheduler of another puppet.
fn scheduled_by(ctx: &mut Ctx, scheduler: &Puppet) -> TestResult<Puppet> {
    let subject = ctx.puppet()?;
    need!(sys::thread_control(sys::ThreadControl {
        dest: subject.id,
        space: subject.id,
        scheduler: scheduler.id,
        pager: ThreadId::NIL,
        utcb: None,
    }));
    Ok(subject)
}

fn sch_err_priority(ctx: &mut Ctx) -> TestResult {
    let scheduler = ctx.puppet()?;
    let subject = scheduled_by(ctx, &scheduler)?;
    check_eq!(schedule_by(&scheduler, subject.id, 200)?, (0, ErrorCode::NoPrivilege.raw()));
    Ok(())
}

fn sch_scheduler_may(ctx: &mut Ctx) -> TestResult {
    let scheduler = ctx.puppet()?;
    let subject = scheduled_by(ctx, &scheduler)?;
    ctx.settle();
    let (result, _) = schedule_by(&scheduler, subject.id, 60)?;
    check_eq!(result, ThreadState::Waiting.raw());
    Ok(())
}

fn sch_err_processor(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    for cpu in [kip().processor_count() as u16, 0x7FFF, 0xFFFE] {
        let args = Schedule { processor: Some(CpuId(cpu)), ..Schedule::default() };
        check_eq!(
            code(sys::schedule(partner.id, args)),
            Some(ErrorCode::InvalidParameter),
            "{cpu}"
        );
    }
    Ok(())
}

fn sch_err_interrupt(_: &mut Ctx) -> TestResult {
    let args = Schedule { priority: Some(100), ..Schedule::default() };
    check_eq!(code(sys::schedule(ThreadId::irq(3), args)), Some(ErrorCode::InvalidThread));
    Ok(())
}

fn sch_migrate(ctx: &mut Ctx) -> TestResult {
    let partner =
        ctx.puppet_at(if ctx.place().is_local() { Place::Local } else { Place::Remote })?;
    let (here, Some(there)) = (thread::my_cpu(), ctx.place().cpu()) else { return Ok(()) };
    for round in 0..10 {
        let to = if round % 2 == 0 { there } else { here };
        need!(sys::schedule(partner.id, Schedule { processor: Some(to), ..Schedule::default() }));
        let got = partner.run(Op::ReadTcr, &[l4abi::utcb::word::PROCESSOR_NO as u64])?;
        check_eq!(got.results[0], u64::from(to.0), "round {round}");
    }
    Ok(())
}

extern "C" fn mover(_: u64) -> ! {
    thread::serve_migration()
}

fn sch_migrate_oneself(ctx: &mut Ctx) -> TestResult {
    let helper = ctx.spare_id()?;
    need!(thread::create_local(helper, ctx.spare_utcb(helper), crate::harness::ids::pager()));
    let sp = crate::harness::ctx::arena_stack(0, mover, 0);
    need!(thread::start(helper, libl4::arch::trampoline_ip(), sp));
    let (here, Some(there)) = (thread::my_cpu(), ctx.place().cpu()) else { return Ok(()) };
    for to in [there, here, there, here] {
        need!(thread::migrate_by(helper, to));
        check_eq!(thread::my_cpu(), to);
    }
    Ok(())
}

fn clock_is_monotonic(_: &mut Ctx) -> TestResult {
    let mut last = time::now_us();
    for _ in 0..10_000 {
        let now = time::now_us();
        check!(now >= last, "{now} after {last}");
        last = now;
    }
    Ok(())
}

fn clock_agrees_across_cpus(ctx: &mut Ctx) -> TestResult {
    // A sleep on the other CPU, seen from here: start and end must not contradict.
    let partner = ctx.puppet()?;
    for _ in 0..20 {
        let before = time::now_us();
        let sleep = IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::period_us(2_000));
        let got = partner.run_ipc(&sleep)?;
        let here = time::now_us() - before;
        check!(got.took_us <= here + 50, "{} us there, {here} us here", got.took_us);
    }
    Ok(())
}

fn clock_counts_microseconds(_: &mut Ctx) -> TestResult {
    let Some(cpu) = kip().processor(thread::my_cpu()) else { return Ok(()) };
    let (us, tsc) = (time::now_us(), libl4::arch::tsc());
    while time::now_us() - us < 50_000 {}
    let (us, tsc) = (time::now_us() - us, libl4::arch::tsc() - tsc);
    let khz = tsc * 1000 / us;
    let want = cpu.internal_khz;
    check!(khz > want - want / 20 && khz < want + want / 20, "{khz} kHz, the KIP says {want}");
    Ok(())
}

fn kip_interface_many(_: &mut Ctx) -> TestResult {
    for _ in 0..10_000 {
        check_eq!(libl4::arch::kernel_interface().kip, libl4::start::kip_base());
    }
    check_eq!(libl4::arch::probe::kernel_interface_changes(), 0, "registers that changed");
    Ok(())
}

fn kip_fields(_: &mut Ctx) -> TestResult {
    let kip = kip();
    check_eq!(libl4::start::kip_base(), l4abi::utcb::ROOT_KIP_AREA, "KIP address");
    check_eq!(thread::my_utcb_location() >> 18, l4abi::utcb::ROOT_UTCB_AREA.0 >> 18, "UTCB area");
    check_eq!(kip.word(0), l4abi::kip::MAGIC);
    check_eq!(kip.api_version() >> 24, 0x84, "version");
    check_eq!(kip.api_flags(), 4, "flags");
    check_eq!((kip.utcb_size(), kip.utcb_area_log2(), kip.thread_bits()), (1024, 12, 18));
    let ranges = kip.thread_ranges();
    check_eq!(ranges.user_base, ranges.system_base + 32, "UserBase");
    check!(ranges.user_base < 200, "UserBase is too large for old tests");
    check!(kip.page_size_mask() & 0x20_1000 == 0x20_1000, "page sizes");
    check!(kip.version_string().count() > 0, "version string");
    for &call in l4abi::SyscallNo::ALL {
        check!(kip.link(call) > 0xFFFF_8000_0000_0000, "link of {call}");
    }
    Ok(())
}
