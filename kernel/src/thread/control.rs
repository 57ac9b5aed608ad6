//! ThreadControl (reference 4.5): create, activate, modify, migrate between spaces, delete.
//!
//! Each form first makes its checks, which change nothing and find every error but running out of memory, then
//! allocates, then cannot fail. Creation and deletion of an inactive thread are one straight path; what a thread can only
//! be in when it was active or touched by others is ended in functions of their own.

use kcore::ipc::{Key, State};
use l4abi::control::UTCB_UNSPECIFIED as UNSPECIFIED;
use l4abi::error::ErrorCode;
use l4abi::id::ThreadId;
use l4abi::syscall::SyscallNo;
use l4abi::utcb::MR0_OFFSET;

use crate::cross;
use crate::cross::errand::Errand;
use crate::cross::{migrate, quarantine};
use crate::ipc::{cancel, kernel_msg};
use crate::sched::percpu::PerCpu;
use crate::sched::{self, Next};
use crate::space::{self, SpaceRef};
use crate::thread::tcb::{TcbRef, reg};
use crate::thread::{self, alloc, utcb};

/// Arguments of a call that creates or changes a thread.
#[derive(Clone, Copy)]
struct Args {
    dest: ThreadId,
    pager: u64,
    scheduler: u64,
    space: u64,
    utcb: u64,
}

impl Args {
    #[inline(always)]
    fn of(me: TcbRef) -> Self {
        Self {
            dest: ThreadId::from_raw(me.reg(reg::RDI)),
            pager: translate(me, me.reg(reg::RSI)),
            scheduler: translate(me, me.reg(reg::RDX)),
            space: me.reg(reg::R8),
            utcb: me.reg(reg::R9),
        }
    }
}

/// The system call. Runs on the CPU that owns the destination, if that exists.
#[inline(never)]
pub fn syscall(cpu: &PerCpu, me: TcbRef) -> Next {
    if !thread::is_privileged(me) {
        return refuse(me, ErrorCode::NoPrivilege);
    }
    let dest = ThreadId::from_raw(me.reg(reg::RDI));
    if dest.is_local() {
        return refuse(me, ErrorCode::InvalidSpace);
    }
    let number = dest.number().0;
    let t = thread::table::slot_now(number);
    let exists = t.id.get() != 0;
    // An inactive thread of this CPU is in nothing that would have to end first.
    if exists
        && t.key().0 as u32 != Key::new(State::Inactive, cpu.number()).0 as u32
        && let Some(next) = approach(cpu, me, t)
    {
        return next;
    }
    let first = crate::irq::user_base();
    let done = if number.wrapping_sub(first) >= kcore::layout::NR_THREADS as u32 - first {
        match interrupt(cpu, me, dest) {
            Some(done) => done,
            None => return Next::Schedule,
        }
    } else if me.reg(reg::R8) == 0 {
        match exists {
            true if t == me => Err(ErrorCode::InvalidThread),
            true => {
                delete(cpu, t);
                Ok(())
            }
            false => Ok(()),
        }
    } else if exists {
        modify(cpu, me, t)
    } else {
        match create(cpu, me) {
            Err(ErrorCode::OutOfMemory) => create_again(cpu, me),
            done => done,
        }
    };
    match done {
        Ok(()) => me.set_reg(reg::RAX, 1),
        Err(error) => return refuse(me, error),
    }
    Next::Thread(me)
}

#[cold]
fn refuse(me: TcbRef, error: ErrorCode) -> Next {
    crate::syscall::set_result(me, Err(error));
    Next::Thread(me)
}

/// `me` must be on the CPU of `t`, and `t` must have left what ties it to other CPUs. What runs next, if that is not
/// so yet.
#[inline(never)]
fn approach(cpu: &PerCpu, me: TcbRef, t: TcbRef) -> Option<Next> {
    if t == me {
        return None;
    }
    let call = SyscallNo::ThreadControl;
    let busy = t.key().cpu() == cpu.number() && leave_transfer(cpu, me, t);
    if t.key().cpu() != cpu.number() {
        return Some(cross::forward(cpu, me, t, call));
    }
    if busy {
        cross::wait_a_moment(cpu, me, Errand::Syscall { call });
        return Some(Next::Schedule);
    }
    None
}

