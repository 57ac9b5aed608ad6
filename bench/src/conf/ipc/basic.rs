//! Phases and words.

use crate::harness::{Ctx, IpcCmd, Outcome, TestResult};
use crate::{check, check_eq, tests};
use l4abi::exregs::Control;
use libl4::{MsgTag, ThreadId, Time};

tests! {
    ipc_send_every_count, All, "a send of 0 to 63 untyped words arrives with tag and all words";
    ipc_receive_every_count, All, "a receive of 0 to 63 untyped words, partner already waiting to send";
    ipc_call_and_reply, All, "call and reply-and-wait carry words both ways, 200 rounds";
    ipc_label_has_48_bits, All, "all 48 label bits arrive";
    ipc_send_returns_nil_and_own_tag, All, "after a pure send from is nil and MR0 is the own tag without E";
    ipc_nil_nil_does_nothing, Once, "without both phases the call returns at once without error";
    ipc_flags_of_sender_are_cleared, All, "r, X and E set by a sender do not arrive as such";
    ipc_words_beyond_count_do_not_leak, All, "message registers beyond the message do not show the sender's words";
    ipc_sender_registers_stay, All, "a sender's message registers are unchanged by a pure send";
    ipc_reply_finds_waiting_caller, All, "a zero-timeout reply always finds the caller, 300 rounds";
    ipc_lipc_is_ipc, All, "the Lipc link transfers like Ipc";
    ipc_many_senders_all_arrive, All, "six queued senders are all received, each once";
    ipc_queue_is_fifo, All, "senders of one receiver are served in the order of their arrival";
    ipc_send_phase_before_receive_phase, All, "reply-and-wait delivers before it receives a queued message";
    ipc_buffer_registers_stay, All, "BRs keep their values across IPC";
}

