//! Page faults, I/O faults, exceptions and FPU state (ref 6.1 to 6.3).

mod interrupts;
mod ports;
mod routing;

use crate::harness::pager::{self, Mode};
use crate::harness::puppet::{Op, TRAPS};
use crate::harness::{Ctx, IpcCmd, Outcome, Puppet, Test, TestResult, arena};
use crate::{check, check_eq, need, tests};
use l4abi::exregs::Control;
use l4abi::proto::{EXCEPTION_TAG, IoFault, PageFault, exception_mr as reg};
use l4abi::utcb::word;
use libl4::arch::probe::Trap;
use libl4::sys::{self, Exregs};
use libl4::{Fpage, MsgTag, Rights, Time};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[TESTS, ports::TESTS, interrupts::TESTS, routing::TESTS];

tests! {
    pf_read, All, "a read fault carries r, the exact address and the IP";
    pf_write, All, "a write fault carries w";
    pf_execute, OtherSpace, "an instruction fetch carries x (or r without NX)";
    pf_write_after_read_only, All, "a write to a page mapped read-only faults again";
    pf_empty_reply_retries, All, "a reply without a map item just retries";
    pf_reply_with_more_rights, All, "rights beyond the access are honoured: a read fault answered rw makes the page writable";
    pf_message_registers_survive, All, "all MRs, ErrorCode and BRs survive a fault in the middle of building a message";
    pf_only_the_pager_may_reply, All, "a message from another thread does not end a fault";
    pf_pager_changed_by_tcr, All, "writing the Pager TCR is effective at the next fault";
    pf_kernel_addresses, All, "accesses to kernel addresses are faults like any other, and can never be resolved";
    pf_not_canonical, All, "a thread sent to an address that is not canonical faults at user level, at the canonical one with the same low bits";
    pf_two_mib_reply, OtherSpace, "a fault answered with a 2 MiB page maps all of it";
    pf_many, OtherSpace, "two hundred faults in a row";
    pf_dead_pager, All, "a fault to a pager that does not exist stops the thread and nothing else";
    io_fault, OtherSpace, "an access to a closed port is an I/O fault with the port and the IP";
    io_fault_resolved, OtherSpace, "the I/O fault's reply opens the port";
    exc_invalid_opcode, All, "ud2 comes as vector 6 with all registers; the reply's registers are set";
    exc_divide_error, All, "a division by zero comes as vector 0";
    exc_general_protection, All, "a non-canonical address comes as vector 13";
    exc_privileged_instruction, All, "hlt comes as vector 13";
    exc_hardware_counter, All, "so does rdpmc: the processor's counters are nobody's business without measure=on";
    exc_foreign_syscall, All, "SYSCALL outside of the stubs comes as an exception";
    exc_message_registers_survive, All, "MRs survive an exception and its reply";
    exc_no_handler, All, "without a handler the thread stops and nothing else";
    exc_reply_cannot_raise_privilege, All, "flags in a reply are masked to what user level may change";
    fpu_is_per_thread, All, "SSE registers of two threads do not mix";
    fpu_survives_ipc, All, "SSE registers survive IPC and faults";
    fpu_starts_clean, All, "a new thread sees no other thread's SSE registers";
}

/// A puppet whose faults come to the runner.
fn paged_by_runner(ctx: &mut Ctx) -> TestResult<Puppet> {
    let partner = ctx.puppet()?;
    // Once through the code that runs at the fault, so that it faults on nothing else.
    pager::open(1, arena::page(80), 4096, Rights::RWX, Mode::Map);
    partner.run(Op::Read, &[arena::window(1)])?;
    partner.run(Op::Write, &[arena::window(1), 0])?;
    need!(sys::exchange_registers(
        partner.id,
        Exregs { pager: Some(ctx.me()), ..Exregs::default() }
    ));
    Ok(partner)
}

fn next_fault(ctx: &Ctx, partner: &Puppet) -> TestResult<PageFault> {
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check!(!got.tag.is_error(), "no fault: {:?}", got.ipc_error());
    let fault = PageFault::parse(got.tag, got.mr[1], got.mr[2]);
    match fault {
        Some(fault) => Ok(fault),
        None => Err(crate::harness::fail(line!(), format_args!("not a fault: {:?}", got.tag))),
    }
}

