//! Scheduling of one CPU: who runs next, time slices, wake-ups (reference 4.7, 4.8).
//!
//! Invariant: every runnable thread of a CPU except the running one is in its run queue. The queue may hold
//! threads that are not runnable; they leave it when they are met (`kcore::sched::runqueue`). [`leave`] is the
//! only place where the running thread changes in the complete path, and so the only place that puts the
//! thread that was running back into the queue.
//!
//! A direct switch by IPC or ThreadSwitch keeps the running slice: the partner runs on donated time.

pub mod percpu;
pub mod preempt;
pub mod work;

use kcore::ipc::{Key, State};

use crate::arch::x86_64::{cpulocal, entry, fpu};
use crate::cpu;
use crate::memory;
use crate::sched::percpu::PerCpu;
use crate::thread;
use crate::thread::tcb::TcbRef;
use crate::time;
use crate::trace;

/// No deadline.
pub const NEVER_US: u64 = u64::MAX;

/// Who runs next. Every path through the kernel ends in one of these.
#[must_use]
#[derive(Clone, Copy)]
pub enum Next {
    /// This thread, on the running time slice, unless a higher priority became ready meanwhile.
    Thread(TcbRef),
    /// Whoever has the highest priority.
    Schedule,
}

/// Makes `t`, a thread of this CPU, runnable: it may run as soon as its priority lets it.
pub fn make_ready(cpu: &PerCpu, t: TcbRef) {
    t.set_state(State::Ready);
    enqueue(cpu, t);
}

/// Queues a runnable thread.
#[inline]
pub fn enqueue(cpu: &PerCpu, t: TcbRef) {
    if t == cpu.current.get() {
        return;
    }
    if !t.key().lives_on(cpu.number()) {
        crate::cross::go_home(cpu, t);
        return;
    }
    trace::wake(t);
    cpu.ready.enqueue(t, t.priority.get());
    if t.priority.get() > cpu.current.get().priority.get() {
        cpu.reschedule.set(true);
    }
}

/// Changes a priority; the thread may be queued.
pub fn set_priority(cpu: &PerCpu, t: TcbRef, priority: u8) {
    let old = t.priority.replace(priority);
    if old == priority {
        return;
    }
    cpu.ready.dequeue(t, old);
    if t.is_runnable() {
        enqueue(cpu, t);
    }
    // The running thread may have fallen below somebody.
    cpu.reschedule.set(true);
}

/// Takes a thread out of every scheduling structure of this CPU: it is to be deleted or to move.
pub fn forget(cpu: &PerCpu, t: TcbRef) {
    cpu.ready.dequeue(t, t.priority.get());
    cpu.wakeups.remove(t);
    t.clear_flag(Key::TIMED);
}

/// Queues a wake-up for `t`.
pub fn set_wakeup(cpu: &PerCpu, t: TcbRef, at_us: u64) {
    cpu.wakeups.insert(t, at_us);
    t.set_flag(Key::TIMED);
    arm(cpu);
}

/// Withdraws the wake-up of `t`, if any.
#[inline]
pub fn clear_wakeup(cpu: &PerCpu, t: TcbRef) {
    if t.key().has(Key::TIMED) {
        cpu.wakeups.remove(t);
        t.clear_flag(Key::TIMED);
    }
}

/// The end of every path: settles who runs, does its pending kernel work, makes it current. Returns the
/// thread whose registers are to be loaded.
#[inline(always)]
pub fn leave(cpu: &PerCpu, next: Next) -> TcbRef {
    if let Next::Thread(t) = next
        && is_plain_switch(cpu, t)
    {
        if t != cpu.current.get() {
            switch(cpu, t);
        }
        return t;
    }
    settle(cpu, next)
}

/// Key flags of a thread that blocks which leave nothing to be done when another thread runs.
const BLOCKED_ANYHOW: u64 = Key::TIMED | Key::KERNEL_IPC;

