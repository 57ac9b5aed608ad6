//! Every form of a string, and what does not fit.

use super::{Ends, WAYS, Way, buffer, source, string, target, transfer};
use crate::harness::{Ctx, IpcCmd, TestResult, arena};
use crate::{check, check_eq, tests};
use l4abi::item::{C_BIT, StringHead};
use libl4::{IpcCode, MsgTag, Phase};

tests! {
    str_simple_lengths, All, "simple strings of 1 byte to 16 KiB arrive byte for byte, both ways";
    str_zero_length, All, "an empty string is no error";
    str_unaligned, All, "source and buffer at odd addresses";
    str_nothing_beyond_the_end, All, "bytes behind the string stay as they were";
    str_equal_substrings, All, "one descriptor with several equal substrings";
    str_item_words_arrive, All, "the item's words are copied as they are";
    str_shorter_than_buffer, All, "a string shorter than its buffer uses the whole buffer up";
    str_two_strings_two_buffers, All, "two strings go to two buffers in order";
    str_with_words, All, "untyped words and strings in one message";
    str_fifteen_strings, All, "fifteen strings in one message";
    str_large, All, "one MiB in one string";
    str_buffer_too_short, All, "a short buffer: overflow for both, the offset is the buffer's size";
    str_second_buffer_missing, All, "no second buffer: overflow, the offset is the first string's length";
    str_second_buffer_short, All, "the offset counts all strings of the message";
    str_reply_carries_string, All, "call and reply with strings both ways";
}

fn check_ok(ends: &Ends) -> TestResult {
    check!(!ends.sent.tag.is_error(), "sender: {:?}", ends.sent.ipc_error());
    check!(!ends.got.tag.is_error(), "receiver: {:?}", ends.got.ipc_error());
    Ok(())
}

fn check_overflow(ends: &Ends, offset: u64) -> TestResult {
    let sent = ends.sent.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(sent, Some((Phase::Send, IpcCode::Overflow, offset)), "sender");
    let got = ends.got.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(got, Some((Phase::Receive, IpcCode::Overflow, offset)), "receiver");
    Ok(())
}

fn str_simple_lengths(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        for (seed, len) in
            [1u64, 2, 7, 8, 9, 255, 4095, 4096, 4097, 8192, 16384].into_iter().enumerate()
        {
            let seed = seed as u64 + 1;
            arena::fill(source(), len.next_multiple_of(8), seed);
            arena::wipe(target(), len.next_multiple_of(8), 0xEE);
            check_ok(&transfer(
                ctx,
                &partner,
                way,
                &string(source(), len),
                &buffer(target(), len),
            )?)?;
            check_eq!(arena::mismatch(target(), len, seed), None, "{way:?} {len} bytes");
        }
    }
    Ok(())
}

fn str_zero_length(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        check_ok(&transfer(ctx, &partner, way, &string(source(), 0), &buffer(target(), 8))?)?;
        check_ok(&transfer(ctx, &partner, way, &string(source(), 0), &buffer(target(), 0))?)?;
    }
    Ok(())
}

fn str_unaligned(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    arena::fill(source(), 8192, 5);
    for (a, b) in [(1u64, 0u64), (0, 1), (3, 5), (7, 2), (4090, 4091)] {
        arena::wipe(target(), 12288, 0);
        let ends = transfer(
            ctx,
            &partner,
            Way::ToRunner,
            &string(source() + a, 3000),
            &buffer(target() + b, 3000),
        )?;
        check_ok(&ends)?;
        for i in [0u64, 1, 6, 7, 8, 1500, 2998, 2999] {
            check_eq!(
                arena::byte(target() + b + i),
                arena::pattern(5, a + i),
                "offsets {a} {b}, byte {i}"
            );
        }
    }
    Ok(())
}

fn str_nothing_beyond_the_end(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        for len in [1u64, 5, 8, 100, 4096] {
            arena::fill(source(), 8192, 9);
            arena::wipe(target(), 8192, 0x5C);
            check_ok(&transfer(
                ctx,
                &partner,
                way,
                &string(source(), len),
                &buffer(target() + 8, 8000),
            )?)?;
            check_eq!(arena::not_all(target(), 8, 0x5C), None, "before, {len} bytes");
            check_eq!(arena::mismatch(target() + 8, len, 9), None, "the string");
            check_eq!(arena::not_all(target() + 8 + len, 64, 0x5C), None, "behind {len} bytes");
        }
    }
    Ok(())
}

