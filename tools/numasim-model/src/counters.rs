//! The counters of one CPU: a flat array with named places, so that differences are one loop.

use crate::{MAX_NODES, coherence::Level};

/// Declares [`Count`] with its names in results.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Things counted per CPU and privilege, besides memory traffic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Count { $($(#[$doc])* $name,)* }

        impl Count {
            /// All of them, in order.
            pub const ALL: &'static [Count] = &[$(Count::$name),*];

            /// The name in results.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Count::$name => $text,)* }
            }
        }
    };
}

counts! {
    /// Instructions executed (a repeated string instruction counts once, a marker not at all).
    Instructions = "instructions",
    /// Load accesses (one per line touched).
    Loads = "loads",
    /// Store accesses (one per line touched).
    Stores = "stores",
    /// Page walks.
    Walks = "walks",
    /// Stores that had to make other copies invalid.
    Upgrades = "upgrades",
    /// Copies in other CPUs made invalid.
    Invalidations = "invalidations",
    /// Stores that made a copy on another node invalid.
    InvalidationsFar = "invalidations_far",
    /// Dirty lines written back to memory of the own node.
    WritebacksLocal = "writebacks_local",
    /// Dirty lines written back to memory of another node.
    WritebacksFar = "writebacks_far",
    /// LOCK-prefixed instructions, and XCHG with memory.
    Locked = "locked",
    /// SYSCALL.
    Syscall = "syscall",
    /// SYSRET.
    Sysret = "sysret",
    /// Loads of CR3.
    Cr3Write = "cr3_write",
    /// Loads of CR0 and CR4.
    ModeWrite = "mode_write",
    /// WRMSR.
    Wrmsr = "wrmsr",
    /// RDMSR.
    Rdmsr = "rdmsr",
    /// INVLPG.
    Invlpg = "invlpg",
    /// INVPCID.
    Invpcid = "invpcid",
    /// IRET.
    Iret = "iret",
    /// INT n and INT3.
    SoftInt = "int",
    /// HLT.
    Hlt = "hlt",
    /// PAUSE.
    Pause = "pause",
    /// IN, OUT and their string forms.
    PortIo = "port_io",
    /// SWAPGS.
    Swapgs = "swapgs",
    /// CPUID.
    Cpuid = "cpuid",
    /// FXSAVE, XSAVE and their restores.
    FpuState = "fpu_state",
    /// Inter-processor interrupts sent.
    IpiSent = "ipi_sent",
    /// Interrupts and exceptions taken (entries through the interrupt descriptor table).
    Interrupts = "interrupts",
}

/// The memory traffic classes that are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Instruction fetch.
    Fetch,
    /// Loads and stores.
    Data,
    /// Page-table entries read by the hardware walker.
    Walk,
}

impl Class {
    /// All of them, in order.
    pub const ALL: [Class; 3] = [Class::Fetch, Class::Data, Class::Walk];

    /// The name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Fetch => "fetch",
            Class::Data => "data",
            Class::Walk => "walk",
        }
    }
}

/// Privilege: index of a bank of counters.
pub const KERNEL: usize = 0;
/// Privilege: index of a bank of counters.
pub const USER: usize = 1;

/// L1, L2, L3, near cache, far cache, device.
const LEVELS: usize = 6;
const TRAFFIC: usize = LEVELS + MAX_NODES;
const BANK: usize = Count::ALL.len() + 3 * TRAFFIC;
const VECTORS: usize = 2 * BANK;
const TOTAL: usize = VECTORS + 256;

/// All counters of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(Box<[u64]>);

impl Default for Counters {
    fn default() -> Self {
        Counters(vec![0; TOTAL].into_boxed_slice())
    }
}

/// Traffic of one class at one privilege.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Served by L1, L2 and L3 of the own node.
    pub hits: [u64; 3],
    /// Taken from another CPU's cache on the same node.
    pub near: u64,
    /// Taken from a cache on another node.
    pub far: u64,
    /// Device registers.
    pub io: u64,
    /// Accesses to the memory of each node.
    pub memory: [u64; MAX_NODES],
}

