//! Typed items of messages and receive buffers (ref 1.5, 1.6).
//!
//! The same string descriptor format serves message items (MRs) and receive buffers (BRs). A parser
//! here works on a slice of words in ascending register order; nothing is assumed about them.

use crate::fpage::Fpage;

/// Bit 0 of an item's first word: another item (in BRs: another receive buffer) follows.
pub const C_BIT: u64 = 1;
/// Type nibble of a map item.
pub const MAP_TYPE: u64 = 0x8;
/// Type nibble of a grant item.
pub const GRANT_TYPE: u64 = 0xA;
/// Bit 9 of a string descriptor: it continues in another descriptor.
pub const CONTINUATION: u64 = 1 << 9;
/// Most pointers in one string descriptor.
pub const MAX_SUBSTRINGS: usize = 32;

/// Why a typed part cannot be parsed; all of these are message overflow to both partners (ref 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemError {
    /// The words end inside an item.
    Truncated,
    /// The type nibble names no known item.
    UnknownType,
}

/// What the first word of an item announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemHead {
    /// A map item of two words.
    Map {
        /// The send base.
        base: u64,
    },
    /// A grant item of two words.
    Grant {
        /// The send base.
        base: u64,
    },
    /// A string descriptor.
    String(StringHead),
}

/// First word of a string descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringHead(u64);

impl StringHead {
    /// A descriptor of `substrings` pieces (1 to 32) of `len` bytes each.
    #[must_use]
    pub const fn new(len: u64, substrings: usize, continues: bool) -> Self {
        let j = (substrings.saturating_sub(1) & 0x1F) as u64;
        Self((len << 10) | if continues { CONTINUATION } else { 0 } | (j << 4))
    }

    /// The word that crosses the interface.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Number of pointers that follow (1 to 32).
    #[must_use]
    pub const fn substrings(self) -> usize {
        ((self.0 >> 4) & 0x1F) as usize + 1
    }

    /// Length of each substring in bytes.
    #[must_use]
    pub const fn substring_len(self) -> u64 {
        self.0 >> 10
    }

    /// c: whether another descriptor of the same string follows.
    #[must_use]
    pub const fn continues(self) -> bool {
        self.0 & CONTINUATION != 0
    }

    /// C: whether another receive buffer follows (buffer registers only).
    #[must_use]
    pub const fn more_buffers(self) -> bool {
        self.0 & C_BIT != 0
    }
}

impl ItemHead {
    /// Decodes the first word of an item. The C bit is ignored (ref 1.5).
    ///
    /// # Errors
    /// [`ItemError::UnknownType`], also for CtrlXfer items, which amd64 does not have.
    pub const fn parse(word: u64) -> Result<Self, ItemError> {
        match word & 0xE {
            0x0 | 0x2 | 0x4 | 0x6 => Ok(Self::String(StringHead(word))),
            MAP_TYPE => Ok(Self::Map { base: word & !0x3FF }),
            GRANT_TYPE => Ok(Self::Grant { base: word & !0x3FF }),
            _ => Err(ItemError::UnknownType),
        }
    }
}

/// A parsed item of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// Map `fpage` at `base`.
    Map {
        /// The send base.
        base: u64,
        /// The send fpage.
        fpage: Fpage,
    },
    /// Grant `fpage` at `base`.
    Grant {
        /// The send base.
        base: u64,
        /// The send fpage.
        fpage: Fpage,
    },
    /// A string, simple or compound.
    String(StringItem<'a>),
}

impl Item<'_> {
    /// Number of words of the item.
    #[must_use]
    pub const fn words(&self) -> usize {
        match self {
            Self::Map { .. } | Self::Grant { .. } => 2,
            Self::String(s) => s.words.len(),
        }
    }
}

/// A whole string: all descriptors of a compound string, with their pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringItem<'a> {
    words: &'a [u64],
}

impl<'a> StringItem<'a> {
    /// Takes one string from the front of `words`, which start with a string descriptor.
    ///
    /// # Errors
    /// [`ItemError::Truncated`] if the words end early; [`ItemError::UnknownType`] if a continued
    /// descriptor is not a string.
    pub fn parse(words: &'a [u64]) -> Result<Self, ItemError> {
        let mut at = 0;
        loop {
            let &word = words.get(at).ok_or(ItemError::Truncated)?;
            let ItemHead::String(head) = ItemHead::parse(word)? else {
                return Err(ItemError::UnknownType);
            };
            at += 1 + head.substrings();
            if at > words.len() {
                return Err(ItemError::Truncated);
            }
            if !head.continues() {
                return Ok(Self { words: &words[..at] });
            }
        }
    }

    /// The words of the item.
    #[must_use]
    pub const fn words(self) -> &'a [u64] {
        self.words
    }

    /// The substrings in order: address and length in bytes.
    #[must_use]
    pub const fn segments(self) -> Segments<'a> {
        Segments { words: self.words, left: 0, len: 0 }
    }

    /// Total length in bytes, saturating.
    #[must_use]
    pub fn total_len(self) -> u64 {
        self.segments().fold(0u64, |sum, (_, len)| sum.saturating_add(len))
    }

    /// Whether any descriptor of the buffer has C set: another receive buffer follows.
    #[must_use]
    pub fn more_buffers(self) -> bool {
        let mut at = 0;
        while let Some(&word) = self.words.get(at) {
            let head = StringHead(word);
            if head.more_buffers() {
                return true;
            }
            at += 1 + head.substrings();
        }
        false
    }
}

