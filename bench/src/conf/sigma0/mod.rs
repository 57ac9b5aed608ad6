//! The sigma0 protocol, from the client's side (ref 6.6).

use crate::harness::puppet::Op;
use crate::harness::{Ctx, IpcCmd, Outcome, Place, Puppet, Test, TestResult};
use crate::{check, check_eq, tests};
use l4abi::kip::MemoryType;
use l4abi::proto::{Protocol, Sigma0Request};
use l4abi::utcb::word;
use libl4::sigma0::{self, Sigma0Error};
use libl4::{Fpage, IpcCode, MsgTag, NodeId, Phase, Rights, Time, kip};

/// The groups of this area.
pub const GROUPS: &[&[Test]] = &[TESTS];

tests! {
    sg_any_pages_differ, Once, "any requests give different free pages, usable at once";
    sg_any_sizes, Once, "any requests of 4 KiB to 2 MiB give aligned pages";
    sg_any_absurd_sizes, Once, "any requests of impossible sizes are refused";
    sg_specific_belongs_to_owner, Once, "a specific page is given again to its owner and to nobody else";
    sg_specific_kernel_memory, Once, "the kernel's memory and sigma0's own are refused";
    sg_shared_memory, Once, "device memory is given to anyone";
    sg_fault_request, Once, "sigma0 as pager serves faults with free memory";
    sg_fault_on_foreign_page, Once, "sigma0 as pager refuses a page of another thread";
    sg_ports_belong_to_owner, Once, "I/O ports are given to one thread only";
    sg_nil_window_overflows, Once, "a request with a nil window fails in its receive phase with overflow";
    sg_unknown_label, Once, "an unknown label gets no answer";
    sg_malformed, Once, "a request with typed words or a wrong count gets no answer";
    sg_control_is_for_root, Once, "dump and verbose from another thread get no answer";
    sg_node_request, Once, "Lokal's node request gives memory of that node, and refuses unknown nodes";
    sg_attributes, Once, "a request with an attribute is answered one way or the other";
    sg_works_after_abuse, Once, "sigma0 still answers after fifty random messages";
    sg_large_until_refused, Once, "2 MiB requests end with a refusal, not with an error";
}

fn sg_any_pages_differ(_: &mut Ctx) -> TestResult {
    let mut pages = [0u64; 20];
    for i in 0..pages.len() {
        let page = crate::need!(sigma0::any_page(12));
        check!(!pages[..i].contains(&page), "{page:#x} twice");
        check!(page.is_multiple_of(4096) && page != 0);
        libl4::arch::poke(page, page ^ 0x55);
        pages[i] = page;
    }
    for page in pages {
        check_eq!(libl4::arch::peek(page), page ^ 0x55);
    }
    Ok(())
}

fn sg_any_sizes(_: &mut Ctx) -> TestResult {
    for log2 in [12u8, 13, 14, 16, 18, 20, 21] {
        let page = crate::need!(sigma0::any_page(log2));
        check_eq!(page & ((1 << log2) - 1), 0, "2^{log2}");
        libl4::arch::poke(page + (1 << log2) - 8, 7);
        check_eq!(libl4::arch::peek(page + (1 << log2) - 8), 7, "last word");
    }
    Ok(())
}

fn sg_any_absurd_sizes(_: &mut Ctx) -> TestResult {
    for log2 in [0u8, 3, 11, 40, 47, 62, 63] {
        check_eq!(sigma0::any_page(log2), Err(Sigma0Error::Refused), "2^{log2}");
    }
    Ok(())
}

/// A request of a puppet; what the reply's first item names.
fn ask(puppet: &Puppet, request: Sigma0Request) -> TestResult<(Outcome, Fpage)> {
    let (tag, words) = request.encode();
    let call = IpcCmd::call(sigma0::id()).message(tag, &words[..tag.untyped()]).brs(&[0x10]);
    let got = puppet.run_ipc(&call)?;
    let fpage = Fpage::from_raw(got.mr[2]);
    Ok((got, fpage))
}

