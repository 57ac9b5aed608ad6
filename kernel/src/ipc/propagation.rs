//! Propagation (reference 5.4): a message in another thread's name. Whose wait that changes, and where, is
//! `kcore::cross::propagate`.
//!
//! The virtual sender may be on any CPU, where it may be deleted at any moment and its number given to another thread. So it goes
//! by the id that was looked up, and what was read of it counts if it had that id afterwards, too.

use kcore::cross::propagate::{At, Cpu, Wait, change_wait};
use kcore::ipc::{Identity, State, meet::may_propagate};
use l4abi::syscall::SyscallNo;
use l4abi::tag::{MsgTag, TagFlags};

use crate::cross::{Reached, errand::Errand, reach};
use crate::ipc::{identity, space_token};
use crate::sched::percpu::PerCpu;
use crate::sched::work::Work;
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{self, utcb};

/// Checks the virtual sender that `me` names for its message to `dest`, whose id is `receiver`, and, if allowed, sends in its
/// name. If not allowed the flag is dropped without an error.
///
/// A virtual sender that waits for the reply of the real one shall wait for the receiver's. If it does so on
/// another CPU, because one of the two was moved since the request, `me` goes there first: false.
#[cold]
pub fn begin(cpu: &PerCpu, me: TcbRef, dest: TcbRef, receiver: u64) -> bool {
    let id = utcb::virtual_sender(me);
    let Some(client) = thread::lookup(id).filter(|&v| may_speak_for(me, v, id, dest)) else {
        let tag = MsgTag::from_raw(me.reg(reg::R9)).with_flags(TagFlags::empty());
        me.set_reg(reg::R9, tag.raw());
        return true;
    };
    if !change_wait(&mut Client { cpu, me, client, id, receiver }) {
        return false;
    }
    me.virtual_sender.set(id);
    true
}

/// Whether `me` may speak for `v`, which was found by `id`, towards `dest`.
fn may_speak_for(me: TcbRef, v: TcbRef, id: u64, dest: TcbRef) -> bool {
    let redirector = v.space.get().is_some_and(|s| s.redirector() == me.id.get());
    let claimed = Identity { global: id, space: space_token(v) };
    may_propagate(identity(me), claimed, space_token(dest), redirector) && v.id.get() == id
}

/// The virtual sender of `me`, as the rules see it.
struct Client<'a> {
    cpu: &'a PerCpu,
    me: TcbRef,
    client: TcbRef,
    id: u64,
    receiver: u64,
}

impl Cpu for Client<'_> {
    fn waited_for_me(&mut self) -> bool {
        self.client.awaited.get() == self.me.id.get()
    }

    fn approach(&mut self) -> At {
        let errand = Errand::Syscall { call: SyscallNo::Ipc };
        match reach(self.cpu, self.me, self.client, errand) {
            Reached::It if self.client.id.get() == self.id => At::Client,
            Reached::It | Reached::Nobody => At::Nobody,
            Reached::NotYet => At::NotYet,
        }
    }

    fn wait(&mut self) -> Wait {
        match self.client.state() {
            _ if !self.waited_for_me() => Wait::No,
            State::Waiting => Wait::Waits,
            State::Ready if self.client.work.get() == Work::Receive => Wait::Later,
            _ => Wait::No,
        }
    }

    fn change(&mut self, wait: Wait) {
        self.client.awaited.set(self.receiver);
        if wait == Wait::Later {
            self.client.then_receive.set(self.receiver);
        }
    }
}
