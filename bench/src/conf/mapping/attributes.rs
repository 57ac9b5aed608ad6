//! MemoryControl (ref 4.12). What the processor does with an attribute cannot be seen from here; that the right entries
//! get it is tested on the host (`kcore::mapdb`), that every CPU has the same attribute table in the kernel.

use super::{check_faults, check_sees, map_page, mark, pass, spot};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, TestResult, arena};
use crate::{check, check_eq, tests};
use l4abi::ErrorCode;
use l4abi::control::CacheAttribute;
use l4abi::item::map_item;
use libl4::{Acceptor, Fpage, Rights, sys};

tests! {
    attributes_every_value, OtherSpace, "each attribute is taken for a page that was passed on; contents and mappings stay";
    attributes_many_fpages, Once, "sixty-four fpages in one call, each selecting one of the four attributes";
    attributes_of_a_part, OtherSpace, "one page of a 2 MiB mapping gets another attribute than the rest";
    attributes_nothing_there, Once, "nilpages, garbage and regions without pages are no error";
    attributes_keep_status, OtherSpace, "what was written before is still reported by Unmap after it";
    attributes_then_revoke, OtherSpace, "pages with an attribute are revoked like others";
    attributes_unprivileged, OtherSpace, "a thread outside the privileged spaces gets error 1";
    attributes_unknown_value, Once, "an attribute that does not exist is error 5, and nothing changes";
    attributes_unselected_value, Once, "an attribute that no fpage selects is not looked at";
    attributes_of_ports, Once, "an I/O fpage is error 5";
}

/// The fpage with the selector of attribute `n` in its low bits.
fn selecting(fpage: Fpage, n: u64) -> Fpage {
    Fpage::from_raw(fpage.raw() & !3 | n)
}

fn page(n: u64) -> Fpage {
    Fpage::memory(arena::page(n), 12, Rights::empty())
}

/// Everything as it is without attributes.
fn restore(fpage: Fpage) -> TestResult {
    let done = sys::memory_control(&[selecting(fpage, 0)], [0; 4]);
    check!(done.is_ok(), "default: {done:?}");
    Ok(())
}

fn attributes_every_value(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x31);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let item = map_item(spot(1), Fpage::memory(spot(0), 12, Rights::RW));
    pass(&one, &two, Acceptor::COMPLETE, &item)?;
    for (round, attribute) in CacheAttribute::ALL.iter().enumerate() {
        let done = sys::memory_control(&[selecting(page(64), 0)], [attribute.raw(), 0, 0, 0]);
        check!(done.is_ok(), "{attribute}: {done:?}");
        check_sees(&one, spot(0), 0x31 + round as u8)?;
        check_sees(&two, spot(1), 0x31 + round as u8)?;
        // The last who got the page writes, the first who has it sees that.
        let next = 0x32 + round as u64;
        two.run(Op::Write, &[spot(1), next])?;
        check_eq!(u64::from(libl4::arch::touch_read(arena::page(64))), next, "{attribute}");
    }
    restore(page(64))
}

fn attributes_many_fpages(_: &mut Ctx) -> TestResult {
    let mut fpages = [Fpage::NIL; 64];
    for (n, fpage) in fpages.iter_mut().enumerate() {
        mark(n as u64, n as u8);
        *fpage = selecting(page(n as u64), n as u64 & 3);
    }
    let attributes = [
        CacheAttribute::Uncacheable.raw(),
        CacheAttribute::WriteCombining.raw(),
        CacheAttribute::WriteThrough.raw(),
        CacheAttribute::WriteBack.raw(),
    ];
    let done = sys::memory_control(&fpages, attributes);
    check!(done.is_ok(), "{done:?}");
    for n in 0..64u64 {
        check_eq!(u64::from(libl4::arch::touch_read(arena::page(n))), n, "page {n}");
        restore(page(n))?;
    }
    Ok(())
}

