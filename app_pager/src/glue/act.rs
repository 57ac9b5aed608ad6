//! Performing the machine's actions.

use super::kernel;
use super::shared::{self, Note};
use super::start::setup;
use super::thread::{KnownSlot, Serving, again, reply, with_pager};
use alloc::collections::VecDeque;
use app_pager::client::put;
use app_pager::config::switches;
use app_pager::encode::PagerRequest;
use app_pager::event::{Action, Event};
use app_pager::ids::{Caller, Frame, LaneId, PAGE_LOG2, Status, TaskId, Who};
use app_pager::layout::{MAX_LANES, frame_address};
use app_pager::message::{Reply, Request};
use app_pager::page::MAX_REPLICAS;
use app_pager::store::Slot;
use l4abi::{Fpage, NodeId, Rights, ThreadId, Time};
use libl4::msg::Writer;
use libl4::{arch, ipc, println, sys};
use syscall_server::REPORT;

const PAGE: u64 = 1 << PAGE_LOG2;

/// The thread that has to perform an action; `None` if anybody can.
fn performer(action: &Action) -> Option<Who> {
    match *action {
        Action::Lock { who, .. }
        | Action::Unmap { who, .. }
        | Action::Clear { who, .. }
        | Action::Fill { who, .. }
        | Action::Kernel { who, .. } => Some(who),
        Action::Send { lane, .. }
        | Action::Map { lane, .. }
        | Action::RootUnmap { lane, .. }
        | Action::Reply { lane, .. } => Some(Who::Lane(lane)),
        Action::Place { .. } | Action::Confirm { .. } | Action::Wake { .. } => None,
    }
}

/// Performs one action; what follows from it is added to what is to be done.
pub fn act(me: &mut Serving, action: Action, todo: &mut VecDeque<Action>) {
    if let Some(who) = performer(&action)
        && who != me.who()
    {
        // Only this thread can answer its clients, and only it knows that it waits.
        let index = match who {
            Who::Lane(LaneId(lane)) => lane,
            Who::Worker => MAX_LANES,
        };
        post(Caller { node: setup().node, lane: LaneId(index) }, Note::Act(action));
        return;
    }
    match action {
        Action::Lock { who, task, at } => locked(me, who, task, at, todo),
        Action::Place { at, directory } => place(me, 0, at, directory.task, Slot::Here(directory)),
        Action::Send { lane, to, request } => send(lane, to, request, false),
        Action::Confirm { to, confirm } => super::thread::confirm(to, confirm),
        Action::Wake { to } => post(to, Note::Woken),
        Action::Map { lane, thread, page, frame, rights } => {
            regain(&[frame]);
            map(thread, page.address(), frame, rights);
            me.step_into(todo, |pager, out| pager.handle(Event::Mapped(lane), out));
        }
        Action::Unmap { who, frames } => {
            let status = unmap(&frames);
            me.step_into(todo, |pager, out| pager.handle(Event::Unmapped(who, status), out));
        }
        Action::RootUnmap { lane, frames } => {
            let event = Event::RootUnmapped(lane, root_unmap(&frames));
            me.step_into(todo, |pager, out| pager.handle(event, out));
        }
        Action::Clear { who, frames } => {
            regain(&frames);
            frames.iter().for_each(|&frame| fill(frame, None));
            me.step_into(todo, |pager, out| pager.handle(Event::Cleared(who, frames), out));
        }
        Action::Fill { who, frame, from } => {
            regain(&[frame]);
            regain(from.as_slice());
            fill(frame, from);
            me.step_into(todo, |pager, out| pager.handle(Event::Filled(who), out));
        }
        Action::Kernel { who, call } => {
            let lane = match who {
                Who::Lane(_) => me.id(),
                Who::Worker => setup().numbers.lane(setup().node, 0),
            };
            let result = kernel::perform(setup(), call, lane);
            me.step_into(todo, |pager, out| pager.handle(Event::KernelDone(who, result), out));
        }
        Action::Reply { thread, reply, .. } => answer(me, thread, &reply),
    }
}

/// The root task unmaps the frames from everybody, pagers included.
fn root_unmap(frames: &[Frame]) -> Status {
    for &frame in frames {
        shared::of(frame.node).lose(frame, setup().nodes);
    }
    let unmapped = kernel::unmap_frames(setup(), frames);
    unmapped.unwrap_or_else(|_| {
        println!("pager {}: the root task does not unmap {frames:?}", setup().node.0);
        Status::empty()
    })
}

/// Gets frames back that the root task has unmapped. The thesis' pagers do so by page faults (numa-l4
/// 5.4.2); asking the server of the CPU is the same message without the kernel's part, and cannot wait
/// for the root task's first thread while that waits for this pager.
fn regain(frames: &[Frame]) {
    let setup = setup();
    if setup.switches & switches::ROOT == 0 {
        return;
    }
    for &frame in frames {
        let lost = shared::of(frame.node).regain(frame, setup.node);
        if lost && kernel::regain_frame(setup, frame).is_err() {
            println!("pager {}: {frame:?} does not come back", setup.node.0);
        }
    }
}

pub fn post(to: Caller, note: Note) {
    let owner = setup().numbers.lane(to.node, to.lane.0);
    shared::of(to.node).inbox(to.lane.0).post(owner, note);
}

fn place(me: &Serving, depth: usize, at: NodeId, task: TaskId, slot: Slot) {
    shared::of(at).slot(task).with(me.caller(), depth, |place| *place = slot);
}