fn specific(addr: u64) -> Sigma0Request {
    Sigma0Request::Pages { fpage: Fpage::memory(addr, 12, Rights::RWX), attributes: 0 }
}

fn sg_specific_belongs_to_owner(ctx: &mut Ctx) -> TestResult {
    let page = crate::need!(sigma0::any_page(12));
    crate::need!(sigma0::specific_page(page, 12));
    let other = ctx.puppet_at(Place::Remote)?;
    let (got, fpage) = ask(&other, specific(page))?;
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!((got.tag.untyped(), got.tag.typed()), (0, 2), "form of the refusal");
    check!(fpage.is_nil(), "{fpage:?}");
    crate::need!(sigma0::specific_page(page, 12));
    Ok(())
}

fn sg_specific_kernel_memory(_: &mut Ctx) -> TestResult {
    let mut tried = 0;
    for desc in kip().memory().filter(|d| d.kind() == Some(MemoryType::Reserved) && !d.is_virtual())
    {
        let page = desc.low() & !0xFFF;
        check_eq!(sigma0::specific_page(page, 12), Err(Sigma0Error::Refused), "{page:#x}");
        tried += 1;
    }
    check!(tried > 0, "the KIP has no reserved memory");
    let own = kip().sigma0_image().low;
    check_eq!(sigma0::specific_page(own, 12), Err(Sigma0Error::Refused), "sigma0's image");
    Ok(())
}

fn sg_shared_memory(ctx: &mut Ctx) -> TestResult {
    // The VGA text buffer: no RAM, and no descriptor but the general one.
    let other = ctx.puppet_at(Place::Remote)?;
    let (_, fpage) = ask(&other, specific(0xB8000))?;
    check!(!fpage.is_nil(), "refused to the first");
    crate::need!(sigma0::specific_page(0xB8000, 12));
    Ok(())
}

/// A page of free RAM that the runner does not own: a little below one that sigma0 just gave.
fn free_page() -> TestResult<u64> {
    let page = crate::need!(sigma0::any_page(21));
    Ok(page - 4096)
}

fn sg_fault_request(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Remote)?;
    let page = free_page()?;
    partner.run(Op::WriteTcr, &[word::PAGER as u64, sigma0::id().raw()])?;
    partner.run(Op::Write, &[page + 8, 0x7777])?;
    check_eq!(partner.run(Op::Read, &[page + 8])?.results[0], 0x77);
    Ok(())
}

fn sg_fault_on_foreign_page(ctx: &mut Ctx) -> TestResult {
    let partner = ctx.puppet_at(Place::Remote)?;
    let page = crate::need!(sigma0::any_page(12));
    partner.run(Op::WriteTcr, &[word::PAGER as u64, sigma0::id().raw()])?;
    partner.start(Op::Read, &[page])?;
    ctx.settle();
    check!(!partner.is_done(), "it reads the page");
    Ok(())
}

fn sg_ports_belong_to_owner(ctx: &mut Ctx) -> TestResult {
    crate::need!(sigma0::io_ports(0x2F0, 2));
    let other = ctx.puppet_at(Place::Remote)?;
    let ports = Sigma0Request::Pages { fpage: Fpage::io(0x2F1, 0), attributes: 0 };
    let (_, fpage) = ask(&other, ports)?;
    check!(fpage.is_nil(), "{fpage:?}");
    crate::need!(sigma0::io_ports(0x2F0, 2));
    Ok(())
}

fn sg_nil_window_overflows(ctx: &mut Ctx) -> TestResult {
    let page = crate::need!(sigma0::any_page(12));
    let (tag, words) = specific(page).encode();
    let got = ctx.ipc(&IpcCmd::call(sigma0::id()).message(tag, &words[..2]));
    let error = got.ipc_error().map(|e| (e.phase, e.code, e.offset));
    check_eq!(error, Some((Phase::Receive, IpcCode::Overflow, 0)));
    Ok(())
}

