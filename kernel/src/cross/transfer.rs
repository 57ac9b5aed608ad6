//! Transfers whose partners are on different CPUs for a while.
//!
//! Strings are copied on the receiver's CPU while both partners are there. Only a page fault in the middle
//! parts them: the thread whose page is missing travels to its pager. When that has answered, it comes back
//! ([`resume`]) and the transfer goes on. If the transfer ends meanwhile (timeout, cancel, deletion), the
//! partner at which that happens has its own error at once, and then is the courier that tells the other
//! ([`end_partner`]); it cannot begin another IPC before that, so partners are never confused.

use kcore::ipc::{Key, State};
use l4abi::error::IpcCode;
use l4abi::tag::{MsgTag, TagFlags};

use crate::cross::errand::Errand;
use crate::cross::{depart, reach, wait_a_moment};
use crate::ipc::result::{self, Phase};
use crate::ipc::{cancel, kernel_msg};
use crate::sched::percpu::PerCpu;
use crate::sched::work::{self, Work};
use crate::sched::{self, Next};
use crate::thread::tcb::{TcbRef, reg};

/// Whether `t` is in a transfer with `partner`, a fault in the middle of it included.
pub fn engaged(t: TcbRef, partner: TcbRef) -> bool {
    let parked = |state| matches!(state, State::Sending | State::Receiving);
    if t.key().has(Key::KERNEL_IPC) && t.outer.get().state != State::Ready {
        let outer = t.outer.get();
        return parked(outer.state) && outer.partner == Some(partner);
    }
    let searching = t.state() == State::Remote
        && matches!(t.travel.errand.get(), Errand::Resume { .. } | Errand::Fetch);
    (parked(t.state()) || searching) && t.partner.get() == Some(partner)
}

/// The partner of `t` in a transfer, if it is in one and the partner is elsewhere.
pub fn partner_elsewhere(cpu: &PerCpu, t: TcbRef) -> Option<TcbRef> {
    let nested = t.key().has(Key::KERNEL_IPC) && t.outer.get().state != State::Ready;
    let partner = if nested { t.outer.get().partner } else { t.partner.get() }?;
    (engaged(t, partner) && partner.key().cpu() != cpu.number()).then_some(partner)
}

/// `t` has its page and is back in its transfer.
pub fn resume(cpu: &PerCpu, t: TcbRef) -> Next {
    let Some(partner) = t.partner.get() else { return Next::Schedule };
    let state = t.state();
    if state == State::Receiving {
        if !t.key().lives_on(cpu.number()) {
            t.set_state(State::Remote);
            depart(cpu, t, t.travel.home(), Errand::Resume { state });
        } else if reach(cpu, t, partner, Errand::Fetch) {
            go_on(cpu, t, partner);
        }
    } else if reach(cpu, t, partner, Errand::Resume { state }) && engaged(partner, t) {
        if partner.key().lives_on(cpu.number()) && partner.state() == State::Receiving {
            go_on(cpu, partner, t);
        } else {
            // The receiver is looking for this thread, or on its way home.
            wait_a_moment(cpu, t, Errand::Resume { state });
        }
    }
    Next::Schedule
}

/// Both are on the receiver's CPU. If the sender has left the transfer, it is on its way to say so.
fn go_on(cpu: &PerCpu, dest: TcbRef, sender: TcbRef) {
    if engaged(sender, dest) {
        work::set(dest, Work::Transfer);
        sched::enqueue(cpu, dest);
    }
}

/// Receiving `t` has come for its sender.
pub fn fetch(cpu: &PerCpu, t: TcbRef) -> Next {
    let Some(sender) = t.partner.get() else { return Next::Schedule };
    if t.key().lives_on(cpu.number()) {
        return resume(cpu, t);
    }
    if !reach(cpu, t, sender, Errand::Fetch) {
        return Next::Schedule;
    }
    let home = t.travel.home();
    if engaged(sender, t) && !sender.key().has(Key::KERNEL_IPC) {
        if sender.state() == State::Remote {
            crate::cross::interrupt_errand(cpu, sender);
        }
        depart(cpu, sender, home, Errand::Home);
    }
    t.set_state(State::Remote);
    depart(cpu, t, home, Errand::Resume { state: State::Receiving });
    Next::Schedule
}

/// Ends the transfer from `sender` to `dest`, of which at least one is on this CPU, with an error for each.
pub fn end(cpu: &PerCpu, sender: TcbRef, dest: TcbRef, codes: (IpcCode, IpcCode)) {
    let offset = dest.transfer.copy.bytes.get();
    let here = |t: TcbRef| t.key().cpu() == cpu.number();
    let (sender_here, dest_here) = (here(sender), here(dest));
    let tag = MsgTag::from_raw(sender.reg(reg::R9)).with_flags(TagFlags::ERROR);
    if dest_here {
        dest.transfer.copy.reset();
        finish(cpu, dest, tag, Phase::Receive, codes.1, offset);
    }
    if sender_here {
        finish(cpu, sender, tag, Phase::Send, codes.0, offset);
    }
    let (courier, partner, phase, code) = match (sender_here, dest_here) {
        (true, true) => {
            sched::enqueue(cpu, sender);
            sched::enqueue(cpu, dest);
            return;
        }
        (true, false) => (sender, dest, Phase::Receive, codes.1),
        (false, true) => (dest, sender, Phase::Send, codes.0),
        (false, false) => return,
    };
    let errand = Errand::End { partner, code, phase, offset };
    if reach(cpu, courier, partner, errand) {
        // Not reached: the partner was elsewhere a moment ago and nobody came since.
        sched::enqueue(cpu, courier);
    }
}

/// One partner's end of a transfer.
fn finish(cpu: &PerCpu, t: TcbRef, tag: MsgTag, phase: Phase, code: IpcCode, offset: u64) {
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
    result::error(t, tag, phase, code, offset);
    t.set_state(State::Ready);
}

/// `me` has left its transfer with `partner` and tells it so.
pub fn end_partner(
    cpu: &PerCpu,
    me: TcbRef,
    partner: TcbRef,
    code: IpcCode,
    phase: Phase,
    offset: u64,
) -> Next {
    if !reach(cpu, me, partner, Errand::End { partner, code, phase, offset }) {
        return Next::Schedule;
    }
    if engaged(partner, me) {
        let sender = if phase == Phase::Send { partner } else { me };
        let tag = MsgTag::from_raw(sender.reg(reg::R9)).with_flags(TagFlags::ERROR);
        partner.transfer.copy.reset();
        finish(cpu, partner, tag, phase, code, offset);
        sched::enqueue(cpu, partner);
    }
    me.set_state(State::Ready);
    sched::enqueue(cpu, me);
    Next::Schedule
}
