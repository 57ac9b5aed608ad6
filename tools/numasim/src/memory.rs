//! The guest's RAM. Each node's memory is a file that the emulator maps; where it did so stands in
//! `/proc/self/maps`. That tells a fetch's host address from its node, and lets page tables be read.

use crate::qemu;
use numasim_model::{config::Config, phys};

/// One node's memory in this process.
struct Mapping {
    host: usize,
    size: u64,
    /// Offset of its first byte in the guest's RAM.
    offset: u64,
}

/// All of the guest's RAM.
pub struct Ram {
    layout: phys::Ram,
    mappings: Vec<Mapping>,
}

impl Ram {
    /// Looks for the mappings of all nodes' files.
    pub fn find(config: &Config) -> Result<Ram, String> {
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
        let layout = phys::Ram::new(config);
        let mut mappings = Vec::new();
        for (node, &size) in config.memory.iter().enumerate().filter(|&(_, &size)| size > 0) {
            let file = config.files.get(node).map_or("", String::as_str);
            let host = maps
                .lines()
                .find_map(|line| host_address(line, file, size))
                .ok_or_else(|| format!("memory of node {node} ({file}) is not mapped"))?;
            mappings.push(Mapping { host, size, offset: layout.start_of(node) });
        }
        Ok(Ram { layout, mappings })
    }

    /// The guest-physical address of a host address.
    pub fn gpa_of_host(&self, host: usize) -> Option<u64> {
        let m =
            self.mappings.iter().find(|m| host >= m.host && ((host - m.host) as u64) < m.size)?;
        Some(self.layout.gpa(m.offset + (host - m.host) as u64))
    }

    /// The word at a guest-physical address (rounded down to a multiple of 8).
    pub fn read(&self, gpa: u64) -> Option<u64> {
        let offset = self.layout.locate(gpa)?.offset & !7;
        let m = self.mappings.iter().find(|m| offset.wrapping_sub(m.offset) < m.size)?;
        Some(qemu::load_host(m.host + (offset - m.offset) as usize))
    }

    /// Undoes what QEMU 7.2 reports for RAM: offset + start of the node's memory region, where the
    /// offset already counts from the start of RAM (plugins/api.c adds the region's address once more).
    pub fn gpa_of_reported(&self, reported: u64) -> Option<u64> {
        let m = self.mappings.iter().find(|m| reported.wrapping_sub(2 * m.offset) < m.size)?;
        Some(self.layout.gpa(reported - m.offset))
    }
}

/// The start of a mapping of the whole of `file`, from a line of `/proc/self/maps`.
fn host_address(line: &str, file: &str, size: u64) -> Option<usize> {
    let path = line.get(line.find('/')?..)?.trim_end_matches(" (deleted)");
    if path != file {
        return None;
    }
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    (end - start >= size as usize).then_some(start)
}