fn reply_page(ctx: &Ctx, partner: &Puppet, at: u64, page: u64, rights: Rights) -> TestResult {
    let item = l4abi::item::map_item(at, Fpage::memory(arena::page(page), 12, rights));
    let sent = ctx.ipc(&IpcCmd::send(partner.id).message(MsgTag::new(0, 0, 2), &item));
    check!(!sent.tag.is_error(), "reply: {:?}", sent.ipc_error());
    Ok(())
}

fn check_ip(fault: &PageFault) -> TestResult {
    let (first, last) = libl4::arch::image_range();
    check!((first..=last).contains(&fault.ip), "IP {:#x}", fault.ip);
    Ok(())
}

fn pf_read(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    arena::wipe(arena::page(64), 4096, 0x81);
    partner.start(Op::Read, &[arena::window(0) + 0x123])?;
    let fault = next_fault(ctx, &partner)?;
    check_eq!((fault.access, fault.addr), (Rights::R, arena::window(0) + 0x123));
    check_ip(&fault)?;
    reply_page(ctx, &partner, fault.addr, 64, Rights::R)?;
    check_eq!(partner.finish()?.results[0], 0x81);
    Ok(())
}

fn pf_write(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    partner.start(Op::Write, &[arena::window(0) + 0x248, 0x8282_8282_8282_8282])?;
    let fault = next_fault(ctx, &partner)?;
    check!(fault.access.contains(Rights::W), "access {:?}", fault.access);
    check_eq!(fault.addr, arena::window(0) + 0x248);
    reply_page(ctx, &partner, fault.addr, 64, Rights::RW)?;
    partner.finish()?;
    check_eq!(arena::byte(arena::page(64) + 0x24F), 0x82);
    Ok(())
}

fn pf_execute(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    arena::wipe(arena::page(64), 64, 0xC3);
    partner.start(Op::Execute, &[arena::window(0) + 8])?;
    let read = next_fault(ctx, &partner)?;
    check!(read.access.contains(Rights::R), "first: {:?}", read.access);
    reply_page(ctx, &partner, read.addr, 64, Rights::RW)?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id).timeouts(Time::NEVER, Time::period_us(100_000)));
    if got.tag.is_error() {
        // Without NX every readable page is executable.
        check_eq!(partner.finish()?.results[0], 1);
        return Ok(());
    }
    let fetch = PageFault::parse(got.tag, got.mr[1], got.mr[2]);
    let want = PageFault { access: Rights::X, addr: read.addr, ip: read.addr };
    check_eq!(fetch, Some(want));
    reply_page(ctx, &partner, read.addr, 64, Rights::RWX)?;
    check_eq!(partner.finish()?.results[0], 1);
    Ok(())
}

fn pf_write_after_read_only(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    partner.start(Op::Read, &[arena::window(0)])?;
    let fault = next_fault(ctx, &partner)?;
    reply_page(ctx, &partner, fault.addr, 64, Rights::R)?;
    partner.finish()?;
    partner.start(Op::Write, &[arena::window(0), 1])?;
    let fault = next_fault(ctx, &partner)?;
    check!(fault.access.contains(Rights::W), "access {:?}", fault.access);
    reply_page(ctx, &partner, fault.addr, 64, Rights::RW)?;
    partner.finish()?;
    Ok(())
}

fn pf_empty_reply_retries(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    partner.start(Op::Read, &[arena::window(0)])?;
    for _ in 0..5 {
        let fault = next_fault(ctx, &partner)?;
        check_eq!(fault.addr, arena::window(0));
        check!(!ctx.ipc(&IpcCmd::send(partner.id)).tag.is_error());
    }
    let fault = next_fault(ctx, &partner)?;
    reply_page(ctx, &partner, fault.addr, 64, Rights::R)?;
    partner.finish()?;
    Ok(())
}

fn pf_reply_with_more_rights(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    partner.start(Op::Read, &[arena::window(0)])?;
    let fault = next_fault(ctx, &partner)?;
    reply_page(ctx, &partner, fault.addr, 64, Rights::RWX)?;
    partner.finish()?;
    partner.run(Op::Write, &[arena::window(0), 0x8383_8383_8383_8383])?;
    check_eq!(arena::byte(arena::page(64)), 0x83, "without another fault");
    Ok(())
}

