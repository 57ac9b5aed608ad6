//! The kernel interface page (ref 3).
//!
//! [`KernelInterfacePage`] is the fixed part as a structure (its offsets are asserted), [`Kip`] a
//! reader over the words of a whole page, [`build`](build::KipParams::build) the writer. Everything
//! that a KIP-relative offset reaches lies inside the KIP area, whose size is `2^KipAreaInfo.s`: one
//! page on ordinary machines, more where the descriptors of many processors need it.

pub mod build;
pub mod memory;
pub mod numa;

use crate::fpage::Fpage;
use crate::id::{CpuId, ThreadId, ThreadRanges};
use crate::syscall::SyscallNo;
use crate::time::Time;
use core::mem::offset_of;
pub use memory::{MemoryDesc, MemoryType};

/// Magic word: 'L' '4' 0xE6 'K'.
pub const MAGIC: u64 = 0x4BE6_344C;
/// ApiVersion: X.2.
pub const API_VERSION: u64 = 0x8405_0000;
/// ApiFlags: little endian, 64 bit.
pub const API_FLAGS: u64 = 4;
/// KernelId of Lokal: id 0x4C, subid 1.
pub const KERNEL_ID: u64 = 0x4C01_0000;
/// Supplier of Lokal, four characters.
pub const SUPPLIER: [u8; 4] = *b"Lokl";
/// log2 of the smallest KIP area.
pub const KIP_AREA_MIN_LOG2: u8 = 12;
/// UtcbAreaInfo: s = 12, a = 10, m = 1.
pub const UTCB_AREA_INFO: u64 = 0x000C_2801;
/// PageInfo: rwx separately controllable; 4 KiB, 2 MiB and 1 GiB pages.
pub const PAGE_INFO: u64 = (1 << 12) | (1 << 21) | (1 << 30) | 7;
/// log2 of the stride of processor descriptors.
pub const PROCESSOR_DESC_LOG2: u8 = 5;

/// A boot-time server's words: initial SP and IP, and the physical memory of its image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServerImage {
    /// Initial SP word (0).
    pub sp: u64,
    /// Entry point.
    pub ip: u64,
    /// First byte of the image.
    pub low: u64,
    /// First byte after it; the region is empty (no server) if this is not above `low`.
    pub high: u64,
}

/// The fixed part of the page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are those of the table in ref 3.1")]
pub struct KernelInterfacePage {
    pub magic: u64,
    pub api_version: u64,
    pub api_flags: u64,
    pub kernel_desc_ptr: u64,
    pub kdebug_init: u64,
    pub kdebug_entry: u64,
    pub kdebug_low: u64,
    pub kdebug_high: u64,
    pub sigma0: ServerImage,
    pub sigma1: ServerImage,
    pub root: ServerImage,
    pub reserved_0a0: u64,
    pub memory_info: u64,
    pub kdebug_config: [u64; 2],
    pub main_mem: [u64; 2],
    pub reserved_mem: [[u64; 2]; 2],
    pub dedicated_mem: [[u64; 2]; 5],
    pub reserved_140: [u64; 2],
    pub utcb_area_info: u64,
    pub kip_area_info: u64,
    /// Lokal: KIP-relative offset of the NUMA table, 0 = none ([`numa`]).
    pub numa_ptr: u64,
    pub reserved_168: u64,
    pub boot_info: u64,
    pub processor_desc_ptr: u64,
    pub clock_info: u64,
    pub thread_info: u64,
    pub page_info: u64,
    pub processor_info: u64,
    pub links: [u64; crate::syscall::COUNT],
    pub reserved_1f8: [u64; 5],
    pub arch_syscalls: [u64; 4],
}

/// Size of the fixed part.
pub const FIXED_SIZE: usize = 0x240;

