//! Compound strings with different cuts on both sides.

use super::{WAYS, Way, buffer, compound, source, string, target, transfer};
use crate::harness::{Ctx, TestResult, arena};
use crate::{check, check_eq, tests};
use libl4::IpcCode;

tests! {
    str_compound_sender, All, "a compound string into a simple buffer";
    str_compound_receiver, All, "a simple string into a compound buffer";
    str_random_cuts, All, "forty random pairs of compound strings and buffers, byte exact";
    str_compound_overflow, All, "a compound buffer that is too short: the offset is its total length";
    str_empty_pieces, All, "pieces of length zero on both sides are skipped";
    str_pieces_across_pages, All, "pieces that end and begin at page borders";
}

/// Most pieces that fit the registers beside BR0.
const MAX_PIECES: usize = 12;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Cuts `total` bytes into pieces with gaps, starting at `base`.
fn cut(random: &mut Random, base: u64, total: u64) -> ([(u64, u64); MAX_PIECES], usize) {
    let mut pieces = [(0, 0); MAX_PIECES];
    let count = 1 + random.below(MAX_PIECES as u64) as usize;
    let (mut at, mut left) = (base, total);
    for (i, piece) in pieces.iter_mut().enumerate().take(count) {
        let len = if i + 1 == count { left } else { random.below(left + 1) };
        at += random.below(40);
        *piece = (at, len);
        at += len;
        left -= len;
    }
    (pieces, count)
}

/// Byte `i` of the stream that `pieces` make of memory.
fn nth(pieces: &[(u64, u64)], mut i: u64) -> u64 {
    for &(addr, len) in pieces {
        if i < len {
            return addr + i;
        }
        i -= len;
    }
    0
}

fn exchange(
    ctx: &Ctx,
    partner: &crate::harness::Puppet,
    way: Way,
    from: &[(u64, u64)],
    to: &[(u64, u64)],
) -> TestResult<super::Ends> {
    let mut typed = [0; 2 * MAX_PIECES];
    let mut brs = [0; 1 + 2 * MAX_PIECES];
    let t = compound(from, &mut typed);
    brs[0] = 1;
    let b = compound(to, &mut brs[1..]);
    transfer(ctx, partner, way, &typed[..t], &brs[..=b])
}

fn str_compound_sender(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let s = source();
    let from = [(s + 100, 10), (s, 90), (s + 2000, 1), (s + 4090, 20)];
    for way in WAYS {
        arena::fill(s, 8192, 1);
        arena::wipe(target(), 4096, 0);
        let mut typed = [0; 8];
        compound(&from, &mut typed);
        let ends = transfer(ctx, &partner, way, &typed, &buffer(target(), 121))?;
        check!(!ends.got.tag.is_error(), "{:?}", ends.got.ipc_error());
        for i in 0..121 {
            check_eq!(arena::byte(target() + i), arena::pattern(1, nth(&from, i) - s), "byte {i}");
        }
    }
    Ok(())
}

fn str_compound_receiver(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let t = target();
    let to = [(t + 5000, 17), (t, 3), (t + 4090, 80), (t + 100, 21)];
    for way in WAYS {
        arena::fill(source(), 4096, 1);
        arena::wipe(t, 8192, 0);
        let mut brs = [0; 9];
        brs[0] = 1;
        compound(&to, &mut brs[1..]);
        let ends = transfer(ctx, &partner, way, &string(source(), 121), &brs)?;
        check!(!ends.got.tag.is_error(), "{:?}", ends.got.ipc_error());
        for i in 0..121 {
            check_eq!(arena::byte(nth(&to, i)), arena::pattern(1, i), "byte {i}");
        }
    }
    Ok(())
}

fn str_random_cuts(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let mut random = Random(0x00C0_FFEE_1234_5678);
    arena::fill(source(), 3 * 4096, 11);
    for round in 0..40 {
        let total = random.below(9000);
        let (from, n) = cut(&mut random, source(), total);
        let (to, m) = cut(&mut random, target(), total);
        let way = WAYS[round % 2];
        arena::wipe(target(), 3 * 4096, 0);
        let ends = exchange(ctx, &partner, way, &from[..n], &to[..m])?;
        check!(!ends.sent.tag.is_error(), "round {round}: {:?}", ends.sent.ipc_error());
        check!(!ends.got.tag.is_error(), "round {round}: {:?}", ends.got.ipc_error());
        for i in (0..total).step_by(7).chain(total.saturating_sub(3)..total) {
            let want = arena::pattern(11, nth(&from[..n], i) - source());
            check_eq!(arena::byte(nth(&to[..m], i)), want, "round {round} byte {i} of {total}");
        }
    }
    Ok(())
}

fn str_compound_overflow(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let to = [(target(), 100), (target() + 4000, 200), (target() + 9000, 33)];
    for way in WAYS {
        let ends = exchange(ctx, &partner, way, &[(source(), 1000)], &to)?;
        let error = ends.got.ipc_error().map(|e| (e.code, e.offset));
        check_eq!(error, Some((IpcCode::Overflow, 333)));
        check_eq!(ends.sent.ipc_error().map(|e| e.offset), Some(333));
    }
    Ok(())
}

fn str_empty_pieces(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    arena::fill(source(), 4096, 1);
    arena::wipe(target(), 4096, 0);
    // The empty pieces point to nowhere.
    let from = [(0, 0), (source(), 50), (0, 0), (source() + 50, 50), (0, 0)];
    let to = [(0, 0), (target(), 30), (0, 0), (target() + 30, 70), (0, 0)];
    let ends = exchange(ctx, &partner, Way::ToRunner, &from, &to)?;
    check!(!ends.got.tag.is_error(), "{:?}", ends.got.ipc_error());
    check_eq!(arena::mismatch(target(), 100, 1), None);
    Ok(())
}

fn str_pieces_across_pages(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    arena::fill(source(), 4 * 4096, 1);
    arena::wipe(target(), 4 * 4096, 0);
    let from = [(source() + 4095, 2), (source() + 8192, 4096), (source() + 12287, 1)];
    let to = [(target() + 4096, 4096), (target() + 4095, 1), (target() + 8192, 2)];
    let ends = exchange(ctx, &partner, Way::ToPuppet, &from, &to)?;
    check!(!ends.got.tag.is_error(), "{:?}", ends.got.ipc_error());
    for i in 0..4099 {
        let want = arena::pattern(1, nth(&from, i) - source());
        check_eq!(arena::byte(nth(&to, i)), want, "byte {i}");
    }
    Ok(())
}
