//! Strings and mappings at addresses that must not be touched.

use super::{Random, world_is_fine};
use crate::harness::{Ctx, IpcCmd, TestResult, arena};
use crate::{check, tests};
use l4abi::item::{StringHead, grant_item, map_item};
use libl4::{Fpage, MsgTag, Rights, Time};

tests! {
    hs_string_from_kernel, All, "strings from kernel and non-canonical addresses fail";
    hs_string_into_kernel, All, "buffers at kernel and non-canonical addresses fail and nothing is written";
    hs_string_wraps_around, All, "strings and buffers that wrap around the end of the address space fail";
    hs_string_random, OtherSpace, "a hundred transfers with random descriptors on both sides";
    hs_map_random, OtherSpace, "a hundred random map and grant items";
    hs_grant_the_image, OtherSpace, "a puppet grants its whole space away and is deleted";
    hs_self_map_loop, OtherSpace, "two spaces map each other's pages back and forth two hundred times";
}

const BAD: [u64; 6] = [
    0xFFFF_8000_0000_0000,
    0xFFFF_FFFF_8020_0000,
    0xFFFF_FFFF_A000_0000,
    0x0000_8000_0000_0000,
    0x8000_0000_0000_0000,
    0xFFFF_FFFF_FFFF_F000,
];

fn hs_string_from_kernel(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for addr in BAD {
        let typed = [StringHead::new(64, 1, false).raw(), addr];
        let brs = [1, StringHead::new(64, 1, false).raw(), arena::page(32)];
        arena::wipe(arena::page(32), 64, 0x6B);
        let send = IpcCmd::send(ctx.me()).message(MsgTag::new(1, 0, 2), &typed);
        partner.start_ipc(&send.xfer(Time::ZERO))?;
        let got = ctx.ipc(&IpcCmd::receive(partner.id).brs(&brs));
        check!(got.tag.is_error(), "{addr:#x} was read");
        check!(arena::not_all(arena::page(32), 64, 0x6B).is_none(), "{addr:#x} leaked");
        check!(partner.finish()?.tag.is_error());
    }
    world_is_fine(ctx)
}

fn hs_string_into_kernel(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for addr in BAD {
        let typed = [StringHead::new(64, 1, false).raw(), arena::page(0)];
        let brs = [1, StringHead::new(64, 1, false).raw(), addr];
        partner.start_ipc(&IpcCmd::receive(ctx.me()).brs(&brs).xfer(Time::ZERO))?;
        let send = IpcCmd::send(partner.id).message(MsgTag::new(1, 0, 2), &typed);
        let sent = ctx.ipc(&send);
        check!(sent.tag.is_error(), "{addr:#x} was written");
        check!(partner.finish()?.tag.is_error());
    }
    world_is_fine(ctx)
}

fn hs_string_wraps_around(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let huge = StringHead::new((1 << 54) - 1, 1, false).raw();
    for addr in [u64::MAX - 10, u64::MAX, 0xFFFF_FFFF_FFFF_F800, arena::page(0)] {
        let typed = [huge, addr];
        let brs = [1, huge, arena::window(3)];
        let send = IpcCmd::send(ctx.me()).message(MsgTag::new(1, 0, 2), &typed);
        partner.start_ipc(&send.xfer(Time::ZERO))?;
        let got = ctx.ipc(&IpcCmd::receive(partner.id).brs(&brs).xfer(Time::ZERO));
        check!(got.tag.is_error(), "{addr:#x}");
        check!(partner.finish()?.tag.is_error());
    }
    world_is_fine(ctx)
}

fn hs_string_random(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    let mut random = Random(0x5712);
    // Harmless targets only: what a random buffer hits is the puppet's own space.
    let likely =
        [arena::page(100), arena::page(101) + 77, arena::window(3), 0x1000, 5 << 10, 64 << 10];
    for _ in 0..100 {
        let typed: [u64; 63] = core::array::from_fn(|_| random.word(&likely) & !0x8);
        let mut brs: [u64; 33] = core::array::from_fn(|_| random.word(&likely) & !0x8);
        brs[0] = 1;
        // Writable memory of both is shared with everybody: keep buffers out of the image.
        let (first, last) = libl4::arch::image_range();
        for word in &mut brs[1..] {
            if (first..=last).contains(word) {
                *word = arena::page(102);
            }
        }
        let untyped = random.below(4) as usize;
        let count = random.below(63 - untyped as u64) as usize;
        let tag = MsgTag::new(1, untyped, count);
        two.start_ipc(&IpcCmd::receive(one.id).brs(&brs).xfer(Time::ZERO))?;
        one.run_ipc(&IpcCmd::send(two.id).message(tag, &typed).xfer(Time::ZERO))?;
        two.finish()?;
    }
    world_is_fine(ctx)
}

fn hs_map_random(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    let mut random = Random(0x3A9);
    let likely = [arena::page(64) | 0xC7, arena::page(0) | 0x127, 0x17, 0x4026, 0xC7];
    for _ in 0..100 {
        let mut typed = [0u64; 20];
        for pair in typed.chunks_exact_mut(2) {
            let kind = if random.below(2) == 0 { 8 } else { 0xA };
            pair[0] = (random.word(&likely) & !0xF) | kind;
            pair[1] = random.word(&likely);
        }
        let window = random.word(&[0x10, 0x10, arena::window(3) | 0x100]) & !1;
        two.start_ipc(&IpcCmd::receive(one.id).brs(&[window]))?;
        one.run_ipc(&IpcCmd::send(two.id).message(MsgTag::new(1, 0, 20), &typed))?;
        two.finish()?;
    }
    world_is_fine(ctx)
}

fn hs_grant_the_image(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    let item = grant_item(0, Fpage::COMPLETE.with_rights(Rights::RWX));
    two.start_ipc(&IpcCmd::receive(one.id).brs(&[0x10]))?;
    one.start_ipc(&IpcCmd::send(two.id).message(MsgTag::new(1, 0, 2), &item))?;
    ctx.settle();
    crate::need!(libl4::thread::delete(one.id));
    crate::need!(libl4::thread::delete(two.id));
    world_is_fine(ctx)
}

fn hs_self_map_loop(ctx: &mut Ctx) -> TestResult {
    let pair = [ctx.puppet()?, ctx.puppet()?];
    let page = Fpage::memory(arena::page(64), 12, Rights::RW);
    pair[0].start_ipc(&IpcCmd::receive(ctx.me()).brs(&[0x10]))?;
    let first = map_item(arena::window(3), page);
    check!(
        !ctx.ipc(&IpcCmd::send(pair[0].id).message(MsgTag::new(1, 0, 2), &first)).tag.is_error()
    );
    pair[0].finish()?;
    for round in 0..200u64 {
        let (from, to) = (&pair[(round % 2) as usize], &pair[((round + 1) % 2) as usize]);
        let source = Fpage::memory(arena::window(3) + round * 4096, 12, Rights::RW);
        let item = map_item(arena::window(3) + (round + 1) * 4096, source);
        to.start_ipc(&IpcCmd::receive(from.id).brs(&[0x10]))?;
        from.run_ipc(&IpcCmd::send(to.id).message(MsgTag::new(1, 0, 2), &item))?;
        to.finish()?;
    }
    // One call at the root takes the whole chain away.
    libl4::sys::unmap_one(page.with_rights(Rights::RWX), false);
    pair[0].start(crate::harness::puppet::Op::Read, &[arena::window(3) + 200 * 4096])?;
    ctx.settle();
    check!(!pair[0].is_done(), "the end of the chain is still mapped");
    world_is_fine(ctx)
}