/// `t` is to be deleted or to become another thread while it is in a transfer whose partner is on another CPU: it
/// leaves that first, and the caller follows it. It does not run meanwhile. True if it is still telling its partner.
fn leave_transfer(cpu: &PerCpu, me: TcbRef, t: TcbRef) -> bool {
    let changes = me.reg(reg::R8) == 0 || t.id.get() != me.reg(reg::RDI);
    if changes && cross::transfer::partner_elsewhere(cpu, t).is_some() {
        t.set_flag(Key::HALTED);
        cancel::abort(cpu, t, true, true);
    }
    let tells = t.state() == State::Remote && matches!(t.travel.errand.get(), Errand::End { .. });
    changes && tells
}

/// A local id becomes global where it names a thread of the caller's space; others stay as they are.
#[inline(always)]
fn translate(me: TcbRef, id: u64) -> u64 {
    if ThreadId::from_raw(id).is_local() { translate_local(me, id) } else { id }
}

#[cold]
#[inline(never)]
fn translate_local(me: TcbRef, id: u64) -> u64 {
    thread::resolve(me, id).map_or(id, |t| t.id.get())
}

/// `dest` is no number for a thread of user level: an interrupt thread gets or loses its handler. None if `me` is under way to
/// the CPU where that is done.
#[cold]
#[inline(never)]
fn interrupt(cpu: &PerCpu, me: TcbRef, dest: ThreadId) -> Option<Result<(), ErrorCode>> {
    if dest.number().0 >= crate::irq::system_base() {
        return Some(Err(ErrorCode::InvalidThread));
    }
    crate::irq::attach(cpu, me, dest, translate(me, me.reg(reg::RSI)))
}

/// Makes the thread that `me` asks for, in the order: all checks, what may run out of memory, the rest.
#[inline(always)]
fn create(cpu: &PerCpu, me: TcbRef) -> Result<(), ErrorCode> {
    let args = Args::of(me);
    if args.scheduler == 0 {
        return Err(ErrorCode::InvalidScheduler);
    }
    match space::hold(me, args.space) {
        Some(space) if args.pager == 0 => settle(cpu, &args, space).map(|_| ()),
        other => create_other(cpu, &args, other),
    }
}

/// There was no memory for a thread: once more with the pages that this CPU has kept.
#[cold]
#[inline(never)]
fn create_again(cpu: &PerCpu, me: TcbRef) -> Result<(), ErrorCode> {
    match quarantine::release() {
        true => create(cpu, me),
        false => Err(ErrorCode::OutOfMemory),
    }
}

/// The rare kinds of creation: an active thread, or the first of a space. The caller's reference to `space` is used up.
#[inline(never)]
fn create_other(cpu: &PerCpu, args: &Args, space: Option<SpaceRef>) -> Result<(), ErrorCode> {
    let activate = args.pager != 0;
    let home = match space {
        Some(space) => match activate.then(|| may_be_active(space, args.utcb)) {
            Some(Err(error)) => {
                space::left(cpu, space);
                return Err(error);
            }
            _ => space,
        },
        // A new space has no areas yet, so nobody can be active in it.
        None if args.space != args.dest.raw() || activate => return Err(ErrorCode::InvalidSpace),
        None => space::create(cpu.node())?,
    };
    let t = settle(cpu, args, home)?;
    if !activate {
        return Ok(());
    }
    let Some(mr0) = home.utcb_for(location(t)) else {
        delete(cpu, t);
        return Err(ErrorCode::OutOfMemory);
    };
    self::activate(t, mr0, args.pager);
    Ok(())
}

/// Whether a thread with its UTCB block at `location` can be active in `space`.
fn may_be_active(space: SpaceRef, location: u64) -> Result<(), ErrorCode> {
    if !space.is_initialised() {
        return Err(ErrorCode::InvalidSpace);
    }
    space.is_utcb_location(location).then_some(()).ok_or(ErrorCode::UtcbArea)
}

/// Makes an inactive thread of `space`: the part that may run out of memory first. The caller's reference becomes the
/// thread's; if it fails it is given back, and a space that was made for the thread is gone.
#[inline(always)]
fn settle(cpu: &PerCpu, args: &Args, space: SpaceRef) -> Result<TcbRef, ErrorCode> {
    let root = space.root_for(usize::from(cpu.number()), cpu.node(), cpu.kernel_root());
    let made = root.and_then(|r| Some((r, alloc::prepare(cpu, args.dest, args.scheduler)?)));
    let Some((root, t)) = made else {
        space::left(cpu, space);
        return Err(ErrorCode::OutOfMemory);
    };
    if args.utcb != UNSPECIFIED {
        set_location(t, args.utcb);
    }
    space::enter(space, t, root);
    alloc::publish(cpu, t).ok_or(ErrorCode::OutOfMemory)
}

