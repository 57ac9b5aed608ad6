//! Boot info and boot modules.

use alloc::string::String;
use alloc::vec::Vec;
use l4abi::bootinfo::Records;
use libl4::{arch, kip, println, sigma0};

const PAGE: u64 = 4096;

/// A boot module, mapped one to one.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name in the archive.
    pub name: String,
    /// Its (physical) address.
    pub base: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Module {
    /// Its content.
    pub fn bytes(&self) -> &'static [u8] {
        arch::module_bytes(self.base, self.size)
    }

    /// The pages it lies in, as naturally aligned blocks: address and log2 of the size.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, u8)> + use<> {
        blocks(self.base & !(PAGE - 1), (self.base + self.size).next_multiple_of(PAGE))
    }
}

/// Cuts `from..to` (pages) into naturally aligned powers of two.
fn blocks(from: u64, to: u64) -> impl Iterator<Item = (u64, u8)> {
    let mut at = from;
    core::iter::from_fn(move || {
        let left = to.checked_sub(at).filter(|&left| left > 0)?;
        let log2 = at.trailing_zeros().min(left.ilog2()) as u8;
        let block = (at, log2);
        at += 1 << log2;
        Some(block)
    })
}

/// All modules.
#[derive(Debug)]
pub struct Modules(Vec<Module>);

impl Modules {
    /// Reads the boot info and takes the modules from sigma0.
    pub fn take() -> Self {
        let at = kip().boot_info();
        assert!(at != 0, "there is no boot info");
        sigma0::specific_page(at, 12).expect("the boot info page");
        let bytes = arch::module_bytes(at, PAGE);
        let records = Records::new(bytes).expect("well-formed boot info");
        let mut modules = Vec::new();
        for record in records {
            let (Some((base, size)), Some(name)) = (record.module(), record.command_line()) else {
                continue;
            };
            let name = String::from_utf8_lossy(name).into_owned();
            let module = Module { name, base, size };
            let taken = module.blocks().try_for_each(|(at, log2)| sigma0::specific_page(at, log2));
            match taken {
                Ok(()) => modules.push(module),
                Err(error) => println!("root: module {}: {error:?}", module.name),
            }
        }
        Self(modules)
    }

    /// The module of that name.
    pub fn find(&self, name: &str) -> Option<&Module> {
        self.0.iter().find(|m| m.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Module> {
        self.0.iter()
    }

    /// Number of modules.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
