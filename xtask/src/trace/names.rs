//! Names for threads and addresses of guest programs.
//!
//! Programs are linked at the same addresses, so an address alone does not say whose it is. The kernel tells a few code
//! bytes with it; the program whose file has those bytes there is the one.

use super::Capture;
use crate::guest::Programs;
use l4abi::trace::Event;
use std::{collections::BTreeMap, fs, path::Path};
use xmas_elf::{ElfFile, program::Type};

/// A program that may run in the guest.
struct Program {
    name: String,
    bytes: Vec<u8>,
    loader: Option<addr2line::Loader>,
}

/// The programs of a run, and the threads in them.
#[derive(Default)]
pub struct Names {
    programs: Vec<Program>,
    threads: BTreeMap<u32, String>,
}

impl Names {
    /// Adds a program: its file with symbols. One that cannot be read has no names.
    pub fn add(&mut self, name: &str, file: &Path) {
        if let Ok(bytes) = fs::read(file) {
            let loader = addr2line::Loader::new(file).ok();
            self.programs.push(Program { name: name.into(), bytes, loader });
        }
    }

    /// Those of all guest programs.
    pub fn of(programs: &Programs) -> Self {
        let mut names = Self::default();
        names.add_all(programs);
        names
    }

    /// Adds all guest programs.
    pub fn add_all(&mut self, programs: &Programs) {
        programs.iter().for_each(|(name, program)| self.add(name, &program.full));
    }

    /// Program and function of the code `code` at `ip`.
    pub fn find(&self, ip: u64, code: &[u8]) -> Option<(&str, Option<String>)> {
        if code.is_empty() {
            return None;
        }
        let program = self.programs.iter().find(|p| has(&p.bytes, ip, code))?;
        let symbol = program.loader.as_ref().and_then(|loader| loader.find_symbol(ip));
        let plain = |s: &str| addr2line::demangle_auto(s.into(), None).into_owned();
        Some((&program.name, symbol.map(plain)))
    }

    /// Remembers whose the threads of a trace are.
    pub fn learn(&mut self, capture: &Capture) {
        // Also those that are gone at the end: they began somewhere.
        let begun = capture.cpus.iter().flat_map(|cpu| &cpu.records);
        let begun = begun.filter(|r| r.event() == Some(Event::Start));
        let begun = begun.map(|r| (r.thread(), r.a, r.b.to_le_bytes().to_vec()));
        let there = capture.threads.iter().map(|t| (t.number, t.ip, t.code.clone()));
        for (number, ip, code) in begun.chain(there) {
            if let Some((program, _)) = self.find(ip, &code) {
                let name = format!("{program} {number}");
                self.threads.insert(number, name);
            }
        }
    }

    /// The name of a thread.
    pub fn thread(&self, number: u32) -> String {
        self.threads.get(&number).cloned().unwrap_or_else(|| format!("thread {number}"))
    }
}

/// Whether the program has these bytes at `address`.
fn has(elf: &[u8], address: u64, code: &[u8]) -> bool {
    let Ok(elf_file) = ElfFile::new(elf) else { return false };
    elf_file.program_iter().filter(|s| s.get_type() == Ok(Type::Load)).any(|segment| {
        let Some(offset) = address.checked_sub(segment.virtual_addr()) else { return false };
        let inside = offset + code.len() as u64 <= segment.file_size();
        let at = (segment.offset() + offset) as usize;
        inside && elf.get(at..at + code.len()) == Some(code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_says_whose_an_address_is() {
        let mut first = crate::elf::tests::tiny();
        let mut second = first.clone();
        first[120..].copy_from_slice(b"\x90\x90\x0f\x05");
        second[120..].copy_from_slice(b"\x90\x90\xf4\xc3");
        let program =
            |name: &str, bytes: Vec<u8>| Program { name: name.into(), bytes, loader: None };
        let names = Names {
            programs: vec![program("a", first), program("b", second)],
            threads: BTreeMap::new(),
        };
        assert_eq!(names.find(0x40_0002, b"\x0f\x05"), Some(("a", None)));
        assert_eq!(names.find(0x40_0002, b"\xf4\xc3"), Some(("b", None)));
        for (ip, code) in
            [(0x40_0003, &b"\x05\x00"[..]), (0x3f_ffff, b"\0"), (0x40_0000, b""), (u64::MAX, b"a")]
        {
            assert_eq!(names.find(ip, code), None);
        }
        assert_eq!(names.thread(7), "thread 7");
    }
}