fn pf_message_registers_survive(ctx: &mut Ctx) -> TestResult {
    // A puppet's IPC with a string whose page is absent faults on the sender's side; here the fault
    // is raised by the puppet's own read between two uses of its registers.
    let partner = paged_by_runner(ctx)?;
    let words: [u64; 63] = core::array::from_fn(|i| 0xAB00 + i as u64);
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(5, &words)).tag.is_error());
    partner.finish()?;
    partner.start(Op::Read, &[arena::window(0)])?;
    let fault = next_fault(ctx, &partner)?;
    reply_page(ctx, &partner, fault.addr, 64, Rights::R)?;
    partner.finish()?;
    // The words from MR8 on are still in its UTCB, as the message left them.
    let mr = partner.utcb + 512;
    for i in [8u64, 20, 40, 63] {
        let low = partner.run(Op::Read, &[mr + 8 * i])?.results[0];
        check_eq!(low, (0xAB00 + i - 1) & 0xFF, "MR{i}");
    }
    Ok(())
}

fn pf_only_the_pager_may_reply(ctx: &mut Ctx) -> TestResult {
    let (partner, other) = (paged_by_runner(ctx)?, ctx.puppet()?);
    partner.start(Op::Read, &[arena::window(0)])?;
    let fault = next_fault(ctx, &partner)?;
    let send = IpcCmd::send(partner.id).timeouts(Time::ZERO, Time::NEVER);
    check!(other.run_ipc(&send)?.tag.is_error(), "a stranger's message was taken");
    reply_page(ctx, &partner, fault.addr, 64, Rights::R)?;
    partner.finish()?;
    Ok(())
}

fn pf_pager_changed_by_tcr(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.run(Op::WriteTcr, &[word::PAGER as u64, ctx.me().raw()])?;
    partner.start(Op::Read, &[arena::window(0)])?;
    let fault = next_fault(ctx, &partner)?;
    check_eq!(fault.addr, arena::window(0));
    reply_page(ctx, &partner, fault.addr, 64, Rights::R)?;
    partner.finish()?;
    Ok(())
}

fn pf_kernel_addresses(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    partner.start(Op::Read, &[0xFFFF_FFFF_8020_0000])?;
    for _ in 0..2 {
        let fault = next_fault(ctx, &partner)?;
        check_eq!(fault.addr, 0xFFFF_FFFF_8020_0000);
        // A reply that tries to map something there does nothing.
        reply_page(ctx, &partner, fault.addr, 64, Rights::RWX)?;
    }
    let fault = next_fault(ctx, &partner)?;
    check_eq!(fault.addr, 0xFFFF_FFFF_8020_0000, "the read went through");
    Ok(())
}

fn pf_not_canonical(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    let low = 0xF123_4567_8001;
    for high in [0u64, 1, 0x1234, 0x7FFF, 0xFFFF] {
        let to = Exregs {
            control: Control::RECEIVE | Control::SEND,
            ip: Some(high << 48 | low),
            ..Exregs::default()
        };
        need!(sys::exchange_registers(partner.id, to));
        let fault = next_fault(ctx, &partner)?;
        let canonical = 0xFFFF << 48 | low;
        check_eq!((fault.addr, fault.access), (canonical, Rights::X), "{high:#x}");
    }
    Ok(())
}

fn pf_two_mib_reply(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    pager::open(0, arena::page(512), 1 << 21, Rights::RWX, Mode::Map);
    pager::set_page_log2(0, 21);
    for i in [3u64, 0, 511] {
        arena::wipe(arena::page(512 + i), 64, 0x90 ^ i as u8);
        let got = partner.run(Op::Read, &[arena::window(0) + i * 4096])?;
        check_eq!(got.results[0], u64::from(0x90 ^ i as u8), "page {i}");
    }
    check_eq!(pager::seen(0).faults, 1, "faults");
    Ok(())
}

fn pf_many(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    pager::open(0, arena::page(512), 200 * 4096, Rights::RWX, Mode::Map);
    for i in 0..200u64 {
        arena::wipe(arena::page(512 + i), 8, i as u8);
        let got = partner.run(Op::Read, &[arena::window(0) + i * 4096])?;
        check_eq!(got.results[0], i & 0xFF, "page {i}");
    }
    check_eq!(pager::seen(0).faults, 200, "faults");
    Ok(())
}

fn pf_dead_pager(ctx: &mut Ctx) -> TestResult {
    let (partner, other) = (ctx.puppet()?, ctx.puppet()?);
    let nobody = ctx.spare_id()?;
    partner.run(Op::WriteTcr, &[word::PAGER as u64, nobody.raw()])?;
    partner.start(Op::Read, &[arena::window(0)])?;
    ctx.settle();
    check!(!partner.is_done(), "the read went through");
    // Others go on.
    check_eq!(other.run(Op::ReadTcr, &[word::MY_GLOBAL_ID as u64])?.results[0], other.id.raw());
    Ok(())
}

