//! System calls with garbage arguments from an unprivileged space.

use super::{Random, short, targets, world_is_fine};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, TestResult};
use crate::{check, check_eq, tests};
use l4abi::ErrorCode;
use libl4::sys::{self, ThreadControl};
use libl4::{MsgTag, ThreadId, Timeouts};

tests! {
    hs_ipc_garbage, OtherSpace, "three hundred IPCs with random registers, words and buffers";
    hs_exregs_garbage, OtherSpace, "three hundred ExchangeRegisters with random arguments";
    hs_schedule_garbage, OtherSpace, "three hundred Schedules with random arguments";
    hs_privileged_calls, OtherSpace, "ThreadControl, SpaceControl, ProcessorControl and MemoryControl with random arguments are all refused";
    hs_unmap_garbage, OtherSpace, "three hundred Unmaps of random fpages";
    hs_thread_switch_garbage, OtherSpace, "ThreadSwitch to random destinations";
    hs_thread_control_garbage, Once, "ThreadControl of free numbers with random arguments by a privileged thread";
    hs_space_control_garbage, Once, "SpaceControl of a fresh space with random areas by a privileged thread";
    hs_interrupt_lines, Once, "attaching and detaching every interrupt line that is free";
}

fn hs_ipc_garbage(ctx: &mut Ctx) -> TestResult {
    let attacker = ctx.puppet()?;
    let mut random = Random(0xA77A_C4E5);
    let likely = targets(ctx, &attacker);
    for _ in 0..300 {
        let words: [u64; 63] = core::array::from_fn(|_| random.word(&likely));
        let brs: [u64; 33] = core::array::from_fn(|_| random.word(&[1, 0x10, 0x11]));
        let mut cmd = IpcCmd::new(
            ThreadId::from_raw(random.word(&likely)),
            ThreadId::from_raw(random.word(&likely)),
        );
        cmd.timeouts = short(&mut random);
        cmd.xfer = Timeouts::new(libl4::Time::ZERO, libl4::Time::ZERO);
        cmd.virtual_sender = ThreadId::from_raw(random.word(&likely));
        cmd.lipc = random.below(2) == 0;
        cmd.tag = MsgTag::from_raw(random.word(&[0x3F, 0xFFF, 0x1001, 0x82]));
        attacker.run_ipc(&cmd.brs(&brs).message(cmd.tag, &words))?;
    }
    world_is_fine(ctx)
}

fn hs_exregs_garbage(ctx: &mut Ctx) -> TestResult {
    let (attacker, victim) = (ctx.puppet()?, ctx.puppet()?);
    let mut random = Random(0xE4E4);
    let mut likely = targets(ctx, &victim);
    // Its own id in that list would change itself, which it may.
    likely[2] = victim.id.raw();
    for _ in 0..300 {
        let dest = random.word(&likely);
        if dest == attacker.id.raw() || dest == attacker.local_id().raw() {
            continue;
        }
        let args = core::array::from_fn(|i| if i == 0 { dest } else { random.word(&[]) });
        let args: [u64; 7] = args;
        let got = attacker.run(Op::Exregs, &args)?;
        check_eq!(got.results[0], 0, "dest {dest:#x}");
    }
    check_eq!(
        victim.run(Op::Read, &[crate::harness::ids::PUPPET_KIP])?.results[0],
        u64::from(b'L')
    );
    world_is_fine(ctx)
}

fn hs_schedule_garbage(ctx: &mut Ctx) -> TestResult {
    let attacker = ctx.puppet()?;
    let mut random = Random(0x5C4E);
    let likely = targets(ctx, &attacker);
    for _ in 0..300 {
        let args: [u64; 5] = core::array::from_fn(|_| random.word(&likely));
        let got = attacker.run(Op::Schedule, &args)?;
        check_eq!(got.results[0], 0, "dest {:#x}", args[0]);
    }
    world_is_fine(ctx)
}

