//! What happens in a transition.

use crate::world::{Client, Do, Ipc, Move, Note, Stage, World};
use app_pager::event::{Action, Event, KernelCall, KernelRefused};
use app_pager::ids::{Caller, LaneId, PageNo, PageRange, TaskId, Who};
use app_pager::message::{ClientCall, Confirm, Reply};
use app_pager::quick::Fault;
use app_pager::store::Slot;
use l4abi::{CpuId, NodeId, Rights, ThreadId};

impl World {
    pub fn fail(&mut self, error: &'static str) {
        self.error.get_or_insert(error);
    }

    pub fn perform(&mut self, m: Move) {
        match m {
            Move::Step(node, who) => {
                let action = self.todo.get_mut(&(node, who)).and_then(|q| q.pop_front());
                self.act(node, who, action.expect("the move was possible"));
                self.settle(node, who);
            }
            Move::Take(to, k) => {
                let notes = self.inbox.get_mut(&to).expect("the move was possible");
                let note = notes.remove(k);
                let (mut count, mut status) = (1, Rights::empty());
                if let Note::Bits(first) = note {
                    status = first;
                    notes.retain(|n| match n {
                        Note::Bits(bits) => {
                            (count, status) = (count + 1, status | *bits);
                            false
                        }
                        _ => true,
                    });
                }
                if notes.is_empty() {
                    self.inbox.remove(&to);
                }
                let event = match note {
                    Note::Confirmed(from, confirm) => {
                        Event::Confirmed { lane: to.lane, from, confirm }
                    }
                    Note::Bits(_) => Event::Gathered { lane: to.lane, count, status },
                    Note::Woken => Event::Woken(to.lane),
                };
                self.feed(to.node, Who::Lane(to.lane), event);
            }
            Move::Client(i) => self.client_goes_on(i),
            Move::Serve(i) => self.serve(i),
        }
        self.check();
    }

    /// A thread of a pager steps the machine; the actions are its to do.
    fn feed(&mut self, node: NodeId, who: Who, event: Event) {
        let mut out = Vec::new();
        self.pager(node).handle(event, &mut out);
        self.enqueue(node, who, out);
        self.settle(node, who);
    }

    fn enqueue(&mut self, node: NodeId, who: Who, mut actions: Vec<Action>) {
        if self.ipc == Ipc::BlockingRotated {
            let nodes = self.pagers.len() as u8;
            actions.sort_by_key(|action| match action {
                Action::Send { to, .. } => (to.0 + nodes - node.0) % nodes,
                _ => nodes,
            });
        }
        self.todo.entry((node, who)).or_default().extend(actions);
    }

    /// Performs at once what cannot block and whose order against others does not matter.
    fn settle(&mut self, node: NodeId, who: Who) {
        loop {
            let Some(queue) = self.todo.get_mut(&(node, who)) else { return };
            let at_once = match queue.front() {
                Some(Action::Reply { .. } | Action::Wake { .. }) => true,
                Some(Action::Confirm { .. }) => self.ipc.is_free(),
                None => {
                    self.todo.remove(&(node, who));
                    return;
                }
                _ => false,
            };
            if !at_once {
                return;
            }
            if let Some(action) = queue.pop_front() {
                self.act(node, who, action);
            }
        }
    }

    fn act(&mut self, node: NodeId, me: Who, action: Action) {
        match action {
            Action::Lock { who, task, at } => self.locked(node, me, who, task, at),
            Action::Place { .. } => self.fail("a directory placed without its lock"),
            Action::Send { lane, to, request } => {
                let event = Event::Request { from: Caller { node, lane }, request };
                self.feed(to, Who::Worker, event);
            }
            Action::Confirm { to, confirm } if self.ipc.is_free() => {
                let note = match confirm {
                    Confirm::Revoked(bits) if self.ipc == Ipc::Joined => Note::Bits(bits),
                    confirm => Note::Confirmed(node, confirm),
                };
                self.inbox.entry(to).or_default().push(note);
                self.inbox.get_mut(&to).expect("just made").sort_by_key(|n| format!("{n:?}"));
            }
            Action::Confirm { to, confirm } => {
                let event = Event::Confirmed { lane: to.lane, from: node, confirm };
                self.feed(to.node, Who::Lane(to.lane), event);
            }
            Action::Wake { to } => self.inbox.entry(to).or_default().push(Note::Woken),
            Action::Map { lane, thread, page, frame, rights } => {
                self.map(Caller { node, lane }, thread, page, frame, rights);
                self.feed(node, me, Event::Mapped(lane));
            }
            Action::Unmap { who, frames } => {
                let gone = |s, &f| s | self.hw.unmap(f, Some(node));
                let status = frames.iter().fold(Rights::empty(), gone);
                self.feed(node, me, Event::Unmapped(who, status));
            }
            Action::RootUnmap { lane, frames } => {
                let status =
                    frames.iter().fold(Rights::empty(), |s, &f| s | self.hw.unmap(f, None));
                self.feed(node, me, Event::RootUnmapped(lane, status));
            }
            Action::Clear { who, frames } => {
                for &frame in &frames {
                    self.hw.memory.insert(frame, 0);
                }
                self.feed(node, me, Event::Cleared(who, frames));
            }
            Action::Fill { who, frame, from } => {
                let value = from.map_or(0, |f| self.hw.memory.get(&f).copied().unwrap_or(0));
                self.hw.memory.insert(frame, value);
                self.feed(node, me, Event::Filled(who));
            }
            Action::Kernel { who, call } => {
                let result = self.kernel(node, call);
                self.feed(node, me, Event::KernelDone(who, result));
            }
            Action::Reply { lane, thread, reply } => {
                self.reply(Caller { node, lane }, thread, reply);
            }
        }
    }