fn str_equal_substrings(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    arena::fill(source(), 4096, 4);
    arena::wipe(target(), 4096, 0);
    // Four pieces of 64 bytes, in mixed order, to one buffer; and one string to four pieces.
    let s = source();
    let gather = [StringHead::new(64, 4, false).raw(), s + 192, s, s + 128, s + 64];
    check_ok(&transfer(ctx, &partner, Way::ToRunner, &gather, &buffer(target(), 256))?)?;
    for (at, from) in [(0u64, 192u64), (64, 0), (128, 128), (192, 64)] {
        check_eq!(arena::byte(target() + at), arena::pattern(4, from), "gather {at}");
        check_eq!(arena::byte(target() + at + 63), arena::pattern(4, from + 63), "gather {at} end");
    }
    let t = target() + 1024;
    let scatter = [1, StringHead::new(64, 4, false).raw(), t + 192, t, t + 128, t + 64];
    check_ok(&transfer(ctx, &partner, Way::ToPuppet, &string(s, 256), &scatter)?)?;
    for (at, to) in [(0u64, 192u64), (64, 0), (128, 128), (192, 64)] {
        check_eq!(arena::byte(t + to), arena::pattern(4, at), "scatter {at}");
        check_eq!(arena::byte(t + to + 63), arena::pattern(4, at + 63), "scatter {at} end");
    }
    Ok(())
}

fn str_item_words_arrive(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let item = string(source(), 100);
    let ends = transfer(ctx, &partner, Way::ToRunner, &item, &buffer(target(), 200))?;
    check_ok(&ends)?;
    check_eq!([ends.got.mr[1], ends.got.mr[2]], item);
    check_eq!(ends.got.tag.typed(), 2);
    Ok(())
}

fn str_shorter_than_buffer(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    arena::fill(source(), 64, 6);
    arena::wipe(target(), 4096, 0);
    let [a, b] = [string(source(), 10), string(source(), 20)];
    let typed = [a[0], a[1], b[0], b[1]];
    let (first, second) = (target(), target() + 1024);
    let mut brs = [1, 0, first, 0, second];
    brs[1] = StringHead::new(512, 1, false).raw() | C_BIT;
    brs[3] = StringHead::new(512, 1, false).raw();
    check_ok(&transfer(ctx, &partner, Way::ToRunner, &typed, &brs)?)?;
    check_eq!(arena::mismatch(first, 10, 6), None, "first");
    check_eq!(arena::byte(first + 10), 0, "the second did not go behind the first");
    check_eq!(arena::mismatch(second, 20, 6), None, "second");
    Ok(())
}

fn str_two_strings_two_buffers(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        arena::fill(source(), 4096, 7);
        arena::wipe(target(), 8192, 0);
        let [a, b] = [string(source(), 300), string(source() + 1000, 500)];
        let brs = [
            1,
            StringHead::new(300, 1, false).raw() | C_BIT,
            target() + 4096,
            StringHead::new(500, 1, false).raw(),
            target(),
        ];
        check_ok(&transfer(ctx, &partner, way, &[a[0], a[1], b[0], b[1]], &brs)?)?;
        check_eq!(arena::mismatch(target() + 4096, 300, 7), None, "first");
        check_eq!(arena::byte(target() + 499), arena::pattern(7, 1499), "second");
    }
    Ok(())
}

fn str_with_words(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    arena::fill(source(), 512, 8);
    arena::wipe(target(), 512, 0);
    let item = string(source(), 333);
    let mut words = [0u64; 22];
    words.iter_mut().enumerate().for_each(|(i, w)| *w = 1000 + i as u64);
    words[20..].copy_from_slice(&item);
    partner.start_ipc(&IpcCmd::send(ctx.me()).message(MsgTag::new(1, 20, 2), &words))?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id).brs(&buffer(target(), 333)));
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!(got.untyped(), &words[..20]);
    check_eq!(arena::mismatch(target(), 333, 8), None);
    Ok(())
}

