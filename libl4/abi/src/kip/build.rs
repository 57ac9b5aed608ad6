//! Writing a KIP into memory.

use super::numa::{self, NodeRange};
use super::{
    API_FLAGS, API_VERSION, FIXED_SIZE, KERNEL_ID, KIP_AREA_MIN_LOG2, KernelInterfacePage, MAGIC,
    MemoryDesc, PAGE_INFO, PROCESSOR_DESC_LOG2, ProcessorDesc, SUPPLIER, ServerImage,
    UTCB_AREA_INFO,
};
use crate::id::{NodeId, THREAD_NO_BITS, ThreadRanges};
use crate::syscall::{COUNT, FIRST_LINK};
use crate::time::Time;
use core::mem::offset_of;

/// The machine's node structure, for the NUMA table.
#[derive(Clone, Copy, Debug)]
pub struct NumaParams<'a> {
    /// Number of nodes n.
    pub nodes: usize,
    /// n * n distances, row by row.
    pub distances: &'a [u8],
    /// The node of each processor.
    pub cpu_nodes: &'a [NodeId],
    /// Memory of the nodes.
    pub ranges: &'a [NodeRange],
}

/// Everything that goes into a KIP.
#[derive(Clone, Copy, Debug)]
pub struct KipParams<'a> {
    /// Thread number ranges.
    pub threads: ThreadRanges,
    /// Addresses behind the links, in the order of `SyscallNo`.
    pub links: [u64; COUNT],
    /// sigma0's image.
    pub sigma0: ServerImage,
    /// The root task's image.
    pub root: ServerImage,
    /// Physical address of the boot info, 0 = none.
    pub boot_info: u64,
    /// Read and schedule precision of the clock.
    pub clock_precision: (Time, Time),
    /// Page size mask and rights; [`PAGE_INFO`] unless a size is missing.
    pub page_info: u64,
    /// Version: major, minor, patch.
    pub version: (u8, u8, u16),
    /// Generation date: year, month, day.
    pub date: (u16, u8, u8),
    /// Version string. No feature strings follow: old programs misread any (ref 3.3).
    pub version_string: &'a str,
    /// One descriptor per processor.
    pub processors: &'a [ProcessorDesc],
    /// Memory descriptors in order.
    pub memory: &'a [MemoryDesc],
    /// Node structure.
    pub numa: Option<NumaParams<'a>>,
}

impl Default for KipParams<'_> {
    fn default() -> Self {
        Self {
            threads: ThreadRanges::with_irq_lines(0),
            links: [0; COUNT],
            sigma0: ServerImage::default(),
            root: ServerImage::default(),
            boot_info: 0,
            clock_precision: (Time::from_raw(1), Time::from_raw(1)),
            page_info: PAGE_INFO,
            version: (0, 1, 0),
            date: (2026, 1, 1),
            version_string: "",
            processors: &[],
            memory: &[],
            numa: None,
        }
    }
}

/// The page is too small, or the parameters contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The area must have at least this many bytes.
    TooSmall {
        /// Bytes needed.
        needed: usize,
    },
    /// The distance matrix is not n * n.
    BadDistances,
}

#[derive(Clone, Copy)]
struct Offsets {
    processors: usize,
    kernel: usize,
    numa: usize,
    distances: usize,
    cpu_nodes: usize,
    ranges: usize,
    memory: usize,
    end: usize,
}

const fn pad(n: usize) -> usize {
    n.next_multiple_of(8)
}

