//! ThreadControl (reference 4.5): create, activate, modify, migrate between spaces, delete.
//!
//! Decoding ([`decode`]) changes nothing and finds every error but running out of memory; the commit part
//! allocates first and then cannot fail.

use kcore::ipc::{Key, State};
use l4abi::control::UTCB_UNSPECIFIED as UNSPECIFIED;
use l4abi::error::ErrorCode;
use l4abi::id::ThreadId;
use l4abi::syscall::SyscallNo;
use l4abi::utcb::MR0_OFFSET;

use crate::cross;
use crate::cross::errand::Errand;
use crate::cross::migrate;
use crate::ipc::{cancel, kernel_msg};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::space::{self, SpaceRef};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{self, alloc, utcb};

/// Decoded arguments.
#[derive(Clone, Copy)]
struct Args {
    dest: ThreadId,
    pager: u64,
    scheduler: u64,
    space: u64,
    utcb: u64,
}

/// What a call amounts to.
enum Action {
    Delete(TcbRef),
    Nothing,
    Create { space: Option<SpaceRef>, activate: bool },
    Modify { t: TcbRef, space: Option<SpaceRef>, activate: bool },
}

/// The system call. Runs on the CPU that owns the destination, if that exists.
pub fn syscall(cpu: &PerCpu, me: TcbRef) -> Next {
    let args = Args {
        dest: ThreadId::from_raw(me.reg(reg::RDI)),
        pager: translate(me, me.reg(reg::RSI)),
        scheduler: translate(me, me.reg(reg::RDX)),
        space: me.reg(reg::R8),
        utcb: me.reg(reg::R9),
    };
    if thread::is_privileged(me) && !args.dest.is_local() {
        let t = thread::table::slot_now(args.dest.number().0);
        let call = SyscallNo::ThreadControl;
        if t.id.get() != 0 && t != me {
            let busy = t.key().cpu() == cpu.number() && leave_transfer(cpu, &args, t);
            if t.key().cpu() != cpu.number() {
                return cross::forward(cpu, me, t, call);
            }
            if busy {
                cross::wait_a_moment(cpu, me, Errand::Syscall { call });
                return Next::Schedule;
            }
        }
    }
    let result = decode(me, &args).and_then(|action| commit(cpu, &args, action));
    crate::syscall::set_result(me, result.map(|()| 1));
    Next::Thread(me)
}

/// `t` is to be deleted or to become another thread while it is in a transfer whose partner is on another CPU: it
/// leaves that first, and the caller follows it. It does not run meanwhile. True if it is still telling its partner.
fn leave_transfer(cpu: &PerCpu, args: &Args, t: TcbRef) -> bool {
    let changes = args.space == 0 || t.id.get() != args.dest.raw();
    if changes && cross::transfer::partner_elsewhere(cpu, t).is_some() {
        t.set_flag(Key::HALTED);
        cancel::abort(cpu, t, true, true);
    }
    let tells = t.state() == State::Remote && matches!(t.travel.errand.get(), Errand::End { .. });
    changes && tells
}

/// A local id becomes global where it names a thread of the caller's space; others stay as they are.
fn translate(me: TcbRef, id: u64) -> u64 {
    match id {
        0 => 0,
        id if ThreadId::from_raw(id).is_local() => {
            thread::resolve(me, id).map_or(id, |t| t.id.get())
        }
        id => id,
    }
}

/// All checks, in the order of the reference's table.
fn decode(me: TcbRef, args: &Args) -> Result<Action, ErrorCode> {
    if !thread::is_privileged(me) {
        return Err(ErrorCode::NoPrivilege);
    }
    if args.dest.is_local() {
        return Err(ErrorCode::InvalidSpace);
    }
    let number = args.dest.number().0;
    if number < crate::irq::system_base() {
        return crate::irq::attach(args.dest, args.pager).map(|()| Action::Nothing);
    }
    if number < crate::irq::user_base() || number >= 1 << kcore::layout::THREAD_BITS {
        return Err(ErrorCode::InvalidThread);
    }
    let t = thread::table::slot_now(number);
    let exists = t.id.get() != 0;
    if args.space == 0 {
        return match exists {
            true if t == me => Err(ErrorCode::InvalidThread),
            true => Ok(Action::Delete(t)),
            false => Ok(Action::Nothing),
        };
    }
    let space_of = thread::resolve(me, args.space);
    if exists { decode_modify(args, t, space_of) } else { decode_create(args, space_of) }
}

fn decode_create(args: &Args, space_of: Option<TcbRef>) -> Result<Action, ErrorCode> {
    let activate = args.pager != 0;
    if args.scheduler == 0 {
        return Err(ErrorCode::InvalidScheduler);
    }
    let space = match space_of {
        Some(other) => other.space.get(),
        // A new space has no areas yet, so nobody can be active in it.
        None if args.space == args.dest.raw() && !activate => None,
        None => return Err(ErrorCode::InvalidSpace),
    };
    if activate {
        let ready = space.is_some_and(|s| s.is_initialised());
        if !ready {
            return Err(ErrorCode::InvalidSpace);
        }
        if !space.is_some_and(|s| s.is_utcb_location(args.utcb)) {
            return Err(ErrorCode::UtcbArea);
        }
    }
    Ok(Action::Create { space, activate })
}