fn str_fifteen_strings(ctx: &mut Ctx) -> TestResult {
    const N: usize = 15;
    let partner = ctx.puppet()?;
    arena::fill(source(), 4096, 3);
    arena::wipe(target(), 4096, 0);
    let (mut typed, mut brs) = ([0; 2 * N], [0; 1 + 2 * N]);
    brs[0] = 1;
    for i in 0..N {
        let at = 100 * i as u64;
        typed[2 * i..2 * i + 2].copy_from_slice(&string(source() + at, 50 + i as u64));
        let more = if i + 1 < N { C_BIT } else { 0 };
        brs[1 + 2 * i] = StringHead::new(80, 1, false).raw() | more;
        brs[2 + 2 * i] = target() + at;
    }
    check_ok(&transfer(ctx, &partner, Way::ToRunner, &typed, &brs)?)?;
    for i in 0..N as u64 {
        let last = 49 + i;
        check_eq!(arena::byte(target() + 100 * i), arena::pattern(3, 100 * i), "string {i}");
        check_eq!(arena::byte(target() + 100 * i + last), arena::pattern(3, 100 * i + last));
        check_eq!(arena::byte(target() + 100 * i + last + 1), 0, "behind string {i}");
    }
    Ok(())
}

fn str_large(ctx: &mut Ctx) -> TestResult {
    const LEN: u64 = 1 << 20;
    let partner = ctx.puppet()?;
    arena::fill(source(), LEN, 2);
    for way in WAYS {
        arena::wipe(target(), LEN, 0);
        check_ok(&transfer(ctx, &partner, way, &string(source(), LEN), &buffer(target(), LEN))?)?;
        for at in (0..LEN).step_by(1021) {
            check_eq!(arena::byte(target() + at), arena::pattern(2, at), "byte {at}");
        }
    }
    Ok(())
}

fn str_buffer_too_short(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        for room in [1u64, 100, 4096, 5000] {
            arena::fill(source(), 8192, 1);
            arena::wipe(target(), 8192, 0);
            let ends =
                transfer(ctx, &partner, way, &string(source(), 8000), &buffer(target(), room))?;
            check_overflow(&ends, room)?;
            check_eq!(arena::mismatch(target(), room, 1), None, "what fits has arrived");
            check_eq!(arena::byte(target() + room), 0, "and no more");
        }
    }
    Ok(())
}

fn str_second_buffer_missing(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        let [a, b] = [string(source(), 300), string(source() + 1000, 500)];
        let typed = [a[0], a[1], b[0], b[1]];
        check_overflow(&transfer(ctx, &partner, way, &typed, &buffer(target(), 4096))?, 300)?;
    }
    Ok(())
}

fn str_second_buffer_short(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for way in WAYS {
        let [a, b] = [string(source(), 300), string(source() + 1000, 500)];
        let brs = [
            1,
            StringHead::new(400, 1, false).raw() | C_BIT,
            target(),
            StringHead::new(111, 1, false).raw(),
            target() + 4096,
        ];
        let ends = transfer(ctx, &partner, way, &[a[0], a[1], b[0], b[1]], &brs)?;
        check_overflow(&ends, 411)?;
    }
    Ok(())
}

fn str_reply_carries_string(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    arena::fill(source(), 8192, 1);
    arena::wipe(target(), 16384, 0);
    let request = string(source(), 1000);
    let answer = string(source() + 4096, 2000);
    let call = IpcCmd::call(ctx.me()).message(MsgTag::new(1, 0, 2), &request);
    let brs = buffer(target() + 8192, 2000);
    partner.start_ipc(&call.brs(&brs))?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id).brs(&buffer(target(), 1000)));
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    let sent = ctx.ipc(&IpcCmd::send(partner.id).message(MsgTag::new(2, 0, 2), &answer));
    check!(!sent.tag.is_error(), "{:?}", sent.ipc_error());
    check!(!partner.finish()?.tag.is_error());
    check_eq!(arena::mismatch(target(), 1000, 1), None, "request");
    check_eq!(arena::byte(target() + 8192 + 1999), arena::pattern(1, 4096 + 1999), "answer");
    Ok(())
}
