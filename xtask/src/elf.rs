//! Is this file a program that the kernel can load?

use anyhow::{Context, Result, bail, ensure};
use xmas_elf::{
    ElfFile,
    header::{self, Class, Data, Machine},
    program::{self, Type},
    sections::{SHF_EXECINSTR, SectionData},
    symbol_table::{self, Entry},
};

/// Checks that `bytes` are a complete, statically linked x86-64 program.
///
/// The checks are those that a loader depends on: file kind, machine, an entry point inside
/// executable bytes, every segment inside the file, no dynamic linking.
pub fn check_program(bytes: &[u8]) -> Result<()> {
    ensure!(bytes.len() >= 64, "only {} bytes: no ELF file, or cut short", bytes.len());
    ensure!(bytes.starts_with(b"\x7fELF"), "not an ELF file");
    check_tables(bytes)?;
    let elf = ElfFile::new(bytes).map_err(|e| anyhow::anyhow!("damaged ELF file: {e}"))?;
    let part1 = &elf.header.pt1;
    ensure!(part1.class() == Class::SixtyFour, "a 32-bit program; build it for x86-64");
    ensure!(part1.data() == Data::LittleEndian, "a big-endian program; build it for x86-64");
    let machine = elf.header.pt2.machine().as_machine();
    ensure!(machine == Machine::X86_64, "built for {machine:?}; build it for x86-64");
    let kind = elf.header.pt2.type_().as_type();
    ensure!(
        matches!(kind, header::Type::Executable),
        "{kind:?}, not an executable; link it statically at a fixed address"
    );
    check_segments(&elf, bytes.len() as u64)
}

/// The label in a section of code at or below `address`, with its address. `addr2line` knows symbols that have a type, which labels of
/// assembly have not.
pub fn label(bytes: &[u8], address: u64) -> Option<(u64, String)> {
    let elf = ElfFile::new(bytes).ok()?;
    let SectionData::SymbolTable64(symbols) =
        elf.find_section_by_name(".symtab")?.get_data(&elf).ok()?
    else {
        return None;
    };
    symbols
        .iter()
        .filter(|symbol| matches!(symbol.get_type(), Ok(symbol_table::Type::NoType)))
        .filter(|symbol| symbol.value() <= address)
        .filter(|symbol| {
            let section = elf.section_iter().nth(usize::from(symbol.shndx()));
            section.is_some_and(|section| section.flags() & SHF_EXECINSTR != 0)
        })
        .max_by_key(|symbol| symbol.value())
        .and_then(|symbol| Some((symbol.value(), symbol.get_name(&elf).ok()?.to_string())))
}

/// The program header table must lie inside the file: `xmas-elf` slices it without asking.
fn check_tables(bytes: &[u8]) -> Result<()> {
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u64_at = |at: usize| {
        let mut value = [0; 8];
        value.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(value)
    };
    if bytes[4] != 2 {
        return Ok(()); // not 64-bit: refused with a better message by the caller
    }
    let (table, size, count) = (u64_at(32), u16_at(54), u16_at(56));
    ensure!(count == 0 || size == 56, "program headers of {size} bytes: damaged ELF file");
    let end = table.checked_add(size * count).context("damaged ELF file")?;
    ensure!(table.is_multiple_of(8), "misaligned program headers: damaged ELF file");
    ensure!(count > 0, "no program headers: not a linked program");
    ensure!(
        end <= bytes.len() as u64,
        "cut short inside its program headers; build or copy it again"
    );
    Ok(())
}

fn check_segments(elf: &ElfFile<'_>, file_size: u64) -> Result<()> {
    let entry = elf.header.pt2.entry_point();
    let mut entry_is_code = false;
    for segment in elf.program_iter() {
        match segment.get_type() {
            Ok(Type::Load) => {}
            Ok(Type::Interp | Type::Dynamic) => bail!("dynamically linked; link it statically"),
            _ => continue,
        }
        let end = segment.offset().checked_add(segment.file_size()).context("damaged ELF file")?;
        ensure!(
            end <= file_size,
            "cut short: a segment ends at byte {end}, the file at {file_size}; build or copy it again"
        );
        let (start, size) = (segment.virtual_addr(), segment.mem_size());
        let top = start.checked_add(size).context("a segment wraps around the address space")?;
        ensure!(size >= segment.file_size(), "a segment is larger in the file than in memory");
        entry_is_code |= is_code(&segment) && (start..top).contains(&entry);
    }
    ensure!(entry_is_code, "its entry point {entry:#x} is not inside its code");
    Ok(())
}

fn is_code(segment: &program::ProgramHeader<'_>) -> bool {
    segment.flags().is_execute()
}

/// Whether the file is a guest package that has no code yet (entry point 0, nothing executable).
pub fn is_empty_shell(bytes: &[u8]) -> bool {
    ElfFile::new(bytes).is_ok_and(|elf| {
        elf.header.pt2.entry_point() == 0 && !elf.program_iter().any(|s| is_code(&s))
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A tiny right program: one executable segment of four bytes.
    pub fn tiny() -> Vec<u8> {
        let mut elf = vec![0u8; 64 + 56 + 4];
        elf[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        elf[16] = 2; // ET_EXEC
        elf[18] = 62; // EM_X86_64
        elf[20] = 1;
        elf[24..32].copy_from_slice(&0x40_0000u64.to_le_bytes());
        elf[32] = 64;
        elf[52] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 1; // PT_LOAD
        elf[68] = 5; // R X
        elf[72..80].copy_from_slice(&120u64.to_le_bytes());
        elf[80..88].copy_from_slice(&0x40_0000u64.to_le_bytes());
        elf[96] = 4;
        elf[104] = 4;
        elf
    }

    fn refused(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut elf = tiny();
        change(&mut elf);
        check_program(&elf).unwrap_err().to_string()
    }

    #[test]
    fn a_right_program_passes() {
        check_program(&tiny()).unwrap();
    }

    #[test]
    fn each_wrong_program_is_told_why() {
        assert!(refused(|elf| elf.truncate(123)).contains("cut short"));
        assert!(refused(|elf| elf.truncate(80)).contains("cut short"));
        assert!(refused(|elf| elf.truncate(10)).contains("cut short"));
        assert!(refused(|elf| elf[0] = b'#').contains("not an ELF"));
        assert!(refused(|elf| elf[4] = 1).contains("32-bit"));
        assert!(refused(|elf| elf[18] = 183).contains("x86-64"));
        assert!(refused(|elf| elf[16] = 3).contains("not an executable"));
        assert!(refused(|elf| elf[24] = 9).contains("entry point"));
        assert!(refused(|elf| elf[64] = 3).contains("dynamically"));
        assert!(refused(|elf| elf[56] = 0).contains("no program headers"));
    }

    #[test]
    fn no_single_damaged_byte_panics() {
        for at in 0..tiny().len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut elf = tiny();
                elf[at] = value;
                let _ = check_program(&elf);
            }
        }
    }
}
