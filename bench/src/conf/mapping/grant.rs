//! Grant items.

use super::{check_faults, check_sees, map_page, mark, pass, spot};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, TestResult, arena};
use crate::tests;
use l4abi::item::{grant_item, map_item};
use libl4::{Acceptor, Fpage, Rights, sys};

tests! {
    grant_moves_the_page, OtherSpace, "a granted page is with the receiver and no longer with the sender";
    grant_keeps_the_root, OtherSpace, "the first mapper still revokes a page that was granted onwards";
    grant_frees_from_the_granter, OtherSpace, "the granter can no longer revoke what it granted";
    grant_keeps_derived, OtherSpace, "mappings derived before the grant live on under the new owner";
    grant_reduces_rights, OtherSpace, "a grant with fewer rights passes only those";
    grant_large, OtherSpace, "a grant of sixteen pages moves all of them";
}

fn grant_moves_the_page(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x61);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    pass(
        &one,
        &two,
        Acceptor::COMPLETE,
        &grant_item(spot(1), Fpage::memory(spot(0), 12, Rights::RW)),
    )?;
    check_sees(&two, spot(1), 0x61)?;
    check_faults(ctx, &one, Op::Read, spot(0))
}

fn grant_keeps_the_root(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x62);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    pass(
        &one,
        &two,
        Acceptor::COMPLETE,
        &grant_item(spot(1), Fpage::memory(spot(0), 12, Rights::RW)),
    )?;
    check_sees(&two, spot(1), 0x62)?;
    sys::unmap_one(Fpage::memory(arena::page(64), 12, Rights::RWX), false);
    check_faults(ctx, &two, Op::Read, spot(1))
}

fn grant_frees_from_the_granter(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x63);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let page = Fpage::memory(spot(0), 12, Rights::RWX);
    pass(&one, &two, Acceptor::COMPLETE, &grant_item(spot(1), page))?;
    one.set_mrs(&[page.raw()]);
    one.run(Op::Unmap, &[0x40])?;
    check_sees(&two, spot(1), 0x63)
}

fn grant_keeps_derived(ctx: &mut Ctx) -> TestResult {
    let (one, two, three) = (ctx.puppet()?, ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x64);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let page = Fpage::memory(spot(0), 12, Rights::RW);
    pass(&one, &three, Acceptor::COMPLETE, &map_item(spot(2), page))?;
    pass(&one, &two, Acceptor::COMPLETE, &grant_item(spot(1), page))?;
    check_sees(&two, spot(1), 0x64)
}

fn grant_reduces_rights(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x65);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    pass(
        &one,
        &two,
        Acceptor::COMPLETE,
        &grant_item(spot(1), Fpage::memory(spot(0), 12, Rights::R)),
    )?;
    check_sees(&two, spot(1), 0x65)?;
    check_faults(ctx, &two, Op::Write, spot(1))
}

fn grant_large(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    for i in 0..16 {
        mark(64 + i, 0xA0 + i as u8);
        map_page(ctx, &one, 64 + i, spot(i), Rights::RW)?;
    }
    pass(
        &one,
        &two,
        Acceptor::COMPLETE,
        &grant_item(spot(32), Fpage::memory(spot(0), 16, Rights::RW)),
    )?;
    for i in 0..16 {
        check_sees(&two, spot(32 + i), 0xA0 + i as u8)?;
    }
    check_faults(ctx, &one, Op::Read, spot(9))
}
