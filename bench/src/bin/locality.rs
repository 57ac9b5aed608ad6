//! Same-node work on the last node, for the zero-remote gate: call and reply, page fault to a local pager, map and
//! unmap between two spaces that were made there and show a copy of the program there.
//!
//! `cargo xtask sim locality --machine 2n4c --caches off --demand-local all` demands that no region makes a single
//! remote access, fetches, data and page-table walks together, kernel and user (issue: zero-remote gate). Every
//! region is open on all CPUs, so what other CPUs do for one of them counts, too.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use bench::lab::crew::{self, Entry, Member, Mover, check, plain};
use bench::lab::place::{Memory, PAGE, View};
use core::sync::atomic::Ordering;
use l4abi::record;
use libl4::ipc::{self, Received};
use libl4::pager::{self, Fault};
use libl4::thread::{self, Stack};
use libl4::{CpuId, Fpage, MsgTag, NodeId, Rights, ThreadId, Timeouts};
use libl4::{arch, exit, msg, roi, sys, topology};

libl4::entry!(main);

/// Repetitions that are counted, after as many that are not.
const ROUNDS: u64 = 40;

/// Where the pager's pages and, at the same addresses, what it maps to its client lie.
const SCRATCH: u64 = 0x4000_0000;
const SCRATCH_BYTES: u64 = 1 << 20;

static MOVER_STACK: Stack<8192> = Stack::new();
static STACKS: [Stack<16384>; 2] = [const { Stack::new() }; 2];

/// Commands; also labels of messages from the client to its pager.
mod order {
    /// To the pager: touch all pages of the scratch memory.
    pub const TOUCH: u64 = 1;
    /// To the pager: serve the client until it says [`STOP`].
    pub const SERVE: u64 = 2;
    /// To the client: all measurements, with the partner in MR1.
    pub const RUN: u64 = 3;
    /// Send as many words back.
    pub const ECHO: u64 = 4;
    /// Map the page whose number is in MR1.
    pub const MAP: u64 = 5;
    /// Unmap it; MR2 tells whether that is counted.
    pub const UNMAP: u64 = 6;
    /// Done.
    pub const STOP: u64 = 7;
}

fn main() {
    exit::exit_on_panic();
    crew::touch_image();
    let Some(stack) = MOVER_STACK.take() else { return };
    let mover = Mover::new(crew::id(1), &stack);
    let node = NodeId((0..topology::node_count() as u8).rev().find(has_cpu).unwrap_or(0));
    let mut cpus = topology::cpus_of(node);
    let first = cpus.next().unwrap_or(CpuId(0));
    let second = cpus.next();
    let start = thread::my_cpu();

    let program = View::of_program(node);
    let memory = Memory::on(node, SCRATCH_BYTES);
    let (Some(program), Some(memory)) = (program, memory) else {
        return check("getting memory of the last node", false);
    };
    for page in 0..SCRATCH_BYTES / PAGE {
        arch::poke(memory.base + page * PAGE, page);
    }
    let scratch = View { at: SCRATCH, memory, bytes: SCRATCH_BYTES };

    // The creator's node becomes the spaces' home.
    mover.go_to(first);
    let pager = Member { id: crew::id(2), views: &[program, scratch], cpu: first };
    let client = Member { id: crew::id(3), views: &[program], cpu: first };
    for (member, (stack, entry)) in
        [&pager, &client].into_iter().zip(STACKS.iter().zip([serve_commands as Entry, measure]))
    {
        let Some(stack) = stack.take() else { return };
        member.start(&stack, entry, thread::my_global_id().raw());
    }
    mover.go_to(start);
    pager.perform(order::TOUCH, &[]);

    let mut pages = 0;
    for (index, cpu) in [Some(first), second].into_iter().enumerate() {
        let Some(cpu) = cpu else { continue };
        pager.move_to(cpu);
        pager.command(order::SERVE, &[client.id.raw()]);
        let report = client.perform(order::RUN, &[pager.id.raw(), pages, index as u64]);
        pages = report.mr(2);
        let right = report.mr(1);
        pager.done();
        let name = ["same cpu", "same node"][index];
        let wanted = 2 * ROUNDS * KINDS;
        libl4::console::record(|out| {
            let detail = format_args!("{right} of {wanted} right, on node {}", node.0);
            record::Test { name, ok: right == wanted, detail }.write(out)
        });
        check(name, right == wanted);
    }
    exit::exit(exit::Outcome::Success);
}

fn has_cpu(node: &u8) -> bool {
    topology::cpus_of(NodeId(*node)).next().is_some()
}

/// The pager.
extern "C" fn serve_commands(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    loop {
        let command = crew::next_command(controller, &[]);
        match command.tag.label() {
            order::TOUCH => (0..SCRATCH_BYTES / PAGE).for_each(|page| {
                let _ = arch::touch_read(SCRATCH + page * PAGE);
            }),
            order::SERVE => serve(ThreadId::from_raw(command.mr(1))),
            _ => {}
        }
    }
}