    fn locked(&mut self, node: NodeId, me: Who, who: Who, task: TaskId, at: NodeId) {
        let before = self.pages_with_frames(task);
        let mut slot = self.slots.remove(&(at, task)).unwrap_or_default();
        let mut out = Vec::new();
        self.pager(node).with_directory(who, &mut slot, &mut out);
        if slot != Slot::Empty {
            self.slots.insert((at, task), slot);
        }
        let mut rest = Vec::new();
        for action in out {
            if let Action::Place { at, directory } = action {
                self.slots.insert((at, task), Slot::Here(directory));
            } else {
                rest.push(action);
            }
        }
        self.enqueue(node, me, rest);
        // A page that lost its frames was discarded: it reads as zero from now on.
        let after = self.pages_with_frames(task);
        for page in before.into_iter().filter(|p| !after.contains(p)) {
            self.flat.remove(&(task, page, None));
            self.written.remove(&(task, page));
        }
    }

    fn pages_with_frames(&self, task: TaskId) -> Vec<PageNo> {
        let Some(directory) = self.directory(task) else { return Vec::new() };
        let with = directory.entries.iter().filter(|(_, e)| e.state.is_some());
        with.map(|(page, _)| page).collect()
    }

    fn map(
        &mut self,
        by: Caller,
        thread: ThreadId,
        page: PageNo,
        frame: app_pager::ids::Frame,
        rights: Rights,
    ) {
        let Some(&(space, _)) = self.hw.threads.get(&thread) else { return };
        let client = self.clients.iter_mut().find(|c| c.thread == thread).expect("no dummy faults");
        if client.stage != Stage::Served(by) {
            return self.fail("a mapping for a thread that does not wait for it");
        }
        client.stage = Stage::Ready;
        if let Err(error) = self.hw.map(space, page, frame, rights, by.node) {
            self.fail(error);
        }
    }

    fn reply(&mut self, by: Caller, thread: ThreadId, reply: Reply) {
        let Some(i) = self.clients.iter().position(|c| c.thread == thread) else { return };
        let client = &mut self.clients[i];
        if client.stage != Stage::Served(by) {
            return;
        }
        client.stage = Stage::Ready;
        if reply == Reply::Again {
            return;
        }
        let (task, op) = (client.task, client.script[client.pc]);
        let done = match (reply, op) {
            (Reply::Part { status, next, .. }, Do::Call(call)) => {
                // The rest is another call.
                let range = call.range().expect("only ranges have parts");
                let rest = PageRange { first: next, ..range };
                if next <= range.first || next >= range.end {
                    self.fail("a part that is none");
                }
                let client = &mut self.clients[i];
                client.script[client.pc] = Do::Call(call.with_range(rest));
                Some((status, PageRange { end: next, ..range }, call))
            }
            (Reply::Pages { status, .. }, Do::Call(call)) => {
                call.range().map(|range| (status, range, call))
            }
            _ => None,
        };
        if !matches!(reply, Reply::Part { .. }) {
            let client = &mut self.clients[i];
            client.results.push(reply);
            client.pc += 1;
        }
        if let Some((status, range, ClientCall::Unmap(_))) = done
            && status.contains(Rights::W)
        {
            self.written.retain(|&(t, p), _| t != task || !range.contains(p));
        }
    }

