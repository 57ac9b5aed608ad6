//! Unmap and status bits.

use super::{check_faults, check_sees, give, map_page, mark, pass, spot};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, Place, TestResult, arena};
use crate::{check, check_eq, need, tests};
use l4abi::item::map_item;
use libl4::{Acceptor, Fpage, Rights, sys, thread};

tests! {
    unmap_revokes_recursively, OtherSpace, "revoking a page reaches every space it was passed to";
    unmap_keeps_the_own_page, OtherSpace, "without flush the caller keeps its own mapping";
    unmap_flush_takes_the_own_page, OtherSpace, "with flush the caller's own mapping goes, too";
    unmap_reduces_rights, OtherSpace, "revoking write leaves the page readable everywhere below";
    unmap_part_of_a_region, OtherSpace, "one page out of sixteen is revoked";
    unmap_part_of_two_mib, OtherSpace, "one 4 KiB page out of a 2 MiB mapping is revoked, the rest stays";
    unmap_larger_than_mapped, OtherSpace, "an fpage larger than what is mapped revokes all of it";
    unmap_complete_space, OtherSpace, "a puppet flushes everything it has";
    unmap_many_fpages, OtherSpace, "sixty-four fpages in one call";
    unmap_spares_siblings, OtherSpace, "revoking one space's mapping from its middle leaves siblings alone";
    unmap_status_written, OtherSpace, "status bits tell of reads and writes by others, and are reset";
    unmap_status_untouched, OtherSpace, "a page nobody touched reports nothing";
    unmap_status_survives_revocation, OtherSpace, "what a lower unmap saw is not lost for the mapper above";
    unmap_zero_rights_changes_nothing, OtherSpace, "with no access bits nothing is revoked";
    unmap_nothing_there, Once, "unmapping what is not mapped is no error";
    unmap_nil_and_garbage, Once, "nilpages and garbage fpages are harmless";
    unmap_after_owner_died, OtherSpace, "deleting a space in the middle revokes what it passed on";
    unmap_remap_many_rounds, OtherSpace, "map and unmap of one page, five hundred rounds";
    unmap_own_utcb_is_skipped, OtherSpace, "flushing UTCB and KIP areas does nothing";
}

fn page(n: u64, rights: Rights) -> Fpage {
    Fpage::memory(arena::page(n), 12, rights)
}

fn unmap_revokes_recursively(ctx: &mut Ctx) -> TestResult {
    let chain = [ctx.puppet()?, ctx.puppet()?, ctx.puppet()?];
    mark(64, 0x71);
    map_page(ctx, &chain[0], 64, spot(0), Rights::RW)?;
    for i in 0..2u64 {
        let item = map_item(spot(i + 1), Fpage::memory(spot(i), 12, Rights::RW));
        pass(&chain[i as usize], &chain[i as usize + 1], Acceptor::COMPLETE, &item)?;
    }
    check_sees(&chain[2], spot(2), 0x71)?;
    sys::unmap_one(page(64, Rights::RWX), false);
    for (i, puppet) in chain.iter().enumerate() {
        check_faults(ctx, puppet, Op::Read, spot(i as u64))?;
    }
    Ok(())
}

fn unmap_keeps_the_own_page(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x72);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let own = Fpage::memory(spot(0), 12, Rights::RWX);
    pass(&one, &two, Acceptor::COMPLETE, &map_item(spot(0), own))?;
    one.set_mrs(&[own.raw()]);
    one.run(Op::Unmap, &[0])?;
    check_sees(&one, spot(0), 0x72)?;
    check_faults(ctx, &two, Op::Read, spot(0))
}

fn unmap_flush_takes_the_own_page(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let own = Fpage::memory(spot(0), 12, Rights::RWX);
    pass(&one, &two, Acceptor::COMPLETE, &map_item(spot(0), own))?;
    one.set_mrs(&[own.raw()]);
    one.run(Op::Unmap, &[0x40])?;
    check_faults(ctx, &one, Op::Read, spot(0))?;
    check_faults(ctx, &two, Op::Read, spot(0))
}