/// Whether `t` can run at once and nothing needs looking at: no other thread was made ready, no other CPU wants
/// anything, nothing is special about `t`, and the running thread is `t` or waits.
#[inline(always)]
fn is_plain_switch(cpu: &PerCpu, t: TcbRef) -> bool {
    let before = cpu.current.get();
    t.key.get() == cpu.plain_ready()
        && (before.key.get() & !BLOCKED_ANYHOW == cpu.plain_waiting() || before == t)
        && !cpu.reschedule.get()
        && crate::cross::is_quiet()
}

/// [`leave`] after a short path: `t` is not the running thread, which waits, and nothing is special about either.
#[inline(always)]
pub fn leave_to(cpu: &PerCpu, t: TcbRef) -> TcbRef {
    if cpu.reschedule.get() || !crate::cross::is_quiet() {
        return settle(cpu, Next::Thread(t));
    }
    switch(cpu, t);
    t
}

/// Makes `t`, a thread about which nothing is special, the running thread. The one that ran before is settled.
#[inline(always)]
fn switch(cpu: &PerCpu, t: TcbRef) {
    trace::switch(t, cpu.current.get());
    cpu.current.set(t);
    cpu.current_id.set(t.id.get());
    cpu.expected_key.set(cpu.short_key());
    cpulocal::set_user_word(t.local_id.get());
    let root = t.root.get();
    if root != cpu.root.get() {
        cpu.root.set(root);
        cpulocal::load_root(root);
    }
}

/// [`leave`] with every case.
#[inline(never)]
fn settle(cpu: &PerCpu, mut next: Next) -> TcbRef {
    loop {
        crate::cross::poll(cpu);
        let t = match next {
            Next::Thread(t) if !cpu.reschedule.get() && may_run(cpu, t) => t,
            Next::Thread(t) => contend(cpu, t),
            Next::Schedule => pick(cpu),
        };
        activate(cpu, t);
        if !t.key().has(Key::WORK | Key::HALTED | Key::SCHED) {
            return t;
        }
        next = if t.key().has(Key::WORK | Key::HALTED) {
            work::run(cpu, t)
        } else if let Some(other) = preempt::check(cpu, t) {
            other
        } else {
            return t;
        };
    }
}

/// Whether `t` can run, on this CPU.
#[inline(always)]
pub fn may_run(cpu: &PerCpu, t: TcbRef) -> bool {
    t.is_runnable() && t.key().lives_on(cpu.number())
}

/// `t` is taken from this CPU: if it is running, nobody is. Its key says already that it cannot run here.
pub fn vacate(cpu: &PerCpu, t: TcbRef) {
    if cpu.current.get() == t {
        suspend_slice(cpu, t);
        activate(cpu, cpu.idle.get());
    }
}

/// `t` was to run, but a thread became ready that may have a higher priority.
#[cold]
fn contend(cpu: &PerCpu, t: TcbRef) -> TcbRef {
    cpu.reschedule.set(false);
    if !may_run(cpu, t) {
        if t.is_runnable() {
            crate::cross::go_home(cpu, t);
        }
        return pick(cpu);
    }
    match cpu.ready.pick(|q| q.is_runnable()) {
        Some((_, priority)) if priority > t.priority.get() => {
            if preempt::delays(cpu, t, priority) {
                return t;
            }
            suspend_slice(cpu, t);
            cpu.ready.enqueue_first(t, t.priority.get());
            pick(cpu)
        }
        _ => t,
    }
}

/// Takes the highest ready thread, or waits in the idle thread until there is one.
fn pick(cpu: &PerCpu) -> TcbRef {
    cpu.reschedule.set(false);
    let current = cpu.current.get();
    if may_run(cpu, current) && current != cpu.idle.get() {
        suspend_slice(cpu, current);
        cpu.ready.enqueue_first(current, current.priority.get());
    }
    loop {
        if let Some((t, priority)) = cpu.ready.pick(|q| q.is_runnable()) {
            if crate::cross::stop_looking(cpu) {
                continue;
            }
            cpu.ready.dequeue(t, priority);
            begin_slice(cpu, t);
            return t;
        }
        activate(cpu, cpu.idle.get());
        cpu.slice_end_us.set(NEVER_US);
        if let Some((t, now)) = crate::cross::idle(cpu) {
            begin_slice_at(cpu, t, now);
            switch(cpu, t);
            // The callers have nothing left to do, and nothing on this stack is needed: straight out.
            entry::start(trace::leave(t));
        }
        cpu.reschedule.set(false);
    }
}

