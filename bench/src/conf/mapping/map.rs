//! Map items.

use super::{check_faults, check_sees, give, map_page, mark, pass, spot};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, TestResult, arena};
use crate::{check, check_eq, tests};
use l4abi::item::map_item;
use libl4::{Acceptor, Fpage, MsgTag, Rights};

tests! {
    map_one_page, OtherSpace, "a page appears at the send base and shares its content";
    map_item_words_arrive, OtherSpace, "the item's words are copied as they are";
    map_many_items, OtherSpace, "thirty-one map items in one message";
    map_large_fpage, OtherSpace, "an fpage of 64 pages appears whole";
    map_two_mib, OtherSpace, "an fpage of 2 MiB appears whole at an aligned address";
    map_two_mib_misaligned, OtherSpace, "an fpage of 2 MiB at a send base that is no multiple of 2 MiB is rounded down";
    map_window_larger, OtherSpace, "a small fpage goes where the send base says inside a larger window";
    map_window_smaller, OtherSpace, "of a large fpage only the part the send base names is mapped";
    map_garbage_bits, OtherSpace, "garbage in bit 3 and in low address bits is ignored";
    map_tiny_fpage_is_nothing, OtherSpace, "fpages below 4 KiB and nilpages map nothing, without error";
    map_holes_are_skipped, OtherSpace, "pages the sender does not have are skipped, the others mapped";
    map_rights_are_reduced, OtherSpace, "a read-only mapping cannot be written";
    map_no_more_than_own_rights, OtherSpace, "the receiver gets no right the sender lacks";
    map_again_adds_rights, OtherSpace, "mapping the same frame again adds rights";
    map_again_keeps_rights, OtherSpace, "mapping the same frame with fewer rights takes none away";
    map_over_another_frame, OtherSpace, "mapping another frame replaces the old one";
    map_small_over_large, OtherSpace, "a 4 KiB page over part of a 2 MiB mapping takes its place there";
    map_large_over_small, OtherSpace, "a 2 MiB page over small mappings replaces them";
    map_complete_space, OtherSpace, "the complete address space as send fpage maps what the sender has";
    map_to_kernel_half_is_nothing, OtherSpace, "a target beyond user memory maps nothing";
    map_chain_of_three, OtherSpace, "a page passes through three spaces";
    map_same_space, Once, "a thread maps a page to another address of its own space";
    map_with_words_and_string, OtherSpace, "words, a map item and a string in one message";
    map_same_frame_many_times, OtherSpace, "one frame at 256 places of a space";
}

fn map_one_page(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    mark(64, 0x41);
    map_page(ctx, &partner, 64, spot(1), Rights::RWX)?;
    check_sees(&partner, spot(1) + 9, 0x41)?;
    partner.run(Op::Write, &[spot(1) + 16, 0x4242_4242_4242_4242])?;
    check_eq!(arena::byte(arena::page(64) + 16), 0x42, "shared");
    Ok(())
}

fn map_item_words_arrive(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let item = map_item(spot(1), Fpage::memory(arena::page(64), 12, Rights::RW));
    let got = give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    check_eq!([got.mr[1], got.mr[2]], item);
    check_eq!((got.tag.untyped(), got.tag.typed()), (0, 2));
    Ok(())
}

fn map_many_items(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let mut typed = [0u64; 62];
    for i in 0..31u64 {
        mark(64 + i, i as u8);
        let page = Fpage::memory(arena::page(64 + i), 12, Rights::RW);
        typed[2 * i as usize..][..2].copy_from_slice(&map_item(spot(2 * i), page));
    }
    give(ctx, &partner, Acceptor::COMPLETE, &typed)?;
    for i in 0..31u64 {
        check_sees(&partner, spot(2 * i), i as u8)?;
    }
    Ok(())
}

fn map_large_fpage(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for i in 0..64 {
        mark(64 + i, 0x80 + i as u8);
    }
    let item = map_item(spot(64), Fpage::memory(arena::page(64), 18, Rights::RW));
    give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    for i in 0..64 {
        check_sees(&partner, spot(64 + i), 0x80 + i as u8)?;
    }
    Ok(())
}

fn two_mib(ctx: &mut Ctx, base: u64) -> TestResult {
    let partner = ctx.puppet()?;
    for i in (0..512).step_by(73) {
        mark(512 + i, i as u8 ^ 0x3C);
    }
    let item = map_item(base, Fpage::memory(arena::page(512), 21, Rights::RW));
    give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    for i in (0..512).step_by(73) {
        check_sees(&partner, spot(512 + i), i as u8 ^ 0x3C)?;
    }
    Ok(())
}

fn map_two_mib(ctx: &mut Ctx) -> TestResult {
    two_mib(ctx, spot(512))
}

