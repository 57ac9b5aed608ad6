//! System call servers, one thread per CPU (numa-l4 4.2.2): ThreadControl, SpaceControl and Schedule
//! for the application pagers, as `syscall_server`'s policy allows.

use crate::pools;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use app_pager::ids::Frame;
use app_pager::layout::Numbers;
use l4abi::control::UTCB_UNSPECIFIED;
use l4abi::{Acceptor, CpuId, ErrorCode, MsgTag, NodeId, Rights, ThreadId};
use libl4::ipc::{self, Received};
use libl4::msg::Writer;
use libl4::sync::Mutex;
use libl4::sys::{self, SysError, SysResult};
use libl4::thread::{self, Stack};
use libl4::{println, topology};
use spin::Once;
use syscall_server::{
    Call, MAX_FRAMES, Policy, REGAIN_FRAMES, REPORT, Request, SCHEDULE, TaskNo, ThreadControl,
    UNMAP_FRAMES,
};

/// Most CPUs that get a server.
pub const MAX_SERVERS: usize = 128;
const STACK: usize = 16 * 1024;
static STACKS: [Stack<STACK>; MAX_SERVERS] = [const { Stack::new() }; MAX_SERVERS];

/// The one policy of all servers; its lock is held from check to apply.
static POLICY: Mutex<Option<Policy>> = Mutex::new(None);

/// Bad faults that pagers report: thread and address.
static REPORTS: Mutex<VecDeque<(ThreadId, u64)>> = Mutex::new(VecDeque::new());

static NUMBERS: Once<Numbers> = Once::new();

/// Runs `body` on the policy.
pub fn with_policy<R>(body: impl FnOnce(&mut Policy) -> R) -> R {
    body(POLICY.lock().get_or_insert_with(Policy::new))
}

/// Takes a pager's report.
pub fn take_report() -> Option<(ThreadId, u64)> {
    REPORTS.lock().pop_front()
}

/// The tasks that pagers have reported are gone.
pub fn forget_reports() {
    REPORTS.lock().clear();
}

/// Starts a server on every CPU.
pub fn start(numbers: Numbers) {
    NUMBERS.call_once(|| numbers);
    let base = thread::my_utcb_location();
    for cpu in (0..topology::cpu_count().min(MAX_SERVERS) as u16).map(CpuId) {
        let id = numbers.server(cpu);
        let utcb = base + (1 + u64::from(cpu.0)) * l4abi::utcb::UTCB_SIZE as u64;
        let stack = STACKS[cpu.index()].take().expect("each is taken once");
        let started = thread::create_local(id, utcb, thread::my_global_id())
            .and_then(|()| place(id, cpu))
            .and_then(|()| thread::start_on(id, &stack, serve, u64::from(cpu.0)));
        if let Err(error) = started {
            println!("root: no system call server on CPU {}: {error}", cpu.0);
        }
    }
}

/// Moves a thread to a CPU, with the priority of the system.
pub fn place(thread: ThreadId, cpu: CpuId) -> SysResult<()> {
    let priority = Some(l4abi::schedule::ROOT_PRIORITY - 5);
    let change = sys::Schedule { priority, processor: Some(cpu), ..sys::Schedule::default() };
    sys::schedule(thread, change).map(|_| ())
}

extern "C" fn serve(_cpu: u64) -> ! {
    let mut reply: Option<(ThreadId, MsgTag)> = None;
    ipc::accept(Acceptor::NONE);
    loop {
        let result = match reply.take() {
            None => ipc::wait(),
            Some((to, tag)) => ipc::reply_wait(to, tag),
        };
        let Ok(message) = result else { continue };
        reply = Some((message.from, answer(&message)));
    }
}

