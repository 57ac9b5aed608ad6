//! The boot archive: every boot module in one file.
//!
//! A boot loader hands over one file only (`-initrd` of the direct boot, the ramdisk of the image
//! boots), so `xtask` packs all modules into one archive and the kernel takes it apart where it
//! lies. Each module begins on a page of its own, so that it can be given to a program page by page
//! without copying.
//!
//! ```text
//! 0      Header      magic, version, number of entries, total size, checksum of the directory
//! 64     Entry[n]    name, kind, checksum, offset, size; 80 bytes each
//! ...    zeros up to the next multiple of 4096
//! 4096k  payload of module 0, zeros up to the next page
//!        payload of module 1, ...
//! ```
//!
//! All numbers are little endian. Offsets count from the first byte of the archive. The archive may
//! be followed by anything (loaders round sizes up): `total_size` says where it ends.
//!
//! The reader trusts nothing: [`Archive::parse`] checks the whole directory first, so that no method
//! of an [`Archive`] can fail or panic later, whatever the bytes were.

/// First eight bytes of an archive.
pub const MAGIC: [u8; 8] = *b"LOKALARC";
/// The one version of the format so far.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;
/// Bytes of one directory entry.
pub const ENTRY_SIZE: usize = 80;
/// Bytes of the name field of an entry; shorter names are padded with zeros.
pub const NAME_SIZE: usize = 48;
/// Alignment of each module inside the archive, in bytes.
pub const MODULE_ALIGN: usize = 4096;
/// Most modules an archive may hold.
pub const MAX_MODULES: usize = 256;

/// Name of the module that holds the boot manifest.
pub const MANIFEST_NAME: &str = "boot.toml";
/// Name of the module that holds the kernel command line of image boots.
pub const COMMAND_LINE_NAME: &str = "cmdline";

/// Name of the first user program: root of all memory.
pub const SIGMA0_NAME: &str = "sigma0";
/// Name of the second user program, whatever program the manifest puts in this place.
pub const ROOTTASK_NAME: &str = "roottask";
/// Name of the application pager, of which the root task starts one per node.
pub const PAGER_NAME: &str = "app_pager";

/// What a module holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// Bytes that only the user of the module understands.
    Data,
    /// A statically linked x86-64 ELF program.
    Program,
    /// The boot manifest, TOML text.
    Manifest,
    /// The kernel command line, plain text; used where the loader passes none.
    CommandLine,
}

impl ModuleKind {
    /// The number that stands for the kind in an entry.
    pub const fn code(self) -> u32 {
        match self {
            Self::Data => 0,
            Self::Program => 1,
            Self::Manifest => 2,
            Self::CommandLine => 3,
        }
    }

    /// The kind that `code` stands for; `None` for a number without meaning.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Data),
            1 => Some(Self::Program),
            2 => Some(Self::Manifest),
            3 => Some(Self::CommandLine),
            _ => None,
        }
    }
}

/// Why bytes are not a boot archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveError {
    /// Shorter than a header, or than its own directory or total size says.
    Truncated,
    /// The magic is missing: this is some other file.
    BadMagic,
    /// Written by another version of the format; the version found.
    BadVersion(u32),
    /// More than [`MAX_MODULES`] entries.
    TooManyModules(u32),
    /// The directory does not match its checksum.
    BadDirectoryChecksum,
    /// The entry with this index has a name, kind, offset or size that cannot be right.
    BadEntry(usize),
    /// The payload of the entry with this index does not match its checksum.
    BadPayloadChecksum(usize),
}

impl core::fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => write!(f, "the boot archive is cut short"),
            Self::BadMagic => write!(f, "not a boot archive"),
            Self::BadVersion(v) => write!(f, "boot archive of version {v}, expected {VERSION}"),
            Self::TooManyModules(n) => write!(f, "boot archive with {n} modules"),
            Self::BadDirectoryChecksum => write!(f, "the boot archive's directory is damaged"),
            Self::BadEntry(i) => write!(f, "entry {i} of the boot archive is malformed"),
            Self::BadPayloadChecksum(i) => write!(f, "module {i} of the boot archive is damaged"),
        }
    }
}

