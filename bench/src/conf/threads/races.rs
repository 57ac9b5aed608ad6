//! Two CPUs that work on one thread or space at the same time.

use super::code;
use crate::harness::ctx::{kip_area, utcb_area};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, Place, TestResult};
use crate::{check, check_eq, need, tests};
use libl4::sys::{self, Schedule, ThreadControl};
use libl4::{ErrorCode, ThreadId, thread};

tests! {
    thr_create_in_a_dying_space, OtherCpu, "a thread is made in a space whose last thread another CPU deletes: it lives, or there is no space";
    thr_create_twice_at_once, OtherCpu, "two CPUs make a thread with one number at once: one of them does";
}

/// A puppet of the root task's space, which may use the privileged calls, on the CPU of the test's place.
fn privileged(ctx: &mut Ctx) -> TestResult<crate::harness::Puppet> {
    let helper = ctx.puppet_at(Place::LocalFar)?;
    need!(sys::schedule(
        helper.id,
        Schedule { processor: ctx.place().cpu(), ..Schedule::default() }
    ));
    Ok(helper)
}

fn thr_create_in_a_dying_space(ctx: &mut Ctx) -> TestResult {
    let helper = privileged(ctx)?;
    let (first, second) = (ctx.spare_id()?, ctx.spare_id()?);
    let make = ThreadControl {
        dest: first,
        space: first,
        scheduler: ctx.me(),
        pager: ThreadId::NIL,
        utcb: None,
    };
    let (mut lived, mut gone) = (0u32, 0u32);
    for round in 0..400u64 {
        need!(sys::thread_control(make));
        need!(sys::space_control(first, 0, kip_area(), utcb_area(), ThreadId::NIL));
        let args = [second.raw(), 0, ctx.me().raw(), first.raw(), u64::MAX];
        helper.start(Op::ThreadControl, &args)?;
        crate::conf::spin(round % 80 * 40);
        need!(thread::delete(first));
        let made = helper.finish()?.results;
        if made[0] == 1 {
            // The space lives on by the second thread alone.
            lived += 1;
            let again = sys::thread_control(ThreadControl { dest: first, space: second, ..make });
            check_eq!(code(again), None, "its space is there");
            need!(thread::delete(first));
            need!(thread::delete(second));
        } else {
            gone += 1;
            check_eq!(made[1], ErrorCode::InvalidSpace as u64, "ErrorCode");
        }
    }
    check!(lived + gone == 400, "{lived} lived, {gone} were gone");
    Ok(())
}

fn thr_create_twice_at_once(ctx: &mut Ctx) -> TestResult {
    let helper = privileged(ctx)?;
    let id = ctx.spare_id()?;
    for round in 0..200u64 {
        let (mine, its) = (id, ThreadId::global(id.number(), id.version() + 2));
        let args = [its.raw(), 0, ctx.me().raw(), ctx.me().raw(), u64::MAX];
        helper.start(Op::ThreadControl, &args)?;
        crate::conf::spin(round % 50 * 40);
        let made = sys::thread_control(ThreadControl {
            dest: mine,
            space: ctx.me(),
            scheduler: ctx.me(),
            pager: ThreadId::NIL,
            utcb: None,
        });
        helper.finish()?;
        check!(made.is_ok() || code(made) == Some(ErrorCode::OutOfMemory), "{made:?}");
        // Who came second has given the thread its own version, or has failed.
        let one = thread::delete(mine).is_ok() && thread::delete(its).is_ok();
        check!(one, "deleted");
    }
    Ok(())
}