fn hs_privileged_calls(ctx: &mut Ctx) -> TestResult {
    let attacker = ctx.puppet()?;
    let mut random = Random(0x9121);
    let likely = targets(ctx, &attacker);
    for _ in 0..100 {
        let args: [u64; 5] = core::array::from_fn(|_| random.word(&likely));
        for op in [Op::ThreadControl, Op::SpaceControl] {
            let got = attacker.run(op, &args)?;
            check_eq!(
                (got.results[0], got.results[1]),
                (0, ErrorCode::NoPrivilege.raw()),
                "{op:?}"
            );
        }
        for op in [Op::ProcessorControl, Op::MemoryControl] {
            attacker.set_mrs(&args);
            check_eq!(attacker.run(op, &args)?.results[0], 0, "{op:?}");
        }
    }
    world_is_fine(ctx)
}

fn hs_unmap_garbage(ctx: &mut Ctx) -> TestResult {
    let attacker = ctx.puppet()?;
    let mut random = Random(0x07A9);
    for _ in 0..300 {
        let words: [u64; 64] = core::array::from_fn(|_| random.word(&[0x10, 0x17, 0x4020]));
        attacker.set_mrs(&words);
        attacker.run(Op::Unmap, &[random.word(&[0x3F, 0x40, 0x7F])])?;
    }
    world_is_fine(ctx)
}

fn hs_thread_switch_garbage(ctx: &mut Ctx) -> TestResult {
    let attacker = ctx.puppet()?;
    let mut random = Random(0x7517);
    let likely = targets(ctx, &attacker);
    for _ in 0..100 {
        attacker.run(Op::ThreadSwitch, &[random.word(&likely)])?;
    }
    world_is_fine(ctx)
}

fn hs_thread_control_garbage(ctx: &mut Ctx) -> TestResult {
    let mut random = Random(0x7C7C);
    let partner = ctx.puppet()?;
    let likely = targets(ctx, &partner);
    let ids = [ctx.spare_id()?, ctx.spare_id()?, ctx.spare_id()?];
    let mut created = 0;
    for _ in 0..500 {
        let id = ids[random.below(3) as usize];
        let mut word = || ThreadId::from_raw(random.word(&likely));
        let args =
            ThreadControl { dest: id, space: word(), scheduler: word(), pager: word(), utcb: None };
        let utcb = random.word(&[ctx.spare_utcb(id), u64::MAX]);
        let args = ThreadControl { utcb: Some(utcb), ..args };
        created += u64::from(sys::thread_control(args).is_ok());
    }
    check!(created > 0, "nothing was ever accepted");
    for id in ids {
        check!(libl4::thread::delete(id).is_ok(), "{id} cannot be deleted");
    }
    world_is_fine(ctx)
}

fn hs_space_control_garbage(ctx: &mut Ctx) -> TestResult {
    let mut random = Random(0x5C5C);
    let first = ctx.spare_id()?;
    for round in 0..200u32 {
        let id = ThreadId::global(first.number(), first.version() + 2 * round);
        let create = ThreadControl {
            dest: id,
            space: id,
            scheduler: ctx.me(),
            pager: ThreadId::NIL,
            utcb: Some(random.word(&[])),
        };
        check!(sys::thread_control(create).is_ok(), "round {round}");
        for _ in 0..4 {
            let kip = libl4::Fpage::from_raw(random.word(&[0x8000_00C0, 0xC0, 0x10, 0x4020]));
            let utcb = libl4::Fpage::from_raw(random.word(&[0x8000_00C0, 0x8000_0100, 0x10]));
            let _ = sys::space_control(id, random.next(), kip, utcb, ThreadId::NIL);
            let activate =
                ThreadControl { pager: crate::harness::ids::pager(), utcb: None, ..create };
            let _ = sys::thread_control(activate);
        }
        check!(libl4::thread::delete(id).is_ok(), "round {round}");
    }
    world_is_fine(ctx)
}

fn hs_interrupt_lines(ctx: &mut Ctx) -> TestResult {
    for line in 0..libl4::kip().thread_ranges().system_base {
        let irq = ThreadId::irq(line);
        let attach = |pager| {
            sys::thread_control(ThreadControl {
                dest: irq,
                space: irq,
                scheduler: ThreadId::NIL,
                pager,
                utcb: None,
            })
        };
        if attach(ctx.me()).is_ok() {
            check!(attach(irq).is_ok(), "line {line} cannot be detached");
        }
    }
    world_is_fine(ctx)
}
