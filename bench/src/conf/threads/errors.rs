//! Every error of ThreadControl.

use super::{code, control, pager};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, Place, TestResult};
use crate::{check, check_eq, need, tests};
use libl4::sys::{self, ThreadControl};
use libl4::{ErrorCode, ThreadId, ThreadNo, kip, thread};

tests! {
    thr_err_unprivileged, OtherSpace, "a thread outside the privileged spaces gets error 1";
    thr_err_local_destination, Once, "a local id as destination: error 3";
    thr_err_kernel_numbers, Once, "kernel thread numbers: error 2";
    thr_err_delete_oneself, Once, "a privileged thread may not delete itself: error 2";
    thr_err_no_utcb, Once, "activation without a UTCB location: error 6";
    thr_err_utcb_outside, Once, "a UTCB location outside the area or not aligned: error 6";
    thr_err_utcb_of_active, Once, "a UTCB location for an active thread: error 6";
    thr_err_unknown_space, Once, "an unknown space specifier: error 3";
    thr_err_new_space_with_pager, Once, "a new space with a pager at once: error 3";
    thr_err_uninitialised_space, Once, "activation in an uninitialised space fails, and succeeds afterwards";
    thr_err_create_in_uninitialised, Once, "one-step creation in an uninitialised space: error 3";
    thr_err_no_scheduler, Once, "creation without a scheduler: error 2 (X.2 manual: 4)";
    thr_err_number_too_large, Once, "a thread number beyond the valid bits is refused";
    thr_err_interrupt_version, Once, "an interrupt thread with a version other than 1: error 2";
    thr_err_interrupt_handler, Once, "an interrupt handler that does not exist: error 2";
    thr_err_migrate_utcb, Once, "migration to a space whose UTCB area lies elsewhere: error 6";
    thr_err_changes_nothing, Once, "a refused call leaves the thread as it was";
}

fn thr_err_unprivileged(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let id = ctx.spare_id()?;
    let attempts = [
        [id.raw(), 0, partner.id.raw(), partner.id.raw(), u64::MAX],
        [id.raw(), 0, partner.id.raw(), id.raw(), u64::MAX],
        [ctx.me().raw(), 0, 0, 0, u64::MAX],
        [partner.id.raw(), 0, 0, 0, u64::MAX],
    ];
    for args in attempts {
        let got = partner.run(Op::ThreadControl, &args)?;
        let want = (0, ErrorCode::NoPrivilege.raw());
        check_eq!((got.results[0], got.results[1]), want, "{:#x}", args[0]);
    }
    Ok(())
}

fn thr_err_local_destination(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    let dest = partner.local_id();
    let args = ThreadControl { dest, utcb: None, ..control(ctx, ctx.me()) };
    check_eq!(code(sys::thread_control(args)), Some(ErrorCode::InvalidSpace));
    check_eq!(code(thread::delete(partner.local_id())), Some(ErrorCode::InvalidSpace), "delete");
    Ok(())
}

fn thr_err_kernel_numbers(ctx: &mut Ctx) -> TestResult {
    let ranges = kip().thread_ranges();
    for number in [ranges.system_base, ranges.user_base - 1] {
        let dest = ThreadId::global(ThreadNo(number), 1);
        let args = ThreadControl { dest, utcb: None, ..control(ctx, ctx.me()) };
        check_eq!(code(sys::thread_control(args)), Some(ErrorCode::InvalidThread), "{number}");
    }
    Ok(())
}

fn thr_err_delete_oneself(ctx: &mut Ctx) -> TestResult {
    check_eq!(code(thread::delete(ctx.me())), Some(ErrorCode::InvalidThread));
    Ok(())
}

fn thr_err_no_utcb(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let inactive = ThreadControl { utcb: None, ..control(ctx, id) };
    need!(sys::thread_control(inactive));
    let activate = ThreadControl { pager: pager(), ..inactive };
    check_eq!(code(sys::thread_control(activate)), Some(ErrorCode::UtcbArea), "activate");
    let one_step = ThreadControl { dest: ctx.spare_id()?, ..activate };
    check_eq!(code(sys::thread_control(one_step)), Some(ErrorCode::UtcbArea), "one step");
    Ok(())
}

fn thr_err_utcb_outside(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let (base, log2) = l4abi::utcb::ROOT_UTCB_AREA;
    let bad =
        [base - 1024, base + (1 << log2), base + 0x8200, 0, 0xFFFF_8000_0000_0000, u64::MAX - 1023];
    for location in bad {
        let args = ThreadControl { pager: pager(), utcb: Some(location), ..control(ctx, id) };
        check_eq!(code(sys::thread_control(args)), Some(ErrorCode::UtcbArea), "{location:#x}");
    }
    Ok(())
}

fn thr_err_utcb_of_active(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    let other = ctx.spare_id()?;
    let location = ctx.spare_utcb(other);
    let args = ThreadControl { dest: partner.id, utcb: Some(location), ..control(ctx, other) };
    check_eq!(code(sys::thread_control(args)), Some(ErrorCode::UtcbArea));
    Ok(())
}

