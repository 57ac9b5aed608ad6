//! Puppets: threads that execute one command after the other for a test.
//!
//! Commands and results travel through a block of words in the program's image, which every space
//! shares; only the signal to look is an IPC. So the IPC under test meets no other message, and a
//! test reads as one sequence although several threads act in it.

use super::{PATIENCE, TestResult, ids};
use crate::{check, need};
use core::sync::atomic::{AtomicU64, Ordering};
use libl4::arch::probe::Trap;
use libl4::arch::{self, IpcLink, utcb};
use libl4::{IpcError, MsgTag, ThreadId, Time, Timeouts, ipc, time};

/// Label of the signal that a command is there.
const CONTROL: u64 = 0xC0;
/// Message registers of a block.
const MRS: usize = 64;
/// Buffer registers of a block.
const BRS: usize = 33;

/// What a puppet can do. The numbers are the words in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Op {
    /// IPC with everything from the block. Args: to, from, timeouts, xfer timeouts, virtual sender,
    /// 1 = Lipc.
    Ipc = 1,
    /// Reads a byte. Arg: address. Result: the byte.
    Read,
    /// Writes a word. Args: address, value.
    Write,
    /// Jumps to code that returns at once (byte C3). Arg: address.
    Execute,
    /// ExchangeRegisters. Args: dest, control, SP, IP, FLAGS, handle, pager. Results: the outputs.
    Exregs,
    /// ThreadControl. Args: dest, pager, scheduler, space, UTCB. Result: RAX, ErrorCode.
    ThreadControl,
    /// SpaceControl. Args: space, control, KIP, UTCB, redirector. Result: RAX, ErrorCode, RDX.
    SpaceControl,
    /// Schedule. Args: dest, priority, time, processor, preemption. Result: RAX, ErrorCode, RDX.
    Schedule,
    /// ProcessorControl. Args: four words. Result: RAX, ErrorCode.
    ProcessorControl,
    /// MemoryControl of MR0. Args: control, attribute0. Result: RDX, ErrorCode.
    MemoryControl,
    /// Unmap of MR0... Arg: control. The MRs are results.
    Unmap,
    /// ThreadSwitch. Arg: dest.
    ThreadSwitch,
    /// Counts in result 0 until arg 7 is not 0.
    Spin,
    /// Reads a TCR. Arg: word index relative to MR0 (as two's complement). Result: the word.
    ReadTcr,
    /// Writes a TCR. Args: word index, value.
    WriteTcr,
    /// Raises an exception. Args: which, see [`raise`]; RAX. Result: RAX afterwards.
    Raise,
    /// Reads a port. Arg: port. Result: the byte.
    PortIn,
    /// KernelInterface. Results: KIP, version, flags, kernel id, mask of changed registers.
    KernelInterface,
    /// Sets the SSE registers. Arg: value.
    FpuSet,
    /// Reads the SSE registers. Results: both values.
    FpuGet,
}

const OPS: [Op; 20] = [
    Op::Ipc,
    Op::Read,
    Op::Write,
    Op::Execute,
    Op::Exregs,
    Op::ThreadControl,
    Op::SpaceControl,
    Op::Schedule,
    Op::ProcessorControl,
    Op::MemoryControl,
    Op::Unmap,
    Op::ThreadSwitch,
    Op::Spin,
    Op::ReadTcr,
    Op::WriteTcr,
    Op::Raise,
    Op::PortIn,
    Op::KernelInterface,
    Op::FpuSet,
    Op::FpuGet,
];

/// Exceptions for [`Op::Raise`] by number.
pub const TRAPS: [Trap; 7] = [
    Trap::InvalidOpcode,
    Trap::DivideError,
    Trap::NonCanonical,
    Trap::Breakpoint,
    Trap::Privileged,
    Trap::Syscall,
    Trap::Counter,
];

/// The block of one puppet.
struct Block {
    seq: AtomicU64,
    done: AtomicU64,
    op: AtomicU64,
    args: [AtomicU64; 8],
    mr: [AtomicU64; MRS],
    br: [AtomicU64; BRS],
    /// Results of the command; for IPC: from, ErrorCode, time it took.
    results: [AtomicU64; 8],
}

