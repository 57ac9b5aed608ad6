//! Supervision: programs are started, served, watched, taken down and started again.

use crate::boot::Modules;
use crate::memory::Memory;
use crate::pagers::Pagers;
use crate::plain::Pages;
use crate::servers;
use crate::waiting::Stashed;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use app_pager::client::{TaskError, counts_of};
use app_pager::encode::ClientRequest;
use app_pager::ids::TaskId;
use app_pager::layout::Numbers;
use app_pager::message::{ClientCall, Reply};
use core::fmt;
use l4abi::proto::{EXCEPTION_TAG, IoFault, PageFault, exception_mr};
use l4abi::record::{Line, Test};
use l4abi::{Acceptor, CpuId, FpageKind, MsgTag, NodeId, ThreadId, Time, Timeouts};
use libl4::exit::{self, Outcome};
use libl4::ipc::{self, Received};
use libl4::pager::Fault;
use libl4::program::{Supervisor, SupervisorClient};
use libl4::rpc::{Failure, Mapping};
use libl4::server::Answer;
use libl4::{pager, println, sigma0, thread};
use roottask::manifest::{Manifest, Restart};
use syscall_server::TaskNo;

/// How often a program is started again.
const MAX_RESTARTS: u32 = 8;
/// How often reports of pagers are looked for when nothing else happens.
const LOOK_AROUND: Time = Time::period_us(20_000);
/// Ports that programs may have: the serial port and the debug-exit device.
const PORTS: [core::ops::RangeInclusive<u64>; 2] = [0x3F8..=0x3FF, 0xF4..=0xF4];