impl core::error::Error for ArchiveError {}

/// One module of an archive.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Index in the archive.
    pub index: usize,
    /// Name, unique in the archive.
    pub name: &'a str,
    /// What it holds.
    pub kind: ModuleKind,
    /// Where it begins, bytes from the start of the archive; a multiple of [`MODULE_ALIGN`].
    pub offset: usize,
    /// Its bytes.
    pub data: &'a [u8],
    /// CRC-32 of `data` as the writer saw it.
    pub checksum: u32,
}

impl Module<'_> {
    /// Compares the payload with its checksum.
    ///
    /// # Errors
    /// [`ArchiveError::BadPayloadChecksum`] if they differ.
    pub fn verify(&self) -> Result<(), ArchiveError> {
        if crc32(self.data) == self.checksum {
            Ok(())
        } else {
            Err(ArchiveError::BadPayloadChecksum(self.index))
        }
    }
}

/// A boot archive whose directory has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    /// Exactly `total_size` bytes.
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Archive<'a> {
    /// Checks the directory and gives access to the modules. Payloads are not read; use
    /// [`Module::verify`].
    ///
    /// # Errors
    /// The first [`ArchiveError`] found.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ArchiveError> {
        let header = bytes.get(..HEADER_SIZE).ok_or(ArchiveError::Truncated)?;
        if header[..8] != MAGIC {
            return Err(ArchiveError::BadMagic);
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(ArchiveError::BadVersion(version));
        }
        let count = u32_at(header, 12);
        if count as usize > MAX_MODULES {
            return Err(ArchiveError::TooManyModules(count));
        }
        let count = count as usize;
        let total = usize::try_from(u64_at(header, 16)).map_err(|_| ArchiveError::Truncated)?;
        let bytes = bytes.get(..total).ok_or(ArchiveError::Truncated)?;
        let directory =
            bytes.get(HEADER_SIZE..directory_size(count)).ok_or(ArchiveError::Truncated)?;
        if directory_checksum(header, directory) != u32_at(header, 24) {
            return Err(ArchiveError::BadDirectoryChecksum);
        }
        let archive = Self { bytes, count };
        let mut free_from = directory_size(count);
        for index in 0..count {
            let module = archive.entry(index).ok_or(ArchiveError::BadEntry(index))?;
            let duplicate = archive.modules().take(index).any(|other| other.name == module.name);
            if module.offset < free_from || duplicate {
                return Err(ArchiveError::BadEntry(index));
            }
            free_from = module.offset + module.data.len();
        }
        Ok(archive)
    }

    /// Number of bytes of the archive, without what the loader may have put behind it.
    pub fn total_size(&self) -> usize {
        self.bytes.len()
    }

    /// All modules in the order in which they were packed.
    pub fn modules(&self) -> impl Iterator<Item = Module<'a>> + use<'a> {
        let archive = *self;
        (0..self.count).filter_map(move |index| archive.entry(index))
    }

    /// The module with this name.
    pub fn find(&self, name: &str) -> Option<Module<'a>> {
        self.modules().find(|module| module.name == name)
    }

    /// Decodes one entry; `None` if it cannot be right.
    fn entry(&self, index: usize) -> Option<Module<'a>> {
        let start = HEADER_SIZE + index.checked_mul(ENTRY_SIZE)?;
        let entry = self.bytes.get(start..start.checked_add(ENTRY_SIZE)?)?;
        let name = decode_name(entry.get(..NAME_SIZE)?)?;
        let kind = ModuleKind::from_code(u32_at(entry, 48))?;
        let offset = usize::try_from(u64_at(entry, 56)).ok()?;
        let size = usize::try_from(u64_at(entry, 64)).ok()?;
        if !offset.is_multiple_of(MODULE_ALIGN) {
            return None;
        }
        let data = self.bytes.get(offset..offset.checked_add(size)?)?;
        Some(Module { index, name, kind, offset, data, checksum: u32_at(entry, 52) })
    }
}