fn map_two_mib_misaligned(ctx: &mut Ctx) -> TestResult {
    two_mib(ctx, spot(512) + 0x12_3400)
}

fn map_window_larger(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    mark(64, 0x51);
    let window = Acceptor::window(Fpage::memory(spot(0), 16, Rights::RWX));
    // Bits of the base above the window and below the page do not count.
    let item = map_item(0x7777_0000_5C00, Fpage::memory(arena::page(64), 12, Rights::RW));
    give(ctx, &partner, window, &item)?;
    check_sees(&partner, spot(5), 0x51)
}

fn map_window_smaller(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for i in 0..16 {
        mark(64 + i, 0x60 + i as u8);
    }
    let window = Acceptor::window(Fpage::memory(spot(8), 13, Rights::RWX));
    let item = map_item(0x0000_A000, Fpage::memory(arena::page(64), 16, Rights::RW));
    give(ctx, &partner, window, &item)?;
    check_sees(&partner, spot(8), 0x6A)?;
    check_sees(&partner, spot(9), 0x6B)?;
    check_faults(ctx, &partner, Op::Read, spot(10))
}

fn map_garbage_bits(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    mark(64, 0x52);
    // The pager idiom: an fpage straight from an address inside the page (ref 1.2).
    let raw = (arena::page(64) + 0x678) & !0x3FF | 12 << 4 | 0xF;
    give(ctx, &partner, Acceptor::COMPLETE, &[(spot(1) + 0x400) | 8, raw])?;
    check_sees(&partner, spot(1), 0x52)
}

fn map_tiny_fpage_is_nothing(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for raw in
        [0, 7, arena::page(64) | 7, arena::page(64) | 3 << 4 | 7, arena::page(64) | 11 << 4 | 7]
    {
        give(ctx, &partner, Acceptor::COMPLETE, &[spot(1) | 8, raw])?;
    }
    check_faults(ctx, &partner, Op::Read, spot(1))
}

fn map_holes_are_skipped(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
    for i in [0u64, 2, 5] {
        mark(64 + i, 0x70 + i as u8);
        map_page(ctx, &sender, 64 + i, spot(i), Rights::RW)?;
    }
    let item = map_item(spot(16), Fpage::memory(spot(0), 15, Rights::RW));
    pass(&sender, &receiver, Acceptor::COMPLETE, &item)?;
    for i in [0u64, 2, 5] {
        check_sees(&receiver, spot(16 + i), 0x70 + i as u8)?;
    }
    check_faults(ctx, &receiver, Op::Read, spot(17))
}

fn map_rights_are_reduced(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    mark(64, 0x53);
    map_page(ctx, &partner, 64, spot(1), Rights::R)?;
    check_sees(&partner, spot(1), 0x53)?;
    check_faults(ctx, &partner, Op::Write, spot(1))?;
    check_eq!(arena::byte(arena::page(64)), 0x53, "written all the same");
    Ok(())
}

fn map_no_more_than_own_rights(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x54);
    map_page(ctx, &sender, 64, spot(1), Rights::R)?;
    let item = map_item(spot(2), Fpage::memory(spot(1), 12, Rights::RWX));
    pass(&sender, &receiver, Acceptor::COMPLETE, &item)?;
    check_sees(&receiver, spot(2), 0x54)?;
    check_faults(ctx, &receiver, Op::Write, spot(2))
}

fn map_again_adds_rights(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    map_page(ctx, &partner, 64, spot(1), Rights::R)?;
    check_sees(&partner, spot(1), arena::byte(arena::page(64)))?;
    map_page(ctx, &partner, 64, spot(1), Rights::RW)?;
    partner.run(Op::Write, &[spot(1), 0x5555_5555_5555_5555])?;
    check_eq!(arena::byte(arena::page(64)), 0x55);
    Ok(())
}

fn map_again_keeps_rights(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    map_page(ctx, &partner, 64, spot(1), Rights::RW)?;
    map_page(ctx, &partner, 64, spot(1), Rights::R)?;
    partner.run(Op::Write, &[spot(1), 0x5656_5656_5656_5656])?;
    check_eq!(arena::byte(arena::page(64)), 0x56);
    Ok(())
}

fn map_over_another_frame(ctx: &mut Ctx) -> TestResult {
    let (partner, third) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x57);
    mark(65, 0x58);
    map_page(ctx, &partner, 64, spot(1), Rights::RW)?;
    let onward = map_item(spot(1), Fpage::memory(spot(1), 12, Rights::RW));
    pass(&partner, &third, Acceptor::COMPLETE, &onward)?;
    map_page(ctx, &partner, 65, spot(1), Rights::RW)?;
    check_sees(&partner, spot(1), 0x58)?;
    // What was derived from the old mapping is gone.
    check_faults(ctx, &third, Op::Read, spot(1))
}

