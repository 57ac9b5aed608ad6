//! Where guest-physical memory lies.
//!
//! The emulated board concatenates the nodes' memory in order of node number, maps it from 0 up to
//! `lowmem` and continues at 4 GiB. An *offset* counts bytes of RAM along that concatenation, so it
//! is dense and a line's number is `offset / 64`.

use crate::{LINE, config::Config};

/// A place in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the start of the concatenation of all nodes' memory.
    pub offset: u64,
    /// The node whose memory it is.
    pub node: usize,
}

impl Place {
    /// The number of the line this place is in.
    #[must_use]
    pub fn line(self) -> u32 {
        (self.offset / LINE) as u32
    }
}

/// The layout of RAM.
#[derive(Clone, Debug)]
pub struct Ram {
    /// First offset of each node, and the total as last element.
    starts: Vec<u64>,
    lowmem: u64,
}

const FOUR_GIB: u64 = 1 << 32;

impl Ram {
    /// The layout of a configured machine.
    #[must_use]
    pub fn new(config: &Config) -> Ram {
        let mut starts = vec![0];
        let mut total = 0;
        for size in &config.memory {
            total += size;
            starts.push(total);
        }
        Ram { starts, lowmem: config.lowmem.min(total) }
    }

    /// All of RAM, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// First offset of a node's memory.
    #[must_use]
    pub fn start_of(&self, node: usize) -> u64 {
        self.starts[node]
    }

    /// The RAM behind a guest-physical address; `None` for devices, ROM and holes.
    #[must_use]
    pub fn locate(&self, gpa: u64) -> Option<Place> {
        let offset = if gpa < self.lowmem {
            gpa
        } else if gpa >= FOUR_GIB {
            gpa - FOUR_GIB + self.lowmem
        } else {
            return None;
        };
        self.place(offset)
    }

    /// The place at an offset.
    #[must_use]
    pub fn place(&self, offset: u64) -> Option<Place> {
        let node = self.starts.windows(2).position(|w| offset >= w[0] && offset < w[1])?;
        Some(Place { offset, node })
    }

    /// The guest-physical address of an offset.
    #[must_use]
    pub fn gpa(&self, offset: u64) -> u64 {
        if offset < self.lowmem { offset } else { offset - self.lowmem + FOUR_GIB }
    }

    /// The node of a line.
    #[must_use]
    pub fn node_of_line(&self, line: u32) -> usize {
        self.place(u64::from(line) * LINE).map_or(0, |p| p.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(memory: &[u64], lowmem: u64) -> Ram {
        Ram::new(&Config { memory: memory.to_vec(), lowmem, ..Config::default() })
    }

    #[test]
    fn nodes_follow_each_other() {
        let r = ram(&[0x1000, 0, 0x3000], 1 << 31);
        assert_eq!(r.locate(0xFFF), Some(Place { offset: 0xFFF, node: 0 }));
        assert_eq!(r.locate(0x1000), Some(Place { offset: 0x1000, node: 2 }));
        assert_eq!(r.locate(0x4000), None);
        assert_eq!(r.total(), 0x4000);
    }

    #[test]
    fn memory_continues_above_the_device_hole() {
        let r = ram(&[0x3000, 0x3000], 0x2000);
        assert_eq!(r.locate(0x1FFF), Some(Place { offset: 0x1FFF, node: 0 }));
        assert_eq!(r.locate(0x2000), None, "device hole");
        assert_eq!(r.locate(1 << 32), Some(Place { offset: 0x2000, node: 0 }));
        assert_eq!(r.locate((1 << 32) + 0x1000), Some(Place { offset: 0x3000, node: 1 }));
        for offset in [0, 0x1FFF, 0x2000, 0x5FFF] {
            assert_eq!(r.locate(r.gpa(offset)).map(|p| p.offset), Some(offset));
        }
    }
}