/// What the writer must know about a module to describe it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Name: 1 to [`NAME_SIZE`] bytes without zero bytes.
    pub name: &'a str,
    /// What it holds.
    pub kind: ModuleKind,
    /// Offset in the archive, a multiple of [`MODULE_ALIGN`].
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// CRC-32 of the payload.
    pub checksum: u32,
}

impl Entry<'_> {
    /// The entry as it lies in the archive; `None` if the name does not fit.
    pub fn encode(&self) -> Option<[u8; ENTRY_SIZE]> {
        let mut out = [0; ENTRY_SIZE];
        out.get_mut(..self.name.len())?.copy_from_slice(self.name.as_bytes());
        decode_name(&out[..NAME_SIZE]).filter(|name| *name == self.name)?;
        out[48..52].copy_from_slice(&self.kind.code().to_le_bytes());
        out[52..56].copy_from_slice(&self.checksum.to_le_bytes());
        out[56..64].copy_from_slice(&self.offset.to_le_bytes());
        out[64..72].copy_from_slice(&self.size.to_le_bytes());
        Some(out)
    }
}

/// The header of an archive with the given encoded directory (a whole number of entries).
pub fn encode_header(directory: &[u8], total_size: u64) -> [u8; HEADER_SIZE] {
    let mut out = [0; HEADER_SIZE];
    let count = (directory.len() / ENTRY_SIZE) as u32;
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&count.to_le_bytes());
    out[16..24].copy_from_slice(&total_size.to_le_bytes());
    let checksum = directory_checksum(&out, directory);
    out[24..28].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Bytes of header and directory for `count` modules.
pub const fn directory_size(count: usize) -> usize {
    HEADER_SIZE + count * ENTRY_SIZE
}

/// CRC-32 (IEEE 802.3, reflected, as in gzip) of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    !crc32_update(!0, bytes)
}