    fn kernel(&mut self, node: NodeId, call: KernelCall) -> Result<(), KernelRefused> {
        if let Err(error) = self.hw.kernel(call, node) {
            self.fail(error);
            return Err(KernelRefused);
        }
        match call {
            KernelCall::CreateThread { task, thread, .. } => {
                let script = self.spawn.pop().unwrap_or_default();
                let (pc, stage, results) = (0, Stage::Ready, Vec::new());
                self.clients.push(Client { thread, task, script, pc, stage, results });
            }
            KernelCall::MoveThread { thread, .. } => self.abort_ipc(thread),
            KernelCall::DeleteThread { thread, .. } => {
                for c in self.clients.iter_mut().filter(|c| c.thread == thread) {
                    c.stage = Stage::Dead;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A moved thread's IPC is aborted: a fault is raised again, a call fails.
    fn abort_ipc(&mut self, thread: ThreadId) {
        for c in self.clients.iter_mut().filter(|c| c.thread == thread) {
            if c.stage != Stage::Ready && c.pc < c.script.len() {
                c.stage = Stage::Ready;
                c.pc += usize::from(!matches!(c.script[c.pc], Do::Read(_) | Do::Write(_)));
            }
        }
    }

    fn client_goes_on(&mut self, i: usize) {
        let c = &self.clients[i];
        let (thread, task, op, value) =
            (c.thread, c.task, c.script[c.pc], (i * 16 + c.pc + 1) as u8);
        let (page, access) = match op {
            Do::Read(p) => (PageNo(p), Rights::R),
            Do::Write(p) => (PageNo(p), Rights::W),
            _ => {
                self.clients[i].stage = Stage::Sent;
                return;
            }
        };
        let (space, node) = self.hw.threads[&thread];
        let Some(m) = self.hw.maps.get_mut(&(space, page)).filter(|m| m.rights.contains(access))
        else {
            self.clients[i].stage = Stage::Sent;
            return;
        };
        m.status |= access | Rights::R;
        let frame = m.frame;
        let local = self.local.is_some_and(|r| r.contains(page));
        let key = (task, page, local.then_some(node));
        if access == Rights::W {
            self.hw.memory.insert(frame, value);
            self.flat.insert(key, value);
            if !local {
                self.written.insert((task, page), true);
            }
        } else if self.hw.memory.get(&frame).copied().unwrap_or(0)
            != self.flat.get(&key).copied().unwrap_or(0)
        {
            self.fail("a read saw another value than was written last");
        }
        self.clients[i].pc += 1;
    }

    fn serve(&mut self, i: usize) {
        let by = self.lane_of(i);
        let client = &mut self.clients[i];
        client.stage = Stage::Served(by);
        let (lane, thread) = (by.lane, client.thread);
        let event = match client.script[client.pc] {
            Do::Read(p) => Event::Fault { lane, thread, page: PageNo(p), access: Rights::R },
            Do::Write(p) => Event::Fault { lane, thread, page: PageNo(p), access: Rights::W },
            Do::Call(call) => Event::Call { lane, thread, task: None, call },
            Do::CallFor(task, call) => Event::Call { lane, thread, task: Some(task), call },
            Do::Go(node) => {
                let call = ClientCall::MigrateThread {
                    thread,
                    node: NodeId(node),
                    cpu: CpuId(u16::from(node)),
                };
                Event::Call { lane, thread, task: None, call }
            }
        };
        if let Event::Fault { thread, page, access, .. } = event {
            let fault = Fault { lane, thread, page, access };
            if let Err(error) = self.compare_quick(by, fault) {
                self.fail(error);
            }
        }
        self.feed(by.node, Who::Lane(LaneId(lane.0)), event);
    }

    /// A fault served in one step is like one served in several without anything in between.
    fn compare_quick(&self, by: Caller, fault: Fault) -> Result<(), &'static str> {
        let pager = &self.pagers[by.node.index()];
        let Some(task) = pager.task_of(fault.thread) else { return Ok(()) };
        let at = pager.master_of(task);
        let slot = self.slots.get(&(at, task)).cloned().unwrap_or_default();
        let (mut quick, mut slot_quick) = (pager.clone(), slot.clone());
        let action = quick.fault_at_once(task, fault, &mut slot_quick);
        if action.is_none() {
            let same = quick == *pager && slot_quick == slot;
            return if same { Ok(()) } else { Err("a fault that is not served left something") };
        }
        let (mut slow, mut slot_slow, mut out) = (pager.clone(), slot, Vec::new());
        let Fault { lane, thread, page, access } = fault;
        slow.handle(Event::Fault { lane, thread, page, access }, &mut out);
        // Where only used frames are left, one is cleared first, to be offered; the quick way needs none
        // for a page that exists.
        let cleared = matches!(out[..], [Action::Fill { .. }]);
        if let [Action::Fill { who, .. }] = out[..] {
            out.clear();
            slow.handle(Event::Filled(who), &mut out);
        }
        if let [Action::Lock { who, .. }] = out[..] {
            out.clear();
            slow.with_directory(who, &mut slot_slow, &mut out);
        }
        if out.last() != action.as_ref() || out.len() != 1 {
            return Err("a fault in one step gets another mapping");
        }
        // The thread has its mapping: the lanes are as before.
        let (mut after, mut after_quick) = (Vec::new(), Vec::new());
        slow.handle(Event::Mapped(lane), &mut after);
        quick.mapped_at_once(lane, &mut after_quick);
        let pagers = cleared && slow.frames_used() == quick.frames_used() || slow.is_like(&quick);
        let same = pagers && after == after_quick && slot_slow == slot_quick;
        if same { Ok(()) } else { Err("a fault in one step leaves something else") }
    }
}