/// The lock of a task's directory is that of its slot. A hand-over takes the next slot's lock as
/// well; whoever has that one has no directory to hand over, so no cycle exists.
fn locked(me: &mut Serving, who: Who, task: TaskId, at: NodeId, todo: &mut VecDeque<Action>) {
    let mut known = me.slot.take().filter(|known| known.task == task && known.at == at);
    loop {
        let remembered = known.is_some();
        let look_up = || KnownSlot { task, at, slot: shared::of(at).slot(task) };
        let here = known.take().unwrap_or_else(look_up);
        let gone = here.slot.with(me.caller(), 0, |slot| {
            if remembered && matches!(slot, Slot::Empty) {
                // That of a task which is gone; the id may be in use again, with another slot.
                return None;
            }
            let was_here = matches!(slot, Slot::Here(_));
            directory_step(me, who, slot, todo);
            Some(was_here && matches!(slot, Slot::Empty))
        });
        match gone {
            None => continue,
            Some(true) => shared::of(at).remove_slot(task),
            Some(false) => me.slot = Some(here),
        }
        return;
    }
}

/// The step for which the lock was taken, and what has to be done before it is released.
fn directory_step(me: &mut Serving, who: Who, slot: &mut Slot, todo: &mut VecDeque<Action>) {
    let mut out = me.step_only(|pager, out| pager.with_directory(who, slot, out));
    for action in out.drain(..) {
        match action {
            Action::Place { at, directory } => {
                place(me, 1, at, directory.task, Slot::Here(directory));
            }
            other => todo.push_back(other),
        }
    }
    me.reuse(out);
}

/// Whether a worker confirms this request while it still serves it, with nothing but status bits: so
/// several of them can be confirmed at the lane's barrier.
const fn gathers(request: &Request) -> bool {
    matches!(request, Request::Revoke { .. } | Request::Free { .. } | Request::Forget { .. })
}

/// Sends the requests at the head of `todo` that the lane will wait for together, if there are
/// several.
pub fn send_together(me: &mut Serving, todo: &mut VecDeque<Action>) {
    let own = |action: &Action| match action {
        Action::Send { lane, request, .. } => me.who() == Who::Lane(*lane) && gathers(request),
        _ => false,
    };
    let count = todo.iter().take_while(|action| own(action)).count();
    let Who::Lane(lane) = me.who() else { return };
    if count < 2 {
        return;
    }
    let barrier = shared::of(setup().node).barrier(lane.0);
    me.together = count as u32;
    barrier.open(me.together);
    for action in todo.drain(..count) {
        if let Action::Send { lane, to, request } = action {
            send(lane, to, request, true);
        }
    }
    if let Some(status) = barrier.close() {
        me.gathered(status, todo);
    }
}

fn send(lane: LaneId, to: NodeId, request: Request, together: bool) {
    if let Request::Enter { task, .. } = request
        && kernel::share(setup(), task, to).is_err()
    {
        println!("pager {}: cannot share task {:#x}", setup().node.0, task.0);
    }
    let from = Caller { node: setup().node, lane };
    // The largest request fits a message (tested in the library). A worker always comes back to
    // its receive, so this ends.
    if let Ok(tag) = put(&PagerRequest { from, together, request }) {
        let sent = ipc::send(setup().numbers.worker(to), Time::NEVER, tag);
        if let Err(error) = sent {
            println!("pager {}: request to node {}: {error}", setup().node.0, to.0);
        }
    }
}

pub fn map(thread: ThreadId, address: u64, frame: Frame, rights: Rights) {
    let mut message = Writer::here();
    message.map(address, Fpage::memory(frame_address(frame), PAGE_LOG2, rights));
    // The thread waits in its fault. If it was cancelled meanwhile it faults again.
    let _ = ipc::send(thread, Time::ZERO, message.tag(0));
}

fn unmap(frames: &[Frame]) -> Status {
    let mut status = Status::empty();
    let mut fpages = [Fpage::NIL; MAX_REPLICAS];
    for batch in frames.chunks(MAX_REPLICAS) {
        let fpages = &mut fpages[..batch.len()];
        for (fpage, &frame) in fpages.iter_mut().zip(batch) {
            *fpage = Fpage::memory(frame_address(frame), PAGE_LOG2, Rights::RWX);
        }
        sys::unmap(fpages, false);
        status = fpages.iter().fold(status, |bits, fpage| bits.union(fpage.rights()));
    }
    status
}

fn fill(frame: Frame, from: Option<Frame>) {
    match from {
        Some(from) => arch::copy_memory(frame_address(frame), frame_address(from), PAGE),
        None => arch::clear_memory(frame_address(frame), PAGE),
    }
}

fn answer(me: &Serving, thread: ThreadId, answer: &Reply) {
    match (me.fault(), answer) {
        (None, _) => reply(thread, answer),
        (Some(_), Reply::Again) => again(thread),
        (Some(address), refused) => {
            let task = with_pager(|pager| pager.task_of(thread));
            println!(
                "pager {}: {thread} of task {task:x?} faults at {address:#x}: {refused:?}",
                setup().node.0
            );
            let words = [thread.raw(), address];
            // The root task ends the task; until then the thread waits in its fault.
            let _ = kernel::send(setup(), l4abi::MsgTag::new(REPORT, 2, 0), &words);
        }
    }
}