impl KipParams<'_> {
    fn offsets(&self) -> Offsets {
        let processors = FIXED_SIZE;
        let kernel = processors + (self.processors.len() << PROCESSOR_DESC_LOG2);
        // The string, its NUL, and the empty string that ends the feature list.
        let numa = pad(kernel + 0x20 + self.version_string.len() + 2);
        let (n, cpus, ranges_len) = match &self.numa {
            Some(p) => (p.nodes, p.cpu_nodes.len(), p.ranges.len()),
            None => (0, 0, 0),
        };
        let head = if self.numa.is_some() { numa::HEAD_SIZE } else { 0 };
        let distances = numa + head;
        let cpu_nodes = pad(distances + n * n);
        let ranges = pad(cpu_nodes + cpus);
        let memory = ranges + ranges_len * numa::RANGE_SIZE;
        let end = memory + self.memory.len() * MemoryDesc::SIZE;
        Offsets { processors, kernel, numa, distances, cpu_nodes, ranges, memory, end }
    }

    /// log2 of the smallest area that holds this KIP.
    #[must_use]
    pub fn area_log2(&self) -> u8 {
        let log2 = self.offsets().end.next_power_of_two().trailing_zeros() as u8;
        log2.max(KIP_AREA_MIN_LOG2)
    }

    /// Writes the page. `area` must have at least `2^area_log2()` bytes; all of it is overwritten.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(&self, area: &mut [u8]) -> Result<(), BuildError> {
        let needed = 1usize << self.area_log2();
        if area.len() < needed {
            return Err(BuildError::TooSmall { needed });
        }
        if self.numa.is_some_and(|p| p.distances.len() != p.nodes * p.nodes) {
            return Err(BuildError::BadDistances);
        }
        area.fill(0);
        let at = self.offsets();
        self.write_fixed(area, &at);
        for (i, cpu) in self.processors.iter().enumerate() {
            let base = at.processors + (i << PROCESSOR_DESC_LOG2);
            put(area, base, cpu.external_khz);
            put(area, base + 8, cpu.internal_khz);
        }
        self.write_kernel_desc(area, at.kernel);
        if let Some(params) = &self.numa {
            write_numa(area, &at, params);
        }
        for (i, desc) in self.memory.iter().enumerate() {
            let [w0, w1] = desc.words();
            put(area, at.memory + i * MemoryDesc::SIZE, w0);
            put(area, at.memory + i * MemoryDesc::SIZE + 8, w1);
        }
        Ok(())
    }

    fn write_fixed(&self, area: &mut [u8], at: &Offsets) {
        macro_rules! set {
            ($field:ident, $value:expr) => {
                put(area, offset_of!(KernelInterfacePage, $field), $value)
            };
        }
        set!(magic, MAGIC);
        set!(api_version, API_VERSION);
        set!(api_flags, API_FLAGS);
        set!(kernel_desc_ptr, at.kernel as u64);
        set!(memory_info, (at.memory as u64) << 32 | self.memory.len() as u64);
        set!(utcb_area_info, UTCB_AREA_INFO);
        set!(kip_area_info, u64::from(self.area_log2()));
        set!(numa_ptr, if self.numa.is_some() { at.numa as u64 } else { 0 });
        set!(boot_info, self.boot_info);
        set!(processor_desc_ptr, at.processors as u64);
        let (read, schedule) = self.clock_precision;
        set!(clock_info, u64::from(schedule.raw()) << 16 | u64::from(read.raw()));
        let (system, user) = (self.threads.system_base, self.threads.user_base);
        let bits = u64::from(THREAD_NO_BITS);
        set!(thread_info, u64::from(user) << 20 | u64::from(system) << 8 | bits);
        set!(page_info, self.page_info);
        let last_cpu = self.processors.len().saturating_sub(1) as u64;
        set!(processor_info, u64::from(PROCESSOR_DESC_LOG2) << 60 | last_cpu);
        for (offset, image) in [
            (offset_of!(KernelInterfacePage, sigma0), &self.sigma0),
            (offset_of!(KernelInterfacePage, root), &self.root),
        ] {
            for (i, word) in [image.sp, image.ip, image.low, image.high].into_iter().enumerate() {
                put(area, offset + 8 * i, word);
            }
        }
        for (i, link) in self.links.into_iter().enumerate() {
            put(area, FIRST_LINK + 8 * i, link);
        }
    }

    fn write_kernel_desc(&self, area: &mut [u8], at: usize) {
        let (year, month, day) = self.date;
        let date =
            u64::from(year.saturating_sub(2000)) << 9 | u64::from(month) << 5 | u64::from(day);
        let (major, minor, patch) = self.version;
        let version = u64::from(major) << 24 | u64::from(minor) << 16 | u64::from(patch);
        put(area, at, KERNEL_ID);
        put(area, at + 8, date);
        put(area, at + 0x10, version);
        put(area, at + 0x18, u64::from(u32::from_le_bytes(SUPPLIER)));
        let text = self.version_string.as_bytes();
        area[at + 0x20..at + 0x20 + text.len()].copy_from_slice(text);
    }
}