fn map_small_over_large(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for i in [0u64, 1, 2, 511] {
        mark(512 + i, 0x30 + i as u8);
    }
    mark(64, 0x99);
    let item = map_item(spot(512), Fpage::memory(arena::page(512), 21, Rights::RW));
    give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    map_page(ctx, &partner, 64, spot(513), Rights::RW)?;
    check_sees(&partner, spot(513), 0x99)
}

fn map_large_over_small(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for i in [0u64, 1, 300] {
        mark(512 + i, 0x21 + i as u8);
    }
    for i in [1u64, 2, 300] {
        map_page(ctx, &partner, 64 + i % 3, spot(512 + i), Rights::RW)?;
    }
    let item = map_item(spot(512), Fpage::memory(arena::page(512), 21, Rights::RW));
    give(ctx, &partner, Acceptor::COMPLETE, &item)?;
    for i in [0u64, 1, 300] {
        check_sees(&partner, spot(512 + i), 0x21 + i as u8)?;
    }
    Ok(())
}

fn map_complete_space(ctx: &mut Ctx) -> TestResult {
    let (sender, receiver) = (ctx.puppet()?, ctx.puppet()?);
    mark(64, 0x5B);
    map_page(ctx, &sender, 64, spot(7), Rights::RW)?;
    let item = map_item(0, Fpage::COMPLETE.with_rights(Rights::RW));
    pass(&sender, &receiver, Acceptor::COMPLETE, &item)?;
    check_sees(&receiver, spot(7), 0x5B)
}

fn map_to_kernel_half_is_nothing(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for base in [0xFFFF_8000_0000_0000u64, 0xFFFF_FFFF_8020_0000, 0x0000_8000_0000_0000, !0xFFF] {
        map_page(ctx, &partner, 64, base, Rights::RWX)?;
    }
    check_sees(&partner, crate::harness::ids::PUPPET_KIP, b'L')
}

fn map_chain_of_three(ctx: &mut Ctx) -> TestResult {
    let chain = [ctx.puppet()?, ctx.puppet()?, ctx.puppet()?];
    mark(64, 0x5C);
    map_page(ctx, &chain[0], 64, spot(0), Rights::RW)?;
    for i in 0..2u64 {
        let item = map_item(spot(i + 1), Fpage::memory(spot(i), 12, Rights::RW));
        pass(&chain[i as usize], &chain[i as usize + 1], Acceptor::COMPLETE, &item)?;
    }
    check_sees(&chain[2], spot(2), 0x5C)
}

fn map_same_space(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(crate::harness::Place::Local)?;
    mark(64, 0x5D);
    map_page(ctx, &partner, 64, spot(1), Rights::RW)?;
    check_eq!(arena::byte(spot(1)), 0x5D, "for the runner, too");
    check_sees(&partner, spot(1), 0x5D)
}

fn map_with_words_and_string(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    mark(64, 0x5E);
    arena::fill(arena::page(0), 128, 9);
    arena::wipe(arena::page(32), 128, 0);
    let map = map_item(spot(1), Fpage::memory(arena::page(64), 12, Rights::RW));
    let string = l4abi::item::string_item(arena::page(0), 100);
    let words = [11, 22, map[0], map[1], string[0], string[1]];
    let buffer = l4abi::item::string_item(arena::page(32), 100);
    let brs = [Acceptor::COMPLETE.and_strings().raw(), buffer[0], buffer[1]];
    partner.start_ipc(&IpcCmd::receive(ctx.me()).brs(&brs))?;
    let sent = ctx.ipc(&IpcCmd::send(partner.id).message(MsgTag::new(3, 2, 4), &words));
    check!(!sent.tag.is_error(), "{:?}", sent.ipc_error());
    let got = partner.finish()?;
    check_eq!(&got.mr[1..=6], &words[..], "words");
    check_sees(&partner, spot(1), 0x5E)?;
    check_eq!(arena::mismatch(arena::page(32), 100, 9), None, "string");
    Ok(())
}

fn map_same_frame_many_times(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    mark(64, 0x5F);
    let page = Fpage::memory(arena::page(64), 12, Rights::RW);
    for batch in 0..16u64 {
        let mut typed = [0u64; 32];
        for i in 0..16 {
            typed[2 * i..][..2].copy_from_slice(&map_item(spot(batch * 16 + i as u64), page));
        }
        give(ctx, &partner, Acceptor::COMPLETE, &typed)?;
    }
    for n in [0u64, 1, 100, 255] {
        check_sees(&partner, spot(n), 0x5F)?;
    }
    libl4::sys::unmap_one(page.with_rights(Rights::RWX), false);
    check_faults(ctx, &partner, Op::Read, spot(200))
}