/// Iterator over the substrings of a [`StringItem`].
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    words: &'a [u64],
    left: usize,
    len: u64,
}

impl Iterator for Segments<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        if self.left == 0 {
            let (&word, rest) = self.words.split_first()?;
            let head = StringHead(word);
            self.words = rest;
            self.left = head.substrings();
            self.len = head.substring_len();
        }
        let (&addr, rest) = self.words.split_first()?;
        self.words = rest;
        self.left -= 1;
        Some((addr, self.len))
    }
}

/// Iterator over the items of a message's typed words.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    words: &'a [u64],
}

impl<'a> Items<'a> {
    /// The items in `words`, which are exactly the t typed words. After an error it ends.
    #[must_use]
    pub const fn new(words: &'a [u64]) -> Self {
        Self { words }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, ItemError>;

    fn next(&mut self) -> Option<Self::Item> {
        let &first = self.words.first()?;
        let parsed = parse_item(first, self.words);
        self.words = match &parsed {
            Ok(item) => &self.words[item.words()..],
            Err(_) => &[],
        };
        Some(parsed)
    }
}

fn parse_item(first: u64, words: &[u64]) -> Result<Item<'_>, ItemError> {
    let head = ItemHead::parse(first)?;
    if let ItemHead::String(_) = head {
        return StringItem::parse(words).map(Item::String);
    }
    let fpage = Fpage::from_raw(*words.get(1).ok_or(ItemError::Truncated)?);
    Ok(match head {
        ItemHead::Map { base } => Item::Map { base, fpage },
        ItemHead::Grant { base } => Item::Grant { base, fpage },
        ItemHead::String(_) => return Err(ItemError::UnknownType),
    })
}

/// The two words of a map item.
#[must_use]
pub const fn map_item(base: u64, fpage: Fpage) -> [u64; 2] {
    [(base & !0x3FF) | MAP_TYPE, fpage.raw()]
}

/// The two words of a grant item.
#[must_use]
pub const fn grant_item(base: u64, fpage: Fpage) -> [u64; 2] {
    [(base & !0x3FF) | GRANT_TYPE, fpage.raw()]
}

/// The two words of a simple string or of a simple receive buffer.
#[must_use]
pub const fn string_item(addr: u64, len: u64) -> [u64; 2] {
    [StringHead::new(len, 1, false).raw(), addr]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fpage::Rights;

    #[test]
    fn map_and_grant() {
        let page = Fpage::memory(0x5000, 12, Rights::RW);
        let words = [map_item(0x1234_5678, page), grant_item(0x8000, page)].concat();
        let got: Vec<_> = Items::new(&words).collect();
        assert_eq!(
            got,
            [
                Ok(Item::Map { base: 0x1234_5400, fpage: page }),
                Ok(Item::Grant { base: 0x8000, fpage: page }),
            ]
        );
        assert_eq!(words[0] & 0xF, 8);
        assert_eq!(words[2] & 0xF, 0xA);
    }

    #[test]
    fn compound_string() {
        let words = [
            StringHead::new(16, 2, true).raw(),
            0x1000,
            0x2000,
            StringHead::new(5, 1, false).raw(),
            0x3000,
            map_item(0, Fpage::NIL)[0],
            0,
        ];
        let items: Vec<_> = Items::new(&words).collect::<Result<_, _>>().expect("well formed");
        let Item::String(s) = items[0] else { panic!("a string") };
        assert_eq!(s.words().len(), 5);
        assert_eq!(s.segments().collect::<Vec<_>>(), [(0x1000, 16), (0x2000, 16), (0x3000, 5)]);
        assert_eq!(s.total_len(), 37);
        assert!(!s.more_buffers());
        assert_eq!(items.len(), 2);
    }

    #[test]
    fn errors() {
        assert_eq!(Items::new(&[0xC]).next(), Some(Err(ItemError::UnknownType)));
        assert_eq!(Items::new(&[MAP_TYPE]).next(), Some(Err(ItemError::Truncated)));
        let short = [StringHead::new(1, 3, false).raw(), 0, 0];
        assert_eq!(Items::new(&short).next(), Some(Err(ItemError::Truncated)));
        let cut = [StringHead::new(1, 1, true).raw(), 0];
        assert_eq!(Items::new(&cut).next(), Some(Err(ItemError::Truncated)));
        let bad = [StringHead::new(1, 1, true).raw(), 0, MAP_TYPE, 0];
        assert_eq!(Items::new(&bad).next(), Some(Err(ItemError::UnknownType)));
    }

    #[test]
    fn any_words_parse_without_panic_and_end() {
        let mut x = 1u64;
        for _ in 0..20_000 {
            let words: Vec<u64> = (0..63)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    x >> 7
                })
                .collect();
            let used: usize =
                Items::new(&words).map_while(Result::ok).map(|item| item.words()).sum();
            assert!(used <= words.len());
        }
    }

    #[test]
    fn receive_buffers_chain_by_c() {
        let mut first = string_item(0x1000, 64);
        first[0] |= C_BIT;
        let words = [first, string_item(0x2000, 32)].concat();
        let one = StringItem::parse(&words).expect("first");
        assert!(one.more_buffers());
        let two = StringItem::parse(&words[one.words().len()..]).expect("second");
        assert!(!two.more_buffers());
        assert_eq!(two.segments().next(), Some((0x2000, 32)));
    }
}
