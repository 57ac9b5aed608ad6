//! Transfers whose partners are on different CPUs for a while: the rules of `kcore::cross::transfer` for the threads of
//! this CPU.

use kcore::cross::transfer::{self, Cpu, Go};
pub use kcore::cross::transfer::{Ending, View};
use kcore::ipc::{Key, State};
use l4abi::error::IpcCode;
use l4abi::tag::{MsgTag, TagFlags};

use crate::cross::errand::Errand;
use crate::cross::{Reached, depart, reach, wait_a_moment};
use crate::ipc::result::{self, Phase};
use crate::ipc::{cancel, kernel_msg};
use crate::sched::percpu::PerCpu;
use crate::sched::work::{self, Work};
use crate::sched::{self, Next};
use crate::thread::{
    self,
    tcb::{TcbRef, reg},
};

/// How one partner's part of a transfer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// What the partner gets.
    pub code: IpcCode,
    /// The phase in which it fails.
    pub phase: Phase,
    /// Bytes that were moved.
    pub offset: u64,
}

/// This CPU, as the rules see it.
struct Here<'a>(&'a PerCpu);

impl From<Go<TcbRef, End>> for Errand {
    fn from(go: Go<TcbRef, End>) -> Self {
        match go {
            Go::Resume(state) => Self::Resume { state },
            Go::Fetch => Self::Fetch,
            Go::End(partner, end) => Self::End { partner, end },
            Go::Home => Self::Home,
        }
    }
}

impl Cpu for Here<'_> {
    type Thread = TcbRef;
    type End = End;

    fn look(&self, t: TcbRef) -> View<TcbRef> {
        let t = thread::at_present(t);
        let key = t.key();
        let outer = t.outer.get();
        let nested = key.has(Key::KERNEL_IPC) && outer.state != State::Ready;
        View {
            state: key.state(),
            here: key.cpu() == self.0.number(),
            at_home: key.lives_on(self.0.number()),
            kernel_ipc: key.has(Key::KERNEL_IPC),
            outer: nested.then_some((outer.state, outer.partner)),
            seeks: matches!(t.travel.errand.get(), Errand::Resume { .. } | Errand::Fetch),
            partner: t.partner.get(),
        }
    }

    fn set_state(&mut self, t: TcbRef, state: State) {
        t.set_state(state);
    }

    fn reach(&mut self, me: TcbRef, other: TcbRef, go: Go<TcbRef, End>) -> bool {
        reach(self.0, me, other, go.into()) != Reached::NotYet
    }

    fn send_home(&mut self, t: TcbRef, whose: TcbRef, go: Go<TcbRef, End>) {
        depart(self.0, t, whose.travel.home(), go.into());
    }

    fn wait(&mut self, t: TcbRef, go: Go<TcbRef, End>) {
        wait_a_moment(self.0, t, go.into());
    }

    fn interrupt(&mut self, t: TcbRef) {
        crate::cross::interrupt_errand(self.0, t);
    }

    fn go_on(&mut self, dest: TcbRef) {
        work::set(dest, Work::Transfer);
        sched::enqueue(self.0, dest);
    }

    fn enqueue(&mut self, t: TcbRef) {
        sched::enqueue(self.0, t);
    }

    fn settle(&mut self, t: TcbRef) {
        if t.travel.home() == self.0.number() {
            // It is at home now without having travelled: its page comes to it.
            t.clear_flag(Key::VISITING);
            crate::cross::settle_in(self.0, t);
        }
    }

    fn visit(&mut self, t: TcbRef) {
        t.set_flag(Key::VISITING);
    }

    fn finish(&mut self, t: TcbRef, partner: TcbRef, end: End) {
        let sender = if end.phase == Phase::Send { t } else { partner };
        let tag = MsgTag::from_raw(sender.reg(reg::R9)).with_flags(TagFlags::ERROR);
        if end.phase == Phase::Receive {
            t.transfer.copy.reset();
        }
        finish(self.0, t, tag, end);
    }
}

/// The partner of `t` in a transfer, if it is in one and the partner is elsewhere.
pub fn partner_elsewhere(cpu: &PerCpu, t: TcbRef) -> Option<TcbRef> {
    transfer::partner_elsewhere(&Here(cpu), t)
}

/// What an abort of these phases of `t` ends.
pub fn abort(cpu: &PerCpu, t: TcbRef, receive: bool, send: bool) -> Ending<TcbRef> {
    transfer::abort(&mut Here(cpu), t, receive, send)
}

/// `t` has another home; before, it was at home here unless it `visited`.
pub fn moved(cpu: &PerCpu, t: TcbRef, visited: bool) {
    transfer::moved(&mut Here(cpu), t, visited);
}

/// `t` has its page and is back in its transfer.
pub fn resume(cpu: &PerCpu, t: TcbRef) -> Next {
    transfer::resume(&mut Here(cpu), t);
    Next::Schedule
}

/// Receiving `t` has come for its sender.
pub fn fetch(cpu: &PerCpu, t: TcbRef) -> Next {
    transfer::fetch(&mut Here(cpu), t);
    Next::Schedule
}

/// Ends the transfer from `sender` to `dest`, of which at least one is on this CPU, with an error for each.
pub fn end(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, codes: (IpcCode, IpcCode)) {
    let offset = dest.transfer.copy.bytes.get();
    let to_sender = End { code: codes.0, phase: Phase::Send, offset };
    let to_dest = End { code: codes.1, phase: Phase::Receive, offset };
    transfer::end(&mut Here(cpu), sender, dest, (to_sender, to_dest));
}

/// One partner's end of a transfer.
fn finish(cpu: &PerCpu, t: TcbRef, tag: MsgTag, end: End) {
    if t.state() == State::Remote {
        crate::cross::interrupt_errand(cpu, t);
    }
    work::clear(t);
    if t.key().has(Key::KERNEL_IPC) && t.outer.get().state != State::Ready {
        cancel::drop_kernel_ipc(cpu, t);
    }
    sched::clear_wakeup(cpu, t);
    t.partner.set(None);
    if t.key().has(Key::KERNEL_IPC) {
        let _ = kernel_msg::failed(cpu, t);
        return;
    }
    result::error(t, tag, end.phase, end.code, end.offset);
    t.set_state(State::Ready);
}

/// `me` has left its transfer with `partner` and tells it so.
pub fn end_partner(cpu: &PerCpu, me: TcbRef, partner: TcbRef, end: End) -> Next {
    transfer::end_partner(&mut Here(cpu), me, partner, end);
    Next::Schedule
}