fn unmap_reduces_rights(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x73);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let own = Fpage::memory(spot(0), 12, Rights::RW);
    pass(&one, &two, Acceptor::COMPLETE, &map_item(spot(0), own))?;
    sys::unmap_one(page(64, Rights::W), false);
    check_sees(&one, spot(0), 0x73)?;
    check_sees(&two, spot(0), 0x73)?;
    check_faults(ctx, &one, Op::Write, spot(0))?;
    check_faults(ctx, &two, Op::Write, spot(0))
}

fn unmap_part_of_a_region(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for i in 0..16 {
        mark(64 + i, 0xB0 + i as u8);
    }
    let item = map_item(spot(0), Fpage::memory(arena::page(64), 16, Rights::RW));
    give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    sys::unmap_one(page(64 + 7, Rights::RWX), false);
    for i in (0..16).filter(|&i| i != 7) {
        check_sees(&partner, spot(i), 0xB0 + i as u8)?;
    }
    check_faults(ctx, &partner, Op::Read, spot(7))
}

fn unmap_part_of_two_mib(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for i in [0u64, 99, 101, 511] {
        mark(512 + i, 0xC0 ^ i as u8);
    }
    let item = map_item(spot(512), Fpage::memory(arena::page(512), 21, Rights::RW));
    give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    sys::unmap_one(page(512 + 100, Rights::RWX), false);
    for i in [0u64, 99, 101, 511] {
        check_sees(&partner, spot(512 + i), 0xC0 ^ i as u8)?;
    }
    check_faults(ctx, &partner, Op::Read, spot(612))
}

fn unmap_larger_than_mapped(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for i in [0u64, 3, 15] {
        map_page(ctx, &partner, 64 + i, spot(i), Rights::RW)?;
    }
    sys::unmap_one(Fpage::memory(arena::page(64), 16, Rights::RWX), false);
    check_faults(ctx, &partner, Op::Read, spot(15))
}

fn unmap_complete_space(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    map_page(ctx, &partner, 64, spot(0), Rights::RW)?;
    partner.set_mrs(&[Fpage::COMPLETE.with_rights(Rights::RWX).raw()]);
    // Its image goes, too, and comes back by faults.
    partner.run(Op::Unmap, &[0x40])?;
    check_faults(ctx, &partner, Op::Read, spot(0))
}

fn unmap_many_fpages(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let item = map_item(spot(0), Fpage::memory(arena::page(64), 18, Rights::RW));
    give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    check_sees(&partner, spot(63), arena::byte(arena::page(127)))?;
    let mut fpages: [Fpage; 64] = core::array::from_fn(|i| page(64 + i as u64, Rights::RWX));
    sys::unmap(&mut fpages, false);
    for (i, fpage) in fpages.iter().enumerate() {
        let want = page(64 + i as u64, Rights::empty()).raw();
        check_eq!(fpage.raw() & !7, want, "fpage {i}");
    }
    check_faults(ctx, &partner, Op::Read, spot(63))
}

fn unmap_spares_siblings(ctx: &mut Ctx) -> TestResult {
    let (one, two, three) = (ctx.puppet()?, ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x74);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    map_page(ctx, &two, 64, spot(0), Rights::RW)?;
    let own = Fpage::memory(spot(0), 12, Rights::RWX);
    pass(&one, &three, Acceptor::COMPLETE, &map_item(spot(0), own))?;
    one.set_mrs(&[own.raw()]);
    one.run(Op::Unmap, &[0x40])?;
    check_sees(&two, spot(0), 0x74)?;
    check_faults(ctx, &three, Op::Read, spot(0))
}

/// Forgets all status of the arena so far: of mappings that are gone, and of whole large pages, which a
/// read of a part does not reset.
fn reset_status() {
    sys::unmap_one(Fpage::memory(arena::base(), arena::ARENA_LOG2, Rights::empty()), false);
}

fn unmap_status_written(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    map_page(ctx, &partner, 64, spot(0), Rights::RW)?;
    reset_status();
    partner.run(Op::Read, &[spot(0)])?;
    let status = sys::unmap_one(page(64, Rights::empty()), false).rights();
    check!(status.contains(Rights::R) && !status.contains(Rights::W), "after a read: {status:?}");
    partner.run(Op::Write, &[spot(0), 1])?;
    let status = sys::unmap_one(page(64, Rights::empty()), false).rights();
    check!(status.contains(Rights::RW), "after a write: {status:?}");
    let status = sys::unmap_one(page(64, Rights::empty()), false).rights();
    check!(!status.contains(Rights::W), "not reset: {status:?}");
    Ok(())
}

