//! Asking pagers, and what happens when one of them dies.
//!
//! The root task's first thread hears of deaths, so it must not wait for a dead pager: while it waits
//! for an answer it receives everything, keeps what is not the answer for later, and gives up when the
//! thread asked, or any other of a pager, has died.

use crate::servers;
use crate::supervise::{End, State, System};
use app_pager::client::{TaskError, put};
use app_pager::wire::Message;
use l4abi::proto::EXCEPTION_TAG;
use l4abi::record::{Line, Test};
use l4abi::tag::NUM_MRS;
use l4abi::{Acceptor, MsgTag, NodeId, Phase, ThreadId, Time, Timeouts};
use libl4::ipc::{self, Received};
use libl4::pager::Fault;
use libl4::program::SupervisorClient;
use libl4::{arch, println};
use roottask::manifest::Restart;

/// How long a pager may take for an answer, in slices of [`SLICE`].
const PATIENCE: u32 = 120;
const SLICE: Time = Time::period_us(500_000);
/// How often pagers are started again.
const MAX_PAGER_RESTARTS: u32 = 4;

/// A message for later.
#[derive(Debug)]
pub struct Stashed {
    message: Received,
    registers: [u64; NUM_MRS],
}

impl Stashed {
    /// Keeps the message that the running thread has just received.
    fn keep(message: Received) -> Self {
        Self { message, registers: core::array::from_fn(|i| message.mr(i)) }
    }

    /// Puts the message back where it was received.
    pub fn take_out(self) -> Received {
        let utcb = arch::utcb();
        self.registers.iter().enumerate().for_each(|(i, &word)| utcb.store_mr(i, word));
        self.message
    }
}

impl System {
    /// Asks a thread of a pager.
    ///
    /// # Errors
    /// It takes no message, has died meanwhile, or says nothing for too long.
    pub fn ask_pager<R: Message>(
        &mut self,
        lane: ThreadId,
        question: &impl Message,
    ) -> Result<R, TaskError> {
        let tag = put(question)?;
        ipc::accept(Acceptor::NONE);
        let timeouts = Timeouts::new(SLICE, SLICE);
        let mut received = ipc::ipc(lane, ThreadId::ANY, timeouts, tag);
        let mut unsent = None;
        for _ in 0..PATIENCE {
            let message = match received {
                Ok(message) => message,
                Err(error) => {
                    // It does not receive. If it has died, its last message is waiting.
                    if error.phase == Phase::Send {
                        unsent = Some(error);
                    } else if let Some(error) = unsent {
                        return Err(TaskError::Ipc(error));
                    }
                    received = ipc::ipc(ThreadId::NIL, ThreadId::ANY, timeouts, MsgTag::NIL);
                    continue;
                }
            };
            if message.from == lane && message.tag.label() == R::LABEL {
                let mut words = [0; l4abi::tag::MAX_WORDS];
                let count = app_pager::client::received_words(&message, &mut words);
                return R::decode(message.tag, &words[..count]).ok_or(TaskError::BadReply);
            }
            let dead = self.numbers.pager_of(message.from, 64).is_some() && is_last(&message);
            self.stash.push_back(Stashed::keep(message));
            if dead {
                self.pager_dying = true;
                break;
            }
            received = ipc::ipc(ThreadId::NIL, ThreadId::ANY, timeouts, MsgTag::NIL);
        }
        Err(TaskError::BadReply)
    }

    /// A thread of a pager has died. Everything that pagers keep is lost with it (`Pagers::take_down`):
    /// all tasks end, and what the manifest says is started again.
    pub fn pager_died(&mut self, node: NodeId, thread: ThreadId, how: End) {
        let Some(mut pagers) = self.pagers.take() else { return };
        if pagers.list.is_empty() {
            // The rest of an earlier death.
            self.pagers = Some(pagers);
            return;
        }
        println!("root: the pager of node {}, thread {thread}: {how}", node.0);
        libl4::console::record(|out| {
            let mut line = Line::begin(out, "program");
            line.str("name", "app_pager").num("node", u64::from(node.0));
            line.display("end", how).flag("ok", false);
            line.end()
        });
        let threads = pagers.take_down(&mut self.memory);
        // What pagers and tasks have said is of no use any more, and their ids will be others'.
        self.stash.clear();
        servers::forget_reports();
        self.pager_dying = false;
        let used = self.memory.used();
        let text = format_args!("{threads} threads deleted, {used} pages of the root task in use");
        // The page for start pages stays.
        libl4::console::record(|out| {
            Test { name: "os_pager_taken_down", ok: used == 1, detail: text }.write(out)
        });
        let again =
            self.manifest.pager_restart == Restart::Always && pagers.restarts < MAX_PAGER_RESTARTS;
        if again {
            pagers.start_again(&self.manifest, &self.modules, &mut self.memory);
            println!("root: pagers started again");
        }
        self.pagers = Some(pagers);
        for index in 0..self.running.len() {
            if matches!(self.running[index].state, State::Task { .. }) {
                self.running[index].state = State::Ended;
                self.report_end(index, End::PagerDied);
            }
        }
        if !again {
            for index in core::mem::take(&mut self.to_start) {
                println!("root: program '{}': no pager", self.manifest.program[index].name);
                if let Some(running) = self.running.get_mut(index) {
                    running.failed = true;
                }
            }
        }
    }
}

/// Whether this is the last message of a thread of a pager: an exception, a panic, or a fault.
fn is_last(message: &Received) -> bool {
    let label = message.tag.label();
    label == EXCEPTION_TAG.label() || SupervisorClient::owns(label) || Fault::of(message).is_some()
}