/// A request of another CPU woke this one up: who runs.
#[inline(always)]
pub fn wake_up(cpu: &PerCpu) -> TcbRef {
    let Some(t) = crate::cross::woken(cpu) else { return leave(cpu, Next::Schedule) };
    begin_slice(cpu, t);
    switch(cpu, t);
    t
}

/// The running thread, about which there was nothing special, is another CPU's from now on: nobody runs.
pub fn abandon(cpu: &PerCpu) {
    let idle = cpu.idle.get();
    trace::switch(idle, cpu.current.get());
    cpu.current.set(idle);
    cpu.current_id.set(idle.id.get());
    cpulocal::set_user_word(0);
}

/// Makes `t` the running thread. The thread that ran before is put back into the queue if it can run.
#[inline(always)]
fn activate(cpu: &PerCpu, t: TcbRef) {
    let before = cpu.current.get();
    if before == t {
        return;
    }
    if may_run(cpu, before) && before != cpu.idle.get() && !before.ready_link.is_queued() {
        cpu.ready.enqueue_first(before, before.priority.get());
    }
    trace::switch(t, before);
    cpu.current.set(t);
    cpu.current_id.set(t.id.get());
    t.clear_flag(Key::CHANGED);
    cpulocal::set_user_word(t.local_id.get());
    let root = t.root.get();
    if root != cpu.root.get() && root != 0 {
        cpu.root.set(root);
        cpulocal::load_root(root);
    }
    if before.key().has(Key::LOADED | Key::SCHED) {
        left(cpu, before);
    }
    settle_expected(cpu, t);
    if t.key().has(Key::SCHED) {
        preempt::enter(cpu, t);
    }
}

/// What a thread that was special while it ran leaves to be done.
#[cold]
pub fn left(cpu: &PerCpu, before: TcbRef) {
    if before.key().has(Key::SCHED) {
        preempt::leave(cpu, before);
    }
    if before.key().has(Key::LOADED) {
        crate::thread::fpu::on_leave(before);
        crate::space::io::withdraw_cpu(cpu);
    }
}

/// Lets the fast path into or keeps it out of the running thread `t`.
#[inline(always)]
pub fn settle_expected(cpu: &PerCpu, t: TcbRef) {
    let special = t.key().has(Key::LOADED | Key::SCHED | Key::REDIRECTED | Key::INTERRUPT);
    cpu.expected_key.set(if special { Key::NEVER.0 } else { cpu.short_key() });
}

/// Starts the slice of a thread that was picked from the queue.
#[inline]
fn begin_slice(cpu: &PerCpu, t: TcbRef) {
    begin_slice_at(cpu, t, time::now_us());
}

/// The same at the time `now`, µs.
#[inline(always)]
fn begin_slice_at(cpu: &PerCpu, t: TcbRef, now: u64) {
    if t.slice_us.get() == 0 {
        cpu.slice_end_us.set(NEVER_US);
        return;
    }
    if t.slice_left_us.get() == 0 {
        t.slice_left_us.set(t.slice_us.get());
    }
    let end = now + t.slice_left_us.get();
    cpu.slice_end_us.set(end);
    // The timer is armed for everything else already.
    if end < cpu.armed_us.get() {
        arm(cpu);
    }
}

/// Remembers what is left of the running slice of `t`.
fn suspend_slice(cpu: &PerCpu, t: TcbRef) {
    if cpu.slice_end_us.get() != NEVER_US {
        t.slice_left_us.set(cpu.slice_end_us.get().saturating_sub(time::now_us()));
    }
}

