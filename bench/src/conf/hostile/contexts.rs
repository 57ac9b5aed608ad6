//! Threads with impossible registers, and UTCBs full of garbage.

use super::{Random, targets, world_is_fine};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, PATIENCE, TestResult, ids};
use crate::{check, check_eq, need, tests};
use l4abi::exregs::Control;
use l4abi::utcb::word;
use libl4::sys::{self, Exregs};
use libl4::{ThreadId, thread};

tests! {
    hs_start_at_garbage, Once, "threads started at impossible IPs and SPs fault and hurt nobody";
    hs_exregs_garbage_ip, All, "running and blocked threads are sent to impossible IPs";
    hs_exception_reply_garbage, All, "an exception reply with random registers";
    hs_forged_id, All, "a thread that overwrites MyGlobalId still sends as itself";
    hs_forged_processor, All, "a thread that overwrites ProcessorNo stays where it is";
    hs_garbage_tcrs, All, "faults and exceptions with garbage in the Pager and ExceptionHandler TCRs";
    hs_whole_utcb_garbage, OtherSpace, "a UTCB filled with random words from end to end";
    hs_delete_in_every_state, All, "partners deleted while waiting, sending, faulting and running, forty times";
    hs_flood, All, "five senders with zero timeouts against one receiver";
}

const BAD_ADDRESSES: [u64; 8] = [
    0,
    0x1000,
    0x0000_7FFF_FFFF_FFFF,
    0x0000_8000_0000_0000,
    0x8000_0000_0000_0000,
    0xFFFF_8000_0000_0000,
    0xFFFF_FFFF_8020_0000,
    u64::MAX,
];

fn hs_start_at_garbage(ctx: &mut Ctx) -> TestResult {
    for ip in BAD_ADDRESSES {
        for sp in [0, 0x0000_7FFF_FFFF_FFF8, u64::MAX, 0x8000_0000_0000_0001] {
            let id = ctx.spare_id()?;
            need!(thread::create_local(id, ctx.spare_utcb(id), ids::pager()));
            need!(thread::start(id, ip, sp));
            ctx.settle();
            need!(thread::delete(id));
            ctx.return_spare();
        }
    }
    world_is_fine(ctx)
}

fn hs_exregs_garbage_ip(ctx: &mut Ctx) -> TestResult {
    for ip in [0x8000_0000_0000_0000, 0x0000_7FFF_FFFF_FFFF, 0xFFFF_FFFF_8020_0000] {
        let partner = ctx.puppet()?;
        if ip == 0x8000_0000_0000_0000 {
            partner.start(Op::Spin, &[])?;
        } else {
            partner.start_ipc(&IpcCmd::receive(partner.id))?;
        }
        ctx.settle();
        let control = Control::ABORT_IPC;
        let change = Exregs {
            control,
            ip: Some(ip),
            sp: Some(!ip),
            flags: Some(u64::MAX),
            ..Exregs::default()
        };
        need!(sys::exchange_registers(partner.id, change));
        ctx.settle();
        need!(thread::delete(partner.id));
    }
    world_is_fine(ctx)
}

fn hs_exception_reply_garbage(ctx: &mut Ctx) -> TestResult {
    let mut random = Random(0xE0E0);
    for _ in 0..5 {
        let partner = ctx.puppet()?;
        partner.run(Op::WriteTcr, &[word::EXCEPTION_HANDLER as u64, ctx.me().raw()])?;
        partner.start(Op::Raise, &[0, 1])?;
        let got = ctx.ipc(&IpcCmd::receive(partner.id));
        check!(!got.tag.is_error(), "{:?}", got.ipc_error());
        let words: [u64; 20] = core::array::from_fn(|_| random.word(&BAD_ADDRESSES));
        let sent = ctx.ipc(&IpcCmd::send(partner.id).words(random.next() >> 16, &words));
        check!(!sent.tag.is_error(), "{:?}", sent.ipc_error());
        ctx.settle();
        need!(thread::delete(partner.id));
    }
    world_is_fine(ctx)
}