fn crc32_update(start: u32, bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(start, |crc, byte| (crc >> 8) ^ CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

/// Checksum over the header's first 24 bytes (what stands before the checksum) and the directory.
fn directory_checksum(header: &[u8], directory: &[u8]) -> u32 {
    !crc32_update(crc32_update(!0, &header[..24]), directory)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The name in a zero-padded field: not empty, UTF-8, nothing but zeros behind the first zero.
fn decode_name(field: &[u8]) -> Option<&str> {
    let len = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (name, padding) = field.split_at(len);
    if name.is_empty() || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    core::str::from_utf8(name).ok()
}

/// The number at `at`; the callers index fixed-size records whose length was checked.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(modules: &[(&str, ModuleKind, &[u8])]) -> Vec<u8> {
        let mut offset = directory_size(modules.len()).next_multiple_of(MODULE_ALIGN);
        let (mut directory, mut payload) = (Vec::new(), Vec::new());
        for (name, kind, data) in modules {
            let entry = Entry {
                name,
                kind: *kind,
                offset: offset as u64,
                size: data.len() as u64,
                checksum: crc32(data),
            };
            directory.extend_from_slice(&entry.encode().unwrap());
            payload.extend_from_slice(data);
            payload.resize(payload.len().next_multiple_of(MODULE_ALIGN), 0);
            offset += data.len().next_multiple_of(MODULE_ALIGN);
        }
        let mut out = encode_header(&directory, offset as u64).to_vec();
        out.extend_from_slice(&directory);
        out.resize(out.len().next_multiple_of(MODULE_ALIGN), 0);
        out.extend_from_slice(&payload);
        out
    }

    fn sample() -> Vec<u8> {
        build(&[
            (MANIFEST_NAME, ModuleKind::Manifest, b"spaces = 1"),
            ("sigma0", ModuleKind::Program, &[7; 5000]),
            ("empty", ModuleKind::Data, b""),
            ("last", ModuleKind::Data, &[1; 4096]),
        ])
    }

    #[test]
    fn crc_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_was_packed_comes_out() {
        let mut bytes = sample();
        let size = bytes.len();
        bytes.extend_from_slice(b"rubbish that a loader left behind");
        let archive = Archive::parse(&bytes).unwrap();
        assert_eq!(archive.total_size(), size);
        let names: Vec<_> = archive.modules().map(|m| m.name).collect();
        assert_eq!(names, [MANIFEST_NAME, "sigma0", "empty", "last"]);
        let sigma0 = archive.find("sigma0").unwrap();
        assert_eq!((sigma0.kind, sigma0.data), (ModuleKind::Program, &[7u8; 5000][..]));
        assert_eq!(sigma0.offset % MODULE_ALIGN, 0);
        assert!(archive.modules().all(|m| m.verify().is_ok()));
        assert!(archive.find("nobody").is_none());
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let fits = |name: &str| {
            let kind = ModuleKind::Data;
            Entry { name, kind, offset: 4096, size: 0, checksum: 0 }.encode().is_some()
        };
        assert!(!fits("") && !fits("a\0b"));
        assert!(!fits(&"x".repeat(NAME_SIZE + 1)) && !fits(&"x".repeat(ENTRY_SIZE + 1)));
        assert!(fits(&"x".repeat(NAME_SIZE)));
    }

    #[test]
    fn typical_damage_has_its_own_error() {
        let good = sample();
        assert_eq!(Archive::parse(&[]).unwrap_err(), ArchiveError::Truncated);
        assert_eq!(Archive::parse(&[0; 64]).unwrap_err(), ArchiveError::BadMagic);
        let cut = &good[..good.len() - 1];
        assert_eq!(Archive::parse(cut).unwrap_err(), ArchiveError::Truncated);
        let mut bad = good.clone();
        bad[8] = 9;
        assert_eq!(Archive::parse(&bad).unwrap_err(), ArchiveError::BadVersion(9));
        let mut bad = good.clone();
        bad[HEADER_SIZE] ^= 1;
        assert_eq!(Archive::parse(&bad).unwrap_err(), ArchiveError::BadDirectoryChecksum);
        let mut bad = good;
        let at = Archive::parse(&bad).unwrap().find("sigma0").unwrap().offset;
        bad[at] ^= 1;
        let module = Archive::parse(&bad).unwrap().find("sigma0").unwrap();
        assert_eq!(module.verify(), Err(ArchiveError::BadPayloadChecksum(1)));
    }

    #[test]
    fn two_modules_of_one_name_are_refused() {
        let twice = build(&[("a", ModuleKind::Data, b"1"), ("a", ModuleKind::Data, b"2")]);
        assert_eq!(Archive::parse(&twice).unwrap_err(), ArchiveError::BadEntry(1));
    }

    /// xorshift64*: good enough to choose what to damage, and repeatable.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
        }
    }

    /// Damages header and directory at random, with the directory checksum made right again in half
    /// of the cases, so that the checks behind it are reached. Whatever comes out of the parser must
    /// lie inside the archive and be in order.
    #[test]
    fn random_damage_never_panics_and_never_escapes() {
        let good = sample();
        let directory = HEADER_SIZE..directory_size(4);
        let mut random = Random(0x10ca1);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..10_000 {
            let mut bytes = good.clone();
            for _ in 0..random.below(3) {
                let at = random.below(directory.end);
                bytes[at] = match random.below(3) {
                    0 => random.below(256) as u8,
                    1 => 0xff,
                    _ => bytes[at] ^ (1 << random.below(8)),
                };
            }
            if random.below(2) == 0 {
                let sum = directory_checksum(&bytes[..HEADER_SIZE], &bytes[directory.clone()]);
                bytes[24..28].copy_from_slice(&sum.to_le_bytes());
            }
            let cut = if random.below(4) == 0 { random.below(good.len()) } else { 0 };
            bytes.truncate(good.len() - cut);
            let Ok(archive) = Archive::parse(&bytes) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            let mut end = 0;
            for module in archive.modules() {
                assert!(module.offset >= end && !module.name.is_empty());
                end = module.offset + module.data.len();
                assert!(end <= bytes.len());
                let _ = module.verify();
            }
        }
        assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = Random(0xfeed);
        for _ in 0..10_000 {
            let len = random.below(512);
            let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            if len > 16 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..16].copy_from_slice(&[1, 0, 0, 0, random.below(9) as u8, 0, 0, 0]);
            }
            let _ = Archive::parse(&bytes);
        }
    }
}
