//! The state of one modelled CPU: its clock, its causal past, its translation buffers.

use crate::{
    config::Config,
    counters::{Count, Counters, KERNEL, USER},
    tlb::Tlb,
    walk::Control,
};

/// A causal chain of execution that can cross CPUs: how many instructions lie on it. When a CPU
/// waits for another (it reads a line that was written later than its own clock, or takes an
/// interrupt that was sent to it), it continues the other's chain. The difference of two readings
/// is the number of instructions on the *latency path* between them, whichever CPUs executed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Instructions in the kernel.
    pub kernel: u64,
    /// Instructions in user mode.
    pub user: u64,
    /// How often the chain went from one CPU to another.
    pub hops: u32,
    /// Which region opening the chain comes from (a running number).
    pub epoch: u32,
}

/// What a store leaves at its line, or an interrupt carries: when, by whom, at the end of which chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The writer's clock, in cycles.
    pub time: u64,
    /// The writer's chain.
    pub path: Path,
    /// The slice of execution in which it happened.
    pub slice: u32,
    /// The writer + 1; 0 for nobody.
    pub writer: u8,
}

/// What has to be forgotten before the next access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing.
    Nothing,
    /// Non-global translations (CR3 was loaded).
    Context,
    /// Everything (paging mode changed, or the CPU has just started).
    All,
    /// One page, named by the operand of an INVLPG.
    Page(Operand),
}

/// A memory operand, to be evaluated when the registers can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Base register, in hardware numbering.
    pub base: Option<u8>,
    /// Index register and its factor.
    pub index: Option<(u8, u8)>,
    /// Displacement; with a RIP-relative operand the whole address.
    pub displacement: u64,
}

/// A line number no access has.
pub const NO_LINE: u64 = u64::MAX;

/// A line that was fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its virtual number.
    pub line: u64,
    /// Its physical number, if it is in RAM and certainly still in the first level.
    pub place: Option<u32>,
    /// The mode that it was fetched in.
    pub mode: usize,
}

impl Fetched {
    /// None.
    pub const NOTHING: Fetched = Fetched { line: NO_LINE, place: None, mode: KERNEL };
}

/// One CPU.
#[derive(Debug)]
pub struct Cpu {
    /// Its node.
    pub node: usize,
    /// Its clock, in modelled cycles.
    pub clock: u64,
    /// Cycles its clock was moved forward because it waited for others.
    pub waited: u64,
    /// What it did.
    pub counters: Counters,
    /// The bank (kernel or user) of the block it executes.
    pub mode: usize,
    /// What of its chain was not executed by itself (kernel, user; wrapping).
    path_offset: [u64; 2],
    path_hops: u32,
    /// The opening of a region its chain comes from.
    pub epoch: u32,
    /// Instruction translations.
    pub itlb: Tlb,
    /// Data translations.
    pub dtlb: Tlb,
    /// Paging-structure cache: (virtual address >> 21, last-level table), most recent first.
    pub walk_cache: Vec<(u64, u64)>,
    /// Paging registers as of the last flush.
    pub control: Control,
    /// What to flush before the next access.
    pub pending: Pending,
    /// The line of the last fetch.
    pub fetched: Fetched,
    /// The line of the fetch before, if to fetch from it again would find it in the first level and change nothing
    /// there: a loop that calls a function alternates between two lines.
    pub fetched_before: Fetched,
    /// Virtual address behind the block of the last fetch.
    pub fetch_end: u64,
    /// Virtual line of the last load.
    pub read_line: u64,
    /// Virtual line of the last store, and its physical line.
    pub write_line: (u64, u32),
    /// It has executed something and is not halted.
    pub runnable: bool,
    /// Instructions executed when it last executed PAUSE, and the slice of that.
    pub paused_at: Option<(u64, u32)>,
    /// The guest's number for it, from its HELLO marker.
    pub guest_number: Option<u64>,
    /// Address of the code line being executed.
    pub pc: u64,
    /// Interrupts sent to it and not yet taken.
    pub mail: Vec<(u8, Stamp)>,
    /// A repeated string instruction: its address, and the instruction count after it.
    pub repeating: (u64, u64),
    /// Regions open on it.
    pub open: Vec<usize>,
}