fn attributes_of_a_part(ctx: &mut Ctx) -> TestResult {
    let puppet = ctx.puppet()?;
    for n in 64..80 {
        mark(n, n as u8);
    }
    let run = Fpage::memory(arena::page(64), 16, Rights::RW);
    super::give(ctx, &puppet, Acceptor::COMPLETE, &map_item(spot(0), run))?;
    let uncached = [CacheAttribute::Uncacheable.raw(), 0, 0, 0];
    let done = sys::memory_control(&[selecting(page(70), 0)], uncached);
    check!(done.is_ok(), "{done:?}");
    for n in 0..16 {
        check_sees(&puppet, spot(n), 64 + n as u8)?;
    }
    let done = sys::memory_control(&[selecting(run, 0)], uncached);
    check!(done.is_ok(), "{done:?}");
    for n in 0..16 {
        check_sees(&puppet, spot(n), 64 + n as u8)?;
    }
    restore(run)
}

fn attributes_nothing_there(_: &mut Ctx) -> TestResult {
    let hole = Fpage::memory(0x7000_0000_0000, 30, Rights::empty());
    let garbage = Fpage::from_raw(0x1234_5030);
    let done = sys::memory_control(&[Fpage::NIL, hole, garbage], [0; 4]);
    check!(done.is_ok(), "{done:?}");
    Ok(())
}

fn attributes_keep_status(ctx: &mut Ctx) -> TestResult {
    let puppet = ctx.puppet()?;
    map_page(ctx, &puppet, 64, spot(0), Rights::RW)?;
    let own = Fpage::memory(arena::page(64), 12, Rights::empty());
    sys::unmap_one(own, false);
    puppet.run(Op::Write, &[spot(0), 7])?;
    let done = sys::memory_control(&[selecting(page(64), 0)], [1, 0, 0, 0]);
    check!(done.is_ok(), "{done:?}");
    let status = sys::unmap_one(own, false).rights();
    check!(status.contains(Rights::RW), "status {status:?}");
    restore(page(64))
}

fn attributes_then_revoke(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x35);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let done = sys::memory_control(&[selecting(page(64), 0)], [1, 0, 0, 0]);
    check!(done.is_ok(), "{done:?}");
    // Mapped on after the change.
    let item = map_item(spot(1), Fpage::memory(spot(0), 12, Rights::RW));
    pass(&one, &two, Acceptor::COMPLETE, &item)?;
    check_sees(&two, spot(1), 0x35)?;
    sys::unmap_one(Fpage::memory(arena::page(64), 12, Rights::RWX), false);
    check_faults(ctx, &one, Op::Read, spot(0))?;
    check_faults(ctx, &two, Op::Read, spot(1))?;
    restore(page(64))
}

fn attributes_unprivileged(ctx: &mut Ctx) -> TestResult {
    let puppet = ctx.puppet()?;
    map_page(ctx, &puppet, 64, spot(0), Rights::RW)?;
    puppet.set_mrs(&[selecting(Fpage::memory(spot(0), 12, Rights::empty()), 0).raw()]);
    let got = puppet.run(Op::MemoryControl, &[0, 1])?;
    let want = (0, ErrorCode::NoPrivilege.raw());
    check_eq!((got.results[0], got.results[1]), want);
    Ok(())
}

/// The call is refused as an invalid parameter.
fn check_refused(fpages: &[Fpage], attributes: [u64; 4]) -> TestResult {
    let refused = sys::memory_control(fpages, attributes);
    let code = refused.err().and_then(|error| error.code());
    check_eq!(code, Some(ErrorCode::InvalidParameter), "{attributes:?}");
    Ok(())
}

fn attributes_unknown_value(_: &mut Ctx) -> TestResult {
    mark(64, 0x36);
    for unknown in [3, 4, 6, 8, u64::MAX] {
        check_refused(&[selecting(page(64), 0)], [unknown, 0, 0, 0])?;
        check_refused(&[selecting(page(64), 3)], [0, 0, 0, unknown])?;
        check_refused(&[selecting(page(63), 1), selecting(page(64), 2)], [0, 1, unknown, 0])?;
    }
    check_eq!(libl4::arch::touch_read(arena::page(64)), 0x36);
    Ok(())
}

fn attributes_unselected_value(_: &mut Ctx) -> TestResult {
    let done = sys::memory_control(&[selecting(page(64), 2)], [99, 98, 0, 97]);
    check!(done.is_ok(), "{done:?}");
    Ok(())
}

fn attributes_of_ports(_: &mut Ctx) -> TestResult {
    check_refused(&[Fpage::io(0x3F8, 3)], [0; 4])
}