const _: () = {
    assert!(size_of::<KernelInterfacePage>() == FIXED_SIZE);
    assert!(offset_of!(KernelInterfacePage, sigma0) == 0x40);
    assert!(offset_of!(KernelInterfacePage, sigma1) == 0x60);
    assert!(offset_of!(KernelInterfacePage, root) == 0x80);
    assert!(offset_of!(KernelInterfacePage, memory_info) == 0xA8);
    assert!(offset_of!(KernelInterfacePage, kdebug_config) == 0xB0);
    assert!(offset_of!(KernelInterfacePage, main_mem) == 0xC0);
    assert!(offset_of!(KernelInterfacePage, reserved_mem) == 0xD0);
    assert!(offset_of!(KernelInterfacePage, dedicated_mem) == 0xF0);
    assert!(offset_of!(KernelInterfacePage, utcb_area_info) == 0x150);
    assert!(offset_of!(KernelInterfacePage, kip_area_info) == 0x158);
    assert!(offset_of!(KernelInterfacePage, numa_ptr) == 0x160);
    assert!(offset_of!(KernelInterfacePage, boot_info) == 0x170);
    assert!(offset_of!(KernelInterfacePage, processor_desc_ptr) == 0x178);
    assert!(offset_of!(KernelInterfacePage, clock_info) == 0x180);
    assert!(offset_of!(KernelInterfacePage, thread_info) == 0x188);
    assert!(offset_of!(KernelInterfacePage, page_info) == 0x190);
    assert!(offset_of!(KernelInterfacePage, processor_info) == 0x198);
    assert!(offset_of!(KernelInterfacePage, links) == crate::syscall::FIRST_LINK);
    assert!(offset_of!(KernelInterfacePage, reserved_1f8) == 0x1F8);
    assert!(offset_of!(KernelInterfacePage, arch_syscalls) == 0x220);
};

/// The word of a field of the fixed part, by name.
macro_rules! field {
    ($kip:expr, $field:ident) => {
        $kip.word(offset_of!(KernelInterfacePage, $field))
    };
}

/// A processor descriptor (ref 3.4); its stride is 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProcessorDesc {
    /// External (bus) frequency in kHz.
    pub external_khz: u64,
    /// Internal frequency in kHz.
    pub internal_khz: u64,
}

/// A reader over the words of a KIP. Offsets outside the slice read as 0.
#[derive(Clone, Copy, Debug)]
pub struct Kip<'a> {
    words: &'a [u64],
}

impl<'a> Kip<'a> {
    /// Checks the magic of the page in `words` (which should cover the whole KIP area).
    #[must_use]
    pub fn new(words: &'a [u64]) -> Option<Self> {
        (words.first() == Some(&MAGIC) && words.len() >= FIXED_SIZE / 8).then_some(Self { words })
    }

    /// The word at a byte offset (a multiple of 8); 0 outside.
    #[must_use]
    pub fn word(self, offset: usize) -> u64 {
        self.words.get(offset / 8).copied().unwrap_or(0)
    }

    /// The byte at an offset; 0 outside.
    #[must_use]
    pub fn byte(self, offset: usize) -> u8 {
        (self.word(offset & !7) >> (8 * (offset & 7))) as u8
    }

    /// ApiVersion.
    #[must_use]
    pub fn api_version(self) -> u64 {
        field!(self, api_version)
    }

    /// ApiFlags.
    #[must_use]
    pub fn api_flags(self) -> u64 {
        field!(self, api_flags)
    }

    /// The address behind a system call's link.
    #[must_use]
    pub fn link(self, call: SyscallNo) -> u64 {
        self.word(call.link_offset())
    }

    fn server(self, offset: usize) -> ServerImage {
        let word = |i: usize| self.word(offset + 8 * i);
        ServerImage { sp: word(0), ip: word(1), low: word(2), high: word(3) }
    }

    /// sigma0's image.
    #[must_use]
    pub fn sigma0_image(self) -> ServerImage {
        self.server(offset_of!(KernelInterfacePage, sigma0))
    }

    /// sigma1's image.
    #[must_use]
    pub fn sigma1_image(self) -> ServerImage {
        self.server(offset_of!(KernelInterfacePage, sigma1))
    }

    /// The root task's image.
    #[must_use]
    pub fn root_image(self) -> ServerImage {
        self.server(offset_of!(KernelInterfacePage, root))
    }

