//! Names made of parameters, without a heap.

use core::fmt::{self, Write};

/// Longest name of a region of interest.
const LONGEST: usize = 64;

/// A name; what does not fit is cut off.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Name {
    /// The formatted text.
    #[must_use]
    pub fn of(text: fmt::Arguments<'_>) -> Self {
        let mut name = Self { bytes: [0; LONGEST], len: 0 };
        // Writing to it never fails.
        let _ = name.write_fmt(text);
        name
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("?")
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.len + c.len_utf8() > LONGEST {
                break;
            }
            c.encode_utf8(&mut self.bytes[self.len..]);
            self.len += c.len_utf8();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_characters() {
        assert_eq!(Name::of(format_args!("{}, {} words", "x", 7)).text(), "x, 7 words");
        let long = "ä".repeat(40);
        assert_eq!(Name::of(format_args!("{long}")).text(), "ä".repeat(32));
        assert_eq!(Name::of(format_args!("a{long}")).text(), format!("a{}", "ä".repeat(31)));
    }
}
