//! Threads and spaces by the system call server of the CPU (numa-l4 4.2.2).

use super::shared;
use super::start::Setup;
use app_pager::event::{KernelCall, KernelRefused};
use app_pager::ids::{Frame, TaskId};
use app_pager::layout::{KIP_AREA, UTCB_AREA};
use l4abi::control::UTCB_UNSPECIFIED;
use l4abi::{CpuId, Fpage, NodeId, Rights, ThreadId, Timeouts};
use libl4::msg::Writer;
use libl4::{Acceptor, ipc, kip, pager, thread};
use syscall_server::{
    MAX_FRAMES, PagerNo, REGAIN_FRAMES, Request, SCHEDULE, SpaceControl, TaskNo, ThreadControl,
    UNMAP_FRAMES,
};

type Result = core::result::Result<(), KernelRefused>;

/// Sends a request to the system call server of the running thread's CPU.
pub fn send(setup: &Setup, label: l4abi::MsgTag, words: &[u64]) -> Result {
    Writer::here().words(words);
    ipc::accept(Acceptor::NONE);
    let server = setup.numbers.server(thread::my_cpu());
    match ipc::call(server, Timeouts::NEVER, label) {
        Ok(answer) if answer.tag.untyped() == 1 && answer.mr(1) == 0 => Ok(()),
        _ => Err(KernelRefused),
    }
}

/// Has the root task unmap frames from everybody, pagers included.
pub fn unmap_frames(
    setup: &Setup,
    frames: &[Frame],
) -> core::result::Result<Rights, KernelRefused> {
    let mut bits = Rights::empty();
    for batch in frames.chunks(MAX_FRAMES) {
        bits = bits.union(ask_frames(setup, UNMAP_FRAMES, batch, Acceptor::NONE)?);
    }
    Ok(bits)
}

/// Gets the mapping of a frame back that [`unmap_frames`] took.
pub fn regain_frame(setup: &Setup, frame: Frame) -> Result {
    ask_frames(setup, REGAIN_FRAMES, &[frame], Acceptor::COMPLETE).map(|_| ())
}

fn ask_frames(
    setup: &Setup,
    label: u64,
    frames: &[Frame],
    acceptor: Acceptor,
) -> core::result::Result<Rights, KernelRefused> {
    let mut message = Writer::here();
    for frame in frames {
        message.word(u64::from(frame.node.0) << 32 | u64::from(frame.index));
    }
    let tag = message.tag(label);
    ipc::accept(acceptor);
    let answer = ipc::call(setup.numbers.server(thread::my_cpu()), Timeouts::NEVER, tag);
    ipc::accept(Acceptor::NONE);
    match answer {
        Ok(answer) if answer.tag.untyped() == 2 && answer.mr(1) == 0 => {
            Ok(Rights::from_bits_truncate(answer.mr(2) as u8))
        }
        _ => Err(KernelRefused),
    }
}

fn request(setup: &Setup, request: Request) -> Result {
    let (tag, words) = request.encode();
    send(setup, tag, &words[..tag.untyped()])
}

const fn no(task: TaskId) -> TaskNo {
    TaskNo(task.0)
}

/// Lets another pager serve the task too.
pub fn share(setup: &Setup, task: TaskId, with: NodeId) -> Result {
    request(setup, Request::Share { task: no(task), with: PagerNo(u16::from(with.0)) })
}

/// A space for the task, with `first` in it, active and waiting for its start message from `lane`.
pub fn create_space(setup: &Setup, task: TaskId, first: ThreadId, lane: ThreadId) -> Result {
    let create = ThreadControl {
        task: no(task),
        dest: first,
        space: first,
        scheduler: lane,
        pager: ThreadId::NIL,
        utcb: setup.numbers.utcb_of(first),
    };
    request(setup, Request::Thread(create))?;
    let areas = SpaceControl {
        task: no(task),
        space: first,
        control: 0,
        kip: kip().area_at(KIP_AREA),
        utcb_area: Fpage::memory(UTCB_AREA.0, UTCB_AREA.1, Rights::empty()),
        redirector: ThreadId::NIL,
    };
    let activate = ThreadControl { pager: lane, utcb: UTCB_UNSPECIFIED, ..create };
    let done = request(setup, Request::Space(areas))
        .and_then(|()| request(setup, Request::Thread(activate)));
    if done.is_err() {
        let _ = delete(setup, task, first);
    }
    done
}

fn delete(setup: &Setup, task: TaskId, thread: ThreadId) -> Result {
    let nil = ThreadId::NIL;
    let delete = ThreadControl {
        task: no(task),
        dest: thread,
        space: nil,
        scheduler: nil,
        pager: nil,
        utcb: UTCB_UNSPECIFIED,
    };
    request(setup, Request::Thread(delete))
}

/// A thread in the space of `peer`, waiting for its start message from `lane`.
fn join(setup: &Setup, task: TaskId, dest: ThreadId, peer: ThreadId, lane: ThreadId) -> Result {
    let create = ThreadControl {
        task: no(task),
        dest,
        space: peer,
        scheduler: lane,
        pager: lane,
        utcb: setup.numbers.utcb_of(dest),
    };
    request(setup, Request::Thread(create))
}

fn schedule(setup: &Setup, task: TaskId, thread: ThreadId, cpu: CpuId) -> Result {
    let words = [u64::from(task.0), thread.raw(), u64::from(cpu.0)];
    send(setup, l4abi::MsgTag::new(SCHEDULE, 3, 0), &words)
}

/// Performs a call in the name of `lane`, the pager thread whose CPU this is.
pub fn perform(setup: &Setup, call: KernelCall, lane: ThreadId) -> Result {
    match call {
        KernelCall::CreateSpace { task, dummy } => create_space(setup, task, dummy, lane),
        KernelCall::CreateDummy { task, dummy, peer } => join(setup, task, dummy, peer, lane),
        KernelCall::CreateThread { task, thread, peer, ip, sp } => {
            join(setup, task, thread, peer, lane)?;
            shared::of(setup.node).put_on(thread, libl4::thread::my_cpu());
            pager::start_message(thread, ip, sp).map_err(|_| KernelRefused)
        }
        KernelCall::MoveThread { task, thread, peer, cpu, node } => {
            let lane = setup.numbers.lane(node, setup.lane_of(cpu));
            let change = ThreadControl {
                task: no(task),
                dest: thread,
                space: peer.unwrap_or(thread),
                scheduler: lane,
                pager: lane,
                utcb: UTCB_UNSPECIFIED,
            };
            request(setup, Request::Thread(change))?;
            shared::of(node).put_on(thread, cpu);
            schedule(setup, task, thread, cpu)
        }
        KernelCall::DeleteThread { task, thread } => delete(setup, task, thread),
    }
}