fn unmap_status_untouched(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    reset_status();
    map_page(ctx, &partner, 64, spot(0), Rights::RW)?;
    let status = sys::unmap_one(page(64, Rights::empty()), false).rights();
    check!(!status.contains(Rights::W), "{status:?}");
    Ok(())
}

fn unmap_status_survives_revocation(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    sys::unmap_one(page(64, Rights::empty()), false);
    let own = Fpage::memory(spot(0), 12, Rights::RW);
    pass(&one, &two, Acceptor::COMPLETE, &map_item(spot(0), own))?;
    two.run(Op::Write, &[spot(0), 5])?;
    // The middle revokes it from below, and so sees (and resets) the status first.
    one.set_mrs(&[own.with_rights(Rights::RWX).raw()]);
    let seen = one.run(Op::Unmap, &[0])?;
    check!(Fpage::from_raw(seen.mr[0]).rights().contains(Rights::W), "the middle");
    let status = sys::unmap_one(page(64, Rights::empty()), false).rights();
    check!(status.contains(Rights::W), "the top: {status:?}");
    Ok(())
}

fn unmap_zero_rights_changes_nothing(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    mark(64, 0x75);
    map_page(ctx, &partner, 64, spot(0), Rights::RW)?;
    sys::unmap_one(page(64, Rights::empty()), false);
    check_sees(&partner, spot(0), 0x75)?;
    partner.run(Op::Write, &[spot(0), 1])?;
    Ok(())
}

fn unmap_nothing_there(_: &mut Ctx) -> TestResult {
    for flush in [false, true] {
        let fpage = Fpage::memory(spot(0), 24, Rights::RWX);
        let back = sys::unmap_one(fpage, flush);
        check_eq!(back, fpage.with_rights(Rights::empty()));
    }
    Ok(())
}

fn unmap_nil_and_garbage(_: &mut Ctx) -> TestResult {
    let mut fpages = [
        Fpage::NIL,
        Fpage::from_raw(7),
        Fpage::from_raw(0xFFFF_8000_0000_0000 | 12 << 4 | 7),
        Fpage::from_raw(0xFFFF_FFFF_8020_0000 | 21 << 4 | 7),
        Fpage::from_raw(0x1_2345_6000 | 3 << 4 | 7),
        Fpage::from_raw(!0x3F0 | 2 << 4),
    ];
    sys::unmap(&mut fpages, false);
    check!(libl4::kip().word(0) == l4abi::kip::MAGIC, "the KIP is gone");
    Ok(())
}

fn unmap_after_owner_died(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    map_page(ctx, &one, 64, spot(0), Rights::RW)?;
    let own = Fpage::memory(spot(0), 12, Rights::RW);
    pass(&one, &two, Acceptor::COMPLETE, &map_item(spot(0), own))?;
    need!(thread::delete(one.id));
    check_faults(ctx, &two, Op::Read, spot(0))
}

fn unmap_remap_many_rounds(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for round in 0..500u64 {
        mark(64, round as u8);
        map_page(ctx, &partner, 64, spot(round % 700), Rights::RW)?;
        if round % 25 == 0 {
            check_sees(&partner, spot(round % 700), round as u8)?;
        }
        sys::unmap_one(page(64, Rights::RWX), false);
    }
    check_faults(ctx, &partner, Op::Read, spot(499))
}

fn unmap_own_utcb_is_skipped(ctx: &mut Ctx) -> TestResult {
    use crate::harness::ids;
    let partner = ctx.puppet_at(Place::Remote)?;
    let areas = [
        Fpage::memory(ids::PUPPET_UTCB_AREA.0, ids::PUPPET_UTCB_AREA.1, Rights::RWX),
        Fpage::memory(ids::PUPPET_KIP, libl4::kip().kip_area_log2(), Rights::RWX),
    ];
    partner.set_mrs(&areas.map(Fpage::raw));
    partner.run(Op::Unmap, &[0x41])?;
    check_sees(&partner, ids::PUPPET_KIP, b'L')?;
    let id = partner.run(Op::ReadTcr, &[l4abi::utcb::word::MY_GLOBAL_ID as u64])?;
    check_eq!(id.results[0], partner.id.raw());
    Ok(())
}