/// A port that no device of the emulated machine answers on.
const QUIET_PORT: u64 = 0x2E8;

fn io_fault(ctx: &mut Ctx) -> TestResult {
    let partner = paged_by_runner(ctx)?;
    partner.start(Op::PortIn, &[QUIET_PORT])?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    let Some(fault) = IoFault::parse(got.tag, got.mr[1], got.mr[2]) else {
        return Err(crate::harness::fail(line!(), format_args!("{:?}", got.tag)));
    };
    check_eq!(fault.ports.kind(), Fpage::io(QUIET_PORT as u16, 0).kind(), "port");
    let (first, last) = libl4::arch::image_range();
    check!((first..=last).contains(&fault.ip), "IP {:#x}", fault.ip);
    Ok(())
}

fn io_fault_resolved(ctx: &mut Ctx) -> TestResult {
    // The port stays with the root task's space when an earlier runner got it: then this is refused.
    let _ = libl4::sigma0::io_ports(QUIET_PORT as u16, 0);
    let partner = paged_by_runner(ctx)?;
    partner.start(Op::PortIn, &[QUIET_PORT])?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check!(IoFault::parse(got.tag, got.mr[1], got.mr[2]).is_some(), "{:?}", got.tag);
    let item = l4abi::item::map_item(0, Fpage::io(QUIET_PORT as u16, 0));
    let sent = ctx.ipc(&IpcCmd::send(partner.id).message(MsgTag::new(0, 0, 2), &item));
    check!(!sent.tag.is_error(), "{:?}", sent.ipc_error());
    partner.finish()?;
    // And it stays open.
    partner.run(Op::PortIn, &[QUIET_PORT])?;
    Ok(())
}

/// Makes the runner the puppet's exception handler, raises the exception, returns the message.
fn exception(ctx: &Ctx, partner: &Puppet, trap: Trap, seed: u64) -> TestResult<Outcome> {
    partner.run(Op::WriteTcr, &[word::EXCEPTION_HANDLER as u64, ctx.me().raw()])?;
    let number = TRAPS.iter().position(|&t| t == trap).unwrap_or(0) as u64;
    partner.start(Op::Raise, &[number, seed])?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check!(!got.tag.is_error(), "no message: {:?}", got.ipc_error());
    check_eq!(got.tag.label(), EXCEPTION_TAG.label(), "label");
    check_eq!(got.tag.untyped(), 20, "u");
    check_eq!(got.mr[reg::RAX], seed, "RAX");
    let (first, last) = libl4::arch::image_range();
    check!((first..=last).contains(&got.mr[reg::RIP]), "RIP {:#x}", got.mr[reg::RIP]);
    check!((first..=last).contains(&got.mr[reg::RSP]), "RSP {:#x}", got.mr[reg::RSP]);
    Ok(got)
}

/// Replies with the registers of the message, some of them changed.
fn resume(ctx: &Ctx, partner: &Puppet, got: &Outcome, skip: u64, rax: u64) -> TestResult<u64> {
    let mut words: [u64; 20] = core::array::from_fn(|i| got.mr[i + 1]);
    words[reg::RIP - 1] += skip;
    words[reg::RAX - 1] = rax;
    let sent = ctx.ipc(&IpcCmd::send(partner.id).words(0, &words));
    check!(!sent.tag.is_error(), "reply: {:?}", sent.ipc_error());
    Ok(partner.finish()?.results[0])
}

fn one_exception(ctx: &mut Ctx, trap: Trap, vector: u64) -> TestResult {
    let partner = ctx.puppet()?;
    let seed = if trap == Trap::DivideError { 1 } else { 0x1234_5678_9ABC };
    for round in 0..3 {
        let got = exception(ctx, &partner, trap, seed)?;
        check_eq!(got.mr[reg::VECTOR], vector, "vector");
        let back = resume(ctx, &partner, &got, trap.len(), 0x5555 + round)?;
        check_eq!(back, 0x5555 + round, "RAX from the reply");
    }
    Ok(())
}

fn exc_invalid_opcode(ctx: &mut Ctx) -> TestResult {
    one_exception(ctx, Trap::InvalidOpcode, 6)
}

fn exc_divide_error(ctx: &mut Ctx) -> TestResult {
    one_exception(ctx, Trap::DivideError, 0)
}