/// The slice of the running thread is over or given up: to the end of its priority with a new one.
pub fn yield_slice(cpu: &PerCpu, t: TcbRef) -> Next {
    t.slice_left_us.set(t.slice_us.get());
    cpu.slice_end_us.set(NEVER_US);
    if t.key().has(Key::SCHED) {
        preempt::end_delay(cpu, t);
    }
    if t.is_runnable() {
        // It may be queued since it last blocked: to the end all the same.
        cpu.ready.dequeue(t, t.priority.get());
        cpu.ready.enqueue(t, t.priority.get());
    }
    Next::Schedule
}

/// `t` has a new slice length, µs; 0 = endless. The present slice begins anew.
pub fn set_slice(cpu: &PerCpu, t: TcbRef, us: u64) {
    t.slice_us.set(us);
    t.slice_left_us.set(us);
    if t == cpu.current.get() {
        begin_slice(cpu, t);
    }
}

/// The timer fired: wake-ups that are due, the end of the slice.
pub fn on_timer(cpu: &PerCpu) -> Next {
    cpu.armed_us.set(NEVER_US);
    let now = time::now_us();
    while let Some(t) = cpu.wakeups.pop_due(now) {
        t.clear_flag(Key::TIMED);
        trace::timeout(t);
        crate::ipc::timeout::expired(cpu, t);
    }
    let current = cpu.current.get();
    let next = if current == cpu.idle.get() {
        Next::Schedule
    } else if let Some(next) = preempt::overrun(cpu, current, now) {
        next
    } else if now >= cpu.slice_end_us.get() {
        slice_over(cpu, current)
    } else {
        Next::Thread(current)
    };
    arm(cpu);
    next
}

/// The slice of `t`, the running thread, is over; others of its priority are next unless it delays that.
fn slice_over(cpu: &PerCpu, t: TcbRef) -> Next {
    if preempt::delays(cpu, t, t.priority.get()) {
        cpu.slice_end_us.set(cpu.delay_end_us.get());
        return Next::Thread(t);
    }
    yield_slice(cpu, t)
}

/// Arms the timer for the earliest thing that matters, if it is not armed for that or earlier. A timer that
/// fires too early is armed anew; that is cheaper than moving it at every switch.
pub fn arm(cpu: &PerCpu) {
    let wake = cpu.wakeups.earliest().map_or(NEVER_US, |(_, at)| at);
    let deadline = wake.min(cpu.slice_end_us.get()).min(cpu.special_end_us.get());
    if deadline < cpu.armed_us.get() {
        cpu.armed_us.set(deadline);
        time::arm_us(deadline);
    }
}

/// The scheduling state of this CPU.
#[inline(always)]
pub fn this_cpu() -> &'static PerCpu {
    &cpu::this().scheduling
}

/// What is left of the slice of `t`, µs; 0 = endless.
pub fn remaining_slice(cpu: &PerCpu, t: TcbRef) -> u64 {
    if t.slice_us.get() == 0 {
        return 0;
    }
    if t == cpu.current.get() && cpu.slice_end_us.get() != NEVER_US {
        return cpu.slice_end_us.get().saturating_sub(time::now_us()).max(1);
    }
    t.slice_left_us.get().max(1)
}

/// Where every CPU ends up after its start-up: it makes itself ready for threads and runs them for ever. The boot
/// processor starts the first ones.
pub fn run(boot_processor: bool) -> ! {
    let cpu = this_cpu();
    let options = &crate::machine::get().options;
    // Those in assembly have no trace points.
    entry::init(options.fastpath && !options.trace);
    if options.fastpath {
        cpu.allow_short_paths();
    }
    trace::start(cpu);
    crate::kdb::start(cpu);
    fpu::init(crate::machine::get().features.xsave);
    match memory::alloc_page(cpu.node()) {
        Ok(page) => cpu.start(thread::table::idle(page)),
        Err(_) => panic!("no memory for the idle thread"),
    }
    if boot_processor {
        crate::boot::servers::start(crate::machine::get(), cpu);
    }
    entry::start(trace::leave(leave(cpu, Next::Schedule)))
}