fn page(number: u64) -> Fpage {
    Fpage::memory(SCRATCH + number * PAGE, 12, Rights::RWX)
}

/// Serves the client's calls and faults until it stops.
fn serve(client: ThreadId) {
    let mut got = ipc::receive(client, Timeouts::NEVER);
    while let Ok(message) = &got {
        let Some(tag) = answer(message) else { break };
        got = ipc::call(client, Timeouts::NEVER, tag);
    }
    // The client waits for the answer to its last call.
    let _ = ipc::send(client, libl4::Time::NEVER, MsgTag::NIL);
}

/// The reply to a request; none if it was the last.
fn answer(message: &Received) -> Option<MsgTag> {
    if let Some(Fault::Page(fault)) = Fault::of(message) {
        let from = fault.addr & !(PAGE - 1);
        return Some(pager::map_reply(&fault, from, 12, Rights::RWX));
    }
    match message.tag.label() {
        order::ECHO => Some(MsgTag::new(order::ECHO, message.tag.untyped(), 0)),
        order::MAP => {
            let number = message.mr(1);
            let mut reply = msg::Writer::here();
            reply.map(SCRATCH + number * PAGE, page(number));
            Some(reply.tag(0))
        }
        order::UNMAP => {
            let (number, counted) = (message.mr(1), message.mr(2) != 0);
            if counted {
                roi::begin_all::<5>();
            }
            sys::unmap_one(page(number), false);
            if counted {
                roi::end_all::<5>();
            }
            Some(plain(0))
        }
        _ => None,
    }
}

/// Kinds of checked repetitions in [`run`].
const KINDS: u64 = 5;

/// The client.
extern "C" fn measure(controller: u64) -> ! {
    let controller = ThreadId::from_raw(controller);
    crew::begin();
    let (mut right, mut pages) = (0, 0);
    loop {
        let command = crew::next_command(controller, &[right, pages]);
        if command.tag.label() == order::RUN {
            let server = ThreadId::from_raw(command.mr(1));
            (right, pages) = run(server, command.mr(2), command.mr(3) == 0);
        }
    }
}

/// Names the regions after where the pager is.
fn name_regions(same_cpu: bool) {
    if same_cpu {
        roi::name::<1>("call 0 words, same cpu");
        roi::name::<2>("call 63 words, same cpu");
        roi::name::<3>("fault, same cpu");
        roi::name::<4>("map, same cpu");
        roi::name::<5>("unmap, same cpu");
    } else {
        roi::name::<1>("call 0 words, same node");
        roi::name::<2>("call 63 words, same node");
        roi::name::<3>("fault, same node");
        roi::name::<4>("map, same node");
        roi::name::<5>("unmap, same node");
    }
}

/// Everything once with the server where it is; `first` is the first page that nobody has touched. Answers how many
/// repetitions were right, and the next such page.
fn run(server: ThreadId, first: u64, same_cpu: bool) -> (u64, u64) {
    arch::utcb().pager.store(server.raw(), Ordering::Relaxed);
    let call = |tag| ipc::call(server, Timeouts::NEVER, tag);
    let mut right = 0;
    for counted in [false, true] {
        if counted {
            name_regions(same_cpu);
        }
        for round in 0..ROUNDS {
            right += u64::from(echo::<1>(counted, server, 0));
            right += u64::from(echo::<2>(counted, server, 63));
            let number = first + round + if counted { ROUNDS } else { 0 };
            right += u64::from(fault(counted, number));
            let unmap = |number: u64| {
                let mut message = msg::Writer::here();
                message.words(&[number, u64::from(counted)]);
                call(message.tag(order::UNMAP)).is_ok()
            };
            // Gone, so that the next step maps it again.
            right += u64::from(unmap(number));
            let mut message = msg::Writer::here();
            message.word(number);
            let tag = message.tag(order::MAP);
            if counted {
                roi::begin_all::<4>();
            }
            let mapped = call(tag).is_ok();
            if counted {
                roi::end_all::<4>();
            }
            right += u64::from(mapped && arch::peek(SCRATCH + number * PAGE) == number);
        }
    }
    let stopped = call(plain(order::STOP)).is_ok();
    (if stopped { right } else { 0 }, first + 2 * ROUNDS)
}

/// A call of `words` words that come back.
fn echo<const ID: u16>(counted: bool, server: ThreadId, words: usize) -> bool {
    let tag = MsgTag::new(order::ECHO, words, 0);
    if counted {
        roi::begin_all::<ID>();
    }
    let got = ipc::call(server, Timeouts::NEVER, tag);
    if counted {
        roi::end_all::<ID>();
    }
    got.is_ok_and(|got| got.tag.untyped() == words)
}

/// The first touch of a page; what is read there must be its number.
fn fault(counted: bool, number: u64) -> bool {
    if counted {
        roi::begin_all::<3>();
    }
    let value = arch::peek(SCRATCH + number * PAGE);
    if counted {
        roi::end_all::<3>();
    }
    value == number
}