fn thr_err_unknown_space(ctx: &mut Ctx) -> TestResult {
    let (id, nobody) = (ctx.spare_id()?, ctx.spare_id()?);
    for pager in [ThreadId::NIL, pager()] {
        let args = ThreadControl { space: nobody, pager, ..control(ctx, id) };
        check_eq!(code(sys::thread_control(args)), Some(ErrorCode::InvalidSpace));
    }
    Ok(())
}

fn thr_err_new_space_with_pager(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    let args = ThreadControl { space: id, pager: pager(), ..control(ctx, id) };
    check_eq!(code(sys::thread_control(args)), Some(ErrorCode::InvalidSpace));
    Ok(())
}

fn thr_err_uninitialised_space(ctx: &mut Ctx) -> TestResult {
    use crate::harness::{ctx::kip_area, ctx::utcb_area, ids};
    let id = ctx.spare_id()?;
    let utcb = Some(ids::puppet_utcb(20));
    let create = ThreadControl { space: id, utcb, ..control(ctx, id) };
    need!(sys::thread_control(create));
    let activate = ThreadControl { pager: pager(), utcb: None, ..create };
    let error = code(sys::thread_control(activate));
    // The manual says 3; the kernel whose programs we run says 6.
    check!(matches!(error, Some(ErrorCode::InvalidSpace | ErrorCode::UtcbArea)), "{error:?}");
    need!(sys::space_control(id, 0, kip_area(), utcb_area(), ThreadId::NIL));
    need!(sys::thread_control(activate));
    Ok(())
}

fn thr_err_create_in_uninitialised(ctx: &mut Ctx) -> TestResult {
    use crate::harness::ids;
    let (first, second) = (ctx.spare_id()?, ctx.spare_id()?);
    need!(sys::thread_control(ThreadControl { space: first, utcb: None, ..control(ctx, first) }));
    let args = ThreadControl {
        space: first,
        pager: pager(),
        utcb: Some(ids::puppet_utcb(21)),
        ..control(ctx, second)
    };
    check_eq!(code(sys::thread_control(args)), Some(ErrorCode::InvalidSpace));
    Ok(())
}

fn thr_err_no_scheduler(ctx: &mut Ctx) -> TestResult {
    let id = ctx.spare_id()?;
    for space in [id, ctx.me()] {
        let args = ThreadControl { space, scheduler: ThreadId::NIL, ..control(ctx, id) };
        let error = code(sys::thread_control(args));
        let fine = matches!(error, Some(ErrorCode::InvalidThread | ErrorCode::InvalidScheduler));
        check!(fine, "{error:?}");
    }
    Ok(())
}

fn thr_err_number_too_large(ctx: &mut Ctx) -> TestResult {
    // The same number in the valid bits as the runner, but with a bit above.
    let dest = ThreadId::global(ThreadNo(ctx.me().number().0 | 1 << 18), 1);
    let args = ThreadControl { dest, space: dest, utcb: None, ..control(ctx, ctx.me()) };
    check!(sys::thread_control(args).is_err(), "created");
    check!(thread::global_id(thread::my_local_id()).is_ok(), "the runner is gone");
    Ok(())
}

fn interrupt(line: u32, version: u32, handler: ThreadId) -> ThreadControl {
    let dest = ThreadId::global(ThreadNo(line), version);
    ThreadControl { dest, space: dest, scheduler: ThreadId::NIL, pager: handler, utcb: None }
}

fn thr_err_interrupt_version(ctx: &mut Ctx) -> TestResult {
    let result = sys::thread_control(interrupt(3, 3, ctx.me()));
    check_eq!(code(result), Some(ErrorCode::InvalidThread));
    Ok(())
}

fn thr_err_interrupt_handler(ctx: &mut Ctx) -> TestResult {
    let nobody = ctx.spare_id()?;
    let result = sys::thread_control(interrupt(3, 1, nobody));
    check_eq!(code(result), Some(ErrorCode::InvalidThread));
    Ok(())
}

fn thr_err_migrate_utcb(ctx: &mut Ctx) -> TestResult {
    let (local, remote) = (ctx.puppet_at(Place::Local)?, ctx.puppet_at(Place::Remote)?);
    let args = ThreadControl {
        dest: local.id,
        space: remote.id,
        scheduler: ThreadId::NIL,
        pager: pager(),
        utcb: None,
    };
    check_eq!(code(sys::thread_control(args)), Some(ErrorCode::UtcbArea));
    Ok(())
}

fn thr_err_changes_nothing(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Local)?;
    let renewed = ThreadId::global(partner.id.number(), partner.id.version() + 2);
    // A new version together with a refused UTCB location.
    let spare = ctx.spare_id()?;
    let args = ThreadControl { utcb: Some(ctx.spare_utcb(spare)), ..control(ctx, spare) };
    let args = ThreadControl { dest: renewed, pager: ctx.me(), ..args };
    check_eq!(code(sys::thread_control(args)), Some(ErrorCode::UtcbArea));
    let pager_tcr = l4abi::utcb::word::PAGER as u64;
    check_eq!(partner.run(Op::ReadTcr, &[pager_tcr])?.results[0], pager().raw(), "pager");
    check!(thread::global_id(partner.local_id()).is_ok_and(|id| id == partner.id), "id");
    Ok(())
}
