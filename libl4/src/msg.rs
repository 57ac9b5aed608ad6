//! Building and reading messages in a UTCB.

use l4abi::item::{self, Item, Items};
use l4abi::tag::{MAX_WORDS, NUM_MRS};
use l4abi::{Fpage, MsgTag, Utcb};

/// Builds a message in the message registers: untyped words first, then typed items.
#[derive(Debug)]
pub struct Writer<'u> {
    utcb: &'u Utcb,
    untyped: usize,
    typed: usize,
}

impl<'u> Writer<'u> {
    /// Starts a message in `utcb`.
    #[must_use]
    pub fn new(utcb: &'u Utcb) -> Self {
        Self { utcb, untyped: 0, typed: 0 }
    }

    /// Starts a message in the UTCB of the running thread.
    #[must_use]
    pub fn here() -> Writer<'static> {
        Writer::new(crate::arch::utcb())
    }

    fn push(&mut self, word: u64) {
        let at = 1 + self.untyped + self.typed;
        assert!(at < NUM_MRS, "message longer than {MAX_WORDS} words");
        self.utcb.store_mr(at, word);
    }

    /// Adds an untyped word.
    ///
    /// # Panics
    /// If the message is full, or a typed item came before.
    pub fn word(&mut self, word: u64) -> &mut Self {
        assert!(self.typed == 0, "untyped words come first");
        self.push(word);
        self.untyped += 1;
        self
    }

    /// Adds untyped words.
    ///
    /// # Panics
    /// As [`Self::word`].
    pub fn words(&mut self, words: &[u64]) -> &mut Self {
        for &word in words {
            self.word(word);
        }
        self
    }

    /// Adds raw words of a typed item.
    ///
    /// # Panics
    /// If the message is full.
    pub fn typed(&mut self, words: &[u64]) -> &mut Self {
        for &word in words {
            self.push(word);
            self.typed += 1;
        }
        self
    }

    /// Adds a map item.
    ///
    /// # Panics
    /// If the message is full.
    pub fn map(&mut self, base: u64, fpage: Fpage) -> &mut Self {
        self.typed(&item::map_item(base, fpage))
    }

    /// Adds a grant item.
    ///
    /// # Panics
    /// If the message is full.
    pub fn grant(&mut self, base: u64, fpage: Fpage) -> &mut Self {
        self.typed(&item::grant_item(base, fpage))
    }

    /// Adds a simple string item. The memory is read when the message is transferred.
    ///
    /// # Panics
    /// If the message is full.
    pub fn string(&mut self, addr: u64, len: u64) -> &mut Self {
        self.typed(&item::string_item(addr, len))
    }

    /// The tag of the message so far.
    #[must_use]
    pub fn tag(&self, label: u64) -> MsgTag {
        MsgTag::new(label, self.untyped, self.typed)
    }
}

/// Reads a message from the message registers, untyped words in order.
#[derive(Debug)]
pub struct Reader<'u> {
    utcb: &'u Utcb,
    tag: MsgTag,
    next: usize,
}

impl<'u> Reader<'u> {
    /// Reads the message with this tag from `utcb`.
    #[must_use]
    pub fn new(utcb: &'u Utcb, tag: MsgTag) -> Self {
        Self { utcb, tag, next: 0 }
    }

    /// Reads a message that the running thread received.
    #[must_use]
    pub fn here(tag: MsgTag) -> Reader<'static> {
        Reader::new(crate::arch::utcb(), tag)
    }

    /// The next untyped word, if there is one.
    pub fn word(&mut self) -> Option<u64> {
        if self.next >= self.tag.untyped() {
            return None;
        }
        self.next += 1;
        Some(self.utcb.load_mr(self.next))
    }

    /// Number of untyped words not yet read.
    #[must_use]
    pub fn left(&self) -> usize {
        self.tag.untyped() - self.next
    }

    /// The typed words, copied.
    #[must_use]
    pub fn typed_words(&self) -> TypedWords {
        let len = self.tag.typed().min(MAX_WORDS.saturating_sub(self.tag.untyped()));
        let first = 1 + self.tag.untyped();
        let words =
            core::array::from_fn(|i| if i < len { self.utcb.load_mr(first + i) } else { 0 });
        TypedWords { words, len }
    }
}

/// The typed words of a message.
#[derive(Clone, Copy, Debug)]
pub struct TypedWords {
    words: [u64; MAX_WORDS],
    len: usize,
}

impl TypedWords {
    /// The items in order.
    #[must_use]
    pub fn items(&self) -> Items<'_> {
        Items::new(&self.words[..self.len])
    }

    /// The fpage of the first item, if that is a map or grant item.
    #[must_use]
    pub fn first_fpage(&self) -> Option<Fpage> {
        match self.items().next() {
            Some(Ok(Item::Map { fpage, .. } | Item::Grant { fpage, .. })) => Some(fpage),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use l4abi::Rights;

    #[test]
    fn what_is_written_is_read() {
        let utcb = Utcb::zeroed();
        let page = Fpage::memory(0x5000, 12, Rights::RW);
        let mut w = Writer::new(&utcb);
        w.words(&[1, 2]).word(3).map(0x7000, page).string(0x9000, 10);
        let tag = w.tag(77);
        assert_eq!((tag.untyped(), tag.typed(), tag.label()), (3, 4, 77));
        let mut r = Reader::new(&utcb, tag);
        assert_eq!([r.word(), r.word(), r.word(), r.word()], [Some(1), Some(2), Some(3), None]);
        let typed = r.typed_words();
        assert_eq!(typed.first_fpage(), Some(page));
        let items: Vec<_> = typed.items().collect::<Result<_, _>>().expect("well formed");
        assert_eq!(items.len(), 2);
    }

    #[test]
    fn a_tag_that_lies_reads_within_the_registers() {
        let utcb = Utcb::zeroed();
        let mut r = Reader::new(&utcb, MsgTag::new(0, 63, 63));
        assert_eq!(core::iter::from_fn(|| r.word()).count(), 63);
        assert_eq!(r.typed_words().items().count(), 0);
    }

    #[test]
    #[should_panic(expected = "longer")]
    fn too_many_words() {
        let utcb = Utcb::zeroed();
        Writer::new(&utcb).words(&[0; 64]);
    }
}
