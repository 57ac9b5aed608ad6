//! Page-table entries of amd64 as the database uses them (SDM 3A 4.5).

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const W: u64 = 1 << 1;
/// User.
pub const U: u64 = 1 << 2;
/// Page write-through: bit 0 of the cache attribute.
pub const PWT: u64 = 1 << 3;
/// Page cache disable: bit 1 of the cache attribute.
pub const PCD: u64 = 1 << 4;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// Page size: the entry of a level above 1 is a page.
pub const PS: u64 = 1 << 7;
/// Bit 2 of the cache attribute in an entry of level 1.
pub const PAT_SMALL: u64 = 1 << 7;
/// Bit 2 of the cache attribute in a page entry of a higher level.
pub const PAT_LARGE: u64 = 1 << 12;
/// No execute.
pub const NX: u64 = 1 << 63;
/// Address bits of an entry.
pub const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// An entry that points to a lower table.
pub const TABLE: u64 = P | W | U;

/// Read right, and status "referenced" (reference 1.2).
pub const READ: u8 = 4;
/// Write right, and status "written".
pub const WRITE: u8 = 2;
/// Execute right, and status "executed".
pub const EXECUTE: u8 = 1;
/// All rights.
pub const ALL: u8 = 7;

/// Bytes from a table to its shadow.
pub const SHADOW: u64 = 4096;

/// log2 of the bytes that one entry of a table of `level` covers.
pub const fn bits(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// Bytes that one entry of a table of `level` covers.
pub const fn size(level: u8) -> u64 {
    1 << bits(level)
}

/// Whether a present entry of `level` is a page.
pub const fn is_page(entry: u64, level: u8) -> bool {
    entry & P != 0 && (level == 1 || entry & PS != 0)
}

/// First byte of the page behind a page entry of `level`.
pub const fn frame(entry: u64, level: u8) -> u64 {
    entry & ADDRESS & !(size(level) - 1)
}

/// Rights that a page entry gives. Whatever is mapped can be read (reference 5.6).
pub const fn rights(entry: u64) -> u8 {
    READ | (entry & W) as u8 | (entry & NX == 0) as u8
}

/// Status that a page entry shows. The processor does not tell reading from execution.
pub const fn status(entry: u64) -> u8 {
    let accessed = (entry >> 5) as u8 & 1;
    let dirty = (entry >> 6) as u8 & 1;
    accessed << 2 | dirty << 1 | (accessed & (entry & NX == 0) as u8)
}

/// The entry of a page that was mapped from the page with `entry` with at most `rights`, on a processor that honours
/// the no-execute bit if `nx`. Nobody has used it yet.
pub const fn handed_on(entry: u64, rights: u8, nx: bool) -> u64 {
    let mut entry = entry & !(A | D);
    if rights & WRITE == 0 {
        entry &= !W;
    }
    if rights & EXECUTE == 0 && nx {
        entry |= NX;
    }
    entry
}

/// The bits of a page entry of `level` for cache attribute `cache` (bit 0 PWT, bit 1 PCD, bit 2 PAT). The kernel programs
/// the page attribute table so that the union of two attributes is never more cached than both (`regs::PAT_VALUE`).
pub const fn cache_bits(cache: u8, level: u8) -> u64 {
    let pat = if level == 1 { PAT_SMALL } else { PAT_LARGE };
    (cache as u64 & 3) << 3 | if cache & 4 != 0 { pat } else { 0 }
}

/// The page entry of level `to <= from` for the first byte of the page entry `entry` of level
/// `from`: the same rights and cache attribute, status bits kept.
pub const fn resize(entry: u64, from: u8, to: u8) -> u64 {
    if from == to || to > 1 {
        return entry;
    }
    let pat = (entry & PAT_LARGE) >> 5;
    (entry & !(PAT_LARGE | PS)) | pat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_moves_with_the_level() {
        let large = 0x4000_0000 | PAT_LARGE | PCD | PS | W | U | P;
        assert_eq!(resize(large, 2, 1), 0x4000_0000 | PAT_SMALL | PCD | W | U | P);
        assert_eq!(resize(large, 3, 2), large);
        assert_eq!(frame(large, 2), 0x4000_0000);
        assert_eq!(resize(0x4000_0000 | PS | P, 2, 1), 0x4000_0000 | P);
    }

    #[test]
    fn attributes_have_their_places() {
        for cache in 0..8 {
            let entry = 0x4000_0000 | P | PS | cache_bits(cache, 2);
            assert_eq!(resize(entry, 2, 1) & cache_bits(7, 1), cache_bits(cache, 1));
        }
        assert_eq!(cache_bits(5, 1), PWT | PAT_SMALL);
        assert_eq!(cache_bits(6, 3), PCD | PAT_LARGE);
    }

    #[test]
    fn rights_and_status() {
        assert_eq!(rights(P | W), 7);
        assert_eq!(rights(P | NX), 4);
        assert_eq!(status(P | A), 5);
        assert_eq!(status(P | A | D | NX), 6);
        assert_eq!(status(P), 0);
    }
}