fn exc_general_protection(ctx: &mut Ctx) -> TestResult {
    one_exception(ctx, Trap::NonCanonical, 13)
}

fn exc_privileged_instruction(ctx: &mut Ctx) -> TestResult {
    one_exception(ctx, Trap::Privileged, 13)
}

fn exc_hardware_counter(ctx: &mut Ctx) -> TestResult {
    one_exception(ctx, Trap::Counter, 13)
}

fn exc_foreign_syscall(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let got = exception(ctx, &partner, Trap::Syscall, 0x77)?;
    check_eq!(got.mr[reg::VECTOR], 6, "vector");
    Ok(())
}

fn exc_message_registers_survive(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let words: [u64; 63] = core::array::from_fn(|i| 0xCD00 + i as u64);
    partner.start_ipc(&IpcCmd::receive(ctx.me()))?;
    check!(!ctx.ipc(&IpcCmd::send(partner.id).words(5, &words)).tag.is_error());
    partner.finish()?;
    let got = exception(ctx, &partner, Trap::InvalidOpcode, 1)?;
    resume(ctx, &partner, &got, 2, 2)?;
    let mr = partner.utcb + 512;
    for i in [8u64, 15, 20, 40, 63] {
        let low = partner.run(Op::Read, &[mr + 8 * i])?.results[0];
        check_eq!(low, (0xCD00 + i - 1) & 0xFF, "MR{i}");
    }
    Ok(())
}

fn exc_no_handler(ctx: &mut Ctx) -> TestResult {
    let (partner, other) = (ctx.puppet()?, ctx.puppet()?);
    partner.start(Op::Raise, &[0, 0])?;
    ctx.settle();
    check!(!partner.is_done(), "it went on");
    check_eq!(other.run(Op::ReadTcr, &[word::MY_GLOBAL_ID as u64])?.results[0], other.id.raw());
    Ok(())
}

fn exc_reply_cannot_raise_privilege(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let mut got = exception(ctx, &partner, Trap::InvalidOpcode, 1)?;
    // IOPL 3, no interrupts, nested task, virtual-8086 mode.
    got.mr[reg::RFLAGS] = 0x2_7000;
    check_eq!(resume(ctx, &partner, &got, 2, 9)?, 9);
    let again = exception(ctx, &partner, Trap::InvalidOpcode, 1)?;
    let flags = again.mr[reg::RFLAGS];
    check!(flags & 0x200 != 0, "interrupts are off: {flags:#x}");
    check_eq!(flags & 0x2_7000, 0, "flags");
    resume(ctx, &partner, &again, 2, 9)?;
    Ok(())
}

fn fpu_is_per_thread(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    for round in 1..10u64 {
        one.run(Op::FpuSet, &[round])?;
        two.run(Op::FpuSet, &[round << 32])?;
        libl4::arch::probe::fpu_set(!round);
        let (a, b) = (one.run(Op::FpuGet, &[])?, two.run(Op::FpuGet, &[])?);
        check_eq!((a.results[0], a.results[1]), (round, !round), "first");
        check_eq!((b.results[0], b.results[1]), (round << 32, !(round << 32)), "second");
        check_eq!(libl4::arch::probe::fpu_get(), (!round, round), "runner");
    }
    Ok(())
}

fn fpu_survives_ipc(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    pager::open(0, arena::page(64), 4096, Rights::RWX, Mode::Map);
    partner.run(Op::FpuSet, &[0xF00D])?;
    partner.run(Op::Read, &[arena::window(0)])?;
    partner.start_ipc(&IpcCmd::call(ctx.me()).words(1, &[1]))?;
    let got = ctx.ipc(&IpcCmd::receive(partner.id));
    check!(!got.tag.is_error());
    libl4::arch::probe::fpu_set(0xBAD);
    check!(!ctx.ipc(&IpcCmd::send(partner.id)).tag.is_error());
    partner.finish()?;
    let back = partner.run(Op::FpuGet, &[])?;
    check_eq!((back.results[0], back.results[1]), (0xF00D, !0xF00D));
    Ok(())
}

fn fpu_starts_clean(ctx: &mut Ctx) -> TestResult {
    libl4::arch::probe::fpu_set(0x5EC2E7);
    let partner = ctx.puppet()?;
    let got = partner.run(Op::FpuGet, &[])?;
    check_eq!((got.results[0], got.results[1]), (0, 0));
    Ok(())
}