/// Performs a request and builds the answer.
fn answer(message: &Received) -> MsgTag {
    let label = message.tag.label();
    let mut answer = Writer::here();
    if let UNMAP_FRAMES | REGAIN_FRAMES = label {
        let done = frames_of(message).and_then(|frames| match label {
            UNMAP_FRAMES => pools::unmap(&frames).map(|bits| (bits, Vec::new())),
            _ => Ok((Rights::empty(), frames)),
        });
        let (code, bits, back) = match done {
            Ok((bits, back)) => (0, bits, back),
            Err(code) => (code.raw(), Rights::empty(), Vec::new()),
        };
        answer.words(&[code, u64::from(bits.bits())]);
        // A frame that is none leaves the rest unmapped: the pager's mistake, and its own loss.
        let _ = pools::give_back(&back, &mut answer);
        return answer.tag(label);
    }
    let code = match perform(message) {
        Ok(()) => 0,
        Err(error) => error,
    };
    answer.word(code);
    answer.tag(label)
}

/// The frames that a pager names: a word each.
fn frames_of(message: &Received) -> Result<Vec<Frame>, ErrorCode> {
    if !is_pager(message.from) {
        return Err(ErrorCode::NoPrivilege);
    }
    let words = message.tag.untyped().min(MAX_FRAMES);
    let frame = |word: u64| Frame { node: NodeId((word >> 32) as u8), index: word as u32 };
    Ok((1..=words).map(|i| frame(message.mr(i))).collect())
}

/// Whether a message comes from a thread of a pager.
fn is_pager(from: ThreadId) -> bool {
    NUMBERS.get().is_some_and(|numbers| numbers.pager_of(from, 64).is_some())
}

fn raw(error: SysError) -> u64 {
    match error {
        SysError::Code(code) => code.raw(),
        SysError::Unknown(raw) => raw,
    }
}

fn perform(message: &Received) -> Result<(), u64> {
    let mr = core::array::from_fn(|i| message.mr(i + 1));
    match (message.tag.label(), message.tag.untyped()) {
        (SCHEDULE, 3) => return schedule(message.from, mr),
        (REPORT, 2) => return report(message.from, mr),
        _ => {}
    }
    let request = Request::parse(message.tag, mr).ok_or(ErrorCode::InvalidParameter.raw())?;
    with_policy(|policy| {
        let permit = policy.check(message.from, &request).map_err(ErrorCode::raw)?;
        match permit.call {
            Call::Thread(t) => thread_control(&t).map_err(raw)?,
            Call::Space(s) => {
                sys::space_control(s.space, s.control, s.kip, s.utcb_area, s.redirector)
                    .map_err(raw)?;
            }
            Call::Nothing => {}
        }
        policy.apply(permit);
        Ok(())
    })
}

fn thread_control(t: &ThreadControl) -> SysResult<()> {
    sys::thread_control(sys::ThreadControl {
        dest: t.dest,
        space: t.space,
        scheduler: t.scheduler,
        pager: t.pager,
        utcb: (t.utcb != UTCB_UNSPECIFIED).then_some(t.utcb),
    })
}

/// Moves a thread to another CPU for those who may change it: the question is that of a
/// ThreadControl that changes nothing.
fn schedule(from: ThreadId, [task, thread, cpu, ..]: [u64; 6]) -> Result<(), u64> {
    let invalid = ErrorCode::InvalidParameter.raw();
    let dest = ThreadId::from_raw(thread);
    let ask = Request::Thread(ThreadControl {
        task: TaskNo(u32::try_from(task).map_err(|_| invalid)?),
        dest,
        space: dest,
        scheduler: ThreadId::NIL,
        pager: ThreadId::NIL,
        utcb: UTCB_UNSPECIFIED,
    });
    let cpu = CpuId(u16::try_from(cpu).map_err(|_| invalid)?);
    with_policy(|policy| {
        let _checked = policy.check(from, &ask).map_err(ErrorCode::raw)?;
        let change = sys::Schedule { processor: Some(cpu), ..sys::Schedule::default() };
        sys::schedule(dest, change).map(|_| ()).map_err(raw)
    })
}

fn report(from: ThreadId, [thread, address, ..]: [u64; 6]) -> Result<(), u64> {
    if !is_pager(from) {
        return Err(ErrorCode::NoPrivilege.raw());
    }
    REPORTS.lock().push_back((ThreadId::from_raw(thread), address));
    Ok(())
}
