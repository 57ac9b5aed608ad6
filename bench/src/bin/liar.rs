//! A client of the pagers that lies: foreign tasks, messages that only pagers or the root task may send,
//! arguments that make no sense, rubbish. Everything is refused or ignored, and the pagers go on.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use app_pager::client::{self, TaskError};
use app_pager::control::{AskThreads, Designate, Spawn};
use app_pager::directory::DirError;
use app_pager::encode::{ClientRequest, PagerRequest};
use app_pager::ids::{Caller, Frame, LaneId, PageNo, PageRange, TaskId};
use app_pager::layout::MAX_LANES;
use app_pager::message::{ClientCall, Reply, Request};
use app_pager::pageset::PageSet;
use app_pager::region::{Policy, Region};
use app_pager::rng::Rng;
use app_pager::wire::Message;
use bench::experiment::Report;
use libl4::msg::Writer;
use libl4::program::SupervisorClient;
use libl4::{
    Acceptor, CpuId, MsgTag, NodeId, Rights, ThreadId, ThreadNo, Time, Timeouts, arch, ipc,
    program, thread, topology,
};

libl4::program!(main);

const AT: u64 = 0x1_0000_0000;
const PAGE: u64 = 4096;
/// For answers that should not come, and for those that must.
const IMPATIENT: Timeouts = Timeouts::new(Time::period_us(200_000), Time::period_us(20_000));
const PATIENT: Timeouts = Timeouts::new(Time::period_us(10_000_000), Time::period_us(10_000_000));

/// Sends a message and waits a little for an answer. `None`: none came.
fn try_ask<R: Message>(to: ThreadId, message: &impl Message) -> Option<R> {
    ask_within(IMPATIENT, to, message)
}

fn ask_within<R: Message>(time: Timeouts, to: ThreadId, message: &impl Message) -> Option<R> {
    let tag = client::put(message).ok()?;
    ipc::accept(Acceptor::NONE);
    let received = ipc::call(to, time, tag).ok()?;
    let mut words = [0; libl4::l4abi::tag::MAX_WORDS];
    let count = client::received_words(&received, &mut words);
    R::decode(received.tag, &words[..count])
}

fn refused(call: ClientCall, task: Option<TaskId>) -> Option<DirError> {
    match ask_within(PATIENT, client::my_pager(), &ClientRequest { task, call }) {
        Some(Reply::Refused(error)) => Some(error),
        _ => None,
    }
}

/// The worker of the caller's pager: a well-known distance behind lane 0.
fn workers() -> impl Iterator<Item = ThreadId> {
    let lane = client::my_pager().number().0;
    let first = (0..=u32::from(MAX_LANES)).map(move |back| lane.wrapping_sub(back));
    // One of these is lane 0 of this node's pager, and with it goes its worker.
    first.map(|no| ThreadId::global(ThreadNo(no + u32::from(MAX_LANES)), 1)).take(4)
}

fn main() {
    let mut report = Report::default();
    let region = client::add_region(client::pages(AT, PAGE), Rights::RW, Policy::FirstTouch);
    arch::poke(AT, 42);
    report.check("os_liar_region", region.is_ok(), format_args!("{region:?}"));
    foreign_tasks(&mut report);
    nonsense(&mut report);
    forged(&mut report);
    rubbish(&mut report);
    // After all that the pager serves as before.
    let at = client::query(AT);
    let served = at.is_ok_and(|p| p.frames.len() == 1) && arch::peek(AT) == 42;
    report.check("os_liar_still_served", served, format_args!("{at:?}"));
    let unmapped = client::unmap(client::pages(AT, PAGE));
    let ok = unmapped.is_ok_and(|(n, _)| n == 1) && arch::peek(AT) == 42;
    report.check("os_liar_unmap", ok, format_args!("{unmapped:?}"));
    report.end();
}

/// A member of one task names others.
fn foreign_tasks(report: &mut Report) {
    let own = client::my_task().map_or(0, |task| task.0);
    let mut answers = [None; 4];
    for (i, answer) in answers.iter_mut().enumerate() {
        let task = Some(TaskId(own ^ (1 << (i * 8))));
        *answer = refused(ClientCall::EndTask, task);
    }
    let all = answers.iter().all(|&answer| answer == Some(DirError::NotAllowed));
    report.check("os_liar_foreign_task", all, format_args!("{answers:?}"));
    let strangers = [program::supervisor(), client::my_pager(), ThreadId::from_raw(u64::MAX)];
    for thread in strangers {
        let deleted = client::delete_thread(thread);
        let ok = deleted == Err(TaskError::Refused(DirError::NoThread));
        report.check("os_liar_foreign_thread", ok, format_args!("{thread}: {deleted:?}"));
    }
    let last = client::delete_thread(thread::my_global_id());
    let ok = last == Err(TaskError::Refused(DirError::InUse));
    report.check("os_liar_last_thread", ok, format_args!("{last:?}"));
}