const fn empty_block() -> Block {
    Block {
        seq: AtomicU64::new(0),
        done: AtomicU64::new(0),
        op: AtomicU64::new(0),
        args: [const { AtomicU64::new(0) }; 8],
        mr: [const { AtomicU64::new(0) }; MRS],
        br: [const { AtomicU64::new(0) }; BRS],
        results: [const { AtomicU64::new(0) }; 8],
    }
}

static BLOCKS: [Block; ids::MAX_PUPPETS] = [const { empty_block() }; ids::MAX_PUPPETS];

/// An IPC for a puppet (or the runner) to do.
#[derive(Clone, Copy, Debug)]
pub struct IpcCmd<'a> {
    /// Send to, nil = no send phase.
    pub to: ThreadId,
    /// Receive from, nil = no receive phase.
    pub from: ThreadId,
    /// Timeouts; [`super::PATIENCE`] each if not set.
    pub timeouts: Timeouts,
    /// Transfer timeouts.
    pub xfer: Timeouts,
    /// VirtualSender, for propagation.
    pub virtual_sender: ThreadId,
    /// By the Lipc link.
    pub lipc: bool,
    /// MR0.
    pub tag: MsgTag,
    /// MR1 and following.
    pub words: &'a [u64],
    /// BR0 and following.
    pub brs: &'a [u64],
}

impl<'a> IpcCmd<'a> {
    /// An IPC with both phases.
    #[must_use]
    pub const fn new(to: ThreadId, from: ThreadId) -> Self {
        Self {
            to,
            from,
            timeouts: Timeouts::new(super::PATIENCE, super::PATIENCE),
            xfer: Timeouts::NEVER,
            virtual_sender: ThreadId::NIL,
            lipc: false,
            tag: MsgTag::NIL,
            words: &[],
            brs: &[],
        }
    }

    /// A send.
    #[must_use]
    pub const fn send(to: ThreadId) -> Self {
        Self::new(to, ThreadId::NIL)
    }

    /// A receive.
    #[must_use]
    pub const fn receive(from: ThreadId) -> Self {
        Self::new(ThreadId::NIL, from)
    }

    /// A call.
    #[must_use]
    pub const fn call(to: ThreadId) -> Self {
        Self::new(to, to)
    }

    /// With a message of untyped words.
    #[must_use]
    pub const fn words(mut self, label: u64, words: &'a [u64]) -> Self {
        self.tag = MsgTag::new(label, words.len(), 0);
        self.words = words;
        self
    }

    /// With any message.
    #[must_use]
    pub const fn message(mut self, tag: MsgTag, words: &'a [u64]) -> Self {
        self.tag = tag;
        self.words = words;
        self
    }

    /// With these timeouts.
    #[must_use]
    pub const fn timeouts(mut self, send: Time, receive: Time) -> Self {
        self.timeouts = Timeouts::new(send, receive);
        self
    }

    /// With these buffer registers.
    #[must_use]
    pub const fn brs(mut self, brs: &'a [u64]) -> Self {
        self.brs = brs;
        self
    }

    /// With this transfer timeout for both directions.
    #[must_use]
    pub const fn xfer(mut self, time: Time) -> Self {
        self.xfer = Timeouts::new(time, time);
        self
    }

    /// With propagation for `sender`.
    #[must_use]
    pub const fn propagate(mut self, sender: ThreadId) -> Self {
        self.virtual_sender = sender;
        self.tag = self.tag.add_flags(l4abi::tag::TagFlags::PROPAGATED);
        self
    }
}

/// What an IPC or another command left behind.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// from after an IPC.
    pub from: ThreadId,
    /// MR0.
    pub tag: MsgTag,
    /// The ErrorCode TCR.
    pub error: u64,
    /// All message registers.
    pub mr: [u64; MRS],
    /// Result words of other commands.
    pub results: [u64; 8],
    /// How long it took, in microseconds.
    pub took_us: u64,
}

impl Outcome {
    /// The IPC error, if it failed.
    #[must_use]
    pub fn ipc_error(&self) -> Option<IpcError> {
        self.tag.is_error().then(|| IpcError::from_raw(self.error))
    }

    /// The untyped words.
    #[must_use]
    pub fn untyped(&self) -> &[u64] {
        &self.mr[1..=self.tag.untyped().min(MRS - 1)]
    }
}