impl Traffic {
    /// Accesses that left node `node`: other nodes' memory and caches.
    #[must_use]
    pub fn remote(&self, node: usize) -> u64 {
        let others = self.memory.iter().enumerate().filter(|&(n, _)| n != node);
        self.far + others.map(|(_, c)| c).sum::<u64>()
    }

    /// Accesses to node `node`'s memory.
    #[must_use]
    pub fn local(&self, node: usize) -> u64 {
        self.memory[node]
    }

    /// All accesses.
    #[must_use]
    pub fn total(&self) -> u64 {
        let hits: u64 = self.hits.iter().sum();
        hits + self.near + self.far + self.io + self.memory.iter().sum::<u64>()
    }
}

impl Counters {
    /// Adds to a count.
    pub fn add(&mut self, bank: usize, count: Count, n: u64) {
        self.0[bank * BANK + count as usize] += n;
    }

    /// A count.
    #[must_use]
    pub fn get(&self, bank: usize, count: Count) -> u64 {
        self.0[bank * BANK + count as usize]
    }

    /// Books an access by what served it.
    pub fn access(&mut self, bank: usize, class: Class, level: Level) {
        let at = match level {
            Level::L1 => 0,
            Level::L2 => 1,
            Level::L3 => 2,
            Level::CacheNear => 3,
            Level::CacheFar => 4,
            Level::Memory(node) => LEVELS + node,
        };
        self.0[Self::traffic_at(bank, class) + at] += 1;
    }

    /// Books an access to a device register.
    pub fn device(&mut self, bank: usize, class: Class) {
        self.0[Self::traffic_at(bank, class) + 5] += 1;
    }

    /// The traffic of a class.
    #[must_use]
    pub fn traffic(&self, bank: usize, class: Class) -> Traffic {
        let at = Self::traffic_at(bank, class);
        let t = &self.0[at..at + TRAFFIC];
        let mut out = Traffic {
            hits: [t[0], t[1], t[2]],
            near: t[3],
            far: t[4],
            io: t[5],
            ..Traffic::default()
        };
        out.memory.copy_from_slice(&t[LEVELS..]);
        out
    }

    /// Books an interrupt or exception.
    pub fn interrupt(&mut self, vector: u8) {
        self.0[VECTORS + usize::from(vector)] += 1;
    }

    /// How often a vector was taken.
    #[must_use]
    pub fn vector(&self, vector: u8) -> u64 {
        self.0[VECTORS + usize::from(vector)]
    }

    /// Adds what happened between two readings.
    pub fn add_difference(&mut self, now: &Counters, then: &Counters) {
        for (sum, (now, then)) in self.0.iter_mut().zip(now.0.iter().zip(&then.0)) {
            *sum += now.wrapping_sub(*then);
        }
    }

    /// Copies another reading into this one without allocating.
    pub fn set(&mut self, other: &Counters) {
        self.0.copy_from_slice(&other.0);
    }

    fn traffic_at(bank: usize, class: Class) -> usize {
        bank * BANK + Count::ALL.len() + class as usize * TRAFFIC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_do_not_overlap() {
        let mut c = Counters::default();
        for bank in [KERNEL, USER] {
            for &count in Count::ALL {
                c.add(bank, count, 1);
            }
            for class in Class::ALL {
                for level in [Level::L1, Level::L2, Level::L3, Level::CacheNear, Level::CacheFar] {
                    c.access(bank, class, level);
                }
                c.device(bank, class);
                for node in 0..MAX_NODES {
                    c.access(bank, class, Level::Memory(node));
                }
            }
        }
        for vector in 0..=255 {
            c.interrupt(vector);
        }
        assert!(c.0.iter().all(|&v| v == 1), "each place was written once");
    }

    #[test]
    fn remote_is_what_leaves_the_node() {
        let mut c = Counters::default();
        c.access(USER, Class::Data, Level::Memory(1));
        c.access(USER, Class::Data, Level::Memory(0));
        c.access(USER, Class::Data, Level::CacheFar);
        c.access(USER, Class::Data, Level::CacheNear);
        c.access(USER, Class::Data, Level::L3);
        let t = c.traffic(USER, Class::Data);
        assert_eq!((t.remote(1), t.local(1), t.total()), (2, 1, 5));
        assert_eq!(c.traffic(KERNEL, Class::Data), Traffic::default());
    }
}
