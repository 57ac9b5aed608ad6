//! Making and unmaking TCBs: a page on the creator's node, mapped at the thread's slot of the array.

use kcore::ipc::{Awaited, Key, State};
use kcore::types::{PhysAddr, ThreadNo, VirtAddr};
use l4abi::id::ThreadId;
use l4abi::schedule::{DEFAULT_PRIORITY, DEFAULT_TIMESLICE_US};

use crate::arch::x86_64::tcb_area;
use crate::cross::quarantine;
use crate::ipc::kernel_msg::KernelIpc;
use crate::memory;
use crate::sched::percpu::PerCpu;
use crate::sched::work::Work;
use crate::space;
use crate::thread::tcb::{Exit, Outer, TcbRef, reg};
use crate::thread::{slot, table};

/// Makes the control block of thread `id`, inactive and in no space yet, owned by this CPU, on this CPU's node. Nobody
/// can find it before [`publish`]; what is answered is the page in the pool window. None if there is no memory.
#[inline(always)]
pub fn prepare(cpu: &PerCpu, id: ThreadId, scheduler: u64) -> Option<TcbRef> {
    // A page that this CPU has kept is blank.
    let page = match quarantine::take() {
        Some(page) => page,
        None => fresh_page(cpu)?,
    };
    let t = table::in_window(page.window().as_u64());
    t.key.set(Key::new(State::Inactive, cpu.number()).0);
    t.local_id.set(0);
    t.priority.set(DEFAULT_PRIORITY);
    t.sensitive.set(0);
    t.max_delay_us.set(0);
    t.slice_us.set(DEFAULT_TIMESLICE_US);
    t.slice_left_us.set(DEFAULT_TIMESLICE_US);
    t.quantum_left_us.set(u64::MAX);
    t.scheduler.set(scheduler);
    t.id.set(id.raw());
    Some(t)
}

/// Enters the prepared thread `t` into the array; answers it as everybody knows it. None, and `t` is gone again, if there
/// is no memory for the array's tables or if another CPU has just made a thread with that number.
#[inline(always)]
pub fn publish(cpu: &PerCpu, t: TcbRef) -> Option<TcbRef> {
    let number = ThreadId::from_raw(t.id.get()).number().0;
    let page = VirtAddr::new(core::ptr::from_ref(t) as u64).window_phys();
    if tcb_area::map(ThreadNo::new(number), page) {
        return Some(slot(number));
    }
    give_up(cpu, t);
    None
}

/// Takes back what [`prepare`] and `space::enter` have done for `t`, which nobody knows yet.
#[cold]
#[inline(never)]
pub fn give_up(cpu: &PerCpu, t: TcbRef) {
    t.id.set(0);
    t.key.set(Key::new(State::Absent, cpu.number()).0);
    if let Some(space) = t.space.take() {
        space::left(cpu, space);
    }
    quarantine::put(VirtAddr::new(core::ptr::from_ref(t) as u64).window_phys(), true);
}

/// A blank control block on this CPU's node.
#[cold]
#[inline(never)]
fn fresh_page(cpu: &PerCpu) -> Option<PhysAddr> {
    let page = memory::alloc_page(cpu.node()).ok()?;
    blank(cpu, table::in_window(page.window().as_u64()), page);
    Some(page)
}

/// Makes `t`, whose page is `page`, a control block that is no thread's, so that nothing of one thread is there for the
/// next: every field but those that [`prepare`] sets, and the FPU state, which `thread::fpu` makes when a thread first
/// uses it. The page is a valid `Tcb`: all zero, or a thread's.
#[inline(never)]
fn blank(cpu: &PerCpu, t: TcbRef, page: PhysAddr) {
    t.awaited.set(Awaited::NOBODY.0);
    t.utcb.set(0);
    t.root.set(0);
    t.space.set(None);
    t.exit.set(Exit::Iret);
    for register in &t.regs {
        register.set(0);
    }
    t.set_reg(reg::RFLAGS, 0x202);
    t.partner.set(None);
    t.then_receive.set(0);
    t.timeouts.set(0);
    t.virtual_sender.set(0);
    t.redirected.set(0);
    t.work.set(Work::None);
    t.kernel_ipc.set(KernelIpc::None);
    t.transfer.reset();
    t.senders.reset();
    t.sender_link.reset();
    t.ready_link.reset();
    t.wake_link.reset();
    t.outer.set(Outer::USER);
    t.irq_pending.set(0);
    t.touched.set(0);
    t.fpu_valid.set(false);
    t.travel.start(cpu.number(), page.window().as_u64(), cpu.node());
}

/// Gives back the TCB of a deleted thread of this CPU; its id is 0 already. One that was `used` is made blank again.
#[inline(always)]
pub fn release(cpu: &PerCpu, t: TcbRef, used: bool) {
    let page = VirtAddr::new(t.travel.page.get()).window_phys();
    let own = t.travel.node.get() == cpu.node();
    if used {
        blank(cpu, t, page);
    }
    tcb_area::unmap(t.number());
    quarantine::put(page, own);
}
