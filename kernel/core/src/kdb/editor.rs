//! A line that is typed, byte by byte.

/// Longest line.
pub const LINE: usize = 120;

/// What a byte leads to; the echo is what the terminal is to show for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Nothing to show.
    Ignored,
    /// The character itself.
    Echo(u8),
    /// The last character goes: back, blank, back.
    Erased,
    /// So many characters go.
    Cleared(usize),
    /// The line is complete; [`Editor::take`] gives it.
    Complete,
}

/// The line so far. Printable ASCII only, so it is always text.
#[derive(Debug)]
pub struct Editor {
    line: [u8; LINE],
    length: usize,
    /// The last byte was a carriage return: a line feed belongs to it.
    returned: bool,
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

impl Editor {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self { line: [0; LINE], length: 0, returned: false }
    }

    /// Takes a byte. What does not fit or cannot be shown is ignored.
    pub fn feed(&mut self, byte: u8) -> Feed {
        const BACKSPACE: u8 = 8;
        const DELETE: u8 = 127;
        const CTRL_C: u8 = 3;
        const CTRL_U: u8 = 21;
        let behind_return = core::mem::replace(&mut self.returned, byte == b'\r');
        match byte {
            b'\n' if behind_return => Feed::Ignored,
            b'\r' | b'\n' => Feed::Complete,
            BACKSPACE | DELETE if self.length > 0 => {
                self.length -= 1;
                Feed::Erased
            }
            CTRL_C | CTRL_U => Feed::Cleared(core::mem::take(&mut self.length)),
            b' '..=b'~' if self.length < LINE => {
                self.line[self.length] = byte;
                self.length += 1;
                Feed::Echo(byte)
            }
            _ => Feed::Ignored,
        }
    }

    /// The complete line; the next one begins empty.
    pub fn take(&mut self) -> &str {
        let length = core::mem::take(&mut self.length);
        core::str::from_utf8(&self.line[..length]).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Vec<String> {
        let mut editor = Editor::new();
        let mut lines = Vec::new();
        for &byte in bytes {
            if editor.feed(byte) == Feed::Complete {
                lines.push(editor.take().to_string());
            }
        }
        lines
    }

    #[test]
    fn lines_end_with_any_newline() {
        assert_eq!(typed(b"a\rb\nc\r\n\n\r"), ["a", "b", "c", "", ""]);
    }

    #[test]
    fn keys_that_erase() {
        assert_eq!(typed(b"ab\x08c\x7f\x7f\x7f\x7fd\r"), ["d"]);
        assert_eq!(typed(b"abc\x15x\x03y\r"), ["y"]);
        let mut editor = Editor::new();
        assert_eq!(editor.feed(8), Feed::Ignored);
        assert_eq!(editor.feed(b'x'), Feed::Echo(b'x'));
        assert_eq!(editor.feed(8), Feed::Erased);
        editor.feed(b'x');
        editor.feed(b'y');
        assert_eq!(editor.feed(21), Feed::Cleared(2));
    }

    #[test]
    fn what_does_not_fit_is_ignored() {
        let mut bytes = vec![b'x'; 1000];
        bytes.push(b'\r');
        assert_eq!(typed(&bytes), ["x".repeat(LINE)]);
        let all: Vec<u8> = (0..=255).collect();
        // Every byte in order: carriage return and line feed end lines, the rest is printable or ignored.
        let lines = typed(&[&all[..], b"\r"].concat());
        assert!(lines.iter().all(|line| line.bytes().all(|b| (32..127).contains(&b))));
    }
}