/// Executes an IPC in the running thread.
#[must_use]
pub fn execute_ipc(cmd: &IpcCmd<'_>) -> Outcome {
    let me = utcb();
    for (i, &word) in cmd.words.iter().enumerate() {
        me.store_mr(i + 1, word);
    }
    me.br(0).store(0, Ordering::Relaxed);
    for (i, &word) in cmd.brs.iter().enumerate().take(BRS) {
        me.br(i).store(word, Ordering::Relaxed);
    }
    me.xfer_timeouts.store(cmd.xfer.raw(), Ordering::Relaxed);
    me.sender.store(cmd.virtual_sender.raw(), Ordering::Relaxed);
    me.store_mr(0, cmd.tag.raw());
    let link = if cmd.lipc { IpcLink::Lipc } else { IpcLink::Ipc };
    let before = time::now_us();
    let from = arch::ipc(link, cmd.to.raw(), cmd.from.raw(), cmd.timeouts.raw());
    let mr = core::array::from_fn(|i| me.load_mr(i));
    let took_us = time::now_us() - before;
    me.br(0).store(0, Ordering::Relaxed);
    Outcome {
        from: ThreadId::from_raw(from),
        tag: MsgTag::from_raw(mr[0]),
        error: me.error_code.load(Ordering::Relaxed),
        mr,
        results: [0; 8],
        took_us,
    }
}

/// A puppet, as the runner sees it.
#[derive(Clone, Copy, Debug)]
pub struct Puppet {
    index: usize,
    /// Its global id.
    pub id: ThreadId,
    /// Its UTCB location.
    pub utcb: u64,
}

impl Puppet {
    pub(super) fn new(index: usize, id: ThreadId, utcb: u64) -> Self {
        let block = &BLOCKS[index];
        block.done.store(block.seq.load(Ordering::Relaxed), Ordering::Relaxed);
        Self { index, id, utcb }
    }

    /// Its local id (for threads of its space).
    #[must_use]
    pub fn local_id(&self) -> ThreadId {
        ThreadId::local(self.utcb + l4abi::utcb::MR0_OFFSET as u64)
    }

    /// Puts a command into the block and wakes the puppet, which must be idle.
    fn post(&self, op: Op, args: &[u64]) -> TestResult {
        let block = &BLOCKS[self.index];
        for (i, slot) in block.args.iter().enumerate() {
            slot.store(args.get(i).copied().unwrap_or(0), Ordering::Relaxed);
        }
        for slot in &block.results {
            slot.store(0, Ordering::Relaxed);
        }
        block.op.store(op as u64, Ordering::Relaxed);
        block.seq.fetch_add(1, Ordering::Release);
        let sent = ipc::send(self.id, PATIENCE, MsgTag::new(CONTROL, 0, 0));
        if sent.is_err() {
            super::print_state(self.id);
        }
        need!(sent);
        Ok(())
    }

    /// Starts a command other than IPC.
    ///
    /// # Errors
    /// If the puppet is not idle.
    pub fn start(&self, op: Op, args: &[u64]) -> TestResult {
        self.post(op, args)
    }

    /// Starts an IPC.
    ///
    /// # Errors
    /// If the puppet is not idle.
    pub fn start_ipc(&self, cmd: &IpcCmd<'_>) -> TestResult {
        let block = &BLOCKS[self.index];
        block.mr[0].store(cmd.tag.raw(), Ordering::Relaxed);
        for (i, slot) in block.mr.iter().enumerate().skip(1) {
            slot.store(cmd.words.get(i - 1).copied().unwrap_or(0), Ordering::Relaxed);
        }
        for (i, slot) in block.br.iter().enumerate() {
            slot.store(cmd.brs.get(i).copied().unwrap_or(0), Ordering::Relaxed);
        }
        self.post(
            Op::Ipc,
            &[
                cmd.to.raw(),
                cmd.from.raw(),
                cmd.timeouts.raw(),
                cmd.xfer.raw(),
                cmd.virtual_sender.raw(),
                u64::from(cmd.lipc),
            ],
        )
    }

