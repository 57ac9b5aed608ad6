//! Starting programs: as tasks, through the pager of their CPU, or as plain programs whose faults the
//! root task serves itself.

use crate::plain::{self, Pages};
use crate::supervise::{State, System};
use alloc::string::String;
use alloc::vec::Vec;
use app_pager::control::{Designate, Spawn, Spawned};
use app_pager::ids::TaskId;
use app_pager::layout::{HEAP, PLAIN_THREADS};
use app_pager::message::Reply;
use l4abi::{CpuId, NodeId, ThreadId};
use libl4::program::StartPage;
use libl4::{arch, pager, println, sys, thread, topology};
use roottask::manifest::{Master, Program};

/// The CPU that the manifest names for a program.
fn cpu_of(program: &Program) -> CpuId {
    let node = program.node.map(NodeId);
    let on_node = node.and_then(|node| topology::cpus_of(node).next());
    program.cpu.map(CpuId).or(on_node).unwrap_or(CpuId(0))
}

/// Runs `body` with a program's start page.
fn with_start_page<R>(program: &Program, body: impl FnOnce(&StartPage<'_>) -> R) -> R {
    let mut args: Vec<&str> = alloc::vec![program.name.as_str()];
    args.extend(program.args.iter().map(String::as_str));
    let supervisor = thread::my_global_id();
    body(&StartPage { supervisor, heap: HEAP, params: &[], args: &args })
}

impl System {
    /// Starts a program as a task.
    pub fn start_task(&mut self, program: &Program) -> Result<State, &'static str> {
        let module = self.modules.find(&program.module).ok_or("its module is missing")?;
        let pagers = self.pagers.as_ref().ok_or("there is no pager")?;
        let (node, lane) = pagers.lane_of(cpu_of(program));
        let page = with_start_page(program, |start| start.bytes());
        arch::write_memory(pagers.transfer, &page.ok_or("its arguments are too long")?);
        let nodes = pagers.list.len().max(1);
        let master = match self.manifest.master {
            Master::Creator => node,
            Master::RoundRobin => NodeId((self.next_task as usize % nodes) as u8),
        };
        let task = TaskId::new(master, self.next_task);
        let spawn =
            Spawn { task, module: module.base, size: module.size, start_page: pagers.transfer };
        self.next_task += 1;
        let spawned: Result<Spawned, _> = self.ask_pager(self.numbers.lane(node, lane), &spawn);
        match spawned {
            Ok(Spawned { thread }) if !thread.is_nil() => {
                if program.balancer {
                    self.designate(task, true);
                }
                Ok(State::Task { task, node })
            }
            _ => Err("its pager cannot start it"),
        }
    }

    /// Tells all pagers that the threads of a task are load balancers, or are no more.
    pub fn designate(&mut self, task: TaskId, balances: bool) {
        let nodes = self.pagers.as_ref().map_or(0, |pagers| pagers.list.len());
        for node in (0..nodes as u8).map(NodeId) {
            let lane = self.numbers.lane(node, 0);
            let told: Result<Reply, _> = self.ask_pager(lane, &Designate { task, balances });
            if told != Ok(Reply::Done) {
                println!("root: the pager of node {} on balancers: {told:?}", node.0);
            }
        }
    }

    /// Starts a program whose faults the root task serves.
    pub fn start_plain(&mut self, index: usize, program: &Program) -> Result<State, &'static str> {
        let module = self.modules.find(&program.module).ok_or("its module is missing")?;
        let (cpu, root) = (cpu_of(program), thread::my_global_id());
        let (node, memory) = (topology::node_of(cpu), &mut self.memory);
        let load = |start: &StartPage<'_>| Pages::load(memory, node, module.bytes(), start);
        let mut pages = with_start_page(program, load)?;
        let id = self.numbers.plain(index as u32, 0);
        let made = plain::make_space(id, root).map_err(|_| "the kernel makes no space");
        let started = made.and_then(|()| {
            place(id, cpu).ok_or("it cannot be put on its CPU")?;
            pager::start_message(id, pages.entry, 0).map_err(|_| "it takes no start message")
        });
        if let Err(problem) = started {
            let _ = thread::delete(id);
            pages.release(&mut self.memory);
            return Err(problem);
        }
        Ok(State::Plain { threads: alloc::vec![id], pages })
    }

    /// Makes a thread of the plain program that `from` belongs to. `None` if there is no such program,
    /// number or CPU.
    pub fn add_thread(&mut self, from: ThreadId, ip: u64, sp: u64, cpu: CpuId) -> Option<ThreadId> {
        let (index, root) = (self.program_of(from)?, thread::my_global_id());
        let numbers = self.numbers;
        let State::Plain { threads, .. } = &mut self.running[index].state else { return None };
        let free = (1..PLAIN_THREADS)
            .find(|&i| !threads.contains(&numbers.plain(index as u32, i)))
            .filter(|_| cpu.index() < topology::cpu_count())?;
        let id = numbers.plain(index as u32, free);
        plain::add_thread(id, threads[0], u64::from(free), root).ok()?;
        let started = place(id, cpu).and_then(|()| pager::start_message(id, ip, sp).ok());
        if started.is_none() {
            let _ = thread::delete(id);
            return None;
        }
        threads.push(id);
        Some(id)
    }

    /// Deletes a thread of the plain program that `from` belongs to, but not its first one.
    pub fn drop_thread(&mut self, from: ThreadId, thread: ThreadId) -> Option<()> {
        let index = self.program_of(from)?;
        let State::Plain { threads, .. } = &mut self.running[index].state else { return None };
        let at = threads.iter().skip(1).position(|&id| id == thread)?;
        thread::delete(thread).ok()?;
        threads.remove(at + 1);
        Some(())
    }
}

/// Moves a thread to a CPU.
fn place(id: ThreadId, cpu: CpuId) -> Option<()> {
    let place = sys::Schedule { processor: Some(cpu), ..sys::Schedule::default() };
    sys::schedule(id, place).ok().map(|_| ())
}