impl Cpu {
    /// A CPU that has not executed anything yet.
    #[must_use]
    pub fn new(config: &Config, index: usize) -> Cpu {
        Cpu {
            node: config.cpu_node[index],
            clock: 0,
            waited: 0,
            counters: Counters::default(),
            mode: KERNEL,
            path_offset: [0; 2],
            path_hops: 0,
            epoch: 0,
            itlb: Tlb::new(config.itlb),
            dtlb: Tlb::new(config.dtlb),
            walk_cache: Vec::new(),
            control: Control::default(),
            pending: Pending::All,
            fetched: Fetched::NOTHING,
            fetched_before: Fetched::NOTHING,
            fetch_end: NO_LINE,
            read_line: NO_LINE,
            write_line: (NO_LINE, 0),
            runnable: false,
            paused_at: None,
            guest_number: None,
            pc: 0,
            mail: Vec::new(),
            repeating: (NO_LINE, 0),
            open: Vec::new(),
        }
    }

    /// Forgets which lines were accessed last, so that the next access is looked at in full.
    pub fn reset_filters(&mut self) {
        self.fetched = Fetched::NOTHING;
        self.fetched_before = Fetched::NOTHING;
        self.read_line = NO_LINE;
        self.write_line = (NO_LINE, 0);
    }

    /// A line or a translation of code may have been displaced: fetches are looked at in full until lines have been
    /// fetched again.
    pub fn doubt_fetched(&mut self) {
        self.fetched.place = None;
        self.fetched_before = Fetched::NOTHING;
    }

    /// Instructions executed, in both modes.
    #[must_use]
    pub fn instructions(&self) -> u64 {
        self.counters.get(KERNEL, Count::Instructions)
            + self.counters.get(USER, Count::Instructions)
    }

    /// The chain that ends here and now.
    #[must_use]
    pub fn path(&self) -> Path {
        let at = |bank| {
            self.counters.get(bank, Count::Instructions).wrapping_add(self.path_offset[bank])
        };
        Path { kernel: at(KERNEL), user: at(USER), hops: self.path_hops, epoch: self.epoch }
    }

    /// Continues another CPU's chain at `time` or, if this CPU is already later, from now. A chain
    /// that is older than the opening this CPU's own comes from cannot be its cause: then it only waits
    /// (clocks run ahead of each other, so what another did before the opening may carry a later time).
    pub fn continue_from(&mut self, path: Path, time: u64) {
        if time > self.clock {
            self.waited += time - self.clock;
            self.clock = time;
        }
        self.paused_at = None;
        if path.epoch < self.epoch {
            return;
        }
        for (bank, count) in [(KERNEL, path.kernel), (USER, path.user)] {
            self.path_offset[bank] =
                count.wrapping_sub(self.counters.get(bank, Count::Instructions));
        }
        self.path_hops = path.hops + 1;
        self.epoch = path.epoch;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_counts_what_both_cpus_executed() {
        let config = Config::parse(crate::config::TEST_MACHINE).expect("parses");
        let (mut a, mut b) = (Cpu::new(&config, 0), Cpu::new(&config, 2));
        let start = a.path();
        a.counters.add(KERNEL, Count::Instructions, 70);
        a.clock = 500;
        b.counters.add(KERNEL, Count::Instructions, 9999);
        b.clock = 100;
        b.continue_from(a.path(), 540);
        assert_eq!((b.clock, b.waited), (540, 440));
        b.counters.add(KERNEL, Count::Instructions, 30);
        b.counters.add(USER, Count::Instructions, 5);
        let end = b.path();
        assert_eq!((end.kernel - start.kernel, end.user - start.user, end.hops), (100, 5, 1));
        a.clock = 1000;
        a.continue_from(end, 600);
        assert_eq!((a.clock, a.waited), (1000, 0), "clocks never go back");
        assert_eq!(a.path().kernel, 100);
        a.epoch = 5;
        a.continue_from(b.path(), 2000);
        assert_eq!((a.clock, a.path().hops), (2000, 2), "an older chain is only waited for");
    }
}
