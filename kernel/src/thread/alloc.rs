//! Making and unmaking TCBs: a page on the creator's node, mapped at the thread's slot of the array.

use kcore::ipc::{Awaited, Key, State};
use kcore::types::ThreadNo;
use l4abi::error::ErrorCode;
use l4abi::id::ThreadId;
use l4abi::schedule::{DEFAULT_PRIORITY, DEFAULT_TIMESLICE_US};

use crate::arch::x86_64::tcb_area;
use crate::cross::quarantine;
use crate::ipc::kernel_msg::KernelIpc;
use crate::memory;
use crate::sched::percpu::PerCpu;
use crate::sched::work::Work;
use crate::thread::slot;
use crate::thread::tcb::{Exit, Outer, TcbRef, reg};

/// Creates thread `id`, inactive and in no space yet, owned by this CPU, its TCB on this CPU's node. The slot is
/// known to be free.
pub fn create(cpu: &PerCpu, id: ThreadId, scheduler: u64) -> Result<TcbRef, ErrorCode> {
    let number = ThreadNo::new(id.number().0);
    let page = memory::alloc_page(cpu.node()).map_err(|_| ErrorCode::OutOfMemory)?;
    if !tcb_area::map(number, page) {
        memory::free_page(page);
        return Err(ErrorCode::OutOfMemory);
    }
    let t = slot(number.get());
    initialise(t, cpu.number(), scheduler);
    t.travel.start(cpu.number(), page.window().as_u64());
    // Last: from here on the thread can be found.
    t.id.set(id.raw());
    Ok(t)
}

/// Every field but the id. The page has arbitrary content before, which also is why nothing is read.
fn initialise(t: TcbRef, cpu: u16, scheduler: u64) {
    t.key.set(Key::new(State::Inactive, cpu).0);
    t.awaited.set(Awaited::NOBODY.0);
    t.local_id.set(0);
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
    t.priority.set(DEFAULT_PRIORITY);
    t.sensitive.set(0);
    t.max_delay_us.set(0);
    t.slice_us.set(DEFAULT_TIMESLICE_US);
    t.slice_left_us.set(DEFAULT_TIMESLICE_US);
    t.quantum_left_us.set(u64::MAX);
    t.scheduler.set(scheduler);
    t.outer.set(Outer::USER);
    t.irq_pending.set(0);
    t.fpu_valid.set(false);
}

/// Gives back the TCB of a deleted thread; its id is 0 already.
pub fn release(t: TcbRef) {
    if let Some(page) = tcb_area::unmap(t.number()) {
        quarantine::put(page);
    }
}
