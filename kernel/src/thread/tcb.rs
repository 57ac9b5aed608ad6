//! Thread control blocks: exactly one page each, in a virtual array indexed by thread number.
//!
//! The fields are grouped by who touches them (l4-smp 8.6): first the line that IPC needs, then what only the
//! owning CPU touches (`Cell`), then what other CPUs read or write (atomics). A `&Tcb` is always valid, because
//! every slot of the array is always mapped; slots without a thread show a read-only page of nobody, so a field
//! may be written only on the CPU that the key names.

use core::cell::Cell;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering};

use kcore::ipc::{Key, State};
use kcore::layout::{MAX_CPUS, TCB_AREA};
use kcore::sched::{Link, Linked, List, WakeLink, WakeNode};
use kcore::types::{NodeId, ThreadNo};

use l4abi::syscall::SyscallNo;

use crate::arch::x86_64::entry::{PLAIN_FLAGS, sysret_address};
use crate::cross::errand::Errand;
use crate::ipc::kernel_msg::KernelIpc;
use crate::ipc::transfer::Transfer;
use crate::sched::work::Work;
use crate::space::SpaceRef;
use crate::util::Word;

/// A thread. Valid for ever as an address; what it names is checked by id.
pub type TcbRef = &'static Tcb;

/// Register slots of a saved user state. MR0..MR7 come first and in order, so that a message in registers is
/// one run of eight words.
pub mod reg {
    /// Stack pointer: shares a line with what IPC needs.
    pub const RSP: usize = 0;
    /// MR0, the message tag.
    pub const R9: usize = 1;
    /// MR1.
    pub const RAX: usize = 2;
    /// MR2.
    pub const RBX: usize = 3;
    /// MR3.
    pub const R10: usize = 4;
    /// MR4.
    pub const R12: usize = 5;
    /// MR5.
    pub const R13: usize = 6;
    /// MR6.
    pub const R14: usize = 7;
    /// MR7.
    pub const R15: usize = 8;
    /// UTCB pointer.
    pub const RDI: usize = 9;
    /// Destination, and sender on return.
    pub const RSI: usize = 10;
    /// From specifier.
    pub const RDX: usize = 11;
    /// Timeouts.
    pub const R8: usize = 12;
    /// Lost to SYSCALL.
    pub const RCX: usize = 13;
    /// System call number in stubs.
    pub const RBP: usize = 14;
    /// Lost to SYSCALL.
    pub const R11: usize = 15;
    /// Instruction pointer.
    pub const RIP: usize = 16;
    /// Flags.
    pub const RFLAGS: usize = 17;
    /// Number of slots.
    pub const COUNT: usize = 18;
}

/// How a thread returns to user level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Exit {
    /// By SYSRET behind the SYSCALL of the Ipc stub, with plain flags: where and how is known without a saved RIP.
    Ipc = 0,
    /// By SYSRET to the stub that entered the kernel; RCX and R11 are lost.
    Sysret = 1,
    /// By IRETQ, every register restored.
    Iret = 2,
}

/// A thread control block.
#[repr(C, align(4096))]
pub struct Tcb {
    // --- the line that IPC needs -------------------------------------------------------------------------
    /// Global id; 0 = no thread. Other CPUs read it.
    pub id: Word,
    /// State, CPU, flags ([`Key`]). Other CPUs read the CPU number.
    pub key: Word,
    /// Whom a waiting thread takes a message from ([`kcore::ipc::Awaited`]).
    pub awaited: Cell<u64>,
    /// Local id: user address of MR0.
    pub local_id: Cell<u64>,
    /// Kernel address of MR0 in the pool window; 0 = not activated.
    pub utcb: Cell<u64>,
    /// CR3 value of the thread's space on its CPU.
    pub root: Cell<u64>,
    /// How it returns to user level.
    pub exit: Cell<Exit>,

    // --- the user state ----------------------------------------------------------------------------------
    /// User registers, by [`reg`].
    pub regs: [Cell<u64>; reg::COUNT],