fn put(area: &mut [u8], at: usize, word: u64) {
    area[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn write_numa(area: &mut [u8], at: &Offsets, params: &NumaParams<'_>) {
    let counts = (params.ranges.len() as u64) << 48
        | (params.cpu_nodes.len() as u64) << 32
        | (params.nodes as u64) << 16
        | numa::VERSION;
    let rel = |offset: usize| (offset - at.numa) as u64;
    put(area, at.numa, counts);
    put(area, at.numa + 8, rel(at.ranges) << 32 | rel(at.cpu_nodes) << 16 | rel(at.distances));
    area[at.distances..at.distances + params.distances.len()].copy_from_slice(params.distances);
    for (byte, node) in area[at.cpu_nodes..].iter_mut().zip(params.cpu_nodes) {
        *byte = node.0;
    }
    for (i, range) in params.ranges.iter().enumerate() {
        let [w0, w1] = range.words();
        put(area, at.ranges + i * numa::RANGE_SIZE, w0);
        put(area, at.ranges + i * numa::RANGE_SIZE + 8, w1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kip, MemoryType};
    use super::*;
    use crate::id::{CpuId, ThreadId};
    use crate::syscall::SyscallNo;

    fn words(bytes: &[u8]) -> Vec<u64> {
        bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes"))).collect()
    }

    fn build(params: &KipParams<'_>) -> Vec<u64> {
        let mut area = vec![0xAAu8; 1 << params.area_log2()];
        params.build(&mut area).expect("fits");
        words(&area)
    }

    #[test]
    fn what_is_written_is_read() {
        let memory = [
            MemoryDesc::physical(MemoryType::Shared, 0, u64::MAX),
            MemoryDesc::physical(MemoryType::Conventional, 0x10_0000, 0xFFF_FFFF),
            MemoryDesc::virtual_user(0, 0x7FFF_FFFF_FFFF),
        ];
        let cpu_nodes = [NodeId(0), NodeId(1)];
        let ranges = [
            NodeRange { node: NodeId(0), low: 0, last: 0x7FF_FFFF },
            NodeRange { node: NodeId(1), low: 0x800_0000, last: 0xFFF_FFFF },
        ];
        let cpu = ProcessorDesc { external_khz: 100_000, internal_khz: 2_000_000 };
        let params = KipParams {
            threads: ThreadRanges::with_irq_lines(24),
            links: core::array::from_fn(|i| 0xFFFF_FFFF_A020_0000 + i as u64 * 64),
            root: ServerImage { sp: 0, ip: 0x240_0010, low: 0x240_0000, high: 0x241_0000 },
            version_string: "Lokal 0.1",
            processors: &[cpu, cpu],
            memory: &memory,
            numa: Some(NumaParams {
                nodes: 2,
                distances: &[10, 20, 21, 10],
                cpu_nodes: &cpu_nodes,
                ranges: &ranges,
            }),
            ..KipParams::default()
        };
        assert_eq!(params.area_log2(), 12);
        let page = build(&params);
        let kip = Kip::new(&page).expect("magic");
        assert_eq!(kip.api_version(), API_VERSION);
        assert_eq!(kip.link(SyscallNo::Ipc), 0xFFFF_FFFF_A020_0100);
        assert_eq!(kip.thread_ranges(), params.threads);
        assert_eq!(kip.thread_bits(), 18);
        assert_eq!(kip.sigma0(), ThreadId::from_raw((56 << 32) | 1));
        assert_eq!((kip.utcb_size(), kip.utcb_area_log2(), kip.kip_area_log2()), (1024, 12, 12));
        assert_eq!(kip.page_size_mask(), 0x4020_1000);
        assert_eq!(kip.processor(CpuId(1)), Some(cpu));
        assert_eq!(kip.processor(CpuId(2)), None);
        assert_eq!(kip.root_image(), params.root);
        assert_eq!(kip.memory().collect::<Vec<_>>(), memory);
        assert_eq!(kip.version_string().collect::<Vec<_>>(), b"Lokal 0.1");
        assert_eq!(kip.kernel_id(), KERNEL_ID);
        let numa = kip.numa().expect("table");
        assert_eq!((numa.node_count(), numa.processor_count()), (2, 2));
        assert_eq!(numa.distance(NodeId(1), NodeId(0)), Some(21));
        assert_eq!(numa.distance(NodeId(2), NodeId(0)), None);
        assert_eq!(numa.node_of(CpuId(1)), Some(NodeId(1)));
        assert_eq!(numa.ranges().collect::<Vec<_>>(), ranges);
        assert_eq!(numa.node_of_address(0x900_0000), Some(NodeId(1)));
        assert_eq!(numa.node_of_address(1 << 40), None);
    }

    #[test]
    fn no_feature_strings() {
        let page = build(&KipParams { version_string: "v", ..KipParams::default() });
        let kip = Kip::new(&page).expect("magic");
        let at = kip.word(offset_of!(KernelInterfacePage, kernel_desc_ptr)) as usize + 0x20;
        assert_eq!([kip.byte(at), kip.byte(at + 1), kip.byte(at + 2)], [b'v', 0, 0]);
        assert!(kip.numa().is_none());
    }

    #[test]
    fn many_processors_enlarge_the_area() {
        let cpus = [ProcessorDesc { external_khz: 1, internal_khz: 2 }; 256];
        let params = KipParams { processors: &cpus, ..KipParams::default() };
        assert_eq!(params.area_log2(), 14);
        let page = build(&params);
        let kip = Kip::new(&page).expect("magic");
        assert_eq!(kip.kip_area_log2(), 14);
        assert_eq!(kip.processor(CpuId(255)), Some(cpus[0]));
        assert_eq!(params.build(&mut [0; 4096]), Err(BuildError::TooSmall { needed: 16384 }));
    }

    #[test]
    fn wrong_magic_is_no_kip() {
        assert!(Kip::new(&[0; 512]).is_none());
        assert!(Kip::new(&[MAGIC; 4]).is_none());
    }
}
