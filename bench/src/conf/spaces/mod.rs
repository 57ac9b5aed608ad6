//! SpaceControl, and what a space is (ref 2.2, 4.10).

mod memory;
mod redirect;

use crate::harness::ctx::{kip_area, utcb_area};
use crate::harness::pager::{self, Mode};
use crate::harness::puppet::Op;
use crate::harness::{Ctx, Test, TestResult, arena, ids};
use crate::{check, check_eq, need, tests};
use libl4::sys::{self, SysError, SysResult, ThreadControl};
use libl4::{ErrorCode, Fpage, Rights, ThreadId, kip, thread};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[TESTS, redirect::TESTS, memory::TESTS];

tests! {
    sp_kip_is_where_asked, OtherSpace, "KernelInterface returns the KIP area of the caller's space and preserves all other registers";
    sp_kip_content, OtherSpace, "the KIP reads the same in every space";
    sp_kip_is_read_only, OtherSpace, "writing to the KIP is a fault, and the page stays as it is";
    sp_spaces_are_separate, OtherSpace, "what is mapped in one space is not in another";
    sp_threads_share_a_space, OtherSpace, "two threads of a space see the same memory and each other's UTCBs";
    sp_second_control_is_ignored, Once, "areas are fixed by the first call; later ones succeed and change nothing";
    sp_old_control_is_zero, Once, "the old control word is 0: no compatibility mode";
    sp_err_unprivileged, OtherSpace, "a thread outside the privileged spaces gets error 1";
    sp_err_unknown, Once, "an unknown or local specifier: error 3";
    sp_err_utcb_area, Once, "a UTCB area too small or outside user memory: error 6";
    sp_err_kip_area, Once, "a KIP area too small, outside user memory or over the UTCB area: error 7";
    sp_err_leaves_uninitialised, Once, "after an error the space can still be initialised";
    sp_last_thread_frees_space, Once, "deleting the last thread deletes the space";
    sp_two_threads_keep_space, Once, "a space lives as long as one of its threads";
    sp_create_and_delete_many, Once, "a hundred spaces with a running thread, one after the other";
    sp_utcb_area_cannot_be_mapped, OtherSpace, "map operations skip the receiver's UTCB and KIP areas";
}

fn code<T>(result: SysResult<T>) -> Option<ErrorCode> {
    result.err().and_then(SysError::code)
}

fn new_space(ctx: &mut Ctx) -> TestResult<ThreadId> {
    let id = ctx.spare_id()?;
    let slot = id.number().0 - ids::number(0).0;
    need!(sys::thread_control(ThreadControl {
        dest: id,
        space: id,
        scheduler: ctx.me(),
        pager: ThreadId::NIL,
        utcb: Some(ids::puppet_utcb(slot)),
    }));
    Ok(id)
}

fn control(id: ThreadId, kip: Fpage, utcb: Fpage) -> SysResult<u64> {
    sys::space_control(id, 0, kip, utcb, ThreadId::NIL)
}

fn sp_kip_is_where_asked(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let got = partner.run(Op::KernelInterface, &[])?;
    check_eq!(got.results[0], ids::PUPPET_KIP, "address");
    check_eq!(got.results[1] & 0xFFFF_FFFF, kip().api_version() & 0xFFFF_FFFF, "ApiVersion");
    check_eq!(got.results[2], kip().api_flags(), "ApiFlags");
    check_eq!(got.results[3], kip().kernel_id(), "KernelId");
    check_eq!(got.results[4], 0, "registers that changed");
    Ok(())
}

fn sp_kip_content(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    for offset in [0u64, 1, 2, 3, 0x150, 0x188, 0x1C0, 0x1C4] {
        let got = partner.run(Op::Read, &[ids::PUPPET_KIP + offset])?;
        check_eq!(got.results[0], u64::from(kip().byte(offset as usize)), "offset {offset:#x}");
    }
    Ok(())
}

fn sp_kip_is_read_only(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    partner.start(Op::Write, &[ids::PUPPET_KIP + 0x800, 0x1234])?;
    ctx.settle();
    check!(!partner.is_done(), "the write went through");
    check_eq!(pager::strays(), 1, "faults the pager could not place");
    check!(kip().word(0x800) != 0x1234, "the page changed");
    Ok(())
}