    // --- owner only --------------------------------------------------------------------------------------
    /// The thread's space; none only in absent slots.
    pub space: Cell<Option<SpaceRef>>,
    /// The other side while polling (whose queue), sending or receiving.
    pub partner: Cell<Option<TcbRef>>,
    /// From-specifier of the receive phase that follows the present send phase; 0 = none.
    pub then_receive: Cell<u64>,
    /// Timeouts of the IPC under way (reference 1.8).
    pub timeouts: Cell<u64>,
    /// Global id in whose name the present message is sent, if not the thread's own (propagation).
    pub virtual_sender: Cell<u64>,
    /// Global id of the thread that the present message was for, if a redirector gets it; else 0. Kept up to date
    /// while [`Key::REDIRECTED`] is set.
    pub redirected: Cell<u64>,
    /// What the thread does in the kernel before it returns to user level.
    pub work: Cell<Work>,
    /// The kernel-made message that the thread sends or whose answer it awaits.
    pub kernel_ipc: Cell<KernelIpc>,
    /// Typed items in flight; belongs to the receiver.
    pub transfer: Transfer,
    /// Threads that poll to send to this one, first come first.
    pub senders: List<TcbRef, Sender>,
    /// Links in a partner's `senders`.
    pub sender_link: Link<TcbRef>,
    /// Links in the run queue.
    pub ready_link: Link<TcbRef>,
    /// Links in the wake-up heap.
    pub wake_link: WakeLink<TcbRef>,
    /// Priority, 255 highest.
    pub priority: Cell<u8>,
    /// Priority up to which preemption may be delayed.
    pub sensitive: Cell<u8>,
    /// Longest delay of a preemption, µs.
    pub max_delay_us: Cell<u16>,
    /// Length of a time slice, µs; 0 = endless.
    pub slice_us: Cell<u64>,
    /// What is left of the present slice, µs.
    pub slice_left_us: Cell<u64>,
    /// What is left of the total quantum, µs; `u64::MAX` = endless.
    pub quantum_left_us: Cell<u64>,
    /// Global id of the scheduler thread.
    pub scheduler: Cell<u64>,
    /// The state that was left when the thread was halted or began a nested kernel IPC.
    pub outer: Cell<Outer>,
    /// Interrupt lines that fired and whose message was not received, a bit each.
    pub irq_pending: Cell<u128>,
    /// 1 once something happened to the thread that deletion must know of even if it was never active: it became the
    /// handler of an interrupt line, or came to another CPU. Set by whoever does that.
    pub touched: Word,
    /// Whether `fpu` holds a state: the thread used the FPU.
    pub fpu_valid: Cell<bool>,

    /// Where it is and where it belongs; others read some of it.
    pub travel: Travel,

    // --- FPU state, 64-byte aligned for XSAVE ------------------------------------------------------------
    /// XSAVE area.
    pub fpu: FpuArea,
}

/// What a thread needs to be on other CPUs (`crate::cross`). A line of its own: the mailboxes write it.
#[repr(C, align(64))]
pub struct Travel {
    /// Link in a mailbox.
    pub link: AtomicU64,
    /// The CPU whose mailbox it was last sent to.
    pub target: Word,
    /// The CPU on which it runs at user level.
    home: Word,
    /// This page in the pool window.
    pub page: Cell<u64>,
    /// The node it lies on.
    pub node: Cell<NodeId>,
    /// The CPU for which its page was last placed: at home there its page need not move.
    placed: Cell<u16>,
    /// Wake-up that it carries, µs; `u64::MAX` = none.
    pub deadline: Cell<u64>,
    /// Global id of the thread it was queued at and now follows; 0 = none.
    pub follows: Cell<u64>,
    /// When it was queued at its partner first, in clock ticks: one that follows its partner keeps its turn.
    pub since: Cell<u64>,
    /// What it does where it arrives.
    pub errand: Cell<Errand>,
    /// CPUs on which the translation of its slot is known to be right.
    known: [Cell<bool>; MAX_CPUS],
}

impl Travel {
    /// The CPU on which the thread runs at user level.
    #[inline(always)]
    pub fn home(&self) -> u16 {
        self.home.get() as u16
    }

    /// Gives it a home; owner only.
    pub fn set_home(&self, cpu: u16) {
        self.home.set(u64::from(cpu));
    }

    /// Whether its page has been placed for its being at home on `cpu`.
    #[inline(always)]
    pub fn is_placed(&self, cpu: u16) -> bool {
        self.placed.get() == cpu
    }

    /// Its page has been placed for its being at home on `cpu`.
    pub fn set_placed(&self, cpu: u16) {
        self.placed.set(cpu);
    }

    /// Whether `cpu` has the right translation of its slot, or none.
    #[inline(always)]
    pub fn is_known(&self, cpu: u16) -> bool {
        self.known[usize::from(cpu) % MAX_CPUS].get()
    }

    /// `cpu` has the right translation of its slot, or none.
    pub fn set_known(&self, cpu: u16) {
        self.known[usize::from(cpu) % MAX_CPUS].set(true);
    }

    /// The state of a thread of CPU `cpu` that was nowhere else; its page lies on `node`, at pool-window address `page`.
    pub fn start(&self, cpu: u16, page: u64, node: NodeId) {
        self.link.store(0, Ordering::Relaxed);
        self.target.set(u64::from(cpu));
        self.set_home(cpu);
        self.page.set(page);
        self.node.set(node);
        self.deadline.set(u64::MAX);
        self.follows.set(0);
        self.since.set(0);
        self.set_placed(cpu);
        self.errand.set(Errand::Home);
        for known in &self.known {
            known.set(false);
        }
        self.set_known(cpu);
    }
}