fn word(seed: u64, i: usize) -> u64 {
    (seed << 32) ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A message of `n` words that depend on `seed`.
fn message(seed: u64, n: usize) -> ([u64; 63], usize) {
    (core::array::from_fn(|i| word(seed, i + 1)), n)
}

fn check_message(got: &Outcome, seed: u64, n: usize) -> TestResult {
    check!(!got.tag.is_error(), "{n} words: {:?}", got.ipc_error());
    check_eq!(got.tag.untyped(), n, "u");
    check_eq!(got.tag.typed(), 0, "t");
    for i in 1..=n {
        check_eq!(got.mr[i], word(seed, i), "MR{i} of {n}");
    }
    Ok(())
}

fn ipc_send_every_count(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for n in 0..=63 {
        partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
        let (words, n) = message(n as u64, n);
        let sent = ctx.ipc(&IpcCmd::send(partner.id).words(0x33, &words[..n]));
        check!(!sent.tag.is_error(), "send {n}: {:?}", sent.ipc_error());
        let got = partner.finish()?;
        check_message(&got, n as u64, n)?;
        check_eq!(got.tag.label(), 0x33);
    }
    Ok(())
}

fn ipc_receive_every_count(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for n in 0..=63 {
        let (words, n) = message(n as u64, n);
        partner.start_ipc(&IpcCmd::send(ctx.me()).words(0x34, &words[..n]))?;
        if n % 8 == 0 {
            ctx.settle();
        }
        let got = ctx.ipc(&IpcCmd::receive(partner.id));
        check_message(&got, n as u64, n)?;
        check_eq!(got.tag.label(), 0x34);
        check_eq!(got.from, ctx.seen(&partner), "from");
        let sent = partner.finish()?;
        check!(!sent.tag.is_error(), "send {n}: {:?}", sent.ipc_error());
    }
    Ok(())
}

fn ipc_call_and_reply(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for round in 0..200u64 {
        let n = (round % 64) as usize;
        let (words, n) = message(round, n);
        partner.start_ipc(&IpcCmd::call(ctx.me()).words(round, &words[..n]))?;
        let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
        check_message(&got, round, n)?;
        let (answer, m) = message(round + 1000, 63 - n);
        let reply =
            IpcCmd::send(got.from).words(round, &answer[..m]).timeouts(Time::ZERO, Time::ZERO);
        let sent = ctx.ipc(&reply);
        check!(!sent.tag.is_error(), "reply {round}: {:?}", sent.ipc_error());
        let back = partner.finish()?;
        check_message(&back, round + 1000, m)?;
        check_eq!(back.from, ctx.me_seen_by_partner(), "from of the reply");
    }
    Ok(())
}

fn ipc_label_has_48_bits(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for bit in 0..48 {
        let label = 1u64 << bit;
        partner.start_ipc(&IpcCmd::send(ctx.me()).words(label, &[]))?;
        let got = ctx.ipc(&IpcCmd::receive(partner.id));
        check_eq!(got.tag.label(), label);
        partner.finish()?;
    }
    Ok(())
}

fn ipc_send_returns_nil_and_own_tag(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    ctx.settle();
    let sent = ctx.ipc(&IpcCmd::send(partner.id).words(0x77, &[1, 2]));
    check_eq!(sent.from, ThreadId::NIL, "from");
    check_eq!(sent.tag, MsgTag::new(0x77, 2, 0), "tag");
    partner.finish()?;
    Ok(())
}

fn ipc_nil_nil_does_nothing(ctx: &mut Ctx) -> TestResult {
    let got = ctx.ipc(&IpcCmd::new(ThreadId::NIL, ThreadId::NIL).words(5, &[1]));
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check!(got.took_us < 1_000_000, "took {} us", got.took_us);
    Ok(())
}

fn ipc_flags_of_sender_are_cleared(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let tag = MsgTag::from_raw(MsgTag::new(9, 1, 0).raw() | 0xE000);
    partner.start_ipc(&IpcCmd::send(ctx.me()).message(tag, &[42]))?;
    ctx.settle();
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    let want = if ctx.place().same_cpu() { 0 } else { 0x4000 };
    check_eq!(got.tag.raw() & 0xF000, want, "flags");
    check_eq!(got.mr[1], 42);
    let sent = partner.finish()?;
    check!(!sent.tag.is_error(), "the sender sees an error: {:?}", sent.tag);
    Ok(())
}

fn ipc_words_beyond_count_do_not_leak(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for n in [0usize, 3, 9, 40] {
        let (words, _) = message(7, 63);
        // The partner's registers hold all 63 words, the message has n of them.
        partner.start_ipc(&IpcCmd::send(ctx.me()).message(MsgTag::new(1, n, 0), &words))?;
        ctx.settle();
        let marks = [0xABCD_u64; 63];
        let mut cmd = IpcCmd::receive(partner.id);
        cmd.words = &marks;
        let got = ctx.ipc(&cmd);
        check_message(&got, 7, n)?;
        // MR1 to MR7 travel in machine registers, where the kernel may leave what it likes.
        for i in n.max(7) + 1..64 {
            check!(got.mr[i] != word(7, i), "MR{i} arrived with {n} words");
        }
        partner.finish()?;
    }
    Ok(())
}

fn ipc_sender_registers_stay(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    let (words, _) = message(3, 63);
    let sent = ctx.ipc(&IpcCmd::send(partner.id).words(1, &words));
    for i in 8..=63 {
        check_eq!(sent.mr[i], words[i - 1], "MR{i}");
    }
    partner.finish()?;
    Ok(())
}

fn ipc_reply_finds_waiting_caller(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for round in 0..300u64 {
        partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[round]))?;
        let got = ctx.ipc(&IpcCmd::receive(partner.id));
        check_eq!(got.mr[1], round);
        let answer = [round + 1];
        let reply = IpcCmd::send(partner.id).words(2, &answer).timeouts(Time::ZERO, Time::ZERO);
        let sent = ctx.ipc(&reply);
        check!(!sent.tag.is_error(), "round {round}: {:?}", sent.ipc_error());
        check_eq!(partner.finish()?.mr[1], round + 1);
    }
    Ok(())
}

