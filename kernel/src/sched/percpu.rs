//! What one CPU keeps about the threads it owns. Lies at the start of the CPU block, in the CPU-local window,
//! so that assembly reaches it by absolute addresses; no other CPU touches it.

use core::cell::Cell;
use core::mem::offset_of;

use kcore::ipc::{Key, State};
use kcore::mapdb::{FrameInfo, Hint};
use kcore::sched::{RunQueue, WakeQueue};
use kcore::types::{NodeId, PhysAddr};

use crate::cpu::Identity;
use crate::thread;
use crate::thread::tcb::TcbRef;
use crate::util::Word;

/// Scheduling state of one CPU.
#[repr(C, align(64))]
pub struct PerCpu {
    /// The running thread; the CPU's idle thread when nothing runs.
    pub current: Cell<TcbRef>,
    /// Key that a receiver must have for the fast path: waiting, on this CPU, nothing special; or
    /// [`Key::NEVER`](kcore::ipc::Key::NEVER) while the running thread itself is special.
    pub expected_key: Cell<u64>,
    /// Global id of the running thread.
    pub current_id: Cell<u64>,
    /// This CPU's time-stamp counter at clock zero, as if it had been running then ([`crate::time`]).
    pub tsc_zero: Cell<u64>,
    /// Microseconds per tick of the time-stamp counter, as a fraction of 2^32.
    pub us_per_tick: Cell<u64>,
    /// The user's stack pointer or RAX for the few instructions between the entry and the TCB.
    pub user_word: Cell<u64>,
    /// The CR3 value that is loaded; set before it is loaded. Other CPUs read it for shootdowns.
    pub root: Word,
    /// Key of a thread of this CPU that waits and about which nothing is special; constant.
    plain: Cell<u64>,
    /// The same, or [`Key::NEVER`](kcore::ipc::Key::NEVER) if the short paths are off: what `expected_key` is while
    /// nothing is special about the running thread.
    short: Cell<u64>,
    /// The idle thread: no number, never queued; its TCB only takes what entries save.
    pub idle: Cell<TcbRef>,
    /// Ready threads.
    pub ready: RunQueue<TcbRef>,
    /// Threads with a timeout.
    pub wakeups: WakeQueue<TcbRef>,
    /// Set when a thread was made ready that might have to run before the present one.
    pub reschedule: Cell<bool>,
    /// When the present time slice ends, µs; `u64::MAX` = never.
    pub slice_end_us: Cell<u64>,
    /// For what time the timer is armed, µs; `u64::MAX` = not armed.
    pub armed_us: Cell<u64>,
    /// The thread whose state is in the FPU registers.
    pub fpu_owner: Cell<Option<TcbRef>>,
    /// The I/O bitmap that the processor sees; 0 = the one that denies every port.
    pub io_bitmap: Cell<u64>,
    /// The page that denies every port, once known.
    pub no_ports: Cell<u64>,
    /// The run of frames that was asked for last.
    pub last_run: Cell<Option<&'static FrameInfo>>,
    /// The run of frames that mappings were made or undone in last.
    pub map_hint: Cell<Hint>,
    /// Kernel address of the page table of the CPU-local window, once known.
    pub window_table: Cell<u64>,
    /// When the running thread was last charged for its total quantum, µs ([`super::preempt`]).
    pub quantum_start_us: Cell<u64>,
    /// When the total quantum of the running thread ends, µs; `u64::MAX` = never.
    pub quantum_end_us: Cell<u64>,
    /// When the delay of a preemption ends, µs; `u64::MAX` = none under way, 0 = it is used up.
    pub delay_end_us: Cell<u64>,
    /// The earlier of the two that lies ahead, for the timer.
    pub special_end_us: Cell<u64>,
    number: u16,
    node: NodeId,
    kernel_root: PhysAddr,
}

const _: () = assert!(offset_of!(PerCpu, current) == 0 && offset_of!(PerCpu, root) < 64);

impl PerCpu {
    /// The state of a CPU on which nothing ran yet. Its idle thread is nobody, read-only, until
    /// [`PerCpu::start`].
    pub fn new(identity: &Identity) -> Self {
        let idle = thread::slot(0);
        Self {
            current: Cell::new(idle),
            expected_key: Cell::new(u64::MAX),
            current_id: Cell::new(0),
            tsc_zero: Cell::new(0),
            us_per_tick: Cell::new(0),
            user_word: Cell::new(0),
            root: Word::new(0),
            plain: Cell::new(Key::new(State::Waiting, identity.id.get()).0),
            short: Cell::new(Key::NEVER.0),
            idle: Cell::new(idle),
            ready: RunQueue::new(),
            wakeups: WakeQueue::new(),
            reschedule: Cell::new(false),
            slice_end_us: Cell::new(u64::MAX),
            armed_us: Cell::new(u64::MAX),
            fpu_owner: Cell::new(None),
            io_bitmap: Cell::new(0),
            no_ports: Cell::new(0),
            last_run: Cell::new(None),
            map_hint: Cell::new(Hint::NONE),
            window_table: Cell::new(0),
            quantum_start_us: Cell::new(0),
            quantum_end_us: Cell::new(u64::MAX),
            delay_end_us: Cell::new(u64::MAX),
            special_end_us: Cell::new(u64::MAX),
            number: identity.id.get(),
            node: identity.node,
            kernel_root: identity.kernel_root,
        }
    }

    /// Gives the CPU its idle thread and its first root table.
    pub fn start(&self, idle: TcbRef) {
        idle.key.set(Key::new(State::Ready, self.number).0);
        self.idle.set(idle);
        self.current.set(idle);
        self.root.set(self.kernel_root.as_u64());
    }

    /// Lets the short paths be taken on this CPU.
    pub fn allow_short_paths(&self) {
        self.short.set(self.plain.get());
    }

    /// Key of a thread of this CPU that waits, with nothing special about it.
    #[inline(always)]
    pub fn plain_waiting(&self) -> u64 {
        self.plain.get()
    }

    /// Key of a thread of this CPU that can run, with nothing special about it.
    #[inline(always)]
    pub fn plain_ready(&self) -> u64 {
        self.plain.get() - (State::Waiting as u64 - State::Ready as u64)
    }

    /// The expected key while nothing is special about the running thread.
    #[inline(always)]
    pub fn short_key(&self) -> u64 {
        self.short.get()
    }

    /// Number of this CPU.
    #[inline(always)]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Node whose memory this CPU uses.
    #[inline(always)]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Root table of the kernel address space on this CPU.
    pub fn kernel_root(&self) -> PhysAddr {
        self.kernel_root
    }
}