/// What a nested kernel-made IPC (a page fault in the middle of a transfer) must put back.
#[derive(Clone, Copy)]
pub struct Outer {
    /// The state to return to.
    pub state: State,
    /// The partner to return to.
    pub partner: Option<TcbRef>,
    /// The receive phase that was to follow.
    pub then_receive: u64,
    /// The timeouts that were in force.
    pub timeouts: u64,
}

impl Outer {
    /// Plain user level.
    pub const USER: Self =
        Self { state: State::Ready, partner: None, then_receive: 0, timeouts: 0 };
}

/// Room for the extended state: as much of the page as remains.
#[repr(C, align(64))]
pub struct FpuArea(pub [Cell<u8>; FPU_AREA]);

/// Bytes for extended state. AVX-512 needs 2696; a CPU that would need more runs with fewer components enabled.
pub const FPU_AREA: usize = 2752;

const _: () = assert!(size_of::<Tcb>() == 4096);
const _: () = assert!(offset_of!(Tcb, exit) == 0x30 && offset_of!(Tcb, regs) == 0x38);

impl Tcb {
    /// The key.
    #[inline(always)]
    pub fn key(&self) -> Key {
        Key(self.key.get())
    }

    /// The state.
    #[inline(always)]
    pub fn state(&self) -> State {
        self.key().state()
    }

    /// Enters `next`, which must be a legal successor.
    #[inline(always)]
    pub fn set_state(&self, next: State) {
        let key = self.key();
        debug_assert!(
            key.state() == next || key.state().may_become(next),
            "thread {:#x}: {:?} to {next:?}",
            self.id.get(),
            key.state(),
        );
        self.key.set(key.with_state(next).0);
    }

    /// Sets key flags.
    #[inline(always)]
    pub fn set_flag(&self, flag: u64) {
        self.key.set(self.key.get() | flag);
    }

    /// Clears key flags.
    #[inline(always)]
    pub fn clear_flag(&self, flag: u64) {
        self.key.set(self.key.get() & !flag);
    }

    /// A saved register.
    #[inline(always)]
    pub fn reg(&self, slot: usize) -> u64 {
        self.regs[slot].get()
    }

    /// Changes a saved register.
    #[inline(always)]
    pub fn set_reg(&self, slot: usize, value: u64) {
        self.regs[slot].set(value);
    }

    /// Where the thread goes on at user level.
    pub fn user_ip(&self) -> u64 {
        match self.exit.get() {
            Exit::Ipc => sysret_address(SyscallNo::Ipc),
            _ => self.reg(reg::RIP),
        }
    }

    /// The flags it goes on with.
    pub fn user_flags(&self) -> u64 {
        match self.exit.get() {
            Exit::Ipc => u64::from(PLAIN_FLAGS),
            _ => self.reg(reg::RFLAGS),
        }
    }

    /// Makes the saved instruction pointer and flags true also for a thread that left by the short path.
    pub fn settle_user_state(&self) {
        if self.exit.get() == Exit::Ipc {
            self.set_reg(reg::RIP, self.user_ip());
            self.set_reg(reg::RFLAGS, self.user_flags());
            self.exit.set(Exit::Sysret);
        }
    }

    /// The thread's number.
    pub fn number(&self) -> ThreadNo {
        ThreadNo::new(((core::ptr::from_ref(self) as u64 - TCB_AREA.as_u64()) >> 12) as u32)
    }

    /// Whether the thread can run: nothing waits, nothing halts it.
    #[inline(always)]
    pub fn is_runnable(&self) -> bool {
        let key = self.key();
        match key.state() {
            State::Ready => !key.has(Key::HALTED),
            // A transfer goes on in the receiver's name even if it is halted (reference 4.4).
            State::Receiving => key.has(Key::WORK),
            _ => false,
        }
    }
}

impl PartialEq for Tcb {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

/// Marker of send-queue links.
pub struct Sender;

impl Linked<Sender> for TcbRef {
    #[inline(always)]
    fn link(&self) -> &Link<Self> {
        &self.sender_link
    }
}

impl Linked<kcore::sched::runqueue::Ready> for TcbRef {
    #[inline(always)]
    fn link(&self) -> &Link<Self> {
        &self.ready_link
    }
}

impl WakeNode for TcbRef {
    #[inline(always)]
    fn wake(&self) -> &WakeLink<Self> {
        &self.wake_link
    }
}