fn hs_forged_id(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.run(Op::WriteTcr, &[word::MY_GLOBAL_ID as u64, ids::pager().raw()])?;
    partner.start_ipc(&IpcCmd::send(ctx.me()).words(1, &[1]))?;
    let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
    check_eq!(got.from, ctx.seen(&partner), "from");
    check_eq!(need!(sys::exchange_registers(partner.id, Exregs::default())).id, partner.local_id());
    Ok(())
}

fn hs_forged_processor(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.run(Op::WriteTcr, &[word::PROCESSOR_NO as u64, 0xFFFF])?;
    partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[1]))?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check_eq!(got.tag.is_cross_cpu(), !ctx.place().same_cpu(), "X");
    check!(!ctx.ipc(&IpcCmd::send(partner.id)).tag.is_error());
    partner.finish()?;
    Ok(())
}

fn hs_garbage_tcrs(ctx: &mut Ctx) -> TestResult {
    let mut random = Random(0x7C25);
    for _ in 0..6 {
        let partner = ctx.puppet()?;
        for index in
            [word::PAGER, word::EXCEPTION_HANDLER, word::FLAGS, word::XFER_TIMEOUTS, word::SENDER]
        {
            // The runner and the pager would see a message they do not expect: name others.
            let value = random.word(&[partner.id.raw(), ThreadId::irq(2).raw(), u64::MAX]);
            partner.run(Op::WriteTcr, &[index as u64, value])?;
        }
        let (op, arg) = if random.below(2) == 0 { (Op::Read, 0x6666_0000) } else { (Op::Raise, 0) };
        partner.start(op, &[arg, 0])?;
        ctx.settle();
        need!(thread::delete(partner.id));
    }
    world_is_fine(ctx)
}

fn hs_whole_utcb_garbage(ctx: &mut Ctx) -> TestResult {
    let mut random = Random(0xB10C);
    let attacker = ctx.puppet()?;
    let helper = ctx.puppet_beside(&attacker)?;
    let likely = targets(ctx, &attacker);
    for i in 0..128u64 {
        helper.run(Op::Write, &[attacker.utcb + 8 * i, random.word(&likely)])?;
    }
    ctx.settle();
    // Whatever state it is in: it can be deleted.
    need!(thread::delete(attacker.id));
    check_eq!(helper.run(Op::ReadTcr, &[word::MY_GLOBAL_ID as u64])?.results[0], helper.id.raw());
    world_is_fine(ctx)
}

fn hs_delete_in_every_state(ctx: &mut Ctx) -> TestResult {
    use crate::harness::pager::{self, Mode};
    for round in 0..6u64 {
        let partner = ctx.puppet()?;
        match round % 4 {
            0 => partner.start_ipc(&IpcCmd::receive(ThreadId::ANY))?,
            1 => partner.start_ipc(&IpcCmd::call(ctx.me()))?,
            2 => {
                pager::open(
                    0,
                    crate::harness::arena::page(64),
                    4096,
                    libl4::Rights::RWX,
                    Mode::Hold,
                );
                partner.start(Op::Read, &[crate::harness::arena::window(0)])?;
            }
            _ => partner.start(Op::Spin, &[])?,
        }
        if round % 2 == 0 {
            ctx.settle();
        }
        need!(thread::delete(partner.id));
    }
    world_is_fine(ctx)
}

fn hs_flood(ctx: &mut Ctx) -> TestResult {
    let senders = [ctx.puppet()?, ctx.puppet()?, ctx.puppet()?, ctx.puppet()?, ctx.puppet()?];
    for round in 0..30u64 {
        for (i, sender) in senders.iter().enumerate() {
            let words = [i as u64, round];
            let send = IpcCmd::send(ctx.me()).words(1, &words);
            sender.start_ipc(&send.timeouts(PATIENCE, PATIENCE))?;
        }
        let mut sum = 0;
        for _ in 0..senders.len() {
            let got = ctx.ipc(&IpcCmd::receive(ThreadId::ANY));
            check!(!got.tag.is_error(), "{:?}", got.ipc_error());
            check_eq!(got.mr[2], round);
            sum += 1 << (8 * got.mr[1]);
        }
        check_eq!(sum, 0x01_0101_0101u64, "round {round}");
        for sender in &senders {
            sender.finish()?;
        }
    }
    Ok(())
}