fn sp_spaces_are_separate(ctx: &mut Ctx) -> TestResult {
    let (one, two) = (ctx.puppet()?, ctx.puppet()?);
    pager::open(0, arena::page(64), 4096, Rights::RWX, Mode::Map);
    one.run(Op::Write, &[arena::window(0), 77])?;
    check_eq!(pager::seen(0).faults, 1);
    pager::set_mode(0, Mode::Hold);
    two.start(Op::Read, &[arena::window(0)])?;
    ctx.settle();
    check!(!two.is_done(), "the other space sees the page");
    check_eq!(pager::seen(0).faults, 2, "it faults");
    check_eq!(pager::seen(0).from, two.id, "who");
    Ok(())
}

fn sp_threads_share_a_space(ctx: &mut Ctx) -> TestResult {
    let one = ctx.puppet()?;
    let two = ctx.puppet_beside(&one)?;
    pager::open(0, arena::page(64), 4096, Rights::RWX, Mode::Map);
    one.run(Op::Write, &[arena::window(0), 78])?;
    pager::set_mode(0, Mode::Hold);
    check_eq!(two.run(Op::Read, &[arena::window(0)])?.results[0], 78);
    // MyGlobalId of the one, read by the other: thread number in the upper half.
    let my_id = one.utcb + 392;
    let number = two.run(Op::Read, &[my_id + 4])?;
    check_eq!(number.results[0], u64::from(one.id.number().0 & 0xFF), "the other's UTCB");
    Ok(())
}

fn sp_second_control_is_ignored(ctx: &mut Ctx) -> TestResult {
    let id = new_space(ctx)?;
    need!(control(id, kip_area(), utcb_area()));
    let elsewhere = Fpage::memory(0x9000_0000, 16, Rights::empty());
    need!(control(id, Fpage::memory(0x9100_0000, 12, Rights::empty()), elsewhere));
    // The location in the first area is still the valid one.
    need!(sys::thread_control(ThreadControl {
        dest: id,
        space: id,
        scheduler: ThreadId::NIL,
        pager: ids::pager(),
        utcb: None,
    }));
    Ok(())
}

fn sp_old_control_is_zero(ctx: &mut Ctx) -> TestResult {
    let id = new_space(ctx)?;
    let compat = l4abi::control::SPACE_COMPATIBILITY;
    let old = need!(sys::space_control(id, compat, kip_area(), utcb_area(), ThreadId::NIL));
    check_eq!(old, 0);
    check_eq!(need!(control(id, kip_area(), utcb_area())), 0, "second call");
    Ok(())
}

fn sp_err_unprivileged(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet()?;
    let id = new_space(ctx)?;
    for space in [id, partner.id] {
        let args = [space.raw(), 0, kip_area().raw(), utcb_area().raw(), 0];
        let got = partner.run(Op::SpaceControl, &args)?;
        check_eq!((got.results[0], got.results[1]), (0, ErrorCode::NoPrivilege.raw()));
    }
    Ok(())
}

fn sp_err_unknown(ctx: &mut Ctx) -> TestResult {
    let nobody = ctx.spare_id()?;
    for id in [nobody, thread::my_local_id(), ThreadId::NIL, ThreadId::ANY] {
        let error = code(control(id, kip_area(), utcb_area()));
        check_eq!(error, Some(ErrorCode::InvalidSpace), "{id}");
    }
    Ok(())
}

fn sp_err_utcb_area(ctx: &mut Ctx) -> TestResult {
    let id = new_space(ctx)?;
    for bad in [
        Fpage::NIL,
        Fpage::from_raw(0x8000_0000 | 11 << 4),
        Fpage::from_raw(0x8000_0000 | 10 << 4),
        Fpage::memory(0xFFFF_8000_0000_0000, 16, Rights::empty()),
        Fpage::memory(0x0000_8000_0000_0000, 16, Rights::empty()),
        Fpage::io(0, 4),
    ] {
        check_eq!(code(control(id, kip_area(), bad)), Some(ErrorCode::UtcbArea), "{bad:?}");
    }
    Ok(())
}

fn sp_err_kip_area(ctx: &mut Ctx) -> TestResult {
    let id = new_space(ctx)?;
    let log2 = kip().kip_area_log2();
    for bad in [
        Fpage::NIL,
        Fpage::from_raw(0x8100_0000 | u64::from(log2 - 1) << 4),
        Fpage::memory(0xFFFF_8000_0000_0000, log2, Rights::empty()),
        Fpage::memory(ids::PUPPET_UTCB_AREA.0, log2, Rights::empty()),
        Fpage::memory(ids::PUPPET_UTCB_AREA.0 + 0x8000, log2, Rights::empty()),
    ] {
        check_eq!(code(control(id, bad, utcb_area())), Some(ErrorCode::KipArea), "{bad:?}");
    }
    Ok(())
}

