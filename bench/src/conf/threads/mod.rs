//! ThreadControl: creation, activation, change, deletion, start-up (ref 4.5).

mod errors;
mod life;
mod races;

use crate::harness::{Ctx, Test, ids};
use libl4::sys::{self, SysResult, ThreadControl};
use libl4::{ErrorCode, ThreadId};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[life::TESTS, errors::TESTS, races::TESTS];

/// ThreadControl of a thread in the runner's space; nil and `None` where nothing is said.
fn control(ctx: &Ctx, dest: ThreadId) -> ThreadControl {
    ThreadControl {
        dest,
        space: ctx.me(),
        scheduler: ctx.me(),
        pager: ThreadId::NIL,
        utcb: Some(ctx.spare_utcb(dest)),
    }
}

/// A system call's error code.
fn code<T>(result: SysResult<T>) -> Option<ErrorCode> {
    result.err().and_then(sys::SysError::code)
}

/// The pager thread of the harness.
fn pager() -> ThreadId {
    ids::pager()
}