fn ipc_lipc_is_ipc(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for n in [0usize, 1, 7, 8, 63] {
        let (words, n) = message(5, n);
        let mut cmd = IpcCmd::call(ctx.me()).words(0x11, &words[..n]);
        cmd.lipc = true;
        partner.start_ipc(&cmd)?;
        let mut wait = IpcCmd::receive(partner.id);
        wait.lipc = true;
        let got = ctx.ipc(&wait);
        check_message(&got, 5, n)?;
        let mut reply = IpcCmd::send(partner.id).words(0x12, &words[..n]);
        reply.lipc = true;
        check!(!ctx.ipc(&reply).tag.is_error());
        check_message(&partner.finish()?, 5, n)?;
    }
    Ok(())
}

fn ipc_many_senders_all_arrive(ctx: &mut Ctx) -> TestResult {
    let mut partners = [None; 6];
    for (i, slot) in partners.iter_mut().enumerate() {
        let partner = ctx.puppet()?;
        partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[i as u64]))?;
        *slot = Some(partner);
    }
    ctx.settle();
    let mut seen = 0u64;
    for _ in 0..partners.len() {
        let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
        check!(!got.tag.is_error(), "{:?}", got.ipc_error());
        check!(got.mr[1] < 6 && seen & (1 << got.mr[1]) == 0, "word {} twice", got.mr[1]);
        seen |= 1 << got.mr[1];
        let index = got.mr[1] as usize;
        if let Some(partner) = &partners[index] {
            check_eq!(got.from, ctx.seen(partner), "from of {index}");
        }
    }
    for partner in partners.iter().flatten() {
        check!(!partner.finish()?.tag.is_error());
    }
    Ok(())
}

fn ipc_queue_is_fifo(ctx: &mut Ctx) -> TestResult {
    let partners = [ctx.puppet()?, ctx.puppet()?, ctx.puppet()?, ctx.puppet()?];
    for (i, partner) in partners.iter().enumerate() {
        partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[i as u64]))?;
        // A partner on another CPU arrives when it arrives: its turn is a promise only from then on.
        ctx.wait_in(partner, Control::SEND)?;
        ctx.settle();
    }
    for want in 0..4u64 {
        let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
        check!(!got.tag.is_error(), "{:?}", got.ipc_error());
        check_eq!(got.mr[1], want, "order");
    }
    Ok(())
}

fn ipc_send_phase_before_receive_phase(ctx: &mut Ctx) -> TestResult {
    let (first, second) = (ctx.puppet()?, ctx.puppet()?);
    first.start_ipc(&IpcCmd::receive(ctx.me()))?;
    second.start_ipc(&IpcCmd::send(ctx.me()).words(2, &[22]))?;
    ctx.settle();
    let got = ctx.ipc(&IpcCmd::new(first.id, ThreadId::ANY).words(1, &[11]));
    check_eq!(got.mr[1], 22, "received");
    check_eq!(got.from, ctx.seen(&second), "from");
    check_eq!(first.finish()?.mr[1], 11, "delivered");
    second.finish()?;
    Ok(())
}

fn ipc_buffer_registers_stay(ctx: &mut Ctx) -> TestResult {
    use core::sync::atomic::Ordering;
    let partner = ctx.puppet()?;
    let utcb = libl4::arch::utcb();
    for i in 1..=32 {
        utcb.br(i).store(0x1000 + i as u64, Ordering::Relaxed);
    }
    partner.start_ipc(&IpcCmd::send(ctx.me()).words(2, &[22]))?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check!(!got.tag.is_error());
    for i in 1..=32 {
        check_eq!(utcb.br(i).load(Ordering::Relaxed), 0x1000 + i as u64, "BR{i}");
    }
    Ok(())
}