/// Why a program or a server is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(u64),
    Panic,
    Exception {
        vector: u64,
        ip: u64,
    },
    Fault {
        addr: u64,
        ip: u64,
    },
    NotStarted,
    /// A pager died, and with it all that pagers knew.
    PagerDied,
    /// A daemon is not needed any more.
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(0) => f.write_str("left"),
            Self::Exit(code) => write!(f, "left with code {code}"),
            Self::Panic => f.write_str("panicked"),
            Self::Exception { vector, ip } => write!(f, "exception {vector} at {ip:#x}"),
            Self::Fault { addr, ip: 0 } => write!(f, "bad fault at address {addr:#x}"),
            Self::Fault { addr, ip } => write!(f, "bad fault at address {addr:#x}, ip {ip:#x}"),
            Self::NotStarted => f.write_str("could not be started"),
            Self::PagerDied => f.write_str("lost with a pager"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

#[derive(Debug)]
pub enum State {
    /// Its threads, the first one first, and its memory.
    Plain {
        threads: Vec<ThreadId>,
        pages: Pages,
    },
    Task {
        task: TaskId,
        node: NodeId,
    },
    Ended,
}

#[derive(Debug)]
pub struct Running {
    pub state: State,
    restarts: u32,
    /// It ended as it should not have.
    pub failed: bool,
}

/// The whole system.
#[derive(Debug)]
pub struct System {
    pub manifest: Manifest,
    pub modules: Modules,
    pub numbers: Numbers,
    pub memory: Memory,
    pub pagers: Option<Pagers>,
    pub running: Vec<Running>,
    pub next_task: u32,
    /// Programs to start as soon as the pagers are ready.
    pub to_start: Vec<usize>,
    /// Messages that came while the first thread waited for a pager.
    pub stash: VecDeque<Stashed>,
    /// A pager has died; the message that says so is in the stash.
    pub pager_dying: bool,
    /// The message being handled gets no answer.
    pub silent: bool,
}

impl System {
    /// A system that has not started yet.
    pub fn new(manifest: Manifest, modules: Modules, numbers: Numbers) -> Self {
        Self {
            manifest,
            modules,
            numbers,
            memory: Memory::default(),
            pagers: None,
            running: Vec::new(),
            next_task: 1,
            to_start: Vec::new(),
            stash: VecDeque::new(),
            pager_dying: false,
            silent: false,
        }
    }

    /// Starts everything and supervises it until all programs have ended.
    pub fn run(mut self) -> ! {
        if self.manifest.pager.is_some() {
            servers::start(self.numbers);
            let (numbers, memory) = (self.numbers, &mut self.memory);
            self.pagers = Some(Pagers::start(&self.manifest, &self.modules, numbers, memory));
        }
        self.to_start = (0..self.manifest.program.len()).collect();
        let mut reply: Option<(ThreadId, MsgTag)> = None;
        loop {
            if reply.is_none() {
                self.hear_reports();
                if self.pagers_ready() {
                    core::mem::take(&mut self.to_start).into_iter().for_each(|i| self.start(i));
                }
                if self.all_ended() {
                    self.finish();
                }
            }
            let (to, tag) = reply.take().unwrap_or((ThreadId::NIL, MsgTag::NIL));
            let Some(message) = self.next_message(to, tag) else { continue };
            self.silent = false;
            let answer = self.handle(&message).filter(|_| !self.silent);
            reply = answer.map(|tag| (message.from, tag));
        }
    }

    /// All programs but the daemons.
    fn all_ended(&self) -> bool {
        let mut programs = self.running.iter().zip(&self.manifest.program);
        let ended = programs.all(|(r, p)| p.daemon || matches!(r.state, State::Ended));
        ended && self.to_start.is_empty()
    }

    /// Answers, and gives the next message: one that had to wait, or one that comes soon.
    fn next_message(&mut self, to: ThreadId, tag: MsgTag) -> Option<Received> {
        ipc::accept(Acceptor::NONE);
        if let Some(stashed) = self.stash.pop_front() {
            if !to.is_nil() {
                // Whoever does not wait for its answer loses it.
                let _ = ipc::send(to, Time::ZERO, tag);
            }
            return Some(stashed.take_out());
        }
        let timeouts = Timeouts::new(Time::ZERO, LOOK_AROUND);
        ipc::ipc(to, ThreadId::ANY, timeouts, tag).ok()
    }

    fn pagers_ready(&self) -> bool {
        let ready = self.pagers.as_ref().is_none_or(|pagers| pagers.list.iter().all(|p| p.ready));
        ready && !self.pager_dying
    }

    fn handle(&mut self, message: &Received) -> Option<MsgTag> {
        if SupervisorClient::owns(message.tag.label()) {
            return match SupervisorClient::dispatch(self, message) {
                Answer::Reply(tag) => Some(tag),
                Answer::ReplyTo(..) | Answer::Nothing => None,
            };
        }
        match Fault::of(message) {
            Some(Fault::Page(fault)) => return self.page_fault(message.from, &fault),
            Some(Fault::Io(fault)) => return self.io_fault(message.from, &fault),
            None => {}
        }
        if message.tag.label() == EXCEPTION_TAG.label() {
            let (vector, ip) = (message.mr(exception_mr::VECTOR), message.mr(exception_mr::RIP));
            self.died(message.from, End::Exception { vector, ip });
        }
        None
    }

    fn page_fault(&mut self, from: ThreadId, fault: &PageFault) -> Option<MsgTag> {
        let memory = &mut self.memory;
        let pages = if let Some(pager) = self.numbers.pager_of(from, 64)
            && let Some(pager) = self.pagers.as_mut().and_then(|p| p.list.get_mut(pager.index()))
        {
            if pager.ready {
                pager.faults.1 += 1
            } else {
                pager.faults.0 += 1
            }
            Some(&mut pager.pages)
        } else {
            self.running.iter_mut().find_map(|r| match &mut r.state {
                State::Plain { threads, pages } if threads.contains(&from) => Some(pages),
                _ => None,
            })
        };
        let fpage = pages.and_then(|pages| pages.serve(memory, fault));
        if let Some(region) = fpage.and_then(l4abi::Fpage::memory_region) {
            let rights = fpage.map_or(l4abi::Rights::empty(), l4abi::Fpage::rights);
            return Some(pager::map_reply(fault, region.base(), region.size_log2(), rights));
        }
        self.died(from, End::Fault { addr: fault.addr, ip: fault.ip });
        None
    }

    fn io_fault(&mut self, from: ThreadId, fault: &IoFault) -> Option<MsgTag> {
        if let FpageKind::Io(region) = fault.ports.kind() {
            let (first, last) = (region.base(), region.last());
            let allowed = PORTS.iter().any(|p| p.contains(&first) && p.contains(&last));
            if allowed && sigma0::io_ports(first as u16, region.size_log2()).is_ok() {
                return Some(pager::io_reply(fault));
            }
        }
        self.died(from, End::Fault { addr: fault.ports.raw(), ip: fault.ip });
        None
    }

    /// The program that a thread belongs to.
    pub fn program_of(&self, from: ThreadId) -> Option<usize> {
        self.running.iter().position(|r| match &r.state {
            State::Plain { threads, .. } => threads.contains(&from),
            State::Task { task, .. } => servers::with_policy(|policy| {
                policy.threads_of(TaskNo(task.0)).any(|thread| thread == from)
            }),
            State::Ended => false,
        })
    }

    fn hear_reports(&mut self) {
        while let Some((thread, addr)) = servers::take_report() {
            // A thread of a task that was ending reports late: nothing is left to end.
            if self.program_of(thread).is_some() {
                self.died(thread, End::Fault { addr, ip: 0 });
            }
        }
    }

    fn died(&mut self, from: ThreadId, how: End) {
        self.silent = true;
        if let Some(node) = self.numbers.pager_of(from, 64) {
            return self.pager_died(node, from, how);
        }
        match self.program_of(from) {
            Some(index) => self.end(index, how),
            None => println!("root: thread {from}: {how}; it belongs to no program"),
        }
    }

    /// Takes a program down, reports, and starts it again where the manifest says so.
    pub fn end(&mut self, index: usize, how: End) {
        let state = core::mem::replace(&mut self.running[index].state, State::Ended);
        match state {
            State::Plain { threads, mut pages } => {
                for thread in threads {
                    if let Err(error) = thread::delete(thread) {
                        println!("root: {thread} cannot be deleted: {error}");
                    }
                }
                pages.release(&mut self.memory);
            }
            State::Task { task, node } => {
                if self.manifest.program[index].balancer {
                    self.designate(task, false);
                }
                let request = ClientRequest { task: Some(task), call: ClientCall::EndTask };
                let lane = self.numbers.lane(node, 0);
                let ended: Result<Reply, TaskError> = self.ask_pager(lane, &request);
                let done = matches!(ended, Ok(Reply::Done | Reply::Pages { .. }));
                if !done && !self.pager_dying {
                    println!("root: task {:#x} does not end: {ended:?}", task.0);
                    self.running[index].failed = true;
                }
            }
            State::Ended => {}
        }
        self.report_end(index, how);
    }

    /// Says how a program ended and starts it again where the manifest says so.
    pub fn report_end(&mut self, index: usize, how: End) {
        let program = &self.manifest.program[index];
        let running = &mut self.running[index];
        let well = matches!(how, End::Exit(0) | End::Stopped);
        println!("root: program '{}': {how}", program.name);
        libl4::console::record(|out| {
            let mut line = Line::begin(out, "program");
            line.str("name", &program.name).display("end", how).flag("ok", well);
            line.end()
        });
        let again = program.restart == Restart::Always && !well && how != End::NotStarted;
        if again && running.restarts < MAX_RESTARTS {
            running.restarts += 1;
            return self.to_start.push(index);
        }
        running.failed |= well == program.dies;
    }

    fn start(&mut self, index: usize) {
        if self.running.len() <= index {
            self.running.push(Running { state: State::Ended, restarts: 0, failed: false });
        }
        let program = self.manifest.program[index].clone();
        let state = match self.pagers.is_some() {
            true => self.start_task(&program),
            false => self.start_plain(index, &program),
        };
        match state {
            Ok(state) => self.running[index].state = state,
            // It is started when the pagers are back.
            Err(_) if self.pager_dying => self.to_start.push(index),
            Err(problem) => {
                println!("root: program '{}': {problem}", program.name);
                self.report_end(index, End::NotStarted);
            }
        }
    }

    /// All programs have ended: the last checks, and out.
    fn finish(&mut self) -> ! {
        for index in 0..self.running.len() {
            if !matches!(self.running[index].state, State::Ended) {
                self.end(index, End::Stopped);
            }
        }
        let mut failed = self.running.iter().any(|r| r.failed);
        let mut check = |name: &str, ok: bool, detail: fmt::Arguments<'_>| {
            libl4::console::record(|out| Test { name, ok, detail }.write(out));
            failed |= !ok;
        };
        if let Some(pagers) = &self.pagers {
            for p in &pagers.list {
                let (before, after) = p.faults;
                let text = format_args!("node {}: {before} at start, {after} after", p.node.0);
                check("os_pagers_never_fault", after == 0 && before > 0, text);
                let used = frames_left(self.numbers.lane(p.node, 0));
                let text = format_args!("node {}: frames in use: {used:?}", p.node.0);
                check("os_frames_return", used == Ok(0), text);
            }
        }
        let kept = self.pagers.as_ref().map_or(0, |pagers| pagers.pages_in_use() + 1);
        let used = self.memory.used();
        let text = format_args!("{used} pages of the root task in use, {kept} by its pagers");
        check("os_pages_return", used == kept, text);
        println!("root: all programs have ended");
        exit::exit(if failed { Outcome::Failed } else { Outcome::Success })
    }
}