    /// Whether the last command is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let block = &BLOCKS[self.index];
        block.done.load(Ordering::Acquire) == block.seq.load(Ordering::Relaxed)
    }

    /// Waits for the end of the last command.
    ///
    /// # Errors
    /// If it takes more than three seconds.
    pub fn finish(&self) -> TestResult<Outcome> {
        let limit = time::now_us() + 3_000_000;
        while !self.is_done() {
            check!(time::now_us() < limit, "puppet {} does not finish", self.index);
            time::sleep_us(300);
        }
        let block = &BLOCKS[self.index];
        let mr: [u64; MRS] = core::array::from_fn(|i| block.mr[i].load(Ordering::Relaxed));
        let results: [u64; 8] = core::array::from_fn(|i| block.results[i].load(Ordering::Relaxed));
        Ok(Outcome {
            from: ThreadId::from_raw(results[0]),
            tag: MsgTag::from_raw(mr[0]),
            error: results[1],
            mr,
            results,
            took_us: results[2],
        })
    }

    /// Executes a command other than IPC.
    ///
    /// # Errors
    /// If the puppet is not idle or does not finish.
    pub fn run(&self, op: Op, args: &[u64]) -> TestResult<Outcome> {
        self.start(op, args)?;
        self.finish()
    }

    /// Executes an IPC.
    ///
    /// # Errors
    /// If the puppet is not idle or does not finish.
    pub fn run_ipc(&self, cmd: &IpcCmd<'_>) -> TestResult<Outcome> {
        self.start_ipc(cmd)?;
        self.finish()
    }

    /// Sets words MR0.. of the block, for commands that take fpages there.
    pub fn set_mrs(&self, words: &[u64]) {
        for (slot, &word) in BLOCKS[self.index].mr.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    /// Sets an argument while a command runs ([`Op::Spin`] stops at argument 7).
    pub fn set_arg(&self, i: usize, value: u64) {
        BLOCKS[self.index].args[i].store(value, Ordering::Release);
    }

    /// A result word of a command that still runs.
    #[must_use]
    pub fn peek_result(&self, i: usize) -> u64 {
        BLOCKS[self.index].results[i].load(Ordering::Acquire)
    }
}

/// The puppets' code; the argument is the index of the block.
pub(super) extern "C" fn main(index: u64) -> ! {
    let block = &BLOCKS[index as usize % ids::MAX_PUPPETS];
    loop {
        let signal = ipc::receive(ids::of_slot(ids::RUNNER), Timeouts::NEVER);
        let seq = block.seq.load(Ordering::Acquire);
        let expected = signal.is_ok_and(|m| m.tag.label() == CONTROL);
        if !expected || seq == block.done.load(Ordering::Relaxed) {
            continue;
        }
        perform(block);
        block.done.store(seq, Ordering::Release);
    }
}

fn perform(block: &Block) {
    let op = block.op.load(Ordering::Relaxed);
    let Some(&op) = OPS.iter().find(|&&known| known as u64 == op) else { return };
    if op == Op::Ipc {
        return perform_ipc(block);
    }
    let args = core::array::from_fn(|i| block.args[i].load(Ordering::Relaxed));
    let results = super::perform::command(op, args, &block.args[7], &block.mr, &block.results[0]);
    for (slot, word) in block.results.iter().zip(results) {
        slot.store(word, Ordering::Relaxed);
    }
}

fn perform_ipc(block: &Block) {
    let arg = |i: usize| block.args[i].load(Ordering::Relaxed);
    let words: [u64; MRS] = core::array::from_fn(|i| block.mr[i].load(Ordering::Relaxed));
    let brs: [u64; BRS] = core::array::from_fn(|i| block.br[i].load(Ordering::Relaxed));
    let outcome = execute_ipc(&IpcCmd {
        to: ThreadId::from_raw(arg(0)),
        from: ThreadId::from_raw(arg(1)),
        timeouts: Timeouts::from_raw(arg(2)),
        xfer: Timeouts::from_raw(arg(3)),
        virtual_sender: ThreadId::from_raw(arg(4)),
        lipc: arg(5) != 0,
        tag: MsgTag::from_raw(words[0]),
        words: &words[1..],
        brs: &brs,
    });
    for (slot, word) in block.mr.iter().zip(outcome.mr) {
        slot.store(word, Ordering::Relaxed);
    }
    block.results[0].store(outcome.from.raw(), Ordering::Relaxed);
    block.results[1].store(outcome.error, Ordering::Relaxed);
    block.results[2].store(outcome.took_us, Ordering::Relaxed);
}