/// Changes `t` as `me` asks: all checks first.
#[inline(never)]
fn modify(cpu: &PerCpu, me: TcbRef, t: TcbRef) -> Result<(), ErrorCode> {
    let args = Args::of(me);
    // The destination itself names its space, whatever version it is to get.
    let named = ThreadId::from_raw(args.space);
    let specifier = if named.number() == args.dest.number() { t.id.get() } else { args.space };
    let target = space::hold(me, specifier).ok_or(ErrorCode::InvalidSpace)?;
    let moves = t.space.get() != Some(target);
    let mut done = modify_in(cpu, &args, t, target, moves);
    if done == Err(ErrorCode::OutOfMemory) && quarantine::release() {
        // As in `create_again`: nothing has changed yet.
        done = modify_in(cpu, &args, t, target, moves);
    }
    // If the thread has moved the reference is its own now.
    if !moves || t.space.get() != Some(target) {
        space::left(cpu, target);
    }
    done
}

/// The same with the space that `t` is to be in afterwards.
fn modify_in(
    cpu: &PerCpu,
    args: &Args,
    t: TcbRef,
    target: SpaceRef,
    moves: bool,
) -> Result<(), ErrorCode> {
    let active = is_active(t);
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
        let location = if args.utcb != UNSPECIFIED { args.utcb } else { location(t) };
        may_be_active(target, location)?;
    }
    let home = t.travel.home();
    let root = migrate::root_on(target, home).ok_or(ErrorCode::OutOfMemory)?;
    cross::pin(cpu, t);
    let done = commit_changes(cpu, args, t, moves.then_some(target), activate);
    if done.is_ok() {
        t.root.set(root);
    }
    if is_active(t) {
        utcb::set_processor(t, home);
    }
    cross::unpin(cpu, t, home);
    done
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

/// The part of [`modify`] that allocates first, the UTCB and the root table, and then cannot fail.
fn commit_changes(
    cpu: &PerCpu,
    args: &Args,
    t: TcbRef,
    space: Option<SpaceRef>,
    activate: bool,
) -> Result<(), ErrorCode> {
    let mr0 = if activate {
        let location = if args.utcb != UNSPECIFIED { args.utcb } else { location(t) };
        let home = space.or(t.space.get());
        Some(home.and_then(|home| home.utcb_for(location)).ok_or(ErrorCode::OutOfMemory)?)
    } else {
        None
    };
    if let Some(target) = space {
        change_space(cpu, t, target)?;
    }
    if args.utcb != UNSPECIFIED {
        set_location(t, args.utcb);
    }
    if let Some(mr0) = mr0 {
        self::activate(t, mr0, args.pager);
    } else if args.pager != 0 {
        utcb::set_pager(t, args.pager);
    }
    if args.scheduler != 0 {
        t.scheduler.set(args.scheduler);
    }
    if t.id.get() != args.dest.raw() {
        // A new version is a new thread to its partners: what was under way ends.
        cancel::abort(cpu, t, true, true);
        crate::irq::handler_gone(t);
        t.id.set(args.dest.raw());
        if is_active(t) {
            utcb::set_global_id(t, args.dest.raw());
        }
    }
    Ok(())
}

/// Gives `t` its UTCB, in which `mr0` is MR0, and lets it wait for its start message.
fn activate(t: TcbRef, mr0: u64, pager: u64) {
    t.utcb.set(mr0);
    utcb::initialise(t, pager);
    kernel_msg::await_start(t, pager);
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
#[inline(always)]
pub fn delete(cpu: &PerCpu, t: TcbRef) {
    let used = t.state() != State::Inactive || t.touched.get() != 0;
    if used {
        end_activity(cpu, t);
    } else {
        cancel::dismiss_senders(cpu, t);
    }
    t.id.set(0);
    t.key.set(Key::new(State::Absent, cpu.number()).0);
    t.utcb.set(0);
    if let Some(space) = t.space.take() {
        space::left(cpu, space);
    }
    alloc::release(cpu, t, used);
}

/// `t`, which has been active, ends whatever it is in.
#[inline(never)]
fn end_activity(cpu: &PerCpu, t: TcbRef) {
    let _ = cross::pin(cpu, t);
    cancel::for_deletion(cpu, t);
    crate::irq::handler_gone(t);
    thread::fpu::drop_state(cpu, t);
    sched::forget(cpu, t);
    t.set_state(State::Absent);
    sched::vacate(cpu, t);
}