fn no_answer(ctx: &Ctx, tag: MsgTag, words: &[u64]) -> TestResult {
    let call = IpcCmd::call(sigma0::id()).message(tag, words).brs(&[0x10]);
    let got = ctx.ipc(&call.timeouts(crate::harness::PATIENCE, Time::period_us(20_000)));
    let error = got.ipc_error().map(|e| (e.phase, e.code));
    check_eq!(error, Some((Phase::Receive, IpcCode::Timeout)), "{tag:?}");
    Ok(())
}

fn sg_unknown_label(ctx: &mut Ctx) -> TestResult {
    for label in [0u64, 77, 0xFFFF_FFFF_FFF0] {
        no_answer(ctx, MsgTag::new(label, 2, 0), &[0, 0])?;
    }
    Ok(())
}

fn sg_malformed(ctx: &mut Ctx) -> TestResult {
    let page = Fpage::any_of_size(12).raw();
    for untyped in [0usize, 1, 4, 63] {
        let mut words = [0u64; 63];
        words[0] = page;
        no_answer(ctx, Protocol::Sigma0.tag(0, untyped), &words[..untyped])?;
    }
    Ok(())
}

fn sg_control_is_for_root(ctx: &mut Ctx) -> TestResult {
    let (tag, words) = Sigma0Request::Dump { reply: true }.encode();
    no_answer(ctx, tag, &words[..2])?;
    let (tag, words) = Sigma0Request::Verbose(0).encode();
    no_answer(ctx, tag, &words[..2])
}

fn sg_node_request(_: &mut Ctx) -> TestResult {
    for node in 0..libl4::topology::node_count() as u8 {
        let has_memory =
            kip().numa().is_none_or(|numa| numa.ranges().any(|r| r.node == NodeId(node)));
        match sigma0::any_page_on(NodeId(node), 12) {
            Ok(page) => {
                check_eq!(libl4::topology::node_of_address(page), Some(NodeId(node)), "{page:#x}");
            }
            Err(error) => check!(!has_memory, "node {node}: {error:?}"),
        }
    }
    check_eq!(sigma0::any_page_on(NodeId(200), 12), Err(Sigma0Error::Refused), "unknown node");
    Ok(())
}

fn sg_attributes(ctx: &mut Ctx) -> TestResult {
    let other = ctx.puppet_at(Place::Remote)?;
    let request = Sigma0Request::Pages { fpage: Fpage::any_of_size(12), attributes: 1 };
    let (got, _) = ask(&other, request)?;
    check!(!got.tag.is_error(), "{:?}", got.ipc_error());
    check_eq!(got.tag.typed(), 2, "a map item");
    Ok(())
}

fn sg_works_after_abuse(ctx: &mut Ctx) -> TestResult {
    let mut x = 0x1234_5678u64;
    for _ in 0..50 {
        let words: [u64; 63] = core::array::from_fn(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            x >> 3
        });
        let tag = MsgTag::from_raw(words[62] & !0xF000);
        let send = IpcCmd::call(sigma0::id()).message(tag, &words).brs(&[0x10]);
        let _ = ctx
            .ipc(&send.timeouts(Time::period_us(50_000), Time::period_us(1_000)).xfer(Time::ZERO));
    }
    crate::need!(sigma0::any_page(12));
    Ok(())
}

fn sg_large_until_refused(_: &mut Ctx) -> TestResult {
    for got in 0..100_000 {
        match sigma0::any_page(21) {
            Ok(_) => {}
            Err(Sigma0Error::Refused) => {
                check!(got > 0, "not one");
                return Ok(());
            }
            Err(error) => return Err(crate::harness::fail(line!(), format_args!("{error:?}"))),
        }
    }
    Err(crate::harness::fail(line!(), format_args!("memory without end")))
}
