//! Turns addresses of a kernel backtrace into names and lines.

use crate::elf;
use crate::trace::{self, Names};
use std::path::{Path, PathBuf};

/// Without a line table the nearest label below is taken, but not from farther away than this.
const LARGEST_FUNCTION: u64 = 64 << 10;

/// Symbols of one program, loaded when first needed.
pub struct Symbols {
    file: PathBuf,
    loader: Option<Option<addr2line::Loader>>,
    programs: Names,
}

impl Symbols {
    /// Symbols of `file`, the program as it was linked.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), loader: None, programs: Names::default() }
    }

    /// The same with the programs that may run in the guest.
    pub fn with_programs(self, programs: Names) -> Self {
        Self { programs, ..self }
    }

    /// Program and function behind `ip=ADDRESS code=BYTES` in a line of the kernel debugger.
    fn program(&self, line: &str) -> Option<String> {
        let word = |name: &str| {
            let start = line.find(name)? + name.len();
            line[start..].split_whitespace().next()
        };
        let ip = u64::from_str_radix(word(" ip=0x")?, 16).ok()?;
        let code = trace::hex(word(" code=")?)?;
        let (program, function) = self.programs.find(ip, &code)?;
        Some(format!("       {program}: {}", function.as_deref().unwrap_or("?")))
    }

    /// For a backtrace line of the guest, the lines that explain it, the innermost inlined function
    /// first; nothing for any other line.
    pub fn explain(&mut self, line: &str) -> Vec<String> {
        let Some(address) = backtrace_address(line) else {
            return self.program(line).into_iter().collect();
        };
        let file = &self.file;
        let loader = self.loader.get_or_insert_with(|| addr2line::Loader::new(file).ok());
        let Some(loader) = loader else { return Vec::new() };
        // Frames above the first hold return addresses: the call is the instruction before.
        let is_first = line.trim_start().starts_with("#0");
        let probe = if is_first { address } else { address - 1 };
        let typed = loader.find_symbol_info(probe).map(|symbol| {
            let name = addr2line::demangle_auto(symbol.name().into(), None).into_owned();
            (symbol.address(), name)
        });
        let label = || elf::label(&std::fs::read(file).ok()?, probe);
        // The nearest one counts: assembly behind the last function is not that function's.
        let symbol = typed
            .into_iter()
            .chain(label())
            .max_by_key(|(start, _)| *start)
            .filter(|(start, _)| probe.wrapping_sub(*start) < LARGEST_FUNCTION)
            .map(|(_, name)| name);
        let mut names = Vec::new();
        let mut places = Vec::new();
        if let Ok(mut frames) = loader.find_frames(probe) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|f| f.demangle().ok());
                names.push(name.map_or_else(|| "?".to_string(), |name| name.into_owned()));
                let place = frame.location.as_ref().and_then(|location| {
                    let file = short_path(location.file?);
                    Some(format!(" at {file}:{}", location.line.unwrap_or(0)))
                });
                places.push(place.unwrap_or_default());
            }
        }
        // Line tables know functions by their bare names; the outermost one is the symbol's, which
        // has its whole path. Assembly has no line table, only labels.
        match (names.last_mut(), symbol) {
            (Some(outermost), Some(symbol)) => *outermost = symbol,
            (None, Some(symbol)) => {
                names.push(symbol);
                places.push(String::new());
            }
            (_, None) => {}
        }
        names.iter().zip(&places).map(|(name, place)| format!("       {name}{place}")).collect()
    }
}

impl Symbols {
    /// The static object of the program that begins at or before `address`, and how far before.
    pub fn data(&mut self, address: u64) -> Option<String> {
        let file = &self.file;
        let loader = self.loader.get_or_insert_with(|| addr2line::Loader::new(file).ok());
        let symbol = loader.as_ref()?.find_symbol_info(address)?;
        let offset = address.checked_sub(symbol.address()).filter(|o| *o < LARGEST_FUNCTION)?;
        let name = addr2line::demangle_auto(symbol.name().into(), None).into_owned();
        Some(if offset == 0 { name } else { format!("{name}+{offset:#x}") })
    }
}

/// The kernel address in a line such as `  #3 0xffffffff80212345`.
fn backtrace_address(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("  #")?;
    let word = rest.split_whitespace().find_map(|word| word.strip_prefix("0x"))?;
    let digits: String = word.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).ok().filter(|address| *address >= 0xffff_ffff_8000_0000)
}

/// Paths inside the checkout without the checkout's own place.
fn short_path(path: &str) -> &str {
    let root = crate::paths::root();
    root.to_str()
        .and_then(|root| path.strip_prefix(root))
        .map_or(path, |p| p.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backtrace_lines_have_addresses() {
        assert_eq!(backtrace_address("  #3 0xffffffff80212345"), Some(0xffff_ffff_8021_2345));
        assert_eq!(backtrace_address("  #0 rip 0xffffffff80212345 x"), Some(0xffff_ffff_8021_2345));
        assert_eq!(backtrace_address("#3 0xffffffff80212345"), None);
        assert_eq!(backtrace_address("  #3 0x400000"), None);
        assert_eq!(backtrace_address("epitaph: 0xffffffff80212345"), None);
    }

    /// xtask's own binary has symbols, but at low addresses: a kernel address finds none.
    #[test]
    fn missing_symbols_are_no_error() {
        assert!(
            Symbols::new(Path::new("/nonexistent")).explain("  #1 0xffffffff80212345").is_empty()
        );
        let own = std::env::current_exe().unwrap();
        assert!(Symbols::new(&own).explain("  #1 0xffffffff80212345").is_empty());
    }
}