fn sp_err_leaves_uninitialised(ctx: &mut Ctx) -> TestResult {
    let id = new_space(ctx)?;
    check!(control(id, Fpage::NIL, utcb_area()).is_err());
    check!(control(id, kip_area(), Fpage::NIL).is_err());
    need!(control(id, kip_area(), utcb_area()));
    need!(sys::thread_control(ThreadControl {
        dest: id,
        space: id,
        scheduler: ThreadId::NIL,
        pager: ids::pager(),
        utcb: None,
    }));
    Ok(())
}

fn sp_last_thread_frees_space(ctx: &mut Ctx) -> TestResult {
    let id = new_space(ctx)?;
    need!(control(id, kip_area(), utcb_area()));
    need!(thread::delete(id));
    check_eq!(code(control(id, kip_area(), utcb_area())), Some(ErrorCode::InvalidSpace));
    Ok(())
}

fn sp_two_threads_keep_space(ctx: &mut Ctx) -> TestResult {
    let one = ctx.puppet_at(crate::harness::Place::Remote)?;
    let options = crate::harness::PuppetOptions {
        place: crate::harness::Place::Remote,
        space_of: Some(one.id),
        priority: 100,
    };
    let two = ctx.puppet_with(options)?;
    pager::open(0, arena::page(64), 4096, Rights::RWX, Mode::Map);
    one.run(Op::Write, &[arena::window(0), 79])?;
    need!(thread::delete(one.id));
    pager::set_mode(0, Mode::Hold);
    check_eq!(two.run(Op::Read, &[arena::window(0)])?.results[0], 79, "its memory");
    Ok(())
}

fn sp_create_and_delete_many(ctx: &mut Ctx) -> TestResult {
    use crate::harness::ctx::arena_stack;
    let first = ctx.spare_id()?;
    let slot = first.number().0 - ids::number(0).0;
    for round in 0..100u32 {
        let id = ThreadId::global(first.number(), first.version() + 2 * round);
        let create = ThreadControl {
            dest: id,
            space: id,
            scheduler: ctx.me(),
            pager: ThreadId::NIL,
            utcb: Some(ids::puppet_utcb(slot)),
        };
        let created = sys::thread_control(create);
        check!(created.is_ok(), "round {round}: {created:?}");
        let set = control(id, kip_area(), utcb_area());
        check!(set.is_ok(), "round {round}: {set:?}");
        need!(sys::thread_control(ThreadControl { pager: ids::pager(), utcb: None, ..create }));
        let sp = arena_stack(0, tell_runner, u64::from(round));
        need!(pager::start(id, libl4::arch::trampoline_ip(), sp));
        let got = ctx.ipc(&crate::harness::IpcCmd::receive(id));
        check!(!got.tag.is_error(), "round {round}: {:?}", got.ipc_error());
        check_eq!(got.mr[1], u64::from(round));
        need!(thread::delete(id));
    }
    Ok(())
}

extern "C" fn tell_runner(arg: u64) -> ! {
    let mut message = libl4::msg::Writer::here();
    message.word(arg);
    let _ = libl4::ipc::send(ids::of_slot(ids::RUNNER), crate::harness::PATIENCE, message.tag(1));
    thread::sleep_forever()
}

fn sp_utcb_area_cannot_be_mapped(ctx: &mut Ctx) -> TestResult {
    use crate::harness::IpcCmd;
    let partner = ctx.puppet()?;
    arena::wipe(arena::page(64), 4096, 0x11);
    for target in [ids::PUPPET_UTCB_AREA.0, ids::PUPPET_KIP] {
        let item = l4abi::item::map_item(target, Fpage::memory(arena::page(64), 12, Rights::RWX));
        partner.start_ipc(&IpcCmd::receive(ctx.me()).brs(&[0x10]))?;
        let tag = libl4::MsgTag::new(1, 0, 2);
        let sent = ctx.ipc(&IpcCmd::send(partner.id).message(tag, &item));
        check!(!sent.tag.is_error(), "{:?}", sent.ipc_error());
        partner.finish()?;
    }
    let kip_byte = partner.run(Op::Read, &[ids::PUPPET_KIP])?;
    check_eq!(kip_byte.results[0], u64::from(b'L'), "the KIP was replaced");
    let id = partner.run(Op::ReadTcr, &[l4abi::utcb::word::MY_GLOBAL_ID as u64])?;
    check_eq!(id.results[0], partner.id.raw(), "the UTCB was replaced");
    Ok(())
}
