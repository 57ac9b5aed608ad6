//! ExchangeRegisters (reference 4.4).

use kcore::ipc::{Key, State};
use l4abi::error::ErrorCode;
use l4abi::exregs::Control;
use l4abi::id::ThreadId;
use l4abi::syscall::SyscallNo;

use crate::cross;
use crate::ipc::{cancel, kernel_msg};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::thread::control::is_active;
use crate::thread::tcb::{Exit, TcbRef, reg};
use crate::thread::{self, utcb};

/// The system call. Runs on the CPU that owns the destination.
#[inline(never)]
pub fn syscall(cpu: &PerCpu, me: TcbRef) -> Next {
    let named = me.reg(reg::RAX);
    let Some(t) = thread::resolve(me, named).filter(|t| allowed(me, t)) else {
        crate::syscall::set_error(me, Some(ErrorCode::InvalidThread));
        me.set_reg(reg::RAX, 0);
        return Next::Thread(me);
    };
    if t.key().cpu() != cpu.number() {
        return cross::forward(cpu, me, t, SyscallNo::ExchangeRegisters);
    }
    let control = Control::from_bits_retain(me.reg(reg::RSI));
    let old = Old::of(t);
    let values = Values::of(me);
    let other_form =
        if ThreadId::from_raw(named).is_local() { t.id.get() } else { t.local_id.get() };
    me.set_reg(reg::RAX, other_form);
    me.set_reg(reg::RSI, old.control);
    me.set_reg(reg::RDX, old.sp);
    me.set_reg(reg::R8, old.ip);
    me.set_reg(reg::R9, old.flags);
    me.set_reg(reg::R10, old.handle);
    me.set_reg(reg::RDI, old.pager);
    if control.is_empty() {
        return Next::Thread(me);
    }
    apply(cpu, me, t, control, &values)
}

/// Same space, or the target's pager is in the caller's space (needed by a pager that aborts its clients).
fn allowed(me: TcbRef, t: TcbRef) -> bool {
    if !is_active(t) {
        return false;
    }
    t.space.get() == me.space.get()
        || thread::lookup(utcb::pager(t)).is_some_and(|p| p.space.get() == me.space.get())
}

/// New values from the caller's registers.
struct Values {
    sp: u64,
    ip: u64,
    flags: u64,
    handle: u64,
    pager: u64,
}

impl Values {
    fn of(me: TcbRef) -> Self {
        Self {
            sp: me.reg(reg::RDX),
            ip: me.reg(reg::R8),
            flags: me.reg(reg::R9),
            handle: me.reg(reg::R10),
            pager: me.reg(reg::RDI),
        }
    }
}

/// The target's values before anything changes.
struct Old {
    control: u64,
    sp: u64,
    ip: u64,
    flags: u64,
    handle: u64,
    pager: u64,
}

impl Old {
    fn of(t: TcbRef) -> Self {
        let mut control = Control::empty();
        control.set(Control::HALT, t.key().has(Key::HALTED));
        control.set(Control::RECEIVE, matches!(t.state(), State::Waiting | State::Receiving));
        let sending = matches!(t.state(), State::Polling | State::Sending | State::Remote);
        control.set(Control::SEND, sending);
        Self {
            control: control.bits(),
            sp: t.reg(reg::RSP),
            ip: t.user_ip(),
            flags: t.user_flags(),
            handle: utcb::handle(t),
            pager: utcb::pager(t),
        }
    }
}

fn apply(cpu: &PerCpu, me: TcbRef, t: TcbRef, control: Control, new: &Values) -> Next {
    if control.contains(Control::SET_HANDLE) {
        utcb::set_handle(t, new.handle);
    }
    if control.contains(Control::SET_PAGER) {
        utcb::set_pager(t, new.pager);
    }
    if control.intersects(Control::SET_SP | Control::SET_IP | Control::SET_FLAGS) {
        change_user_state(me, t, control, new);
    }
    if control.contains(Control::SET_HALT | Control::HALT) {
        t.set_flag(Key::HALTED);
    } else if control.contains(Control::SET_HALT) {
        t.clear_flag(Key::HALTED);
    }
    // The thread may leave with this: for the CPU of its partner, or, being a visitor, for home.
    if control.intersects(Control::RECEIVE | Control::SEND) {
        let receive = control.contains(Control::RECEIVE);
        cancel::abort(cpu, t, receive, control.contains(Control::SEND));
    }
    if control.contains(Control::SET_HALT) && t.key().cpu() == cpu.number() && t.is_runnable() {
        sched::enqueue(cpu, t);
    }
    match t == me && t.key().has(Key::HALTED) {
        true => Next::Schedule,
        false => Next::Thread(me),
    }
}

/// New IP, SP or flags. They count when the thread next runs at user level, which it then enters there and not
/// behind the call it was in, if it is not in a call any more.
fn change_user_state(me: TcbRef, t: TcbRef, control: Control, new: &Values) {
    t.settle_user_state();
    if control.contains(Control::SET_SP) {
        t.set_reg(reg::RSP, new.sp);
    }
    if control.contains(Control::SET_FLAGS) {
        t.set_reg(reg::RFLAGS, kernel_msg::arithmetic_flags(t.reg(reg::RFLAGS), new.flags));
    }
    if control.contains(Control::SET_IP) {
        crate::trace::begin(t, new.ip);
        t.set_reg(reg::RIP, new.ip);
    }
    if control.contains(Control::SET_IP) || t != me {
        t.exit.set(Exit::Iret);
        t.set_flag(Key::CHANGED);
    }
}