    /// The thread number ranges.
    #[must_use]
    pub fn thread_ranges(self) -> ThreadRanges {
        let info = field!(self, thread_info);
        ThreadRanges {
            system_base: ((info >> 8) & 0xFFF) as u32,
            user_base: ((info >> 20) & 0xFFF) as u32,
        }
    }

    /// Number of valid thread-number bits.
    #[must_use]
    pub fn thread_bits(self) -> u8 {
        field!(self, thread_info) as u8
    }

    /// sigma0's thread id.
    #[must_use]
    pub fn sigma0(self) -> ThreadId {
        self.thread_ranges().sigma0()
    }

    /// log2 of the smallest UTCB area.
    #[must_use]
    pub fn utcb_area_log2(self) -> u8 {
        ((field!(self, utcb_area_info) >> 16) & 0x3F) as u8
    }

    /// Size of a UTCB in bytes: m * 2^a.
    #[must_use]
    pub fn utcb_size(self) -> u64 {
        let info = field!(self, utcb_area_info);
        (info & 0x3FF) << ((info >> 10) & 0x3F)
    }

    /// log2 of the size of the KIP area.
    #[must_use]
    pub fn kip_area_log2(self) -> u8 {
        (field!(self, kip_area_info) & 0x3F) as u8
    }

    /// Bit k set: pages of 2^k bytes are supported.
    #[must_use]
    pub fn page_size_mask(self) -> u64 {
        field!(self, page_info) & !0x3FF
    }

    /// Physical address of the boot info, 0 = none.
    #[must_use]
    pub fn boot_info(self) -> u64 {
        field!(self, boot_info)
    }

    /// Number of processors.
    #[must_use]
    pub fn processor_count(self) -> usize {
        (field!(self, processor_info) & 0xFFFF) as usize + 1
    }

    /// A processor's descriptor.
    #[must_use]
    pub fn processor(self, cpu: CpuId) -> Option<ProcessorDesc> {
        if cpu.index() >= self.processor_count() {
            return None;
        }
        let stride = 1usize << (field!(self, processor_info) >> 60);
        let at = field!(self, processor_desc_ptr) as usize + cpu.index() * stride;
        Some(ProcessorDesc { external_khz: self.word(at), internal_khz: self.word(at + 8) })
    }

    /// ReadPrecision and SchedulePrecision of the clock.
    #[must_use]
    pub fn clock_precision(self) -> (Time, Time) {
        let info = field!(self, clock_info);
        (Time::from_raw(info as u16), Time::from_raw((info >> 16) as u16))
    }

    /// The memory descriptors in order; later ones override earlier ones.
    pub fn memory(self) -> impl Iterator<Item = MemoryDesc> + 'a {
        let info = field!(self, memory_info);
        let (n, base) = ((info & 0xFFFF_FFFF) as usize, (info >> 32) as usize);
        let room = (self.words.len() * 8).saturating_sub(base) / MemoryDesc::SIZE;
        (0..n.min(room)).map(move |i| {
            let at = base + i * MemoryDesc::SIZE;
            MemoryDesc::from_words([self.word(at), self.word(at + 8)])
        })
    }

    /// KernelId of the kernel description.
    #[must_use]
    pub fn kernel_id(self) -> u64 {
        self.word(field!(self, kernel_desc_ptr) as usize)
    }

    /// The bytes of the kernel's version string.
    pub fn version_string(self) -> impl Iterator<Item = u8> + 'a {
        let at = field!(self, kernel_desc_ptr) as usize + 0x20;
        (at..).map(move |i| self.byte(i)).take_while(|&b| b != 0)
    }

    /// The KIP area of this kernel at `base`, as SpaceControl wants it.
    #[must_use]
    pub fn area_at(self, base: u64) -> Fpage {
        Fpage::memory(base, self.kip_area_log2(), crate::Rights::RX)
    }

    /// The NUMA table, if the kernel describes one.
    #[must_use]
    pub fn numa(self) -> Option<numa::NumaTable<'a>> {
        numa::NumaTable::find(self)
    }
}
