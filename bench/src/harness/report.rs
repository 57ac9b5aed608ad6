//! Failure texts and records.

use core::fmt::{self, Write};
use spin::Mutex;

/// A test failed; the text is kept aside so that results stay small.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

/// What a test returns.
pub type TestResult<T = ()> = Result<T, Failed>;

/// A text of fixed capacity; what does not fit is cut.
#[derive(Debug)]
pub struct FixedText {
    bytes: [u8; 256],
    len: usize,
}

impl FixedText {
    /// An empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; 256], len: 0 }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("(cut inside a character)")
    }
}

impl Default for FixedText {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for FixedText {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let n = s.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

static FAILURE: Mutex<FixedText> = Mutex::new(FixedText::new());

/// Notes why a test failed.
#[must_use]
pub fn fail(line: u32, why: fmt::Arguments<'_>) -> Failed {
    if let Some(mut text) = FAILURE.try_lock() {
        text.clear();
        // The text never fails; a failing Debug loses its own rest only.
        let _ = write!(text, "line {line}: {why}");
    }
    Failed
}

/// Prints the record of a test. `None` = it hung.
pub(crate) fn record(name: &str, place: Option<&str>, result: Option<TestResult>) -> bool {
    let mut full = FixedText::new();
    let _ = match place {
        Some(place) => write!(full, "{name}/{place}"),
        None => write!(full, "{name}"),
    };
    let ok = matches!(result, Some(Ok(())));
    let text = FAILURE.try_lock();
    let detail = match (&result, &text) {
        (Some(Ok(())), _) => "",
        (Some(Err(Failed)), Some(text)) => text.as_str(),
        (Some(Err(Failed)), None) => "(text lost)",
        (None, _) => "hung: stopped at the time limit",
    };
    libl4::console::record(|out| {
        let detail = format_args!("{detail}");
        l4abi::record::Test { name: full.as_str(), ok, detail }.write(out)
    });
    ok
}