fn decode_modify(args: &Args, t: TcbRef, space_of: Option<TcbRef>) -> Result<Action, ErrorCode> {
    let active = is_active(t);
    // The destination itself names its space, whatever version it is to get.
    let named = if ThreadId::from_raw(args.space).number() == args.dest.number() {
        Some(t)
    } else {
        space_of
    };
    let Some(target) = named.and_then(|n| n.space.get()) else {
        return Err(ErrorCode::InvalidSpace);
    };
    let moves = t.space.get() != Some(target);
    if args.utcb != UNSPECIFIED {
        if active {
            return Err(ErrorCode::UtcbArea);
        }
        if target.is_initialised() && !target.is_utcb_location(args.utcb) {
            return Err(ErrorCode::UtcbArea);
        }
    }
    let activate = args.pager != 0 && !active;
    if activate || (moves && active) {
        if !target.is_initialised() {
            return Err(ErrorCode::InvalidSpace);
        }
        let location = if args.utcb != UNSPECIFIED { args.utcb } else { location(t) };
        if !target.is_utcb_location(location) {
            return Err(ErrorCode::UtcbArea);
        }
    }
    Ok(Action::Modify { t, space: moves.then_some(target), activate })
}

/// Whether the thread has been activated.
pub fn is_active(t: TcbRef) -> bool {
    t.utcb.get() != 0
}

/// Start of the UTCB block that `t` has or was promised.
fn location(t: TcbRef) -> u64 {
    t.local_id.get().wrapping_sub(MR0_OFFSET as u64)
}

fn set_location(t: TcbRef, location: u64) {
    t.local_id.set(location.wrapping_add(MR0_OFFSET as u64));
}

fn commit(cpu: &PerCpu, args: &Args, action: Action) -> Result<(), ErrorCode> {
    match action {
        Action::Nothing => Ok(()),
        Action::Delete(t) => {
            delete(cpu, t);
            Ok(())
        }
        Action::Create { space, activate } => {
            let t = alloc::create(cpu, args.dest, args.scheduler)?;
            let joined = match space {
                Some(s) => Ok(s),
                None => space::create(cpu.node()),
            };
            let done = joined.and_then(|s| {
                space::join(cpu, s, t)?;
                if args.utcb != UNSPECIFIED {
                    set_location(t, args.utcb);
                }
                if activate { self::activate(t, args.pager) } else { Ok(()) }
            });
            if done.is_err() {
                delete(cpu, t);
            }
            done
        }
        Action::Modify { t, space, activate } => {
            let target = space.or(t.space.get()).ok_or(ErrorCode::InvalidSpace)?;
            let home = t.travel.home();
            let root = migrate::root_on(target, home).ok_or(ErrorCode::OutOfMemory)?;
            cross::pin(cpu, t);
            let done = modify(cpu, args, t, space, activate);
            if done.is_ok() {
                t.root.set(root);
            }
            if is_active(t) {
                utcb::set_processor(t, home);
            }
            cross::unpin(cpu, t, home);
            done
        }
    }
}

fn modify(
    cpu: &PerCpu,
    args: &Args,
    t: TcbRef,
    space: Option<SpaceRef>,
    activate: bool,
) -> Result<(), ErrorCode> {
    if let Some(target) = space {
        change_space(cpu, t, target)?;
    }
    if args.utcb != UNSPECIFIED {
        set_location(t, args.utcb);
    }
    if activate {
        self::activate(t, args.pager)?;
    } else if args.pager != 0 {
        utcb::set_pager(t, args.pager);
    }
    if args.scheduler != 0 {
        t.scheduler.set(args.scheduler);
    }
    if t.id.get() != args.dest.raw() {
        // A new version is a new thread to its partners: what was under way ends.
        cancel::abort(cpu, t, true, true);
        t.id.set(args.dest.raw());
        if is_active(t) {
            utcb::set_global_id(t, args.dest.raw());
        }
    }
    Ok(())
}

/// Gives `t` its UTCB and lets it wait for its start message.
fn activate(t: TcbRef, pager: u64) -> Result<(), ErrorCode> {
    let space = t.space.get().ok_or(ErrorCode::InvalidSpace)?;
    let mr0 = space.utcb_for(location(t)).ok_or(ErrorCode::OutOfMemory)?;
    t.utcb.set(mr0);
    utcb::initialise(t, pager);
    kernel_msg::await_start(t, pager);
    Ok(())
}

/// Moves `t` into `target`: ongoing IPC is aborted, the UTCB's content moves with the thread.
fn change_space(cpu: &PerCpu, t: TcbRef, target: SpaceRef) -> Result<(), ErrorCode> {
    let Some(old) = t.space.get() else { return Err(ErrorCode::InvalidSpace) };
    let mr0 = match is_active(t) {
        true => target.utcb_for(location(t)).ok_or(ErrorCode::OutOfMemory)?,
        false => 0,
    };
    space::join(cpu, target, t)?;
    if mr0 != 0 {
        cancel::abort(cpu, t, true, true);
        utcb::move_block(t, mr0);
    }
    space::left(cpu, old);
    Ok(())
}

/// Deletes `t`, a thread of this CPU that is not current: its IPC ends, those queued at it learn that it is
/// gone, and the last thread of a space takes the space with it.
pub fn delete(cpu: &PerCpu, t: TcbRef) {
    let _ = cross::pin(cpu, t);
    cancel::for_deletion(cpu, t);
    crate::irq::handler_gone(t);
    thread::fpu::drop_state(cpu, t);
    sched::forget(cpu, t);
    t.set_state(State::Absent);
    sched::vacate(cpu, t);
    t.id.set(0);
    t.key.set(Key::new(State::Absent, t.key().cpu()).0);
    t.utcb.set(0);
    if let Some(space) = t.space.take() {
        space::left(cpu, space);
    }
    alloc::release(t);
}
