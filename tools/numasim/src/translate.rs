//! What to watch in a newly translated block.
//!
//! Every instruction adds to a total (inline, without a call). The first instruction of the block and
//! the first of every further code line report a fetch; so do instructions that reach into a line.
//! Loads and stores report themselves. Instructions of interest and markers report an event; a marker
//! and a repeated string instruction do not add to the total (the model counts the latter).

use crate::{
    guest::control_of,
    qemu::{CpuHandle, Instruction, Register},
    with_state,
};
use l4abi::marker::{self, Op};
use numasim_model::{
    counters::Count,
    cpu::Operand,
    decode::{invlpg_operand, traits},
    sim::{Block, Guest},
    walk::{Control, walk},
};
use std::{collections::HashMap, hash::Hash};

/// Something an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It is counted.
    Count(Count),
    /// It drops a page from the TLB.
    Invlpg(Operand),
    /// It is an element of the repeated instruction at this address.
    Repeated(u64),
    /// It is a marker; the flag says that it begins its block.
    Marker(Op, u16, bool),
}

/// A list without duplicates: blocks are translated again and again, and what an index means must stay.
struct Interned<T> {
    list: Vec<T>,
    index: HashMap<T, usize>,
}

impl<T: Copy + Eq + Hash> Default for Interned<T> {
    fn default() -> Self {
        Interned { list: Vec::new(), index: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash> Interned<T> {
    fn add(&mut self, item: T) -> usize {
        *self.index.entry(item).or_insert_with(|| {
            self.list.push(item);
            self.list.len() - 1
        })
    }
}

/// What is being watched.
#[derive(Default)]
pub struct Watch {
    blocks: Interned<Block>,
    events: Interned<Event>,
    /// Interrupt descriptor tables.
    pub tables: Tables,
}

/// Where the CPUs' interrupt descriptor tables are.
#[derive(Default)]
pub struct Tables {
    of_cpu: HashMap<usize, u64>,
    /// Each table once: CPUs may have the same.
    distinct: Vec<u64>,
}

impl Tables {
    /// A CPU uses the table at this address from now on.
    pub fn set(&mut self, cpu: usize, table: u64) {
        if self.of_cpu.insert(cpu, table) != Some(table) {
            self.distinct = self.of_cpu.values().copied().collect();
            self.distinct.sort_unstable();
            self.distinct.dedup();
        }
    }
}

impl Watch {
    /// A watched block.
    pub fn block(&self, index: usize) -> Block {
        self.blocks.list[index]
    }

    /// A watched event.
    pub fn event(&self, index: usize) -> Event {
        self.events.list[index]
    }
}

/// Instruments a block.
pub fn block(instructions: &[Instruction]) {
    let Some(cpu) = CpuHandle::current() else { return };
    let control = control_of(cpu);
    // CPL is the low bits of CS in protected mode; real mode (CR0.PE clear) has none.
    let user = control.cr0 & 1 != 0 && cpu.register(Register::Cs) & 3 == 3;
    with_state(|s| {
        let mut line = None;
        let end = instructions.last().map_or(0, |i| i.vaddr + i.bytes.len() as u64);
        for (i, insn) in instructions.iter().enumerate() {
            let last = insn.vaddr + insn.bytes.len() as u64 - 1;
            if line != Some(insn.vaddr >> 6) {
                let vector =
                    if i == 0 && !user { handled_vector(s, control, insn.vaddr) } else { None };
                let gpa = s.guest.ram().gpa_of_host(insn.host);
                let block = Block { vaddr: insn.vaddr, gpa, end, user, vector };
                insn.report_block(s.watch.blocks.add(block));
            }
            if last >> 6 != insn.vaddr >> 6 {
                let vaddr = last & !63;
                let gpa = walk(&s.guest, control, vaddr, None)
                    .and_then(|w| w.mapping)
                    .map(|m| m.translate(vaddr));
                let block = Block { vaddr, gpa, end, user, vector: None };
                insn.report_block(s.watch.blocks.add(block));
            }
            line = Some(last >> 6);
            instruction(&mut s.watch, insn, i == 0, user);
        }
    });
}

fn instruction(watch: &mut Watch, insn: &Instruction, first: bool, user: bool) {
    let mut report = |event| insn.report_event(watch.events.add(event));
    if let Some((op, id)) = marker::decode(&insn.bytes) {
        return report(Event::Marker(op, id, first));
    }
    let t = traits(&insn.bytes);
    if t.repeated {
        report(Event::Repeated(insn.vaddr));
    } else {
        insn.count(user);
    }
    insn.report_accesses(t.lidt);
    if t.locked {
        report(Event::Count(Count::Locked));
    }
    match t.count {
        Some(Count::Invlpg) => {
            let next = insn.vaddr + insn.bytes.len() as u64;
            report(Event::Invlpg(invlpg_operand(&insn.bytes, next).unwrap_or_default()));
        }
        Some(count) => report(Event::Count(count)),
        None => {}
    }
}

/// The vector whose handler begins at `vaddr`, by any CPU's interrupt descriptor table. A handler is
/// translated when it is first entered, so its gate is in place by then.
fn handled_vector(s: &crate::State, control: Control, vaddr: u64) -> Option<u8> {
    s.watch.tables.distinct.iter().find_map(|&table| {
        // Every block of the kernel asks for all gates, which lie in a page or two: each is looked up once.
        let mut page = (u64::MAX, None);
        let mut word = |at: u64| {
            if at & 7 != 0 {
                return read_virtual(&s.guest, control, at);
            }
            if page.0 != at >> 12 {
                let found = walk(&s.guest, control, at, None).and_then(|w| w.mapping);
                page = (at >> 12, found);
            }
            s.guest.read(page.1?.translate(at))
        };
        (0..=255u8).find(|&v| {
            let gate = table + u64::from(v) * 16;
            // SDM 3A 6.14.1: offset in bits 0-15, 48-63 and 64-95, present in bit 47.
            let of_low = |low: u64| low & 0xFFFF | low >> 32 & 0xFFFF_0000;
            word(gate).is_some_and(|low| low >> 47 & 1 == 1 && of_low(low) == vaddr & 0xFFFF_FFFF)
                && word(gate + 8).is_some_and(|high| high << 32 == vaddr & !0xFFFF_FFFF)
        })
    })
}

/// Eight bytes at a virtual address, which need not be aligned; nothing is modelled.
pub fn read_virtual(guest: &impl Guest, control: Control, vaddr: u64) -> Option<u64> {
    let word = |at: u64| {
        let gpa = walk(guest, control, at, None)?.mapping?.translate(at);
        guest.read(gpa & !7)
    };
    let shift = (vaddr & 7) * 8;
    let low = word(vaddr & !7)? >> shift;
    if shift == 0 {
        return Some(low);
    }
    Some(low | word((vaddr & !7) + 8)? << (64 - shift))
}