/// Arguments that cannot be.
fn nonsense(report: &mut Report) {
    let me = thread::my_global_id();
    let (here, cpu) = (topology::my_node(), thread::my_cpu());
    let nowhere = NodeId(63);
    let backwards = PageRange { first: PageNo(9), end: PageNo(3) };
    let unknown = PageRange::new(0x7_0000_0000, 0x7_0000_0001);
    let region = Region { rights: Rights::RW, policy: Policy::OnNode(nowhere) };
    let far = topology::cpu_count() as u16;
    let calls = [
        ("cpu", ClientCall::MigrateThread { thread: me, node: here, cpu: CpuId(far) }),
        ("node", ClientCall::MigrateThread { thread: me, node: nowhere, cpu }),
        ("policy", ClientCall::SetPolicy(client::pages(AT, PAGE), Policy::OnNode(nowhere))),
        ("region", ClientCall::AddRegion(client::pages(AT + PAGE, PAGE), region)),
        ("alloc", ClientCall::AllocOn(client::pages(AT, PAGE), nowhere)),
        ("move", ClientCall::MigratePages(client::pages(AT, PAGE), nowhere)),
        ("backwards", ClientCall::AddRegion(backwards, region)),
        ("in use", ClientCall::AddRegion(client::pages(AT, PAGE), region)),
        ("local", ClientCall::MakeLocal(client::pages(AT, PAGE))),
        ("unmap backwards", ClientCall::Unmap(backwards)),
        ("discard backwards", ClientCall::Discard(backwards)),
        ("unknown", ClientCall::MakeLocal(unknown)),
        ("query", ClientCall::Query(unknown.first)),
    ];
    for (name, call) in calls {
        let error = refused(call, None);
        report.check("os_liar_nonsense", error.is_some(), format_args!("{name}: {error:?}"));
    }
    // A CPU of another node than the one named.
    let other = (0..far).map(CpuId).find(|&c| topology::node_of(c) != here);
    if let Some(cpu) = other {
        let error = refused(ClientCall::MigrateThread { thread: me, node: here, cpu }, None);
        let ok = error == Some(DirError::Invalid) && topology::my_node() == here;
        report.check("os_liar_cpu_elsewhere", ok, format_args!("{error:?}"));
    }
}

/// Messages that only others may send.
fn forged(report: &mut Report) {
    let task = client::my_task().unwrap_or_default();
    let pager = client::my_pager();
    let balances = try_ask::<Reply>(pager, &Designate { task, balances: true });
    let list = ask_within::<Reply>(PATIENT, pager, &AskThreads { after: ThreadId::NIL });
    let ok = balances.is_none() && list == Some(Reply::Refused(DirError::NotAllowed));
    report.check("os_liar_no_balancer", ok, format_args!("{balances:?} {list:?}"));
    let spawn = Spawn { task: TaskId(77), module: 0, size: 4096, start_page: 0 };
    let spawned = try_ask::<Reply>(pager, &spawn);
    report.check("os_liar_no_spawn", spawned.is_none(), format_args!("{spawned:?}"));
    let from = Caller { node: topology::my_node(), lane: LaneId(0) };
    let frame = Frame { node: topology::my_node(), index: 0 };
    let requests = [
        Request::Forget { task },
        Request::Free { frames: [frame].into() },
        Request::Revoke { task, pages: PageSet::one(PageNo::of(AT)), free: Some(frame) },
        Request::Alloc { clean: true },
        Request::DropDummy { task },
    ];
    let mut answered = 0;
    for request in requests {
        for to in workers().chain([pager]) {
            let message = PagerRequest { from, together: false, request: request.clone() };
            answered += u32::from(try_ask::<Reply>(to, &message).is_some());
        }
    }
    let text = format_args!("{answered} forged requests answered");
    report.check("os_liar_no_pager", answered == 0 && arch::peek(AT) == 42, text);
    let root = SupervisorClient::new(program::supervisor());
    let (ready, mapping) = (root.ready(), root.mapping(0));
    let ok = ready.is_err() && mapping.is_err();
    report.check("os_liar_no_server", ok, format_args!("{ready:?} {mapping:?}"));
}

/// Words at random, and faults that never were, to everybody who listens.
fn rubbish(report: &mut Report) {
    let mut rng = Rng::new(4711);
    let mut answered = 0;
    let timeouts = Timeouts::new(Time::period_us(200_000), Time::ZERO);
    for round in 0..400 {
        let count = rng.below(64) as usize;
        let mut message = Writer::here();
        for _ in 0..count {
            message.word(if rng.below(2) == 0 { rng.below(16) } else { rng.next() });
        }
        // Labels of pagers, of faults (the top bits), and any.
        let label = match rng.below(3) {
            0 => 0x5000 + rng.below(0x40),
            1 => 0xFFE0 + rng.below(8),
            _ => rng.below(1 << 16),
        };
        ipc::accept(Acceptor::NONE);
        let to = workers().chain([client::my_pager()]).nth(round % 5);
        let Some(to) = to else { continue };
        // Not a spawn, whose answer would take its time; nor the end of this very task.
        if label == ClientRequest::LABEL {
            continue;
        }
        answered += u32::from(ipc::call(to, timeouts, MsgTag::new(label, count, 0)).is_ok());
    }
    let alive = client::query(AT);
    let text = format_args!("{answered} of 400 answered, then {alive:?}");
    report.check("os_liar_rubbish", alive.is_ok(), text);
}