/// Frames that a pager has handed out, when nothing is being done any more: a lane may still be giving up
/// the fault of a thread that is gone, with a frame taken along (`app_pager/src/fault.rs`).
fn frames_left(lane: ThreadId) -> Result<u64, TaskError> {
    let mut used = Ok(0);
    for _ in 0..100 {
        used = counts_of(lane, None).map(|counts| counts.frames_used);
        if used == Ok(0) {
            break;
        }
        libl4::time::sleep_us(20_000);
    }
    used
}

impl Supervisor for System {
    fn exit(&mut self, from: ThreadId, code: u64) -> Result<(), Failure> {
        self.died(from, End::Exit(code));
        Ok(())
    }

    fn panicked(&mut self, from: ThreadId) -> Result<(), Failure> {
        self.died(from, End::Panic);
        Ok(())
    }

    fn mapping(&mut self, from: ThreadId, index: u64) -> Result<Mapping, Failure> {
        let is_pager = self.numbers.pager_of(from, 64).is_some();
        let all = self.pagers.as_ref().filter(|_| is_pager).map(|p| &p.mappings);
        all.and_then(|all| all.get(index as usize)).copied().ok_or(Failure(0))
    }

    fn create_thread(
        &mut self,
        from: ThreadId,
        ip: u64,
        sp: u64,
        cpu: CpuId,
    ) -> Result<ThreadId, Failure> {
        self.add_thread(from, ip, sp, cpu).ok_or(Failure(0))
    }

    fn delete_thread(&mut self, from: ThreadId, thread: ThreadId) -> Result<(), Failure> {
        self.drop_thread(from, thread).ok_or(Failure(0))
    }

    fn ready(&mut self, from: ThreadId) -> Result<(), Failure> {
        let node = self.numbers.pager_of(from, 64).ok_or(Failure(0))?;
        let pager = self.pagers.as_mut().and_then(|p| p.list.get_mut(node.index()));
        pager.ok_or(Failure(0))?.ready = true;
        Ok(())
    }
}
